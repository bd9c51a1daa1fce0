//! int8 and int4: how `olmo-pack` writes quantized models, and what its other commands do with them.

use crate::{INFER, PACK};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::pack::{self, DtypeChoice, Request};
use olmo_pack::encode::numbers::Numbers;
use olmo_pack::write::wanted::Wanted;
use olmo_tests::{
    Finished, Random, Stored, TempDir, map_numbers, npy_path, read_f32_npy, repository, run, small_config, small_olmo1,
    write_weights,
};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

fn weights(folder: &TempDir) -> PathBuf {
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    weights
}

fn pack(folder: &TempDir, name: &str, flags: &[&str]) -> (PathBuf, Finished) {
    let model = folder.join(name);
    let weights = folder.join("w");
    let words = [weights.as_os_str(), model.as_os_str(), "--force".as_ref()];
    let finished = run(PACK, words.into_iter().chain(flags.iter().map(|flag| flag.as_ref())));
    (model, finished)
}

fn command(words: &[&str], paths: &[&Path]) -> Finished {
    run(
        PACK,
        words[..1]
            .iter()
            .map(AsRef::as_ref)
            .chain(paths.iter().map(|path| path.as_os_str()))
            .chain(words[1..].iter().map(AsRef::as_ref)),
    )
}

/// The encodings of the matrices, in the order of the file.
fn encodings(model: &Path) -> Vec<(String, &'static str)> {
    let file = ModelFile::open(model).expect("a model");
    let matrices = (0..file.specs().len()).filter(|&index| file.specs()[index].columns.is_some());
    matrices.map(|index| (file.specs()[index].name(), file.encoding(index).name())).collect()
}

/// The logits of a text that the demo model knows, a row for each token.
fn logits(folder: &TempDir, model: &Path) -> Vec<f32> {
    let (tokens, out) = (folder.join("t.bin"), folder.join("logits.npy"));
    let ids: Vec<u8> = b"Four score and seven".iter().flat_map(|&id| u32::from(id).to_le_bytes()).collect();
    fs::write(&tokens, ids).expect("written");
    let words = ["--steps", "1", "--logits"].map(AsRef::as_ref);
    run(INFER, [model.as_os_str(), tokens.as_os_str()].into_iter().chain(words).chain([out.as_os_str()])).ok();
    let (_, mut logits) = read_f32_npy(&out);
    logits.truncate(20 * 256);
    fs::remove_file(out).expect("removed");
    logits
}

#[test]
fn grades_are_packed_verified_and_run() {
    let folder = TempDir::new("grades");
    // Of trained weights: random ones let errors grow.
    let weights = repository().join("demo/weights");
    symlink(&weights, folder.join("w")).expect("a link");
    let (exact, _) = pack(&folder, "f32.olmo", &["--dtype", "f32"]);
    let expected = logits(&folder, &exact);
    let size: f32 = expected.iter().map(|logit| logit * logit).sum();
    let encoding = |name: &str| ["*=", name].concat();
    let [int8_16, int8_f16, int4_16, int4_f16] = ["int8-16", "int8-f16", "int4-16", "int4-f16"].map(encoding);
    for (name, flags, most) in [
        ("int8", &["--dtype", "int8"][..], 0.01),
        ("int8-16", &["--tensor", &int8_16], 0.01),
        ("int8-f16", &["--tensor", &int8_f16], 0.01),
        ("int4", &["--dtype", "int4"], 0.1),
        ("int4-16", &["--tensor", &int4_16], 0.1),
        ("int4-f16", &["--tensor", &int4_f16], 0.1),
    ] {
        let (model, finished) = pack(&folder, "q.olmo", flags);
        let said = finished.ok();
        assert!(said.contains(name) && said.contains(" relative RMS error\n"), "{said}");
        assert!(!said.contains("nothing lost"), "{said}");
        let said = command(&["verify"], &[&model]);
        assert!(said.ok().contains(": ok, "), "{said:?}");
        let of = encodings(&model);
        let others = of.iter().filter(|(_, encoding)| *encoding != name).count();
        // The head, and v_proj, whose values several queries share.
        assert_eq!(others, if name == "int4" { 4 } else { 0 }, "{of:?}");
        let found = logits(&folder, &model);
        let error: f32 = found.iter().zip(&expected).map(|(found, expected)| (found - expected).powi(2)).sum();
        let error = (error / size).sqrt();
        assert!(error > most / 20.0 && error < most, "{name}: {error}");
        let said = command(&["verify", "--against"], &[&model]);
        assert_eq!(said.code, Some(2));
        let against = [PathBuf::from("--against"), weights.clone()];
        let said = command(&["verify"], &[&model, &against[0], &against[1]]);
        assert!(said.ok().contains(", the numbers of ") && said.stdout.contains(" rounded to int"), "{said:?}");
    }
}

#[test]
fn bytes_depend_on_weights_alone() {
    let folder = TempDir::new("quantized-threads");
    weights(&folder);
    let flags = ["--dtype", "int4", "--tensor", "down_proj=int8-16", "--tensor", "o_proj=int4-f16", "--threads"];
    let packed = ["1", "2", "7"].map(|threads| {
        let (model, finished) = pack(&folder, "m.olmo", &[&flags[..], &[threads]].concat());
        finished.ok();
        fs::read(model).expect("a model")
    });
    assert!(packed[0] == packed[1] && packed[1] == packed[2]);
}

#[test]
fn patterns_choose_encodings_and_the_last_wins() {
    let folder = TempDir::new("patterns");
    weights(&folder);
    let flags = ["--dtype", "int8", "--tensor", "layers.1=int4", "--tensor", "k_proj=bf16", "--tensor"];
    let (model, finished) = pack(&folder, "m.olmo", &[&flags[..], &["model.*.1.*.k_proj.weight=int4-16"]].concat());
    finished.ok();
    for (name, encoding) in encodings(&model) {
        let expected = match (name.contains("k_proj"), name.contains("layers.1.")) {
            (true, true) => "int4-16",
            (true, false) => "bf16",
            (false, true) => "int4",
            (false, false) => "int8",
        };
        assert_eq!(encoding, expected, "{name}");
    }
    let shown: Value = serde_json::from_str(command(&["inspect", "--json"], &[&model]).ok()).expect("JSON");
    let provenance = &shown["provenance"];
    let tensors = "layers.1=int4, k_proj=bf16, model.*.1.*.k_proj.weight=int4-16";
    assert_eq!((&provenance["dtype"], &provenance["tensor"]), (&"int8".into(), &tensors.into()));
    for (wrong, says) in [
        ("foo=int8", "foo names no matrix of the model, expected embed_tokens, q_proj, "),
        ("norm=int8", "norm names no matrix of the model"),
        ("layers.2=int8", "layers.2 names no matrix of the model"),
        ("=int8", ": names no matrix of the model".trim_start_matches(':')),
    ] {
        let (_, finished) = pack(&folder, "x.olmo", &["--tensor", wrong]);
        assert!(finished.refused(1).contains(says), "{finished:?}");
    }
    for (wrong, says) in [("q_proj", "PATTERN=ENCODING"), ("q_proj=int5", "int5: unknown encoding, expected f32, ")] {
        let (_, finished) = pack(&folder, "x.olmo", &["--tensor", wrong]);
        assert!(finished.refused(2).contains(says), "{finished:?}");
    }
}

#[test]
fn embedding_of_tied_model_is_its_head() {
    let folder = TempDir::new("quantized-tied");
    let config = olmo_infer::internals::format::config::ModelConfig { tie_word_embeddings: true, ..small_olmo1() };
    write_weights(&folder.join("w"), &config, Stored::F16, 1);
    let (model, finished) = pack(&folder, "m.olmo", &["--dtype", "int4"]);
    finished.ok();
    assert_eq!(encodings(&model)[0].1, "int8");
    let (model, _) = pack(&folder, "m.olmo", &["--dtype", "int4", "--tensor", "embed_tokens=int4"]);
    assert_eq!(encodings(&model)[0].1, "int4");
}

#[test]
fn losses_are_printed_for_people_and_for_programs() {
    let folder = TempDir::new("quantized-losses");
    weights(&folder);
    let (model, finished) = pack(&folder, "m.olmo", &["--dtype", "int4", "--json"]);
    let told: Value = serde_json::from_str(finished.ok()).expect("JSON");
    let of_roles = told["relative_rms_error_by_role"].as_object().expect("an object");
    assert_eq!(of_roles.len(), 9);
    let (head, gate) = (of_roles["lm_head"].as_f64().expect("one"), of_roles["gate_proj"].as_f64().expect("one"));
    assert!((0.002..0.008).contains(&head) && (0.05..0.09).contains(&gate), "{told}");
    assert_eq!((&told["encodings"]["int4"], &told["encodings"]["int8"]), (&13.into(), &3.into()));
    assert!(told["bits_per_weight"].as_f64().is_some_and(|bits| (4.25..9.0).contains(&bits)), "{told}");

    let (exact, _) = pack(&folder, "f32.olmo", &["--dtype", "f32"]);
    let finished = command(&["diff"], &[&exact, &model]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("other encodings") && !finished.stdout.contains("numbers differ"), "{finished:?}");
    assert!(finished.stdout.contains(&format!("gate_proj {:.2} %", 100.0 * gate)), "{finished:?}");
    let shown: Value = serde_json::from_str(&command(&["diff", "--json"], &[&exact, &model]).stdout).expect("JSON");
    let found = shown["relative_rms_error_by_role"]["gate_proj"].as_f64().expect("one");
    assert!((found / gate - 1.0).abs() < 1e-3, "{found} {gate}");
    let finished = command(&["diff"], &[&model, &model]);
    assert!(finished.ok().contains("the same model") && !finished.stdout.contains("RMS"), "{finished:?}");

    for flags in [&["inspect"][..], &["inspect", "--tensors"]] {
        let finished = command(flags, &[&model]);
        let shown = finished.ok();
        assert!(shown.contains(" parameters in 13 int4, 3 int8: "), "{shown}");
        assert!(shown.contains("levels of int4           -63 ") && shown.contains("rounded from f32"), "{shown}");
    }
    let shown: Value = serde_json::from_str(command(&["inspect", "--json"], &[&model]).ok()).expect("JSON");
    let levels = |index: usize| shown["tensors"][index]["levels"].as_array().map(Vec::len);
    let last = shown["tensors"].as_array().map_or(0, Vec::len) - 1;
    assert_eq!((levels(0), levels(last)), (Some(16), None));
    assert_eq!((&shown["tensors"][0]["encoding"], &shown["tensors"][0]["rounded"]), (&"int4".into(), &true.into()));
}

#[test]
fn quantized_model_is_not_unpacked_unless_exact() {
    let folder = TempDir::new("quantized-unpack");
    let weights = weights(&folder);
    let (model, _) = pack(&folder, "m.olmo", &["--dtype", "f32", "--tensor", "lm_head=int8"]);
    let to = folder.join("to");
    let finished = command(&["unpack"], &[&model, &to]);
    assert!(finished.refused(1).contains("lm_head.weight: is int8: "), "{finished:?}");
    assert!(!to.exists());
    // Integers from -127 to 127, each group with both ends.
    map_numbers(&weights, "lm_head.weight", |i, _| if i % 36 % 16 == 0 { 127.0 } else { (i * 7 % 255) as f32 - 127.0 });
    let (model, finished) = pack(&folder, "m.olmo", &["--dtype", "f32", "--tensor", "lm_head=int8"]);
    assert!(finished.ok().contains("nothing lost"), "{finished:?}");
    assert!(command(&["unpack"], &[&model, &to]).ok().contains("restored exactly"));
    assert!(olmo_tests::files(&to) == olmo_tests::files(&weights));
}

#[test]
fn verify_against_finds_other_weights() {
    let folder = TempDir::new("quantized-against");
    let weights = weights(&folder);
    let (model, _) = pack(&folder, "m.olmo", &["--dtype", "int4"]);
    map_numbers(&weights, "model.layers.1.mlp.up_proj.weight", |i, x| if i == 5 { x + 1e-6 } else { x });
    let finished = command(&["verify"], &[&model, Path::new("--against"), &weights]);
    let says = "model.layers.1.mlp.up_proj.weight: was made of other numbers";
    assert!(finished.refused(1).contains(says), "{finished:?}");
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let folder = TempDir::new("quantized-nan");
    let weights = weights(&folder);
    map_numbers(&weights, "lm_head.weight", |i, x| if i == 40 { f32::NAN } else { x });
    for flags in [&["--dtype", "int8"][..], &["--dtype", "int8", "--allow-nonfinite"]] {
        let (model, finished) = pack(&folder, "m.olmo", flags);
        let says =
            "1 of its numbers are NaN or infinite, the first at [1, 4], expected finite numbers; export it again";
        assert!(finished.refused(1).contains(says), "{finished:?}");
        assert!(!model.exists());
    }
    let (_, finished) = pack(&folder, "m.olmo", &["--dtype", "int8", "--tensor", "lm_head=bf16", "--allow-nonfinite"]);
    finished.ok();
    map_numbers(&weights, "lm_head.weight", |i, _| if i == 40 { 1e7 } else { 1.0 });
    let (_, finished) = pack(&folder, "m.olmo", &["--tensor", "lm_head=int8-f16"]);
    let says = "the number at [1, 4] is too large for int8-f16, expected less than 8.3e6";
    assert!(finished.refused(1).contains(says), "{finished:?}");
}

#[test]
fn dry_run_has_the_size_of_the_file() {
    let folder = TempDir::new("quantized-dry");
    weights(&folder);
    for grade in ["int8", "int4"] {
        let (_, finished) = pack(&folder, "m.olmo", &["--dtype", grade, "--dry-run"]);
        let said = finished.ok().to_string();
        let (model, finished) = pack(&folder, "m.olmo", &["--dtype", grade]);
        finished.ok();
        let bytes = fs::metadata(model).expect("a model").len();
        assert!(said.contains(&format!("({bytes} bytes) as {grade}\n")), "{said}");
    }
}

#[test]
fn drafts_can_be_quantized() {
    let folder = TempDir::new("quantized-drafts");
    let (weights, model) = (weights(&folder), folder.join("m.olmo"));
    let int4 = Wanted::named("int4").expect("an encoding");
    let drafts = vec![("lm_head.weight".into(), int4), ("model.layers.0.mlp.gate_proj.weight".into(), int4)];
    let request = Request { weights, model: model.clone(), dtype: DtypeChoice::Bf16, drafts, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    assert!(packed.expect("packed").losses.is_empty());
    assert!(command(&["verify"], &[&model]).ok().contains(": ok, "));
    let file = ModelFile::open(&model).expect("a model");
    let draft = file.specs().len() - 1;
    assert_eq!((file.specs()[draft].name().as_str(), file.encoding(draft).name()), ("draft.lm_head.weight", "int4"));
    let source = read_f32_npy(&npy_path(&folder.join("w"), "lm_head.weight")).1;
    let mut numbers = Numbers::new(&file, draft);
    let mut bits = Vec::new();
    (0..numbers.n_pieces()).for_each(|piece| numbers.piece(piece, &mut bits));
    let error: f32 = bits.iter().zip(&source).map(|(bits, x)| (f32::from_bits(*bits) - x).powi(2)).sum();
    let size: f32 = source.iter().map(|x| x * x).sum();
    assert!((error / size).sqrt() < 0.1);
}

#[test]
fn every_damaged_byte_of_a_quantized_matrix_is_found() {
    let folder = TempDir::new("quantized-damage");
    weights(&folder);
    let (model, _) = pack(&folder, "m.olmo", &["--dtype", "int4"]);
    let good = fs::read(&model).expect("a model");
    let data = ModelFile::open(&model).expect("a model").layout().data_offset as usize;
    let mut random = Random(5);
    for _ in 0..20 {
        let mut bad = good.clone();
        let at = data + random.below(good.len() - data);
        bad[at] ^= 1 << random.below(8);
        fs::write(&model, &bad).expect("written");
        let finished = command(&["verify"], &[&model]);
        assert!(finished.refused(1).contains("the file is damaged"), "{at}: {finished:?}");
    }
}
