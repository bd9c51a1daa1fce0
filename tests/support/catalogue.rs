//! Runs a program on a bad input and checks what every refusal must keep, whichever row of the catalogue it belongs to.
//! A failed variant is returned, not a panic, so that one run of a row reports all of them.

use crate::TempDir;
use olmo_infer::internals::error::shown;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longest refusal.
const MAX_TIME: Duration = Duration::from_secs(1);
/// Most memory of a refusal at its peak.
const MAX_MEMORY_BYTES: u64 = 32 << 20;
/// After this time a program hangs.
const HANG: Duration = Duration::from_secs(20);
/// How often a refusal that took longer than it may is tried again: other programs use this machine too.
const ATTEMPTS: usize = 4;
/// Longest file whose bytes are compared; of longer ones, which are sparse here, size and times are.
const MAX_COMPARED_BYTES: u64 = 4 << 20;
/// Text that no message may contain: traces of a panic and words of Rust.
const FORBIDDEN: [&str; 6] = ["panicked", "RUST_BACKTRACE", "Err(", "Some(", "Os {", "called `"];
/// The program that measures memory.
const PEAK_MEMORY: &str = "peak-memory";
/// An ordinary user.
const NOBODY: u32 = 65_534;

/// The slowest refusal of this process, and the one with most memory.
static SLOWEST_MICROSECONDS: AtomicU64 = AtomicU64::new(0);
static MOST_BYTES: AtomicU64 = AtomicU64::new(0);

/// The failures of the variants of one row, reported together at the end of the test.
pub struct Report {
    row: &'static str,
    variants: usize,
    failures: Vec<String>,
}

impl Report {
    /// Begins the report of a row.
    pub fn new(row: &'static str) -> Report {
        Report { row, variants: 0, failures: Vec::new() }
    }

    /// Adds the outcome of a variant.
    pub fn add(&mut self, variant: impl Display, outcome: Result<(), String>) {
        self.variants += 1;
        if let Err(failure) = outcome {
            self.failures.push(format!("{} {variant}: {failure}", self.row));
        }
    }

    /// Adds a variant that must hold.
    pub fn holds(&mut self, variant: impl Display, holds: bool, otherwise: impl Display) {
        self.add(variant, if holds { Ok(()) } else { Err(otherwise.to_string()) });
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let (slowest, most) = (SLOWEST_MICROSECONDS.load(Ordering::Relaxed), MOST_BYTES.load(Ordering::Relaxed));
        println!(
            "{}: {} variants; of all refusals so far the slowest took {:.1} ms, the largest {:.1} MiB",
            self.row,
            self.variants,
            slowest as f64 / 1e3,
            most as f64 / (1 << 20) as f64
        );
        assert!(self.variants > 0, "{}: nothing was tested", self.row);
        assert!(
            self.failures.is_empty(),
            "{} of {} variants:\n\n{}",
            self.failures.len(),
            self.variants,
            self.failures.join("\n\n")
        );
    }
}

/// The line that a refusal must print.
pub struct Refusal {
    /// The program's name in its messages.
    pub program: &'static str,
    /// The exit status.
    pub status: i32,
    /// One entry for each line: what it begins with behind the program's name, then what else it must contain.
    pub lines: Vec<Vec<String>>,
    /// How many further problems the last line counts; 0 for no such line.
    pub more: usize,
}

impl Refusal {
    /// A refusal with status 1 in one line.
    pub fn one_line(program: &'static str, begins: impl Into<String>, words: &[&str]) -> Refusal {
        let line = [begins.into()].into_iter().chain(words.iter().map(|word| word.to_string())).collect();
        Refusal { program, status: 1, lines: vec![line], more: 0 }
    }

    /// Runs the command and checks that it refuses in this way, and leaves `folder` as it was: nothing added, removed
    /// or changed. `prepare` is called again when the machine was too busy to judge the time.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, folder: &Path, prepare: impl Fn() -> Command) -> Result<(), String> {
        let before = fingerprint(folder);
        let mut run = Run::new(&mut prepare())?;
        for _ in 1..ATTEMPTS {
            if run.took > MAX_TIME {
                run = Run::new(&mut prepare())?;
            }
        }
        self.judge(&run)?;
        if fingerprint(folder) != before {
            return Err(format!("something in {} was changed, added or removed", folder.display()));
        }
        Ok(())
    }

    /// Checks that a program refused in this way.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn judge(&self, run: &Run) -> Result<(), String> {
        self.check_run(run).map_err(|failure| format!("{failure}\n{}", run.stderr.trim_end()))
    }

    fn check_run(&self, run: &Run) -> Result<(), String> {
        if run.status.code() != Some(self.status) {
            return Err(format!("ended with {}, expected {}; stdout: {}", run.status, self.status, run.stdout));
        }
        if !run.stdout.is_empty() {
            return Err(format!("standard output is not empty: {}", run.stdout));
        }
        self.check_lines(&run.stderr)?;
        SLOWEST_MICROSECONDS.fetch_max(run.took.as_micros() as u64, Ordering::Relaxed);
        // Only of programs that are measured there is one.
        let peak_bytes = run.used.map_or(0, |used| used.peak_bytes);
        MOST_BYTES.fetch_max(peak_bytes, Ordering::Relaxed);
        if run.took > MAX_TIME {
            return Err(format!("took {:?}", run.took));
        }
        match peak_bytes > MAX_MEMORY_BYTES {
            true => Err(format!("took {} KiB of memory", peak_bytes >> 10)),
            false => Ok(()),
        }
    }

    fn check_lines(&self, stderr: &str) -> Result<(), String> {
        if stderr.contains(|c: char| shown::is_display_control(c) && c != '\n') {
            return Err(format!("a control character in {stderr:?}"));
        }
        if let Some(word) = FORBIDDEN.iter().find(|word| stderr.contains(**word)) {
            return Err(format!("{word:?} in the message"));
        }
        let mut lines: Vec<&str> = stderr.lines().collect();
        if self.more > 0 {
            let last = format!("{}: error: and {} more", self.program, self.more);
            if lines.pop() != Some(&last) {
                return Err(format!("the last line is not {last:?}"));
            }
        }
        if lines.len() != self.lines.len() || !stderr.ends_with('\n') {
            return Err(format!("{} lines, expected {}", lines.len(), self.lines.len()));
        }
        self.lines.iter().zip(lines).try_for_each(|(words, line)| self.check_line(words, line))
    }

    fn check_line(&self, words: &[String], line: &str) -> Result<(), String> {
        let begins = format!("{}: error: {}", self.program, words[0]);
        if !line.starts_with(&begins) {
            return Err(format!("a line does not begin with {begins:?}"));
        }
        if let Some(word) = words.iter().find(|word| !line.contains(word.as_str())) {
            return Err(format!("no {word:?} in a line"));
        }
        // The system's own words, or what would be right, or what to do.
        if ![": cannot ", ", expected ", "; "].iter().any(|part| line.contains(part)) {
            return Err("a line without an expected value or a next step".into());
        }
        Ok(())
    }
}

/// How a program ended and what it took.
pub struct Run {
    /// Exit status or signal.
    pub status: ExitStatus,
    /// Standard output, lossy where it is not UTF-8.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Time from start to end.
    pub took: Duration,
    /// The resources that it used, for programs that [`measured`] runs.
    pub used: Option<Used>,
}

/// The resources that a program used.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Most memory at a time.
    pub peak_bytes: u64,
    /// Time of processors.
    pub time: Duration,
}

impl Used {
    /// Reads what `peak-memory` writes.
    fn parse(text: &str) -> Option<Used> {
        let (peak_bytes, microseconds) = text.split_once(' ')?;
        let time = Duration::from_micros(microseconds.parse().ok()?);
        Some(Used { peak_bytes: peak_bytes.parse().ok()?, time })
    }
}

impl Run {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// It does not start or does not end, or [`measured`] ran it in vain.
    pub fn new(command: &mut Command) -> Result<Run, String> {
        let said = TempDir::new("said");
        let files = [said.join("stdout"), said.join("stderr")];
        let [stdout, stderr] = files.each_ref().map(|path| File::create(path).expect("a file"));
        let peak = said.join("peak");
        fs::write(&peak, "").and_then(|()| fs::set_permissions(&peak, Permissions::from_mode(0o666))).expect("a file");
        let begun = Instant::now();
        let command = command.stdout(stdout).stderr(stderr).env("OLMO_PEAK_FILE", &peak).process_group(0);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if begun.elapsed() > HANG {
                // The program and what measures it.
                let group = format!("-{}", child.id());
                Command::new("kill").args(["-9", "--", &group]).status().map_err(|error| error.to_string())?;
                child.wait().map_err(|error| error.to_string())?;
                return Err("does not end".into());
            }
            thread::sleep(Duration::from_millis(1));
        };
        let took = begun.elapsed();
        let [stdout, stderr] = files.map(|path| String::from_utf8_lossy(&fs::read(path).expect("a file")).into_owned());
        let used = Used::parse(&fs::read_to_string(&peak).expect("a file"));
        if used.is_none() && Path::new(command.get_program()).ends_with(PEAK_MEMORY) {
            return Err("its memory was not measured".into());
        }
        Ok(Run { status, stdout, stderr, took, used })
    }
}

/// A program with nothing on standard input, and with backtraces asked for: even then none is printed.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    command
}

/// The same for one of our programs whose memory is measured: it runs under `peak-memory`, which cargo builds next to
/// it.
pub fn measured(program: &str) -> Command {
    let mut command = command(Path::new(program).with_file_name(PEAK_MEMORY).to_str().expect("UTF-8"));
    command.arg(program);
    command
}

/// Runs the command as an ordinary user, to whom permissions apply. A test run that is not root's stays as it is.
pub fn as_ordinary_user(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// Whether permissions do not apply to this process.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// A FIFO, by the program of that name: std has no call for it.
pub fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
}

/// A number that changes with anything in a folder: names, kinds, owners; sizes, times of change and bytes of files.
fn fingerprint(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    // In a folder that may not be entered nothing more can be seen.
    let Ok(metadata) = fs::symlink_metadata(path) else { return hasher.finish() };
    (metadata.ino(), metadata.mode(), metadata.uid()).hash(&mut hasher);
    let mut sum = 0u64;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten() {
            sum = sum.wrapping_add(fingerprint(&entry.expect("an entry").path()));
        }
    } else if metadata.is_file() {
        // Times of files only: a folder's time changes with a temporary file that is gone again, a FIFO's with its use.
        (metadata.size(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
        if metadata.size() <= MAX_COMPARED_BYTES {
            fs::read(path).ok().hash(&mut hasher);
        }
    }
    sum.wrapping_add(hasher.finish())
}
