//! Row O29: int8 and int4 matrices.

use super::header;
use super::model::Model;
use olmo_infer::internals::format::{Header, TensorRecord, digest};
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::crafted::{Field, repair_digests};
use std::mem::offset_of;

/// Level `code` in the record of a tensor.
fn level(model: &Model, tensor: &str, code: usize) -> Field {
    Field::of_tensor(model.tensor(tensor), offset_of!(TensorRecord, levels) + code, 1)
}

/// A byte of an i8.
fn byte(level: i8) -> u64 {
    level.cast_unsigned().into()
}

/// Row O29: int8 and int4: levels, encodings, features.
#[test]
fn o29_refuses_wrong_levels() {
    let model = Model::quantized();
    let mut report = Report::new("O29");
    let says = ["gate_proj.weight: found levels [", "expected 16 ascending levels from -127 on"];
    let levels = |code: usize| level(&model, "gate_proj", code);
    let value = |code: usize| levels(code).get(&model.good);
    for (variant, changes) in [
        ("two exchanged", vec![(levels(7), value(8)), (levels(8), value(7))]),
        ("one twice", vec![(levels(7), value(8))]),
        ("the last one below", vec![(levels(15), byte(-1))]),
        ("-128", vec![(levels(0), byte(-128))]),
        ("all zeros", (0..16).map(|code| (levels(code), 0)).collect()),
        ("all equal", (0..16).map(|code| (levels(code), 5)).collect()),
    ] {
        model.refuse(&mut report, variant, &model.with(&changes), &says);
    }
    for tensor in ["k_proj", "up_proj", "q_norm", "lm_head"] {
        for code in [0, 15] {
            let says =
                [&format!("{tensor}.weight: found levels"), "expected zeros, as in every tensor that is not int4"];
            model.refuse_values(&mut report, tensor, level(&model, tensor, code), &[1, 0xff], &says);
        }
    }
}

/// Row O29.
#[test]
fn o29_refuses_codes_that_contradict() {
    let model = Model::quantized();
    let mut report = Report::new("O29");
    let field = |tensor: &str, at| Field::of_tensor(model.tensor(tensor), at, 4);
    let [dtype, encoding] = [offset_of!(TensorRecord, dtype), offset_of!(TensorRecord, encoding)];
    for tensor in ["gate_proj", "q_proj", "k_proj", "lm_head"] {
        let says = [&format!("{tensor}.weight: found encoding "), "expected 2, 3 or 4 (scales)"];
        model.refuse_values(&mut report, tensor, field(tensor, encoding), &[0, 1, 5, 1 << 31, u64::MAX], &says);
        // Other scales: another length of the panels.
        let right = field(tensor, encoding).get(&model.good);
        let others: Vec<u64> = [2, 3, 4].into_iter().filter(|&code| code != right).collect();
        model.refuse_values(&mut report, tensor, field(tensor, encoding), &others, &[": found "]);
        let raw = field(tensor, offset_of!(TensorRecord, n_raw_steps));
        let says = [&format!("{tensor}.weight: found "), " raw steps, expected none"];
        model.refuse_values(&mut report, tensor, raw, &[1, u64::MAX], &says);
        let says = [&format!("{tensor}.weight: found "), "expected 0 (plain)"];
        let to_f32 = model.with(&[(field(tensor, dtype), 1)]);
        // Levels come first where there are some.
        let says = if right == 2 || tensor == "lm_head" { &says[..] } else { &says[..1] };
        model.refuse(&mut report, format!("{tensor} as f32"), &to_f32, says);
    }
    let says = ["gate_proj.weight: found levels, expected zeros"];
    model.refuse_values(&mut report, "int4 as int8", field("gate_proj", dtype), &[3], &says);
    let says = ["lm_head.weight: found levels [0, 0"];
    model.refuse_values(&mut report, "int8 as int4", field("lm_head", dtype), &[4], &says);
    let says = ["q_norm.weight: found element type ", "expected 1 (f32), as in every vector"];
    model.refuse_values(&mut report, "a vector", field("q_norm", dtype), &[3, 4], &says);

    let features = header(offset_of!(Header, required_features), 8);
    model.refuse_values(&mut report, "no feature", features, &[0], &["required features: found 0, expected 4"]);
    model.refuse_values(&mut report, "others too", features, &[5], &["required features: found 5, expected 4"]);
    let says = ["required features: found 4, expected 0"];
    let plain = Model::plain();
    plain.refuse_values(&mut report, "superfluous", features, &[4], &says);
    let length = model.good.len();
    for cut in [length / 2, length - 1] {
        let has = format!("truncated: has {cut} bytes, expected {length} as its header states");
        model.refuse(&mut report, format!("{cut} bytes"), &model.good[..cut], &[&has]);
    }
}

/// Row O29.
#[test]
fn o29_verify_finds_bytes_that_no_writer_makes() {
    let model = Model::quantized();
    let mut report = Report::new("O29");
    for (variant, tensor, at, bytes, says) in [
        ("a factor that is infinite", "gate_proj", 0, vec![0, 0, 0x80, 0x7f], "a scale that is not a finite number"),
        ("a factor that is NaN", "lm_head", 4, vec![0, 0, 0xc0, 0xff], "a scale that is not a finite number"),
        ("a scale that is infinite", "k_proj", 2, vec![0, 0x7c], "a scale that is not a finite number"),
        ("-128", "k_proj", 128, vec![0], "an element -128, expected -127 to 127"),
        ("a scale of no row", "k_proj", 127, vec![1], "padding in its panels that is not that of the format"),
        (
            "an element of no row",
            "k_proj",
            128 + 255,
            vec![0x81],
            "padding in its panels that is not that of the format",
        ),
        (
            "a code of no row",
            "gate_proj",
            256 + 64 + 255,
            vec![0x10],
            "padding in its panels that is not that of the format",
        ),
    ] {
        let index = model.tensor(tensor);
        let extent = model.file.layout().tensors[index];
        let mut bad = model.good.clone();
        bad[extent.offset as usize + at..][..bytes.len()].copy_from_slice(&bytes);
        // Under a right digest, as a writer with a fault gives it.
        let right = digest(&bad[extent.offset as usize..extent.end() as usize], index as u64);
        Field::of_tensor(index, offset_of!(TensorRecord, digest), 8).set(&mut bad, right);
        repair_digests(&mut bad);
        let path = model.write("bad.olmo", &bad);
        let says = format!("{tensor}.weight: {says}");
        let refusal = Refusal::one_line("olmo-pack", format!("{}: ", path.display()), &[&says]);
        let outcome = refusal.check(model.folder.path(), || model.opener("verify", &path));
        report.add(format_args!("{variant}, verify"), outcome);
    }
    let smallest = Field::of_tensor(model.tensor("gate_proj"), offset_of!(TensorRecord, min_magnitude), 4);
    let path = model.write("bad.olmo", &model.with(&[(smallest, 0x3f80_0000)]));
    let says = "gate_proj.weight: smallest magnitude: found 1065353216, expected 0, as of all integers";
    model.refuse_by(&mut report, "a smallest magnitude", &path, &["verify"], &[says]);
}
