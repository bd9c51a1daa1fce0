//! A checkpoint in safetensors files is packed into the same model as a folder of `.npy` files with the same numbers.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::section;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::facts::content_digest;
use olmo_pack::commands::pack::{self, DtypeChoice, Request};
use olmo_pack::commands::unpack;
use olmo_pack::commands::verify;
use olmo_tests::safetensors::{convert, file, shard_name, tensors_of, write_checkpoint};
use olmo_tests::{
    Stored, TempDir, files, npy_path, read_f32_npy, reference_cases, repository, run, small_config, small_hybrid,
    small_olmo3, small_olmoe, write_bf12_weights, write_weights,
};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn request(weights: &Path, model: &Path) -> Request {
    Request { weights: weights.into(), model: model.into(), force: true, ..Request::default() }
}

/// Packs in process.
#[track_caller]
fn pack(request: &Request) {
    let packed = pack::prepare(request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{}: {error}", request.weights.display()));
}

/// The bytes of all tensors of a model, the padding between them included.
fn data(model: &ModelFile) -> Vec<u8> {
    let bytes = model.bytes();
    let data = bytes.get(model.layout().data_offset as usize..bytes.len()).expect("tensors");
    data.copied().expect("memory")
}

/// The lines of the provenance.
fn provenance(model: &ModelFile) -> Vec<String> {
    let bytes = model.checked_section(section::PROVENANCE).expect("a good one").expect("a section");
    String::from_utf8(bytes).expect("text").lines().map(String::from).collect()
}

/// Packs a folder of `.npy` files, and checkpoints of one and of several files with the same numbers, and compares.
#[track_caller]
fn assert_same_model(weights: &Path, dtype: DtypeChoice) {
    let folder = TempDir::new("same-model");
    let expected = folder.join("npy.olmo");
    pack(&Request { dtype, ..request(weights, &expected) });
    let expected = ModelFile::open(&expected).expect("a model");
    for n_shards in [1, 3] {
        let (checkpoint, found) = (folder.join(format!("{n_shards}")), folder.join("found.olmo"));
        convert(weights, &checkpoint, n_shards);
        pack(&Request { dtype, ..request(&checkpoint, &found) });
        let found = ModelFile::open(&found).expect("a model");
        let name = format!("{} in {n_shards} files", weights.display());
        assert!(data(&found) == data(&expected), "{name}: other tensors");
        assert_eq!(content_digest(&found), content_digest(&expected), "{name}");
        let records = |model: &ModelFile| -> Vec<(u64, u32, u32)> {
            let records = model.records().iter();
            records.map(|record| (record.digest.get(), record.min_magnitude.get(), record.rounded.get())).collect()
        };
        assert_eq!(records(&found), records(&expected), "{name}");
        for kind in [section::VOCABULARY, section::CONFIG_JSON, section::BF12] {
            let [found, expected] = [&found, &expected].map(|model| model.checked_section(kind).expect("a good one"));
            assert_eq!(found, expected, "{name}: section {kind}");
        }
        let mut lines = provenance(&found);
        assert_eq!(lines.remove(2), "weights=safetensors", "{name}");
        assert_eq!(lines, provenance(&expected), "{name}");
    }
}

/// Folders of `.npy` files in the repository and in `../shared`.
fn folders() -> Vec<PathBuf> {
    let mut folders = vec![repository().join("demo/weights")];
    folders.extend(reference_cases().into_iter().map(|case| case.join("weights")));
    assert!(folders.len() > 5, "{folders:?}");
    folders
}

#[test]
fn checkpoint_gives_the_tensors_of_an_npy_folder() {
    for weights in folders() {
        assert_same_model(&weights, DtypeChoice::Auto);
    }
}

#[test]
fn every_element_type_gives_the_same_model() {
    let tied = ModelConfig { tie_word_embeddings: true, ..small_config() };
    for config in [small_config(), small_olmo3(), tied, small_olmoe(), small_hybrid()] {
        for stored in [Stored::F32, Stored::F32OfBf16, Stored::F16, Stored::Bf16] {
            let folder = TempDir::new("types");
            write_weights(folder.path(), &config, stored, 5);
            fs::write(folder.join("vocab.txt"), "0\ta\n1\tbc\n4\td\n").expect("written");
            for dtype in [DtypeChoice::Auto, DtypeChoice::F32, DtypeChoice::Bf16] {
                assert_same_model(folder.path(), dtype);
            }
        }
    }
    let folder = TempDir::new("coded");
    write_bf12_weights(folder.path());
    assert_same_model(folder.path(), DtypeChoice::Bf16);
}

#[test]
fn tensors_may_be_in_any_order_and_at_any_offset() {
    let folder = TempDir::new("order");
    let (weights, checkpoint, model) = (folder.join("w"), folder.join("c"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 6);
    convert(&weights, &checkpoint, 1);
    pack(&request(&weights, &model));
    let expected = content_digest(&ModelFile::open(&model).expect("a model"));
    let mut tensors = tensors_of(&weights);
    tensors.reverse();
    // One byte longer, so that every number is at an odd offset.
    let mut header = olmo_tests::safetensors::header(&tensors).to_string();
    header += if header.len().is_multiple_of(2) { " " } else { "" };
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.data.clone()).collect();
    fs::write(checkpoint.join("model.safetensors"), olmo_tests::safetensors::raw(header.as_bytes(), &data))
        .expect("written");
    pack(&request(&checkpoint, &model));
    assert_eq!(content_digest(&ModelFile::open(&model).expect("a model")), expected);
}

#[test]
fn checkpoint_without_config_json_needs_flags() {
    let folder = TempDir::new("bare");
    let (weights, checkpoint, model) = (folder.join("w"), folder.join("c"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 7);
    convert(&weights, &checkpoint, 2);
    fs::remove_file(checkpoint.join("config.json")).expect("removed");
    let refused = run(PACK, [&checkpoint, &model]);
    let line = refused.refused(1);
    assert!(line.contains("c: no config.json, and no published OLMo-2 has the widths hidden 36"), "{line}");
    let flags = ["--arch", "olmo2", "--head-dim", "6", "--rope-theta", "1e4", "--rms-norm-eps", "1e-6"];
    let paths = [checkpoint.to_str().expect("UTF-8"), model.to_str().expect("UTF-8")];
    let finished = run(PACK, paths.into_iter().chain(flags).chain(["--max-positions", "64", "--eos", "1"]));
    let said = finished.ok();
    assert!(said.contains("  tensors     25 f32 in 2 safetensors files, "), "{said}");
    let found = ModelFile::open(&model).expect("a model");
    assert_eq!(found.config(), &ModelConfig { pad_token_id: None, ..small_config() });
}

#[test]
fn every_command_accepts_a_packed_checkpoint() {
    for weights in [repository().join("demo/weights"), repository().join("tests/golden/tied/weights")] {
        if !weights.is_dir() {
            continue;
        }
        let folder = TempDir::new("commands");
        let (checkpoint, model, copy) = (folder.join("c"), folder.join("m.olmo"), folder.join("copy.olmo"));
        let (back, again) = (folder.join("back"), folder.join("again.olmo"));
        convert(&weights, &checkpoint, 2);
        pack(&request(&checkpoint, &model));
        verify::run(&model).unwrap_or_else(|error| panic!("{error}"));
        run(PACK, ["copy".as_ref(), model.as_os_str(), copy.as_os_str()]).ok();
        assert!(fs::read(&copy).expect("read") == fs::read(&model).expect("read"), "the copy differs");
        let inspected = run(PACK, ["inspect".as_ref(), model.as_os_str()]);
        assert!(inspected.ok().contains("  weights                  safetensors\n"), "{}", inspected.stdout);
        let said = unpack::run(&model, &back, false, &SystemDisk).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            said.ends_with(
                "config.json and vocab.txt, the numbers restored exactly; the source was not a folder of .npy files"
            ),
            "{said}"
        );
        // npyz writes headers where the source had none: other bytes than numpy's, for the same shape and numbers.
        let (found, mut expected) = (files(&back), files(&weights));
        // The checkpoint was made without it.
        expected.retain(|name, _| name != "tokenizer.json");
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, bytes) in &expected {
            let same = match name.ends_with(".npy") {
                true => read_f32_npy(&back.join(name)) == read_f32_npy(&weights.join(name)),
                false => found[name] == *bytes,
            };
            assert!(same, "{name} differs");
        }
        pack(&request(&back, &again));
        let digest = |path: &Path| ModelFile::open(path).expect("a model").records().to_vec();
        assert!(digest(&again).iter().zip(digest(&model)).all(|(a, b)| a.digest == b.digest));
    }
}

#[test]
fn half_precision_is_unpacked_as_npy() {
    for (stored, descr) in [(Stored::F16, "'<f2'"), (Stored::Bf16, "'<V2'")] {
        let folder = TempDir::new("half");
        let (weights, checkpoint, model) = (folder.join("w"), folder.join("c"), folder.join("m.olmo"));
        let back = folder.join("back");
        write_weights(&weights, &small_config(), stored, 8);
        convert(&weights, &checkpoint, 1);
        pack(&request(&checkpoint, &model));
        unpack::run(&model, &back, false, &SystemDisk).unwrap_or_else(|error| panic!("{error}"));
        for (name, bytes) in files(&back).iter().filter(|(name, _)| name.ends_with(".npy")) {
            assert!(bytes[..128].windows(descr.len()).any(|window| window == descr.as_bytes()), "{name}");
        }
        let numbers = |folder: &Path| -> Vec<Vec<u8>> { tensors_of(folder).into_iter().map(|t| t.data).collect() };
        assert!(numbers(&back) == numbers(&weights));
    }
}

/// Row S13.
///
/// Row S16: an output that is a shard, or is among the shards.
#[test]
fn files_may_be_links_as_in_the_hub_cache() {
    let folder = TempDir::new("links");
    let (weights, plain) = (folder.join("w"), folder.join("plain"));
    write_weights(&weights, &small_config(), Stored::Bf16, 9);
    convert(&weights, &plain, 3);
    let (blobs, snapshot) = (folder.join("models/blobs"), folder.join("models/snapshots/1f6a"));
    fs::create_dir_all(&blobs).expect("a folder");
    fs::create_dir_all(&snapshot).expect("a folder");
    for (i, name) in files(&plain).keys().enumerate() {
        fs::rename(plain.join(name), blobs.join(format!("{i:064x}"))).expect("moved");
        symlink(format!("../../blobs/{i:064x}"), snapshot.join(name)).expect("linked");
    }
    let (model, expected) = (folder.join("m.olmo"), folder.join("npy.olmo"));
    pack(&request(&snapshot, &model));
    pack(&request(&weights, &expected));
    let digest = |path: &Path| content_digest(&ModelFile::open(path).expect("a model"));
    assert_eq!(digest(&model), digest(&expected));
    // A blob that is a shard is not a valid output path.
    let blob = fs::canonicalize(snapshot.join(shard_name(2, 3))).expect("a blob");
    let before = fs::read(&blob).expect("read");
    let arguments = [snapshot.to_str().expect("UTF-8"), blob.to_str().expect("UTF-8"), "--force"];
    let refused = run(PACK, arguments);
    let line = refused.refused(1);
    assert!(line.contains("is the same file as ") && line.contains("model-00002-of-00003.safetensors"), "{line}");
    assert!(fs::read(&blob).expect("read") == before);
}

/// Row S16.
#[test]
fn refuses_output_among_the_shards() {
    let folder = TempDir::new("among");
    let (weights, checkpoint) = (folder.join("w"), folder.join("c"));
    write_weights(&weights, &small_config(), Stored::F32, 10);
    convert(&weights, &checkpoint, 2);
    let before = files(&checkpoint);
    let refused = run(PACK, [&checkpoint, &checkpoint.join("m.olmo")]);
    assert!(refused.refused(1).contains("is inside the weights folder"), "{}", refused.stderr);
    assert!(files(&checkpoint) == before);
}

/// Row S15: a file that changes while it is packed.
#[test]
fn shards_modified_while_packing_are_reported() {
    let folder = TempDir::new("change");
    let (weights, checkpoint, model) = (folder.join("w"), folder.join("c"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 11);
    let tensors = tensors_of(&weights);
    convert(&weights, &checkpoint, 2);
    let shard = checkpoint.join(shard_name(2, 2));
    type Change = (fn(&Path), &'static str);
    let changes: [Change; 3] = [
        (|path| fs::write(path, fs::read(path).expect("read")).expect("written"), "changed while being packed"),
        (
            |path| File::options().write(true).open(path).and_then(|file| file.set_len(5000)).expect("cut"),
            "changed while being packed",
        ),
        (|path| fs::remove_file(path).expect("removed"), "No such file"),
    ];
    for (change, says) in changes {
        write_checkpoint(&checkpoint, &tensors, 2);
        let prepared = pack::prepare(&request(&checkpoint, &model)).unwrap_or_else(|error| panic!("{error}"));
        // Clocks of file systems tick in milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        change(&shard);
        let line = prepared.write(&SystemDisk, &|_, _| {}).expect_err("noticed").to_string();
        assert!(line.contains("model-00002-of-00002.safetensors: ") && line.contains(says), "{line}");
        assert!(!model.exists());
    }
}

/// The result of packing `folder` with these flags.
fn packed(folder: &Path, model: &Path, flags: &[&str]) -> olmo_tests::Finished {
    let paths = [folder.to_str().expect("UTF-8"), model.to_str().expect("UTF-8"), "--force"];
    run(PACK, paths.into_iter().chain(flags.iter().copied()))
}

#[test]
fn generation_config_json_sets_eos_ids() {
    let folder = TempDir::new("generation");
    let (weights, checkpoint, model) = (folder.join("w"), folder.join("c"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 12);
    let eos = |path: &Path| ModelFile::open(path).expect("a model").config().eos_token_ids.clone();
    for (text, ids) in [
        (r#"{"eos_token_id": [7, 1], "max_new_tokens": 9}"#, vec![7, 1]),
        (r#"{"eos_token_id": 7}"#, vec![7]),
        // Values that it lacks come from config.json.
        (r#"{"eos_token_id": null}"#, vec![1]),
        (r#"{"do_sample": true}"#, vec![1]),
    ] {
        fs::write(weights.join("generation_config.json"), text).expect("written");
        convert(&weights, &checkpoint, 1);
        for folder in [&weights, &checkpoint] {
            let finished = packed(folder, &model, &[]);
            let line = "  values      generation_config.json: eos_token_id\n";
            assert_eq!(finished.ok().contains(line), ids != [1], "{text}: {}", finished.stdout);
            assert_eq!(eos(&model), ids, "{text}");
        }
    }
    fs::write(weights.join("generation_config.json"), r#"{"eos_token_id": [7, 1]}"#).expect("written");
    packed(&weights, &model, &["--eos", "7,1"]).ok();
    let refused = packed(&weights, &model, &["--eos", "1"]);
    let says =
        "generation_config.json: eos_token_id is 7,1, expected 1 as set by --eos; correct one of them or leave out";
    assert!(refused.refused(1).contains(says), "{}", refused.stderr);
    // The folder that is unpacked is packed into the same model again.
    let (back, again) = (folder.join("back"), folder.join("again.olmo"));
    let said = unpack::run(&model, &back, false, &SystemDisk).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.ends_with(".npy files, config.json and generation_config.json, restored exactly"), "{said}");
    assert_eq!(fs::read(back.join("generation_config.json")).expect("read"), br#"{"eos_token_id": [7, 1]}"#);
    packed(&back, &again, &[]).ok();
    let digest = |path: &Path| content_digest(&ModelFile::open(path).expect("a model"));
    assert_eq!(digest(&again), digest(&model));
    assert_eq!(eos(&again), [7, 1]);
}

/// Row S.
#[test]
fn refuses_malformed_generation_config_json() {
    let folder = TempDir::new("bad-generation");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 13);
    let many: Vec<u32> = (0..17).collect();
    for (text, says) in [
        ("{", "EOF while parsing"),
        ("[]", "JSON that is not an object, expected a generation_config.json"),
        (r#"{"eos_token_id": "x"}"#, r#"eos_token_id is "x", expected a token id or a list of them"#),
        (r#"{"eos_token_id": [1, -1]}"#, "eos_token_id is -1, expected a token id or a list of them"),
        (r#"{"eos_token_id": 1, "eos_token_id": 2}"#, "duplicate key \"eos_token_id\""),
        (&format!("{{\"eos_token_id\": {many:?}}}"), "eos_token_id is 17 ids, expected at most 16 ids"),
        (&" ".repeat((1 << 20) + 1), "longer than 1 MiB"),
    ] {
        fs::write(weights.join("generation_config.json"), text).expect("written");
        let refused = packed(&weights, &model, &[]);
        let line = refused.refused(1);
        assert!(line.contains("generation_config.json: ") && line.contains(says), "{line}\nwants {says}");
    }
    fs::remove_file(weights.join("generation_config.json")).expect("removed");
    fs::create_dir(weights.join("generation_config.json")).expect("a folder");
    assert!(packed(&weights, &model, &[]).refused(1).contains("is a folder"));
}

#[test]
fn summary_and_dry_run_name_the_format() {
    let folder = TempDir::new("summary");
    let (weights, checkpoint, model) = (folder.join("w"), folder.join("c"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F16, 14);
    convert(&weights, &checkpoint, 1);
    let mut tensors = tensors_of(&weights);
    tensors.push(olmo_tests::safetensors::Tensor {
        name: "rotary.inv_freq".into(),
        dtype: "I64",
        shape: vec![3],
        data: vec![0; 24],
    });
    fs::write(checkpoint.join("model.safetensors"), file(&tensors)).expect("written");
    fs::write(checkpoint.join("other.safetensors"), "anything").expect("written");
    let said = packed(&checkpoint, &model, &["--allow-extra"]);
    assert!(said.ok().contains("  tensors     25 f16 in one safetensors file, "), "{}", said.stdout);
    assert!(said.stdout.contains("left out rotary.inv_freq, "), "{}", said.stdout);
    let json = packed(&checkpoint, &model, &["--allow-extra", "--dry-run", "--json"]);
    let json: serde_json::Value = serde_json::from_str(json.ok()).expect("JSON");
    assert_eq!((&json["source_format"], &json["source_files"]), (&"safetensors".into(), &1.into()));
    assert_eq!(json["ignored"][0], "rotary.inv_freq");
    fs::remove_file(npy_path(&weights, "model.norm.weight")).expect("removed");
    let json = packed(&weights, &model, &["--dry-run", "--json"]);
    assert!(json.refused(1).contains("model.norm.weight.npy: missing"), "{}", json.stderr);
}
