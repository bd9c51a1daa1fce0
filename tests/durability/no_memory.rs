//! A failed allocation ends a program with one line. `make torture` tries every allocation; here some of each command
//! fail.

use crate::{INFER, PACK};
use olmo_tests::chats::{MARKED, demo_chat};
use olmo_tests::commands::{PACKING, Places, READING};
use olmo_tests::no_memory::{WithoutMemory, library};
use olmo_tests::{TempDir, skipped};

/// Allocations of each command that fail.
const TRIES: u64 = 40;

#[test]
fn failed_allocation_is_one_line_in_every_command() {
    let folder = TempDir::in_memory("no-memory");
    let Some(library) = library(&folder) else { return skipped("another malloc than that of glibc") };
    let model = demo_chat(PACK, &folder, MARKED);
    let places = Places::new([PACK, INFER], &folder, &model);
    let mut failed = Vec::new();
    for command in READING.into_iter().chain([PACKING]) {
        let without = WithoutMemory::new(command, &places, library.to_str().expect("UTF-8"));
        let n = without.n_allocations;
        assert!(n > 50, "{}: {n} allocations", command.name);
        for i in 1..=TRIES.min(n) {
            // The first ones are those before and at the beginning of main; the others are spread.
            let number = if i <= TRIES / 4 { i } else { n * i / TRIES };
            failed.extend(without.fails_at(number, i % 2 == 0).err());
        }
    }
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
}
