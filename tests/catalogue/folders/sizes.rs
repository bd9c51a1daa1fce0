//! Rows W16 to W18 and W26: the size of the data and of shapes.

use super::{Case, EMBEDDING, NORM, O_PROJ, header_refused, resize, shaped, spoiled};
use olmo_tests::catalogue::Report;
use olmo_tests::write_npy;
use std::fs::File;
use std::path::Path;

/// Row W16: too little or too much data.
#[test]
fn w16_refuses_data_short_by_one_byte() {
    let mut report = Report::new("W16");
    for (tensor, says) in [
        (O_PROJ, "shape [36, 36] needs 5184 bytes of data, has 5183 (truncated?)"),
        (NORM, "shape [36] needs 144 bytes of data, has 143 (truncated?)"),
    ] {
        report.add(tensor, spoiled(tensor, &[says, "export it again"], |path| resize(path, -1)));
    }
}

/// Row W16.
#[test]
fn w16_refuses_data_short_by_a_page_or_all() {
    let mut report = Report::new("W16");
    for (change, says) in
        [(-4096, "has 1088 (truncated?)"), (-4, "has 5180 (truncated?)"), (-5184, "has 0 (truncated?)")]
    {
        report.add(change, spoiled(O_PROJ, &[says, "export it again"], |path| resize(path, change)));
    }
}

/// Row W16.
#[test]
fn w16_refuses_trailing_data() {
    let mut report = Report::new("W16");
    for (change, says) in [
        (1, "needs 5184 bytes of data, has 1 byte too many"),
        (2, "has 2 bytes too many"),
        (4096, "has 4096 bytes too many"),
        (1 << 30, "has 1073741824 bytes too many"),
        (1 << 40, "has 1099511627776 bytes too many"),
    ] {
        report.add(change, spoiled(O_PROJ, &[says, "export it again"], |path| resize(path, change)));
    }
}

/// Row W17: shapes that overflow.
#[test]
fn w17_refuses_overflowing_shapes() {
    let mut report = Report::new("W17");
    for (variant, shape) in [
        ("product", "(4294967296, 4294967296)"),
        ("product that wraps to 36", "(36, 9223372036854775808, 2)"),
        ("product of many", "(65536, 65536, 65536, 65536, 65536)"),
        ("times the size of an element", "(4611686018427387904,)"),
        ("plus the header", "(4611686018427387903,)"),
        ("most", "(18446744073709551615, 18446744073709551615)"),
    ] {
        report.add(variant, header_refused(&shaped(shape), 144, &["shape [", "is too large", "export it again"]));
    }
    // Possible, but not in this file.
    report.add(
        "one below",
        header_refused(&shaped("(4611686018427387871,)"), 144, &["needs 18446744073709551484 bytes of data, has 144"]),
    );
}

/// Row W18: a dimension of 0, no dimension.
#[test]
fn w18_refuses_empty_shapes() {
    let mut report = Report::new("W18");
    for (shape, data, says) in [
        ("(0,)", 0, "shape [0] has no elements"),
        ("(0,)", 144, "shape [0] has no elements"),
        ("(36, 0)", 0, "shape [36, 0] has no elements"),
        ("(0, 18446744073709551615)", 0, "has no elements"),
        ("(18446744073709551615, 18446744073709551615, 0)", 0, "has no elements"),
        ("()", 4, "shape () has no dimension"),
        ("()", 0, "shape () has no dimension"),
    ] {
        report.add(
            format_args!("{shape} with {data} bytes"),
            header_refused(&shaped(shape), data, &[says, ", expected "]),
        );
    }
}

/// Row W26: a sparse terabyte with a valid header.
#[test]
fn w26_refuses_sparse_terabyte() {
    let mut report = Report::new("W26");
    let sparse = |path: &Path, shape: &[usize]| {
        write_npy(path, "<f4", shape, &[]);
        resize(path, shape.iter().product::<usize>() as i64 * 4);
    };
    for (tensor, shape, expected) in [
        (NORM, &[1usize << 38][..], "[36]"),
        (EMBEDDING, &[1 << 30, 256], "[101, 36]"),
        (EMBEDDING, &[101, 36, 1 << 26], "[101, 36]"),
    ] {
        let says = format!(", expected {expected} as in config.json");
        report
            .add(format_args!("{tensor} {shape:?}"), spoiled(tensor, &["shape [", &says], |path| sparse(path, shape)));
    }
    // A terabyte that does not belong to the model.
    let case = Case::new();
    sparse(&case.file("extra"), &[1 << 38]);
    report.add("extra", case.refused(case.file("extra"), &["not a parameter of this model"]));
    let case = Case::new();
    let vocab = File::create(case.weights.join("vocab.txt")).expect("a file");
    vocab.set_len(1 << 40).expect("resized");
    report.add("vocab.txt", case.refused(case.weights.join("vocab.txt"), &["longer than 4 MiB"]));
    vocab.set_len(4 << 20).expect("resized");
    report.add("vocab.txt of 4 MiB", case.refused(case.weights.join("vocab.txt"), &["line 1: "]));
}
