//! Rows E1 and E2: arguments, help and versions.

use super::place::Place;
use crate::{BENCH, INFER, PACK};
use olmo_tests::catalogue::{Refusal, Report, Run};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// The programs, with their names in messages.
const PROGRAMS: [(&str, &str); 3] = [("olmo-pack", PACK), ("olmo-infer", INFER), ("olmo-bench", BENCH)];

/// Row E1: wrong, missing, swapped arguments.
///
/// Note on E1: An option whose value is the name of another option is refused unless `=` is between them. Too many
/// arguments cannot occur for `olmo-infer`: all but the first are token files. An empty path, or a folder in place of a
/// file, is status 1, as any other path that cannot be opened.
#[test]
fn e1_refuses_wrong_arguments() {
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

/// Row E1.
#[test]
fn e1_refuses_arguments_that_name_another_file() {
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
        (
            "olmo-pack",
            "exec $PACK m.gguf out/n.olmo",
            &["m.gguf: 8 bytes of the header at 8 of 8 bytes, expected a whole file"],
        ),
        ("olmo-pack", "exec $PACK m.safetensors out/n.olmo", &["m.safetensors: not a folder"]),
        ("olmo-pack", "exec $PACK ./absent out/n.olmo", &["absent: no such folder"]),
        ("olmo-pack", "exec $PACK verify w", &["w: is a folder", "olmo-pack weights/ model.olmo"]),
        ("olmo-pack", "exec $PACK verify m.gguf", &["m.gguf: not an .olmo file but a GGUF file"]),
        ("olmo-pack", "exec $PACK verify ''", &["cannot open: No such file"]),
        ("olmo-pack", "exec $PACK inspect t.bin", &["t.bin: not an .olmo file", "are the arguments swapped?"]),
        ("olmo-pack", "exec $PACK unpack w out/x", &["w: is a folder"]),
        ("olmo-pack", "exec $PACK unpack m.olmo t.bin", &["t.bin: "]),
        ("olmo-pack", "exec $PACK copy w out/x", &["w: is a folder"]),
        ("olmo-pack", "exec $PACK w out", &["out: is a folder", "name a file in it, as in out/model.olmo"]),
        ("olmo-infer", "exec $INFER w t.bin", &["w: is a folder", "olmo-pack weights/ model.olmo"]),
        ("olmo-infer", "exec $INFER '' t.bin", &["cannot open: No such file"]),
        ("olmo-infer", "exec $INFER m.olmo ''", &["cannot open: No such file"]),
        ("olmo-infer", "exec $INFER t.bin m.olmo", &["t.bin: not an .olmo file", "are the arguments swapped?"]),
        ("olmo-infer", "exec $INFER m.olmo m.olmo", &["looks like a model file: are the arguments swapped?"]),
        ("olmo-infer", "exec $INFER m.gguf t.bin", &["m.gguf: not an .olmo file but a GGUF file"]),
        ("olmo-infer", "exec $INFER m.safetensors t.bin", &["not an .olmo file but a safetensors checkpoint"]),
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
pub(crate) fn questions() -> Vec<String> {
    let pack = [
        "-h",
        "--help",
        "--version",
        "-V",
        "verify --help",
        "inspect --help",
        "diff --help",
        "unpack --help",
        "copy --help",
        "verify -V",
        "inspect m.olmo --version",
        "--man",
        "--completions zsh",
    ];
    let pack = pack.map(|flags| format!("$PACK {flags}"));
    let others = ["$INFER", "$BENCH"].map(|program| {
        ["--help", "-h", "--version", "-V", "--man", "--completions=bash"].map(|flag| format!("{program} {flag}"))
    });
    pack.into_iter().chain(others.into_iter().flatten()).collect()
}

/// Row E2: help, version, manual pages.
#[test]
fn e2_help_and_version_end_with_status_0() {
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
    // At any position.
    let anywhere = place.sh("$INFER m.olmo t.bin --steps 3 --version");
    report.holds("at the end", anywhere.stdout.starts_with("olmo-infer "), &anywhere.stderr);
}

/// Row E.
#[test]
fn non_utf8_names_are_printed_in_one_line() {
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
