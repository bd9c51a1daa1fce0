//! `CATALOGUE.md` is made from the tests. `OLMO_BLESS=1 cargo test --workspace --test documents catalogue` writes it again.
//!
//! The doc comment of a test names its rows, a paragraph for each:
//!
//! * `Row W2: missing tensors.` The first test of a row, which states the input.
//! * `Row W2.` or `Row W2, many of them.` Another test of the row, and what it adds.
//! * `Row W.` A test of a group that belongs to no row.
//! * `Note on W2: ...` A remark about the row.
//!
//! A row without a test is in the head of the file of its group: `Row W28 cannot occur: why.`

use olmo_tests::repository;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "tests/CATALOGUE.md";
/// The least number of tests that the rows name; most try many variants.
const MIN_TESTS: usize = 150;

/// A group of rows: all rows with its letter.
struct Group {
    letter: char,
    n_rows: usize,
    title: &'static str,
    /// The file or folder of its tests.
    tests: &'static str,
}

const GROUPS: [Group; 7] = [
    Group { letter: 'W', n_rows: 29, title: "Weights folders", tests: "tests/catalogue/folders" },
    Group { letter: 'S', n_rows: 16, title: "Safetensors checkpoints", tests: "tests/catalogue/safetensors" },
    Group { letter: 'G', n_rows: 12, title: "GGUF files", tests: "tests/catalogue/gguf" },
    Group { letter: 'O', n_rows: 30, title: "Model files", tests: "tests/catalogue/model_files" },
    Group { letter: 'T', n_rows: 10, title: "Tokens", tests: "tests/catalogue/tokens.rs" },
    Group { letter: 'E', n_rows: 20, title: "Arguments and environment", tests: "tests/catalogue/environment" },
    Group { letter: 'X', n_rows: 9, title: "Text", tests: "tests/catalogue/text.rs" },
];

impl Group {
    fn rows(&self) -> impl Iterator<Item = String> {
        (1..=self.n_rows).map(|number| format!("{}{number}", self.letter))
    }

    /// The file whose head describes the group.
    fn head(&self) -> PathBuf {
        let path = repository().join(self.tests);
        if path.is_dir() { path.join("mod.rs") } else { path }
    }
}

/// A test with a doc comment.
#[derive(Clone)]
struct Test {
    file: String,
    name: String,
    paragraphs: Vec<String>,
}

/// What is known of a row.
#[derive(Default)]
struct Row {
    inputs: Vec<String>,
    /// Tests, and what each adds.
    tests: Vec<(Test, String)>,
    notes: Vec<String>,
}

/// The paragraphs of a doc comment, its markers removed.
fn paragraphs(comment: &[&str]) -> Vec<String> {
    let paragraphs = comment.split(|line| line.is_empty());
    paragraphs.map(|lines| lines.join(" ")).filter(|paragraph| !paragraph.is_empty()).collect()
}

/// The lines of the head of a file.
fn head(source: &str) -> Vec<&str> {
    source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim_start).collect()
}

/// The tests of a source file in its order.
fn tests_of(file: &str, source: &str) -> Vec<Test> {
    let (mut tests, mut comment, mut is_test) = (Vec::new(), Vec::new(), false);
    for line in source.lines().map(str::trim_start) {
        if let Some(doc) = line.strip_prefix("///") {
            comment.push(doc.trim_start());
        } else if line == "#[test]" {
            is_test = true;
        } else if !line.starts_with("#[") {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split_once("()")).map(|(name, _)| name);
            if let (true, Some(name)) = (is_test, name) {
                tests.push(Test { file: file.into(), name: name.into(), paragraphs: paragraphs(&comment) });
            }
            (comment, is_test) = (Vec::new(), false);
        }
    }
    tests
}

/// Adds the tests of all source files below `folder`, those of a file in its order, those of a folder by name.
fn collect(folder: &Path, tests: &mut Vec<Test>) {
    let entries = fs::read_dir(folder).expect("a folder of sources");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(repository()).expect("inside").display().to_string();
            tests.extend(tests_of(&file, &fs::read_to_string(&path).expect("a source file")));
        }
    }
}

fn all_tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for folder in ["tests", "converter/src", "runtime/src"] {
        collect(&repository().join(folder), &mut tests);
    }
    tests
}

/// The row, or the letter, that a paragraph names, and the rest of it: `W2` and `: missing tensors.`.
fn named<'a>(paragraph: &'a str, marker: &str) -> Option<(&'a str, &'a str)> {
    let rest = paragraph.strip_prefix(marker)?;
    let end = rest.find([':', ',', '.', ' ']).filter(|&end| end > 0)?;
    let (id, rest) = rest.split_at(end);
    let is_id = GROUPS.iter().any(|group| id.starts_with(group.letter)) && id[1..].bytes().all(|b| b.is_ascii_digit());
    is_id.then_some((id, rest))
}

/// All rows by name, and further tests of groups by letter.
fn rows(tests: &[Test]) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for test in tests {
        for paragraph in &test.paragraphs {
            if let Some((id, rest)) = named(paragraph, "Note on ") {
                let note = rest.strip_prefix(": ").unwrap_or_else(|| panic!("{}: {paragraph}", test.name));
                rows.entry(id.into()).or_default().notes.push(note.into());
            } else if let Some((id, rest)) = named(paragraph, "Row ") {
                let row = rows.entry(id.into()).or_default();
                let rest = rest.strip_suffix('.').unwrap_or_else(|| panic!("{}: {paragraph}: no full stop", test.name));
                let adds = match (rest.strip_prefix(": "), rest.strip_prefix(", ")) {
                    (Some(input), _) => {
                        row.inputs.push(input.into());
                        ""
                    }
                    (None, Some(adds)) => adds,
                    (None, None) if rest.is_empty() => "",
                    _ => panic!("{}: {paragraph}", test.name),
                };
                row.tests.push((test.clone(), adds.into()));
            }
        }
    }
    for group in &GROUPS {
        for paragraph in paragraphs(&head(&fs::read_to_string(group.head()).expect("a source file"))) {
            if let Some((id, why)) = named(&paragraph, "Row ") {
                let why = why.strip_prefix(" cannot occur: ").unwrap_or_else(|| panic!("{paragraph}"));
                rows.entry(id.into()).or_default().notes.push(format!("Cannot occur: {why}"));
            }
        }
    }
    rows
}

/// The document.
fn document(tests: &[Test]) -> String {
    let mut text = String::from(
        "# The catalogue of bad inputs and its tests\n\n\
         Made from the doc comments of the tests. To write it again:\n\n    \
         OLMO_BLESS=1 cargo test --workspace --test documents catalogue\n",
    );
    let rows = rows(tests);
    for group in &GROUPS {
        let source = fs::read_to_string(group.head()).expect("a source file");
        let head: Vec<&str> = head(&source).into_iter().filter(|line| !line.starts_with("Row ")).collect();
        let title = group.title;
        write!(text, "\n## {title} ({})\n\n{}\n\n", group.letter, head.join("\n")).expect("memory");
        writeln!(text, "Tests are in `{}` unless another file is named.\n", group.tests).expect("memory");
        text += "| row | input | tests | notes |\n|---|---|---|---|\n";
        let shown = |(test, adds): &(Test, String)| {
            let place = if test.file.starts_with(group.tests) { String::new() } else { format!(" in `{}`", test.file) };
            let adds = if adds.is_empty() { String::new() } else { format!(" ({adds})") };
            format!("`{}`{place}{adds}", test.name)
        };
        for id in group.rows() {
            let row = rows.get(&id).unwrap_or_else(|| panic!("{id} has neither a test nor a reason"));
            let tests: Vec<String> = row.tests.iter().map(shown).collect();
            let input = row.inputs.join("; ").replace('|', "\\|");
            let cells = [id, input, tests.join(", "), row.notes.join(" ")];
            writeln!(text, "| {} |", cells.join(" | ").replace("|  |", "| |").trim_end()).expect("memory");
        }
        if let Some(row) = rows.get(&group.letter.to_string()) {
            let tests: Vec<String> = row.tests.iter().map(shown).collect();
            writeln!(text, "\nWithout a row: {}.", tests.join(", ")).expect("memory");
        }
    }
    text
}

#[test]
fn matches_the_doc_comments_of_the_tests() {
    let path = repository().join(DOCUMENT);
    let expected = document(&all_tests());
    if env::var_os("OLMO_BLESS").is_some() {
        fs::write(&path, expected).expect("written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "see the head of this file");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "see the head of this file");
}

#[test]
fn every_row_has_an_input_and_a_test_or_cannot_occur() {
    let rows = rows(&all_tests());
    let mut expected: BTreeSet<String> = GROUPS.iter().flat_map(Group::rows).collect();
    expected.extend(GROUPS.iter().map(|group| group.letter.to_string()));
    for (id, row) in &rows {
        assert!(expected.contains(id), "row {id} is not in the catalogue");
        if id.len() > 1 && !row.notes.iter().any(|note| note.starts_with("Cannot occur: ")) {
            assert_eq!(row.inputs.len(), 1, "{id} has another number of inputs: {:?}", row.inputs);
            assert!(!row.tests.is_empty(), "{id} has no test");
        }
    }
    for id in GROUPS.iter().flat_map(Group::rows) {
        assert!(rows.contains_key(&id), "{id} has neither a test nor a reason");
    }
}

#[test]
fn rows_name_the_least_number_of_tests() {
    let rows = rows(&all_tests());
    let tests = rows.values().flat_map(|row| &row.tests);
    let named: BTreeSet<(&str, &str)> = tests.map(|(test, _)| (test.file.as_str(), test.name.as_str())).collect();
    assert!(named.len() >= MIN_TESTS, "{} tests", named.len());
}

#[test]
fn every_prefixed_test_names_its_row() {
    let mut n_prefixed = 0;
    for test in all_tests() {
        let Some((prefix, _)) = test.name.split_once('_') else { continue };
        let id = prefix.to_uppercase();
        if GROUPS.iter().flat_map(Group::rows).any(|row| row == id) {
            let names = |paragraph: &String| named(paragraph, "Row ").is_some_and(|(row, _)| row == id);
            assert!(test.paragraphs.iter().any(names), "{} in {} does not name row {id}", test.name, test.file);
            n_prefixed += 1;
        }
    }
    assert!(n_prefixed >= MIN_TESTS - 20, "{n_prefixed} tests with the prefix of a row");
}

#[test]
fn every_test_of_a_group_names_a_row_or_the_group() {
    for test in all_tests() {
        if let Some(group) = GROUPS.iter().find(|group| test.file.starts_with(group.tests)) {
            let names =
                |paragraph: &String| named(paragraph, "Row ").is_some_and(|(id, _)| id.starts_with(group.letter));
            assert!(test.paragraphs.iter().any(names), "{} in {} names no row", test.name, test.file);
        }
    }
}

#[test]
fn finds_tests_with_their_doc_comments() {
    let source = "/// Row W1: one\n/// line.\n///\n/// Note on W1: why.\n#[test]\n#[ignore]\nfn first() {}\n\n/// Row W2.\nfn none() {}\n\
                  #[test]\nfn second() {}\n";
    let tests = tests_of("a.rs", source);
    let found: Vec<(&str, usize)> = tests.iter().map(|test| (test.name.as_str(), test.paragraphs.len())).collect();
    assert_eq!(found, [("first", 2), ("second", 0)]);
    assert_eq!(tests[0].paragraphs, ["Row W1: one line.", "Note on W1: why."]);
    assert_eq!(named("Row W12, more.", "Row "), Some(("W12", ", more.")));
    assert_eq!(named("Rows are long.", "Row "), None);
}
