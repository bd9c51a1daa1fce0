//! Targets for what comes from outside as text or as plain numbers.

use crate::repository;
use olmo_infer::internals::format::ConfigBlock;
use olmo_infer::internals::format::MAX_TOKENS_BEYOND;
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::token_file as token_files;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::commands::verify;
use olmo_pack::folder::element::SourceType;
use olmo_pack::folder::npy::{self, Checked, Descr};
use olmo_pack::folder::safetensors::header as reader;
use olmo_pack::folder::safetensors::index::ShardIndex;
use olmo_pack::json::strict;
use olmo_pack::model::config_json as json;
use olmo_pack::model::settings::Flags;
use olmo_pack::text::tokenizer_json as tokenizers;
use olmo_pack::text::vocab;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

/// The name in messages.
const NAME: &str = "fuzz";

/// The first bytes of an `.npy` file, behind eight bytes with the length of the file.
///
/// # Panics
/// When an accepted header does not give exactly that length, or npyz reads the same bytes otherwise.
pub fn npy_header(input: &[u8]) {
    let Some((length, start)) = input.split_first_chunk::<8>() else { return };
    let file_bytes = u64::from_le_bytes(*length).max(start.len() as u64);
    let Ok(checked) = npy::check(Path::new(NAME), start, file_bytes) else { return };
    let Checked { descr, fortran_order, shape, preamble_bytes } = checked;
    assert!(!shape.is_empty() && !shape.contains(&0), "{shape:?}");
    assert!(!fortran_order || shape.len() == 1, "{shape:?}");
    let elements = shape.iter().try_fold(1u128, |product, &size| product.checked_mul(size.into())).expect("a size");
    assert_eq!(elements * u128::from(descr.bytes()) + preamble_bytes as u128, u128::from(file_bytes));
    // Behind the strict grammar npyz may read the bytes themselves.
    let theirs = npyz::NpyHeader::from_reader(&start[..preamble_bytes]).expect("npyz reads what the grammar accepts");
    assert_eq!(theirs.shape(), shape);
    assert_eq!(theirs.order() == npyz::Order::Fortran, fortran_order);
    let named: &[&str] = match descr {
        Descr::F32 => &["'<f4'"],
        Descr::F16 => &["'<f2'"],
        Descr::Raw16 => &["'<V2'", "'|V2'"],
        Descr::U16 => &["'<u2'"],
    };
    assert!(named.contains(&theirs.dtype().descr().as_str()), "{descr:?} {}", theirs.dtype().descr());
}

/// The first bytes of a safetensors file, behind eight bytes with the length of the file. All others are zeros.
///
/// # Panics
/// When the ranges of an accepted header do not fill the file, or the crate `safetensors` reads the same file
/// otherwise.
pub fn safetensors_header(input: &[u8]) {
    let Some((length, start)) = input.split_first_chunk::<8>() else { return };
    let file_bytes = u64::from_le_bytes(*length).max(start.len() as u64);
    let Ok(entries) = reader::check(Path::new(NAME), start, file_bytes) else { return };
    let header = u64::from_le_bytes(*start.first_chunk().expect("accepted with a length"));
    let mut ranges: Vec<Range<u64>> = entries.values().map(|entry| entry.range.clone()).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    let end = ranges.iter().fold(8 + header, |end, range| {
        assert!(range.start == end && range.end >= end, "{range:?} behind {end}");
        range.end
    });
    assert_eq!(end, file_bytes);
    for entry in entries.values() {
        let Ok(element) = entry.element else { continue };
        let elements = entry.shape.iter().map(|&size| u128::from(size)).product::<u128>();
        assert_eq!(elements * element.bytes() as u128, u128::from(entry.range.end - entry.range.start), "{entry:?}");
    }
    // The crate needs the whole file, and also checks the sizes of types that are not read here.
    if file_bytes > 1 << 16 || entries.values().any(|entry| entry.element.is_err()) {
        return;
    }
    let mut file = start.to_vec();
    file.resize(file_bytes as usize, 0);
    let theirs = SafeTensors::deserialize(&file).expect("the crate reads what is accepted here");
    assert_eq!(theirs.len(), entries.len());
    for (name, entry) in entries {
        let tensor = theirs.tensor(&name).expect("the same names");
        let begin = tensor.data().as_ptr() as usize - file.as_ptr() as usize;
        assert_eq!(begin as u64..(begin + tensor.data().len()) as u64, entry.range, "{name}");
        assert!(tensor.shape().iter().map(|&size| size as u64).eq(entry.shape), "{name}");
        let element = match tensor.dtype() {
            Dtype::F32 => SourceType::F32,
            Dtype::F16 => SourceType::F16,
            Dtype::BF16 => SourceType::Bf16,
            other => panic!("{name} is {other:?}"),
        };
        assert_eq!(entry.element, Ok(element), "{name}");
    }
}

/// A `model.safetensors.index.json`.
///
/// # Panics
/// When an accepted index names a file outside the folder, or serde_json's own reader of maps reads it differently.
pub fn shard_index(input: &[u8]) {
    let Ok(index) = ShardIndex::parse(Path::new(NAME), input) else { return };
    assert!(!index.files.is_empty());
    for file in index.files.values() {
        let path = Path::new(file);
        assert!(path.file_name() == Some(path.as_os_str()) && file.ends_with(".safetensors"), "{file:?}");
    }
    let value: serde_json::Value = serde_json::from_slice(input).expect("it was JSON before");
    let map: BTreeMap<String, String> = serde_json::from_value(value["weight_map"].clone()).expect("names of files");
    assert_eq!(index.files, map);
}

/// A `config.json`. A first byte below 9, which no JSON has, chooses flags and is left out.
///
/// # Panics
/// When an accepted configuration is impossible, does not fit the format, or changes when the JSON is written again.
pub fn config_json(input: &[u8]) {
    let (flags, text) = match input {
        [choice @ 0..9, text @ ..] => (flags(*choice), text),
        _ => (Flags::default(), input),
    };
    let path = Path::new(NAME);
    let Ok(settings) = json::parse(path, text.to_vec(), &flags) else { return };
    settings.config.validate().expect("accepted configurations are possible");
    assert_eq!(ConfigBlock::new(&settings.config).to_config().as_ref(), Ok(&settings.config));
    assert_eq!(settings.config_json.as_deref(), Some(text));
    let value = strict::parse(text).expect("it was JSON before");
    let again = json::parse(path, serde_json::to_vec(&value).expect("a value"), &flags);
    let again = again.unwrap_or_else(|problem| panic!("refused when it is written again: {problem}"));
    assert_eq!((again.config, again.u2_is_bf16), (settings.config, settings.u2_is_bf16));
}

/// Some combinations of flags.
fn flags(choice: u8) -> Flags {
    let bit = |bit: u8| choice & bit != 0;
    Flags {
        rope_theta: bit(1).then_some(500_000.0),
        max_positions: bit(2).then_some(4096),
        head_dim: bit(4).then_some(4),
        yarn_factor: (choice == 8).then_some(8.0),
        clip_qkv: (choice == 6).then_some(Some(8.0)),
        ..Flags::default()
    }
}

/// A `vocab.txt`, behind a byte that chooses the rows of the embedding.
///
/// # Panics
/// When the section made of an accepted one does not give back each token, or `verify` would not take it.
pub fn vocab_txt(input: &[u8]) {
    let Some((&choice, text)) = input.split_first() else { return };
    let vocab_size = match choice {
        // All of an embedding is gone through: only for short texts, for the speed.
        255 if text.len() < 16 => 1 << 24,
        choice => [1, 10, 300, 70_000][usize::from(choice % 4)],
    };
    let Ok(vocabulary) = vocab::parse(Path::new(NAME), text, vocab_size) else { return };
    let section = vocabulary.section();
    assert_eq!(verify::vocabulary(&section, vocab_size), Ok(()));
    let view = Vocabulary::in_section(&section).expect("a section of its own length");
    let expected = expected_tokens(str::from_utf8(text).expect("accepted as UTF-8"));
    assert_eq!(vocabulary.n_entries(), expected.len());
    let last = *expected.keys().next_back().expect("at least one token");
    assert!((last as usize) < vocab_size + MAX_TOKENS_BEYOND && view.bytes(last + 1).is_none());
    for (&id, bytes) in &expected {
        assert_eq!(view.bytes(id), Some(bytes.as_slice()), "token {id}");
        let before = id.checked_sub(1).filter(|before| !expected.contains_key(before));
        assert!(before.is_none_or(|before| view.bytes(before).is_none()), "an entry before {id}");
    }
}

/// A `tokenizer.json`.
///
/// # Panics
/// When the sections made of an accepted one are not what `verify` takes, or text does not come back from its ids.
pub fn tokenizer_json(input: &[u8]) {
    const VOCAB_SIZE: usize = 70_000;
    let Ok(read) = tokenizers::parse(Path::new(NAME), input, VOCAB_SIZE) else { return };
    let tokens = read.vocabulary.section();
    assert_eq!(verify::vocabulary(&tokens, VOCAB_SIZE), Ok(()));
    let vocabulary = Vocabulary::in_section(&tokens).expect("a section of its own length");
    let Ok(section) = read.tokenizer else { return };
    let tokenizer = Tokenizer::in_section(&section, &vocabulary).expect("a section that the runtime takes");
    assert_text_comes_back(&tokenizer, "Four score\r\n  and 7 years…\t<|end|> e\u{301}");
}

/// A section `TOKENIZER` for the vocabulary of [`tokenizer_sections`], and behind a byte with the length of it a text.
///
/// # Panics
/// When text does not come back from its ids.
pub fn tokenizer_section(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else { return };
    let (text, section) = rest.split_at(usize::from(length).min(rest.len()));
    let (vocabulary, _) = tokenizer_sections();
    let vocabulary = Vocabulary::in_section(&vocabulary).expect("a vocabulary");
    let Ok(tokenizer) = Tokenizer::in_section(section, &vocabulary) else { return };
    assert_text_comes_back(&tokenizer, &String::from_utf8_lossy(text));
}

/// The sections of a small tokenizer: its vocabulary, and how text becomes ids.
///
/// # Panics
/// When it is not in the repository.
pub fn tokenizer_sections() -> (Vec<u8>, Vec<u8>) {
    static SECTIONS: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let read = || {
        let path = repository().join("tests/tokenizers/small-gpt2/tokenizer.json");
        let read = tokenizers::read(&path, &tokenizers::Around::rows(70_000)).expect("a tokenizer");
        (read.vocabulary.section(), read.tokenizer.expect("of a known kind"))
    };
    SECTIONS.get_or_init(read).clone()
}

/// Encoded text has its original bytes, unless it was normalized or got spaces.
fn assert_text_comes_back(tokenizer: &Tokenizer, text: &str) {
    let Ok(encoder) = Encoder::new(tokenizer) else { return };
    let ids = encoder.encode(text).expect("every id has a row");
    let bytes = ids.iter().flat_map(|&id| tokenizer.vocabulary.bytes(id).expect("ids have bytes")).copied();
    let bytes: Vec<u8> = bytes.collect();
    assert!(str::from_utf8(&bytes).is_ok());
    assert!(tokenizer.nfc || tokenizer.prefix_space || bytes == text.as_bytes(), "{text:?}");
}

/// The bytes of each token of a good `vocab.txt`, in the plainest way.
fn expected_tokens(text: &str) -> BTreeMap<u32, Vec<u8>> {
    let line = |line: &str| {
        let (id, token) = line.strip_suffix('\r').unwrap_or(line).split_once('\t').expect("a tab");
        (id.parse().expect("an id"), token_bytes(token))
    };
    text.strip_suffix('\n').unwrap_or(text).split('\n').map(line).collect()
}

/// The bytes of a token as `vocab.txt` spells it.
fn token_bytes(token: &str) -> Vec<u8> {
    let mut plain = String::new();
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                _ => '\\',
            },
            c => c,
        });
    }
    let printable = |byte: u8| !matches!(byte, 0..=32 | 127..=160 | 173);
    let byte_of = |c: char| -> Option<u8> {
        match u32::from(c) {
            code @ 0..256 => Some(code as u8).filter(|&byte| printable(byte)),
            code @ 256..512 => (0..=255).filter(|&byte| !printable(byte)).nth(code as usize - 256),
            _ => None,
        }
    };
    let bytes: Option<Vec<u8>> = plain.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| plain.clone().into_bytes())
}

/// A token file, behind two bytes that choose the size of the vocabulary and the number of positions.
///
/// # Panics
/// When the result differs from format-spec.md, or the ids are not those of the bytes.
pub fn tokens(input: &[u8]) {
    let Some(([vocabulary, positions], bytes)) = input.split_first_chunk() else { return };
    let vocab_size = [1, 300, 100_352, 1 << 24][usize::from(vocabulary % 4)];
    let max_tokens = [1, 5, 4096, 1 << 24][usize::from(positions % 4)];
    let expected: Vec<u32> = bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
    let whole = !bytes.is_empty() && bytes.len().is_multiple_of(4) && expected.len() <= max_tokens;
    // As 64-bit ids are.
    let is_wide = expected.len().is_multiple_of(2) && expected.iter().skip(1).step_by(2).all(|&id| id == 0);
    let good = whole && !is_wide && expected.iter().all(|&id| (id as usize) < vocab_size);
    match token_files::parse(Path::new(NAME), bytes, vocab_size, max_tokens) {
        Ok(found) => assert!(good && found == expected, "{found:?}"),
        Err(error) => assert!(!good, "{error}"),
    }
}
