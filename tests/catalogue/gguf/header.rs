//! Rows G1 to G4: versions, counts, malformed metadata, and headers that claim or hold a lot.

use super::{Case, changed, refused};
use olmo_tests::catalogue::Report;
use olmo_tests::gguf::{Gguf, Meta};
use std::fs::{self, File};

/// Row G1: versions, big-endian files, files of 4 to 31 bytes.
#[test]
fn g1_refuses_other_versions_and_byte_orders() {
    let mut report = Report::new("G1");
    for (version, words) in [
        (0, "version 0 of GGUF, expected version 3"),
        (1, "version 1 of GGUF, expected version 3"),
        (2, "version 2 of GGUF, expected version 3, which llama.cpp has written since 2023: get a newer file"),
        (4, "version 4 of GGUF"),
        (u32::MAX, "version 4294967295 of GGUF"),
        (3 << 24, "version 3 for big-endian machines, expected a little-endian GGUF file of this model"),
    ] {
        report.add(version, refused(&[words], |gguf| gguf.version = version));
    }
    let case = Case::new();
    let whole = case.gguf.bytes();
    for length in 4..32 {
        let words = [&format!("of {length} bytes, expected a whole file"), "; download it again"];
        let words = words.map(|word: &str| word);
        report.add(length, case.bytes_refused(&whole[..length], &words));
    }
    report.add("three bytes", case.bytes_refused(b"GGU", &["not a folder, expected a folder"]));
}

/// Row G2: numbers of keys and tensors that no model has, or that the file has not.
#[test]
fn g2_refuses_wrong_counts() {
    let mut report = Report::new("G2");
    let case = Case::new();
    for count in [4097, 1 << 20, 1 << 32, 1 << 63, u64::MAX] {
        for (at, what, most) in [(8, "tensors", 16_384), (16, "keys", 4096)] {
            let mut bytes = case.gguf.bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            // Some more tensors than there are: the next description is data.
            let says = format!("{count} {what}, expected at most {most}; download it again");
            if count > most {
                report.add(format_args!("{count} {what}"), case.bytes_refused(&bytes, &[&says]));
            }
        }
    }
    // One more or less: keys are read as tensors and the other way round.
    for (at, difference) in [(8, 1), (8, -1), (16, 1), (16, -1)] {
        let mut bytes = case.gguf.bytes();
        let count = u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"));
        bytes[at..at + 8].copy_from_slice(&count.wrapping_add_signed(difference).to_le_bytes());
        report.add(format_args!("{difference} at {at}"), case.bytes_refused(&bytes, &["expected "]));
    }
    report.add("no tensors", refused(&["no tensors, expected the weights of a model"], |gguf| gguf.tensors.clear()));
    report.add("no keys", refused(&["general.architecture: missing"], |gguf| gguf.keys.clear()));
}

fn text(length: u64, bytes: &[u8]) -> Meta {
    Meta::Raw(8, [&length.to_le_bytes()[..], bytes].concat())
}

fn list(kind: u32, length: u64, bytes: &[u8]) -> Meta {
    Meta::Raw(9, [&kind.to_le_bytes()[..], &length.to_le_bytes(), bytes].concat())
}

/// Row G3: malformed metadata: types, lengths, truth values, lists of lists, keys twice, text that is not UTF-8.
#[test]
fn g3_refuses_malformed_metadata() {
    let mut report = Report::new("G3");
    let huge = u64::MAX;
    let values: [(&str, Meta, &str); 14] = [
        ("type 13", Meta::Raw(13, vec![0; 8]), "a value of type 13, expected a type from 0 to 12"),
        ("type 2^32", Meta::Raw(u32::MAX, vec![]), "a value of type 4294967295"),
        ("true as 2", Meta::Raw(7, vec![2]), "a truth value of 2, expected 0 or 1"),
        ("endless text", text(huge, b""), "a text of 18446744073709551615 bytes, expected at most 4194304"),
        ("a long text", text((4 << 20) + 1, b""), "a text of 4194305 bytes"),
        ("a text beyond the file", text(1 << 20, b""), "1048576 bytes of the header at "),
        ("items of type 13", list(13, 0, b""), "a value of type 13"),
        ("lists", list(9, 1, &[0; 12]), "a list of lists, expected a list of numbers or texts"),
        ("no lists", list(9, 0, b""), "a list of lists"),
        ("2^64 numbers", list(4, huge, b""), "18446744073709551615 bytes of the header at "),
        ("2^62 numbers", list(4, 1 << 62, b""), "18446744073709551615 bytes of the header at "),
        ("2^64 texts", list(8, huge, b""), "expected "),
        ("2^64 truth values", list(7, huge, &[1; 100]), "expected "),
        ("a bad truth value", list(7, 2, &[1, 3]), "a truth value of 3"),
    ];
    for (name, value, says) in values {
        report.add(name, refused(&["extra: ", says, "; download it again"], |gguf| gguf.set("extra", value)));
    }
    let key = |key: &str| {
        let key = key.to_string();
        move |gguf: &mut Gguf| gguf.keys.push((key, Meta::Bool(true)))
    };
    report.add("a key twice", refused(&["general.name: a key twice, expected each key once"], key("general.name")));
    report.add("no name", refused(&["an empty name, expected a name"], key("")));
    report.add("a long key", refused(&["a text of 256 bytes, expected at most 255"], key(&"k".repeat(256))));
    report.add("255 bytes", changed(key(&"k".repeat(255))).packed().map(drop));
    let case = Case::new();
    let mut bytes = case.gguf.bytes();
    bytes[32] = 0xff;
    report.add(
        "a key that is not UTF-8",
        case.bytes_refused(&bytes, &["key 0: a name that is not UTF-8, expected UTF-8"]),
    );
    report.add(
        "an architecture that is not UTF-8",
        refused(&["general.architecture: text that is not UTF-8"], |gguf| {
            gguf.set("general.architecture", text(2, b"\xff\xfe"))
        }),
    );
    // Values that are not used can be anything.
    let others = [Meta::F64(f64::NAN), Meta::U64(huge), text(2, b"\xff\0"), list(8, 1, &[0; 8]), list(12, 0, b"")];
    for (i, value) in others.into_iter().enumerate() {
        report.add(format_args!("unused {i}"), changed(|gguf| gguf.set("general.extra", value)).packed().map(drop));
    }
}

/// Row G4: headers that claim or hold a lot.
#[test]
fn g4_refuses_large_headers_cheaply() {
    let mut report = Report::new("G4");
    let says = "expected a header of at most 16777216 bytes";
    // Empty texts, which take the most memory for their bytes; and long ones.
    let texts = |n: usize, length: usize| Meta::Texts(vec!["x".repeat(length); n]);
    report.add("two million texts", refused(&[says], |gguf| gguf.set("general.extra", texts(2 << 20, 0))));
    report.add(
        "long texts",
        refused(&[says], |gguf| {
            (0..5).for_each(|i| gguf.set(&format!("general.{i}"), texts(1, 4 << 20)));
        }),
    );
    report.add(
        "many keys",
        changed(|gguf| {
            (0..4000).for_each(|i| gguf.set(&format!("general.{i}.{}", "k".repeat(240)), Meta::Bool(true)));
        })
        .packed()
        .map(drop),
    );
    report.add(
        "nearly the longest header",
        changed(|gguf| {
            (0..3).for_each(|i| gguf.set(&format!("general.{i}"), texts(1, 4 << 20)));
        })
        .packed()
        .map(drop),
    );
    // Zeros that are not on the disk.
    for (name, header) in [
        ("zeros", &b"GGUF\x03\0\0\0"[..]),
        (
            "a list of zeros",
            b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0k\x09\0\0\0\0\0\0\0\0\0\0\0\0\x01",
        ),
        (
            "a list of texts",
            b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0k\x09\0\0\0\x08\0\0\0\0\0\0\0\0\x01",
        ),
    ] {
        let case = Case::new();
        fs::write(&case.file, header).expect("written");
        File::options().write(true).open(&case.file).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        report.add(format_args!("a sparse terabyte, {name}"), case.refused(&["expected "]));
    }
}
