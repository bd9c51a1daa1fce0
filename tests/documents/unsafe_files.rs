//! `unsafe` is only in the files that SECURITY.md lists, and in tests only in those that this file lists. A file that
//! allows it counts as well: a macro may expand to it.

use olmo_tests::repository;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Whether the code contains the word or allows it, comments left out. No string in our sources has `//` before it on
/// a line.
fn has_unsafe(source: &str) -> bool {
    let mut code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.any(|line| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let is_allowed = ["allow(", "expect("].iter().any(|level| line.contains(&format!("{level}unsafe_code")));
        is_allowed || words.any(|word| word == "unsafe")
    })
}

/// Adds every source file below `folder` that has some.
fn find_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && has_unsafe(&fs::read_to_string(&path).expect("a source file"))
        {
            found.insert(path.strip_prefix(repository()).expect("inside").display().to_string());
        }
    }
}

/// Files of tests and tools that need it. No other file of tests and tools may have any.
const IN_TESTS: [&str; 6] = [
    // A floating-point mode that no safe code can set.
    "tests/catalogue/environment/processors.rs",
    // An allocator that counts and fails.
    "tests/library/allocator.rs",
    // A forked process, which the standard library does not offer.
    "tests/library/threads.rs",
    // A malloc that fails.
    "tests/programs/no_memory.rs",
    // What the system reports of a child that has ended.
    "tests/programs/peak_memory.rs",
    // A mapping of a file that others have mapped.
    "tests/support/neighbour.rs",
];

#[test]
fn security_md_lists_every_file_with_unsafe() {
    let mut found = BTreeSet::new();
    find_below(&repository().join("runtime/src"), &mut found);
    find_below(&repository().join("converter/src"), &mut found);
    find_below(&repository().join("python/src"), &mut found);
    let document = fs::read_to_string(repository().join("SECURITY.md")).expect("SECURITY.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let stated: BTreeSet<String> =
        rows.map(|(file, _)| file.to_string()).filter(|file| file.ends_with(".rs")).collect();
    assert_eq!(found, stated);
}

#[test]
fn tests_use_unsafe_only_where_listed() {
    let mut found = BTreeSet::new();
    for folder in ["tests", "fuzz/fuzz_targets"] {
        find_below(&repository().join(folder), &mut found);
    }
    // The word itself, in texts.
    found.remove(file!());
    assert_eq!(found, IN_TESTS.map(String::from).into());
}

#[test]
fn search_ignores_comments_and_longer_words() {
    assert!(!has_unsafe("x // unsafe\n#![deny(unsafe_code)]\n/// unsafe\n// #[allow(unsafe_code)]"));
    assert!(has_unsafe("unsafe { x } // reason") && has_unsafe("a\nunsafe fn f() {}"));
}

#[test]
fn search_finds_files_that_allow_unsafe() {
    assert!(has_unsafe("#![allow(unsafe_code, reason = \"a macro\")]\nself_cell! {}"));
    assert!(has_unsafe("#[allow(unsafe_code)]") && has_unsafe("#![expect(unsafe_code)]"));
}
