//! Rows W1 and W25: the folder itself, huge, deep and with few descriptors.

use super::{Case, NORM, resize};
use crate::PACK;
use olmo_tests::catalogue::{Refusal, Report, Run, command, make_fifo, measured};
use olmo_tests::descriptors::limit_for;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

/// Row W1: the folder is absent, a file, or empty.
#[test]
fn w1_refuses_absent_or_empty_folder() {
    let mut report = Report::new("W1");
    let case = Case::new();
    let path = |name: &str| case.folder.join(name);
    report
        .add("absent", case.folder_refused(path("none"), &["no such folder", "a folder of .npy or safetensors files"]));
    report.add("a file", case.folder_refused(case.file(NORM), &["not a folder"]));
    make_fifo(&path("fifo"));
    report.add("a FIFO", case.folder_refused(path("fifo"), &["not a folder"]));
    report.add("a device", case.folder_refused("/dev/zero", &["not a folder"]));
    symlink("nowhere", path("dangling")).expect("linked");
    report.add("a dangling link", case.folder_refused(path("dangling"), &["no such folder"]));
    symlink("loop", path("loop")).expect("linked");
    report.add("a loop of links", case.folder_refused(path("loop"), &["Too many levels of symbolic links"]));
    let empty = path("empty");
    fs::create_dir(&empty).expect("folder");
    report.add("empty", case.folder_refused(&empty, &["no .npy or safetensors files", "np.save"]));
    fs::copy(case.config(), empty.join("config.json")).expect("copied");
    report.add(
        "config.json alone",
        case.folder_refused(&empty, &["no .npy or safetensors files", "<parameter name>.npy"]),
    );
    for name in ["pytorch_model.bin", "a.bin"] {
        fs::write(empty.join(name), "x").expect("written");
        report.add(name, case.folder_refused(&empty, &["or safetensors files, but ", name, "np.save"]));
    }
    let swapped = Refusal::one_line("olmo-pack", format!("{}: ", case.weights.display()), &["the arguments swapped?"]);
    report.add(
        "swapped arguments",
        swapped.check(case.folder.path(), || {
            let mut command = measured(PACK);
            command.args([&case.model, &case.weights]);
            command
        }),
    );
}

/// Row W25: 100,000 files, deep paths, few file descriptors.
#[test]
fn w25_refuses_100000_extra_files() {
    let mut report = Report::new("W25");
    let case = Case::new();
    for i in 0..100_000 {
        File::create(case.weights.join(format!("{i:06}.txt"))).expect("written");
    }
    let finished = Run::new(&mut case.pack(&case.weights, &[])).expect("ends");
    report.holds("no .npy", finished.status.success(), finished.stderr);
    for i in 0..100_000 {
        fs::rename(case.weights.join(format!("{i:06}.txt")), case.weights.join(format!("{i:06}.npy")))
            .expect("renamed");
    }
    fs::write(&case.model, "old").expect("written");
    let line = |i: usize| vec![format!("{}: not a parameter", case.file(&format!("{i:06}")).display())];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: (0..10).map(line).collect(), more: 99_990 };
    report.add("no parameters", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
    let finished = Run::new(&mut case.pack(&case.weights, &["--allow-extra"])).expect("ends");
    report.holds("left out", finished.stdout.contains("more"), finished.stderr);
}

/// Row W25.
#[test]
fn w25_handles_deep_paths() {
    let mut report = Report::new("W25");
    let mut case = Case::new();
    let mut deep = case.folder.path().to_path_buf();
    deep.extend(std::iter::repeat_n("folder", 300));
    fs::create_dir_all(&deep).expect("folders");
    let weights = deep.join("weights");
    fs::rename(&case.weights, &weights).expect("moved");
    case.weights = weights;
    report.add("300 folders deep", case.packed(&[]));
    fs::write(&case.model, "old").expect("written");
    resize(&case.file(NORM), 1);
    report.add("a bad file there", case.refused(case.file(NORM), &["1 byte too many"]));
    let longer = Path::new("/").join("x/".repeat(3000));
    report.add("longer than a path may be", case.folder_refused(longer.join("y"), &["File name too long"]));
    let name = Path::new("/").join("x".repeat(256));
    report.add("a name longer than it may be", case.folder_refused(name, &["File name too long"]));
}

/// Row W25.
#[test]
fn w25_packs_with_few_descriptors() {
    let mut report = Report::new("W25");
    let case = Case::new();
    let limited = |limit: usize| {
        let mut limited = command("prlimit");
        limited.arg(format!("--nofile={limit}")).arg(PACK).args([&case.weights, &case.model]).args([
            "--force",
            "--threads",
            "2",
        ]);
        limited
    };
    for limit in (0..17).map(limit_for) {
        let run = Run::new(&mut limited(limit)).expect("ends");
        match run.status.code() {
            // Too few for the system to start it.
            Some(127) => continue,
            Some(0) => fs::write(&case.model, "old").expect("written"),
            _ => {
                let refusal = Refusal::one_line("olmo-pack", "", &["Too many open files"]);
                // Whether the threads have their files open at the same time is chance: this run is judged, not
                // another.
                report.add(limit, refusal.judge(&run));
                report.holds(limit, fs::read(&case.model).is_ok_and(|old| old == b"old"), "the old model is gone");
            }
        }
        report.holds(format_args!("{limit} is enough"), run.status.success() || limit < 12, run.stderr);
    }
}
