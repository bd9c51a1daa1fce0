//! The library in another program, built without overflow checks: for any arguments its public functions return or
//! panic. The program is in `dependent/`, a workspace of its own.

use crate::PACK;
use olmo_tests::{TempDir, finish, repository, run};
use std::env;
use std::process::Command;

/// Groups of calls in `dependent/src/main.rs`.
const GROUPS: usize = 17;
/// About the calls on a machine with AVX2 only, which has the fewest instruction sets; fewer are not all.
const MIN_CALLS: usize = 800_000;

#[test]
fn every_public_function_returns_or_panics() {
    let (folder, target) = (TempDir::new("dependent"), repository().join("target/dependent"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Its own profile decides how it is built, not that of this test, and a jobserver of make may not be open.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"] {
        cargo.env_remove(variable);
    }
    cargo.args(["build", "--release", "--offline", "--locked", "--quiet"]).arg("--manifest-path");
    cargo.arg(repository().join("tests/dependent/Cargo.toml")).arg("--target-dir").arg(&target);
    let built = finish(&mut cargo);
    assert_eq!(built.code, Some(0), "{}", built.stderr);

    let model = folder.join("demo.olmo");
    run(PACK, [&repository().join("demo/weights"), &model]).ok();
    let mut program = Command::new("sh");
    program.args(["-c", "ulimit -c 0 && exec \"$0\" \"$1\""]).arg(target.join("release/dependent")).arg(&model);
    let finished = finish(&mut program);
    // A signal has no exit status; the last line names the calls that it came from.
    assert_eq!(finished.code, Some(0), "{}", finished.stdout);
    let counted: Vec<usize> = finished
        .stdout
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(_, counts)| counts.split(' ').filter_map(|word| word.parse::<usize>().ok()).sum())
        .collect();
    assert!(counted.len() == GROUPS && counted.iter().all(|&calls| calls > 50), "{}", finished.stdout);
    let all = counted.iter().sum::<usize>();
    assert!(finished.stdout.ends_with(&format!("{all} calls\n")) && all >= MIN_CALLS, "{}", finished.stdout);
}
