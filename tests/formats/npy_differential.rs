//! The reader of `.npy` files and numpy's read the same, on files that `scripts/npy_differential.py` makes up.
//!
//! The long run of the script with numpy 2.2.6, 1,000,000 files (seed 2026): both readers read 350,044 with the same shape
//! and weights, both refused 476,720; ours alone refused 173,236, each by a rule that the script finds from the file
//! itself, 0 without one; ours alone read 0. It takes five minutes on one core. This test compares 20,000.
//!
//! Needs a Python with numpy: `.venv/bin/python`, or the one that `OLMO_PYTHON` names. Without it the test reports that it
//! was skipped.

use olmo_tests::{finish, python, repository};
use std::process::Command;

const JUDGE: &str = env!("CARGO_BIN_EXE_npy-judge");
const FILES: usize = 20_000;

/// How often the script saw something.
fn count(said: &str, what: &str) -> usize {
    let line = said.lines().find_map(|line| line.trim_start().split_once(' ').filter(|(_, words)| *words == what));
    line.map_or(0, |(count, _)| count.parse().expect("a number"))
}

#[test]
fn every_difference_from_numpy_is_a_documented_rule() {
    let Some(python) = python("scripts/npy_differential.py", "numpy") else { return };
    let mut script = Command::new(python);
    script.arg("-B").arg(repository().join("scripts/npy_differential.py")).arg(JUDGE);
    let finished = finish(script.args(["--files", &FILES.to_string()]));
    let said = finished.ok();
    assert!(said.starts_with(&format!("{FILES} files")) && said.contains(": 0 differences\n"), "{said}");
    // All kinds of files were made.
    let kinds = [
        ("read by both, and the same", FILES / 5),
        ("refused by both", FILES / 5),
        ("refused by us: no dimension", 10),
        ("refused by us: a dimension of 0", 10),
        ("refused by us: an element type that is not accepted", 10),
        ("refused by us: Fortran order of more than a vector", 10),
        ("refused by us: bytes behind the data", 10),
        ("refused by us: bytes other than printable ASCII", 10),
        ("refused by us: a key twice", 10),
        ("refused by us: L after a number", 1),
        ("refused by us: separators between digits", 1),
    ];
    for (kind, least) in kinds {
        assert!(count(said, kind) >= least, "{kind}:\n{said}");
    }
}
