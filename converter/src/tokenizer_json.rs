//! `tokenizer.json` of the crate `tokenizers`: the bytes of every token, and how text becomes ids.
//!
//! Every token has bytes, whatever the kind of tokenizer. How text becomes ids is understood for the kind that the OLMo
//! models have: byte-level byte pair encoding, words split as dolma2 or GPT-2 do it, at most normalization form C before.
//! Anything else in the file that would change an id makes the tokenizer one that is not known: the model can still be
//! packed, and then takes ids but no text.
//!
//! There are a hundred thousand tokens and as many merges. Both are read as they come; everything else becomes a tree.

use crate::config_json::Keys;
use crate::error::{Error, Problem, shortened};
use crate::source_file;
use crate::strict_json::{self, Budget};
use crate::vocab::{Vocabulary, byte_table, token_bytes};
use olmo_infer::format::{
    ADDED_NORMALIZED, ADDED_SPECIAL, AddedToken, Merge, NONE, TOKENIZER_BYTE_PAIRS, TokenizerHead,
};
use olmo_infer::tokenizer::{PreTokenizer, in_utf8};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Longest `tokenizer.json`; those of the published models have 2 to 8 MB. It is read whole, so this also bounds what a
/// file that is none costs.
const MAX_TOKENIZER_BYTES: u64 = 12 << 20;

/// What to do with one that cannot be read.
const WITHOUT: &str = "download it again, or move it away: the model then takes ids, but no text";
/// Most of what is shown of a token.
const SHOWN_CHARS: usize = 60;

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
    let bytes = source_file::read_at_most(path, MAX_TOKENIZER_BYTES)?.ok_or_else(|| {
        Problem::new(path, "longer than 12 MiB").expected("a tokenizer.json of a few MiB").advice(WITHOUT)
    })?;
    Ok(parse(path, &bytes, vocab_size)?)
}

/// Reads the tokenizer in `bytes`; `path` is for messages.
///
/// # Errors
/// They are no JSON, or the tokens are not those of a model with so many rows.
pub fn parse(path: &Path, bytes: &[u8], vocab_size: usize) -> Result<TokenizerJson, Problem> {
    let document = Document::read(path, bytes)?;
    let root = Keys { path, object: &document.root, prefix: "" };
    let model = Keys { path, object: &document.model, prefix: "model." };
    let added = added_tokens(&root, vocab_size)?;
    let spelled = Spelled::read(&document, &model, vocab_size)?;
    let tokens = tokens(&model, &spelled, &added)?;
    let merges = document.merges;
    let tokenizer = Reader { root: &root, model: &model, merges, tokens: &tokens, added: &added }.section();

    let mut entries: Vec<(u32, &[u8])> = added.iter().map(|added| (added.id, added.text.as_bytes())).collect();
    entries.extend(tokens.values().filter_map(|token| Some((token.id, token.bytes.as_deref()?))));
    entries.sort_unstable();
    if entries.is_empty() {
        return Err(Problem::new(path, "no tokens").expected("the tokens of a model"));
    }
    Ok(TokenizerJson { vocabulary: Vocabulary::new(entries), tokenizer })
}

/// The file taken apart. What is null counts as absent.
struct Document<'a> {
    /// All but `model`.
    root: Map<String, Value>,
    /// All of `model` but these two.
    model: Map<String, Value>,
    vocab: Option<&'a RawValue>,
    merges: Option<&'a RawValue>,
}

impl<'a> Document<'a> {
    fn read(path: &Path, bytes: &'a [u8]) -> Result<Document<'a>, Problem> {
        let no_json = |error: String| Problem::no_json(path, error).advice(WITHOUT);
        let budget = Budget::new();
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'{') {
            strict_json::read(bytes, &budget).map_err(no_json)?;
            return Err(Problem::new(path, "JSON that is no object").expected("the tokenizer.json of a model"));
        }
        let mut parts = strict_json::parts(bytes, &budget).map_err(no_json)?;
        let model = parts.remove("model").filter(|model| model.get() != "null");
        let root = trees(parts, "", &budget).map_err(no_json)?;
        let keys = Keys { path, object: &root, prefix: "" };
        let model = model.ok_or_else(|| keys.missing("model", None))?;
        if !model.get().starts_with('{') {
            let value = strict_json::read(model.get().as_bytes(), &budget).map_err(no_json)?;
            return Err(keys.bad("model", &value, "an object"));
        }
        let inside = |error: String| no_json(format!("model: {error} of it"));
        let mut parts = strict_json::parts(model.get().as_bytes(), &budget).map_err(inside)?;
        let [vocab, merges] = ["vocab", "merges"].map(|key| parts.remove(key).filter(|part| part.get() != "null"));
        let model = trees(parts, "model.", &budget).map_err(no_json)?;
        Ok(Document { root, model, vocab, merges })
    }
}

/// Trees of the values of an object.
fn trees(parts: BTreeMap<String, &RawValue>, prefix: &str, budget: &Budget) -> Result<Map<String, Value>, String> {
    let tree = |(key, part): (String, &RawValue)| match strict_json::read(part.get().as_bytes(), budget) {
        Ok(value) => Ok((key, value)),
        Err(error) => Err(format!("{prefix}{}: {error} of it", shortened(&key, SHOWN_CHARS))),
    };
    parts.into_iter().map(tree).collect()
}

/// The tokens of the model as they are spelled, in the order of the file.
#[derive(Default)]
struct Spelled {
    /// All spellings, one after the other.
    text: String,
    /// Where each ends, and its id.
    entries: Vec<(u32, u32)>,
}

impl Spelled {
    /// Reads the tokens, whose ids must be rows of the embedding.
    fn read(document: &Document, model: &Keys, vocab_size: usize) -> Result<Spelled, Problem> {
        let vocab = document.vocab.ok_or_else(|| model.missing("vocab", None))?;
        if !vocab.get().starts_with('{') {
            let value = strict_json::parse(vocab.get().as_bytes());
            let value = value.map_err(|error| Problem::no_json(model.path, error).advice(WITHOUT))?;
            return Err(model.bad("vocab", &value, "an object of tokens and ids"));
        }
        let mut deserializer = serde_json::Deserializer::from_str(vocab.get());
        let read = deserializer.deserialize_map(SpelledVisitor { model, vocab_size });
        // It was read as JSON before: only what a text cannot hold is left, half a surrogate pair.
        read.map_err(|error| Problem::no_json(model.path, format!("model.vocab: {error} of it")))?
    }

    /// All of them, with their ids.
    fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        let begins = std::iter::once(0).chain(self.entries.iter().map(|entry| entry.0));
        begins.zip(&self.entries).map(|(begin, &(end, id))| (&self.text[begin as usize..end as usize], id))
    }
}

/// Reads an object of tokens and ids, and keeps the first problem with an id.
struct SpelledVisitor<'a> {
    model: &'a Keys<'a>,
    vocab_size: usize,
}

impl<'de> Visitor<'de> for SpelledVisitor<'_> {
    type Value = Result<Spelled, Problem>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tokens and ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut spelled = Spelled::default();
        while let Some((text, id)) = entries.next_entry::<String, &RawValue>()? {
            let key = || format!("vocab \"{}\"", shortened(&text, SHOWN_CHARS));
            match checked_id(self.model, key, id.get().parse().ok(), self.vocab_size) {
                Ok(id) => {
                    spelled.text += &text;
                    // The file is shorter than 4 GiB.
                    spelled.entries.push((spelled.text.len() as u32, id));
                }
                Err(problem) => {
                    while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    return Ok(Err(problem));
                }
            }
        }
        Ok(Ok(spelled))
    }
}

/// A token that is found as a whole.
struct Added<'a> {
    id: u32,
    text: &'a str,
    flags: u32,
    /// What it does beyond that, in words; empty for nothing.
    beyond: &'static str,
}

/// A token of the model.
struct Token {
    id: u32,
    /// Its bytes, unless an added token has its id.
    bytes: Option<Box<[u8]>>,
}

/// An id below the rows of the embedding; `key` says whose.
fn checked_id(keys: &Keys, key: impl Fn() -> String, id: Option<u64>, vocab_size: usize) -> Result<u32, Problem> {
    match id {
        // A model has fewer than 2^32 rows.
        Some(id) if id < vocab_size as u64 => Ok(id as u32),
        Some(id) => Err(Problem::new(keys.path, format!("{}{} has id {id}", keys.prefix, key()))
            .expected(format!("less than the {vocab_size} rows of the embedding"))
            .advice("is it the tokenizer of this model?")),
        None => Err(Problem::new(keys.path, format!("{}{} has no id", keys.prefix, key())).expected("a token id")),
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
        let key = || format!("\"{}\"", shortened(text, SHOWN_CHARS));
        let id = checked_id(&keys, key, object.get("id").and_then(Value::as_u64), vocab_size)?;
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

/// The tokens of the model by their spelling, each spelling and each id once.
fn tokens<'a>(model: &Keys<'a>, spelled: &'a Spelled, added: &[Added]) -> Result<HashMap<&'a str, Token>, Problem> {
    let shown = |text: &str| shortened(text, SHOWN_CHARS);
    let bad = |found: String, expected: &str| Err(Problem::new(model.path, found).expected(expected));
    let table = byte_table();
    let added: HashMap<u32, &str> = added.iter().map(|added| (added.id, added.text)).collect();
    let mut seen = HashSet::with_capacity(spelled.entries.len());
    let mut tokens = HashMap::with_capacity(spelled.entries.len());
    for (text, id) in spelled.iter() {
        if !seen.insert(id) {
            let other = spelled.iter().find(|entry| entry.1 == id).map_or("", |entry| entry.0);
            return bad(
                format!("model.vocab: id {id} for \"{}\" and \"{}\"", shown(other), shown(text)),
                "each id once",
            );
        }
        let bytes = match added.get(&id) {
            Some(added) if *added != text => {
                let (text, added) = (shown(text), shown(added));
                return bad(
                    format!("id {id} for \"{text}\" in model.vocab and \"{added}\" in added_tokens"),
                    "one token",
                );
            }
            Some(_) => None,
            None if text.is_empty() => return bad(format!("model.vocab: id {id} without a token"), "a token"),
            None => Some(token_bytes(text, &table).into_boxed_slice()),
        };
        match tokens.entry(text) {
            Entry::Vacant(entry) => entry.insert(Token { id, bytes }),
            Entry::Occupied(_) => return bad(format!("model.vocab: key \"{}\" twice", shown(text)), "each token once"),
        };
    }
    Ok(tokens)
}

/// Reads how text becomes ids.
struct Reader<'a> {
    root: &'a Keys<'a>,
    model: &'a Keys<'a>,
    merges: Option<&'a RawValue>,
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
            None if self.merges.is_some() => {}
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
                ids[usize::from(byte)] = U32::new(token.id);
            }
        }
        match (0..=255u8).find(|&byte| in_utf8(byte) && ids[usize::from(byte)].get() == NONE) {
            Some(byte) => Err(format!("it has no token for the byte {byte:02x}")),
            None => Ok(ids),
        }
    }

    fn merges(&self) -> Result<Vec<Merge>, String> {
        let list = self.merges.filter(|list| list.get().starts_with('['));
        let list = list.ok_or("its model has no list of merges")?;
        let read = serde_json::Deserializer::from_str(list.get()).deserialize_seq(MergesVisitor(self));
        read.map_err(|error| format!("its merges: {error} of them"))?
    }

    /// The merge of a pair.
    fn merge(&self, pair: &RawValue) -> Result<Merge, &'static str> {
        let [left, right] = pieces(pair).ok_or("is no pair")?;
        let token = |text: &str| {
            let token = self.tokens.get(text).and_then(|token| Some((token.id, token.bytes.as_deref()?)));
            token.ok_or("names a token that is not there")
        };
        let (left_token, right_token) = (token(&left)?, token(&right)?);
        let merged = token(&[left, right].concat())?;
        if merged.1.strip_prefix(left_token.1) != Some(right_token.1) {
            return Err("makes other bytes than those of its pieces");
        }
        let [left, right, id] = [left_token.0, right_token.0, merged.0].map(U32::new);
        Ok(Merge { left, right, id })
    }

    fn added_tokens(&self) -> Result<Vec<AddedToken>, String> {
        let entry = |added: &Added| match added.beyond {
            "" => Ok(AddedToken { id: U32::new(added.id), flags: U32::new(added.flags) }),
            beyond => Err(format!("its added token \"{}\" {beyond}", added.text)),
        };
        self.added.iter().map(entry).collect()
    }
}

/// The two pieces of a merge: a list of them, or as older versions write it, with a space between.
fn pieces(pair: &RawValue) -> Option<[String; 2]> {
    if pair.get().starts_with('[') {
        return serde_json::from_str(pair.get()).ok();
    }
    let pair: String = serde_json::from_str(pair.get()).ok()?;
    pair.split_once(' ').map(|(left, right)| [left.into(), right.into()])
}

/// Reads a list of merges, and keeps the first problem with one.
struct MergesVisitor<'a>(&'a Reader<'a>);

impl<'de> Visitor<'de> for MergesVisitor<'_> {
    type Value = Result<Vec<Merge>, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        let mut merges: Vec<Merge> = Vec::new();
        while let Some(pair) = list.next_element::<&RawValue>()? {
            let merge = self.0.merge(pair);
            let merge = merge.and_then(|merge| match seen.insert((merge.left.get(), merge.right.get())) {
                true => Ok(merge),
                false => Err("stands twice"),
            });
            match merge {
                Ok(merge) => merges.push(merge),
                Err(what) => {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Err(format!("merge {} {what}", merges.len())));
                }
            }
        }
        Ok(Ok(merges))
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
        assert!(without.tokenizer.is_ok() && without.vocabulary.n_entries() == 258, "{:?}", without.tokenizer);
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
