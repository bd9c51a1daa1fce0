//! Rows E3 to E5: standard streams.

use super::arguments::questions;
use super::place::Place;
use olmo_tests::catalogue::Report;
use std::fs;
use std::process::Stdio;

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

/// Row E3: a closed pipe.
#[test]
fn e3_closed_pipe_ends_program_silently() {
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

/// Row E4: a full standard output, a full standard error.
#[test]
fn e4_full_standard_output_is_an_error() {
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
    // A full standard error changes no status and does not panic.
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

/// Row E5: streams that are closed at the start.
///
/// Note on E5: The runtime of Rust opens `/dev/null` in their place before the program begins, so that no file gets
/// their descriptors; results to a closed standard output are then lost with status 0. Safe code cannot distinguish
/// that from a `/dev/null` that the caller opened for reading and writing, such as `subprocess.DEVNULL` of Python,
/// which must be status 0.
#[test]
fn e5_closed_standard_streams_corrupt_nothing() {
    let place = Place::new("e5");
    let mut report = Report::new("E5");
    let before = fs::read(place.path("m.olmo")).expect("read");
    let logits = |flags: &str| {
        let finished = place.sh(&format!("exec $INFER m.olmo t.bin --threads 1 --logits out/l.npy {flags}"));
        (finished, fs::read(place.path("out/l.npy")).expect("logits"))
    };
    let expected = logits("").1;
    for streams in [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"] {
        // A model that was opened as standard output would be written to. The results go to the `/dev/null` that Rust's
        // runtime opened in its place, which takes them: status 0, see the row in CATALOGUE.md.
        for mode in ["", "--json", "--timing"] {
            let (finished, found) = logits(&format!("{mode} {streams}"));
            let right = finished.code == Some(0) && found == expected;
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
