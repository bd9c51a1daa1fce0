//! The tokenizer and the chat format in a GGUF file are those of the folder that it was made from.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{Architecture, ModelConfig};
use olmo_infer::internals::format::section;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::{Model, Options};
use olmo_pack::commands::pack::{self, Request};
use olmo_tests::gguf::{Gguf, Meta, of_folder};
use olmo_tests::{Stored, TempDir, repository, small_config, small_olmo1, write_weights};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
/// A small tokenizer of this repository.
fn tokenizer(name: &str) -> Value {
    let path = repository().join("tests/tokenizers").join(name).join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON");
    let added = json["added_tokens"].as_array_mut().expect("a list");
    // The metadata do not describe tokens that match only before NFC, or only after it.
    added.retain(|token| token["content"].as_str().expect("text").is_ascii());
    // The ids follow each other, as `tokenizers` gives them.
    (700..).zip(added).for_each(|(id, token)| token["id"] = id.into());
    json
}

/// Sets the tokens of a `tokenizer.json` as the converter of llama.cpp writes them.
fn set_tokens(gguf: &mut Gguf, json: &Value, split: &str, rows: usize) {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![5; rows];
    for (text, id) in json["model"]["vocab"].as_object().expect("an object") {
        let id = id.as_u64().expect("an id") as usize;
        (tokens[id], types[id]) = (text.clone(), 1);
    }
    for added in json["added_tokens"].as_array().expect("a list") {
        let (id, text) = (added["id"].as_u64().expect("an id") as usize, added["content"].as_str().expect("text"));
        // Its converter takes such a spelling for a special one.
        let looks_special = text.starts_with("<|") && text.ends_with("|>");
        let is_control = added["special"] == true || looks_special;
        (tokens[id], types[id]) = (text.into(), if is_control { 3 } else { 4 });
    }
    let merge = |pair: &Value| format!("{} {}", pair[0].as_str().expect("text"), pair[1].as_str().expect("text"));
    let merges = json["model"]["merges"].as_array().expect("a list").iter().map(merge).collect();
    gguf.set("tokenizer.ggml.model", "gpt2");
    gguf.set("tokenizer.ggml.pre", split);
    gguf.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    gguf.set("tokenizer.ggml.token_type", Meta::I32s(types));
    gguf.set("tokenizer.ggml.merges", Meta::Texts(merges));
    gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
}

fn pack(weights: &Path, model: &Path) -> Vec<String> {
    let (weights, model) = (weights.to_path_buf(), model.to_path_buf());
    let request = Request { weights, model, program: Some(PACK.into()), ..Request::default() };
    let prepared = pack::prepare(&request).expect("a model");
    let warnings = prepared.warnings();
    prepared.write(&SystemDisk, &|_, _| ()).expect("packed");
    warnings
}

fn texts() -> Vec<String> {
    let lines = fs::read_to_string(repository().join("tests/tokenizers/texts.jsonl")).expect("texts");
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON string")).collect()
}

fn section_of(model: &Path, kind: u32) -> Option<Vec<u8>> {
    ModelFile::open(model).expect("a model").checked_section(kind).expect("a good one")
}

/// The models of a folder and of a GGUF file.
fn both(folder: &TempDir, config: &ModelConfig, json: &Value, split: &str, template: Option<&str>) -> Vec<String> {
    let weights = folder.join("w");
    write_weights(&weights, config, Stored::F32, 1);
    let mut gguf = of_folder(&weights, config);
    set_tokens(&mut gguf, json, split, config.vocab_size);
    fs::write(weights.join("tokenizer.json"), json.to_string()).expect("written");
    // Transformers builds the tokenizer of an OLMo-1 of this class from the whole file.
    let mut settings = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"});
    if let Some(template) = template {
        gguf.set("tokenizer.chat_template", template);
        settings["chat_template"] = template.into();
    }
    fs::write(weights.join("tokenizer_config.json"), settings.to_string()).expect("written");
    fs::write(folder.join("m.gguf"), gguf.bytes()).expect("written");
    pack(&weights, &folder.join("folder.olmo"));
    pack(&folder.join("m.gguf"), &folder.join("gguf.olmo"))
}

#[test]
fn gguf_file_gives_ids_of_its_folder() {
    let rows = |config: ModelConfig| ModelConfig { vocab_size: 730, eos_token_ids: vec![709], ..config };
    let cases = [
        (rows(small_config()), "small-dolma2", &["dbrx", "dolma2", "smaug-bpe"][..]),
        (rows(small_olmo1()), "small-gpt2", &["olmo", "gpt-2"]),
    ];
    for (config, name, splits) in cases {
        let json = tokenizer(name);
        for split in splits {
            let folder = TempDir::new("gguf-tokens");
            let warnings = both(&folder, &config, &json, split, None);
            assert!(warnings.is_empty(), "{name} {split}: {warnings:?}");
            let [expected, found] = ["folder.olmo", "gguf.olmo"].map(|name| folder.join(name));
            let vocabulary = section_of(&expected, section::VOCABULARY);
            assert!(vocabulary.is_some() && vocabulary == section_of(&found, section::VOCABULARY), "{name} {split}");
            let [expected, found] = [expected, found].map(|path| Model::open(path).expect("a model"));
            let mut n_ids = 0;
            for text in texts() {
                let ids = found.encode(&text).expect("ids");
                assert_eq!(ids, expected.encode(&text).expect("ids"), "{name} {split}: {text:?}");
                n_ids += ids.len();
            }
            assert!(n_ids > 10_000, "{n_ids}");
            assert_eq!(found.config().eos_token_ids, expected.config().eos_token_ids);
            found.session(Options::new(4)).expect("a session");
        }
    }
}

#[test]
fn gguf_file_gives_chat_format_of_its_folder() {
    let config = ModelConfig { vocab_size: 730, eos_token_ids: vec![709], ..small_config() };
    for template in ["olmo2-instruct", "olmo3-instruct", "chatml"] {
        let path = repository().join("tests/chat_templates").join(format!("{template}.jinja"));
        let text = fs::read_to_string(path).expect("read");
        let folder = TempDir::new("gguf-chat");
        both(&folder, &config, &tokenizer("small-dolma2"), "dbrx", Some(&text));
        let [expected, found] =
            ["folder.olmo", "gguf.olmo"].map(|name| section_of(&folder.join(name), section::CHAT).expect("a format"));
        assert_eq!(found, expected, "{template}");
    }
}

/// Another vocabulary replaces that of the file.
#[test]
fn given_vocabulary_replaces_that_of_the_file() {
    let config = ModelConfig { vocab_size: 730, eos_token_ids: vec![709], ..small_config() };
    let (folder, json) = (TempDir::new("gguf-vocab"), tokenizer("small-dolma2"));
    both(&folder, &config, &json, "default", None);
    // Without it ids have their text, and text has no ids.
    let [expected, found] =
        ["folder.olmo", "gguf.olmo"].map(|name| section_of(&folder.join(name), section::VOCABULARY));
    assert!(found.is_some() && found == expected);
    let refused =
        Model::open(folder.join("gguf.olmo")).expect("a model").encode("a").expect_err("no split").to_string();
    assert!(refused.contains("tokenizer.ggml.pre is default, not a split of OLMo"), "{refused}");
    let request = Request {
        weights: folder.join("m.gguf"),
        model: folder.join("again.olmo"),
        vocab: Some(folder.join("w/tokenizer.json")),
        ..Request::default()
    };
    pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ())).expect("packed");
    let [expected, found] =
        ["folder.olmo", "again.olmo"].map(|name| section_of(&folder.join(name), section::TOKENIZER));
    assert!(expected.is_some() && expected == found);
    assert_eq!(config.architecture, Architecture::Olmo2);
}
