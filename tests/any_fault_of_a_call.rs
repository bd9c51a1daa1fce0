//! Both programs in every mode, in which a system call fails: some of the calls that `make torture` tries all of.

use olmo_tests::faults::{RUNS, Stage, has_strace};
use olmo_tests::skipped;

/// Of the calls of each name one in so many fails.
const STRIDE: usize = 9;

#[test]
fn a_call_that_fails_is_survived_or_told() {
    if !has_strace() {
        skipped("system calls that fail were not tested: strace is not installed, or may not follow a program");
        return;
    }
    let stage = Stage::new(env!("CARGO_BIN_EXE_tested-olmo-pack"), env!("CARGO_BIN_EXE_tested-olmo-infer"));
    let (mut n_tried, mut failures) = (0, Vec::new());
    for (i, run) in RUNS.iter().enumerate() {
        let undisturbed = stage.undisturbed(run);
        for (j, calls) in undisturbed.calls.iter().enumerate() {
            // Other ones of other commands.
            for at in (calls.first + (i * 5 + j) % STRIDE..=calls.last).step_by(STRIDE) {
                let result = undisturbed.with(&calls.name, at, "error=EIO");
                n_tried += usize::from(result.is_some());
                failures.extend(result.and_then(Result::err));
            }
        }
    }
    println!("{n_tried} calls failed");
    assert!(failures.is_empty(), "{} of {n_tried}:\n{}", failures.len(), failures.join("\n"));
    assert!(n_tried > 150, "{n_tried} calls");
}
