//! `tokenizer.json` of the crate `tokenizers`: the bytes of every token, which it has whatever the kind of tokenizer.
//! How text becomes ids, `tokenizer_section` makes of it.
//!
//! There are a hundred thousand tokens and as many merges. Both are read as they come; everything else becomes a tree.

use crate::config_json::Keys;
use crate::error::{Error, Problem, shortened};
use crate::source_file;
use crate::strict_json::{self, Budget};
use crate::tokenizer_section::{Added, Reader, Token};
use crate::vocab::{Vocabulary, byte_table, token_bytes};
use olmo_infer::format::{ADDED_NORMALIZED, ADDED_SPECIAL};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

/// Longest `tokenizer.json`; those of the published models have 2 to 8 MB. It is read whole, so this also bounds what a
/// file that is none costs.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 12 << 20;

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
    let bytes = source_file::read_at_most(path, MAX_TOKENIZER_BYTES)?.ok_or_else(|| too_long(path))?;
    Ok(parse(path, &bytes, vocab_size)?)
}

/// The error for a file of more than [`MAX_TOKENIZER_BYTES`].
pub(crate) fn too_long(path: &Path) -> Problem {
    Problem::new(path, "longer than 12 MiB").expected("a tokenizer.json of a few MiB").advice(WITHOUT)
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
