//! `tokenizer.json` of the crate `tokenizers`: the bytes of every token, and how text becomes ids.
//!
//! Every token has bytes, whatever the kind of tokenizer. How text becomes ids is understood for the kind that the OLMo
//! models have: byte-level byte pair encoding, words split as dolma2 or GPT-2 do it, at most normalization form C before.
//! Anything else in the file that would change an id makes the tokenizer one that is not known: the model can still be
//! packed, and then takes ids but no text.

use crate::config_json::Keys;
use crate::error::{Error, Problem};
use crate::source_file;
use crate::strict_json;
use crate::vocab::{Vocabulary, byte_table, token_bytes};
use olmo_infer::format::{
    ADDED_NORMALIZED, ADDED_SPECIAL, AddedToken, Merge, NONE, TOKENIZER_BYTE_PAIRS, TokenizerHead,
};
use olmo_infer::tokenizer::{PreTokenizer, in_utf8};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Longest `tokenizer.json`; those of the published models have 2 to 8 MB. It is read whole, so this also bounds what a
/// file that is none costs.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// What a `tokenizer.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerJson {
    /// The bytes of every token.
    pub vocabulary: Vocabulary,
    /// The bytes of the section `TOKENIZER`, or why the tokenizer is not known.
    pub tokenizer: Result<Vec<u8>, String>,
}

/// Reads the tokenizer at `path` of a model with `vocab_size` rows.
///
/// # Errors
/// The file cannot be read, is no JSON, or its tokens are not those of a model with so many rows.
pub fn read(path: &Path, vocab_size: usize) -> Result<TokenizerJson, Error> {
    let bytes = source_file::read_at_most(path, MAX_TOKENIZER_BYTES)?
        .ok_or_else(|| Problem::new(path, "longer than 64 MiB").expected("a tokenizer.json of a few MiB"))?;
    Ok(parse(path, &bytes, vocab_size)?)
}

/// Reads the tokenizer in `bytes`; `path` is for messages.
///
/// # Errors
/// They are no JSON, or the tokens are not those of a model with so many rows.
pub fn parse(path: &Path, bytes: &[u8], vocab_size: usize) -> Result<TokenizerJson, Problem> {
    let value = strict_json::parse(bytes).map_err(|error| Problem::new(path, error).expected("JSON"))?;
    let Value::Object(object) = &value else {
        return Err(Problem::new(path, "JSON that is no object").expected("the tokenizer.json of a model"));
    };
    let root = Keys { path, object, prefix: "" };
    let model = root.keys("model", "model.")?.ok_or_else(|| root.missing("model", None))?;
    let added = added_tokens(&root, vocab_size)?;
    let tokens = tokens(&model, &added, vocab_size)?;
    let tokenizer = Reader { root: &root, model: &model, tokens: &tokens, added: &added }.section();

    let mut entries: Vec<(usize, Vec<u8>)> = added.iter().map(|added| (added.id, added.text.into())).collect();
    entries.extend(tokens.values().filter_map(|token| Some((token.id, token.bytes.clone()?))));
    entries.sort_unstable();
    if entries.is_empty() {
        return Err(Problem::new(path, "no tokens").expected("the tokens of a model"));
    }
    Ok(TokenizerJson { vocabulary: Vocabulary::new(&entries), tokenizer })
}

/// A token that is found as a whole.
struct Added<'a> {
    id: usize,
    text: &'a str,
    flags: u32,
    /// What it does beyond that, in words; empty for nothing.
    beyond: &'static str,
}

/// A token of the model.
struct Token {
    id: usize,
    /// Its bytes, unless an added token has its id.
    bytes: Option<Vec<u8>>,
}

/// An id below the rows of the embedding.
fn checked_id(keys: &Keys, key: &str, value: Option<&Value>, vocab_size: usize) -> Result<usize, Problem> {
    let id = value.and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
    match id {
        Some(id) if id < vocab_size => Ok(id),
        Some(id) => Err(Problem::new(keys.path, format!("{}{key} has id {id}", keys.prefix))
            .expected(format!("less than the {vocab_size} rows of the embedding"))
            .advice("is it the tokenizer of this model?")),
        None => Err(Problem::new(keys.path, format!("{}{key} has no id", keys.prefix)).expected("a token id")),
    }
}

/// The added tokens, each id once.
fn added_tokens<'a>(root: &Keys<'a>, vocab_size: usize) -> Result<Vec<Added<'a>>, Problem> {
    let list = match root.get("added_tokens") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(root.bad("added_tokens", other, "a list")),
    };
    let mut seen = HashMap::new();
    let mut added = Vec::new();
    for value in list {
        let Value::Object(object) = value else {
            return Err(root.bad("added_tokens", value, "a list of objects"));
        };
        let keys = Keys { path: root.path, object, prefix: "added_tokens: " };
        let text = keys.text("content")?.filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| keys.missing("content", None))?;
        let id = checked_id(&keys, &format!("\"{text}\""), object.get("id"), vocab_size)?;
        if let Some(other) = seen.insert(id, text) {
            let found = format!("added_tokens: id {id} for \"{other}\" and \"{text}\"");
            return Err(Problem::new(root.path, found).expected("each id once"));
        }
        let is_set = |key| keys.truth(key).map(|truth| truth.unwrap_or(false));
        let beyond = match (is_set("single_word")?, is_set("lstrip")? || is_set("rstrip")?) {
            (true, _) => "is found only as a word by itself",
            (false, true) => "takes the spaces beside it",
            (false, false) => "",
        };
        let flags = if is_set("normalized")? { ADDED_NORMALIZED } else { 0 };
        let flags = flags | if is_set("special")? { ADDED_SPECIAL } else { 0 };
        added.push(Added { id, text, flags, beyond });
    }
    added.sort_unstable_by_key(|added| added.id);
    Ok(added)
}

/// The tokens of the model by their spelling, each id once.
fn tokens<'a>(model: &Keys<'a>, added: &[Added], vocab_size: usize) -> Result<HashMap<&'a str, Token>, Problem> {
    let vocabulary = match model.get("vocab") {
        Some(Value::Object(vocabulary)) => vocabulary,
        Some(other) => return Err(model.bad("vocab", other, "an object of tokens and ids")),
        None => return Err(model.missing("vocab", None)),
    };
    let table = byte_table();
    let added: HashMap<usize, &str> = added.iter().map(|added| (added.id, added.text)).collect();
    let mut seen = HashMap::new();
    let mut tokens = HashMap::with_capacity(vocabulary.len());
    for (text, id) in vocabulary {
        let id = checked_id(model, &format!("vocab \"{text}\""), Some(id), vocab_size)?;
        if let Some(other) = seen.insert(id, text) {
            let found = format!("model.vocab: id {id} for \"{other}\" and \"{text}\"");
            return Err(Problem::new(model.path, found).expected("each id once"));
        }
        let bytes = match added.get(&id) {
            Some(added) if *added != text => {
                let found = format!("id {id} for \"{text}\" in model.vocab and \"{added}\" in added_tokens");
                return Err(Problem::new(model.path, found).expected("one token"));
            }
            Some(_) => None,
            None if text.is_empty() => {
                return Err(
                    Problem::new(model.path, format!("model.vocab: id {id} without a token")).expected("a token")
                );
            }
            None => Some(token_bytes(text, &table)),
        };
        tokens.insert(text.as_str(), Token { id, bytes });
    }
    Ok(tokens)
}

/// Reads how text becomes ids.
struct Reader<'a> {
    root: &'a Keys<'a>,
    model: &'a Keys<'a>,
    tokens: &'a HashMap<&'a str, Token>,
    added: &'a [Added<'a>],
}

impl Reader<'_> {
    /// The bytes of the section, or what is not known about the tokenizer.
    fn section(&self) -> Result<Vec<u8>, String> {
        self.refuse_other_models()?;
        let normalizer = match type_of(self.root.get("normalizer"))? {
            None => 0,
            Some("NFC") => 1,
            Some(other) => return Err(format!("its normalizer is {other}")),
        };
        match type_of(self.root.get("post_processor"))? {
            // It only moves offsets.
            None | Some("ByteLevel") => {}
            Some(other) => return Err(format!("its post-processor is {other}")),
        }
        let head = TokenizerHead {
            kind: U32::new(TOKENIZER_BYTE_PAIRS),
            pre_tokenizer: U32::new(pre_tokenizer(self.root.get("pre_tokenizer"))?.code()),
            normalizer: U32::new(normalizer),
            n_merges: U32::new(0),
            n_added: U32::new(self.added.len() as u32),
            reserved: [0; 12],
        };
        let merges = self.merges()?;
        let head = TokenizerHead { n_merges: U32::new(merges.len() as u32), ..head };
        let added: Vec<AddedToken> = self.added_tokens()?;
        Ok([head.as_bytes(), self.single_bytes()?.as_bytes(), merges.as_bytes(), added.as_bytes()].concat())
    }

    /// Everything of the model that would change ids.
    fn refuse_other_models(&self) -> Result<(), String> {
        match self.model.get("type").and_then(Value::as_str) {
            Some("BPE") => {}
            Some(other) => return Err(format!("its model is {other}")),
            // Files of old versions do not say it.
            None if self.model.get("merges").is_some() => {}
            None => return Err("its model has no type".into()),
        }
        for key in ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
            let value = self.model.get(key).filter(|value| value.as_str() != Some("") && value.as_f64() != Some(0.0));
            if let Some(value) = value {
                return Err(format!("its model has {key} {value}"));
            }
        }
        for key in ["fuse_unk", "byte_fallback", "ignore_merges"] {
            if self.model.get(key).is_some_and(|value| value.as_bool() != Some(false)) {
                return Err(format!("its model has {key}"));
            }
        }
        Ok(())
    }

    /// The ids of the 256 bytes.
    fn single_bytes(&self) -> Result<[U32; 256], String> {
        let mut ids = [U32::new(NONE); 256];
        // The one character that stands for the byte: another spelling of it is another token.
        for (character, byte) in (0u32..).filter_map(char::from_u32).zip(byte_table()) {
            let token = self.tokens.get(character.to_string().as_str()).filter(|token| token.bytes.is_some());
            if let (Some(byte), Some(token)) = (byte, token) {
                ids[usize::from(byte)] = U32::new(token.id as u32);
            }
        }
        match (0..=255u8).find(|&byte| in_utf8(byte) && ids[usize::from(byte)].get() == NONE) {
            Some(byte) => Err(format!("it has no token for the byte {byte:02x}")),
            None => Ok(ids),
        }
    }

    fn merges(&self) -> Result<Vec<Merge>, String> {
        let list = match self.model.get("merges") {
            Some(Value::Array(list)) => list,
            _ => return Err("its model has no list of merges".into()),
        };
        let mut seen = HashMap::with_capacity(list.len());
        let mut merges = Vec::with_capacity(list.len());
        for (rank, merge) in list.iter().enumerate() {
            let bad = |what: &str| format!("merge {rank} {what}");
            let pair = match merge {
                Value::String(pair) => pair.split_once(' '),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                    _ => None,
                },
                _ => None,
            };
            let (left, right) = pair.ok_or_else(|| bad("is no pair"))?;
            let token = |text: &str| {
                let token = self.tokens.get(text).and_then(|token| Some((token.id as u32, token.bytes.as_deref()?)));
                token.ok_or_else(|| bad("names a token that is not there"))
            };
            let (left_token, right_token) = (token(left)?, token(right)?);
            let merged = token(&[left, right].concat())?;
            if merged.1.strip_prefix(left_token.1) != Some(right_token.1) {
                return Err(bad("makes other bytes than those of its pieces"));
            }
            let [left_id, right_id, id] = [left_token.0, right_token.0, merged.0].map(U32::new);
            let merge = Merge { left: left_id, right: right_id, id };
            if seen.insert((left, right), rank).is_some() {
                return Err(bad("stands twice"));
            }
            merges.push(merge);
        }
        Ok(merges)
    }

    fn added_tokens(&self) -> Result<Vec<AddedToken>, String> {
        let entry = |added: &Added| match added.beyond {
            "" => Ok(AddedToken { id: U32::new(added.id as u32), flags: U32::new(added.flags) }),
            beyond => Err(format!("its added token \"{}\" {beyond}", added.text)),
        };
        self.added.iter().map(entry).collect()
    }
}

/// The `type` of an object that may be absent.
fn type_of(value: Option<&Value>) -> Result<Option<&str>, String> {
    let Some(value) = value else { return Ok(None) };
    value.get("type").and_then(Value::as_str).map(Some).ok_or_else(|| "a part of it has no type".into())
}

/// How words are split.
fn pre_tokenizer(value: Option<&Value>) -> Result<PreTokenizer, String> {
    let Some(Value::Object(object)) = value else { return Err("it has no pre-tokenizer".into()) };
    match type_of(value)? {
        Some("ByteLevel") => match byte_level(object)? {
            true => Ok(PreTokenizer::Gpt2),
            false => Err("its pre-tokenizer splits nothing".into()),
        },
        Some("Sequence") => {
            let parts = object.get("pretokenizers").and_then(Value::as_array).map(Vec::as_slice);
            let Some([Value::Object(split), Value::Object(bytes)]) = parts else {
                return Err("its pre-tokenizer is an unknown sequence".into());
            };
            let is = |object: &Map<String, Value>, name| object.get("type").and_then(Value::as_str) == Some(name);
            if !is(split, "Split") || !is(bytes, "ByteLevel") || byte_level(bytes)? {
                return Err("its pre-tokenizer is an unknown sequence".into());
            }
            let behavior = split.get("behavior").and_then(Value::as_str);
            let invert = split.get("invert").and_then(Value::as_bool).unwrap_or(false);
            // The pattern covers any text without a gap, so that both keep all of it.
            if (behavior, invert) != (Some("Isolated"), false) && (behavior, invert) != (Some("Removed"), true) {
                return Err("its pre-tokenizer splits in an unknown way".into());
            }
            let pattern = split.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
            let known = PreTokenizer::ALL.into_iter().find(|kind| Some(kind.pattern()) == pattern);
            known.ok_or_else(|| "its pre-tokenizer splits by an unknown pattern".into())
        }
        other => Err(format!("its pre-tokenizer is {}", other.unwrap_or("missing"))),
    }
}

/// Whether a byte-level pre-tokenizer splits words by itself.
fn byte_level(object: &Map<String, Value>) -> Result<bool, String> {
    if object.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true) {
        return Err("it puts a space before the text".into());
    }
    Ok(object.get("use_regex").and_then(Value::as_bool).unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A tokenizer of the bytes, one merge and an added token.
    fn byte_pairs() -> Value {
        let characters = (0u32..).filter_map(char::from_u32).zip(byte_table());
        let bytes = characters.filter_map(|(character, byte)| Some((character.to_string(), byte?.into())));
        let vocab: Map<String, Value> = bytes.chain([("ab".into(), 256.into())]).collect();
        json!({
            "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "added_tokens": [{"id": 257, "content": "<|end|>", "special": true}],
        })
    }

    fn parsed(json: &Value) -> Result<TokenizerJson, String> {
        parse(Path::new("t"), json.to_string().as_bytes(), 300).map_err(|problem| problem.to_string())
    }

    #[test]
    fn merges_that_are_none_make_a_tokenizer_that_is_not_known() {
        for (merges, says) in [
            (json!([3]), "merge 0 is no pair"),
            (json!(["a b", {"a": "b"}]), "merge 1 is no pair"),
            (json!([["a", 3]]), "merge 0 is no pair"),
            (json!(["a b", "b a"]), "merge 1 names a token that is not there"),
            (json!(["a b", ["a", "b"]]), "merge 1 stands twice"),
        ] {
            let mut json = byte_pairs();
            json["model"]["merges"] = merges;
            assert_eq!(parsed(&json).expect("tokens").tokenizer, Err(says.into()), "{}", json["model"]["merges"]);
        }
    }

    #[test]
    fn words_that_are_split_otherwise_make_a_tokenizer_that_is_not_known() {
        let split = json!({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated"});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
        let splitting = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        let sequence = |parts: &[&Value]| json!({"type": "Sequence", "pretokenizers": parts});
        let unknown = "its pre-tokenizer is an unknown sequence";
        for (pre_tokenizer, says) in [
            (bytes.clone(), "its pre-tokenizer splits nothing"),
            (sequence(&[&bytes, &bytes]), unknown),
            (sequence(&[&split, &split]), unknown),
            (sequence(&[&split, &splitting]), unknown),
            (sequence(&[&split, &bytes, &bytes]), unknown),
            (sequence(&[&split, &bytes]), "its pre-tokenizer splits by an unknown pattern"),
        ] {
            let mut json = byte_pairs();
            json["pre_tokenizer"] = pre_tokenizer;
            assert_eq!(parsed(&json).expect("tokens").tokenizer, Err(says.into()), "{}", json["pre_tokenizer"]);
        }
        for (kind, behavior, invert) in [
            (PreTokenizer::Dolma2, "Isolated", false),
            (PreTokenizer::Dolma2, "Removed", true),
            (PreTokenizer::Gpt2, "Isolated", false),
        ] {
            let mut split = split.clone();
            split["pattern"]["Regex"] = kind.pattern().into();
            split["behavior"] = behavior.into();
            split["invert"] = invert.into();
            let mut json = byte_pairs();
            json["pre_tokenizer"] = sequence(&[&split, &bytes]);
            let section = parsed(&json).expect("tokens").tokenizer.expect("of a known kind");
            assert_eq!(section[4..8], kind.code().to_le_bytes(), "{split}");
        }
    }

    #[test]
    fn an_added_token_may_stand_in_the_vocabulary_too() {
        let without = parsed(&byte_pairs()).expect("tokens");
        assert!(without.tokenizer.is_ok() && without.vocabulary.n_entries == 258, "{:?}", without.tokenizer);
        let mut json = byte_pairs();
        json["model"]["vocab"]["<|end|>"] = 257.into();
        assert_eq!(parsed(&json).as_ref(), Ok(&without));
        // But no merge makes it.
        json["model"]["vocab"]["<|end|"] = 258.into();
        json["model"]["merges"] = json!(["<|end| >"]);
        let with_merge = parsed(&json).expect("tokens");
        assert_eq!(with_merge.tokenizer, Err("merge 0 names a token that is not there".into()));
        let mut json = byte_pairs();
        json["model"]["vocab"]["<|fin|>"] = 257.into();
        let found = "id 257 for \"<|fin|>\" in model.vocab and \"<|end|>\" in added_tokens, expected one token";
        assert_eq!(parsed(&json), Err(format!("t: {found}")));
    }
}
