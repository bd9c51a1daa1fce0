//! Models whose matrices have several encodings, and drafts: how `olmo-pack` writes them and reads them.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::inspect::{self, Form};
use olmo_pack::commands::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::commands::{copy, diff, unpack, verify};
use olmo_pack::encode::numbers::Numbers;
use olmo_pack::write::wanted::Wanted;
use olmo_tests::packed::mix;
use olmo_tests::{Stored, TempDir, bf12_config, files, map_numbers, write_bf12_weights, write_weights};
use std::fs;
use std::path::Path;

/// Packs a folder, and returns the error in one line.
fn packed(request: Request) -> Result<(), String> {
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.map(|_| ()).map_err(|error| error.to_string())
}

fn request(weights: &Path, model: &Path) -> Request {
    Request {
        weights: weights.into(),
        model: model.into(),
        dtype: DtypeChoice::Bf16,
        encoding: EncodingChoice::Plain,
        force: true,
        ..Request::default()
    }
}

/// Weights that bf16 holds exactly, in which no matrix has too many raw steps for bf12.
fn write_exact_weights(weights: &Path) {
    write_weights(weights, &bf12_config(), Stored::F32OfBf16, 3);
    for tensor in mix().iter().flatten().map(|(name, _)| name) {
        map_numbers(weights, tensor, |i, _| 1.5 * 2f32.powi(-(i as i32 % 16)) * if i % 3 == 0 { -1.0 } else { 1.0 });
    }
}

/// The elements of tensor `index` as f32 bits.
fn elements(model: &ModelFile, index: usize) -> Vec<u32> {
    let mut numbers = Numbers::new(model, index);
    let mut bits = Vec::new();
    (0..numbers.n_pieces()).for_each(|piece| numbers.piece(piece, &mut bits));
    bits
}

#[test]
fn mixed_model_has_the_chosen_encodings() {
    let folder = TempDir::new("mixed");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_bf12_weights(&weights);
    let [tensors, drafts] = mix();
    packed(Request { tensors, drafts, ..request(&weights, &model) }).expect("packed");
    verify::run(&model).expect("a good file");
    let file = ModelFile::open(&model).expect("a good file");
    let stored: Vec<(String, &str)> =
        file.specs().iter().enumerate().map(|(i, spec)| (spec.name(), file.encoding(i).name())).collect();
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let expected = [
        ("model.embed_tokens.weight".into(), "f32"),
        (layer("self_attn.q_proj"), "bf16"),
        (layer("self_attn.k_proj"), "f32"),
        (layer("self_attn.v_proj"), "bf12"),
        (layer("self_attn.q_norm"), "f32"),
        (layer("self_attn.k_norm"), "f32"),
        (layer("self_attn.o_proj"), "bf16"),
        (layer("post_attention_layernorm"), "f32"),
        (layer("mlp.gate_proj"), "bf12"),
        (layer("mlp.up_proj"), "bf16"),
        (layer("mlp.down_proj"), "bf16"),
        (layer("post_feedforward_layernorm"), "f32"),
        ("model.norm.weight".into(), "f32"),
        ("lm_head.weight".into(), "bf16"),
        ("draft.model.embed_tokens.weight".into(), "bf12"),
        (format!("draft.{}", layer("self_attn.k_proj")), "bf16"),
        (format!("draft.{}", layer("mlp.gate_proj")), "f32"),
        (format!("draft.{}", layer("mlp.up_proj")), "bf12"),
        ("draft.lm_head.weight".into(), "bf12"),
    ];
    assert_eq!(stored, expected);
    assert_eq!((file.model_specs().len(), file.matrices()), (14, None));
    // A draft has the elements of its matrix, rounded as its encoding requires.
    let round = |bits: u32| (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    for (draft, spec) in file.specs().iter().enumerate().skip(14) {
        let of = file.specs().iter().position(|of| of.draft().as_ref() == Some(spec)).expect("its matrix");
        let (expected, found) = (elements(&file, of), elements(&file, draft));
        assert!(expected.iter().map(|&bits| round(bits)).eq(found.iter().map(|&bits| round(bits))), "{}", spec.name());
        let is_rounded = expected.iter().zip(&found).any(|(of, draft)| of != draft);
        // The matrix itself was rounded from f32 where it is not f32.
        assert!(!is_rounded || file.records()[draft].rounded.get() == 1, "{}", spec.name());
    }
}

#[test]
fn mixed_model_passes_through_every_command() {
    let folder = TempDir::new("mixed-commands");
    let (weights, model, whole) = (folder.join("w"), folder.join("m.olmo"), folder.join("f32.olmo"));
    write_exact_weights(&weights);
    packed(Request { dtype: DtypeChoice::F32, ..request(&weights, &whole) }).expect("packed");
    let [tensors, drafts] = mix();
    packed(Request { tensors, drafts, ..request(&weights, &model) }).expect("packed");

    let said = verify::run(&model).expect("a good file");
    assert!(said.contains(": ok, 19 tensors, "), "{said}");
    let said = verify::run_against(&model, &weights).expect("the numbers of the folder");
    assert!(said.contains(", the numbers of "), "{said}");

    let said = inspect::run(&model, Form::Json).expect("a good file");
    let object: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(object["matrices"], "mixed");
    let of = |index: usize| {
        let tensor = &object["tensors"][index];
        (tensor["dtype"].as_str(), tensor["encoding"].as_str(), tensor["draft"].as_bool())
    };
    assert_eq!(of(0), (Some("f32"), Some("plain"), Some(false)));
    assert_eq!(of(8), (Some("bf16"), Some("bf12"), Some(false)));
    assert_eq!(of(14), (Some("bf16"), Some("bf12"), Some(true)));
    for form in [Form::Table, Form::EveryTensor] {
        let said = inspect::run(&model, form).expect("a good file");
        assert!(said.contains(" parameters in mixed, 2 of 9 in 12 bits: "), "{said}");
        assert!(said.contains("  draft.lm_head.weight "), "{said}");
    }

    let to = folder.join("c.olmo");
    copy::run(&model, &to, false, &SystemDisk, &|_, _| ()).expect("copied");
    assert!(fs::read(&to).expect("a copy") == fs::read(&model).expect("a model"));

    let restored = folder.join("restored");
    let said = unpack::run(&model, &restored, false, &SystemDisk).expect("unpacked");
    assert!(said.contains(": 14 .npy files and config.json, restored exactly"), "{said}");
    assert!(files(&restored) == files(&weights), "{said}");

    let (is_same, said) = diff::run(&whole, &model, false).expect("compared");
    assert!(is_same && said.contains("14 of 14 have the same numbers"), "{said}");
    assert!(said.contains("f32 / mixed, 2 of 9 in 12 bits, which does not count"), "{said}");
    assert!(said.contains("drafts, which does not count"), "{said}");
}

#[test]
fn rounded_matrices_among_exact_ones_are_restored_as_rounded() {
    let folder = TempDir::new("mixed-rounded");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &bf12_config(), Stored::F32, 3);
    let tensors = vec![("lm_head.weight".into(), Wanted::Bf16)];
    packed(Request { dtype: DtypeChoice::F32, tensors, ..request(&weights, &model) }).expect("packed");
    let said = verify::run_against(&model, &weights).expect("the numbers of the folder");
    assert!(said.contains(" rounded to bf16"), "{said}");
    let restored = folder.join("restored");
    let said = unpack::run(&model, &restored, false, &SystemDisk).expect("unpacked");
    assert!(
        said.contains("not restored exactly: 1 of them were rounded to bf16") && said.ends_with(": lm_head.weight")
    );
    let (before, after) = (files(&weights), files(&restored));
    let differ: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert_eq!(differ, ["lm_head.weight.npy"]);
}

#[test]
fn impossible_recipes_are_refused() {
    let folder = TempDir::new("recipes");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_exact_weights(&weights);
    let one = |name: &str, wanted| vec![(name.to_string(), wanted)];
    for (tensors, drafts, says) in [
        (one("model.norm.weight", Wanted::Bf16), vec![], "model.norm.weight names no matrix of the model"),
        (vec![], one("lm_head", Wanted::F32), "lm_head is not a matrix of the model"),
        (vec![], one("lm_head.weight", Wanted::Bf16), "lm_head.weight: its draft would be stored as the matrix is"),
    ] {
        let said = packed(Request { tensors, drafts, ..request(&weights, &model) }).expect_err(says);
        assert!(said.contains(says), "{said}");
        assert!(!model.exists());
    }
    // bf12 does not pay for random exponents: both copies would be bf16.
    map_numbers(&weights, "lm_head.weight", |i, _| 2f32.powi(i as i32 * 37 % 200 - 100));
    let drafts = one("lm_head.weight", Wanted::Bf12);
    let said = packed(Request { drafts, ..request(&weights, &model) }).expect_err("a draft that is the matrix");
    assert!(said.contains("lm_head.weight: its draft would be stored as bf16, as the matrix is"), "{said}");
}
