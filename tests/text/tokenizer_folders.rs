//! Small folders with a tokenizer, each a changed copy of one in this repository, compared with the ids of
//! transformers: the cases of `scripts/make_tokenizer_goldens.py`. Ids are the same, or olmo-pack states why they may
//! differ.

use olmo_infer::internals::format::config::Architecture;
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::text::tokenizer_json::{self, Around, TokenizerJson};
use olmo_pack::text::tokenizer_settings;
use olmo_tests::{TempDir, repository};
use serde_json::Value;
use std::fs;

fn goldens() -> Value {
    let bytes = fs::read(repository().join("tests/tokenizers/folders.json")).expect("read");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The tokenizer.json of a case.
fn changed(case: &Value) -> Value {
    let base = case["base"].as_str().expect("a name");
    let path = repository().join("tests/tokenizers").join(base).join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON");
    for change in case["changes"].as_array().expect("a list") {
        let keys = change[0].as_array().expect("a path");
        let pointer: String = keys.iter().map(|key| format!("/{}", key.as_str().expect("a key"))).collect();
        let (parent, key) = pointer.rsplit_once('/').expect("a path");
        json.pointer_mut(parent).expect("there")[key] = change[1].clone();
    }
    json
}

/// The result of packing the folder of a case.
fn read(case: &Value) -> TokenizerJson {
    let folder = TempDir::new("tokenizer-folder");
    let tokenizer = folder.join("tokenizer.json");
    fs::write(&tokenizer, changed(case).to_string()).expect("written");
    let files = case["files"].as_object().expect("an object");
    let names = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
    assert!(files.keys().all(|name| names.contains(&name.as_str())), "{files:?}");
    let [config, map, added] =
        names.map(|name| files.get(name).and_then(Value::as_object).cloned().unwrap_or_default());
    let architecture = match case["model_type"].as_str() {
        Some("olmo") => Architecture::Olmo1,
        _ => Architecture::Olmo2,
    };
    let around = Around {
        vocab_size: case["rows"].as_u64().expect("a number") as usize,
        architecture: Some(architecture),
        settings: tokenizer_settings::settings(config, map, &added),
    };
    tokenizer_json::read(&tokenizer, &around).expect("tokens")
}

/// The ids of each text; `None` for one that is refused.
fn encoded(read: &TokenizerJson, section: &[u8], rows: &Value, texts: &[Value]) -> Vec<Option<Vec<u32>>> {
    let tokens = read.vocabulary.section();
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let tokenizer = Tokenizer::in_section(section, &vocabulary).expect("a tokenizer");
    let n_rows = rows.as_u64().expect("a number") as usize;
    let encoder = Encoder::new(&Tokenizer { n_rows, ..tokenizer }).expect("an encoder");
    texts.iter().map(|text| encoder.encode(text.as_str().expect("text")).ok()).collect()
}

/// Row X2, folders that change ids.
#[test]
fn folders_give_the_ids_of_transformers_or_a_reason() {
    let goldens = goldens();
    let texts = goldens["texts"].as_array().expect("texts");
    let (mut faults, mut counts) = (Vec::new(), [0; 3]);
    for case in goldens["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let read = read(case);
        let says = case["says"].as_str();
        let expected: Option<Vec<Option<Vec<u32>>>> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let found = read.tokenizer.as_ref().map(|section| encoded(&read, section, &case["rows"], texts));
        let told = |lines: &[String]| says.is_none_or(|says| lines.iter().any(|line| line.contains(says)));
        let (kind, is_right) = match (case["expect"].as_str().expect("an outcome"), &found) {
            ("same", Ok(ids)) => (
                0,
                Some(ids) == expected.as_ref() && told(&read.warnings) && says.is_none() == read.warnings.is_empty(),
            ),
            ("refused", Err(why)) => (1, told(&[why.to_string()])),
            ("warned", Ok(_)) => (2, says.is_some() && told(&read.warnings)),
            (_, _) => (0, false),
        };
        counts[kind] += 1;
        if !is_right {
            let differs = match (&found, &expected) {
                (Ok(found), Some(expected)) => found.iter().zip(expected).position(|(a, b)| a != b),
                _ => None,
            };
            let pair = differs.map(|i| (i, &found.as_ref().expect("ids")[i], &expected.as_ref().expect("ids")[i]));
            faults.push(format!(
                "{name}: expected {} {says:?}; refused: {:?}, warnings {:?}, ids {pair:?}",
                case["expect"],
                found.as_ref().err(),
                read.warnings
            ));
        }
    }
    assert!(faults.is_empty(), "{} of {counts:?}:\n{}", faults.len(), faults.join("\n"));
    assert!(counts[0] >= 70 && counts[1] >= 20 && counts[2] >= 2, "{counts:?}");
}
