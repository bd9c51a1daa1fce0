//! Text becomes the ids that the crate `tokenizers` gives, for thousands of texts of every kind: those of
//! `scripts/make_tokenizer_cases.py`.

use olmo_infer::encoder::Encoder;
use olmo_infer::tokenizer::Tokenizer;
use olmo_infer::vocabulary::Vocabulary;
use olmo_pack::{dolma2, tokenizer_json, vocab};
use olmo_tests::{repository, skipped};
use std::fs;
use std::path::PathBuf;

fn folder() -> PathBuf {
    repository().join("tests/tokenizers")
}

fn texts() -> Vec<String> {
    let lines = fs::read_to_string(folder().join("texts.jsonl")).expect("texts");
    lines.lines().map(|line| serde_json::from_str(line).expect("a JSON string")).collect()
}

/// Compares the ids of the first texts with those in a file, and that they stand for the same bytes.
fn assert_ids(vocabulary: &vocab::Vocabulary, section: &[u8], ids: &str, n_texts: usize, normalizes: bool) {
    let vocabulary = Vocabulary::in_section(&vocabulary.section).expect("a vocabulary");
    let tokenizer = Tokenizer::in_section(section, vocabulary).expect("a tokenizer");
    let encoder = Encoder::new(&tokenizer).expect("an encoder");
    let ids = fs::read_to_string(folder().join(ids)).expect("ids");
    let texts = texts();
    assert!(ids.lines().count() == n_texts && texts.len() >= n_texts);
    for (text, line) in texts.iter().zip(ids.lines()) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        let found = encoder.encode(text);
        assert_eq!(found, expected, "{text:?}");
        if !normalizes {
            let bytes: Vec<u8> =
                found.iter().flat_map(|&id| vocabulary.bytes(id).expect("has bytes")).copied().collect();
            assert_eq!(bytes, text.as_bytes(), "{text:?}");
        }
    }
}

#[test]
fn small_tokenizers_of_our_own() {
    for (name, normalizes) in [("small-dolma2", false), ("small-gpt2", true)] {
        let read = tokenizer_json::read(&folder().join(name).join("tokenizer.json"), 100_000).expect("a tokenizer");
        let section = read.tokenizer.expect("of a kind that is known");
        assert_ids(&read.vocabulary, &section, &format!("{name}/ids.txt"), 4_000, normalizes);
    }
}

#[test]
fn the_vocabulary_of_olmo_2_and_olmo_3() {
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
fn token_files_of_the_program_that_this_one_replaces() {
    let data = repository().join("../shared/data");
    if !data.exists() {
        return skipped("token files and their texts are not there");
    }
    let vocabulary = vocab::read(&data.join("vocab.txt"), 100_352).expect("a vocabulary");
    let section = dolma2::section(&vocabulary).expect("it is that of dolma2");
    let view = Vocabulary::in_section(&vocabulary.section).expect("a vocabulary");
    let encoder = Encoder::new(&Tokenizer::in_section(&section, view).expect("a tokenizer")).expect("an encoder");
    for (text, tokens) in [("archilles.txt", "archilles.tokens.bin"), ("dodonaea.txt", "dodonaea.tokens.bin")] {
        let ids = encoder.encode(&fs::read_to_string(data.join(text)).expect("text"));
        let bytes: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(bytes, fs::read(data.join(tokens)).expect("ids"), "{text}");
    }
}
