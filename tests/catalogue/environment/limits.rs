//! Rows E13 and E14: little of everything, and numbers of threads.

use super::place::Place;
use olmo_tests::catalogue::{Report, as_ordinary_user};
use olmo_tests::descriptors::limit_for;
use olmo_tests::{finish, skipped};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Row E13: little memory, few descriptors, a small stack, no threads.
///
/// Note on E13: Stacks are tested down to 128 KiB; below that, `olmo-infer` may end by a signal. A control group kills
/// a program that takes too much without asking it, which is why the need is compared with the free memory before the
/// work.
#[test]
fn e13_runs_with_low_limits() {
    let place = Place::new("e13");
    let mut report = Report::new("E13");
    let lines = place.sh("$INFER m.olmo t.bin").ok().to_string();
    let model = fs::read(place.path("m.olmo")).expect("read");
    let (few, one) = (format!("--nofile={}", limit_for(5)), format!("--nofile={}", limit_for(1)));
    let limits = [&few, "--stack=131072", "--core=0", "--memlock=0", &format!("--as=400000000 {few}")];
    for limit in limits {
        let infer = place.sh(&format!("prlimit {limit} $INFER m.olmo t.bin --threads 2"));
        report.holds(format_args!("{limit}, olmo-infer"), infer.stdout == lines, format_args!("{infer:?}"));
        let pack = place.sh(&format!("prlimit {limit} $PACK w out/m.olmo --force --threads 2"));
        let same = pack.code == Some(0) && fs::read(place.path("out/m.olmo")).is_ok_and(|bytes| bytes == model);
        report.holds(format_args!("{limit}, olmo-pack"), same, format_args!("{pack:?}"));
        let verify = place.sh(&format!("prlimit {limit} $PACK verify m.olmo"));
        report.holds(format_args!("{limit}, verify"), verify.code == Some(0), format_args!("{verify:?}"));
    }
    fs::remove_file(place.path("out/m.olmo")).expect("removed");
    // A limit that is too low ends in one line that names it.
    for (program, script, words) in [
        ("olmo-infer", "$INFER m.olmo t.bin", &["t.bin: cannot open: Too many open files"][..]),
        ("olmo-pack", "$PACK w out/m.olmo", &["Too many open files"]),
    ] {
        place.refuse(&mut report, program, &format!("exec prlimit {one} {script}"), 1, words);
    }
}

/// Row E13.
#[test]
fn e13_runs_without_further_threads() {
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

/// Row E14: numbers of threads, and who runs them.
///
/// Note on E14: The programs start no more threads than they have processors, the library 1024 at most.
#[test]
fn e14_thread_count_changes_no_result() {
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
