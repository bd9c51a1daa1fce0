//! `CATALOGUE.md` has every row of the catalogue, and every test that they name exists.

use olmo_tests::repository;
use std::collections::BTreeSet;
use std::fs;

/// The letter of each group of rows, the number of its rows, and the file or folder of its tests.
const GROUPS: [(char, usize, &str); 6] = [
    ('W', 27, "catalogue_folders"),
    ('S', 16, "catalogue_safetensors"),
    ('O', 28, "catalogue_model_files"),
    ('T', 10, "catalogue_tokens.rs"),
    ('E', 20, "catalogue_environment"),
    ('X', 8, "catalogue_text.rs"),
];

/// All code in a folder, or in a file.
fn code(path: &str) -> String {
    let path = repository().join(path);
    if path.is_file() {
        return fs::read_to_string(path).expect("a source");
    }
    let files = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    let sources = files.filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    sources.map(|source| fs::read_to_string(source).expect("a source")).collect()
}

/// All code of the tests that the table may name.
fn sources() -> String {
    let groups = GROUPS.map(|(.., tests)| code(&format!("tests/{tests}")));
    groups.into_iter().chain(["tests", "converter/src", "runtime/src"].map(code)).collect()
}

/// The cells of the table's lines whose row begins with this letter.
fn rows(letter: char) -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join("tests/CATALOGUE.md")).expect("the table");
    let cells = text.lines().filter_map(|line| {
        let (row, cells) = line.strip_prefix("| ")?.split_once(" | ")?;
        Some((row.to_string(), cells.rsplit_once(" | ")?.1.to_string()))
    });
    cells.filter(|(row, _)| row.strip_prefix(letter).is_some_and(|number| number.parse::<u32>().is_ok())).collect()
}

/// The words in back quotes that can only be names of tests.
fn tests(cell: &str) -> Vec<&str> {
    let is_name = |word: &&str| word.contains('_') && word.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    cell.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn lists_every_row_in_order() {
    for (letter, n, _) in GROUPS {
        let found: Vec<String> = rows(letter).into_iter().map(|(row, _)| row).collect();
        let expected: Vec<String> = (1..=n).map(|number| format!("{letter}{number}")).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn every_row_has_tests() {
    let sources = sources();
    for (row, cell) in GROUPS.into_iter().flat_map(|(letter, ..)| rows(letter)) {
        let tests = tests(&cell);
        assert!(!tests.is_empty(), "{row} names no test");
        for test in tests {
            assert!(sources.contains(&format!("#[test]\nfn {test}()")), "{row} names {test}, which does not exist");
        }
    }
}

/// The least number of cases of the catalogue, of which most tests try many.
const MIN_TESTS: usize = 150;

#[test]
fn rows_name_the_least_number_of_tests() {
    let cells: Vec<String> = GROUPS.into_iter().flat_map(|(letter, ..)| rows(letter)).map(|(_, cell)| cell).collect();
    let named: BTreeSet<&str> = cells.iter().flat_map(|cell| tests(cell)).collect();
    assert!(named.len() >= MIN_TESTS, "{} tests", named.len());
}

#[test]
fn every_prefixed_test_is_listed_in_its_row() {
    for (letter, _, place) in GROUPS {
        let source = code(&format!("tests/{place}"));
        let rows = rows(letter);
        for name in source.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name) {
            let Some((row, _)) = name.split_once('_').filter(|(row, _)| row[1..].parse::<u32>().is_ok()) else {
                continue;
            };
            let (_, cell) = rows.iter().find(|(id, _)| *id == row.to_uppercase()).expect("a row");
            assert!(tests(cell).contains(&name), "{row} does not name {name}");
        }
    }
}
