//! Rows E6 and E19: full disks, limits on the size of files, other file systems.

use super::place::{Place, names};
use olmo_tests::catalogue::Report;
use olmo_tests::{run, skipped};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

/// Whether this process may mount in a namespace of its own.
pub(crate) fn can_mount() -> bool {
    let mounts = run("unshare", ["-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]).code == Some(0);
    if !mounts {
        skipped("no file system can be mounted here: full and read-only ones are tested by the layer below writing");
    }
    mounts
}

/// Row E6: full disks, limits on file sizes, errors of any call.
#[test]
fn e6_full_disk_is_one_line() {
    if !can_mount() {
        return;
    }
    let place = Place::new("e6");
    let mut report = Report::new("E6");
    let on = |size: &str, script: &str| {
        let mount =
            format!("mount -t tmpfs -o size={size} none out && printf old > out/m.olmo && printf old > out/l.npy");
        let after = "rc=$?\ncat out/m.olmo out/l.npy\nls -A out | tr '\\n' ' '\nexit $rc";
        fs::write(place.path("script"), format!("{mount} || exit 99\n{script}\n{after}")).expect("written");
        place.sh("exec unshare -m sh script")
    };
    for (size, script, words) in [
        ("64k", "$PACK w out/m.olmo --force", &["out/m.olmo: needs ", " bytes, ", " are free"][..]),
        ("64k", "$PACK w out/n.olmo", &["out/n.olmo: needs ", " are free"]),
        ("64k", "$PACK copy m.olmo out/m.olmo --force", &["out/m.olmo: needs ", " are free"]),
        ("64k", "$PACK unpack m.olmo out/w", &[": needs ", " are free"]),
        ("64k", "$INFER m.olmo t.bin --steps 400 --logits out/l.npy > /dev/null", &["out/l.npy: ", "No space left"]),
        ("8k", "$INFER m.olmo t.bin --steps 20 --logits out/l.npy > /dev/null", &["out/l.npy: ", "No space left"]),
    ] {
        let finished = on(size, script);
        let is_told = finished.code == Some(1)
            && finished.stderr.lines().count() == 1
            && words.iter().all(|word| finished.stderr.contains(word))
            && finished.stdout.starts_with("oldold")
            && matches!(finished.stdout.as_str(), "oldoldl.npy m.olmo " | "oldoldl.npy m.olmo w ");
        report.holds(script, is_told, format_args!("{finished:?}"));
    }
}

/// Row E6.
#[test]
fn e6_file_size_limit_is_one_line() {
    let place = Place::new("e6-limit");
    let mut report = Report::new("E6");
    let _old = (place.old("m.olmo"), place.old("l.npy"));
    let limit = "exec prlimit --fsize=20000";
    for (program, script, words) in [
        ("olmo-pack", "$PACK w out/m.olmo --force", &["out/m.olmo: ", "File too large"][..]),
        ("olmo-pack", "$PACK w out/n.olmo", &["out/n.olmo: ", "File too large"]),
        ("olmo-pack", "$PACK copy m.olmo out/m.olmo --force", &["out/m.olmo: ", "File too large"]),
        (
            "olmo-infer",
            "$INFER m.olmo t.bin --steps 60 --logits out/l.npy > /dev/null",
            &["out/l.npy: ", "File too large"],
        ),
    ] {
        place.refuse(&mut report, program, &format!("{limit} {script}"), 1, words);
    }
    // Standard output may be such a file too.
    let script = format!("{limit} $INFER m.olmo t.bin --steps 400 > out/lines");
    let finished = place.sh(&script);
    let told = finished.code == Some(1) && finished.stderr.lines().count() == 1;
    report.holds(&script, told && finished.stderr.contains("File too large"), format_args!("{finished:?}"));
}

/// Row E19: other file systems.
#[test]
fn e19_writes_to_other_file_systems() {
    let place = Place::new("e19");
    let mut report = Report::new("E19");
    let model = fs::read(place.path("m.olmo")).expect("read");
    let here = fs::metadata(place.folder.path()).expect("a folder").dev();
    let others =
        ["/dev/shm", "/run", "/var/tmp"].into_iter().filter(|other| fs::metadata(other).is_ok_and(|m| m.dev() != here));
    let Some(other) = others.into_iter().find(|other| File::create(format!("{other}/.olmo-probe")).is_ok()) else {
        skipped("there is no second file system to write to");
        return;
    };
    fs::remove_file(format!("{other}/.olmo-probe")).expect("removed");
    let there = PathBuf::from(format!("{other}/olmo-e19-{}", std::process::id()));
    fs::create_dir(&there).expect("a folder");
    let shown = there.display();
    for script in [
        format!("$PACK w {shown}/m.olmo"),
        format!("$PACK w {shown}/m.olmo --force"),
        format!("$PACK copy m.olmo {shown}/c.olmo"),
        format!("$PACK unpack m.olmo {shown}/w"),
        format!("$INFER {shown}/m.olmo t.bin --logits {shown}/l.npy"),
    ] {
        let finished = place.sh(&script);
        report.holds(&script, finished.code == Some(0), format_args!("{finished:?}"));
    }
    let same = ["m.olmo", "c.olmo"].iter().all(|name| fs::read(there.join(name)).is_ok_and(|found| found == model));
    report.holds("bytes", same, "other bytes");
    report.holds("names", names(&there) == ["c.olmo", "l.npy", "m.olmo", "w"], format_args!("{:?}", names(&there)));
    // The link here, the file there.
    symlink(there.join("linked.olmo"), place.path("out/link")).expect("a link");
    place.sh("$PACK w out/link").ok();
    report.holds("link", fs::read(there.join("linked.olmo")).is_ok_and(|found| found == model), "other bytes");
    fs::remove_dir_all(&there).expect("removed");
}
