//! Rows W7 to W11: element types, the order of elements and of their bytes.

use super::{Case, NORM, O_PROJ, UP_PROJ, header_refused, set, spoiled, typed, write_header};
use olmo_tests::catalogue::Report;
use olmo_tests::{finish, npy_header_raw};
use serde_json::json;
use std::fs;
use std::path::Path;

/// Row W7: unsupported element types.
///
/// Note on W7: No flag casts: f16 is read as it is, for f64 and integers the message advises numpy's `astype`. An
/// overflow of f64 to f32 cannot occur, as f64 is never read.
#[test]
fn w7_refuses_unsupported_element_types() {
    let mut report = Report::new("W7");
    let types: [(&str, usize, &str); 27] = [
        ("'<f8'", 8, "float64 (<f8)"),
        ("'<f16'", 16, "element type <f16"),
        ("'<i1'", 1, "element type <i1"),
        ("'|i1'", 1, "element type |i1"),
        ("'|u1'", 1, "element type |u1"),
        ("'<i2'", 2, "element type <i2"),
        ("'<i4'", 4, "element type <i4"),
        ("'<u4'", 4, "element type <u4"),
        ("'<i8'", 8, "element type <i8"),
        ("'<u8'", 8, "element type <u8"),
        ("'|b1'", 1, "element type |b1"),
        ("'<c8'", 8, "element type <c8"),
        ("'<c16'", 16, "element type <c16"),
        ("'<U3'", 12, "element type <U3"),
        ("'|S3'", 3, "element type |S3"),
        ("'|V4'", 4, "element type |V4"),
        ("'|V1'", 1, "element type |V1"),
        ("'<M8[s]'", 8, "structured element type"),
        ("'<m8'", 8, "element type <m8"),
        ("'float32'", 4, "byte order not stated (float32)"),
        ("'bfloat16'", 2, "element type bfloat16"),
        ("'<f4 '", 4, "element type <f4 "),
        ("''", 4, "element type"),
        ("[('a', '<f4')]", 4, "structured element type"),
        ("[('a', '<f4'), ('b', '<f4')]", 8, "structured element type"),
        ("('<f4', 2)", 8, "an unquoted value"),
        ("('<f4', (2,))", 8, "brackets nested deeper"),
    ];
    for (descr, bytes, says) in types {
        let accepted: &[&str] = if descr.starts_with('(') { &[] } else { &["expected <f4, <f2, or bfloat16 as <V2"] };
        report.add(descr, header_refused(&typed(descr), 36 * bytes, &[&[says], accepted].concat()));
    }
}

/// Row W7.
#[test]
fn w7_refuses_overflow_to_bf16() {
    let mut report = Report::new("W7");
    let case = Case::new();
    olmo_tests::map_numbers(&case.weights, UP_PROJ, |i, old| if i == 36 * 3 + 5 { f32::MAX } else { old });
    let begins = format!("{}: ", case.file(UP_PROJ).display());
    report.add(
        "f32 to bf16",
        case.refusal(begins, &["the number at [3, 5] is too large for bf16", "use --dtype f32"], &["--dtype", "bf16"]),
    );
    report.add("as f32", case.packed(&["--dtype", "f32"]));
}

/// Row W8: bf16 stored as `<V2`, `|V2` or `<u2`.
///
/// Note on W8: No flag selects it: `V2` is bf16, and `<u2` is where `config.json` has `"dtype": "bfloat16"`.
#[test]
fn w8_reads_raw_16_bits_by_config_dtype() {
    let mut report = Report::new("W8");
    for descr in ["'<V2'", "'|V2'"] {
        let case = Case::new();
        write_header(&case.file(NORM), &typed(descr), 72);
        report.add(descr, case.packed(&[]));
    }
    report.add(
        "<u2 without a word",
        header_refused(
            &typed("'<u2'"),
            72,
            &["16-bit integers (<u2)", "bfloat16 as <V2", "config.json", "view('<V2')"],
        ),
    );
    for (descr, says) in [("'>V2'", "big-endian"), ("'>u2'", "big-endian")] {
        report.add(descr, header_refused(&typed(descr), 72, &[says]));
    }
    // The message does not suggest a number type for bytes that are probably bf16.
    for descr in ["V2", "=V2"] {
        let says = format!("byte order not stated ({descr})");
        let outcome = header_refused(&typed(&format!("'{descr}'")), 72, &[&says, "if it is bfloat16", "view('<V2')"]);
        report.add(descr, outcome);
    }
    for key in ["dtype", "torch_dtype"] {
        let case = Case::new();
        write_header(&case.file(NORM), &typed("'<u2'"), 72);
        set(&case, json!({key: "float16"}));
        report.add(format_args!("<u2 and {key} float16"), case.refused(case.file(NORM), &["16-bit integers"]));
        set(&case, json!({key: "bfloat16"}));
        let finished = finish(&mut case.pack(&case.weights, &[]));
        let told = finished.code == Some(0) && finished.stdout.contains("1 bf16 files");
        report.holds(format_args!("<u2 and {key} bfloat16"), told, finished.stderr);
    }
}

/// Row W9: object arrays (pickle).
#[test]
fn w9_refuses_object_arrays_unparsed() {
    let mut report = Report::new("W9");
    // A pickle that would run a program behind the header.
    let pickle = b"cos\nsystem\n(S'touch /tmp/olmo-pickle-ran'\ntR.";
    for descr in ["'|O'", "'O'", "'<O'", "'=O'", "'|O8'", "'O8'"] {
        let outcome = spoiled(NORM, &["object array (pickle)", "could run code", "save it again as float32"], |path| {
            let bytes = [npy_header_raw(&typed(descr)), pickle.to_vec()].concat();
            fs::write(path, bytes).expect("written");
        });
        report.add(descr, outcome);
    }
    report.holds("the pickle", !Path::new("/tmp/olmo-pickle-ran").exists(), "was run");
}

/// Row W10: Fortran order.
#[test]
fn w10_refuses_fortran_order() {
    let mut report = Report::new("W10");
    let ordered = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}");
    let outcome = spoiled(O_PROJ, &["Fortran order", "expected C order", "np.ascontiguousarray"], |path| {
        write_header(path, &ordered("(36, 36)"), 36 * 36 * 4);
    });
    report.add("a matrix", outcome);
    report.add("one column", header_refused(&ordered("(36, 1)"), 144, &["Fortran order"]));
    // The same bytes for a vector: no matter.
    let case = Case::new();
    write_header(&case.file(NORM), &ordered("(36,)"), 144);
    report.add("a vector", case.packed(&[]));
}

/// Row W11: byte orders: big-endian, none, native.
#[test]
fn w11_refuses_big_endian() {
    let mut report = Report::new("W11");
    let orders = [
        ("'>f4'", 4, "big-endian numbers (>f4)"),
        ("'>f2'", 2, "big-endian numbers (>f2)"),
        ("'>f8'", 8, "big-endian numbers (>f8)"),
        ("'=f4'", 4, "byte order not stated (=f4)"),
        ("'f4'", 4, "byte order not stated (f4)"),
        ("'|f4'", 4, "byte order not stated (|f4)"),
        ("'=f2'", 2, "byte order not stated (=f2)"),
        ("'f2'", 2, "byte order not stated (f2)"),
        ("'u2'", 2, "byte order not stated (u2)"),
    ];
    for (descr, bytes, says) in orders {
        report
            .add(descr, header_refused(&typed(descr), 36 * bytes, &[says, "expected <f4", "save array.astype('<f4')"]));
    }
}
