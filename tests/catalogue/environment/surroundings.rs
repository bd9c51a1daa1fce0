//! Rows E16 and E18: variables, folders and times.

use super::place::Place;
use olmo_tests::catalogue::Report;
use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

/// Row E16: locale, time zone, folders, no environment at all.
#[test]
fn e16_environment_changes_no_result() {
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

/// Row E18: a wrong clock.
///
/// Note on E18: The clock of a machine cannot be changed for a test; the times of files can, and no time is in the
/// file.
#[test]
fn e18_file_times_do_not_reach_the_model() {
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
