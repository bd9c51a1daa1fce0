//! Reads `tokenizer.json` of the crate `tokenizers`: the bytes of every token, which are defined for any kind of
//! tokenizer. `tokenizer_section` derives the section `TOKENIZER` from it.
//!
//! A tokenizer has about 100,000 tokens and 100,000 merges. Both are parsed as a stream; all else becomes a tree.

use crate::error::{Error, Problem, shortened};
use crate::folder::source_file;
use crate::json::keys::Keys;
use crate::json::strict::{self, Budget};
use crate::text::tokenizer_section::{Added, NoSection, Reader, Token};
use crate::text::tokenizer_settings::{AddedTokens, Definition, Settings};
use crate::text::vocab::{Vocabulary, byte_table, token_bytes};
use olmo_infer::internals::format::config::Architecture;
use olmo_infer::internals::format::{ADDED_NORMALIZED, ADDED_SPECIAL, ADDED_SPLIT, MAX_TOKENS_BEYOND};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

/// Longest `tokenizer.json`; those of the published models have 2 to 8 MB. It is read whole, so this also limits the
/// cost of a wrong file.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 12 << 20;

/// Advice for an invalid file.
const WITHOUT: &str = "download it again, or move it away: the model then accepts ids, but no text";
/// Most characters of a token in a message.
const SHOWN_CHARS: usize = 60;

/// The content of a `tokenizer.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerJson {
    /// The bytes of every token.
    pub vocabulary: Vocabulary,
    /// The bytes of the section `TOKENIZER`, or why the tokenizer is not supported.
    pub tokenizer: Result<Vec<u8>, String>,
    /// Ids of tokens that only other files define.
    pub named_elsewhere: Vec<u32>,
    /// Warnings about the tokens, a line each.
    pub warnings: Vec<String>,
}

/// The model of a `tokenizer.json`, and the other files that define its tokens.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The architecture, if known.
    pub architecture: Option<Architecture>,
    /// The settings of other files.
    pub settings: Settings,
}

impl Around {
    /// A model with this number of rows and no other files.
    pub fn rows(vocab_size: usize) -> Around {
        Around { vocab_size, ..Around::default() }
    }

    /// Whether transformers builds the tokenizer from the tokens alone, as it does for the classes of OLMo-1 and OLMoE.
    fn is_rebuilt(&self) -> bool {
        let class = self.settings.class.as_deref().unwrap_or("GPTNeoXTokenizer");
        matches!(self.architecture, Some(Architecture::Olmo1 | Architecture::Olmoe))
            && matches!(class, "GPTNeoXTokenizer" | "GPT2Tokenizer")
    }
}

/// Reads the tokenizer at `path`.
///
/// # Errors
/// The file cannot be read, is not JSON, or its tokens do not fit the model.
pub fn read(path: &Path, around: &Around) -> Result<TokenizerJson, Error> {
    let bytes = source_file::read_at_most(path, MAX_TOKENIZER_BYTES)?.ok_or_else(|| too_long(path))?;
    Ok(parse_with(path, &bytes, around)?)
}

/// Reads the tokenizer in `bytes` of a model with `vocab_size` rows; `path` is for messages.
///
/// # Errors
/// They are not JSON, or the tokens do not fit the model.
pub fn parse(path: &Path, bytes: &[u8], vocab_size: usize) -> Result<TokenizerJson, Problem> {
    parse_with(path, bytes, &Around::rows(vocab_size))
}

/// The error for a file of more than [`MAX_TOKENIZER_BYTES`].
pub(crate) fn too_long(path: &Path) -> Problem {
    Problem::new(path, "longer than 12 MiB").expected("a tokenizer.json of a few MiB").advice(WITHOUT)
}

/// Reads the tokenizer in `bytes`; `path` is for messages.
///
/// # Errors
/// They are not JSON, or the tokens do not fit the model.
pub fn parse_with(path: &Path, bytes: &[u8], around: &Around) -> Result<TokenizerJson, Problem> {
    let vocab_size = around.vocab_size;
    let document = Document::read(path, bytes)?;
    let root = Keys { path, object: &document.root, prefix: "" };
    let model = Keys { path, object: &document.model, prefix: "model." };
    let stated = stated_tokens(&root, vocab_size)?;
    let spelled = Spelled::read(&document, &model, vocab_size)?;
    let mut tokens = tokens(&model, &spelled, &stated)?;
    let mut warnings = around.settings.warnings.clone();
    let added = added_tokens(path, &stated, &mut tokens, around, &mut warnings)?;
    let named_elsewhere = named_elsewhere(&stated, &added, &mut warnings);
    let merges = document.merges;
    let reader = Reader { root: &root, model: &model, merges, tokens: &tokens, added: &added };
    let tokenizer = match reader.section(&around.settings, around.is_rebuilt(), &mut warnings) {
        Ok(section) => Ok(section),
        Err(NoSection::Unknown(why)) => Err(why),
        Err(NoSection::NoMemory) => {
            let problem = Problem::new(path, "out of memory for its merges");
            return Err(problem.advice("close other programs or raise the limit"));
        }
    };

    let mut entries: Vec<(u32, &[u8])> = added.iter().map(|added| (added.id, added.text.as_bytes())).collect();
    let is_added: HashSet<u32> = added.iter().map(|added| added.id).collect();
    let of_model = tokens.values().filter(|token| !is_added.contains(&token.id));
    entries.extend(of_model.filter_map(|token| Some((token.id, token.bytes.as_deref()?))));
    entries.sort_unstable();
    if entries.is_empty() {
        return Err(Problem::new(path, "no tokens").expected("the tokens of a model"));
    }
    let beyond = entries.iter().filter(|(id, _)| *id as usize >= vocab_size).map(|(_, token)| *token);
    warnings.extend(beyond_rows("tokenizer.json", vocab_size, beyond));
    Ok(TokenizerJson { vocabulary: Vocabulary::new(entries), tokenizer, named_elsewhere, warnings })
}

/// The warning about tokens beyond the rows of the embedding; `None` when there are none.
pub(crate) fn beyond_rows<'a>(
    name: &str,
    vocab_size: usize,
    mut tokens: impl Iterator<Item = &'a [u8]>,
) -> Option<String> {
    let first = shortened(&olmo_infer::internals::error::shown::quoted(tokens.next()?), SHOWN_CHARS);
    let (has, them) = match tokens.count() {
        0 => (format!("token \"{first}\""), "it"),
        more => (format!("token \"{first}\" and {more} more"), "one of them"),
    };
    Some(format!(
        "{name} has {has} beyond the {vocab_size} rows of the embedding: other text works, text with {them} is refused"
    ))
}

/// The parts of the file. A null counts as absent.
struct Document<'a> {
    /// The keys other than `model`.
    root: Map<String, Value>,
    /// The keys of `model` other than the next two.
    model: Map<String, Value>,
    vocab: Option<&'a RawValue>,
    merges: Option<&'a RawValue>,
}

impl<'a> Document<'a> {
    fn read(path: &Path, bytes: &'a [u8]) -> Result<Document<'a>, Problem> {
        let invalid = |error: String| Problem::invalid_json(path, error).advice(WITHOUT);
        let budget = Budget::new();
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'{') {
            strict::read(bytes, &budget).map_err(invalid)?;
            return Err(Problem::new(path, "JSON that is not an object").expected("the tokenizer.json of a model"));
        }
        let mut parts = strict::parts(bytes, &budget).map_err(invalid)?;
        let model = parts.remove("model").filter(|model| model.get() != "null");
        let root = trees(parts, "", &budget).map_err(invalid)?;
        let keys = Keys { path, object: &root, prefix: "" };
        let model = model.ok_or_else(|| keys.missing("model", None))?;
        if !model.get().starts_with('{') {
            let value = strict::read(model.get().as_bytes(), &budget).map_err(invalid)?;
            return Err(keys.bad("model", &value, "an object"));
        }
        let inside = |error: String| invalid(format!("model: {error} of it"));
        let mut parts = strict::parts(model.get().as_bytes(), &budget).map_err(inside)?;
        let [vocab, merges] = ["vocab", "merges"].map(|key| parts.remove(key).filter(|part| part.get() != "null"));
        let model = trees(parts, "model.", &budget).map_err(invalid)?;
        Ok(Document { root, model, vocab, merges })
    }
}

/// Parses the values of an object to trees.
fn trees(parts: BTreeMap<String, &RawValue>, prefix: &str, budget: &Budget) -> Result<Map<String, Value>, String> {
    let tree = |(key, part): (String, &RawValue)| match strict::read(part.get().as_bytes(), budget) {
        Ok(value) => Ok((key, value)),
        Err(error) => Err(format!("{prefix}{}: {error} of it", shortened(&key, SHOWN_CHARS))),
    };
    parts.into_iter().map(tree).collect()
}

/// The tokens of the model as spelled in the file, in its order.
#[derive(Default)]
struct Spelled {
    /// All spellings, concatenated.
    text: String,
    /// End of each spelling, and its id.
    entries: Vec<(u32, u32)>,
}

impl Spelled {
    /// Reads the tokens.
    fn read(document: &Document, model: &Keys, vocab_size: usize) -> Result<Spelled, Problem> {
        let vocab = document.vocab.ok_or_else(|| model.missing("vocab", None))?;
        if !vocab.get().starts_with('{') {
            let value = strict::parse(vocab.get().as_bytes());
            let value = value.map_err(|error| Problem::invalid_json(model.path, error).advice(WITHOUT))?;
            return Err(model.bad("vocab", &value, "an object of tokens and ids"));
        }
        let mut deserializer = serde_json::Deserializer::from_str(vocab.get());
        let read = deserializer.deserialize_map(SpelledVisitor { model, vocab_size });
        // The JSON is valid; the remaining error is a string that is not UTF-8, with half a surrogate pair.
        read.map_err(|error| Problem::invalid_json(model.path, format!("model.vocab: {error} of it")))?
    }

    /// The spellings and their ids.
    fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        let begins = std::iter::once(0).chain(self.entries.iter().map(|entry| entry.0));
        begins.zip(&self.entries).map(|(begin, &(end, id))| (&self.text[begin as usize..end as usize], id))
    }
}

/// Reads an object of tokens and ids, and stores the first problem with an id.
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

/// Checks an id against the size of the vocabulary; `key` names it in messages.
fn checked_id(keys: &Keys, key: impl Fn() -> String, id: Option<u64>, vocab_size: usize) -> Result<u32, Problem> {
    match id {
        // A model has fewer than 2^31 rows.
        Some(id) if id < (vocab_size + MAX_TOKENS_BEYOND) as u64 => Ok(id as u32),
        Some(id) => Err(Problem::new(keys.path, format!("{}{} has id {id}", keys.prefix, key()))
            .expected(format!("less than the {vocab_size} rows of the embedding, or at most {MAX_TOKENS_BEYOND} more"))
            .advice("is it the tokenizer of this model?")),
        None => Err(Problem::new(keys.path, format!("{}{} has no id", keys.prefix, key())).expected("a token id")),
    }
}

/// The distinct added tokens of the file, in its order.
fn stated_tokens(root: &Keys, vocab_size: usize) -> Result<Vec<(u32, Definition)>, Problem> {
    let list = match root.get("added_tokens") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(root.bad("added_tokens", other, "a list")),
    };
    let mut seen = HashMap::new();
    let mut stated = Vec::new();
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
        let is_set = |key| keys.boolean(key).map(|value| value.unwrap_or(false));
        stated.push((
            id,
            Definition {
                text: text.into(),
                single_word: is_set("single_word")?,
                lstrip: is_set("lstrip")?,
                rstrip: is_set("rstrip")?,
                normalized: is_set("normalized")?,
                special: is_set("special")?,
            },
        ));
    }
    Ok(stated)
}

/// The added tokens with the ids that `tokenizers` assigns, including those that other files define.
fn added_tokens(
    path: &Path,
    stated: &[(u32, Definition)],
    tokens: &mut HashMap<&str, Token>,
    around: &Around,
    warnings: &mut Vec<String>,
) -> Result<Vec<Added>, Problem> {
    let of_model = |text: &str| tokens.get(text).map(|token| token.id);
    let mut found = AddedTokens::new(&of_model, tokens.len());
    around.settings.add_all(stated, &mut found, around.is_rebuilt());
    let found = found.into_tokens();
    let expected: HashMap<&str, u32> = stated.iter().map(|(id, definition)| (definition.text.as_str(), *id)).collect();
    let mut others = found.iter().filter_map(|(id, definition, _)| {
        let expected = expected.get(definition.text.as_str()).filter(|expected| **expected != *id)?;
        Some((&definition.text, expected, id))
    });
    if let Some((text, expected, id)) = others.next() {
        warnings.push(format!(
            "tokenizer.json has the added token \"{}\" with id {expected}, but tokenizers, and this model file, gives \
             it id {id}, the next one{}",
            shortened(text, SHOWN_CHARS),
            match others.count() {
                0 => String::new(),
                more => format!(" ({more} more such tokens)"),
            }
        ));
    }
    let by_id: HashMap<u32, &str> = tokens.iter().map(|(text, token)| (token.id, *text)).collect();
    let (mut added, table) = (Vec::new(), byte_table());
    for (id, definition, was_special) in found {
        checked_id(
            &Keys { path, object: &Map::new(), prefix: "added_tokens: " },
            || format!("\"{}\"", shortened(&definition.text, SHOWN_CHARS)),
            Some(id.into()),
            around.vocab_size,
        )?;
        match by_id.get(&id) {
            Some(other) if *other != definition.text => {
                let (text, other) = (shortened(&definition.text, SHOWN_CHARS), shortened(other, SHOWN_CHARS));
                let found = format!("added_tokens: tokenizers gives \"{text}\" id {id}, that of \"{other}\"");
                return Err(Problem::new(path, found).expected("ids without gaps, so that the next one is free"));
            }
            _ => {}
        }
        if let Some(token) = tokens.get_mut(definition.text.as_str()) {
            token.bytes = bytes_of_both(&definition.text, &table);
        }
        let beyond = match (definition.single_word, definition.lstrip || definition.rstrip) {
            (true, _) => "matches only as a whole word",
            (false, true) => "strips adjacent spaces",
            (false, false) => "",
        };
        let flags = if definition.normalized { ADDED_NORMALIZED } else { 0 };
        let flags = flags | if definition.special { ADDED_SPECIAL } else { 0 };
        let split = around.settings.split_special_tokens && was_special;
        added.push(Added { id, text: definition.text, flags: flags | if split { ADDED_SPLIT } else { 0 }, beyond });
    }
    Ok(added)
}

/// The bytes of a token of the model that is also an added token. An added token is plain text, not spelled in bytes.
/// `None` where the two differ, so that no merge can use it.
fn bytes_of_both(text: &str, table: &[Option<u8>]) -> Option<Box<[u8]>> {
    Some(token_bytes(text, table).into_boxed_slice()).filter(|bytes| **bytes == *text.as_bytes())
}

/// The ids of tokens that only other files define, and a warning about them.
fn named_elsewhere(stated: &[(u32, Definition)], added: &[Added], warnings: &mut Vec<String>) -> Vec<u32> {
    let stated: HashSet<&str> = stated.iter().map(|(_, definition)| definition.text.as_str()).collect();
    let named: Vec<&Added> = added.iter().filter(|added| !stated.contains(added.text.as_str())).collect();
    if let Some(first) = named.first() {
        let more = match named.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        warnings.push(format!(
            "tokenizer_config.json, or a file or class that goes with it, names the token \"{}\"{more}, which is not \
             an added token of tokenizer.json: text with it gets id {}, as in transformers",
            shortened(&first.text, SHOWN_CHARS),
            first.id
        ));
    }
    named.iter().map(|added| added.id).collect()
}

/// The tokens of the model by spelling; spellings and ids are distinct.
fn tokens<'a>(
    model: &Keys<'a>,
    spelled: &'a Spelled,
    stated: &[(u32, Definition)],
) -> Result<HashMap<&'a str, Token>, Problem> {
    let shown = |text: &str| shortened(text, SHOWN_CHARS);
    let bad = |found: String, expected: &str| Err(Problem::new(model.path, found).expected(expected));
    let table = byte_table();
    let added: HashMap<u32, &str> = stated.iter().map(|(id, definition)| (*id, definition.text.as_str())).collect();
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
            Some(_) => bytes_of_both(text, &table),
            None if text.is_empty() => return bad(format!("model.vocab: id {id} without a token"), "a token"),
            None => Some(token_bytes(text, &table).into_boxed_slice()),
        };
        match tokens.entry(text) {
            Entry::Vacant(entry) => entry.insert(Token { id, bytes }),
            Entry::Occupied(_) => {
                return bad(format!("model.vocab: duplicate key \"{}\"", shown(text)), "each token once");
            }
        };
    }
    Ok(tokens)
}
