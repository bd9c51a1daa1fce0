//! Headers that numpy writes, and everything else.

use super::*;
use crate::folder::element::SourceType;
use crate::folder::npy::{NPYZ_CALLS, confirm_with_npyz, header_of};
use std::cell::Cell;

/// A file of version 1.0 with this header text and `data` bytes of numbers.
fn file(text: &str, data: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16 + 1).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(b'\n');
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn check(bytes: &[u8]) -> Result<Checked, Bad> {
    let checked = check_start(&bytes[..bytes.len().min(12 + MAX_HEADER_BYTES)], bytes.len() as u64)?;
    confirm_with_npyz(&bytes[..checked.preamble_bytes], &checked).expect("npyz agrees");
    Ok(checked)
}

/// The error for `bytes`; asserts that npyz was not called.
#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let before = NPYZ_CALLS.with(Cell::get);
    let bad = check(bytes).expect_err("must be refused");
    assert_eq!(NPYZ_CALLS.with(Cell::get), before, "npyz was called");
    bad.problem(Path::new("f")).to_string()
}

#[test]
fn reads_headers_of_numpy() {
    let cases: [(&str, usize, Descr, &[u64]); 8] = [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   ", 48, Descr::F32, &[3, 4]),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }", 28, Descr::F32, &[7]),
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (7,), }", 14, Descr::F16, &[7]),
        ("{'descr': '<V2', 'fortran_order': False, 'shape': (7,), }", 14, Descr::Raw16, &[7]),
        ("{'descr': '|V2', 'fortran_order': False, 'shape': (7,), }", 14, Descr::Raw16, &[7]),
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (7,), }", 14, Descr::U16, &[7]),
        ("{'shape': (7,), 'fortran_order': True, 'descr': '<f4'}", 28, Descr::F32, &[7]),
        ("{\"descr\":\"<f4\",\"shape\":(2,2,1),\"fortran_order\":False}", 16, Descr::F32, &[2, 2, 1]),
    ];
    for (text, data, descr, shape) in cases {
        let checked = check(&file(text, data)).unwrap_or_else(|bad| panic!("{text}: {bad:?}"));
        assert_eq!((checked.descr, checked.shape.as_slice()), (descr, shape), "{text}");
    }
    for version in [2u8, 3] {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n";
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend([0; 4]);
        assert!(check(&bytes).is_ok());
    }
}

#[test]
fn reads_headers_it_wrote() {
    let shapes: [&[usize]; 5] = [&[1], &[2048], &[100_352, 2048], &[1, usize::MAX / 8], &[usize::MAX / 8, 1]];
    for element in [SourceType::F32, SourceType::F16, SourceType::Bf16] {
        for shape in shapes {
            let header = header_of(element, shape);
            assert!(header.len() == 128 && header.ends_with(b"\n"), "{shape:?}");
            let bytes = shape.iter().product::<usize>() * element.bytes();
            let checked = check_start(&header, (header.len() + bytes) as u64).expect("a header");
            assert!(checked.shape.iter().map(|&size| size as usize).eq(shape.iter().copied()), "{shape:?}");
            assert_eq!((checked.descr.bytes() as usize, checked.preamble_bytes), (element.bytes(), 128), "{shape:?}");
        }
    }
}

/// Row W15, npyz is not called.
#[test]
fn refuses_foreign_headers_before_npyz() {
    let good = "'descr': '<f4', 'fortran_order': False, 'shape': (2,), ";
    let shapes = [
        "True,",
        "1L,",
        "1e3,",
        "0x10,",
        "-1,",
        "9223372036854775808,",
        "18446744073709551616,",
        "2",
        "1_0,",
        "01,",
        "",
        "0,",
        "2, 0",
        ",",
        "2,,",
        "(2,),",
        "1.0,",
        "a,",
        "2 2,",
    ];
    let mut texts: Vec<String> =
        shapes.iter().map(|s| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({s}), }}")).collect();
    texts.push(format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", "1".repeat(400) + ","));
    texts.push(format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", "1, ".repeat(33)));
    texts.push("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2), }".into());
    texts.push("{'descr': '<f4', 'fortran_order': False, 'shape': [2], }".into());
    texts.push("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }".into());
    texts.push("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }".into());
    texts.push("{'descr': '<f4', 'shape': (2,), }".into());
    texts.push(format!("{{{good}'descr': '<f4', }}"));
    texts.push(format!("{{{good}'more': 1, }}"));
    texts.push(format!("{{{good}}} junk"));
    texts.push(format!("{{{good}"));
    texts.push(format!("{{{good}\t}}"));
    texts.push(format!("{{{good}\0}}"));
    texts.push(format!("{{{good}é}}"));
    texts.push("{'descr': '<f4, 'fortran_order': False, 'shape': (2,), }".into());
    texts.push("__import__('os')".into());
    texts.push("(".repeat(4000));
    texts.push("[".repeat(4000));
    texts.push("{".repeat(4000));
    texts.push(format!("{{'descr': '{}', 'fortran_order': False, 'shape': (2,), }}", "(".repeat(50)));
    for descr in [
        "<f8", ">f4", "=f4", "f4", "|f4", "|O", "O", "<i4", "|b1", "<c8", "<U3", "|S3", "<M8[s]", "<f4 ", "", "<V4",
        ">V2", "|u1", "<u4", "|i1",
    ] {
        texts.push(format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}"));
    }
    for text in texts {
        let line = refusal(&file(&text, 8));
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn each_check_gives_its_own_reason() {
    let header = |descr: &str, shape: &str, end: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, {end}}}")
    };
    let cases = [
        (header("<f4", "(2,)", "\t"), "byte 0x09 in the header"),
        (header("<f4", "[2]", ""), "structured element type"),
        (header("((<f4", "(2,)", ""), "brackets nested deeper than a header needs"),
        (header("<f4", "((2,),)", ""), "brackets nested deeper than a header needs"),
        // A closing bracket reduces the depth, also in a text that is rejected later.
        (header("<f4", "(2,)", "'a': (), 'b': ()"), "header has key 'a'"),
        (header("<f4", "(0,)", ""), "shape [0] has no elements"),
        (header("<f4", "(00,)", ""), "header has a shape with something other than plain numbers"),
        (header("<f4", "(02,)", ""), "header has a shape with something other than plain numbers"),
        (header("<f4", "(,)", ""), "header has a shape with something other than plain numbers"),
        (header("<f4", "(x2,)", ""), "header has a shape with something other than plain numbers"),
        (header(">f4", "(2,)", ""), "big-endian numbers (>f4)"),
        (header("|O", "(2,)", ""), "object array (pickle)"),
        (header("O", "(2,)", ""), "object array (pickle)"),
        (
            header("V2", "(2,)", ""),
            "byte order not stated (V2), expected <f4, <f2, or bfloat16 as <V2; if it is bfloat16",
        ),
        (header("=f4", "(2,)", ""), "byte order not stated (=f4)"),
        (header("|f4", "(2,)", ""), "byte order not stated (|f4)"),
        (header("<f8", "(2,)", ""), "float64 (<f8)"),
        (header("<i4", "(2,)", ""), "element type <i4"),
    ];
    for (text, says) in cases {
        let line = refusal(&file(&text, 8));
        assert!(line.starts_with(&format!("f: {says}")), "{text}: {line}, expected {says}");
    }
    assert_eq!(check(&file(&header("<f4", "(9, 10, 1)", ""), 360)).expect("digits of all kinds").shape, [9, 10, 1]);
}

#[test]
fn refuses_header_without_newline() {
    let mut bytes = file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 8);
    let last = bytes.len() - 8 - 1;
    assert_eq!(std::mem::replace(&mut bytes[last], b' '), b'\n');
    let line = refusal(&bytes);
    assert_eq!(line, "f: header does not end with a newline, expected a header as np.save writes it; export it again");
}

#[test]
fn refuses_each_missing_key() {
    for (text, key) in [
        ("{}", "descr"),
        ("{'fortran_order': False, 'shape': (2,)}", "descr"),
        ("{'descr': '<f4', 'shape': (2,)}", "fortran_order"),
        ("{'descr': '<f4', 'fortran_order': False}", "shape"),
    ] {
        let line = refusal(&file(text, 8));
        assert_eq!(
            line,
            format!("f: header has no key '{key}', expected a header as np.save writes it; export it again"),
            "{text}"
        );
    }
}

#[test]
fn refuses_what_npyz_reads_differently() {
    let checked = || check(&file("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 48)).expect("good");
    let header = file("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 0);
    assert_eq!(confirm_with_npyz(&header, &checked()), Ok(()));
    let read = Err("it reads '<f4' [3, 4] C".to_string());
    for other in [
        Checked { descr: Descr::F16, ..checked() },
        Checked { fortran_order: true, ..checked() },
        Checked { shape: vec![4, 3], ..checked() },
        Checked { shape: vec![3], ..checked() },
    ] {
        assert_eq!(confirm_with_npyz(&header, &other), read, "{other:?}");
    }
    let cut = confirm_with_npyz(&header[..header.len() - 1], &checked());
    assert_eq!(cut, Err("failed to fill whole buffer".into()));
}

#[test]
fn shapes_are_printed_as_numpy_prints_lists() {
    assert_eq!(shown_shape(&[]), "[]");
    assert_eq!(shown_shape(&[3, 4]), "[3, 4]");
}

#[test]
fn refuses_length_that_contradicts_shape() {
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1024,), }";
    assert!(check(&file(text, 4096)).is_ok());
    assert!(refusal(&file(text, 4095)).contains("needs 4096 bytes of data, has 4095 (truncated?)"));
    assert!(refusal(&file(text, 0)).contains("has 0 (truncated?)"));
    assert!(refusal(&file(text, 4097)).contains("1 byte too many"));
    assert!(refusal(&file(text, 8192)).contains("4096 bytes too many"));
    let whole = file(text, 0);
    for end in 0..whole.len() {
        refusal(&whole[..end]);
    }
}

#[test]
fn refuses_unknown_versions_and_lengths() {
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
    for version in [[0, 0], [1, 1], [4, 0], [255, 255]] {
        let mut bytes = file(text, 4);
        bytes[6..8].copy_from_slice(&version);
        assert!(refusal(&bytes).contains("is not supported"));
    }
    for length in [0u32, 10_001, 1 << 20, u32::MAX] {
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.resize(64, b' ');
        assert!(refusal(&bytes).contains("1 to 10000 bytes"));
    }
}

#[test]
fn names_the_format_of_other_files() {
    assert!(refusal(b"\x93NUM").contains("only 4 bytes, expected a whole .npy header"));
    let cases: [(&[u8], &str); 12] = [
        (b"", "empty file"),
        (b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0", "GGUF file"),
        // The header of a safetensors file is shorter than 100 MiB.
        (b"\0\0\x40\x06\0\0\0\0{\"a\":1}", "unknown bytes"),
        (b"\xff\xff\xff\xff\0\0\0\0{\"a\":1}", "unknown bytes"),
        (b"hello\x01", "unknown bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "run git lfs pull"),
        (b"  <!DOCTYPE html><html>", "HTML page"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "safetensors"),
        (b"hello", "text"),
    ];
    for (bytes, says) in cases {
        let line = refusal(bytes);
        assert!(line.contains(says) && line.contains("expected an .npy file"), "{line}");
    }
}
