//! Both programs in every mode, in which a system call fails: some of the calls that `make torture` tries all of.

use crate::{INFER, PACK};
use olmo_tests::faults::{RUNS, Stage, has_strace};
use olmo_tests::{TempDir, finish, repository, skipped};
use std::fs::File;
use std::process::Command;

/// One of this number of calls of each name fails.
const STRIDE: usize = 9;
/// Calls by which a folder is looked at, and how many of the first of them fail in any case.
const LOOKING: [&str; 3] = ["close", "getdents64", "statx"];
const FIRST: usize = 10;

/// Row E6, every system call of every command.
#[test]
fn failed_system_call_is_survived_or_reported() {
    if !has_strace() {
        skipped("system calls that fail were not tested: strace is not installed, or may not follow a program");
        return;
    }
    let stage = Stage::new(PACK, INFER);
    let (mut n_tried, mut failures) = (0, Vec::new());
    for (i, run) in RUNS.iter().enumerate() {
        let undisturbed = stage.undisturbed(run);
        for (j, calls) in undisturbed.calls.iter().enumerate() {
            // Other ones of other commands. What packing looks at first, before it reads any file, is tried whole.
            let all = (run.words[1] == "w" && LOOKING.contains(&calls.name.as_str())).then_some(FIRST);
            let (all, from) = (calls.first..calls.first + all.unwrap_or(0), calls.first + (i * 5 + j) % STRIDE);
            for at in all.chain((from..=calls.last).step_by(STRIDE)) {
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

/// Row E6.
///
/// Network file systems may report a full disk only when a file is closed.
#[test]
fn failure_at_close_is_reported() {
    if !has_strace() {
        skipped("outputs that fail when they are closed were not tested: strace is not installed, or may not follow");
        return;
    }
    let stage = Stage::new(PACK, INFER);
    let scores = RUNS.iter().find(|run| run.words.contains(&"out/scores")).expect("a run that writes scores to a file");
    for (run, of_output) in RUNS.iter().map(|run| (run, "standard output")).chain([(scores, "out/scores")]) {
        let undisturbed = stage.undisturbed(run);
        let closes = undisturbed.calls.iter().find(|calls| calls.name == "close").expect("files are closed");
        // The last ones of the main thread.
        let told = (closes.first..=closes.last).rev().any(|at| {
            let (status, stderr) = undisturbed.outcome_with("close", at, "error=EDQUOT");
            status == Some(1) && stderr.contains(of_output) && stderr.contains("Disk quota exceeded")
        });
        assert!(told, "{run:?} does not hear of {of_output}");
    }
}

/// Row E6.
#[test]
fn write_to_read_only_output_is_reported() {
    let folder = TempDir::new("read-only-output");
    let (demo, model) = (repository().join("demo"), folder.join("m.olmo"));
    finish(Command::new(PACK).arg(demo.join("weights")).arg(&model)).ok();
    let tokens = demo.join("prompt.tokens.bin");
    let (model, tokens) = (model.to_str().expect("UTF-8"), tokens.to_str().expect("UTF-8"));
    for (program, words) in [
        (PACK, &["--help"][..]),
        (PACK, &["inspect", model]),
        (INFER, &["--version"]),
        (INFER, &[model, tokens]),
        (INFER, &[model, tokens, "--logits", "-"]),
        (INFER, &["score", model, tokens]),
    ] {
        let mut command = Command::new(program);
        let finished = finish(command.args(words).stdout(File::open("/dev/null").expect("open for reading")));
        assert_eq!(finished.code, Some(1), "{words:?}: {finished:?}");
        assert!(finished.stderr.contains("standard output") && finished.stderr.lines().count() == 1, "{finished:?}");
    }
}
