//! A file that the Python package gguf wrote, `scripts/make_gguf_golden.py`: its numbers are those that the package
//! reads in it, and the writer of the tests gives the same bytes.

use olmo_infer::internals::format::digest;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::pack::{self, DtypeChoice, Request};
use olmo_pack::folder::element::{SourceType, widen};
use olmo_pack::folder::gguf::names;
use olmo_pack::folder::listing::Listing;
use olmo_tests::gguf::{Gguf, Meta, Tensor};
use olmo_tests::{TempDir, repository};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

fn folder() -> PathBuf {
    repository().join("tests/golden-gguf")
}

fn expected() -> Vec<(String, Value)> {
    let text = fs::read(folder().join("expected.json")).expect("read");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    json.as_object().expect("an object").clone().into_iter().collect()
}

#[test]
fn numbers_are_those_of_the_package() {
    let listing = Listing::read(&folder().join("model.gguf")).expect("a file");
    let expected = expected();
    assert_eq!(listing.tensors.len(), expected.len());
    for (name, expected) in expected {
        let of_checkpoint = names::of_checkpoint(&name).expect("a tensor of OLMo");
        let tensor = listing.tensor(&of_checkpoint, false).expect("a tensor");
        assert_eq!(tensor.type_name().to_uppercase(), expected["type"], "{name}");
        assert_eq!(serde_json::json!(tensor.shape), expected["shape"], "{name}");
        let (mut bytes, mut bits) = (vec![0; tensor.bytes as usize], Vec::new());
        tensor.read(0, &mut bytes).expect("read");
        widen(tensor.element, &bytes, &mut bits);
        let first: Vec<f64> = bits[..4].iter().map(|&bits| f32::from_bits(bits).into()).collect();
        assert_eq!(serde_json::json!(first), expected["first"], "{name}");
        let numbers: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        assert_eq!(format!("{:016x}", digest(&numbers, 0)), expected["xxh3"], "{name}");
    }
}

/// The metadata that the script adds, in its order.
fn keys() -> Vec<(String, Meta)> {
    let rows = 40;
    let pads = (4..rows).map(|i| format!("[PAD{i}]"));
    let tokens = ["a", "b", "ab", "<|endoftext|>"].map(String::from).into_iter().chain(pads).collect();
    let types = [1, 1, 1, 3].into_iter().chain(std::iter::repeat_n(5, rows - 4)).collect();
    let keys = [
        ("general.architecture", Meta::from("olmo2")),
        ("general.name", Meta::from("A small OLMo-2")),
        ("olmo2.context_length", Meta::U32(64)),
        ("olmo2.embedding_length", Meta::U32(256)),
        ("olmo2.block_count", Meta::U32(1)),
        ("olmo2.feed_forward_length", Meta::U32(32)),
        ("olmo2.attention.head_count", Meta::U32(2)),
        ("olmo2.attention.head_count_kv", Meta::U32(1)),
        ("olmo2.attention.key_length", Meta::U32(16)),
        ("olmo2.attention.value_length", Meta::U32(16)),
        ("olmo2.attention.layer_norm_rms_epsilon", Meta::F32(1e-6)),
        ("olmo2.rope.freq_base", Meta::F32(500_000.0)),
        ("tokenizer.ggml.model", Meta::from("gpt2")),
        ("tokenizer.ggml.pre", Meta::from("dbrx")),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::I32s(types)),
        ("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()])),
        ("tokenizer.ggml.eos_token_id", Meta::U32(3)),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
    ];
    keys.map(|(key, value)| (key.to_string(), value)).into()
}

#[test]
fn writer_of_the_tests_gives_the_bytes_of_the_package() {
    let file = fs::read(folder().join("model.gguf")).expect("read");
    let listing = Listing::read(&folder().join("model.gguf")).expect("a file");
    let mut gguf = Gguf::new(keys());
    for (name, _) in expected() {
        let tensor = listing.tensor(&names::of_checkpoint(&name).expect("a name"), false).expect("a tensor");
        let kind = match (tensor.type_name(), tensor.element) {
            ("Q8_0", _) => 8,
            ("Q4_0", _) => 2,
            ("IQ4_NL", _) => 20,
            ("Q6_K", _) => 14,
            (_, SourceType::F16) => 1,
            (_, SourceType::Bf16) => 30,
            _ => 0,
        };
        let n_elements = tensor.shape.iter().product::<u64>() as usize;
        let bytes = match tensor.rows.blocks {
            Some(block) => n_elements / block.elements() * block.bytes(),
            None => n_elements * tensor.element.bytes(),
        };
        let data = file[tensor.offset as usize..][..bytes].to_vec();
        gguf.tensors.push(Tensor { name, kind, shape: tensor.shape, data, offset: None });
    }
    assert!(gguf.bytes() == file);
}

/// Next to layers of other types a head of Q6_K is refused. Where the model has no head of its own, it is left out like
/// any other tensor.
#[test]
fn file_of_the_package_is_packed_without_its_head() {
    let mut bytes = fs::read(folder().join("model.gguf")).expect("read");
    let out = TempDir::new("gguf-golden");
    let request = |weights: PathBuf| Request { weights, model: out.join("m.olmo"), ..Request::default() };
    let error = pack::prepare(&request(folder().join("model.gguf"))).err().expect("refused").to_string();
    assert!(error.contains("output.weight: type Q6_K; storing it in another type"), "{error}");
    // The name of another tensor, which a tied model does not have.
    let name = b"output.weight";
    let at = bytes.windows(name.len()).rposition(|window| window == name).expect("there");
    bytes[at..at + name.len()].copy_from_slice(b"another.thing");
    fs::write(out.join("m.gguf"), bytes).expect("written");
    let error = pack::prepare(&request(out.join("m.gguf"))).err().expect("refused").to_string();
    assert!(
        error.contains("another.thing: not a parameter of this model") && error.contains("--allow-extra"),
        "{error}"
    );
    let request = Request { allow_extra: true, dtype: DtypeChoice::F32, ..request(out.join("m.gguf")) };
    let prepared = pack::prepare(&request).expect("left out");
    assert!(prepared.checkpoint.settings.config.tie_word_embeddings);
    prepared.write(&SystemDisk, &|_, _| ()).expect("packed");
}
