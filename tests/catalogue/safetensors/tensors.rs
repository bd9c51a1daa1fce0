//! Rows S8 to S10: element types, tensors that are missing or too many, numbers.

use super::{Case, HEAD, NORM, O_PROJ, header_refused};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::safetensors::{Tensor, write_checkpoint};
use olmo_tests::small_config;
use serde_json::json;

/// A tensor of one byte that no model has.
fn other(name: &str) -> Tensor {
    Tensor { name: name.into(), dtype: "U8", shape: vec![1], data: vec![0] }
}

/// Row S8: element types.
#[test]
fn s8_refuses_unsupported_element_types() {
    let mut report = Report::new("S8");
    for (dtype, size) in [("BOOL", 144), ("U8", 144), ("I8", 144), ("F8_E4M3", 144), ("F8_E5M2", 144), ("I16", 72)] {
        let says = format!("element type {dtype}, expected F32, F16 or BF16; save the weights as one of these");
        let outcome = header_refused(&[NORM, &says], |header| {
            header[NORM]["dtype"] = dtype.into();
            header[NORM]["shape"] = json!([size]);
        });
        report.add(dtype, outcome);
    }
    for dtype in ["I32", "U32", "F64", "I64", "U64", "U16"] {
        let says = format!("element type {dtype}, expected F32, F16 or BF16");
        report.add(dtype, header_refused(&[NORM, &says], |header| header[NORM]["dtype"] = dtype.into()));
    }
    report.add("f32", header_refused(&[NORM, "unknown variant `f32`"], |header| header[NORM]["dtype"] = "f32".into()));
}

/// Row S9: missing and extra tensors, files next to those of the model, a head next to a tied model.
#[test]
fn s9_refuses_missing_and_extra_tensors() {
    let mut report = Report::new("S9");
    let case = Case::new(1);
    let without =
        |name: &str| -> Vec<Tensor> { case.tensors.iter().filter(|tensor| tensor.name != name).cloned().collect() };
    for (name, says) in [
        (NORM, "missing, expected a tensor [36]; export the whole model"),
        (O_PROJ, "missing (layer 1 of 2), expected a tensor [36, 36]"),
        (HEAD, "missing, expected a tensor [101, 36]; export it, or set \"tie_word_embeddings\": true"),
    ] {
        write_checkpoint(&case.weights, &without(name), 1);
        report.add(name, case.refused(case.file(), &[&format!("{name}: {says}")]));
    }
    write_checkpoint(&case.weights, &case.tensors[..3], 1);
    let line = |i: usize| vec![format!("{}: ", case.file().display()), (if i < 10 { ": missing" } else { "" }).into()];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: (0..10).map(line).collect(), more: 12 };
    report.add("nearly all", refusal.check(case.folder.path(), || case.pack(&[])));

    let says =
        "not a parameter of this model, expected only the tensors of the model; remove it, or pass --allow-extra";
    for name in ["model.layers.2.self_attn.q_proj.weight", "model.norm.weight ", "rotary.inv_freq", "a\u{1b}[31m\nb"] {
        let mut tensors = case.tensors.clone();
        tensors.push(other(name));
        for n_shards in [1, 2] {
            let case = Case::new(n_shards);
            write_checkpoint(&case.weights, &tensors, n_shards);
            let file = if n_shards == 1 { case.file() } else { case.shard(2) };
            report.add(format_args!("{name:?} in {n_shards}"), case.refused(file, &[says]));
            report.add(format_args!("{name:?} in {n_shards}, let pass"), case.packed(&["--allow-extra"]));
        }
    }
    // A file that is not one of the model's, with any content.
    for n_shards in [1, 2] {
        let case = Case::new(n_shards);
        let stray = case.weights.join("model-00007-of-00007.safetensors");
        std::fs::write(&stray, "anything").expect("written");
        let root = if n_shards == 1 { "model.safetensors" } else { "model.safetensors.index.json" };
        let says = format!("not one of the files of {root}, expected only the tensors of the model");
        report.add("a stray file", case.refused(&stray, &[&says, "pass --allow-extra"]));
        report.add("a stray file, let pass", case.packed(&["--allow-extra"]));
    }
}

/// Row S9.
#[test]
fn s9_refuses_head_of_tied_model() {
    let mut report = Report::new("S9");
    let tied = Case::of(&ModelConfig { tie_word_embeddings: true, ..small_config() }, 1);
    let embedding = tied.tensors.iter().find(|tensor| tensor.name == "model.embed_tokens.weight").expect("there");
    let mut head = Tensor { name: HEAD.into(), ..embedding.clone() };
    let write = |head: &Tensor| {
        let tensors: Vec<Tensor> = [&tied.tensors[..], std::slice::from_ref(head)].concat();
        write_checkpoint(&tied.weights, &tensors, 1);
    };
    write(&head);
    report.add("the embedding again", tied.packed(&[]));
    std::fs::write(&tied.model, "old").expect("written");
    head.data[5] ^= 1;
    write(&head);
    let says = "present although config.json sets tie_word_embeddings, and not equal to the embedding";
    let words = [HEAD, says, "transformers 5 uses this head, 4 the embedding", "pass --allow-extra"];
    report.add("other numbers", tied.refused(tied.file(), &words));
    report.add("other numbers, let pass", tied.packed(&["--allow-extra"]));
}

/// Row S10: NaN, infinity.
#[test]
fn s10_refuses_non_finite_weights() {
    let mut report = Report::new("S10");
    for (number, n_shards) in [(f32::NAN, 1), (f32::INFINITY, 2)] {
        let case = Case::new(n_shards);
        let mut tensors = case.tensors.clone();
        let norm = tensors.iter_mut().find(|tensor| tensor.name == NORM).expect("there");
        norm.data[8..12].copy_from_slice(&number.to_le_bytes());
        write_checkpoint(&case.weights, &tensors, n_shards);
        let file = if n_shards == 1 { case.file() } else { case.shard(2) };
        let says = format!("{NORM}: 1 of its numbers are NaN or infinite, the first at [2]");
        report.add(number, case.refused(file, &[&says, "--allow-nonfinite"]));
        report.add(format_args!("{number}, let pass"), case.packed(&["--allow-nonfinite"]));
    }
}
