//! Rows S3 and S4: lengths of headers, and malformed headers.

use super::{Case, NORM, file_refused, header_refused};
use ::safetensors::SafeTensors;
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::safetensors::{self, raw};
use serde_json::json;
use std::fs::{self, File};

/// Row S3: header lengths.
#[test]
fn s3_refuses_wrong_header_lengths() {
    let mut report = Report::new("S3");
    let claims = |length: u64| [&length.to_le_bytes()[..], &b"{\"a\":1}".repeat(20)].concat();
    for length in [0, 1, (2 << 20) + 1, 100_000_000, 1 << 32, 1 << 62, u64::MAX - 7, u64::MAX] {
        let says = format!("header of {length} bytes, expected 2 to 2097152; download it again");
        report.add(length, file_refused(&claims(length), &[&says]));
    }
    for length in [141, 4096, 2 << 20] {
        let says = format!("header of {length} bytes in a file of 148 bytes, expected a header inside the file");
        report.add(length, file_refused(&claims(length), &[&says, "the file is truncated, download it again"]));
    }
    // Lengths that are possible and wrong: the text does not end there.
    for length in [2, 139] {
        report.add(length, file_refused(&claims(length), &["bad header: "]));
    }
    // A header of zeros that are not on the disk.
    let case = Case::new(1);
    fs::write(case.file(), [&(2u64 << 20).to_le_bytes()[..], b"{"].concat()).expect("written");
    File::options().write(true).open(case.file()).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    report.add("a sparse terabyte", case.refused(case.file(), &["bad header: "]));
}

/// Row S4: malformed headers; a tensor twice, of which the crate takes the last.
#[test]
fn s4_refuses_malformed_headers() {
    let mut report = Report::new("S4");
    let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let long = "n".repeat(256);
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let texts: [(&str, &str); 24] = [
        ("{ ", "EOF while parsing"),
        ("{}{}", "trailing characters"),
        ("{\"a\"}", "expected `:`"),
        ("{\"a\":1}", "a: invalid type: integer `1`"),
        ("{\"a\":null}", "a: invalid type: null"),
        ("{\"a\":[]}", "a: invalid length 0"),
        ("{\"a\":{}}", "a: missing field `dtype`"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "a: missing field `data_offsets`"),
        ("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", "a: missing field `shape`"),
        (
            "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            "duplicate field `dtype`",
        ),
        ("{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", "a: unknown variant `F99`"),
        ("{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", "a: "),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", "a: invalid type: integer `1`"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "a: invalid value: integer `-1`"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", "a: invalid type: floating point `1.0`"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,4]}}", "a: invalid type"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", "a: invalid length 1"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", "a: "),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":\"0,4\"}}", "a: invalid type: string"),
        ("{\"__metadata__\":{\"format\":1}}", "__metadata__: format: invalid type: integer `1`"),
        ("{\"__metadata__\":{},\"__metadata__\":{}}", "duplicate key \"__metadata__\""),
        (&format!("{{\"{long}\":{entry}}}"), "a name of 256 bytes"),
        (&format!("{{\"a\":{entry},\"a\":{entry}}}"), "duplicate key \"a\""),
        (&deep, "a: "),
    ];
    for (text, says) in texts {
        let outcome = file_refused(&raw(text.as_bytes(), &[0; 4]), &["bad header: ", says, "; download it again"]);
        report.add(&text[..text.len().min(60)], outcome);
    }
    report.add("no UTF-8", file_refused(&raw(b"{\"\xff\":1}", &[]), &["bad header: "]));
    report.add("a byte 0", file_refused(&raw(b"{}\0\0\0\0\0\0", &[]), &["bad header: trailing characters"]));
    let endless = format!("{{\"a\":\"{}\"}}", "x\u{e9}".repeat(500_000));
    report.add("a text without end", file_refused(&raw(endless.as_bytes(), &[]), &["bad header: a: invalid type"]));
    report.add("no tensors", file_refused(&raw(b"{}", &[]), &["no tensors, expected the weights of a model"]));
    // A second entry of the same name, which the crate would take instead of the first.
    let case = Case::new(1);
    let header = safetensors::header(&case.tensors).to_string();
    let twice = header.replacen(&format!("\"{NORM}\":"), &format!("\"{NORM}\":{entry},\"{NORM}\":"), 1);
    let data: Vec<u8> = case.tensors.iter().flat_map(|tensor| tensor.data.clone()).collect();
    let twice = raw(twice.as_bytes(), &data);
    SafeTensors::deserialize(&twice).expect("a file that others read");
    fs::write(case.file(), twice).expect("written");
    report.add("a tensor twice", case.refused(case.file(), &["bad header: duplicate key \"model.norm.weight\""]));
    // Unknown keys and spaces do not matter.
    let case = Case::new(1);
    case.with_header(|header| header["__metadata__"] = json!({"format": "pt", "note": "\u{1b}[31m"}));
    report.add("other metadata", case.packed(&[]));
    fs::write(case.file(), raw(format!("{header}   \n").as_bytes(), &data)).expect("written");
    report.add("spaces behind it", case.packed(&[]));
    report.add("null for metadata", {
        case.with_header(|header| header["__metadata__"] = json!(null));
        case.packed(&[])
    });
}

/// Row S14: headers that claim or hold a lot.
#[test]
fn s14_refuses_large_headers_cheaply() {
    let mut report = Report::new("S14");
    // The most entries that a header can have.
    let case = Case::new(1);
    let entries: Vec<String> = (0..30_000)
        .map(|i| format!("\"{i:05}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{i},{}]}}", i + 1))
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    assert!(header.len() < 2 << 20);
    fs::write(case.file(), raw(header.as_bytes(), &[0; 30_000])).expect("written");
    let refusal = Refusal {
        program: "olmo-pack",
        status: 1,
        lines: (0..10).map(|_| vec![format!("{}: ", case.file().display()), ": missing".into()]).collect(),
        more: 30_000 + case.tensors.len() - 10,
    };
    report.add("30,000 tensors", refusal.check(case.folder.path(), || case.pack(&[])));
    report.add("a shape of many sizes", {
        let sizes = vec!["1"; 900_000].join(",");
        let header = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{sizes}],\"data_offsets\":[0,4]}}}}");
        file_refused(&raw(header.as_bytes(), &[0; 4]), &["a: shape of 900000 dimensions, expected at most 32"])
    });
    report.add("a header with too few tensors", header_refused(&["0 bytes of data"], |header| *header = json!({})));
}
