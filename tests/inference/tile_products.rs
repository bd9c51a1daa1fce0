//! The emulation of AMX against products that a processor computed.

use olmo_infer::internals::kernels::tile_product::tile_product;
use olmo_tests::{repository, skipped};
use std::fs;
use std::path::Path;

/// Bytes of a record: A, B, and C before and after.
const RECORD: usize = 4096;

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

/// Compares every product of a file, whole and by some of its rows and columns.
fn assert_products(path: &Path, n_records: usize) {
    let bytes = fs::read(path).expect("products");
    let (records, rest) = bytes.as_chunks::<RECORD>();
    assert!(rest.is_empty() && records.len() == n_records);
    for (number, record) in records.iter().enumerate() {
        let parts: Vec<Vec<u32>> = record.chunks(RECORD / 4).map(words).collect();
        let [a, b, before, after] = &parts[..] else { unreachable!("four parts") };
        let mut c = before.clone();
        tile_product(16, a, b, &mut c);
        assert_eq!(&c, after, "record {number}");
        // Three rows, and the last five columns.
        let columns = |words: &[u32]| words.chunks(16).flat_map(|row| &row[11..]).copied().collect::<Vec<_>>();
        let mut c = columns(&before[..48]);
        tile_product(16, &a[..48], &columns(b), &mut c);
        assert_eq!(c, columns(&after[..48]), "part of record {number}");
    }
}

#[test]
fn the_emulation_equals_recorded_products() {
    assert_products(&repository().join("tests/tile_products/emerald_rapids.bin"), 9);
}

#[test]
fn the_emulation_equals_more_recorded_products() {
    let path = repository().join("../shared/data/tdpbf16ps.vectors.bin");
    if !path.exists() {
        return skipped(format_args!("{} is not there", path.display()));
    }
    assert_products(&path, 72);
}
