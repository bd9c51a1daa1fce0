//! `unsafe` stands where SECURITY.md says, and as often; in tests where this file says.

use olmo_tests::repository;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// How often the word stands in code, comments left out. No text of ours holds `//` before it on a line.
fn count(source: &str) -> usize {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.filter(|word| *word == "unsafe").count()
}

/// Adds every source file below `folder` that has some.
fn count_below(folder: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            count_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let n = count(&fs::read_to_string(&path).expect("a source file"));
            if n > 0 {
                let name = path.strip_prefix(repository()).expect("inside").display().to_string();
                found.insert(name, n);
            }
        }
    }
}

#[test]
fn security_md_lists_every_file_with_unsafe() {
    let mut found = BTreeMap::new();
    count_below(&repository().join("runtime/src"), &mut found);
    count_below(&repository().join("converter/src"), &mut found);
    let document = fs::read_to_string(repository().join("SECURITY.md")).expect("SECURITY.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let stated: BTreeMap<String, usize> =
        rows.filter_map(|(file, rest)| Some((file.to_string(), rest.split(" |").next()?.parse().ok()?))).collect();
    assert_eq!(found, stated);
}

/// Where tests and tools need it, and how often. Nothing else of them may have any.
const IN_TESTS: &[(&str, usize)] = &[
    // Threads of a model of the barrier share what they compute.
    ("tests/barrier_model.rs", 8),
    // A mode of the processor that no safe code can set.
    ("tests/catalogue_environment/processors.rs", 2),
    // An allocator that counts.
    ("tests/infer_allocates_nothing.rs", 5),
    // An allocator that fails.
    ("tests/library_without_memory.rs", 7),
    // A mapping of a file that others have mapped.
    ("tests/support/neighbour.rs", 1),
    // A malloc that fails.
    ("tests/tools/no_memory.rs", 24),
    // A process that is forked off, which the standard library does not offer.
    ("tests/threads.rs", 4),
    // What the system tells of a child that has ended.
    ("tests/tools/peak_memory.rs", 3),
];

#[test]
fn tests_use_unsafe_only_where_listed() {
    let mut found = BTreeMap::new();
    for folder in ["tests", "fuzz/fuzz_targets"] {
        count_below(&repository().join(folder), &mut found);
    }
    // The word itself, in texts.
    found.remove(file!());
    let expected = IN_TESTS.iter().map(|&(file, n)| (file.to_string(), n));
    assert_eq!(found, expected.collect());
}

#[test]
fn search_ignores_comments_and_longer_words() {
    assert_eq!(count("unsafe { x } // unsafe\n#![allow(unsafe_code)]\n/// unsafe\nunsafe fn"), 2);
}
