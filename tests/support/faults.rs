//! Both programs in every mode, with one system call that fails, by `strace`: they end with status 0 and the right
//! output, or with status 1 and one line; no signal, no file that is not whole.
//!
//! `strace` counts the calls of each thread and of each name for themselves. Those before `main` are left out: they are
//! the loader's and those by which Rust's library begins.

use crate::{TempDir, chats, files, repository};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Calls that are not made to fail, and why.
const EXCLUDED: [(&str, &str); 9] = [
    ("brk", "knows no error but the end that it had; another answer is taken for an address"),
    ("execve", "begins the program"),
    ("exit", "does not return"),
    ("exit_group", "does not return"),
    ("futex", "std aborts where it fails in a way that the kernel does not document"),
    (
        "getrandom",
        "std panics where it fails otherwise than for lack of the call or of permission: seeds of hash tables",
    ),
    ("munmap", "glibc aborts where the stack of a thread that ended cannot be unmapped"),
    ("rt_sigreturn", "has no result"),
    ("restart_syscall", "is the call that was interrupted"),
];
/// By this call `main` begins: the programs ignore SIGXFSZ first.
const FIRST_OF_MAIN: &str = "rt_sigaction(SIGXFSZ, ";
/// Lines of `olmo-pack` that no two runs have in common begin so.
const TIME: &str = "  time ";
/// The content of `out/scores` before a run.
const OLD_SCORE: &str = "{\"file\":\"earlier\",\"tokens\":1,\"scored\":0,\"sum_nll\":0,\"mean_nll\":null}\n";

/// Most characters of standard error that a failure repeats.
const MAX_SAID: usize = 300;

/// A command.
#[derive(Debug)]
pub struct Run {
    /// Its words, the first one the program's name.
    pub words: &'static [&'static str],
    /// The file on its standard input; none for "".
    input: &'static str,
    /// Whether a file that cannot be read is a line of its results and not the end.
    is_score: bool,
}

const fn run(words: &'static [&'static str]) -> Run {
    Run { words, input: "", is_score: false }
}

/// Every mode of both programs.
pub const RUNS: [Run; 21] = [
    run(&["olmo-infer", "m.olmo", "t.bin", "--threads", "1"]),
    run(&["olmo-infer", "m.olmo", "t.bin", "--json", "--threads", "1"]),
    run(&["olmo-infer", "m.olmo", "t.bin", "u.bin", "--load", "read", "--threads", "1"]),
    Run { input: "t.bin", ..run(&["olmo-infer", "m.olmo", "--threads", "1"]) },
    run(&["olmo-infer", "m.olmo", "--prompt", "Four score", "--max-tokens", "4", "--threads", "1"]),
    run(&["olmo-infer", "m.olmo", "--prompt-file", "t.txt", "--max-tokens", "4", "--json", "--threads", "1"]),
    run(&["olmo-infer", "m.olmo", "t.bin", "--text", "--max-tokens", "4", "--threads", "1"]),
    run(&["olmo-infer", "m.olmo", "t.bin", "--logits", "out/l.npy", "--threads", "1"]),
    run(&["olmo-infer", "m.olmo", "t.bin", "--logits", "-", "--threads", "1"]),
    Run { is_score: true, ..run(&["olmo-infer", "score", "m.olmo", "t.bin", "u.bin", "--threads", "1"]) },
    Run {
        is_score: true,
        ..run(&["olmo-infer", "score", "m.olmo", "t.bin", "u.bin", "--output", "out/scores", "--threads", "1"])
    },
    run(&["olmo-infer", "tokenize", "m.olmo", "t.txt"]),
    run(&["olmo-infer", "detokenize", "m.olmo", "t.bin"]),
    Run { input: "turns.txt", ..run(&["olmo-infer", "chat", "m.olmo", "--max-tokens", "4", "--threads", "1"]) },
    run(&["olmo-pack", "w", "out/m.olmo", "--force", "--threads", "1"]),
    run(&["olmo-pack", "inspect", "m.olmo"]),
    run(&["olmo-pack", "verify", "m.olmo"]),
    run(&["olmo-pack", "verify", "m.olmo", "--against", "w"]),
    run(&["olmo-pack", "diff", "m.olmo", "n.olmo"]),
    run(&["olmo-pack", "copy", "m.olmo", "out/m.olmo", "--force"]),
    run(&["olmo-pack", "unpack", "m.olmo", "out/w"]),
];

/// Whether `strace` is there and may follow a program.
pub fn has_strace() -> bool {
    let traced = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    traced.is_ok_and(|status| status.success())
}

/// The calls of one name. One thread makes at most this number of them.
#[derive(Debug)]
pub struct Calls {
    /// The name.
    pub name: String,
    /// The first one of `main`, counted from 1.
    pub first: usize,
    /// The last one.
    pub last: usize,
}

/// A folder in which the programs run.
pub struct Stage {
    folder: TempDir,
    pack: PathBuf,
    infer: PathBuf,
}

/// How a program ended, and what it left.
struct Ended {
    status: Option<i32>,
    signal: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
    files: BTreeMap<String, Vec<u8>>,
}

/// A command and what it does undisturbed.
pub struct Undisturbed<'s> {
    stage: &'s Stage,
    run: &'s Run,
    ended: Ended,
    /// Its calls.
    pub calls: Vec<Calls>,
}

impl Stage {
    /// Makes models of the demo's weights with the programs that are to be tested.
    pub fn new(pack: impl AsRef<Path>, infer: impl AsRef<Path>) -> Stage {
        let folder = TempDir::in_memory("faults");
        let stage = Stage { folder, pack: pack.as_ref().into(), infer: infer.as_ref().into() };
        let weights = stage.folder.join("w");
        fs::create_dir(&weights).expect("a folder");
        for (name, bytes) in files(&repository().join("demo/weights")) {
            fs::write(weights.join(name), bytes).expect("copied");
        }
        chats::demo_chat(stage.pack.to_str().expect("UTF-8"), &stage.folder, chats::PLAIN);
        for name in ["m.olmo", "n.olmo"] {
            fs::copy(stage.folder.join("chat.olmo"), stage.folder.join(name)).expect("copied");
        }
        let text = "Four score and seven";
        let ids: Vec<u8> = text.bytes().flat_map(|byte| u32::from(byte).to_le_bytes()).collect();
        for (name, bytes) in [("t.bin", &ids[..]), ("u.bin", &ids[..24]), ("t.txt", text.as_bytes())] {
            fs::write(stage.folder.join(name), bytes).expect("written");
        }
        fs::write(stage.folder.join("turns.txt"), "Four\n/save out/s.json\nscore\n/save! out/l.npy\n")
            .expect("written");
        stage
    }

    /// The folder `out` as it is before a run.
    fn prepare(&self) {
        let out = self.folder.join("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).expect("a folder");
        for (name, text) in [("l.npy", "old"), ("m.olmo", "old"), ("scores", OLD_SCORE)] {
            fs::write(out.join(name), text).expect("written");
        }
    }

    /// What is in `out`: files with their bytes, and folders that have none.
    fn left(&self) -> BTreeMap<String, Vec<u8>> {
        let out = self.folder.join("out");
        let mut left = BTreeMap::new();
        for entry in fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("an entry")) {
            let name = entry.file_name().into_string().expect("UTF-8");
            if entry.path().is_dir() {
                let inside = files(&entry.path());
                if inside.is_empty() {
                    left.insert(format!("{name}/"), Vec::new());
                }
                left.extend(inside.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
            } else {
                left.insert(name, fs::read(entry.path()).expect("a file"));
            }
        }
        left
    }

    /// Runs a command under `strace` with these options.
    fn ended<A: AsRef<OsStr>>(&self, run: &Run, options: &[A]) -> Ended {
        self.prepare();
        let program = if run.words[0] == "olmo-pack" { &self.pack } else { &self.infer };
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-o"]).arg(self.log()).args(options).arg(program).args(&run.words[1..]);
        command.current_dir(self.folder.path());
        command.stdin(match run.input {
            "" => Stdio::null(),
            name => File::open(self.folder.join(name)).expect("there").into(),
        });
        let output = command.output().expect("strace starts");
        Ended {
            status: output.status.code(),
            signal: output.status.signal(),
            stdout: without_times(output.stdout),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            files: self.left(),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn read_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log()).expect("a log")).into_owned()
    }

    /// Runs a command as it is, and counts its calls.
    pub fn undisturbed<'s>(&'s self, run: &'s Run) -> Undisturbed<'s> {
        let ended = self.ended::<&str>(run, &[]);
        assert_eq!(ended.status, Some(0), "{run:?}: {}", ended.stderr);
        let mut before_main = BTreeMap::<String, usize>::new();
        let mut of_threads = BTreeMap::<(String, String), usize>::new();
        let mut is_in_main = false;
        for line in self.read_log().lines() {
            // "123 openat(...) = 3"
            let Some((thread, call)) = line.split_once(' ').map(|(thread, call)| (thread, call.trim_start())) else {
                continue;
            };
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let name = call.split_once('(').map(|(name, _)| name).filter(|name| name.bytes().all(is_letter));
            let Some(name) = name else { continue };
            is_in_main |= call.starts_with(FIRST_OF_MAIN);
            if !is_in_main {
                *before_main.entry(name.into()).or_default() += 1;
            }
            *of_threads.entry((name.into(), thread.into())).or_default() += 1;
        }
        assert!(is_in_main, "{run:?}: main does not begin as it did");
        let mut calls = BTreeMap::<String, usize>::new();
        for ((name, _), n) in of_threads {
            let most = calls.entry(name).or_default();
            *most = n.max(*most);
        }
        calls.retain(|name, _| EXCLUDED.iter().all(|(excluded, _)| excluded != name));
        let first = |name: &str| before_main.get(name).map_or(1, |n| n + 1);
        let calls = calls.into_iter().map(|(name, last)| Calls { first: first(&name), name, last }).collect();
        Undisturbed { stage: self, run, ended, calls }
    }
}

/// The output without lines that differ from run to run.
fn without_times(stdout: Vec<u8>) -> Vec<u8> {
    let lines = stdout.split_inclusive(|&byte| byte == b'\n').filter(|line| !line.starts_with(TIME.as_bytes()));
    lines.collect::<Vec<_>>().concat()
}

impl Undisturbed<'_> {
    /// Runs the command once more, in which the call of this name and number meets a fault, as `strace` writes it.
    /// `None` when there was no such call.
    pub fn with(&self, name: &str, at: usize, fault: &str) -> Option<Result<(), String>> {
        let inject = format!("inject={name}:{fault}:when={at}");
        let ended = self.stage.ended(self.run, &["-e", &format!("trace={name}"), "-e", &inject]);
        if !self.stage.read_log().contains("(INJECTED)") {
            return None;
        }
        let told = |failure: String| {
            let (words, said) = (self.run.words.join(" "), ended.stderr.chars().take(MAX_SAID).collect::<String>());
            format!("{words}: {name} number {at}, {fault}: {failure}, status {:?}, {said:?}", ended.status)
        };
        Some(self.judge(&ended).map_err(told))
    }

    /// Exit status and standard error with that fault.
    pub fn outcome_with(&self, name: &str, at: usize, fault: &str) -> (Option<i32>, String) {
        let inject = format!("inject={name}:{fault}:when={at}");
        let ended = self.stage.ended(self.run, &["-e", &format!("trace={name}"), "-e", &inject]);
        (ended.status, ended.stderr)
    }

    fn judge(&self, ended: &Ended) -> Result<(), String> {
        let expected = &self.ended;
        match (ended.status, ended.signal) {
            (Some(0), _) if ended.stdout != expected.stdout => return Err("status 0 and other output".into()),
            (Some(0), _) if ended.files != expected.files => return Err("status 0 and other files".into()),
            (Some(0), _) => return Ok(()),
            (Some(1), _) => {}
            (_, Some(signal)) => return Err(format!("ended by signal {signal}")),
            _ => return Err("an unexpected status".into()),
        }
        let is = |line: &str, kind: &str| line.starts_with(&format!("{}: {kind}: ", self.run.words[0]));
        let errors = ended.stderr.lines().filter(|line| is(line, "error")).count();
        let others =
            ended.stderr.lines().filter(|line| !is(line, "error") && !is(line, "note") && !is(line, "warning"));
        if errors != 1 || others.count() != 0 {
            return Err("not one line".into());
        }
        if !self.begins(&ended.stdout, &expected.stdout) {
            return Err("output that is not a prefix of the expected one".into());
        }
        for (name, bytes) in &ended.files {
            let is_old = bytes == b"old" || name == "scores" && bytes == OLD_SCORE.as_bytes();
            let is_new = expected
                .files
                .get(name)
                .is_some_and(|new| bytes == new || name == "scores" && self.run.is_score && self.begins(bytes, new));
            if !is_old && !is_new {
                return Err(format!("{name} is left, neither old nor new"));
            }
        }
        Ok(())
    }

    /// Whether this is a prefix of the expected output. A file that could not be scored has an error in its line
    /// instead.
    fn begins(&self, found: &[u8], expected: &[u8]) -> bool {
        if !self.run.is_score {
            return expected.starts_with(found);
        }
        let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).split_inclusive('\n').map(str::to_string).collect();
        let (found, expected): (Vec<String>, Vec<String>) = (lines(found), lines(expected));
        let is_right = |(found, expected): (&String, &String)| {
            let is_error = found.starts_with("{\"file\":") && found.contains(",\"error\":");
            is_error || expected.starts_with(found)
        };
        found.len() <= expected.len() && found.iter().zip(&expected).all(is_right)
    }
}
