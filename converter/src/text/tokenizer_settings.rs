//! The files besides `tokenizer.json` that change ids: `tokenizer_config.json`, `special_tokens_map.json` and
//! `added_tokens.json`, as `AutoTokenizer.from_pretrained` of transformers 5 reads them.
//!
//! They define tokens that are matched as a whole. `tokenizers` gives new ones the next free ids; an id in a file has
//! no effect.

use crate::error::shortened;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

/// Most tokens that the files may define.
const MAX_NAMED: usize = 1 << 16;
/// Most characters of a token in a message.
const SHOWN_CHARS: usize = 60;
/// Names that every tokenizer has, in the order in which their tokens get ids.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token that is matched as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    pub(crate) text: String,
    pub(crate) single_word: bool,
    pub(crate) lstrip: bool,
    pub(crate) rstrip: bool,
    pub(crate) normalized: bool,
    pub(crate) special: bool,
}

impl Definition {
    /// A special token with only a text.
    fn special(text: &str) -> Definition {
        let text = text.into();
        Definition { text, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
    }

    /// Parses an object. Special tokens are not normalized by default.
    fn in_object(object: &Map<String, Value>, special: Option<bool>) -> Option<Definition> {
        let is_set = |key: &str| object.get(key).and_then(Value::as_bool);
        let special = special.or(is_set("special")).unwrap_or(false);
        Some(Definition {
            text: object.get("content")?.as_str()?.into(),
            single_word: is_set("single_word").unwrap_or(false),
            lstrip: is_set("lstrip").unwrap_or(false),
            rstrip: is_set("rstrip").unwrap_or(false),
            normalized: is_set("normalized").unwrap_or(!special),
            special,
        })
    }

    /// Parses a string or an object.
    fn in_value(value: &Value, special: Option<bool>) -> Option<Definition> {
        match value {
            Value::String(text) => Some(Definition::special(text)),
            Value::Object(object) => Definition::in_object(object, special),
            _ => None,
        }
    }
}

/// The content of the files.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `added_tokens_decoder`, in the order of the ids. If it is present, the other files are ignored.
    decoder: Option<Vec<Definition>>,
    /// `added_tokens.json`, in the order of the ids.
    legacy: Vec<(u64, Definition)>,
    /// Tokens with a name of [`NAMES`], and the names that are absent from the files.
    named: Vec<(&'static str, Definition)>,
    absent: Vec<&'static str>,
    /// Tokens with other names, in the order in which they are added.
    own: Vec<Definition>,
    /// Tokens without a name.
    extra: Vec<Definition>,
    /// Whether special tokens in a text are encoded as plain text.
    pub(crate) split_special_tokens: bool,
    /// Whether a space is put before a text.
    pub(crate) add_prefix_space: bool,
    /// The Python class, without `Fast`.
    pub(crate) class: Option<String>,
    /// Warnings about the files.
    pub(crate) warnings: Vec<String>,
}

/// Reads the settings from the objects of the files.
pub fn settings(mut config: Map<String, Value>, map: Map<String, Value>, added: &Map<String, Value>) -> Settings {
    let absent = NAMES.into_iter().filter(|name| !config.contains_key(*name) && !map.contains_key(*name));
    let mut settings = Settings { absent: absent.collect(), ..Settings::default() };
    config.retain(|_, value| !value.is_null());
    let [extra, additional] = ["extra_special_tokens", "additional_special_tokens"];
    let is_empty =
        |value: &Value| value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    if config.get(extra).is_none_or(is_empty) {
        config.remove(additional).and_then(|list| config.insert(extra.into(), list));
    }
    let decoder = config.remove("added_tokens_decoder");
    if let Some(Value::Object(list)) = &decoder {
        settings.decoder = Some(settings.decoded(list));
    } else {
        // The map precedes the configuration.
        for (key, mut value) in map.into_iter().filter(|(_, value)| !value.is_null()) {
            if let (true, Value::Array(list), Some(Value::Array(before))) =
                (key == extra, &mut value, config.get(extra))
            {
                list.retain(|token| !before.contains(token));
                list.splice(..0, before.iter().cloned());
            }
            config.insert(key, value);
        }
    }
    let is_true = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    settings.split_special_tokens = is_true("split_special_tokens");
    settings.add_prefix_space = is_true("add_prefix_space");
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    settings.class = class.map(|class| class.strip_suffix("Fast").unwrap_or(class).into());
    for key in ["add_bos_token", "add_eos_token"].into_iter().filter(|key| is_true(key)) {
        let token = if key == "add_bos_token" { "before" } else { "after" };
        settings.warnings.push(format!(
            "tokenizer_config.json has {key}, which transformers 5 ignores with a tokenizer.json: no token is put \
             {token} a text"
        ));
    }
    if is_true("do_lower_case") {
        let says = "tokenizer_config.json has do_lower_case, which transformers 5 ignores: text keeps its upper case";
        settings.warnings.push(says.into());
    }
    let extra = config.get(extra).or(config.get(additional));
    let own = config.iter().filter(|(key, _)| key.ends_with("_token") && !NAMES.contains(&key.as_str()));
    let own = own.filter(|(_, value)| value.is_string() || value.is_object());
    let mut own: Vec<&Value> = own.map(|(_, value)| value).collect();
    match extra {
        Some(Value::Object(more)) => own.extend(more.values()),
        Some(Value::Array(list)) => settings.extra = settings.definitions(list.iter(), "extra_special_tokens"),
        Some(_) => settings.warnings.push("extra_special_tokens is not a list of tokens and is ignored".into()),
        None => {}
    }
    for name in NAMES {
        let definition = settings.definitions(config.get(name).into_iter(), name).pop();
        settings.named.extend(definition.map(|definition| (name, definition)));
    }
    settings.own = settings.definitions(own.into_iter(), "a token with a name");
    if decoder.is_none() {
        let special: HashSet<String> =
            settings.named(false).into_iter().chain(&settings.extra).map(|token| token.text.clone()).collect();
        let entries = added.iter().filter_map(|(text, id)| {
            let special = special.contains(text.as_str());
            Some((id.as_u64()?, Definition { special, normalized: !special, ..Definition::special(text) }))
        });
        settings.legacy = entries.collect();
        settings.legacy.sort_by_key(|entry| entry.0);
    }
    settings
}

impl Settings {
    /// The entries of `added_tokens_decoder`.
    fn decoded(&mut self, list: &Map<String, Value>) -> Vec<Definition> {
        let mut found: Vec<(u64, Definition)> = Vec::new();
        for (id, value) in list {
            let definition = value.as_object().and_then(|object| Definition::in_object(object, None));
            match (id.parse(), definition) {
                (Ok(id), Some(definition)) => found.push((id, definition)),
                _ => self.warnings.push(format!(
                    "tokenizer_config.json: added_tokens_decoder \"{}\" is not a token and is ignored",
                    shortened(id, SHOWN_CHARS)
                )),
            }
        }
        found.sort_by_key(|entry| entry.0);
        found.into_iter().map(|(_, definition)| definition).collect()
    }

    fn definitions<'a>(&mut self, values: impl Iterator<Item = &'a Value>, what: &str) -> Vec<Definition> {
        let mut found = Vec::new();
        for value in values.take(MAX_NAMED) {
            match Definition::in_value(value, Some(true)) {
                Some(definition) => found.push(definition),
                None => self.warnings.push(format!(
                    "tokenizer_config.json: {what} is {}, which is not a token and is ignored",
                    shortened(&value.to_string(), SHOWN_CHARS)
                )),
            }
        }
        found
    }

    /// The tokens with a name. A class that rebuilds the tokenizer has defaults for absent names.
    fn named(&self, rebuilds: bool) -> Vec<&Definition> {
        static DEFAULTS: LazyLock<[Definition; 2]> =
            LazyLock::new(|| ["<|endoftext|>", "<|padding|>"].map(Definition::special));
        let is_neox = self.class.as_deref().unwrap_or("GPTNeoXTokenizer") == "GPTNeoXTokenizer";
        let default = |name: &str| match name {
            _ if !rebuilds || !self.absent.contains(&name) => None,
            "bos_token" | "eos_token" | "unk_token" => Some(&DEFAULTS[0]),
            "pad_token" if is_neox => Some(&DEFAULTS[1]),
            _ => None,
        };
        let given = |name: &str| self.named.iter().find(|named| named.0 == name).map(|named| &named.1);
        let names = NAMES.into_iter().filter_map(|name| given(name).or_else(|| default(name)));
        names.chain(&self.own).collect()
    }

    /// Adds the tokens of a model in the order of transformers: `stated` of `tokenizer.json` with their ids, then those
    /// of the other files. `rebuilds`: the class uses only the tokens of `tokenizer.json`.
    pub(crate) fn add_all(&self, stated: &[(u32, Definition)], added: &mut AddedTokens<'_>, rebuilds: bool) {
        let mut pending: Vec<Definition> = match &self.decoder {
            Some(decoder) => decoder.clone(),
            None => {
                let mut by_id: BTreeMap<u64, Definition> = self.legacy.iter().cloned().collect();
                by_id.extend(stated.iter().map(|(id, definition)| (u64::from(*id), definition.clone())));
                by_id.into_values().collect()
            }
        };
        if !rebuilds {
            stated.iter().for_each(|(_, definition)| added.add(definition.clone()));
        }
        let named = self.named(rebuilds);
        let is_named = |text: &str| named.iter().any(|named| named.text == text);
        pending.retain(|definition| !added.has(definition));
        pending.iter_mut().for_each(|definition| definition.special |= is_named(&definition.text));
        for definition in named.iter().copied().chain(&self.extra) {
            let text = &definition.text;
            if added.id(text).is_none() && !pending.iter().any(|pending| pending.text == *text) {
                pending.push(definition.clone());
            }
        }
        pending.into_iter().for_each(|definition| added.add(definition));
    }
}

/// The added tokens of a tokenizer and their ids, as assigned by `added_vocabulary.rs` of the crate `tokenizers`.
pub(crate) struct AddedTokens<'a> {
    /// The id of a token of the model.
    pub(crate) of_model: &'a dyn Fn(&str) -> Option<u32>,
    /// Number of tokens of the model.
    pub(crate) n_model: u32,
    ids: HashMap<String, u32>,
    by_id: BTreeMap<u32, Definition>,
    /// Texts that were special when they were added, even if redefined later.
    special: HashSet<String>,
}

impl<'a> AddedTokens<'a> {
    pub(crate) fn new(of_model: &'a dyn Fn(&str) -> Option<u32>, n_model: usize) -> AddedTokens<'a> {
        // Their file is shorter than 4 GiB.
        let n_model = n_model as u32;
        AddedTokens { of_model, n_model, ids: HashMap::new(), by_id: BTreeMap::new(), special: HashSet::new() }
    }

    fn add(&mut self, definition: Definition) {
        if definition.text.is_empty() {
            return;
        }
        let next = || self.by_id.keys().next_back().map_or(0, |last| last + 1).max(self.n_model);
        let id = self.id(&definition.text).or_else(|| (self.of_model)(&definition.text)).unwrap_or_else(next);
        self.ids.insert(definition.text.clone(), id);
        if definition.special {
            self.special.insert(definition.text.clone());
        }
        self.by_id.insert(id, definition);
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    fn has(&self, definition: &Definition) -> bool {
        self.id(&definition.text).and_then(|id| self.by_id.get(&id)) == Some(definition)
    }

    /// The tokens by their ids, and whether each was special when it was added.
    pub(crate) fn into_tokens(self) -> Vec<(u32, Definition, bool)> {
        let AddedTokens { by_id, special, .. } = self;
        let token = |(id, definition): (u32, Definition)| {
            let was_special = special.contains(&definition.text);
            (id, definition, was_special)
        };
        by_id.into_iter().map(token).collect()
    }
}
