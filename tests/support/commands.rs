//! Every command of both programs, for tests of what happens to all of them.

use crate::TempDir;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::thread;

/// What a program is used for.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Whether `olmo-pack` does it.
    packs: bool,
    /// `M` is replaced by the model, `IDS` by a file of token ids, `W` by a weights folder, `OUT` by a free path.
    arguments: &'static str,
    /// What is on standard input.
    input: &'static str,
}

const fn infer(name: &'static str, arguments: &'static str, input: &'static str) -> Command {
    Command { name, packs: false, arguments, input }
}

const fn pack(name: &'static str, arguments: &'static str) -> Command {
    Command { name, packs: true, arguments, input: "" }
}

/// Every command that reads a model.
pub const READING: [Command; 16] = [
    infer("lines", "M IDS --steps 40", ""),
    infer("json", "M IDS --steps 40 --json", ""),
    infer("text", "M IDS --max-tokens 30 --text", ""),
    infer("prompt", "M --prompt Four --max-tokens 30", ""),
    infer("chat", "M --chat --prompt Four --max-tokens 30 --seed 1", ""),
    infer("conversation", "chat M --max-tokens 20 --seed 1", "Four\nscore\n"),
    infer("tokenize", "tokenize M -", "Four score and seven"),
    infer("detokenize", "detokenize M IDS", ""),
    infer("score", "score M IDS", ""),
    infer("logits", "M IDS --steps 20 --logits OUT", ""),
    infer("read", "M IDS --steps 20 --load read", ""),
    pack("inspect", "inspect M --json"),
    pack("verify", "verify M"),
    pack("diff", "diff M M"),
    pack("copy", "copy M OUT"),
    pack("unpack", "unpack M OUT"),
];

/// The command that makes one.
pub const PACKING: Command = pack("pack", "W OUT");

/// The paths that replace the placeholders.
pub struct Places<'a> {
    /// `olmo-pack` and `olmo-infer`.
    pub programs: [&'a str; 2],
    /// The model.
    pub model: PathBuf,
    /// Token ids.
    pub ids: PathBuf,
    /// A folder of weights.
    pub weights: PathBuf,
    /// A place that is free.
    pub out: PathBuf,
}

impl<'a> Places<'a> {
    /// In a folder with the model `m.olmo` or another, `weights` and the first ids.
    pub fn new(programs: [&'a str; 2], folder: &TempDir, model: &Path) -> Places<'a> {
        let ids = folder.join("ids.bin");
        fs::write(&ids, (1u32..20).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).expect("written");
        // In a folder of its own, where nothing else may be left.
        fs::create_dir_all(folder.join("new")).expect("created");
        Places {
            programs,
            model: model.to_path_buf(),
            ids,
            weights: folder.join("weights"),
            out: folder.join("new/out"),
        }
    }

    /// Removes what was written.
    pub fn clear(&self) {
        let _not_there = fs::remove_file(&self.out).or_else(|_| fs::remove_dir_all(&self.out));
    }

    /// Names next to `out` that should not be there.
    pub fn left_over(&self) -> Vec<String> {
        let folder = self.out.parent().expect("a folder");
        let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name != "out").map(|name| name.to_string_lossy().into_owned()).collect()
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Status 0, or 1 with an error line on standard error: no other status, no signal.
    ///
    /// # Errors
    /// When it ended in any other way.
    pub fn in_a_line(&self) -> Result<(), String> {
        // `verify` has a line for every place.
        let is_told = self.stderr.contains(": error: ");
        match (self.code, self.signal) {
            (Some(0), None) => Ok(()),
            (Some(1), None) if is_told => Ok(()),
            (code, signal) => Err(format!("status {code:?}, signal {signal:?}, standard error {:?}", self.stderr)),
        }
    }
}

impl Command {
    /// What to run; `environment` is added.
    pub fn process(&self, places: &Places, environment: &[(&str, &str)]) -> process::Command {
        let arguments = self.arguments.split(' ').map(|word| match word {
            "M" => &places.model,
            "IDS" => &places.ids,
            "W" => &places.weights,
            "OUT" => &places.out,
            word => Path::new(word),
        });
        let mut command = process::Command::new(places.programs[usize::from(!self.packs)]);
        command.args(arguments).envs(environment.iter().copied()).env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, places: &Places, environment: &[(&str, &str)]) -> Ended {
        let mut command = self.process(places, environment);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = self.input;
        let output = thread::scope(|scope| {
            scope.spawn(move || {
                // It may have ended before it reads.
                let _unread = stdin.write_all(input.as_bytes());
            });
            child.wait_with_output()
        });
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
