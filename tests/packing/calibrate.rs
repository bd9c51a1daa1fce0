//! `--calibrate`: quantization weighed by what the matrices meet in a text.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::tensors::{Role, TensorSpec};
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::observer::Inputs;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use olmo_pack::encode::numbers::Numbers;
use olmo_pack::folder::gguf::tensor_type::TensorType;
use olmo_tests::gguf::{blocks, of_folder};
use olmo_tests::{
    Finished, Random, Stored, TempDir, files, map_numbers, npy_path, read_f32_npy, repository, run, small_config,
    write_weights,
};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn demo() -> PathBuf {
    repository().join("demo/weights")
}

fn speech() -> PathBuf {
    repository().join("demo/speech.txt")
}

#[track_caller]
fn pack(weights: &Path, model: &Path, text: Option<&Path>, flags: &[&str]) -> Finished {
    let calibrate = text.map(|text| ["--calibrate".as_ref(), text.as_os_str()]);
    let words = [weights.as_os_str(), model.as_os_str(), "--force".as_ref()];
    run(PACK, words.into_iter().chain(calibrate.into_iter().flatten()).chain(flags.iter().map(AsRef::as_ref)))
}

/// Mean squares of what the matrices of the layers of a model meet, in chunks of the speech.
fn mean_squares(model: &Path) -> HashMap<(usize, Inputs), Vec<f64>> {
    let text = fs::read(speech()).expect("a text");
    let network = Arc::new(Network::new(Arc::new(ModelFile::open(model).expect("a model"))).expect("memory"));
    let mut batch = Batch::of_one(&network, Options::new(256)).expect("memory");
    let mut sums: HashMap<(usize, Inputs), Vec<f64>> = HashMap::new();
    with_team(1, |team| {
        for chunk in text.chunks(256) {
            batch.restart(0);
            let ids: Vec<u32> = chunk.iter().copied().map(u32::from).collect();
            let mut add = |layer: usize, inputs: Inputs, rows: &[f32]| {
                let width = rows.len() / ids.len();
                let sums = sums.entry((layer, inputs)).or_insert_with(|| vec![0.0; width]);
                for row in rows.chunks(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
                }
            };
            batch.forward_observed(team, [(0, &ids[..])], &mut add).expect("evaluated");
        }
    })
    .expect("a thread");
    sums
}

/// The numbers of a matrix of a model.
fn numbers(file: &ModelFile, index: usize) -> Vec<f32> {
    let (mut numbers, mut all, mut bits) = (Numbers::new(file, index), Vec::new(), Vec::new());
    for piece in 0..numbers.n_pieces() {
        bits.clear();
        numbers.piece(piece, &mut bits);
        all.extend(bits.iter().map(|&bits| f32::from_bits(bits)));
    }
    all
}

fn inputs_of(spec: &TensorSpec) -> Option<(usize, Inputs)> {
    let inputs = match spec.role {
        Role::QProj | Role::KProj | Role::VProj => Inputs::Attention,
        Role::OProj => Inputs::AttentionOutput,
        Role::GateProj | Role::UpProj => Inputs::Mlp,
        Role::DownProj => Inputs::MlpOutput,
        _ => return None,
    };
    Some((spec.layer?, inputs))
}

#[test]
fn errors_that_matter_in_the_text_get_smaller() {
    let folder = TempDir::new("calibrate");
    let [exact, plain, calibrated] = ["f.olmo", "p.olmo", "c.olmo"].map(|name| folder.join(name));
    pack(&demo(), &exact, None, &["--dtype", "f32"]).ok();
    let flags = ["--dtype", "int4", "--tensor", "k_proj=int8"];
    pack(&demo(), &plain, None, &flags).ok();
    let said = pack(&demo(), &calibrated, Some(&speech()), &flags);
    assert!(said.ok().contains("\n  calibrated  with 1476 of 1476 tokens\n"), "{said:?}");
    let squares = mean_squares(&exact);
    let [plain, calibrated] = [plain, calibrated].map(|path| ModelFile::open(&path).expect("a model"));
    let mut ratios = Vec::new();
    for (index, spec) in plain.specs().iter().enumerate() {
        let (name, same) =
            (spec.name(), plain.tensor_bytes(index).digest(0) == calibrated.tensor_bytes(index).digest(0));
        let Some(columns) = spec.columns else {
            assert!(same, "{name}");
            continue;
        };
        let Some(inputs) = inputs_of(spec) else {
            // A token reads a row of the embedding, and multiplies it with nothing.
            assert_eq!(same, spec.role == Role::EmbedTokens, "{name}");
            continue;
        };
        let source = read_f32_npy(&npy_path(&demo(), &name)).1;
        let weights = &squares[&inputs];
        assert_eq!(weights.len(), columns);
        let error = |file: &ModelFile| -> f64 {
            let pairs = source.iter().zip(numbers(file, index)).zip(weights.iter().cycle());
            pairs.map(|((x, found), weight)| weight * f64::from(x - found).powi(2)).sum()
        };
        let (before, after) = (error(&plain), error(&calibrated));
        assert!(after < before, "{name}: {after} {before}");
        ratios.push(after / before);
    }
    ratios.sort_by(f64::total_cmp);
    // Where the columns are alike, as in the embeddings of this model, there is little to win.
    assert!(ratios.len() == 7 * 3 && ratios[2] < 0.92, "{ratios:?}");
}

#[test]
fn bytes_depend_on_weights_and_text_alone() {
    let folder = TempDir::new("calibrate-threads");
    let packed = ["1", "2", "5"].map(|threads| {
        let model = folder.join("m.olmo");
        pack(&demo(), &model, Some(&speech()), &["--dtype", "int4", "--threads", threads]).ok();
        fs::read(model).expect("a model")
    });
    assert!(packed[0] == packed[1] && packed[1] == packed[2]);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "the copy left nothing");
    // Another text leads to other scales.
    let other = folder.join("t.txt");
    fs::write(&other, fs::read_to_string(speech()).expect("a text").to_uppercase()).expect("written");
    let model = folder.join("m.olmo");
    pack(&demo(), &model, Some(&other), &["--dtype", "int4"]).ok();
    let other = ModelFile::open(&model).expect("a model");
    let first = ModelFile::from_bytes(Path::new("m"), &packed[0]).expect("a model");
    let digests = |file: &ModelFile| -> Vec<u64> { file.records().iter().map(|record| record.digest.get()).collect() };
    let n_other = digests(&other).iter().zip(digests(&first)).filter(|(a, b)| **a != *b).count();
    assert!(n_other >= 20, "{n_other}");
    let shown = run(PACK, ["inspect".as_ref(), model.as_os_str(), "--json".as_ref()]);
    let shown: Value = serde_json::from_str(shown.ok()).expect("JSON");
    let calibrated = shown["provenance"]["calibrated"].as_str().expect("in the history");
    assert!(calibrated.starts_with("text ") && calibrated.ends_with(", 1476 tokens"), "{calibrated}");
    assert!(run(PACK, ["verify".as_ref(), model.as_os_str()]).ok().contains(": ok, "));
}

#[test]
fn json_and_dry_run_name_the_tokens() {
    let folder = TempDir::new("calibrate-json");
    let (model, readme) = (folder.join("m.olmo"), repository().join("README.md"));
    let said = pack(&demo(), &model, Some(&readme), &["--dtype", "int8", "--json"]);
    let told: Value = serde_json::from_str(said.ok()).expect("JSON");
    assert_eq!(told["calibrated_tokens"], 2048);
    let said = pack(&demo(), &folder.join("x.olmo"), Some(&speech()), &["--dtype", "int8", "--dry-run"]);
    let copy = "\n  calibrated  with 1476 of 1476 tokens, by a copy of 1.";
    assert!(said.ok().contains(copy), "{said:?}");
    assert!(!folder.join("x.olmo").exists());
}

#[test]
fn texts_that_are_of_no_use_are_refused() {
    let folder = TempDir::new("calibrate-refused");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).expect("written");
        folder.join(name)
    };
    let model = folder.join("m.olmo");
    let int4 = &["--dtype", "int4"][..];
    for (text, flags, says) in [
        (write("latin.txt", b"caf\xe9"), int4, "byte 3 is not UTF-8, expected a text"),
        (write("short.txt", b"Four score"), int4, "has 10 tokens, expected at least 128, better 2000"),
        (folder.join("absent.txt"), int4, "cannot open: No such file or directory"),
        (folder.path().to_path_buf(), int4, "is a folder, expected a file"),
        (speech(), &[], "nothing to calibrate: no matrix is rounded to int8 or int4; pass --dtype int4"),
        (speech(), &["--dtype", "bf16"], "nothing to calibrate"),
        (speech(), &["--tensor", "embed_tokens=int8"], "nothing to calibrate"),
    ] {
        let said = pack(&demo(), &model, Some(&text), flags);
        assert!(said.refused(1).contains(says), "{said:?}");
        assert!(!model.exists());
    }
    pack(&demo(), &model, Some(&speech()), &["--tensor", "lm_head=int4"]).ok();
    let text = write("m.txt", &fs::read(speech()).expect("a text"));
    let said = pack(&demo(), &text, Some(&text), int4);
    assert!(said.refused(1).contains("is the same file as"), "{said:?}");

    // Random weights have no tokenizer.
    write_weights(&folder.join("w"), &small_config(), Stored::F32, 1);
    let said = pack(&folder.join("w"), &model, Some(&speech()), int4);
    assert!(said.refused(1).contains("cannot become tokens: the weights have no tokenizer"), "{said:?}");
}

#[test]
fn activations_that_are_not_finite_are_refused() {
    let folder = TempDir::new("calibrate-overflow");
    let weights = folder.join("w");
    fs::create_dir(&weights).expect("a folder");
    for (name, bytes) in files(&demo()) {
        fs::write(weights.join(name), bytes).expect("written");
    }
    map_numbers(&weights, "model.embed_tokens.weight", |_, x| x * 1e30);
    let model = folder.join("m.olmo");
    let said = pack(&weights, &model, Some(&speech()), &["--dtype", "int4"]);
    assert!(said.refused(1).contains("leads to activations that are not finite numbers"), "{said:?}");
    assert!(!model.exists());
}

#[test]
fn kept_blocks_are_not_weighed() {
    let folder = TempDir::new("calibrate-gguf");
    let [exact, plain, calibrated] = ["f.olmo", "p.olmo", "c.olmo"].map(|name| folder.join(name));
    pack(&demo(), &exact, None, &["--dtype", "f32"]).ok();
    let config = ModelFile::open(&exact).expect("a model").config().clone();
    let vocab = demo().join("tokenizer.json");
    let flags = ["--vocab", vocab.to_str().expect("UTF-8")];
    let (mut made, mut random) = (of_folder(&demo(), &config), Random(3));
    let q4_0 = TensorType::with_code(2).expect("a type");
    for tensor in made.tensors.iter_mut().filter(|tensor| tensor.shape.len() == 2) {
        tensor.kind = 2;
        tensor.data = blocks(q4_0, tensor.shape.iter().product(), &mut random);
    }
    let gguf = folder.join("m.gguf");
    fs::write(&gguf, made.bytes()).expect("written");
    let said = pack(&gguf, &plain, Some(&speech()), &flags);
    assert!(said.refused(1).contains("nothing to calibrate"), "{said:?}");
    let flags = [&flags[..], &["--tensor", "lm_head=int8"]].concat();
    pack(&gguf, &plain, None, &flags).ok();
    pack(&gguf, &calibrated, Some(&speech()), &flags).ok();
    let [plain, calibrated] = [plain, calibrated].map(|path| ModelFile::open(&path).expect("a model"));
    for (index, spec) in plain.specs().iter().enumerate() {
        let digests = [&plain, &calibrated].map(|file| file.tensor_bytes(index).digest(0));
        assert_eq!(digests[0] == digests[1], spec.role != Role::LmHead, "{}", spec.name());
    }
}
