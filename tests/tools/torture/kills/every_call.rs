//! A small run, killed at every system call by `strace`.
//!
//! `strace` counts the calls of each thread and of each name for themselves: "the third `fsync`" is that of the thread
//! that is first at its third. So every call is met of the main thread, when `strace` follows that one only, name after
//! name; and when it follows all threads, every call of the first of them at each number.

use super::{Stage, cannot};
use crate::Effort;
use crate::figure::Figure;
use olmo_tests::TempDir;
use olmo_tests::runs::{Runs, Work};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// Ten times as many as a run surely makes.
const MANY: u64 = 1000;
const SIGKILL: i32 = 9;

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let runs = Runs::new();
    let stride = MANY / effort.times(MANY);
    let mut figures = Vec::new();
    for work in [Work::Pack, Work::Copy, Work::Unpack] {
        for force in [true, false] {
            let stage = Stage::new(&runs, work, force);
            let Some(trace) = Trace::of(&stage) else {
                return vec![cannot("strace cannot follow a program here".into())];
            };
            figures.push(every_call(&stage, &trace, stride));
            // Unpacking opens most of its files in other threads, where the call to fail is not known beforehand.
            if work != Work::Unpack {
                figures.push(every_call_with_named_files(&stage, &trace, stride));
            }
        }
    }
    figures
}

/// The calls of an undisturbed run.
pub struct Trace {
    /// Their names.
    names: BTreeSet<String>,
    /// Which `openat` of the main thread opens the unnamed file; 0 when it is another thread.
    unnamed: u64,
}

impl Trace {
    /// Runs it once, undisturbed.
    pub fn of(stage: &Stage) -> Option<Trace> {
        let folder = TempDir::new("trace");
        let log = folder.join("log");
        let mut command = Command::new("strace");
        command.args(["-f", "-o"]).arg(&log).args(stage.arguments()).stdout(Stdio::null());
        if !command.status().ok()?.success() {
            return None;
        }
        let text = String::from_utf8_lossy(&std::fs::read(log).ok()?).into_owned();
        // "123 openat(...) = 3"
        let calls = text.lines().filter_map(|line| line.split_once(' '));
        let calls: Vec<(&str, &str)> = calls.map(|(thread, call)| (thread, call.trim_start())).collect();
        let names = calls.iter().filter_map(|(_, call)| call.split_once('(')).map(|(name, _)| name);
        let names = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        let main = calls.first()?.0;
        let mut opens = calls.iter().filter(|(thread, call)| *thread == main && call.starts_with("openat("));
        let unnamed = opens.position(|(_, call)| call.contains("O_TMPFILE")).map_or(0, |at| at as u64 + 1);
        Some(Trace { names: names.map(str::to_string).collect(), unnamed })
    }

    /// The option of `strace` that makes the call fail that opens an unnamed file.
    pub fn without_unnamed(&self) -> String {
        format!("inject=openat:error=EOPNOTSUPP:when={}", self.unnamed)
    }
}

fn every_call(stage: &Stage, trace: &Trace, stride: u64) -> Figure {
    let mut figure = Figure::new(format!("kills at every call: {}", stage.name()), MANY / 10 / stride);
    let mut main_thread = 0;
    for name in &trace.names {
        main_thread += kill_from(&mut figure, stage, &[], name, stride);
        kill_from(&mut figure, stage, &["-f"], name, stride);
    }
    figure.note(format!("{main_thread} of them in the main thread; {} names of calls", trace.names.len()));
    figure
}

/// The same on a system without unnamed files: the call that opens one fails.
fn every_call_with_named_files(stage: &Stage, trace: &Trace, stride: u64) -> Figure {
    let mut figure = Figure::new(format!("kills at every call, named files: {}", stage.name()), MANY / 10 / stride);
    if trace.unnamed == 0 {
        figure.add(Err("the main thread opens no unnamed file".into()));
        return figure;
    }
    let fails = trace.without_unnamed();
    for name in trace.names.iter().filter(|name| *name != "openat") {
        kill_from(&mut figure, stage, &["-e", &fails], name, stride);
    }
    kill_from(&mut figure, stage, &["-f", "-e", &fails], "pwrite64", stride);
    figure
}

/// Kills at call 1, and so on until a run ends by itself; returns how many were killed.
fn kill_from(figure: &mut Figure, stage: &Stage, options: &[&str], calls: &str, stride: u64) -> u64 {
    let mut killed = 0;
    for at in (1..).step_by(stride as usize) {
        let injection = format!("inject={calls}:signal=KILL:when={at}");
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null"]).args(options).args(["-e", &injection]).args(stage.arguments());
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("strace starts");
        let context = |failure| format!("{calls} number {at}: {failure}");
        // strace ends as the program does.
        if status.signal() == Some(SIGKILL) {
            killed += 1;
            let most_left = if stage.work == Work::Unpack { threads() } else { 1 };
            figure.add(stage.judge(most_left, false).map_err(context));
        } else if status.success() {
            if let Err(failure) = stage.judge(0, true) {
                figure.add(Err(context(failure)));
            }
            break;
        } else {
            figure.add(Err(context(format!("it ended with {status}"))));
            break;
        }
    }
    killed
}

/// Threads that unpack, each with a file.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
