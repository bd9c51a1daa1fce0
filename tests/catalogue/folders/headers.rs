//! Rows W12 to W15: versions, other formats, and headers that numpy would not write.

use super::{Case, NORM, O_PROJ, header_refused, shaped, spoiled, typed, write_header};
use olmo_tests::catalogue::Report;
use olmo_tests::npy_header_raw;
use std::fs;

/// A norm in a file of this version.
fn versioned(version: [u8; 2], header_bytes: u32) -> Vec<u8> {
    let mut text = shaped("(36,)").into_bytes();
    text.resize(116 - 1, b' ');
    text.push(b'\n');
    let mut bytes = [b"\x93NUMPY".as_slice(), &version].concat();
    match version {
        [1, _] => bytes.extend((header_bytes as u16).to_le_bytes()),
        _ => bytes.extend(header_bytes.to_le_bytes()),
    }
    bytes.extend(text);
    bytes.resize(bytes.len() + 144, 0);
    bytes
}

/// Row W12: versions of `.npy`.
#[test]
fn w12_refuses_unknown_npy_versions() {
    let mut report = Report::new("W12");
    for version in [[1, 0], [2, 0], [3, 0]] {
        let case = Case::new();
        fs::write(case.file(NORM), versioned(version, 116)).expect("written");
        report.add(format_args!("{version:?}"), case.packed(&[]));
    }
    for version in [[0, 0], [0, 1], [1, 1], [2, 1], [3, 1], [4, 0], [9, 3], [255, 255]] {
        let says = format!("npy version {}.{} is not supported, expected 1.0, 2.0 or 3.0", version[0], version[1]);
        let outcome = spoiled(NORM, &[&says], |path| fs::write(path, versioned(version, 116)).expect("written"));
        report.add(format_args!("{version:?}"), outcome);
    }
}

/// Row W13: files of other formats, files of 0 to 11 bytes.
#[test]
fn w13_names_the_format_of_other_files() {
    let mut report = Report::new("W13");
    let others: [(&[u8], &str); 28] = [
        (b"", "empty file"),
        (b"\x94NUMPY\x01\x00", "unknown bytes"),
        (b"\x93numpy\x01\x00", "unknown bytes"),
        (b"\x93NUMPZ\x01\x00", "unknown bytes"),
        (b"\x13NUMPY\x01\x00", "unknown bytes"),
        (b"hello\n", "text"),
        (b"{\"weights\": []}", "text"),
        (b"1.0,2.0\r\n3.0,4.0\r\n", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 272\n", "git-lfs pointer"),
        (b"version https://git-lfs.github.com/spec/v1\r\noid sha256:0\r\n", "run git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML page"),
        (b"\n\n  <html lang=\"en\">\xc3\xa4", "HTML page"),
        (b"PK\x03\x04\x14\x00 and more", "zip archive"),
        (b"PK\x05\x06\0\0\0\0", "zip archive"),
        (b"\x1f\x8b\x08\x00", "gzip file"),
        (b"\x80\x02]q\x00.", "pickle, which could run code"),
        (b"\x80\x03cnumpy\n", "pickle, which could run code"),
        (b"\x80\x04\x95\x10\0", "pickle, which could run code"),
        (b"\x80\x05\x95\x10\0", "pickle, which could run code"),
        (b"cos\nsystem\n(S'true'\ntR.", "text"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "safetensors file"),
        (b"GGUF\x03\0\0\0", "GGUF file"),
        (b"\x89OLMO\n\x1a\n", "unknown bytes"),
        (b"\x7fELF\x02\x01\x01", "unknown bytes"),
        (b"\x89PNG\r\n\x1a\n", "unknown bytes"),
        (b"\xef\xbb\xbf\x93NUMPY\x01\x00", "unknown bytes"),
        (b"\xc2\x93NUMPY\x01\x00", "unknown bytes"),
        (&[0; 4096], "unknown bytes"),
    ];
    for (bytes, says) in others {
        let outcome =
            spoiled(O_PROJ, &[says, "expected an .npy file", "; "], |path| fs::write(path, bytes).expect("written"));
        report.add(String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).escape_debug(), outcome);
    }
    let whole = npy_header_raw(&shaped("(36,)"));
    for length in 1..12 {
        let says = format!("only {length} byte");
        let words: &[&str] = if length < 10 { &[&says, "export it again"] } else { &["export it again"] };
        let outcome = spoiled(NORM, words, |path| fs::write(path, &whole[..length]).expect("written"));
        report.add(format_args!("{length} bytes"), outcome);
    }
}

/// Row W14: header lengths.
#[test]
fn w14_refuses_wrong_header_lengths() {
    let mut report = Report::new("W14");
    for version in [1, 2, 3] {
        for length in [0, 10_001, 65_535, 1 << 20, 1 << 31, u32::MAX] {
            if version == 1 && length > 65_535 {
                continue;
            }
            let says = format!("header of {length} bytes, expected 1 to 10000 bytes");
            let outcome = spoiled(NORM, &[&says, "export it again"], |path| {
                fs::write(path, versioned([version, 0], length)).expect("written");
            });
            report.add(format_args!("{length} in version {version}.0"), outcome);
        }
        let says = if version == 1 { "in a file of 270 bytes" } else { "in a file of 272 bytes" };
        let outcome = spoiled(NORM, &["header of 9999 bytes", says, "export it again"], |path| {
            fs::write(path, versioned([version, 0], 9999)).expect("written");
        });
        report.add(format_args!("longer than the file in version {version}.0"), outcome);
    }
    // A length that is legal and wrong: the text does not end with a newline.
    for length in [1, 2, 60, 115, 117] {
        let outcome = spoiled(NORM, &["export it again"], |path| {
            fs::write(path, versioned([2, 0], length)).expect("written");
        });
        report.add(format_args!("{length} bytes"), outcome);
    }
}

/// Headers of a norm that numpy would not write, and parts of their messages.
fn tricks() -> Vec<(String, &'static str)> {
    let good = "'descr': '<f4', 'fortran_order': False, 'shape': (36,), ";
    let numbers = "a shape with something other than plain numbers";
    let mut tricks: Vec<(String, &'static str)> = vec![
        ("".into(), "no '{'"),
        ("[1, 2]".into(), "structured"),
        ("(1, 2)".into(), "'(' where '{' belongs"),
        ("'<f4'".into(), "''' where '{' belongs"),
        ("None".into(), "'N' where '{' belongs"),
        ("36".into(), "'3' where '{' belongs"),
        ("{}".into(), "no key 'descr'"),
        ("{'descr', 'fortran_order', 'shape'}".into(), "',' where ':' belongs"),
        ("{'fortran_order': False, 'shape': (36,), }".into(), "no key 'descr'"),
        ("{'descr': '<f4', 'shape': (36,), }".into(), "no key 'fortran_order'"),
        ("{'descr': '<f4', 'fortran_order': False, }".into(), "no key 'shape'"),
        (format!("{{{good}'more': 1, }}"), "key 'more'"),
        (format!("{{{good}'Shape': (36,), }}"), "key 'Shape'"),
        (format!("{{{good}1: 2}}"), "an unquoted value"),
        (format!("{{{good}'descr': '<f4', }}"), "duplicate key 'descr'"),
        (format!("{{{good}'shape': (36,), }}"), "duplicate key 'shape'"),
        (format!("{{{good}'fortran_order': True, }}"), "duplicate key 'fortran_order'"),
        (format!("{{{good}}} junk"), "text after the dictionary"),
        (format!("{{{good}}} # comment"), "text after the dictionary"),
        (format!("{{{good}}}{{{good}}}"), "text after the dictionary"),
        (format!("{{{good}"), "an unquoted value"),
        (format!("{{{good}, }}"), "an unquoted value"),
        (format!("{{{good}\t}}"), "byte 0x09 in the header"),
        (format!("{{{good}\r}}"), "byte 0x0d in the header"),
        (format!("{{{good}\n}}"), "byte 0x0a in the header"),
        (format!("{{{good}\0}}"), "byte 0x00 in the header"),
        (format!("{{{good}é}}"), "byte 0xc3 in the header"),
        (format!("{{{good}\u{feff}}}"), "byte 0xef in the header"),
        (format!("{{{good}\u{1b}[2J}}"), "byte 0x1b in the header"),
        ("{'descr': '<f4, 'fortran_order': False, 'shape': (36,), }".into(), "element type <f4, "),
        ("{'descr': '<f4', 'fortran_order': False, 'shape: (36,), }".into(), "an unterminated quote"),
        ("{'descr: '<f4', 'fortran_order': False, 'shape': (36,), }".into(), "'<' where ':' belongs"),
        ("{'descr': <f4, 'fortran_order': False, 'shape': (36,), }".into(), "an unquoted value"),
        ("{'descr': b'<f4', 'fortran_order': False, 'shape': (36,), }".into(), "an unquoted value"),
        ("{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (36,), }".into(), "element type \\x3cf4"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (36,), }".into(), "fortran_order is not True or False"),
        ("{'descr': '<f4', 'fortran_order': None, 'shape': (36,), }".into(), "fortran_order is not True or False"),
        ("{'descr': '<f4', 'fortran_order': 'False', 'shape': (36,), }".into(), "fortran_order is not True or False"),
        ("{'descr': '<f4', 'fortran_order': Falsely, 'shape': (36,), }".into(), "'l' where '}' belongs"),
        ("__import__('os').system('true')".into(), "'_' where '{' belongs"),
        ("{'descr': __import__('os'), 'fortran_order': False, 'shape': (36,), }".into(), "an unquoted value"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os')}".into(), "'_' where '(' belongs"),
        (typed(&format!("'{}'", "(".repeat(50))), "brackets nested deeper"),
        (typed("'{({'"), "brackets nested deeper"),
    ];
    for (shape, says) in [
        ("[36]", "structured"),
        ("36", "'3' where '(' belongs"),
        ("(36)", "a shape that is not a tuple"),
        ("(True,)", numbers),
        ("(36L,)", "'L' where ')' belongs"),
        ("(36L, 1L)", "'L' where ')' belongs"),
        ("(1e3,)", "'e' where"),
        ("(36.0,)", "'.' where"),
        ("(0x24,)", "'x' where"),
        ("(0b100100,)", "'b' where"),
        ("(0o44,)", "'o' where"),
        ("(3_6,)", "'_' where"),
        ("(036,)", numbers),
        ("(-36,)", numbers),
        ("(+36,)", numbers),
        ("(a,)", numbers),
        ("('36',)", numbers),
        ("(None,)", numbers),
        ("(3 6,)", "'6' where"),
        ("(,)", numbers),
        ("(36,,)", numbers),
        ("((36,),)", "brackets nested deeper"),
        ("(36", "a shape with something other than plain numbers"),
        ("(36,)))", "where '}' belongs"),
    ] {
        tricks.push((shaped(shape), says));
    }
    for number in ["9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        tricks.push((shaped(&format!("({number},)")), "is too large"));
    }
    tricks.push((shaped("(18446744073709551616,)"), "is too large"));
    tricks.push((shaped(&format!("({},)", "1".repeat(400))), "is too large"));
    tricks.push((shaped(&format!("(1{},)", "0".repeat(400))), "is too large"));
    tricks.push((shaped(&format!("(36, {})", "1, ".repeat(32))), "more than 32 dimensions"));
    tricks.push((shaped(&format!("({})", "1, ".repeat(3000))), "more than 32 dimensions"));
    for depth in [3, 4, 64, 300, 4000, 9000] {
        for (bracket, says) in [("(", "brackets nested deeper"), ("[", "structured"), ("{", "brackets nested deeper")] {
            tricks.push((bracket.repeat(depth), says));
        }
        tricks.push((
            shaped(&format!("{}36,{}", "(".repeat(depth.min(4000)), ")".repeat(depth.min(4000)))),
            "nested deeper",
        ));
    }
    tricks
}

/// Row W15: headers that numpy does not write.
#[test]
fn w15_refuses_headers_numpy_does_not_write() {
    let mut report = Report::new("W15");
    let tricks = tricks();
    for (text, says) in &tricks {
        let outcome = header_refused(text, 144, &[says, ", expected "]);
        report.add(format_args!("{} ({} bytes)", &text[..text.len().min(90)].escape_debug(), text.len()), outcome);
    }
    // Deeper than a header is long: refused by its length.
    for depth in [20_000, 100_000] {
        let outcome = spoiled(NORM, &["expected 1 to 10000 bytes"], |path| {
            let text = "(".repeat(depth);
            let bytes = [b"\x93NUMPY\x02\x00".as_slice(), &(depth as u32).to_le_bytes(), text.as_bytes()].concat();
            fs::write(path, bytes).expect("written");
        });
        report.add(format_args!("depth {depth}"), outcome);
    }
    let outcome = spoiled(NORM, &["header does not end with a newline", "; "], |path| {
        let mut bytes = npy_header_raw(&shaped("(36,)"));
        *bytes.last_mut().expect("a newline") = b' ';
        bytes.resize(bytes.len() + 144, 0);
        fs::write(path, bytes).expect("written");
    });
    report.add("no newline", outcome);
}

/// Row W15.
#[test]
fn w15_reads_other_spellings_of_a_header() {
    let mut report = Report::new("W15");
    for text in [
        "{'shape': (36,), 'fortran_order': False, 'descr': '<f4'}",
        "{\"descr\":\"<f4\",\"fortran_order\":False,\"shape\":(36,)}",
        "   {  'descr'  :  '<f4'  ,  'fortran_order'  :  False  ,  'shape'  :  (  36  ,  )  ,  }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (36,)}",
    ] {
        let case = Case::new();
        write_header(&case.file(NORM), text, 144);
        report.add(text, case.packed(&[]));
    }
}
