//! The configuration of a model in the metadata of a GGUF file. It is spelled as a `config.json` and read as one, so
//! that each value is checked in the same way.
//!
//! llama.cpp writes Olmo-3 under the name of OLMo-2: it has a sliding window.

use crate::error::Problem;
use crate::folder::gguf::GgufFile;
use crate::folder::gguf::metadata::Metadata;
use crate::model::config_json;
use crate::model::rope_json::mscale;
use crate::model::settings::{Flags, Origin, Settings};
use olmo_infer::internals::format::config::{Architecture, MAX_LAYERS};
use serde_json::{Map, Value, json};

/// In Olmo-3 every layer of this number has full attention, unless the file states it.
const FULL_EVERY: u64 = 4;
/// Positions of an Olmo-3 before its context was stretched.
const UNSTRETCHED: u64 = 8192;

/// Keys of `config.json` and of the metadata, without the architecture that these begin with.
const KEYS: [(&str, &str); 12] = [
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("intermediate_size", "feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("clip_qkv", "attention.clamp_kqv"),
    ("sliding_window", "attention.sliding_window"),
    ("layer_types", "attention.sliding_window_pattern"),
    ("rope_theta", "rope.freq_base"),
];
/// The other keys of an architecture that are read, or without effect.
const OTHERS: [&str; 21] = [
    "attention.layer_norm_epsilon",
    "attention.value_length",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "attention.causal",
    "expert_count",
    "expert_used_count",
    "vocab_size",
    "rope.dimension_count",
    "rope.dimension_count_swa",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// Reads the configuration, and warnings for the user.
///
/// # Errors
/// It is not an OLMo model, lacks a key, or has a value that no supported model has.
pub fn read(gguf: &GgufFile, flags: &Flags) -> Result<(Settings, Vec<String>), Problem> {
    let metadata = &gguf.metadata;
    let name = architecture(metadata)?;
    let reader = Reader { metadata, name };
    reader.refuse_split()?;
    gguf.refuse_types()?;
    reader.refuse_other_arithmetic()?;
    let json = reader.config(gguf)?;
    let text = Value::Object(json).to_string().into_bytes();
    let mut settings = config_json::parse(gguf.path(), text, flags).map_err(|problem| reader.in_own_words(problem))?;
    settings.config_json = None;
    for (_, origin) in &mut settings.origins.0 {
        if *origin == Origin::ConfigJson {
            *origin = Origin::Gguf;
        }
    }
    let warnings = reader.warnings(gguf, &settings);
    Ok((settings, warnings))
}

/// The architecture, as the file names it.
fn architecture(metadata: &Metadata) -> Result<&'static str, Problem> {
    let key = "general.architecture";
    let expected = "olmo or olmo2, as llama.cpp names OLMo-1, OLMo-2 and Olmo-3";
    let problem = |found: String| metadata.problem(key, found).expected(expected);
    match metadata.text(key)? {
        Some("olmo") => Ok("olmo"),
        Some("olmo2") => Ok("olmo2"),
        Some("olmoe") => {
            Err(problem("olmoe".into()).advice("pack the safetensors checkpoint of OLMoE: its GGUF files are not read"))
        }
        Some(other) => {
            let shown = crate::error::shortened(other, 60);
            Err(problem(shown).advice("only OLMo-1, OLMo-2 and Olmo-3 are supported"))
        }
        None => Err(problem("missing".into()).advice("download it again")),
    }
}

struct Reader<'a> {
    metadata: &'a Metadata,
    /// The architecture.
    name: &'static str,
}

impl Reader<'_> {
    /// The full name of a key of the architecture.
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn whole(&self, key: &str) -> Result<Option<u64>, Problem> {
        let key = self.key(key);
        if self.metadata.is_list(&key) {
            let problem = self.metadata.problem(&key, "a value for each layer").expected("one for all of them");
            return Err(problem.advice("no released OLMo has other ones"));
        }
        self.metadata.whole(&key)
    }

    fn real(&self, key: &str) -> Result<Option<f64>, Problem> {
        self.metadata.real(&self.key(key))
    }

    /// Refuses one of several files.
    fn refuse_split(&self) -> Result<(), Problem> {
        let key = "split.count";
        match self.metadata.whole(key)? {
            None | Some(0 | 1) => Ok(()),
            Some(n) => {
                let problem = self.metadata.problem(key, format!("one of {n} files")).expected("a model in one file");
                Err(problem.advice("merge them with llama-gguf-split --merge"))
            }
        }
    }

    /// Refuses keys that change the arithmetic of the forward pass.
    fn refuse_other_arithmetic(&self) -> Result<(), Problem> {
        let refused = |key: &str, found: String, expected: &str| {
            let problem = self.metadata.problem(&self.key(key), found).expected(expected);
            Err(problem.advice("no released OLMo has another value"))
        };
        match self.whole("expert_count")? {
            None | Some(0) => {}
            Some(n) => return refused("expert_count", n.to_string(), "no experts"),
        }
        for (key, neutral) in [("rope.scale_linear", 1.0), ("rope.scaling.yarn_ext_factor", 1.0)] {
            match self.real(key)? {
                Some(value) if value != neutral => return refused(key, value.to_string(), &neutral.to_string()),
                _ => {}
            }
        }
        if self.metadata.boolean(&self.key("attention.causal"))? == Some(false) {
            return refused("attention.causal", "false".into(), "true");
        }
        Ok(())
    }

    /// The metadata as a `config.json`.
    fn config(&self, gguf: &GgufFile) -> Result<Map<String, Value>, Problem> {
        let mut json = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                json.insert(key.into(), value);
            }
        };
        let positions = self.whole("context_length")?;
        let window = self.whole("attention.sliding_window")?.filter(|window| *window > 0);
        let rope = self.scaling()?;
        let is_olmo3 = self.name == "olmo2" && (window.is_some() || rope.contains_key("factor"));
        set("model_type", Some(if is_olmo3 { "olmo3" } else { self.name }.into()));
        for key in
            ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"]
        {
            set(key, self.whole(own_key(key))?.map(Value::from));
        }
        set("max_position_embeddings", positions.map(Value::from));
        set("head_dim", self.head_dim()?.map(Value::from));
        set("vocab_size", self.vocab_size(gguf)?.map(Value::from));
        match self.name {
            "olmo" => {
                set("rms_norm_eps", self.real("attention.layer_norm_epsilon")?.map(Value::from));
                // Without the key nothing is clipped.
                set("clip_qkv", Some(self.real("attention.clamp_kqv")?.filter(|clip| *clip != 0.0).into()));
            }
            _ => set("rms_norm_eps", self.real("attention.layer_norm_rms_epsilon")?.map(Value::from)),
        }
        if is_olmo3 {
            set("sliding_window", window.map(Value::from));
            set("layer_types", Some(self.layer_types(window.is_some())?));
        }
        let theta = self.real("rope.freq_base")?;
        match self.real("rope.freq_base_swa")?.filter(|_| is_olmo3) {
            None => {
                set("rope_theta", theta.map(Value::from));
                set("rope_scaling", Some(rope).filter(|rope| !rope.is_empty()).map(Value::from));
            }
            Some(sliding) => {
                let mut full = rope;
                full.extend(theta.map(|theta| ("rope_theta".to_string(), Value::from(theta))));
                let sliding = json!({"rope_type": "default", "rope_theta": sliding});
                set("rope_parameters", Some(json!({"full_attention": full, "sliding_attention": sliding})));
            }
        }
        set("tie_word_embeddings", Some((gguf.shape("lm_head.weight").is_none()).into()));
        let ids = self.eos_ids()?;
        set("eos_token_id", Some(ids).filter(|ids| !ids.is_empty()).map(Value::from));
        set("bos_token_id", self.metadata.whole("tokenizer.ggml.bos_token_id")?.map(Value::from));
        set("pad_token_id", self.metadata.whole("tokenizer.ggml.padding_token_id")?.map(Value::from));
        Ok(json)
    }

    /// The width of a head, if it is stated.
    fn head_dim(&self) -> Result<Option<u64>, Problem> {
        let key_length = self.whole("attention.key_length")?;
        let quotient = match (self.whole("embedding_length")?, self.whole("attention.head_count")?) {
            (Some(hidden), Some(heads)) if heads > 0 => Some(hidden / heads),
            _ => None,
        };
        let width = key_length.or(quotient);
        let same = ["attention.value_length", "attention.key_length_swa", "attention.value_length_swa"];
        for key in same.into_iter().chain(["rope.dimension_count", "rope.dimension_count_swa"]) {
            match (self.whole(key)?, width) {
                (Some(found), Some(width)) if found != width => {
                    let problem = self.metadata.problem(&self.key(key), found.to_string());
                    let problem = problem.expected(format!("{width}, the width of a head"));
                    return Err(problem.advice("OLMo models rotate all of a head, and have one width for all heads"));
                }
                _ => {}
            }
        }
        Ok(key_length)
    }

    /// Rows of the embedding.
    fn vocab_size(&self, gguf: &GgufFile) -> Result<Option<u64>, Problem> {
        let Some(shape) = gguf.shape("model.embed_tokens.weight") else {
            let problem = Problem::new(gguf.path(), "missing").tensor("token_embd.weight");
            return Err(problem.expected("the embedding").advice("convert the whole model"));
        };
        let rows = shape.first().copied();
        match (self.whole("vocab_size")?, rows) {
            (Some(stated), Some(rows)) if stated != rows => {
                let problem = self.metadata.problem(&self.key("vocab_size"), stated.to_string());
                Err(problem
                    .expected(format!("{rows}, the rows of token_embd.weight"))
                    .advice("convert the model again"))
            }
            _ => Ok(rows),
        }
    }

    /// The attention of each layer of an Olmo-3.
    fn layer_types(&self, slides: bool) -> Result<Value, Problem> {
        let key = self.key("attention.sliding_window_pattern");
        // A number that is not there or out of range is refused later.
        let n_layers = self.whole("block_count")?.unwrap_or(0).min(MAX_LAYERS as u64 + 1);
        let name = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
        let every = |period: u64| {
            let layer = |layer| name(slides && (period == 0 || (layer + 1) % period != 0));
            (0..n_layers).map(layer).collect::<Vec<_>>()
        };
        if !self.metadata.is_list(&key) {
            return Ok(every(self.metadata.whole(&key)?.unwrap_or(FULL_EVERY)).into());
        }
        let (length, list) = (self.metadata.length(&key), self.metadata.wholes(&key)?);
        if length as u64 != n_layers {
            let problem = self.metadata.problem(&key, format!("{length} items"));
            return Err(problem.expected(format!("{n_layers}, one for each layer")).advice("convert the model again"));
        }
        Ok(list.into_iter().flatten().map(|item| name(slides && item != 0)).collect())
    }

    /// The scaling of the rotary embedding; empty if the file does not state any.
    fn scaling(&self) -> Result<Map<String, Value>, Problem> {
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?;
        let factor = self.real("rope.scaling.factor")?;
        let mut json = Map::new();
        match (kind, factor) {
            (None, None | Some(0.0 | 1.0)) => return Ok(json),
            (Some("none"), _) => {
                json.insert("rope_type".into(), "default".into());
                return Ok(json);
            }
            // As llama.cpp takes a factor alone.
            (None, Some(_)) => json.insert("rope_type".into(), "linear".into()),
            (Some(kind), _) => json.insert("rope_type".into(), kind.into()),
        };
        json.extend(factor.map(|factor| ("factor".to_string(), Value::from(factor))));
        for (name, key) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
            let value = self.real(&format!("rope.scaling.{key}"))?;
            json.extend(value.map(|value| (name.to_string(), Value::from(value))));
        }
        let original = self.whole("rope.scaling.original_context_length")?;
        json.extend(original.map(|n| ("original_max_position_embeddings".to_string(), Value::from(n))));
        let attention = self.real("rope.scaling.attn_factor")?.or(self.real("rope.scaling.yarn_attn_factor")?);
        // An f32 of the usual factor means the exact one.
        let usual = factor.map(|factor| mscale(factor, 1.0));
        let is_usual = |found: f64| usual.is_some_and(|usual| found as f32 == usual as f32);
        let attention = attention.filter(|found| !is_usual(*found));
        json.extend(attention.map(|factor| ("attention_factor".to_string(), Value::from(factor))));
        Ok(json)
    }

    /// The EOS ids, also those of a turn, each once.
    fn eos_ids(&self) -> Result<Vec<u64>, Problem> {
        let mut ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            let id = self.metadata.whole(&format!("tokenizer.ggml.{name}_token_id"))?;
            ids.extend(id.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    /// An error about a `config.json` in the words of the metadata.
    fn in_own_words(&self, problem: Problem) -> Problem {
        let renamed = |text: String| {
            let (json, _) = text.split_once([' ', ',']).unwrap_or((&text, ""));
            let json = if json == "no" { text[2..].trim() } else { json };
            match KEYS.iter().find(|(key, _)| *key == json) {
                Some((json @ "rms_norm_eps", _)) if self.name == "olmo" => {
                    text.replacen(json, &self.key("attention.layer_norm_epsilon"), 1)
                }
                Some((json, own)) => text.replacen(json, &self.key(own), 1),
                None => text.replace("config.json", "the file"),
            }
        };
        Problem { found: renamed(problem.found), advice: problem.advice.map(renamed), ..problem }
    }

    fn warnings(&self, gguf: &GgufFile, settings: &Settings) -> Vec<String> {
        let mut warnings = Vec::new();
        let prefix = self.key("");
        let is_known = |key: &str| KEYS.iter().any(|(_, own)| *own == key) || OTHERS.contains(&key);
        let unknown = self.metadata.names().filter_map(|name| name.strip_prefix(&prefix));
        let unknown: Vec<&str> = unknown.filter(|key| !is_known(key)).collect();
        if let Some(first) = unknown.first() {
            let (more, are) = match unknown.len() {
                1 => (String::new(), "is"),
                n => (format!(" and {} more keys", n - 1), "are"),
            };
            let shown = crate::error::shortened(first, 60);
            warnings.push(format!("{prefix}{shown}{more} of the GGUF file {are} not known, and ignored"));
        }
        let config = &settings.config;
        let is_stretched = config.max_position_embeddings as u64 > UNSTRETCHED;
        if config.architecture == Architecture::Olmo3 && config.yarn.is_none() && is_stretched {
            warnings.push(format!(
                "the GGUF file has {} positions and no rope scaling, which older converters left out: if the model has \
                 YaRN, its factor must be given",
                config.max_position_embeddings
            ));
        }
        if let Some(head) = gguf.recoded_head() {
            let own = if head == "lm_head.weight" { "output.weight" } else { "token_embd.weight" };
            warnings.push(format!("{own} is Q6_K, which has no equal here: its numbers are stored in another type"));
        }
        warnings
    }
}

/// The key of the metadata for one of `config.json`.
fn own_key(json: &str) -> &str {
    KEYS.iter().find(|(key, _)| *key == json).map_or(json, |(_, own)| own)
}
