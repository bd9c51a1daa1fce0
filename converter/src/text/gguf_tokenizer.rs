//! The tokenizer in the metadata of a GGUF file, spelled as the `tokenizer.json` that it was made from, so that it is
//! read in the same way and gives the same ids.
//!
//! The metadata lack two settings of it: the normalizer, which follows from the kind of split, and whether an added
//! token is special. The converter of llama.cpp takes tokens as `<|this|>` for special ones in any case; of the
//! vocabulary of dolma2 it is known which ones are.

use crate::error::{Error, Problem, shortened};
use crate::folder::gguf::metadata::Metadata;
use crate::text::dolma2;
use crate::text::tokenizer_json::{self, Around, MAX_TOKENIZER_BYTES, TokenizerJson};
use crate::text::vocab::{Vocabulary, byte_table, token_bytes};
use olmo_infer::internals::format::MAX_TOKENS_BEYOND;
use olmo_infer::internals::format::config::Architecture;
use olmo_infer::internals::text::tokenizer::PreTokenizer;
use serde_json::{Value, json};

const MODEL: &str = "tokenizer.ggml.model";
const SPLIT: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.add_bos_token";
const EOS: &str = "tokenizer.ggml.add_eos_token";
/// Types of tokens: special ones, other added ones, and those of rows without a token.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;
const UNUSED: i128 = 5;
/// Most added tokens; published models have about thirty.
const MAX_ADDED: usize = 4096;
/// Most characters of a text in a message.
const SHOWN_CHARS: usize = 60;
/// Names of splits in llama.cpp that are that of dolma2.
const DOLMA2: [&str; 5] = ["dolma2", "dbrx", "llama-bpe", "llama3", "smaug-bpe"];
/// Those of GPT-2.
const GPT2: [&str; 2] = ["olmo", "gpt-2"];
/// Splits with which a word that is a token becomes that token, regardless of the merges.
const IGNORES_MERGES: [&str; 2] = ["llama-bpe", "llama3"];

/// A tokenizer, or why the metadata have none that can be used.
pub enum Found {
    /// There are no tokens.
    Absent,
    /// There are tokens, of an unsupported kind.
    Unknown(String),
    /// A tokenizer.
    Tokenizer(TokenizerJson),
}

/// Reads the tokenizer of a model with `vocab_size` rows.
///
/// # Errors
/// A value has the wrong type, or the tokens do not fit the model.
pub fn read(metadata: &Metadata, vocab_size: usize, architecture: Architecture) -> Result<Found, Error> {
    match metadata.text(MODEL)? {
        None | Some("none" | "no_vocab") => return Ok(Found::Absent),
        Some("gpt2") => {}
        Some(other) => return Ok(Found::Unknown(format!("{MODEL} is {}", shortened(other, SHOWN_CHARS)))),
    }
    let (parts, unknown) = match parts(metadata, architecture)? {
        Ok(parts) => (parts, None),
        // Its tokens still give text for ids.
        Err(why) => (Value::Null, Some(why)),
    };
    let document = document(metadata, vocab_size, parts)?;
    let around = Around::rows(vocab_size);
    let read = tokenizer_json::parse_with(metadata.path(), &document, &around);
    let mut read = read.map_err(in_own_words)?;
    if let Some(why) = unknown {
        read.tokenizer = Err(why);
    }
    for warning in &mut read.warnings {
        *warning = warning.replacen("tokenizer.json", "the GGUF file", 1);
    }
    Ok(Found::Tokenizer(read))
}

/// The normalizer and the pre-tokenizer, or why they are not supported.
fn parts(metadata: &Metadata, architecture: Architecture) -> Result<Result<Value, String>, Problem> {
    for key in [BOS, EOS] {
        if metadata.boolean(key)? == Some(true) {
            return Ok(Err(format!("{key} adds a token to every text")));
        }
    }
    let bytes = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": splits});
    Ok(match metadata.text(SPLIT)? {
        Some(name) if DOLMA2.contains(&name) => {
            let pattern = json!({"Regex": PreTokenizer::Dolma2.pattern()});
            let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
            Ok(json!({
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes(false)]},
                "ignore_merges": IGNORES_MERGES.contains(&name),
            }))
        }
        Some(name) if GPT2.contains(&name) => {
            // As the tokenizer of OLMo-1 has it.
            let nfc = (name == "olmo" || architecture == Architecture::Olmo1).then(|| json!({"type": "NFC"}));
            Ok(json!({"normalizer": nfc, "pre_tokenizer": bytes(true)}))
        }
        Some(other) => Err(format!("{SPLIT} is {}, not a split of OLMo", shortened(other, SHOWN_CHARS))),
        None => Err(format!("no {SPLIT}: it is not known how text is split")),
    })
}

/// The `tokenizer.json`.
fn document(metadata: &Metadata, vocab_size: usize, parts: Value) -> Result<Vec<u8>, Problem> {
    let n_tokens = metadata.length(TOKENS);
    let types = types(metadata, n_tokens)?;
    if n_tokens > vocab_size + MAX_TOKENS_BEYOND {
        let found = format!("{n_tokens} tokens for {vocab_size} rows of the embedding");
        let expected = format!("at most {MAX_TOKENS_BEYOND} more than rows");
        return Err(metadata.problem(TOKENS, found).expected(expected).advice("convert the model again"));
    }
    let is_added = |kind: u8| kind == CONTROL as u8 || kind == USER_DEFINED as u8;
    let n_added = types.iter().filter(|kind| is_added(**kind)).count();
    if n_added > MAX_ADDED {
        let problem = metadata.problem(TYPES, format!("{n_added} added tokens"));
        return Err(problem.expected(format!("at most {MAX_ADDED}")).advice("convert the model again"));
    }
    let tokens = tokens(metadata, &types)?;
    let special = special(&tokens, &types);
    let is_nfc = parts.get("normalizer").is_some_and(|part| !part.is_null());
    let mut vocab = Text::new(metadata, "{");
    let mut added = Vec::new();
    for &(id, text) in &tokens {
        vocab.push(TOKENS, &format!("{}:{id}", json!(text)))?;
        if is_added(types[id as usize]) {
            let special = special(id);
            added.push(json!({"id": id, "content": text, "special": special, "normalized": is_nfc && !special}));
        }
    }
    let mut merges = Text::new(metadata, "[");
    for merge in metadata.texts(MERGES)?.into_iter().flatten() {
        let merge = merge.ok_or_else(|| not_utf8(metadata, MERGES))?;
        merges.push(MERGES, &json!(merge).to_string())?;
    }
    let ignore = parts.get("ignore_merges").cloned().unwrap_or(false.into());
    let whole = format!(
        "{{\"normalizer\":{},\"pre_tokenizer\":{},\"added_tokens\":{},\"model\":{{\"type\":\"BPE\",\"ignore_merges\":\
         {ignore},\"vocab\":{}}},\"merges\":{}]}}}}",
        parts.get("normalizer").unwrap_or(&Value::Null),
        parts.get("pre_tokenizer").unwrap_or(&Value::Null),
        Value::from(added),
        vocab.text,
        merges.text,
    );
    Ok(whole.into_bytes())
}

/// The types of the tokens; those that are of no interest are 1.
fn types(metadata: &Metadata, n_tokens: usize) -> Result<Vec<u8>, Problem> {
    if !metadata.has(TYPES) {
        return Ok(vec![1; n_tokens]);
    }
    let n_types = metadata.length(TYPES);
    if n_types != n_tokens {
        let problem = metadata.problem(TYPES, format!("{n_types} types for {n_tokens} tokens"));
        return Err(problem.expected("one for each token").advice("convert the model again"));
    }
    let of_interest = |kind: i128| if [CONTROL, USER_DEFINED, UNUSED].contains(&kind) { kind as u8 } else { 1 };
    Ok(metadata.wholes(TYPES)?.into_iter().flatten().map(of_interest).collect())
}

/// The ids and texts of the tokens that are in use.
fn tokens<'a>(metadata: &'a Metadata, types: &[u8]) -> Result<Vec<(u32, &'a str)>, Problem> {
    let mut tokens = Vec::new();
    let Some(texts) = metadata.texts(TOKENS)? else {
        return Err(metadata.problem(TOKENS, "missing").expected("tokens"));
    };
    for ((id, text), kind) in (0u32..).zip(texts).zip(types) {
        let text = text.ok_or_else(|| not_utf8(metadata, TOKENS))?;
        if i128::from(*kind) != UNUSED {
            tokens.push((id, text));
        }
    }
    Ok(tokens)
}

/// Whether an added token is special.
fn special<'a>(tokens: &[(u32, &str)], types: &'a [u8]) -> impl Fn(u32) -> bool + 'a {
    let table = byte_table();
    let bytes: Vec<(u32, Vec<u8>)> = tokens.iter().map(|(id, text)| (*id, token_bytes(text, &table))).collect();
    let vocabulary = Vocabulary::new(bytes.iter().map(|(id, bytes)| (*id, bytes.as_slice())));
    let is_dolma2 = dolma2::section(&vocabulary).is_some();
    move |id| match is_dolma2 {
        true => dolma2::is_special(id),
        false => types.get(id as usize).is_some_and(|kind| i128::from(*kind) == CONTROL),
    }
}

fn not_utf8(metadata: &Metadata, key: &str) -> Problem {
    metadata.problem(key, "text that is not UTF-8").expected("UTF-8").advice("convert the model again")
}

/// An error about a `tokenizer.json` in the words of the metadata.
fn in_own_words(problem: Problem) -> Problem {
    let found = problem.found.replace("model.vocab", TOKENS).replace("added_tokens", TYPES);
    Problem { found, advice: Some("convert the model again".into()), ..problem }
}

/// The items of a list or an object, with the limit of a `tokenizer.json`.
struct Text<'a> {
    metadata: &'a Metadata,
    text: String,
}

impl<'a> Text<'a> {
    fn new(metadata: &'a Metadata, begin: &str) -> Text<'a> {
        Text { metadata, text: begin.into() }
    }

    fn push(&mut self, key: &str, item: &str) -> Result<(), Problem> {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text += item;
        if self.text.len() as u64 > MAX_TOKENIZER_BYTES / 2 {
            let problem = self.metadata.problem(key, format!("more than {} bytes", MAX_TOKENIZER_BYTES / 2));
            return Err(problem.expected("the tokens of a model of a few MB").advice("convert the model again"));
        }
        Ok(())
    }
}

/// The text of a special token, by the key of its id.
pub(crate) fn named_token<'a>(metadata: &'a Metadata, key: &str) -> Result<Option<&'a str>, Problem> {
    let Some(id) = metadata.whole(key)?.and_then(|id| usize::try_from(id).ok()) else { return Ok(None) };
    Ok(metadata.texts(TOKENS)?.and_then(|mut texts| texts.nth(id)).flatten())
}
