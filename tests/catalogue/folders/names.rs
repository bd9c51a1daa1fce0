//! Rows W20 and W21: names of files and folders.

use super::{Case, NORM};
use crate::PACK;
use olmo_tests::catalogue::{Refusal, Report, command};
use olmo_tests::{finish, skipped};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// Row W20: duplicate names.
///
/// Note on W20: Two files for one tensor cannot occur: the name of a file is the name of its tensor. Names that differ
/// by case or Unicode normalization are one file where the file system takes them for the same name; where it does not,
/// one of them names no tensor: all names of tensors are ASCII.
#[test]
fn w20_refuses_duplicate_names() {
    let mut report = Report::new("W20");
    // On a file system that distinguishes cases and normal forms these names belong to no tensor.
    let twins = [
        "MODEL.NORM.WEIGHT",
        "model.norm.Weight",
        "model.norm.weight ",
        "mod\u{e8}l.norm.weight",
        "mode\u{300}l.norm.weight",
        "\u{ff4d}odel.norm.weight",
        "model.norm\u{200b}.weight",
    ];
    for twin in twins {
        let case = Case::new();
        if case.file(twin).exists() {
            skipped(format_args!("{twin:?} is the same file here"));
            continue;
        }
        fs::copy(case.file(NORM), case.file(twin)).expect("copied");
        report.add(twin, case.refused(case.file(twin), &["not a parameter of this model", "--allow-extra"]));
    }
    let case = Case::new();
    for twin in ["e\u{301}", "\u{e9}"] {
        fs::copy(case.file(NORM), case.file(twin)).expect("copied");
    }
    let line = |twin: &str| vec![format!("{}: not a parameter", case.file(twin).display())];
    let lines = vec![line("e\u{301}"), line("\u{e9}")];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: 0 };
    report.add("both normal forms", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
}

/// Row W21: names with spaces, control characters, bytes that are not UTF-8, `-rf`, 255 bytes.
#[test]
fn w21_handles_unusual_file_names() {
    let mut report = Report::new("W21");
    let long = [b"x".repeat(251).as_slice(), b".npy"].concat();
    let names: [(&[u8], &str); 8] = [
        (b"a b.npy", "a b.npy"),
        (b"a\nb.npy", "a\\nb.npy"),
        (b"a\x1b[31mb.npy", "a\\u{1b}[31mb.npy"),
        (b"\xff.npy", "\\xff.npy"),
        (b"a\xffb\xc3.npy", "a\\xffb\\xc3.npy"),
        (b"-rf.npy", "-rf.npy"),
        ("\u{85}\u{7f}.npy".as_bytes(), "\\u{85}\\u{7f}.npy"),
        (&long, "xxx.npy"),
    ];
    for (name, shown) in names {
        let case = Case::new();
        fs::write(case.weights.join(OsStr::from_bytes(name)), "x").expect("written");
        let begins = format!("{}/{}", case.weights.display(), &shown[..shown.len().min(3)]);
        report.add(shown, case.refusal(begins, &[shown, "not a parameter of this model", "--allow-extra"], &[]));
        report.add(format_args!("{shown} allowed"), case.packed(&["--allow-extra"]));
    }
}

/// Row W21.
#[test]
fn w21_handles_unusual_folder_names() {
    let mut report = Report::new("W21");
    let long = "x".repeat(255);
    for name in ["a b", "a\nb", "\u{1b}[31m", "-rf", "--force", "\u{e9}", "'\"$(true)", &long] {
        let case = Case::new();
        let weights = case.folder.join(name);
        fs::rename(&case.weights, &weights).expect("renamed");
        let finished = finish(&mut case.pack(&weights, &[]));
        report.holds(format_args!("{name:?}"), finished.code == Some(0), finished.stderr);
        if name.starts_with('-') {
            let mut behind = command(PACK);
            behind.current_dir(case.folder.path()).args(["--force", "--", name, "out/m.olmo"]);
            let finished = finish(&mut behind);
            report.holds(format_args!("{name:?} behind --"), finished.code == Some(0), finished.stderr);
        }
        fs::write(&case.model, "old").expect("written");
        fs::remove_file(weights.join("lm_head.weight.npy")).expect("removed");
        let shown = weights.display().to_string().replace('\n', "\\n").replace('\u{1b}', "\\u{1b}");
        let refusal = Refusal::one_line("olmo-pack", format!("{shown}/lm_head.weight.npy: missing"), &[]);
        report.add(
            format_args!("{name:?} without a head"),
            refusal.check(case.folder.path(), || case.pack(&weights, &[])),
        );
    }
    let case = Case::new();
    let weights = case.folder.join(OsStr::from_bytes(b"\xff"));
    fs::rename(&case.weights, &weights).expect("renamed");
    let line = vec!["an argument is not UTF-8".to_string(), "rename the file or give another path to it".to_string()];
    let refusal = Refusal { program: "olmo-pack", status: 2, lines: vec![line], more: 0 };
    report.add("not UTF-8", refusal.check(case.folder.path(), || case.pack(&weights, &[])));
}
