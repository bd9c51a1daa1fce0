//! Text becomes the ids that the crate `tokenizers` gives, for thousands of texts of every kind: those of
//! `scripts/make_tokenizer_cases.py`.

use olmo_infer::internals::format::{ADDED_NORMALIZED, ADDED_SPECIAL, AddedToken, TOKENIZER_BYTE_PAIRS, TokenizerHead};
use olmo_infer::internals::text::boundary::encode_pair;
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::tokenizer::{PreTokenizer, Tokenizer};
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::text::dolma2;
use olmo_pack::text::tokenizer_json::{self, Around};
use olmo_pack::text::vocab;
use olmo_tests::{repository, skipped};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

fn folder() -> PathBuf {
    repository().join("tests/tokenizers")
}

fn texts() -> Vec<String> {
    let lines = fs::read_to_string(folder().join("texts.jsonl")).expect("texts");
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON string")).collect()
}

/// Compares the ids of the first texts with those in a file, and their bytes with the texts.
fn assert_ids(vocabulary: &vocab::Vocabulary, section: &[u8], ids: &str, n_texts: usize, normalizes: bool) {
    let tokens = vocabulary.section();
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let tokenizer = Tokenizer::in_section(section, &vocabulary).expect("a tokenizer");
    let encoder = Encoder::new(&tokenizer).expect("an encoder");
    let ids = fs::read_to_string(folder().join(ids)).expect("ids");
    let texts = texts();
    assert!(ids.lines().count() == n_texts && texts.len() >= n_texts);
    for (text, line) in texts.iter().zip(ids.lines()) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        let found = encoder.encode(text).expect("ids with rows");
        assert_eq!(found, expected, "{text:?}");
        if !normalizes {
            let bytes: Vec<u8> =
                found.iter().flat_map(|&id| vocabulary.bytes(id).expect("has bytes")).copied().collect();
            assert_eq!(bytes, text.as_bytes(), "{text:?}");
        }
    }
}

/// The section of a vocabulary of these tokens, the 256 bytes first.
fn of_bytes_and(tokens: &[&[u8]]) -> vocab::Vocabulary {
    let bytes: [[u8; 1]; 256] = std::array::from_fn(|byte| [byte as u8]);
    let all = bytes.iter().map(|byte| &byte[..]).chain(tokens.iter().copied());
    vocab::Vocabulary::new((0..).zip(all))
}

/// The section of a tokenizer without merges.
fn section(added: &[AddedToken]) -> Vec<u8> {
    let head = TokenizerHead {
        kind: U32::new(TOKENIZER_BYTE_PAIRS),
        pre_tokenizer: U32::new(PreTokenizer::Gpt2.code()),
        normalizer: U32::new(0),
        n_merges: U32::new(0),
        n_added: U32::new(added.len() as u32),
        prefix_space: U32::new(0),
        reserved: [0; 8],
    };
    let single: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
    [head.as_bytes(), single.as_bytes(), added.as_bytes()].concat()
}

#[test]
fn added_tokens_have_a_largest_count_and_length() {
    let long = vec![b'x'; 1 << 20];
    let tokens = of_bytes_and(&[&long]).section();
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let is_read = |ids: &[u32]| {
        let added: Vec<AddedToken> =
            ids.iter().map(|&id| AddedToken { id: U32::new(id), flags: U32::new(0) }).collect();
        Tokenizer::in_section(&section(&added), &vocabulary).is_ok()
    };
    assert!(is_read(&[]) && is_read(&vec![97; 1 << 16]) && is_read(&[256]));
    // By one token too many, by one byte too many, and by both.
    assert!(!is_read(&vec![97; (1 << 16) + 1]));
    assert!(!is_read(&[256, 97]));
    assert!(!is_read(&[&[256][..], &vec![97; 1 << 16]].concat()));
}

/// The demo's `tokenizer.json`.
fn demo() -> Value {
    let bytes = fs::read(repository().join("demo/weights/tokenizer.json")).expect("read");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Whether the tokenizer of a model is of a kind that is known, or why not.
fn known(json: &Value) -> Result<(), String> {
    let read = tokenizer_json::parse(Path::new("t"), json.to_string().as_bytes(), 400).expect("tokens");
    read.tokenizer.map(|_| ())
}

#[test]
fn unsupported_model_options_disable_text() {
    let with = |key: &str, value: Value| {
        let mut json = demo();
        json["model"][key] = value;
        known(&json)
    };
    for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
        for value in [json!(null), json!(""), json!(0.0), json!(0)] {
            assert_eq!(with(key, value.clone()), Ok(()), "{key} {value}");
        }
        for value in [json!(0.1), json!("x"), json!(true), json!([])] {
            assert_eq!(with(key, value.clone()), Err(format!("its model has {key} {value}")));
        }
    }
    for key in ["fuse_unk", "byte_fallback", "ignore_merges"] {
        // Every byte has a token, and there is no merge to ignore.
        let known = [json!(null), json!(false), json!(true)].map(|value| with(key, value));
        assert_eq!(known, [Ok(()), Ok(()), Ok(())], "{key}");
        for value in [json!(0), json!("false")] {
            assert_eq!(with(key, value.clone()), Err(format!("its model has {key} {value}")));
        }
    }
    assert_eq!([json!(null), json!("x")].map(|value| with("unk_token", value)), [Ok(()), Ok(())]);
    assert_eq!(with("unk_token", json!(3)), Err("its model has unk_token 3".into()));
    // Files of old versions do not name the type; merges imply byte pairs.
    let mut json = demo();
    let model = json["model"].as_object_mut().expect("an object");
    model.remove("type").expect("it has one");
    assert_eq!(known(&json), Ok(()));
    json["model"].as_object_mut().expect("an object").remove("merges").expect("it has some");
    assert_eq!(known(&json), Err("its model has no type".into()));
    assert_eq!(with("type", json!("Unigram")), Err("its model is Unigram".into()));
}

#[test]
fn added_tokens_are_sorted_by_id_with_their_flags() {
    let mut json = demo();
    let flags = [(false, false), (true, false), (false, true), (true, true)];
    let added = flags.iter().enumerate().map(|(i, (normalized, special))| {
        json!({"id": 256 + i, "content": format!("<{i}>"), "normalized": normalized, "special": special})
    });
    json["added_tokens"] = added.collect();
    let read = tokenizer_json::parse(Path::new("t"), json.to_string().as_bytes(), 400).expect("tokens");
    let section = read.tokenizer.expect("of a kind that is known");
    let tokens = read.vocabulary.section();
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let tokenizer = Tokenizer::in_section(&section, &vocabulary).expect("a tokenizer");
    let found: Vec<(u32, bool, bool)> = tokenizer
        .added
        .iter()
        .map(|added| {
            let flags = added.flags.get();
            (added.id.get(), flags & ADDED_NORMALIZED != 0, flags & ADDED_SPECIAL != 0)
        })
        .collect();
    assert_eq!(found, [(256, false, false), (257, true, false), (258, false, true), (259, true, true)]);
    assert_eq!(tokenizer.special().collect::<Vec<_>>(), [258, 259]);
}

#[test]
fn small_tokenizers_match_tokenizers() {
    for (name, normalizes) in [("small-dolma2", false), ("small-gpt2", true)] {
        let path = folder().join(name).join("tokenizer.json");
        let read = tokenizer_json::read(&path, &Around::rows(100_000)).expect("a tokenizer");
        assert_eq!(read.warnings, [""; 0], "{name}");
        let section = read.tokenizer.expect("of a kind that is known");
        assert_ids(&read.vocabulary, &section, &format!("{name}/ids.txt"), 4_000, normalizes);
    }
}

/// Texts with continuations: `scripts/make_pair_goldens.py`.
#[test]
fn pairs_are_split_as_the_harness_splits_them() {
    type Pair = (String, String, [(Vec<u32>, Vec<u32>); 2]);
    let lines = fs::read_to_string(folder().join("pairs.jsonl")).expect("pairs");
    let pairs: Vec<Pair> = lines
        .lines()
        .map(|line| {
            let (context, continuation, a, b) = serde_json::from_str(line).expect("a pair");
            (context, continuation, [a, b])
        })
        .collect();
    assert!(pairs.len() >= 1_500);
    for (i, name) in ["small-dolma2", "small-gpt2"].into_iter().enumerate() {
        let path = folder().join(name).join("tokenizer.json");
        let read = tokenizer_json::read(&path, &Around::rows(100_000)).expect("a tokenizer");
        let tokens = read.vocabulary.section();
        let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
        let section = read.tokenizer.expect("of a kind that is known");
        let tokenizer = Tokenizer::in_section(&section, &vocabulary).expect("a tokenizer");
        let encoder = Encoder::new(&tokenizer).expect("an encoder");
        for (context, continuation, expected) in &pairs {
            let (of_context, of_continuation) = &expected[i];
            let (ids, n_context) = encode_pair(&encoder, context, continuation).expect("ids with rows");
            assert_eq!(n_context, of_context.len(), "{context:?} {continuation:?}");
            assert_eq!(ids.get(n_context..).unwrap_or_default(), of_continuation, "{context:?} {continuation:?}");
        }
    }
}

#[test]
fn dolma2_matches_tokenizers() {
    let path = repository().join("../shared/data/vocab.txt");
    if !path.exists() {
        return skipped("the ids of dolma2: its vocabulary is not there");
    }
    let vocabulary = vocab::read(&path, 100_352).expect("a vocabulary");
    let section = dolma2::section(&vocabulary).expect("it is that of dolma2");
    assert_ids(&vocabulary, &section, "dolma2-ids.txt", 12_000, false);
    // One token with other bytes, and it is no longer that.
    let text = fs::read_to_string(&path).expect("text").replace("\n300\t", "\n300\tx");
    let other = vocab::parse(&path, text.as_bytes(), 100_352).expect("a vocabulary");
    assert_eq!(dolma2::section(&other), None);
}

#[test]
fn token_files_of_the_replaced_program_match() {
    let data = repository().join("../shared/data");
    if !data.exists() {
        return skipped("token files and their texts are not there");
    }
    let vocabulary = vocab::read(&data.join("vocab.txt"), 100_352).expect("a vocabulary");
    let section = dolma2::section(&vocabulary).expect("it is that of dolma2");
    let tokens = vocabulary.section();
    let view = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let encoder = Encoder::new(&Tokenizer::in_section(&section, &view).expect("a tokenizer")).expect("an encoder");
    for (text, tokens) in [("archilles.txt", "archilles.tokens.bin"), ("dodonaea.txt", "dodonaea.tokens.bin")] {
        let text = fs::read_to_string(data.join(text)).expect("text");
        let ids = encoder.encode(&text).expect("ids with rows");
        let bytes: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(bytes, fs::read(data.join(tokens)).expect("ids"), "{text}");
    }
}
