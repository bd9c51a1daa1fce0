//! Versions below which a dependency had a hole, or was withdrawn, must not come back into Cargo.lock.

use olmo_tests::repository;
use std::fs;

/// The versions of a crate in Cargo.lock, as numbers.
fn locked(name: &str) -> Vec<[u64; 3]> {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).expect("Cargo.lock");
    let mut versions = Vec::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| package.lines().find_map(|line| line.strip_prefix(key)?.trim_end_matches('"').into());
        if value("name = \"") == Some(name) {
            let version = value("version = \"").expect("a version");
            let numbers: Vec<u64> = version.split(['.', '-', '+']).take(3).filter_map(|n| n.parse().ok()).collect();
            versions.push(numbers.try_into().expect("three numbers"));
        }
    }
    versions
}

#[test]
fn no_version_with_a_known_hole_is_locked() {
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
