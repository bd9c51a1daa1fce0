//! Every system call of both programs in every mode fails once, with every error: see `faults.rs` of the tests.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::program;
use olmo_tests::faults::{RUNS, Stage, has_strace};

/// Injected results of calls, as `strace` spells them.
const FAULTS: [&str; 6] = ["EIO", "EINTR", "ENOMEM", "EACCES", "ENOSPC", "EMFILE"];
/// Calls that may also do nothing: a file that has become shorter, a disk that takes no byte.
const MAY_DO_NOTHING: [&str; 5] = ["getdents64", "pread64", "pwrite64", "readlinkat", "write"];
/// Fewer tries in all would mean that hardly anything was met.
const WANTED: u64 = 50;

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    if !has_strace() {
        let mut figure = Figure::new("system calls that fail", 1);
        figure.add(Err("strace is not installed, or may not follow a program".into()));
        return vec![figure];
    }
    let stage = Stage::new(program("olmo-pack"), program("olmo-infer"));
    // With --divide only some of the calls of each name.
    let stride = 1000 / effort.times(1000) as usize;
    let of_run = |run| {
        let undisturbed = stage.undisturbed(run);
        let mut figure = Figure::new(format!("calls that fail: {}", run.words.join(" ")), WANTED / stride as u64);
        for calls in &undisturbed.calls {
            let nothing = MAY_DO_NOTHING.contains(&calls.name.as_str()).then_some("retval=0".to_string());
            for fault in FAULTS.iter().map(|error| format!("error={error}")).chain(nothing) {
                for at in (calls.first..=calls.last).step_by(stride) {
                    if let Some(result) = undisturbed.with(&calls.name, at, &fault) {
                        figure.add(result);
                    }
                }
            }
        }
        figure.note(format!("{} names of calls", undisturbed.calls.len()));
        figure
    };
    RUNS.iter().map(of_run).collect()
}
