//! The catalogue of bad inputs, rows E: arguments, standard streams, signals, limits and file systems, for every
//! program that they concern.

use olmo_infer::config::{AttentionKind, ModelConfig};
use olmo_infer::model::{Batch, Model, Options};
use olmo_infer::model_file::ModelFile;
use olmo_tests::catalogue::{Refusal, Report, Run, as_ordinary_user, command, is_root, make_fifo};
use olmo_tests::{Finished, Stored, TempDir, finish, map_numbers, run, skipped, small_config, write_weights};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
const BENCH: &str = env!("CARGO_BIN_EXE_tested-olmo-bench");

/// The programs, with their names in messages.
const PROGRAMS: [(&str, &str); 3] = [("olmo-pack", PACK), ("olmo-infer", INFER), ("olmo-bench", BENCH)];
/// After this time something hangs.
const HANG: Duration = Duration::from_secs(20);

/// A weights folder, the model made of it, and some tokens; all commands run in this folder.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(name: &str) -> Place {
        Place::of(name, &ModelConfig { max_position_embeddings: 4096, ..small_config() })
    }

    fn of(name: &str, config: &ModelConfig) -> Place {
        let place = Place { folder: TempDir::new(name) };
        write_weights(&place.path("w"), config, Stored::F32, 1);
        let vocabulary: String = (0..config.vocab_size).map(|id| format!("{id}\tt{id}\n")).collect();
        fs::write(place.path("w/vocab.txt"), vocabulary).expect("written");
        fs::create_dir(place.path("out")).expect("a folder");
        fs::write(place.path("t.bin"), [5, 0, 0, 0, 17, 0, 0, 0, 3, 0, 0, 0]).expect("written");
        place.sh("$PACK w m.olmo").ok();
        place
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// A command in this folder, with nothing on standard input.
    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command.current_dir(self.folder.path()).env("PACK", PACK).env("INFER", INFER).env("BENCH", BENCH);
        command
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        command
    }

    fn sh(&self, script: &str) -> Finished {
        finish(&mut self.shell(script))
    }

    /// The script must be refused, by a program of this name, in one line that begins so and has these words, and
    /// nothing in the folder may change.
    fn refuse(&self, report: &mut Report, program: &'static str, script: &str, status: i32, words: &[&str]) {
        let mut refusal = Refusal::one_line(program, "", words);
        refusal.status = status;
        report.add(script, refusal.check(self.folder.path(), || self.shell(script)));
    }

    /// Names in `out`, sorted.
    fn out(&self) -> Vec<String> {
        names(&self.path("out"))
    }

    /// An old file at `out/` that nothing may touch, and its bytes.
    fn old(&self, name: &str) -> (PathBuf, Vec<u8>) {
        let path = self.path("out").join(name);
        fs::write(&path, b"the old one").expect("written");
        (path, b"the old one".to_vec())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn e1_wrong_arguments() {
    let place = Place::new("e1");
    let mut report = Report::new("E1");
    for (program, script, words) in [
        ("olmo-pack", "exec $PACK", "Required positional arguments not provided: weights model"),
        ("olmo-pack", "exec $PACK w", "Required positional arguments not provided: model"),
        ("olmo-pack", "exec $PACK w out/m.olmo more", "Unrecognized argument: more"),
        ("olmo-pack", "exec $PACK w out/m.olmo --no-such-flag", "--no-such-flag"),
        ("olmo-pack", "exec $PACK w out/m.olmo -x", "-x"),
        ("olmo-pack", "exec $PACK -- w", "not provided: model"),
        ("olmo-pack", "exec $PACK '' out/m.olmo", "WEIGHTS is empty"),
        ("olmo-pack", "exec $PACK w ''", "MODEL is empty"),
        ("olmo-pack", "exec $PACK w out/m.olmo --threads", "No value provided for option '--threads'"),
        ("olmo-pack", "exec $PACK w out/m.olmo --force=1", "--force=1"),
        ("olmo-pack", "exec $PACK w \"$(printf 'out/\\377.olmo')\"", "not UTF-8"),
        ("olmo-pack", "exec $PACK verify", "not provided: model"),
        ("olmo-pack", "exec $PACK verify m.olmo m.olmo", "Unrecognized argument: m.olmo"),
        ("olmo-pack", "exec $PACK inspect m.olmo --force", "--force"),
        ("olmo-pack", "exec $PACK unpack m.olmo", "not provided: folder"),
        ("olmo-pack", "exec $PACK copy m.olmo", "not provided: copy"),
        ("olmo-pack", "exec $PACK verify \"$(printf '\\377')\"", "not UTF-8"),
        ("olmo-infer", "exec $INFER", "Required positional arguments not provided: model"),
        ("olmo-infer", "exec $INFER --", "not provided: model"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --no-such-flag", "--no-such-flag"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --steps", "--steps"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --text=1", "--text=1"),
        ("olmo-infer", "exec $INFER \"$(printf '\\377')\"", "not UTF-8"),
        ("olmo-infer", "exec $INFER - t.bin", "cannot come from standard input"),
        ("olmo-infer", "exec $INFER m.olmo - -", "can be read only once"),
        ("olmo-bench", "exec $BENCH", "Required positional arguments not provided: model"),
        ("olmo-bench", "exec $BENCH m.olmo m.olmo", "Unrecognized argument: m.olmo"),
        ("olmo-bench", "exec $BENCH m.olmo --no-such-flag", "--no-such-flag"),
        ("olmo-bench", "exec $BENCH m.olmo --rounds many", "many"),
        ("olmo-bench", "exec $BENCH \"$(printf '\\377')\"", "not UTF-8"),
    ] {
        place.refuse(&mut report, program, script, 2, &[words]);
    }
    // After `--` nothing is a flag.
    let expected = place.sh("$INFER m.olmo t.bin").ok().to_string();
    fs::copy(place.path("m.olmo"), place.path("-rf")).expect("copied");
    for script in ["$INFER -- m.olmo t.bin", "$INFER -- -rf t.bin", "$INFER ./-rf t.bin", "$INFER -- m.olmo - < t.bin"]
    {
        let finished = place.sh(script);
        report.holds(script, finished.code == Some(0) && finished.stdout == expected, &finished.stderr);
    }
    for script in ["$PACK -- w out/-m.olmo", "$PACK verify -- -rf", "$PACK inspect -- -rf", "$PACK copy -- -rf out/-c"]
    {
        let finished = place.sh(script);
        report.holds(script, finished.code == Some(0), &finished.stderr);
    }
    report.holds("names", place.out() == ["-c", "-m.olmo"], format_args!("{:?}", place.out()));
}

#[test]
fn e1_arguments_that_name_something_else() {
    let place = Place::new("e1-swapped");
    let mut report = Report::new("E1");
    for (name, bytes) in [
        ("m.gguf", &b"GGUF\x03\0\0\0"[..]),
        ("m.safetensors", b"\x20\0\0\0\0\0\0\0{\"a\":1}"),
        ("m.npy", b"\x93NUMPY\x01\0"),
    ] {
        fs::write(place.path(name), bytes).expect("written");
    }
    for (program, script, words) in [
        ("olmo-pack", "exec $PACK m.olmo w", &["w: is a folder", "are the arguments swapped?"][..]),
        ("olmo-pack", "exec $PACK m.olmo out/n.olmo", &["m.olmo: not a folder"]),
        ("olmo-pack", "exec $PACK m.gguf out/n.olmo", &["m.gguf: not a folder"]),
        ("olmo-pack", "exec $PACK m.safetensors out/n.olmo", &["m.safetensors: not a folder"]),
        ("olmo-pack", "exec $PACK absent out/n.olmo", &["absent: no such folder"]),
        ("olmo-pack", "exec $PACK verify w", &["w: is a folder", "olmo-pack weights/ model.olmo"]),
        ("olmo-pack", "exec $PACK verify m.gguf", &["m.gguf: not an .olmo file but a GGUF file"]),
        ("olmo-pack", "exec $PACK verify ''", &["cannot open: No such file"]),
        ("olmo-pack", "exec $PACK inspect t.bin", &["t.bin: not an .olmo file", "are the arguments swapped?"]),
        ("olmo-pack", "exec $PACK unpack w out/x", &["w: is a folder"]),
        ("olmo-pack", "exec $PACK unpack m.olmo t.bin", &["t.bin: "]),
        ("olmo-pack", "exec $PACK copy w out/x", &["w: is a folder"]),
        ("olmo-pack", "exec $PACK copy m.olmo out", &["out: is a folder"]),
        ("olmo-infer", "exec $INFER w t.bin", &["w: is a folder", "olmo-pack weights/ model.olmo"]),
        ("olmo-infer", "exec $INFER '' t.bin", &["cannot open: No such file"]),
        ("olmo-infer", "exec $INFER m.olmo ''", &["cannot open: No such file"]),
        ("olmo-infer", "exec $INFER t.bin m.olmo", &["t.bin: not an .olmo file", "are the arguments swapped?"]),
        ("olmo-infer", "exec $INFER m.olmo m.olmo", &["looks like a model file: are the arguments swapped?"]),
        ("olmo-infer", "exec $INFER m.gguf t.bin", &["m.gguf: not an .olmo file but a GGUF file"]),
        ("olmo-infer", "exec $INFER m.safetensors t.bin", &["not an .olmo file but a safetensors file"]),
        ("olmo-infer", "exec $INFER m.npy t.bin", &["not an .olmo file but a .npy file"]),
        ("olmo-infer", "exec $INFER m.olmo w", &["w: "]),
        ("olmo-infer", "exec $INFER absent t.bin", &["absent: cannot open: No such file"]),
        ("olmo-bench", "exec $BENCH w", &["w: is a folder", "olmo-pack weights/ model.olmo"]),
        ("olmo-bench", "exec $BENCH m.gguf", &["m.gguf: not an .olmo file but a GGUF file"]),
        ("olmo-bench", "exec $BENCH ''", &["cannot open: No such file"]),
    ] {
        place.refuse(&mut report, program, script, 1, words);
    }
}

/// Everything that asks for help or for the version.
fn questions() -> Vec<String> {
    let pack = ["--help", "--version", "-V", "verify --help", "inspect --help", "unpack --help", "copy --help"];
    let pack = pack.map(|flags| format!("$PACK {flags}"));
    let others = ["$INFER", "$BENCH"].map(|program| ["--help", "--version"].map(|flag| format!("{program} {flag}")));
    pack.into_iter().chain(others.into_iter().flatten()).collect()
}

#[test]
fn e2_help_and_version() {
    let place = Place::new("e2");
    let mut report = Report::new("E2");
    for question in questions() {
        let answer = place.sh(&question);
        report.holds(&question, answer.code == Some(0) && answer.stdout.contains("olmo-"), &answer.stderr);
        report.holds(&question, answer.stderr.is_empty(), &answer.stderr);
        let closed = place.sh(&format!("{question} <&-"));
        let same = closed.code == Some(0) && closed.stdout == answer.stdout && closed.stderr.is_empty();
        report.holds(format_args!("{question} without standard input"), same, &closed.stderr);
        for streams in [">&-", "2>&-", ">&- 2>&- <&-"] {
            let finished = place.sh(&format!("{question} {streams}"));
            report.holds(format_args!("{question} {streams}"), finished.code == Some(0), &finished.stderr);
        }
    }
    // Wherever it stands.
    let anywhere = place.sh("$INFER m.olmo t.bin --steps 3 --version");
    report.holds("at the end", anywhere.stdout.starts_with("olmo-infer "), &anywhere.stderr);
}

/// Commands that print, for every mode of every program.
fn printing() -> Vec<String> {
    let infer = ["", "--json", "--text", "--top 50 --steps 64", "t.bin", "t.bin --json", "t.bin --text"];
    let infer = infer.map(|flags| format!("$INFER m.olmo t.bin {flags}"));
    let pack = [
        "verify m.olmo",
        "inspect m.olmo",
        "inspect m.olmo --json",
        "w out/dry.olmo --dry-run",
        "w out/dry.olmo --dry-run --json",
        "w out/m.olmo --force",
        "w out/m.olmo --force --json",
        "copy m.olmo out/c.olmo --force",
        "unpack m.olmo out/w --force",
    ];
    infer.into_iter().chain(pack.map(|arguments| format!("$PACK {arguments}"))).chain(questions()).collect()
}

#[test]
fn e3_a_reader_that_has_left() {
    let place = Place::new("e3");
    let mut report = Report::new("E3");
    for script in printing() {
        let mut child = place.shell(&format!("exec {script}"));
        let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("starts");
        // Before anything can be written, most of the times.
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        let silent = output.status.code() == Some(0) && output.stderr.is_empty();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        report.holds(&script, silent, format_args!("{}: {stderr}", output.status));
    }
    let first = place.sh("{ $INFER m.olmo t.bin --steps 4000; echo $? > rc; } | head -1");
    report.holds("head -1", first.ok().lines().count() == 1 && first.stderr.is_empty(), &first.stderr);
    let status = fs::read_to_string(place.path("rc")).expect("a status");
    report.holds("head -1", status == "0\n", status);
}

#[test]
fn e4_a_full_standard_output() {
    let place = Place::new("e4");
    let mut report = Report::new("E4");
    let bench = "$BENCH m.olmo --quick --rounds 1 --contexts none --prefill none";
    for script in printing().into_iter().chain([bench.to_string(), format!("{bench} --json")]) {
        let finished = place.sh(&format!("exec {script} > /dev/full"));
        let told = finished.code == Some(1)
            && finished.stderr.lines().count() == 1
            && finished.stderr.contains("standard output: ")
            && finished.stderr.contains("No space left on device");
        report.holds(&script, told, format_args!("{:?} {}", finished.code, finished.stderr));
    }
    // A full standard error changes no status and is no panic.
    for (script, code) in [
        ("$INFER m.olmo t.bin --timing", 0),
        ("$INFER absent t.bin", 1),
        ("$INFER --no-such-flag", 2),
        ("$PACK verify absent", 1),
        ("$PACK w out/m.olmo --force", 0),
        ("$PACK --no-such-flag", 2),
        ("$BENCH absent", 1),
        ("$BENCH --no-such-flag", 2),
    ] {
        let finished = place.sh(&format!("exec {script} 2> /dev/full"));
        report.holds(script, finished.code == Some(code), format_args!("{:?}", finished.code));
    }
}

#[test]
fn e5_standard_streams_that_are_closed_at_the_start() {
    let place = Place::new("e5");
    let mut report = Report::new("E5");
    let before = fs::read(place.path("m.olmo")).expect("read");
    let logits = |flags: &str| {
        let finished = place.sh(&format!("exec $INFER m.olmo t.bin --threads 1 --logits out/l.npy {flags}"));
        (finished, fs::read(place.path("out/l.npy")).expect("logits"))
    };
    let expected = logits("").1;
    for streams in [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"] {
        // A model that was opened as standard output would be written to.
        for mode in ["", "--json", "--timing"] {
            let (finished, found) = logits(&format!("{mode} {streams}"));
            let right = matches!(finished.code, Some(0 | 1)) && found == expected;
            report.holds(format_args!("logits {mode} {streams}"), right, format_args!("{finished:?}"));
        }
        let absent = place.sh(&format!("exec $INFER absent t.bin {streams}"));
        report.holds(format_args!("absent {streams}"), absent.code == Some(1), format_args!("{absent:?}"));
        for (script, product) in
            [("w out/p.olmo --force", "out/p.olmo"), ("copy m.olmo out/c.olmo --force", "out/c.olmo")]
        {
            let finished = place.sh(&format!("exec $PACK {script} {streams}"));
            let right = finished.code == Some(0) && fs::read(place.path(product)).is_ok_and(|found| found == before);
            report.holds(format_args!("{script} {streams}"), right, format_args!("{finished:?}"));
        }
        let verified = place.sh(&format!("exec $PACK verify m.olmo {streams}"));
        report.holds(format_args!("verify {streams}"), verified.code == Some(0), format_args!("{verified:?}"));
        report.holds(
            format_args!("m.olmo {streams}"),
            fs::read(place.path("m.olmo")).is_ok_and(|now| now == before),
            "",
        );
    }
    // No tokens on a closed standard input.
    place.refuse(&mut report, "olmo-infer", "exec $INFER m.olmo <&-", 1, &["standard input: "]);
}

/// Whether this process may mount in a namespace of its own.
fn can_mount() -> bool {
    let mounts = run("unshare", ["-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]).code == Some(0);
    if !mounts {
        skipped("no file system can be mounted here: full and read-only ones are tested by the layer below writing");
    }
    mounts
}

#[test]
fn e6_a_full_disk() {
    if !can_mount() {
        return;
    }
    let place = Place::new("e6");
    let mut report = Report::new("E6");
    let on = |size: &str, script: &str| {
        let mount =
            format!("mount -t tmpfs -o size={size} none out && printf old > out/m.olmo && printf old > out/l.npy");
        let after = "rc=$?\ncat out/m.olmo out/l.npy\nls -A out | tr '\\n' ' '\nexit $rc";
        fs::write(place.path("script"), format!("{mount} || exit 99\n{script}\n{after}")).expect("written");
        place.sh("exec unshare -m sh script")
    };
    for (size, script, words) in [
        ("64k", "$PACK w out/m.olmo --force", &["out/m.olmo: needs ", " bytes, ", " are free"][..]),
        ("64k", "$PACK w out/n.olmo", &["out/n.olmo: needs ", " are free"]),
        ("64k", "$PACK copy m.olmo out/m.olmo --force", &["out/m.olmo: needs ", " are free"]),
        ("64k", "$PACK unpack m.olmo out/w", &[": needs ", " are free"]),
        ("64k", "$INFER m.olmo t.bin --steps 400 --logits out/l.npy > /dev/null", &["out/l.npy: ", "No space left"]),
        ("8k", "$INFER m.olmo t.bin --steps 20 --logits out/l.npy > /dev/null", &["out/l.npy: ", "No space left"]),
    ] {
        let finished = on(size, script);
        let is_told = finished.code == Some(1)
            && finished.stderr.lines().count() == 1
            && words.iter().all(|word| finished.stderr.contains(word))
            && finished.stdout.starts_with("oldold")
            && matches!(finished.stdout.as_str(), "oldoldl.npy m.olmo " | "oldoldl.npy m.olmo w ");
        report.holds(script, is_told, format_args!("{finished:?}"));
    }
}

#[test]
fn e6_a_limit_on_the_size_of_files() {
    let place = Place::new("e6-limit");
    let mut report = Report::new("E6");
    let _old = (place.old("m.olmo"), place.old("l.npy"));
    let limit = "exec prlimit --fsize=20000";
    for (program, script, words) in [
        ("olmo-pack", "$PACK w out/m.olmo --force", &["out/m.olmo: ", "File too large"][..]),
        ("olmo-pack", "$PACK w out/n.olmo", &["out/n.olmo: ", "File too large"]),
        ("olmo-pack", "$PACK copy m.olmo out/m.olmo --force", &["out/m.olmo: ", "File too large"]),
        (
            "olmo-infer",
            "$INFER m.olmo t.bin --steps 60 --logits out/l.npy > /dev/null",
            &["out/l.npy: ", "File too large"],
        ),
    ] {
        place.refuse(&mut report, program, &format!("{limit} {script}"), 1, words);
    }
    // Standard output may be such a file too.
    let script = format!("{limit} $INFER m.olmo t.bin --steps 400 > out/lines");
    let finished = place.sh(&script);
    let told = finished.code == Some(1) && finished.stderr.lines().count() == 1;
    report.holds(&script, told && finished.stderr.contains("File too large"), format_args!("{finished:?}"));
}

#[test]
fn e7_outputs_that_cannot_be() {
    let place = Place::new("e7");
    let mut report = Report::new("E7");
    // Weights that would be refused too, if they were read before the output is looked at.
    map_numbers(&place.path("w"), "lm_head.weight", |_, _| f32::NAN);
    let long = "n".repeat(256);
    fs::write(place.path("file"), "").expect("written");
    for (output, words) in [
        ("absent/m.olmo", "No such file or directory"),
        ("absent/", "no file name at its end"),
        ("file/m.olmo", "Not a directory"),
        ("out/m.olmo/", "no file name at its end"),
        ("/proc/m.olmo", ""),
        (&format!("out/{long}"), "File name too long"),
        (&format!("{long}/m.olmo"), "File name too long"),
    ] {
        place.refuse(&mut report, "olmo-pack", &format!("exec $PACK w {output}"), 1, &[words]);
        place.refuse(&mut report, "olmo-pack", &format!("exec $PACK copy m.olmo {output}"), 1, &[words]);
    }
    for (output, words) in [
        ("absent/l.npy", "No such file or directory"),
        ("file/l.npy", "Not a directory"),
        ("out/l.npy/", "no such folder"),
        (&format!("out/{long}"), "File name too long"),
    ] {
        place.refuse(&mut report, "olmo-infer", &format!("exec $INFER m.olmo t.bin --logits {output}"), 1, &[words]);
    }
}

#[test]
fn e7_outputs_that_may_not_be() {
    let place = Place::new("e7-permission");
    let mut report = Report::new("E7");
    map_numbers(&place.path("w"), "lm_head.weight", |_, _| f32::NAN);
    let _old = (place.old("m.olmo"), place.old("l.npy"));
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o555)).expect("closed");
    for (program, script) in [
        ("olmo-pack", "exec $PACK w out/n.olmo"),
        ("olmo-pack", "exec $PACK w out/m.olmo --force"),
        ("olmo-pack", "exec $PACK copy m.olmo out/n.olmo"),
        ("olmo-pack", "exec $PACK unpack m.olmo out/w"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits out/l.npy"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits out/new.npy"),
    ] {
        let refusal = Refusal::one_line(program, "", &["out", "Permission denied"]);
        let prepare = || {
            let mut command = place.shell(script);
            as_ordinary_user(&mut command);
            command
        };
        report.add(script, refusal.check(place.folder.path(), prepare));
    }
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o755)).expect("open");
    if !can_mount() {
        return;
    }
    for script in [
        "$PACK w out/n.olmo",
        "$PACK w out/m.olmo --force",
        "$PACK copy m.olmo out/n.olmo",
        "$PACK unpack m.olmo out/w",
        "$INFER m.olmo t.bin --logits out/l.npy",
    ] {
        let mount = "mount -t tmpfs none out && printf old > out/m.olmo && mount -o remount,ro out";
        let finished = place.sh(&format!("exec unshare -m sh -c '{mount} && {script}'"));
        let told = finished.refused(1).contains("Read-only file system");
        report.holds(format_args!("read-only: {script}"), told, &finished.stderr);
    }
}

/// Every way to write a file, with its own words for one that exists.
const WRITERS: [(&str, &str); 3] = [
    ("olmo-pack", "exec $PACK w OUT --force"),
    ("olmo-pack", "exec $PACK copy m.olmo OUT --force"),
    ("olmo-infer", "exec $INFER m.olmo t.bin --logits OUT"),
];

#[test]
fn e8_outputs_that_exist() {
    let place = Place::new("e8");
    let mut report = Report::new("E8");
    fs::create_dir(place.path("folder")).expect("a folder");
    make_fifo(&place.path("fifo"));
    let _socket = UnixListener::bind(place.path("socket")).expect("a socket");
    symlink("loop", place.path("loop")).expect("a link");
    symlink("folder", place.path("link-to-folder")).expect("a link");
    symlink("/dev/null", place.path("link-to-null")).expect("a link");
    for (program, writer) in WRITERS {
        for (output, words) in [
            ("folder", "is a folder"),
            ("link-to-folder", "is a folder"),
            ("fifo", "is not a regular file"),
            ("socket", "is not a regular file"),
            ("/dev/null", "is not a regular file"),
            ("/dev/full", "is not a regular file"),
            ("link-to-null", "is not a regular file"),
            ("loop", "ymbolic links"),
        ] {
            place.refuse(&mut report, program, &writer.replace("OUT", output), 1, &[words]);
        }
    }
    let (_path, _) = place.old("m.olmo");
    for script in ["exec $PACK w out/m.olmo", "exec $PACK copy m.olmo out/m.olmo", "exec $PACK w out/m.olmo --dry-run"]
    {
        place.refuse(&mut report, "olmo-pack", script, 1, &["out/m.olmo: exists", "--force"]);
    }
}

#[test]
fn e8_outputs_that_are_replaced() {
    let place = Place::new("e8-replaced");
    let mut report = Report::new("E8");
    let before = place.sh("$PACK inspect m.olmo").ok().to_string();
    for (program, writer) in WRITERS {
        // Somebody else has the old file by another name, open, mapped, or runs it.
        let (path, old) = place.old("m");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        fs::hard_link(&path, place.path("out/same")).expect("a link");
        let mut open = File::open(&path).expect("open");
        place.sh(&writer.replace("OUT", "out/m")).ok();
        let mut found = Vec::new();
        open.read_to_end(&mut found).expect("read");
        let untouched = found == old && fs::read(place.path("out/same")).is_ok_and(|same| same == old);
        report.holds(format_args!("{program} {writer}"), untouched, "the old inode was written to");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        report.holds(format_args!("{writer}: mode"), mode == 0o666 & !umask(), format_args!("{mode:o}"));
        report.holds(format_args!("{writer}: names"), place.out() == ["m", "same"], format_args!("{:?}", place.out()));
        // A symbolic link stays, and what it leads to is replaced.
        fs::remove_file(place.path("out/same")).expect("removed");
        fs::remove_file(&path).expect("removed");
        let (real, old) = place.old("real");
        symlink("real", &path).expect("a link");
        place.sh(&writer.replace("OUT", "out/m")).ok();
        let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        let replaced = is_link && fs::read(&real).is_ok_and(|new| new != old);
        report.holds(format_args!("{writer}: link"), replaced, "");
        fs::remove_file(&path).expect("removed");
        fs::remove_file(&real).expect("removed");
    }
    // Mapped by a run that waits for its tokens: it ends as it began.
    let mut reader = place.command(INFER);
    let mut reader = reader.args(["m.olmo"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let begun = Instant::now();
    while !fs::read_to_string(format!("/proc/{}/maps", reader.id())).is_ok_and(|maps| maps.contains("m.olmo")) {
        assert!(begun.elapsed() < HANG, "the model was never mapped");
        sleep(Duration::from_millis(1));
    }
    place.sh("$PACK w m.olmo --force").ok();
    let tokens = fs::read(place.path("t.bin")).expect("read");
    std::io::Write::write_all(&mut reader.stdin.take().expect("a pipe"), &tokens).expect("it reads");
    let output = reader.wait_with_output().expect("ends");
    report.holds("mapped", output.status.success(), output.status);
    report.holds("replaced", place.sh("$PACK inspect m.olmo").ok() == before, "another model");
    // A program that runs: the new file may take its name, and the running one goes on.
    fs::copy("/bin/sleep", place.path("out/running")).expect("copied");
    let mut running = Command::new(place.path("out/running")).arg("60").spawn().expect("starts");
    let finished = place.sh("$PACK copy m.olmo out/running --force");
    report.holds("executed", finished.code == Some(0), finished.stderr);
    report.holds("executed", running.try_wait().expect("known").is_none(), "it ended");
    running.kill().expect("it ran");
    running.wait().expect("ends");
}

/// The umask of this process.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).expect("a umask");
    u32::from_str_radix(line.trim(), 8).expect("octal")
}

#[test]
fn e9_an_output_that_is_an_input() {
    let place = Place::new("e9");
    let mut report = Report::new("E9");
    let tensor = "w/model.norm.weight.npy";
    fs::hard_link(place.path(tensor), place.path("hard-tensor")).expect("a link");
    symlink(tensor, place.path("soft-tensor")).expect("a link");
    fs::hard_link(place.path("m.olmo"), place.path("hard-model")).expect("a link");
    symlink("m.olmo", place.path("soft-model")).expect("a link");
    symlink("t.bin", place.path("soft-tokens")).expect("a link");
    symlink("w", place.path("soft-w")).expect("a link");
    for (program, script, words) in [
        ("olmo-pack", format!("exec $PACK w {tensor} --force"), "lies in the weights folder"),
        ("olmo-pack", "exec $PACK w w/m.olmo".into(), "lies in the weights folder"),
        ("olmo-pack", "exec $PACK w soft-w/m.olmo".into(), "lies in the weights folder"),
        ("olmo-pack", "exec $PACK soft-w w/m.olmo".into(), "lies in the weights folder"),
        ("olmo-pack", "exec $PACK w ./out/../w/m.olmo".into(), "lies in the weights folder"),
        ("olmo-pack", "exec $PACK w hard-tensor --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK w soft-tensor --force".into(), "lies in the weights folder"),
        ("olmo-pack", "exec $PACK copy m.olmo m.olmo --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy m.olmo ./out/../m.olmo --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy m.olmo hard-model --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy m.olmo soft-model --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy soft-model m.olmo --force".into(), "is the same file as"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits m.olmo".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits t.bin".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits hard-model".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits soft-model".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits soft-tokens".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo soft-tokens --logits t.bin".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo /dev/stdin --logits t.bin < t.bin".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo --logits t.bin < t.bin".into(), "is an input of this run"),
    ] {
        place.refuse(&mut report, program, &script, 1, &[words]);
    }
}

#[test]
fn e10_several_that_write_one_output() {
    let place = Place::new("e10");
    let mut report = Report::new("E10");
    for (_, writer) in WRITERS {
        let script = writer.replace("OUT", "out/x");
        place.sh(&script).ok();
        let alone = fs::read(place.path("out/x")).expect("read");
        for _ in 0..5 {
            let start = || place.shell(&script).stdout(Stdio::null()).spawn().expect("starts");
            for mut child in [start(), start(), start(), start()] {
                let status = child.wait().expect("ends");
                report.holds(&script, status.success(), status);
            }
            let whole = fs::read(place.path("out/x")).is_ok_and(|bytes| bytes == alone);
            report.holds(&script, whole && place.out() == ["x"], format_args!("{:?}", place.out()));
        }
        fs::remove_file(place.path("out/x")).expect("removed");
    }
    // Without --force one of them gets the name.
    for _ in 0..5 {
        let start =
            || place.shell("exec $PACK w out/x").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let ends = [start(), start(), start()].map(|mut child| child.wait().expect("ends").code());
        let winners = ends.iter().filter(|code| **code == Some(0)).count();
        let losers = ends.iter().filter(|code| **code == Some(1)).count();
        report.holds("without --force", (winners, losers) == (1, 2), format_args!("{ends:?}"));
        ModelFile::open(&place.path("out/x")).map_err(|error| error.to_string()).expect("whole");
        fs::remove_file(place.path("out/x")).expect("removed");
    }
}

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// A run that has begun its logits file and waits, because nobody reads what it prints.
fn waiting_for_a_reader(place: &Place) -> Child {
    let mut command = place.command(INFER);
    command.args(["m.olmo", "t.bin", "--steps", "4000", "--top", "101", "--logits", "out/l.npy"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let begun = Instant::now();
    while place.out().len() < 2 {
        assert!(begun.elapsed() < HANG, "no temporary file");
        sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn e11_signals_while_logits_are_written() {
    let place = Place::new("e11");
    let mut report = Report::new("E11");
    let (path, old) = place.old("l.npy");
    for (signals, number) in
        [(&["INT"][..], 2), (&["TERM"], 15), (&["HUP"], 1), (&["QUIT"], 3), (&["INT", "INT"], 2), (&["INT", "TERM"], 2)]
    {
        let child = waiting_for_a_reader(&place);
        signals.iter().for_each(|signal| kill(&child, signal));
        let output = child.wait_with_output().expect("ends");
        // Of two different ones either may come first.
        let by_signal = output.status.signal() == Some(number) || signals == ["INT", "TERM"];
        let silent = output.stderr.is_empty();
        report.holds(format_args!("{signals:?}"), by_signal && silent, output.status);
        let clean = place.out() == ["l.npy"] && fs::read(&path).is_ok_and(|now| now == old);
        report.holds(format_args!("{signals:?}"), clean, format_args!("{:?}", place.out()));
    }
    // Stopped and continued it goes on.
    let mut child = waiting_for_a_reader(&place);
    kill(&child, "TSTP");
    let begun = Instant::now();
    while !fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| stat.contains(") T ")) {
        assert!(begun.elapsed() < HANG, "it does not stop");
        sleep(Duration::from_millis(1));
    }
    kill(&child, "CONT");
    drop(child.stdout.take());
    let status = child.wait().expect("ends");
    let (shape, _) = olmo_tests::read_f32_npy(&path);
    report.holds("TSTP, CONT", status.success() && shape == [4000, 101], format_args!("{status} {shape:?}"));
    // A signal that was ignored from the start stays ignored, as nohup has it.
    let ignored = place.sh("trap '' HUP; $INFER m.olmo & sleep 0.2; kill -HUP $!; wait $!");
    report.holds("HUP ignored", ignored.code == Some(1), format_args!("{ignored:?}"));
}

#[test]
fn e11_signals_while_a_model_is_packed() {
    // Enough to be stopped in the middle, in small pieces: a test that takes much memory cannot measure that of others.
    let layer_types = vec![AttentionKind::Full; 40];
    let config = ModelConfig { hidden_size: 144, head_dim: 24, intermediate_size: 284, layer_types, ..small_config() };
    let place = Place::of("e11-pack", &config);
    let mut report = Report::new("E11");
    let (path, old) = place.old("m.olmo");
    let is_new = || place.sh("cmp -s m.olmo out/m.olmo").code == Some(0);
    let is_old =
        || fs::metadata(&path).is_ok_and(|now| now.len() == old.len() as u64) && fs::read(&path).unwrap() == old;
    let start = || {
        let mut command = place.command(PACK);
        command.args(["w", "out/m.olmo", "--force", "--threads", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("starts")
    };
    let mut stopped = 0;
    for signals in [&["INT"][..], &["TERM"], &["HUP"], &["QUIT"], &["INT", "INT"]] {
        for milliseconds in [5, 20, 45] {
            let child = start();
            sleep(Duration::from_millis(milliseconds));
            signals.iter().for_each(|signal| kill(&child, signal));
            let status = child.wait_with_output().expect("ends").status;
            let whole = match status.signal() {
                Some(_) => is_old() || is_new(),
                None => status.success() && is_new(),
            };
            stopped += usize::from(status.signal().is_some());
            report.holds(format_args!("{signals:?} after {milliseconds}"), whole, status);
            report.holds(format_args!("{signals:?}"), place.out() == ["m.olmo"], format_args!("{:?}", place.out()));
            fs::write(&path, &old).expect("written");
        }
    }
    report.holds("any", stopped > 0, "every pack was over before its signal");
    let mut child = start();
    kill(&child, "TSTP");
    sleep(Duration::from_millis(20));
    kill(&child, "CONT");
    let status = child.wait().expect("ends");
    report.holds("TSTP, CONT", status.success() && is_new(), status);
}

#[test]
fn e13_little_of_everything() {
    let place = Place::new("e13");
    let mut report = Report::new("E13");
    let lines = place.sh("$INFER m.olmo t.bin").ok().to_string();
    let model = fs::read(place.path("m.olmo")).expect("read");
    for limit in ["--nofile=8", "--stack=131072", "--core=0", "--memlock=0", "--as=400000000 --nofile=8"] {
        let infer = place.sh(&format!("prlimit {limit} $INFER m.olmo t.bin --threads 2"));
        report.holds(format_args!("{limit}, olmo-infer"), infer.stdout == lines, format_args!("{infer:?}"));
        let pack = place.sh(&format!("prlimit {limit} $PACK w out/m.olmo --force --threads 2"));
        let same = pack.code == Some(0) && fs::read(place.path("out/m.olmo")).is_ok_and(|bytes| bytes == model);
        report.holds(format_args!("{limit}, olmo-pack"), same, format_args!("{pack:?}"));
        let verify = place.sh(&format!("prlimit {limit} $PACK verify m.olmo"));
        report.holds(format_args!("{limit}, verify"), verify.code == Some(0), format_args!("{verify:?}"));
    }
    fs::remove_file(place.path("out/m.olmo")).expect("removed");
    // Too little is one line that says of what.
    for (program, script, words) in [
        ("olmo-infer", "exec prlimit --nofile=4 $INFER m.olmo t.bin", &["t.bin: cannot open: Too many open files"][..]),
        ("olmo-pack", "exec prlimit --nofile=4 $PACK w out/m.olmo", &["Too many open files"]),
    ] {
        place.refuse(&mut report, program, script, 1, words);
    }
}

#[test]
fn e13_a_process_that_may_start_no_thread() {
    let place = Place::new("e13-threads");
    let mut report = Report::new("E13");
    let lines = place.sh("$INFER m.olmo t.bin").ok().to_string();
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o777)).expect("open to all");
    let limited = |script: &str| {
        let mut command = place.shell(&format!("exec prlimit --nproc=1 {script}"));
        as_ordinary_user(&mut command);
        finish(&mut command)
    };
    if limited("$INFER --version").code != Some(0) {
        skipped("the number of processes cannot be limited here");
        return;
    }
    for threads in ["0", "1", "2", "64", "1000"] {
        let finished = limited(&format!("$INFER m.olmo t.bin --threads {threads}"));
        report.holds(format_args!("{threads} threads"), finished.stdout == lines, format_args!("{finished:?}"));
    }
}

#[test]
fn e14_numbers_of_threads() {
    let place = Place::new("e14");
    let mut report = Report::new("E14");
    place.sh("$INFER m.olmo t.bin --threads 1 --logits out/1.npy > out/1.txt").ok();
    let logits = fs::read(place.path("out/1.npy")).expect("read");
    let lines = fs::read(place.path("out/1.txt")).expect("read");
    let model = fs::read(place.path("m.olmo")).expect("read");
    for threads in ["0", "1", "2", "3", "7", "64", "1000", "18446744073709551615"] {
        let infer = place.sh(&format!("$INFER m.olmo t.bin --threads {threads} --logits out/n.npy > out/n.txt"));
        let same = infer.code == Some(0)
            && fs::read(place.path("out/n.npy")).is_ok_and(|found| found == logits)
            && fs::read(place.path("out/n.txt")).is_ok_and(|found| found == lines);
        report.holds(format_args!("{threads}, olmo-infer"), same, format_args!("{infer:?}"));
        let pack = place.sh(&format!("$PACK w out/m.olmo --force --threads {threads}"));
        let same = pack.code == Some(0) && fs::read(place.path("out/m.olmo")).is_ok_and(|found| found == model);
        report.holds(format_args!("{threads}, olmo-pack"), same, format_args!("{pack:?}"));
    }
    for threads in ["-1", "abc", "18446744073709551616", "1.5", "''", "0x10", "' 2'"] {
        for (program, script) in [
            ("olmo-infer", "exec $INFER m.olmo t.bin --threads"),
            ("olmo-pack", "exec $PACK w out/x.olmo --threads"),
            ("olmo-bench", "exec $BENCH m.olmo --threads"),
        ] {
            place.refuse(&mut report, program, &format!("{script} {threads}"), 2, &["--threads"]);
        }
    }
}

#[test]
fn e15_processors() {
    let place = Place::new("e15");
    let mut report = Report::new("E15");
    let expected = place.sh("$INFER m.olmo t.bin --json").ok().to_string();
    for script in [
        "$INFER m.olmo t.bin --json --isa scalar",
        "taskset -c 0 $INFER m.olmo t.bin --json",
        "taskset -c 0 $INFER m.olmo t.bin --json --threads 4",
    ] {
        let finished = place.sh(script);
        report.holds(script, finished.stdout == expected, format_args!("{finished:?}"));
    }
    // Without any kernel of ours the products are other sums of the same numbers.
    let portable = place.sh("$INFER m.olmo t.bin --json --isa portable");
    let as_many = portable.ok().lines().count() == expected.lines().count();
    report.holds("portable", as_many, &portable.stdout);
    // The processors change under a run that has begun.
    let child = {
        let mut command = place.command(INFER);
        command.args(["m.olmo", "t.bin", "--steps", "2000", "--threads", "2", "--logits", "out/moved.npy"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let moved = Command::new("taskset").args(["-a", "-c", "-p", "0", &child.id().to_string()]).output();
    drop(moved.expect("taskset runs"));
    let output = child.wait_with_output().expect("ends");
    report.holds("moved", output.status.success() && output.stderr.is_empty(), output.status);
    place.sh("$INFER m.olmo t.bin --steps 2000 --threads 1 --logits out/still.npy > /dev/null").ok();
    let read = |name: &str| fs::read(place.path(name)).expect("logits");
    report.holds("moved", read("out/moved.npy") == read("out/still.npy"), "other logits");
    let model = fs::read(place.path("m.olmo")).expect("read");
    place.sh("taskset -c 0 $PACK w out/m.olmo").ok();
    report.holds("pack", read("out/m.olmo") == model, "other bytes");
}

#[test]
fn e16_the_environment() {
    let place = Place::new("e16");
    let mut report = Report::new("E16");
    let model = fs::read(place.path("m.olmo")).expect("read");
    let lines = place.sh("$INFER m.olmo t.bin").ok().to_string();
    let inspected = place.sh("$PACK inspect m.olmo").ok().to_string();
    for settings in [
        "LC_ALL=de_DE.UTF-8 LC_NUMERIC=de_DE.UTF-8",
        "LC_ALL=tr_TR.UTF-8",
        "LC_ALL=C",
        "LANG=zh_CN.GB18030",
        "TZ=Asia/Kolkata",
        "TZ=:/nowhere",
        "TMPDIR=/nowhere",
        "TMPDIR=",
        "RUST_BACKTRACE=full RUST_LOG=trace",
        "RAYON_NUM_THREADS=3",
        "OMP_NUM_THREADS=1 MALLOC_PERTURB_=165",
        "-u HOME -u PATH -u USER",
        "-i",
        "SOURCE_DATE_EPOCH=0",
        "COLUMNS=3 TERM=dumb NO_COLOR=1",
    ] {
        let env = "/usr/bin/env";
        let pack = place.sh(&format!("{env} {settings} $PACK w out/m.olmo --force"));
        let same = pack.code == Some(0) && fs::read(place.path("out/m.olmo")).is_ok_and(|found| found == model);
        report.holds(format_args!("{settings}, olmo-pack"), same, format_args!("{pack:?}"));
        let infer = place.sh(&format!("{env} {settings} $INFER m.olmo t.bin"));
        report.holds(format_args!("{settings}, olmo-infer"), infer.stdout == lines, format_args!("{infer:?}"));
        let inspect = place.sh(&format!("{env} {settings} $PACK inspect m.olmo"));
        report.holds(format_args!("{settings}, inspect"), inspect.stdout == inspected, format_args!("{inspect:?}"));
    }
    // In a folder that is gone.
    let root = place.folder.path().display().to_string();
    let gone = |script: &str| place.sh(&format!("mkdir gone && cd gone && rmdir ../gone && exec {script}"));
    let infer = gone(&format!("$INFER {root}/m.olmo {root}/t.bin"));
    report.holds("gone, olmo-infer", infer.stdout == lines, format_args!("{infer:?}"));
    let pack = gone(&format!("$PACK {root}/w {root}/out/m.olmo --force"));
    let same = pack.code == Some(0) && fs::read(place.path("out/m.olmo")).is_ok_and(|found| found == model);
    report.holds("gone, olmo-pack", same, format_args!("{pack:?}"));
    for script in [format!("$PACK {root}/w m.olmo"), format!("$INFER {root}/m.olmo {root}/t.bin --logits l.npy")] {
        let finished = gone(&script);
        let told = finished.code == Some(1) && finished.stderr.lines().count() == 1 && finished.stdout.is_empty();
        report.holds(format_args!("gone, {script}"), told, format_args!("{finished:?}"));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn e17_a_mode_of_the_processor_that_somebody_changed() {
    let place = Place::new("e17");
    let mut report = Report::new("E17");
    let file = ModelFile::open(&place.path("m.olmo")).map_err(|error| error.to_string()).expect("good");
    let model = Model::new(&file);
    // Flush to zero, denormals are zero, and the three ways to round that are not the usual one.
    for (name, bits) in [("ftz", 1 << 15), ("daz", 1 << 6), ("down", 1 << 13), ("up", 2 << 13), ("to zero", 3 << 13)] {
        let result = with_mode(bits, || Batch::new(&model, Options::new(4), 1).map(|_| ()));
        let told = result.as_ref().is_err_and(|error| error.to_string().contains("rounds or flushes otherwise"));
        report.holds(name, told, format_args!("{result:?}"));
    }
    let result = with_mode(0, || Batch::new(&model, Options::new(4), 1).map(|_| ()));
    report.holds("as it was", result.is_ok(), format_args!("{result:?}"));
}

/// Does something on a thread whose processor has these bits of its mode set too.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn with_mode<T: Send>(bits: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut mode = 0u32;
            // SAFETY: both instructions take the address of a u32 that lives here, and the mode set is a valid one.
            // What computes meanwhile is the code under test, and no result of it is used.
            unsafe {
                std::arch::asm!("stmxcsr [{}]", in(reg) &mut mode);
                std::arch::asm!("ldmxcsr [{}]", in(reg) &(mode | bits));
            }
            let result = work();
            // SAFETY: as above.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mode) };
            result
        });
        thread.join().expect("no panic")
    })
}

#[test]
fn e18_times_are_not_in_the_file() {
    let place = Place::new("e18");
    let mut report = Report::new("E18");
    let model = fs::read(place.path("m.olmo")).expect("read");
    let times = [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33), SystemTime::now()];
    for time in times {
        for entry in fs::read_dir(place.path("w")).expect("a folder") {
            let file = File::options().write(true).open(entry.expect("an entry").path()).expect("open");
            file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).expect("set");
        }
        place.sh("$PACK w out/m.olmo --force").ok();
        let same = fs::read(place.path("out/m.olmo")).is_ok_and(|found| found == model);
        report.holds(format_args!("{time:?}"), same, "other bytes");
        let file = File::options().write(true).open(place.path("m.olmo")).expect("open");
        file.set_times(FileTimes::new().set_modified(time)).expect("set");
        for script in ["$INFER m.olmo t.bin", "$PACK verify m.olmo"] {
            let finished = place.sh(script);
            report.holds(format_args!("{time:?} {script}"), finished.code == Some(0), format_args!("{finished:?}"));
        }
    }
}

#[test]
fn e19_another_file_system() {
    let place = Place::new("e19");
    let mut report = Report::new("E19");
    let model = fs::read(place.path("m.olmo")).expect("read");
    let here = fs::metadata(place.folder.path()).expect("a folder").dev();
    let others =
        ["/dev/shm", "/run", "/var/tmp"].into_iter().filter(|other| fs::metadata(other).is_ok_and(|m| m.dev() != here));
    let Some(other) = others.into_iter().find(|other| File::create(format!("{other}/.olmo-probe")).is_ok()) else {
        skipped("there is no second file system to write to");
        return;
    };
    fs::remove_file(format!("{other}/.olmo-probe")).expect("removed");
    let there = PathBuf::from(format!("{other}/olmo-e19-{}", std::process::id()));
    fs::create_dir(&there).expect("a folder");
    let shown = there.display();
    for script in [
        format!("$PACK w {shown}/m.olmo"),
        format!("$PACK w {shown}/m.olmo --force"),
        format!("$PACK copy m.olmo {shown}/c.olmo"),
        format!("$PACK unpack m.olmo {shown}/w"),
        format!("$INFER {shown}/m.olmo t.bin --logits {shown}/l.npy"),
    ] {
        let finished = place.sh(&script);
        report.holds(&script, finished.code == Some(0), format_args!("{finished:?}"));
    }
    let same = ["m.olmo", "c.olmo"].iter().all(|name| fs::read(there.join(name)).is_ok_and(|found| found == model));
    report.holds("bytes", same, "other bytes");
    report.holds("names", names(&there) == ["c.olmo", "l.npy", "m.olmo", "w"], format_args!("{:?}", names(&there)));
    // The link here, the file there.
    symlink(there.join("linked.olmo"), place.path("out/link")).expect("a link");
    place.sh("$PACK w out/link").ok();
    report.holds("link", fs::read(there.join("linked.olmo")).is_ok_and(|found| found == model), "other bytes");
    fs::remove_dir_all(&there).expect("removed");
}

#[test]
fn e20_permissions_of_what_is_written() {
    let place = Place::new("e20");
    let mut report = Report::new("E20");
    for (umask, expected) in [("0777", 0o000), ("0077", 0o600), ("0027", 0o640), ("0022", 0o644), ("0000", 0o666)] {
        for (_, writer) in WRITERS {
            let script = format!("umask {umask}; {}", writer.replace("OUT", "out/x"));
            let finished = place.sh(&script);
            report.holds(&script, finished.code == Some(0), format_args!("{finished:?}"));
            let mode = fs::metadata(place.path("out/x")).expect("there").permissions().mode() & 0o7777;
            report.holds(&script, mode == expected, format_args!("{mode:o}"));
            fs::remove_file(place.path("out/x")).expect("removed");
        }
        report.holds(umask, place.out().is_empty(), format_args!("{:?}", place.out()));
    }
    // For an ordinary user too, who cannot open again what it may not read.
    if is_root() {
        fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o777)).expect("open to all");
        fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o777)).expect("open to all");
    }
    for (_, writer) in WRITERS {
        let mut command = place.shell(&format!("umask 0777; {}", writer.replace("OUT", "out/x")));
        as_ordinary_user(&mut command);
        let finished = finish(&mut command);
        report.holds(format_args!("ordinary user: {writer}"), finished.code == Some(0), format_args!("{finished:?}"));
        fs::remove_file(place.path("out/x")).ok();
    }
}

#[test]
fn names_that_are_not_text_are_shown_in_one_line() {
    let place = Place::new("names");
    let mut report = Report::new("names");
    let name = OsStr::from_bytes(b"a\nb\x1b[31m.olmo");
    fs::write(place.path(name), b"no model").expect("written");
    for (program, path) in PROGRAMS {
        let refusal = Refusal::one_line(program, "a\\nb", &["not an .olmo file"]);
        let prepare = || {
            let mut command = place.command(path);
            if program == "olmo-pack" {
                command.arg("verify");
            }
            command.arg(name);
            command
        };
        report.add(program, refusal.check(place.folder.path(), prepare));
        let run = Run::new(&mut prepare()).expect("ends");
        report.holds(program, !run.stderr.trim_end().contains(char::is_control), run.stderr);
    }
}
