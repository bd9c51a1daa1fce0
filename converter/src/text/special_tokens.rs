//! The variables for tokens in a chat template, and the choice of a model's template, as in transformers 5. The rules
//! are in `tests/chat_templates/README.md`.

use crate::text::jinja::Names;
use olmo_infer::internals::format::config::Architecture;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The names that every tokenizer of transformers has.
const COMMON: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The files of a folder that define special tokens.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `tokenizer_config.json`.
    pub config: &'a Map<String, Value>,
    /// `special_tokens_map.json`.
    pub map: Option<&'a Map<String, Value>>,
    /// The architecture of the model, which determines the default tokenizer class.
    pub architecture: Architecture,
    /// `tokenizer_class` of `config.json`.
    pub class: Option<&'a str>,
}

impl<'a> Sources<'a> {
    /// `special_tokens_map.json`, unless it is ignored.
    fn map(&self) -> Option<&'a Map<String, Value>> {
        self.map.filter(|_| !self.config.contains_key("added_tokens_decoder"))
    }

    /// The variables and their texts.
    pub fn names(&self) -> Names {
        let mut names = BTreeMap::new();
        let mut set = |key: &str, text: Option<String>| match text {
            None => drop(names.remove(key)),
            Some(text) => drop(names.insert(key.to_string(), text)),
        };
        for (key, text) in self.defaults() {
            set(key, Some(text.to_string()));
        }
        let map = self.map();
        // From the lowest to the highest precedence; a null removes a default.
        for key in COMMON {
            let given = map.and_then(|map| map.get(key)).or_else(|| self.config.get(key));
            if let Some(value) = given {
                set(key, text(value));
            }
        }
        let others = |object: &'a Map<String, Value>| {
            object.iter().filter(|(key, _)| key.ends_with("_token") && !COMMON.contains(&key.as_str()))
        };
        let of_map = map.into_iter().flat_map(others).collect::<Vec<_>>();
        for (key, value) in &of_map {
            set(key, text(value));
        }
        let of_map_names: BTreeSet<&String> = of_map.iter().map(|(key, _)| *key).collect();
        let replaced = |key: &String| of_map_names.contains(key);
        let is_token = |value: &Value| value.is_string() || value.get("__type") == Some(&"AddedToken".into());
        let of_config = others(self.config)
            .filter(|(key, _)| !matches!(key.as_str(), "add_bos_token" | "add_eos_token"))
            .filter(|(key, value)| is_token(value) && !(value.is_object() && replaced(key)));
        let (strings, objects): (Vec<_>, Vec<_>) = of_config.partition(|(_, value)| value.is_string());
        for (key, value) in objects.into_iter().chain(strings) {
            if let Some(text) = text(value) {
                set(key, Some(text));
            }
        }
        let dictionary = |object: &'a Map<String, Value>, key: &str| object.get(key).and_then(Value::as_object);
        let extra = |object: &'a Map<String, Value>| {
            let keys = ["additional_special_tokens", "extra_special_tokens"];
            keys.into_iter().filter_map(move |key| dictionary(object, key)).flatten()
        };
        // Other names in the file override these.
        let has_others = others(self.config).any(|(_, value)| is_token(value));
        let specific = dictionary(self.config, "model_specific_special_tokens");
        let specific = specific.filter(|_| !has_others && extra(self.config).next().is_none());
        let all = specific.into_iter().flatten().chain(extra(self.config)).chain(map.into_iter().flat_map(extra));
        for (key, value) in all {
            if let Some(text) = text(value) {
                set(key, Some(text));
            }
        }
        names.into_iter().collect()
    }

    /// The default tokens of the tokenizer's class.
    fn defaults(&self) -> Vec<(&'static str, &'static str)> {
        if !matches!(self.architecture, Architecture::Olmo1 | Architecture::Olmoe) {
            return Vec::new();
        }
        let end = "<|endoftext|>";
        let gpt2 = vec![("bos_token", end), ("eos_token", end), ("unk_token", end)];
        let class = self.config.get("tokenizer_class").and_then(Value::as_str).or(self.class);
        match class.map(|class| class.strip_suffix("Fast").unwrap_or(class)) {
            None | Some("GPTNeoXTokenizer") => [gpt2, vec![("pad_token", "<|padding|>")]].concat(),
            Some("GPT2Tokenizer") => gpt2,
            Some("Qwen2Tokenizer") => vec![("eos_token", end), ("unk_token", end), ("pad_token", end)],
            Some(_) => Vec::new(),
        }
    }

    /// The template in effect; `None` if there is none, an error if it is not found. `special_tokens_map.json` precedes
    /// the template files, and those precede `tokenizer_config.json`.
    pub fn template(&self, files: &TemplateFiles) -> Result<Option<(String, Origin)>, String> {
        if let Some(value) = self.map().and_then(|map| map.get("chat_template")).filter(|value| !value.is_null()) {
            return default_of(value).map(|template| Some((template, Origin::SpecialTokensMap)));
        }
        if let Some(template) = files.default.as_ref().or(files.single.as_ref()) {
            return Ok(Some((template.clone(), Origin::File)));
        }
        if files.has_others {
            return Err("none of additional_chat_templates is named default".into());
        }
        match self.config.get("chat_template").filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => default_of(value).map(|template| Some((template, Origin::TokenizerConfig))),
        }
    }
}

/// The template files of a folder.
#[derive(Clone, Debug, Default)]
pub struct TemplateFiles {
    /// `chat_template.jinja`.
    pub single: Option<String>,
    /// `default.jinja` of `additional_chat_templates`, or else `file.jinja`.
    pub default: Option<String>,
    /// Whether `additional_chat_templates` has others.
    pub has_others: bool,
}

/// The source of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A template file.
    File,
    /// `tokenizer_config.json`.
    TokenizerConfig,
    /// `special_tokens_map.json`.
    SpecialTokensMap,
    /// The metadata of a GGUF file.
    Gguf,
}

impl Origin {
    /// The name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Origin::File => "chat_template.jinja",
            Origin::TokenizerConfig => "tokenizer_config.json",
            Origin::SpecialTokensMap => "special_tokens_map.json",
            Origin::Gguf => "tokenizer.chat_template",
        }
    }
}

/// The text of a token: a string, or an object with `content`.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) if object.is_empty() => Some(String::new()),
        Value::Object(object) => object.get("content")?.as_str().map(String::from),
        _ => None,
    }
}

/// The template in a value: a string, or the entry named "default".
fn default_of(value: &Value) -> Result<String, String> {
    let named = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
    let template = match value {
        Value::String(template) => Some(template.as_str()),
        // Of two with the same name the last is used.
        Value::Array(list) => list.iter().rev().find(named).and_then(|entry| entry.get("template")?.as_str()),
        Value::Object(object) => object.get("default").and_then(Value::as_str),
        _ => None,
    };
    template.map(String::from).ok_or_else(|| "chat_template has no template named default".into())
}
