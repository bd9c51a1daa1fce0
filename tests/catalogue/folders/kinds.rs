//! Rows W22, W23 and W27: kinds of files, files that cannot be read, and hard links.

use super::{Case, EMBEDDING, HEAD, NORM, O_PROJ, replaced, spoiled};
use crate::PACK;
use olmo_tests::catalogue::{Refusal, Report, Run, as_ordinary_user, is_root, make_fifo};
use olmo_tests::{finish, skipped};
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A file that is not a regular file: its name, how to make it, and a part of the message.
type Kind = (&'static str, fn(&Path), &'static str);

const KINDS: [Kind; 9] = [
    ("dangling link", |path| symlink("nowhere", path).expect("linked"), "cannot open: No such file or directory"),
    ("loop of links", |path| symlink(path, path).expect("linked"), "cannot open: Too many levels of symbolic links"),
    ("link to a folder", |path| symlink("/", path).expect("linked"), "is a folder, expected a file"),
    ("folder", |path| fs::create_dir(path).expect("a folder"), "is a folder, expected a file"),
    ("FIFO", make_fifo, "is not a regular file, expected a file"),
    ("link to /dev/zero", |path| symlink("/dev/zero", path).expect("linked"), "is not a regular file"),
    ("link to /dev/null", |path| symlink("/dev/null", path).expect("linked"), "is not a regular file"),
    ("socket", |path| drop(UnixListener::bind(path).expect("bound")), "cannot open: No such device or address"),
    ("link through a file", |path| symlink("config.json/x", path).expect("linked"), "cannot open: Not a directory"),
];

/// Row W22: links, folders, FIFOs, devices, sockets.
#[test]
fn w22_refuses_special_files() {
    let mut report = Report::new("W22");
    for (kind, make, says) in KINDS {
        report.add(kind, spoiled(NORM, &[says], |path| replaced(path, make)));
        for name in ["config.json", "vocab.txt"] {
            let case = Case::new();
            let path = case.weights.join(name);
            if kind == "link through a file" {
                continue;
            }
            fs::write(&path, "").expect("written");
            replaced(&path, make);
            report.add(format_args!("{kind} as {name}"), case.refused(&path, &[says]));
        }
    }
    match fs::read_dir("/dev").expect("devices").flatten().find(is_block_device) {
        None => skipped("W22: no block device in /dev"),
        Some(device) => {
            let outcome =
                spoiled(NORM, &[NORM], |path| replaced(path, |path| symlink(device.path(), path).expect("linked")));
            report.add("link to a block device", outcome);
        }
    }
    // Links to good files are as good: caches of downloads are made of them. Of texts, which are kept as they are, only
    // those that stay there.
    let case = Case::new();
    fs::rename(case.file(NORM), case.folder.join("blob")).expect("moved");
    symlink("../blob", case.file(NORM)).expect("linked");
    fs::rename(case.config(), case.weights.join("the.json")).expect("moved");
    symlink("the.json", case.config()).expect("linked");
    fs::write(case.folder.join("key"), "private").expect("written");
    for name in ["chat_template.jinja", "vocab.txt", "tokenizer_config.json", "generation_config.json"] {
        let path = case.weights.join(name);
        symlink("../key", &path).expect("linked");
        report.add(name, case.refused(&path, &["leads out of the folder, to ", "/key", "copy it there"]));
        fs::remove_file(path).expect("removed");
    }
    let linked = case.folder.join("linked");
    symlink(&case.weights, &linked).expect("linked");
    report.add("links to files", case.packed(&[]));
    let finished = finish(&mut case.pack(&linked, &[]));
    report.holds("a link to the folder", finished.code == Some(0), finished.stderr);
}

fn is_block_device(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_block_device())
}

/// Whether an ordinary user can run the program and see a temporary folder; reports it if not.
fn ordinary_user_can_pack(case: &Case) -> bool {
    let mut command = case.pack(&case.weights, &["--dry-run"]);
    as_ordinary_user(&mut command);
    let can = Run::new(&mut command).is_ok_and(|run| run.status.success());
    if !can {
        skipped(format_args!("W23: an ordinary user cannot run {PACK}"));
    }
    can
}

/// Row W23: unreadable files and folders, I/O errors.
///
/// Note on W23: ESTALE needs an NFS server that forgets a file, and EIO in the middle of an `.npy` file a broken disk;
/// both come from the same call as the errors that are tested.
#[test]
fn w23_reports_unreadable_files_and_folders() {
    let case = Case::new();
    if !ordinary_user_can_pack(&case) {
        return;
    }
    let mut report = Report::new("W23");
    let refused = |case: &Case, path: &Path, words: &[&str]| {
        let refusal = Refusal::one_line("olmo-pack", format!("{}: ", path.display()), words);
        refusal.check(case.folder.path(), || {
            let mut command = case.pack(&case.weights, &[]);
            as_ordinary_user(&mut command);
            command
        })
    };
    let with_mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
    if is_root() {
        // An unwritable folder would be found first.
        with_mode(&case.folder.join("out"), 0o777);
    }
    fs::write(case.weights.join("vocab.txt"), "0\ta\n").expect("written");
    let files = [case.file(NORM), case.file(EMBEDDING), case.config(), case.weights.join("vocab.txt")];
    for path in &files {
        with_mode(path, 0o000);
        report.add(path.display(), refused(&case, path, &["cannot open: Permission denied"]));
        with_mode(path, 0o644);
    }
    with_mode(&case.weights, 0o311);
    report.add(
        "a folder that may not be listed",
        refused(&case, &case.weights, &["cannot list the folder: Permission denied"]),
    );
    with_mode(&case.weights, 0o644);
    report.add("a folder that may not be entered", refused(&case, &case.config(), &["cannot open: Permission denied"]));
    with_mode(&case.weights, 0o755);
    let inner = case.folder.join("inner");
    fs::create_dir(&inner).expect("a folder");
    let moved = Case { weights: inner.join("weights"), ..case };
    fs::rename(moved.folder.join("weights"), &moved.weights).expect("moved");
    with_mode(&inner, 0o600);
    report.add(
        "a parent that may not be entered",
        refused(&moved, &moved.weights, &["cannot read its metadata: Permission denied"]),
    );
    with_mode(&inner, 0o755);
}

/// Row W23.
#[test]
fn w23_reports_io_errors() {
    let mut report = Report::new("W23");
    // A regular file whose every read fails is not even tried: the memory of the process. Reads that fail are in
    // `any_fault_of_a_call.rs`.
    for name in ["config.json", "vocab.txt"] {
        let case = Case::new();
        let path = case.weights.join(name);
        fs::write(&path, "").expect("written");
        replaced(&path, |path| symlink("/proc/self/mem", path).expect("linked"));
        report.add(name, case.refused(&path, &["leads out of the folder, to /proc/", "copy it there"]));
    }
    // One that ends before its length.
    let short = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if fs::metadata(short).is_ok_and(|metadata| metadata.len() == 4096) {
        let outcome = spoiled(NORM, &["cannot read: the file ends before its length"], |path| {
            replaced(path, |path| symlink(short, path).expect("linked"));
        });
        report.add("shorter than its length", outcome);
    } else {
        skipped(format_args!("W23: no {}", short.display()));
    }
}

/// Row W27: hard links.
#[test]
fn w27_hard_links_give_the_same_bytes() {
    let mut report = Report::new("W27");
    let case = Case::new();
    let linked = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight", O_PROJ];
    for tensor in &linked[1..] {
        fs::copy(case.file(linked[0]), case.file(tensor)).expect("copied");
    }
    fs::copy(case.file(EMBEDDING), case.file(HEAD)).expect("copied");
    report.add("copies", case.packed(&[]));
    let copies = fs::read(&case.model).expect("a model");
    for tensor in &linked[1..] {
        replaced(&case.file(tensor), |path| fs::hard_link(case.file(linked[0]), path).expect("linked"));
    }
    replaced(&case.file(HEAD), |path| fs::hard_link(case.file(EMBEDDING), path).expect("linked"));
    report.add("hard links", case.packed(&[]));
    report.holds("bytes", fs::read(&case.model).expect("a model") == copies, "differ");
    let outside = Refusal::one_line("olmo-pack", format!("{}: ", case.model.display()), &[]);
    // The old model as one of the inputs must survive.
    replaced(&case.model, |path| fs::hard_link(case.file(NORM), path).expect("linked"));
    report.add("the model itself", outside.check(case.folder.path(), || case.pack(&case.weights, &[])));
}
