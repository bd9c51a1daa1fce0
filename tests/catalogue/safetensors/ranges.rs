//! Rows S5 to S7: ranges that do not fill the file, files that are not whole, shapes that do not fit their ranges.

use super::{Case, HEAD, NORM, O_PROJ, file_refused, header_refused};
use olmo_tests::catalogue::Report;
use olmo_tests::safetensors::{file, raw};
use serde_json::{Value, json};
use std::fs::{self, File};

/// The range of a tensor.
fn range(header: &Value, tensor: &str) -> (u64, u64) {
    let number = |i: usize| header[tensor]["data_offsets"][i].as_u64().expect("a number");
    (number(0), number(1))
}

fn set_range(header: &mut Value, tensor: &str, range: (u64, u64)) {
    header[tensor]["data_offsets"] = json!([range.0, range.1]);
}

/// Row S5: ranges that overlap, leave gaps, or are elsewhere.
#[test]
fn s5_refuses_overlaps_and_gaps() {
    let mut report = Report::new("S5");
    let aside = "the data are contiguous";
    type Change = fn((u64, u64)) -> (u64, u64);
    let changes: [(&str, Change, &str); 8] = [
        ("later", |(begin, end)| (begin + 4, end + 4), aside),
        ("earlier", |(begin, end)| (begin - 4, end - 4), aside),
        ("shorter", |(begin, end)| (begin, end - 4), aside),
        ("longer", |(begin, end)| (begin, end + 4), aside),
        ("nowhere", |_| (1 << 40, (1 << 40) + 144), aside),
        ("backwards", |(begin, end)| (end, begin), ""),
        ("at the end of all numbers", |_| (u64::MAX - 144, u64::MAX), aside),
        ("behind its end", |(begin, _)| (begin, 0), ""),
    ];
    for (name, change, says) in changes {
        let outcome = header_refused(&["data_offsets [", says, "; download it again"], |header| {
            let range = change(range(header, O_PROJ));
            set_range(header, O_PROJ, range);
        });
        report.add(name, outcome);
    }
    report.add(
        "two tensors in one place",
        header_refused(&["data_offsets [", aside], |header| {
            let place = range(header, "model.layers.0.post_attention_layernorm.weight");
            set_range(header, NORM, place);
        }),
    );
    report.add(
        "a tensor less",
        header_refused(&["data_offsets [", aside], |header| {
            drop(header.as_object_mut().expect("an object").remove(O_PROJ))
        }),
    );
    // Two tensors of one shape whose ranges are exchanged are read by the header.
    let case = Case::new(1);
    let (a, b) = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight");
    case.with_header(|header| {
        let (first, second) = (range(header, a), range(header, b));
        set_range(header, a, second);
        set_range(header, b, first);
    });
    report.add("another order", case.packed(&[]));
}

/// Row S6: partial downloads, bytes after the last tensor.
///
/// Note on S6: A run of zeros in a file of the right length cannot be distinguished from weights that are zero; a
/// tensor of zeros only is a warning.
#[test]
fn s6_refuses_truncated_or_too_long_files() {
    let mut report = Report::new("S6");
    let case = Case::new(1);
    let length = fs::metadata(case.file()).expect("a file").len();
    let data: usize = case.tensors.iter().map(|tensor| tensor.data.len()).sum();
    let resize = |length: u64| {
        File::options().write(true).open(case.file()).and_then(|file| file.set_len(length)).expect("resized");
    };
    for (change, says) in [(1, "has 1 byte too many"), (4096, "has 4096 bytes too many"), (1 << 40, "bytes too many")] {
        resize(length + change);
        report.add(change, case.refused(case.file(), &[&format!("its header needs {data} bytes of data"), says]));
    }
    for cut in [1, 4, 4096, data as u64] {
        resize(length - cut);
        let says = format!("its header needs {data} bytes of data, has {} (truncated?)", data as u64 - cut);
        report.add(format_args!("-{cut}"), case.refused(case.file(), &[&says, "download it again"]));
    }
    // Every cut of the header.
    let whole = file(&case.tensors[..2]);
    for end in 0..whole.len() - case.tensors[..2].iter().map(|tensor| tensor.data.len()).sum::<usize>() {
        report.add(format_args!("{end} bytes"), file_refused(&whole[..end], &["; "]));
    }
    // What was not downloaded yet is often zeros.
    let case = Case::new(2);
    let length = fs::metadata(case.shard(2)).expect("a file").len();
    fs::write(case.shard(2), "").expect("written");
    File::options().write(true).open(case.shard(2)).and_then(|file| file.set_len(length)).expect("a sparse file");
    report
        .add("zeros", case.refused(case.shard(2), &["unknown bytes, expected a safetensors file; download it again"]));
    let case = Case::new(2);
    File::options().write(true).open(case.shard(2)).and_then(|file| file.set_len(length - 1)).expect("cut");
    report.add("the last shard", case.refused(case.shard(2), &["(truncated?)"]));
}

/// Row S7: shapes that contradict their ranges, overflow, or are not the shapes of the model.
#[test]
fn s7_refuses_shapes_that_contradict_ranges() {
    let mut report = Report::new("S7");
    for (dtype, shape, says) in [
        ("F32", json!([35]), "shape [35] needs 140 bytes of data, its data_offsets have 144"),
        ("F16", json!([36]), "shape [36] needs 72 bytes of data, its data_offsets have 144"),
        ("BF16", json!([36]), "shape [36] needs 72 bytes of data, its data_offsets have 144"),
        ("F32", json!([]), "shape [] needs 4 bytes of data, its data_offsets have 144"),
        ("F32", json!([0]), "shape [0] needs 0 bytes of data, its data_offsets have 144"),
        ("F32", json!([1u64 << 62, 4]), "needs more than 2^64 bytes of data, its data_offsets have 144"),
        ("F32", json!([u64::MAX]), "needs more than 2^64 bytes of data, its data_offsets have 144"),
        ("F32", json!([1u64 << 32, 1u64 << 32]), "needs more than 2^64 bytes of data"),
    ] {
        let outcome = header_refused(&[NORM, says, "; download it again"], |header| {
            header[NORM]["dtype"] = dtype.into();
            header[NORM]["shape"] = shape.clone();
        });
        report.add(format_args!("{dtype} {shape}"), outcome);
    }
    for (dtype, shape, says) in [
        ("BF16", json!([72]), "shape [72], expected [36] as in config.json"),
        ("F32", json!([6, 6]), "shape [6, 6], expected [36] as in config.json"),
        ("F32", json!([36, 1]), "shape [36, 1], expected [36] as in config.json"),
    ] {
        let outcome = header_refused(&[NORM, says, "correct config.json"], |header| {
            header[NORM]["dtype"] = dtype.into();
            header[NORM]["shape"] = shape.clone();
        });
        report.add(format_args!("{dtype} {shape}"), outcome);
    }
    report.add(
        "transposed",
        header_refused(
            &[HEAD, "shape [36, 101], expected [101, 36]", "it looks transposed: save tensor.T.contiguous()"],
            |header| {
                header[HEAD]["shape"] = json!([36, 101]);
            },
        ),
    );
    let empty = raw(br#"{"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}}"#, &[]);
    let case = Case::new(1);
    fs::write(case.file(), empty).expect("written");
    fs::remove_file(case.weights.join("config.json")).expect("removed");
    report.add("no numbers at all", case.refused(&case.weights, &["files of 0 layers"]));
}
