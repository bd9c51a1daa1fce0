//! Rows G5 and G6: where tensors are, and how much of the file is there.

use super::{Case, changed, refused};
use olmo_tests::catalogue::Report;
use olmo_tests::gguf::Meta;
use std::fs::{self, File};

/// Row G5: data that overlap, leave gaps or are not aligned; impossible alignments.
#[test]
fn g5_refuses_overlaps_gaps_and_alignments() {
    let mut report = Report::new("G5");
    let name = "output_norm.weight";
    for offset in [0, 1, 31, 32, 64, 1 << 40, u64::MAX, u64::MAX - 31, 1 << 63] {
        let words = ["data at ", "where those before it end", "; download it again"];
        report.add(offset, refused(&words, |gguf| gguf.tensor(name).offset = Some(offset)));
    }
    for value in [Meta::U32(0), Meta::U32(1), Meta::U32(4), Meta::U32(24), Meta::U32(33), Meta::U32(1 << 21)] {
        let words = ["general.alignment: ", "expected a power of two from 8 to 1048576"];
        report.add(format!("{value:?}"), refused(&words, |gguf| gguf.set("general.alignment", value)));
    }
    for value in [Meta::I32(-32), Meta::U64(u64::MAX), Meta::from("32"), Meta::Bool(true), Meta::F32(32.0)] {
        let words = ["general.alignment: ", "expected a power of two from 8 to 1048576"];
        report.add(format!("{value:?}"), refused(&words, |gguf| gguf.set("general.alignment", value)));
    }
    // Another one than the data have.
    report.add("64 for 32", refused(&["expected data at "], |gguf| gguf.set("general.alignment", Meta::U32(64))));
    for alignment in [8, 64, 4096] {
        let case = changed(|gguf| {
            gguf.set("general.alignment", Meta::U32(alignment));
            gguf.alignment = alignment as usize;
        });
        report.add(format_args!("aligned at {alignment}"), case.packed().map(drop));
    }
}

/// Row G6: partial downloads, bytes after the last tensor.
#[test]
fn g6_refuses_truncated_or_too_long_files() {
    let mut report = Report::new("G6");
    let case = Case::new();
    let (whole, header) = (case.gguf.bytes(), case.gguf.header().len());
    for length in [32, 100, header / 2, header - 1, header, header + 1, whole.len() / 2, whole.len() - 40] {
        let words = [&format!(" of {length} bytes, expected a whole file"), "; download it again"];
        let words = words.map(|word: &str| word);
        let found = case.bytes_refused(&whole[..length], &words);
        let found = found.or_else(|_| case.bytes_refused(&whole[..length], &["of a file of", words[1]]));
        report.add(length, found);
    }
    for extra in [1, 32, 4096] {
        let bytes = [whole.clone(), vec![0; extra]].concat();
        let words = ["bytes after the last tensor, expected the end of the file"];
        report.add(format_args!("{extra} more"), case.bytes_refused(&bytes, &words));
    }
    File::options().write(true).open(&case.file).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    report.add("a sparse terabyte", case.refused(&["bytes after the last tensor"]));
    // The bytes that align the last tensor may be missing.
    let used: usize = whole.iter().rposition(|byte| *byte != 0).expect("numbers") + 1;
    fs::write(&case.file, &whole[..used.next_multiple_of(4)]).expect("written");
    report.add("not filled up", case.packed().map(drop));
}
