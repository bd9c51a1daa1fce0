//! Rows E7 to E10 and E20: what is written over what.

use super::HANG;
use super::disks::can_mount;
use super::place::Place;
use crate::INFER;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_tests::catalogue::{Refusal, Report, as_ordinary_user, is_root, make_fifo};
use olmo_tests::{finish, map_numbers, skipped};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Row E7: places where nothing can be written.
///
/// Note on E7: The weights there hold a NaN: the output is checked before them.
#[test]
fn e7_refuses_impossible_outputs() {
    let place = Place::new("e7");
    let mut report = Report::new("E7");
    // Weights that would be refused too, if they were read before the output is looked at.
    map_numbers(&place.path("w"), "lm_head.weight", |_, _| f32::NAN);
    let long = "n".repeat(256);
    fs::write(place.path("file"), "").expect("written");
    for (output, words) in [
        ("absent/m.olmo", "No such file or directory"),
        ("absent/", "no file name at its end"),
        ("file/m.olmo", "Not a directory"),
        ("out/m.olmo/", "no file name at its end"),
        ("/proc/m.olmo", ""),
        (&format!("out/{long}"), "File name too long"),
        (&format!("{long}/m.olmo"), "File name too long"),
    ] {
        place.refuse(&mut report, "olmo-pack", &format!("exec $PACK w {output}"), 1, &[words]);
        place.refuse(&mut report, "olmo-pack", &format!("exec $PACK copy m.olmo {output}"), 1, &[words]);
    }
    for (output, words) in [
        ("absent/l.npy", "No such file or directory"),
        ("file/l.npy", "Not a directory"),
        ("out/l.npy/", "no such folder"),
        (&format!("out/{long}"), "File name too long"),
    ] {
        place.refuse(&mut report, "olmo-infer", &format!("exec $INFER m.olmo t.bin --logits {output}"), 1, &[words]);
    }
}

/// Row E7.
#[test]
fn e7_refuses_forbidden_outputs() {
    let place = Place::new("e7-permission");
    let mut report = Report::new("E7");
    map_numbers(&place.path("w"), "lm_head.weight", |_, _| f32::NAN);
    let _old = (place.old("m.olmo"), place.old("l.npy"));
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o555)).expect("closed");
    for (program, script) in [
        ("olmo-pack", "exec $PACK w out/n.olmo"),
        ("olmo-pack", "exec $PACK w out/m.olmo --force"),
        ("olmo-pack", "exec $PACK copy m.olmo out/n.olmo"),
        ("olmo-pack", "exec $PACK unpack m.olmo out/w"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits out/l.npy"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits out/new.npy"),
    ] {
        let refusal = Refusal::one_line(program, "", &["out", "Permission denied"]);
        let prepare = || {
            let mut command = place.shell(script);
            as_ordinary_user(&mut command);
            command
        };
        report.add(script, refusal.check(place.folder.path(), prepare));
    }
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o755)).expect("open");
    if !can_mount() {
        return;
    }
    for script in [
        "$PACK w out/n.olmo",
        "$PACK w out/m.olmo --force",
        "$PACK copy m.olmo out/n.olmo",
        "$PACK unpack m.olmo out/w",
        "$INFER m.olmo t.bin --logits out/l.npy",
    ] {
        let mount = "mount -t tmpfs none out && printf old > out/m.olmo && mount -o remount,ro out";
        let finished = place.sh(&format!("exec unshare -m sh -c '{mount} && {script}'"));
        let told = finished.refused(1).contains("Read-only file system");
        report.holds(format_args!("read-only: {script}"), told, &finished.stderr);
    }
}

/// Every way to write a file, with its own words for one that exists.
const WRITERS: [(&str, &str); 3] = [
    ("olmo-pack", "exec $PACK w OUT --force"),
    ("olmo-pack", "exec $PACK copy m.olmo OUT --force"),
    ("olmo-infer", "exec $INFER m.olmo t.bin --logits OUT"),
];

/// Row E8: outputs that exist.
#[test]
fn e8_refuses_existing_outputs() {
    let place = Place::new("e8");
    let mut report = Report::new("E8");
    fs::create_dir(place.path("folder")).expect("a folder");
    make_fifo(&place.path("fifo"));
    let _socket = UnixListener::bind(place.path("socket")).expect("a socket");
    symlink("loop", place.path("loop")).expect("a link");
    symlink("folder", place.path("link-to-folder")).expect("a link");
    symlink("/dev/null", place.path("link-to-null")).expect("a link");
    for (program, writer) in WRITERS {
        for (output, words) in [
            ("folder", "is a folder"),
            ("link-to-folder", "is a folder"),
            ("fifo", "is not a regular file"),
            ("socket", "is not a regular file"),
            ("/dev/null", "is not a regular file"),
            ("/dev/full", "is not a regular file"),
            ("link-to-null", "is not a regular file"),
            ("loop", "ymbolic links"),
        ] {
            // It copies into a folder, see mistaken_paths.rs.
            if writer.contains("copy") && words == "is a folder" {
                continue;
            }
            place.refuse(&mut report, program, &writer.replace("OUT", output), 1, &[words]);
        }
    }
    let (_path, _) = place.old("m.olmo");
    for script in ["exec $PACK w out/m.olmo", "exec $PACK copy m.olmo out/m.olmo", "exec $PACK w out/m.olmo --dry-run"]
    {
        place.refuse(&mut report, "olmo-pack", script, 1, &["out/m.olmo: exists", "--force"]);
    }
}

/// Row E8.
#[test]
fn e8_follows_no_foreign_links_in_shared_folders() {
    let place = Place::new("e8-links");
    let mut report = Report::new("E8");
    let shared = place.path("out/shared");
    fs::create_dir_all(shared.join("real")).expect("folders");
    fs::write(shared.join("real/file"), "theirs").expect("written");
    symlink("real/file", shared.join("link")).expect("linked");
    symlink("real", shared.join("to-real")).expect("linked");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).expect("open to all");
    if !is_root() {
        skipped("links of another user were not tested: only root can give a link away");
        return;
    }
    for link in ["link", "to-real"] {
        lchown(shared.join(link), Some(65534), None).expect("given away");
    }
    let writers = WRITERS.into_iter().chain([("olmo-infer", "exec $INFER score m.olmo t.bin --output OUT")]);
    for (program, writer) in writers {
        for output in ["out/shared/link", "out/shared/to-real/new", "out/shared/to-real/file"] {
            let link = if output.ends_with("link") { output } else { "out/shared/to-real" };
            let says = format!("{link}: is a link of another user in a folder where all may write, expected one of ");
            place.refuse(&mut report, program, &writer.replace("OUT", output), 1, &[&says]);
        }
    }
    let unpack = "exec $PACK unpack m.olmo out/shared/to-real --force";
    place.refuse(&mut report, "olmo-pack", unpack, 1, &["is a link of another user"]);
    place.refuse(&mut report, "olmo-pack", "exec $PACK unpack m.olmo out/shared/to-real/n", 1, &["of another user"]);
}

/// Row E8.
#[test]
fn e8_refused_unpack_leaves_no_folder() {
    let place = Place::new("e8-unpack");
    let mut report = Report::new("E8");
    fs::create_dir(place.path("there")).expect("a folder");
    // No file may have more than half a kilobyte, which config.json, the first, has.
    let config = fs::read_to_string(place.path("w/config.json")).expect("read");
    fs::write(place.path("w/config.json"), config + &" ".repeat(1024)).expect("written");
    place.sh("$PACK w m.olmo --force").ok();
    for folder in ["new", "out/new/deep", "new/../other", "there"] {
        let script = format!("ulimit -f 1; exec $PACK unpack m.olmo {folder}");
        place.refuse(&mut report, "olmo-pack", &script, 1, &["File too large"]);
    }
    let left = ["new", "out/new", "other"].map(|name| place.path(name).exists());
    report.holds("left", left == [false; 3] && place.path("there").is_dir(), format_args!("{left:?}"));
}

/// Row E8.
#[test]
fn e8_replaces_outputs_with_force() {
    let place = Place::new("e8-replaced");
    let mut report = Report::new("E8");
    let before = place.sh("$PACK inspect m.olmo").ok().to_string();
    for (program, writer) in WRITERS {
        // Another process has the old file by another name, open, mapped, or runs it.
        let (path, old) = place.old("m");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        fs::hard_link(&path, place.path("out/same")).expect("a link");
        let mut open = File::open(&path).expect("open");
        place.sh(&writer.replace("OUT", "out/m")).ok();
        let mut found = Vec::new();
        open.read_to_end(&mut found).expect("read");
        let untouched = found == old && fs::read(place.path("out/same")).is_ok_and(|same| same == old);
        report.holds(format_args!("{program} {writer}"), untouched, "the old inode was written to");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        report.holds(format_args!("{writer}: mode"), mode == 0o666 & !umask(), format_args!("{mode:o}"));
        report.holds(format_args!("{writer}: names"), place.out() == ["m", "same"], format_args!("{:?}", place.out()));
        // A symbolic link stays, and what it leads to is replaced.
        fs::remove_file(place.path("out/same")).expect("removed");
        fs::remove_file(&path).expect("removed");
        let (real, old) = place.old("real");
        symlink("real", &path).expect("a link");
        place.sh(&writer.replace("OUT", "out/m")).ok();
        let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        let replaced = is_link && fs::read(&real).is_ok_and(|new| new != old);
        report.holds(format_args!("{writer}: link"), replaced, "");
        fs::remove_file(&path).expect("removed");
        fs::remove_file(&real).expect("removed");
    }
    // Mapped by a run that waits for its tokens: it ends as it began.
    let mut reader = place.command(INFER);
    let mut reader = reader.args(["m.olmo"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let begun = Instant::now();
    while !fs::read_to_string(format!("/proc/{}/maps", reader.id())).is_ok_and(|maps| maps.contains("m.olmo")) {
        assert!(begun.elapsed() < HANG, "the model was never mapped");
        sleep(Duration::from_millis(1));
    }
    place.sh("$PACK w m.olmo --force").ok();
    let tokens = fs::read(place.path("t.bin")).expect("read");
    std::io::Write::write_all(&mut reader.stdin.take().expect("a pipe"), &tokens).expect("it reads");
    let output = reader.wait_with_output().expect("ends");
    report.holds("mapped", output.status.success(), output.status);
    report.holds("replaced", place.sh("$PACK inspect m.olmo").ok() == before, "another model");
    // A running program: the new file may take its name, and the running one continues.
    fs::copy("/bin/sleep", place.path("out/running")).expect("copied");
    let mut running = loop {
        match Command::new(place.path("out/running")).arg("60").spawn() {
            // A process that another test is just starting has the copy's descriptor for a moment.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => sleep(Duration::from_millis(1)),
            running => break running.expect("starts"),
        }
    };
    let finished = place.sh("$PACK copy m.olmo out/running --force");
    report.holds("executed", finished.code == Some(0), finished.stderr);
    report.holds("executed", running.try_wait().expect("known").is_none(), "it ended");
    running.kill().expect("it ran");
    running.wait().expect("ends");
}

/// The umask of this process.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).expect("a umask");
    u32::from_str_radix(line.trim(), 8).expect("octal")
}

/// Row E9: an output that is an input.
///
/// Note on E9: Names that differ by case are one inode where the file system takes them for one name.
#[test]
fn e9_refuses_output_that_is_an_input() {
    let place = Place::new("e9");
    let mut report = Report::new("E9");
    let tensor = "w/model.norm.weight.npy";
    fs::hard_link(place.path(tensor), place.path("hard-tensor")).expect("a link");
    symlink(tensor, place.path("soft-tensor")).expect("a link");
    fs::hard_link(place.path("m.olmo"), place.path("hard-model")).expect("a link");
    fs::hard_link(place.path("w/config.json"), place.path("hard-config")).expect("a link");
    fs::write(place.path("w/generation_config.json"), "{}").expect("written");
    fs::hard_link(place.path("w/generation_config.json"), place.path("hard-generation")).expect("a link");
    fs::create_dir(place.path("u")).expect("a folder");
    fs::hard_link(place.path("m.olmo"), place.path("u/config.json")).expect("a link");
    fs::create_dir(place.path("v")).expect("a folder");
    make_fifo(&place.path("v/model.norm.weight.npy"));
    symlink("m.olmo", place.path("soft-model")).expect("a link");
    symlink("t.bin", place.path("soft-tokens")).expect("a link");
    symlink("w", place.path("soft-w")).expect("a link");
    for (program, script, words) in [
        ("olmo-pack", format!("exec $PACK w {tensor} --force"), "is inside the weights folder"),
        ("olmo-pack", "exec $PACK w w/m.olmo".into(), "is inside the weights folder"),
        ("olmo-pack", "exec $PACK w soft-w/m.olmo".into(), "is inside the weights folder"),
        ("olmo-pack", "exec $PACK soft-w w/m.olmo".into(), "is inside the weights folder"),
        ("olmo-pack", "exec $PACK w ./out/../w/m.olmo".into(), "is inside the weights folder"),
        ("olmo-pack", "exec $PACK w hard-tensor --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK w soft-tensor --force".into(), "is inside the weights folder"),
        ("olmo-pack", "exec $PACK w hard-config --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK w hard-generation --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK unpack u/config.json u --force".into(), "is the model that is unpacked"),
        ("olmo-pack", "exec $PACK unpack m.olmo u --force".into(), "is the model that is unpacked"),
        ("olmo-pack", "exec $PACK unpack m.olmo v --force".into(), "is not a regular file"),
        ("olmo-pack", "exec $PACK unpack m.olmo t.bin --force".into(), "t.bin: is not a folder"),
        ("olmo-pack", "exec $PACK copy m.olmo m.olmo --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy m.olmo ./out/../m.olmo --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy m.olmo hard-model --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy m.olmo soft-model --force".into(), "is the same file as"),
        ("olmo-pack", "exec $PACK copy soft-model m.olmo --force".into(), "is the same file as"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits m.olmo".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits t.bin".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits hard-model".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits soft-model".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo t.bin --logits soft-tokens".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo soft-tokens --logits t.bin".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo /dev/stdin --logits t.bin < t.bin".into(), "is an input of this run"),
        ("olmo-infer", "exec $INFER m.olmo --logits t.bin < t.bin".into(), "is an input of this run"),
    ] {
        place.refuse(&mut report, program, &script, 1, &[words]);
    }
}

/// Row E10: several programs that write one output.
#[test]
fn e10_concurrent_writers_leave_one_whole_output() {
    let place = Place::new("e10");
    let mut report = Report::new("E10");
    for (_, writer) in WRITERS {
        let script = writer.replace("OUT", "out/x");
        place.sh(&script).ok();
        let alone = fs::read(place.path("out/x")).expect("read");
        for _ in 0..5 {
            let start = || place.shell(&script).stdout(Stdio::null()).spawn().expect("starts");
            for mut child in [start(), start(), start(), start()] {
                let status = child.wait().expect("ends");
                report.holds(&script, status.success(), status);
            }
            let whole = fs::read(place.path("out/x")).is_ok_and(|bytes| bytes == alone);
            report.holds(&script, whole && place.out() == ["x"], format_args!("{:?}", place.out()));
        }
        fs::remove_file(place.path("out/x")).expect("removed");
    }
    // Without --force one of them gets the name.
    for _ in 0..5 {
        let start =
            || place.shell("exec $PACK w out/x").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let ends = [start(), start(), start()].map(|mut child| child.wait().expect("ends").code());
        let winners = ends.iter().filter(|code| **code == Some(0)).count();
        let losers = ends.iter().filter(|code| **code == Some(1)).count();
        report.holds("without --force", (winners, losers) == (1, 2), format_args!("{ends:?}"));
        ModelFile::open(&place.path("out/x")).map_err(|error| error.to_string()).expect("whole");
        fs::remove_file(place.path("out/x")).expect("removed");
    }
}

/// Row E20: umask, setuid.
///
/// Note on E20: The programs have no setuid mode.
#[test]
fn e20_output_permissions_follow_umask() {
    let place = Place::new("e20");
    let mut report = Report::new("E20");
    for (umask, expected) in [("0777", 0o000), ("0077", 0o600), ("0027", 0o640), ("0022", 0o644), ("0000", 0o666)] {
        for (_, writer) in WRITERS {
            let script = format!("umask {umask}; {}", writer.replace("OUT", "out/x"));
            let finished = place.sh(&script);
            report.holds(&script, finished.code == Some(0), format_args!("{finished:?}"));
            let mode = fs::metadata(place.path("out/x")).expect("there").permissions().mode() & 0o7777;
            report.holds(&script, mode == expected, format_args!("{mode:o}"));
            fs::remove_file(place.path("out/x")).expect("removed");
        }
        report.holds(umask, place.out().is_empty(), format_args!("{:?}", place.out()));
    }
    // For an ordinary user too, who cannot open again what it may not read.
    if is_root() {
        fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o777)).expect("open to all");
        fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o777)).expect("open to all");
    }
    for (_, writer) in WRITERS {
        let mut command = place.shell(&format!("umask 0777; {}", writer.replace("OUT", "out/x")));
        as_ordinary_user(&mut command);
        let finished = finish(&mut command);
        report.holds(format_args!("ordinary user: {writer}"), finished.code == Some(0), format_args!("{finished:?}"));
        fs::remove_file(place.path("out/x")).ok();
    }
}
