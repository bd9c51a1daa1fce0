//! A GGUF file is packed into the same model as the folder that it was made from.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::section;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::facts::content_digest;
use olmo_pack::commands::pack::{self, DtypeChoice, Prepared, Request};
use olmo_pack::commands::verify;
use olmo_pack::folder::element::f16_to_f32;
use olmo_pack::folder::gguf::tensor_type::TensorType;
use olmo_pack::folder::listing::Listing;
use olmo_tests::gguf::{Gguf, Meta, Tensor, blocks, interleaved, of_folder};
use olmo_tests::{
    Random, Stored, TempDir, reference_cases, run, small_config, small_olmo1, small_olmo3, write_npy, write_weights,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The types of blocks that are read.
const BLOCKS: [(u32, &str); 4] = [(8, "Q8_0"), (2, "Q4_0"), (20, "IQ4_NL"), (14, "Q6_K")];

fn prepared(weights: &Path, model: &Path, dtype: DtypeChoice) -> Prepared {
    let request = Request { dtype, force: true, weights: weights.into(), model: model.into(), ..Request::default() };
    pack::prepare(&request).unwrap_or_else(|error| panic!("{}: {error}", weights.display()))
}

/// Packs in process; returns the warnings.
#[track_caller]
fn pack(weights: &Path, model: &Path, dtype: DtypeChoice) -> (ModelFile, Vec<String>) {
    let prepared = prepared(weights, model, dtype);
    let warnings = prepared.warnings();
    prepared.write(&SystemDisk, &|_, _| ()).unwrap_or_else(|error| panic!("{}: {error}", weights.display()));
    (ModelFile::open(model).expect("a model"), warnings)
}

/// Compares the models of a folder and of a GGUF file in some types.
#[track_caller]
fn assert_same(weights: &Path, gguf: &Gguf, types: &[DtypeChoice]) {
    let folder = TempDir::new("gguf");
    let file = folder.join("m.gguf");
    fs::write(&file, gguf.bytes()).expect("written");
    for &dtype in types {
        let (expected, _) = pack(weights, &folder.join("expected.olmo"), dtype);
        let (found, warnings) = pack(&file, &folder.join("found.olmo"), dtype);
        let name = format!("{} as {}", weights.display(), dtype.name());
        assert_eq!(warnings, Vec::<String>::new(), "{name}");
        assert_eq!(found.config(), expected.config(), "{name}");
        let digests = |model: &ModelFile| -> Vec<u64> { model.records().iter().map(|r| r.digest.get()).collect() };
        assert_eq!(digests(&found), digests(&expected), "{name}");
        assert_eq!(content_digest(&found), content_digest(&expected), "{name}");
        let text = verify::run_against(&folder.join("found.olmo"), &file).expect("the same");
        assert!(text.contains(": ok, the numbers of "), "{text}");
    }
}

#[test]
fn gguf_file_gives_model_of_its_folder() {
    let tied = |config: ModelConfig| ModelConfig { tie_word_embeddings: true, ..config };
    let every_second = ModelConfig { layer_types: vec![AttentionKind::Full, AttentionKind::Sliding], ..small_olmo3() };
    let configs = [
        small_config(),
        tied(small_config()),
        small_olmo1(),
        tied(ModelConfig { clip_qkv: None, ..small_olmo1() }),
        small_olmo3(),
        ModelConfig { yarn: None, ..small_olmo3() },
        every_second,
    ];
    for (seed, config) in (1..).zip(&configs) {
        for stored in [Stored::F32, Stored::F16, Stored::Bf16] {
            let folder = TempDir::new("gguf-folder");
            write_weights(&folder.join("w"), config, stored, seed);
            let types = [DtypeChoice::Auto, DtypeChoice::F32, DtypeChoice::Bf16, DtypeChoice::Int8, DtypeChoice::Int4];
            assert_same(&folder.join("w"), &of_folder(&folder.join("w"), config), &types);
        }
    }
}

#[test]
fn reference_models_have_the_same_tensors_as_gguf() {
    // llama.cpp has no other families, or has the experts of OLMoE in tensors of its own.
    let dense = |case: &PathBuf| {
        let config = fs::read_to_string(case.join("weights/config.json")).expect("a config.json");
        ["olmo", "olmo2", "olmo3"].iter().any(|family| config.contains(&format!("\"model_type\": \"{family}\"")))
    };
    for case in reference_cases().into_iter().filter(dense) {
        let weights = case.join("weights");
        let folder = TempDir::new("gguf-golden");
        let (expected, _) = pack(&weights, &folder.join("expected.olmo"), DtypeChoice::F32);
        let gguf = of_folder(&weights, expected.config());
        fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
        let (found, _) = pack(&folder.join("m.gguf"), &folder.join("found.olmo"), DtypeChoice::F32);
        assert_eq!(found.config(), expected.config(), "{}", case.display());
        assert_eq!(content_digest(&found), content_digest(&expected), "{}", case.display());
    }
}

/// A model whose matrices have whole blocks of 32 and of 256.
pub fn block_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 256,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        intermediate_size: 256,
        vocab_size: 70,
        layer_types: vec![AttentionKind::Full],
        ..small_config()
    }
}

/// The numbers of blocks, computed in another way than by the converter: element by element.
fn numbers(name: &str, data: &[u8], n_elements: usize) -> Vec<f32> {
    let half = |at: usize| f32::from_bits(f16_to_f32(u16::from_le_bytes([data[at], data[at + 1]])));
    let levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let number = |i: usize| match name {
        "Q8_0" => half(i / 32 * 34) * f32::from(data[i / 32 * 34 + 2 + i % 32] as i8),
        "Q6_K" => {
            let (block, i) = (i / 256 * 210, i % 256);
            let (half_block, i) = (i / 128, i % 128);
            let low = data[block + half_block * 64 + i % 64] >> (i / 64 * 4) & 15;
            let high = data[block + 128 + half_block * 32 + i % 32] >> (i / 32 * 2) & 3;
            let scale = data[block + 192 + half_block * 8 + i / 16] as i8;
            half(block + 208) * f32::from(scale) * f32::from((high * 16 + low) as i8 - 32)
        }
        _ => {
            let (block, i) = (i / 32 * 18, i % 32);
            let code = usize::from(data[block + 2 + i % 16] >> (i / 16 * 4) & 15);
            half(block) * if name == "Q4_0" { code as f32 - 8.0 } else { levels[code] as f32 }
        }
    };
    (0..n_elements).map(number).collect()
}

/// Gives the matrices blocks of the type that `choose` returns, writes their numbers to the folder too, and returns the
/// file.
fn with_blocks(weights: &Path, config: &ModelConfig, choose: impl Fn(&str) -> Option<u32>) -> Gguf {
    write_weights(weights, config, Stored::F32, 7);
    let mut gguf = of_folder(weights, config);
    let mut random = Random(11);
    for tensor in &mut gguf.tensors {
        let Some(kind) = choose(&tensor.name).filter(|_| tensor.shape.len() == 2) else { continue };
        let kind = TensorType::with_code(kind).expect("a type");
        let n_elements = tensor.shape.iter().product::<u64>();
        let data = blocks(kind, n_elements, &mut random);
        let numbers = numbers(kind.name, &data, n_elements as usize);
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let name = olmo_pack::folder::gguf::names::of_checkpoint(&tensor.name).expect("a name");
        let shape: Vec<usize> = tensor.shape.iter().map(|&size| size as usize).collect();
        write_npy(&olmo_tests::npy_path(weights, &name), "<f4", &shape, &bytes);
        let is_rotated = tensor.name.ends_with("attn_q.weight") || tensor.name.ends_with("attn_k.weight");
        let is_olmo1 = config.architecture == small_olmo1().architecture;
        let row_bytes = data.len() / shape[0];
        tensor.data = if is_olmo1 && is_rotated { interleaved(&data, row_bytes, config.head_dim) } else { data };
        tensor.kind = kind.code;
    }
    gguf
}

#[test]
fn blocks_give_their_numbers() {
    for (kind, name) in BLOCKS.into_iter().filter(|(_, name)| *name != "Q6_K") {
        for config in [block_config(), ModelConfig { architecture: small_olmo1().architecture, ..small_olmo1() }] {
            let config =
                ModelConfig { architecture: config.architecture, rms_norm_eps: config.rms_norm_eps, ..block_config() };
            let folder = TempDir::new("gguf-blocks");
            let gguf = with_blocks(&folder.join("w"), &config, |_| Some(kind));
            assert_same(&folder.join("w"), &gguf, &[DtypeChoice::F32, DtypeChoice::Bf16]);
            let listing_file = folder.join("m.gguf");
            fs::write(&listing_file, gguf.bytes()).expect("written");
            // The blocks themselves, in the order of the checkpoint.
            let listing = Listing::read(&listing_file).expect("a file");
            let tensor = listing.tensor("model.layers.0.self_attn.q_proj.weight", false).expect("a tensor");
            assert_eq!((tensor.type_name(), tensor.rows.blocks.map(|block| block.name())), (name, Some(name)));
            let row_bytes = 256 / 32 * tensor.rows.blocks.expect("blocks").bytes();
            let mut rows = vec![0; 3 * row_bytes];
            tensor.read_blocks(30, &mut rows).expect("read");
            let mut elements = vec![0; 3 * 256 * 4];
            tensor.read(30 * 256 * 4, &mut elements).expect("read");
            let numbers: Vec<u8> = numbers(name, &rows, 3 * 256).iter().flat_map(|n| n.to_le_bytes()).collect();
            assert_eq!(numbers, elements, "{name}");
        }
    }
}

/// The numbers of all matrices.
fn all_numbers(model: &ModelFile) -> Vec<Vec<f32>> {
    let matrices = (0..model.specs().len()).filter_map(|index| model.matrix(index));
    matrices
        .map(|matrix| {
            let mut numbers = vec![0.0; matrix.shape.rows * matrix.shape.columns];
            let rows = numbers.chunks_exact_mut(matrix.shape.columns).enumerate();
            rows.for_each(|(row, numbers)| matrix.copy_row(row, numbers));
            numbers
        })
        .collect()
}

#[test]
fn blocks_are_stored_as_they_are() {
    let olmo1 = ModelConfig { architecture: small_olmo1().architecture, rms_norm_eps: 1e-5, ..block_config() };
    for (kind, grade, other, encoding) in [
        (8, DtypeChoice::Int8, DtypeChoice::Int4, "int8-f16"),
        (2, DtypeChoice::Int4, DtypeChoice::Int8, "int4-f16"),
        (20, DtypeChoice::Int4, DtypeChoice::Int8, "int4-f16"),
    ] {
        for config in [block_config(), olmo1.clone()] {
            let folder = TempDir::new("gguf-kept");
            // The head of files of 4 bits is Q6_K.
            let kind_of = |name: &str| Some(if name == "output.weight" && kind != 8 { 14 } else { kind });
            let gguf = with_blocks(&folder.join("w"), &config, kind_of);
            fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
            let (exact, _) = pack(&folder.join("w"), &folder.join("f32.olmo"), DtypeChoice::F32);
            for dtype in [DtypeChoice::Auto, grade] {
                let (kept, _) = pack(&folder.join("m.gguf"), &folder.join("kept.olmo"), dtype);
                let encodings = kept.specs().iter().enumerate().filter(|(_, spec)| spec.columns.is_some());
                for (index, spec) in encodings {
                    let is_head = spec.name() == "lm_head.weight" && kind != 8;
                    let expected = if is_head { "int8" } else { encoding };
                    assert_eq!(kept.encoding(index).name(), expected, "{}", spec.name());
                    assert_eq!(kept.records()[index].rounded.get() == 0, expected == encoding, "{}", spec.name());
                }
                let names = kept.specs().iter().filter(|spec| spec.columns.is_some());
                for ((spec, kept), exact) in names.zip(all_numbers(&kept)).zip(all_numbers(&exact)) {
                    let is_recoded = kind != 8 && spec.name() == "lm_head.weight";
                    assert!(is_recoded || kept == exact, "{encoding} {}", spec.name());
                }
                verify::run(&folder.join("kept.olmo")).expect("good");
            }
            let (coded, _) = pack(&folder.join("m.gguf"), &folder.join("other.olmo"), other);
            let gate = coded.specs().iter().position(|spec| spec.name().contains("gate_proj")).expect("a matrix");
            assert_eq!(coded.encoding(gate).name(), other.name());
        }
    }
}

#[test]
fn blocks_are_shown_as_they_are_stored() {
    for (kind, encodings) in [(8, "9 int8-f16 in 8.50 bits"), (2, "8 int4-f16, 1 int8")] {
        let folder = TempDir::new("gguf-shown");
        let kind_of = |name: &str| Some(if name == "output.weight" && kind != 8 { 14 } else { kind });
        let gguf = with_blocks(&folder.join("w"), &block_config(), kind_of);
        let file = folder.join("m.gguf");
        fs::write(&file, gguf.bytes()).expect("written");
        let model = folder.join("m.olmo");
        let pack = |flags: &[&str]| {
            let arguments = [file.to_str(), model.to_str()].map(|argument| argument.expect("UTF-8"));
            run(PACK, arguments.iter().chain(flags)).ok().to_string()
        };
        let planned = pack(&["--dry-run"]);
        assert_eq!(planned.matches("  size  ").count(), 1, "{planned}");
        let planned_json: serde_json::Value = serde_json::from_str(&pack(&["--dry-run", "--json"])).expect("JSON");
        let packed = pack(&[]);
        let json: serde_json::Value = serde_json::from_str(&pack(&["--force", "--json"])).expect("JSON");
        let bytes = fs::metadata(&model).expect("a model").len();
        assert!(planned.contains(&format!("({bytes} bytes)")), "{planned}");
        let sizes = planned_json["file_bytes"].as_object().expect("sizes");
        assert_eq!(sizes.values().collect::<Vec<_>>(), [&serde_json::Value::from(bytes)]);
        for text in [&planned, &packed] {
            assert!(text.contains(encodings), "{text}");
        }
        // Only the head was recoded.
        assert_eq!(packed.contains("nothing lost"), kind == 8, "{packed}");
        assert_eq!(packed.contains("relative RMS error"), kind != 8, "{packed}");
        let data: usize = gguf.tensors.iter().map(|tensor| tensor.data.len()).sum();
        assert_eq!(json["source_bytes"], data);
        assert!(verify::run_against(&model, &file).expect("the same").contains(": ok, the numbers of "));
    }
}

#[test]
fn superfluous_tensors_of_other_types_can_be_left_out() {
    let folder = TempDir::new("gguf-extra");
    let mut gguf = with_blocks(&folder.join("w"), &block_config(), |_| Some(8));
    // Q5_K, which is not read.
    let extra = Tensor { name: "extra.weight".into(), kind: 13, shape: vec![1, 256], data: vec![0; 176], offset: None };
    gguf.tensors.push(extra);
    fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
    let arguments = ["m.gguf", "m.olmo"].map(|name| folder.join(name));
    let line = run(PACK, &arguments).refused(1).to_string();
    assert!(line.contains("extra.weight") && line.contains("--allow-extra"), "{line}");
    run(PACK, arguments.iter().map(|path| path.as_os_str()).chain(["--allow-extra".as_ref()])).ok();
}

#[test]
fn an_integer_of_minus_128_is_refused() {
    let folder = TempDir::new("gguf-128");
    let mut gguf = with_blocks(&folder.join("w"), &block_config(), |_| Some(8));
    let tensor = gguf.tensors.iter_mut().find(|tensor| tensor.name == "output.weight").expect("a head");
    tensor.data[34 * 70 + 5] = 0x80;
    fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
    let error = prepared(&folder.join("m.gguf"), &folder.join("m.olmo"), DtypeChoice::Auto)
        .write(&SystemDisk, &|_, _| ())
        .expect_err("refused");
    let error = error.to_string();
    assert!(error.contains("lm_head.weight") && error.contains("-128"), "{error}");
    pack(&folder.join("m.gguf"), &folder.join("m.olmo"), DtypeChoice::Bf16);
}

#[test]
fn reads_begin_and_end_anywhere() {
    let folder = TempDir::new("gguf-pieces");
    let config = ModelConfig { architecture: small_olmo1().architecture, rms_norm_eps: 1e-5, ..block_config() };
    let gguf = with_blocks(&folder.join("w"), &config, |_| Some(8));
    fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
    let listing = Listing::read(&folder.join("m.gguf")).expect("a file");
    let mut random = Random(3);
    for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"] {
        let tensor = listing.tensor(name, false).expect("a tensor");
        let mut whole = vec![0; tensor.bytes as usize];
        tensor.read(0, &mut whole).expect("read");
        for _ in 0..300 {
            let begin = random.below(whole.len());
            let length = random.below((whole.len() - begin).min(70_000) + 1);
            let mut piece = vec![0; length];
            tensor.read(begin as u64, &mut piece).expect("read");
            assert!(piece == whole[begin..begin + length], "{name}: {length} bytes at {begin}");
        }
    }
}

#[test]
fn q6_k_head_is_recoded_next_to_layers_of_four_bits() {
    for (layers, tie) in [(2, false), (20, false), (2, true)] {
        let config = ModelConfig { tie_word_embeddings: tie, ..block_config() };
        let head = if tie { "token_embd.weight" } else { "output.weight" };
        let folder = TempDir::new("gguf-head");
        let gguf = with_blocks(&folder.join("w"), &config, |name| Some(if name == head { 14 } else { layers }));
        fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
        let (expected, _) = pack(&folder.join("w"), &folder.join("expected.olmo"), DtypeChoice::F32);
        let (found, warnings) = pack(&folder.join("m.gguf"), &folder.join("found.olmo"), DtypeChoice::F32);
        assert_eq!(content_digest(&found), content_digest(&expected));
        let says = format!("{head} is Q6_K, which has no equal here: its numbers are stored in another type");
        assert_eq!(warnings, [says]);
    }
}

#[test]
fn rounding_of_blocks_is_reported() {
    let folder = TempDir::new("gguf-rounding");
    let gguf = with_blocks(&folder.join("w"), &block_config(), |_| Some(8));
    let file = folder.join("m.gguf");
    fs::write(&file, gguf.bytes()).expect("written");
    let model = folder.join("m.olmo");
    let pack = |dtype| {
        let arguments = [file.to_str(), model.to_str(), Some("--force"), Some("--dtype"), Some(dtype)];
        run(PACK, arguments.map(|argument| argument.expect("UTF-8"))).ok().to_string()
    };
    let text = pack("f32");
    assert!(text.contains("9 Q8_0 in one GGUF file") || text.contains("5 f32, 9 Q8_0 in one GGUF file"), "{text}");
    assert!(text.contains("nothing lost"), "{text}");
    assert!(text.contains("GGUF metadata: "), "{text}");
    let text = pack("bf16");
    assert!(text.contains("rounding    ") && !text.contains("nothing lost"), "{text}");
}

#[test]
fn metadata_have_the_last_word_only_where_no_flag_is_given() {
    let folder = TempDir::new("gguf-flags");
    write_weights(&folder.join("w"), &small_config(), Stored::F32, 1);
    let mut gguf = of_folder(&folder.join("w"), &small_config());
    gguf.unset("olmo2.rope.freq_base");
    let file = folder.join("m.gguf");
    fs::write(&file, gguf.bytes()).expect("written");
    let pack = |arguments: &[&str]| {
        let paths = [file.to_str().expect("UTF-8"), folder.path().to_str().expect("UTF-8")];
        let model = format!("{}/m.olmo", paths[1]);
        run(PACK, [&[paths[0], &model, "--force"], arguments].concat())
    };
    let line = pack(&[]).refused(1).to_string();
    assert!(
        line.contains("m.gguf: no olmo2.rope.freq_base, expected the model's value; add it or pass --rope-theta"),
        "{line}"
    );
    pack(&["--rope-theta", "10000"]).ok();
    let line = pack(&["--rope-theta", "10000", "--max-positions", "7"]).refused(1).to_string();
    let says = "m.gguf: olmo2.context_length is 64, expected 7 as set by --max-positions; correct one of them";
    assert!(line.contains(says), "{line}");
    let line = pack(&["--rope-theta", "10000", "--head-dim", "8"]).refused(1).to_string();
    assert!(line.contains("leave out --head-dim") && !line.contains("config.json"), "{line}");
}

#[test]
fn provenance_names_the_format() {
    let folder = TempDir::new("gguf-provenance");
    write_weights(&folder.join("w"), &small_config(), Stored::F32, 1);
    let mut gguf = of_folder(&folder.join("w"), &small_config());
    gguf.set("olmo2.new_key", Meta::U32(1));
    fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
    let (model, warnings) = pack(&folder.join("m.gguf"), &folder.join("m.olmo"), DtypeChoice::Auto);
    assert_eq!(warnings, ["olmo2.new_key of the GGUF file is not known, and ignored"]);
    let bytes = model.checked_section(section::PROVENANCE).expect("a good one").expect("a section");
    let text = String::from_utf8(bytes).expect("text");
    assert!(text.contains("weights=gguf\n") && text.contains("hidden_size=GGUF metadata\n"), "{text}");
    assert!(model.checked_section(section::CONFIG_JSON).expect("good").is_none());
}
