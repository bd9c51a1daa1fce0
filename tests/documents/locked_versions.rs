//! Versions below which a dependency had a hole, or was withdrawn, must not come back into Cargo.lock.

use olmo_tests::repository;
use std::fs;

/// The names and versions in a lock file.
fn packages(lock: &str) -> Vec<(String, String)> {
    let lock = fs::read_to_string(repository().join(lock)).expect("a lock file");
    let package = |package: &str| {
        let value =
            |key: &str| package.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_end_matches('"').into()));
        Some((value("name = \"")?, value("version = \"")?))
    };
    lock.split("[[package]]").filter_map(package).collect()
}

/// The versions of a crate in Cargo.lock, as numbers.
fn locked(name: &str) -> Vec<[u64; 3]> {
    let mut versions = Vec::new();
    for (package, version) in packages("Cargo.lock") {
        if package == name {
            let numbers: Vec<u64> = version.split(['.', '-', '+']).take(3).filter_map(|n| n.parse().ok()).collect();
            versions.push(numbers.try_into().expect("three numbers"));
        }
    }
    versions
}

#[test]
fn locks_no_vulnerable_version() {
    for (name, least, why) in [
        ("memmap2", [0, 9, 11], "advise_range and flush_range were not checked (RUSTSEC-2026-0186)"),
        ("zerocopy", [0, 8, 0], "0.7.30 and older were withdrawn (RUSTSEC-2023-0074)"),
        ("npyz", [0, 9, 1], "the version whose behaviour npy.rs was written against"),
        ("safetensors", [0, 4, 0], "the first one whose TensorInfo is what safetensors_header.rs takes it for"),
        ("argh", [0, 1, 19], "the version whose exit codes args.rs was written against"),
    ] {
        let versions = locked(name);
        assert!(!versions.is_empty(), "{name} is not in Cargo.lock");
        assert!(versions.iter().all(|version| *version >= least), "{name} {versions:?}: {why}");
    }
}

#[test]
fn other_workspaces_lock_the_same_versions() {
    let all = packages("Cargo.lock");
    // The fuzzing engine, the bindings of Python and numpy, and what they need are of the one only.
    let of_python = [
        "olmo-infer-python",
        "numpy",
        "ndarray",
        "matrixmultiply",
        "rawpointer",
        "rustc-hash",
        "pyo3",
        "pyo3-build-config",
        "pyo3-ffi",
        "pyo3-macros",
        "pyo3-macros-backend",
        "target-lexicon",
    ];
    for (folder, own) in [
        ("tests/dependent", &["dependent"][..]),
        ("fuzz", &["olmo-fuzz", "libfuzzer-sys", "arbitrary", "jobserver"]),
        ("python", &of_python),
    ] {
        let its = packages(&format!("{folder}/Cargo.lock"));
        assert!(its.len() > 20);
        for package in its.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
            assert!(all.contains(package), "{package:?} is not in Cargo.lock; copy it to {folder}/ and build there");
        }
    }
}
