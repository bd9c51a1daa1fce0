//! `vocab.txt`, which has no row of its own.

use super::Case;
use olmo_tests::catalogue::Report;
use std::fs;

/// Row W.
#[test]
fn refuses_malformed_vocabulary_by_line() {
    let mut report = Report::new("vocab.txt");
    let texts: [(&[u8], &[&str]); 8] = [
        (b"0\ta\n1\n", &["line 2: no tab"]),
        (b"1125\ta\n", &["line 1: id 1125", "101 rows"]),
        (b"5\ta\n5\tb\n", &["line 2: id 5 again"]),
        (b"-1\ta\n", &["line 1: no token id"]),
        (b"99999999999999999999\ta\n", &["line 1: no token id"]),
        (b"0\t\xff\n", &["line 1: bytes that are not UTF-8"]),
        (b"0\t\\q\n", &["line 1: unknown escape"]),
        (b"", &["no tokens"]),
    ];
    for (text, words) in texts {
        let case = Case::new();
        let path = case.weights.join("vocab.txt");
        fs::write(&path, text).expect("written");
        report.add(text.escape_ascii(), case.refused(path, words));
    }
    let case = Case::new();
    let outcome =
        case.refusal("/nowhere/vocab.txt: cannot open: No such file", &[], &["--vocab", "/nowhere/vocab.txt"]);
    report.add("--vocab", outcome);
}
