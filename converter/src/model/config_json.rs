//! `config.json` as transformers 4.x and 5.x write it.
//!
//! A key that the class of transformers would silently default is an error here: those defaults are not the values of
//! the released models. Only keys that transformers itself omits may be absent.

use crate::error::{Error, Problem};
use crate::folder::source_file;
use crate::json::keys::{Keys, token_id};
use crate::json::strict;
use crate::model::rope_json::refuse_partial_rotation;
use crate::model::settings::{Flags, Origin, Origins, Settings, merged, shown_ids};
use olmo_infer::internals::format::config::{
    Architecture, AttentionKind, Experts, LAYER_NORM_EPS, LinearAttention, MAX_LAYERS, ModelConfig,
};
use serde_json::Value;
use std::path::Path;

/// Longest `config.json`; real ones have about 1 KiB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Reads the configuration at `path`.
///
/// # Errors
/// The file cannot be read, is not JSON, lacks a key, or has a value that no supported model has.
pub fn read(path: &Path, flags: &Flags) -> Result<Settings, Error> {
    let bytes = source_file::read_at_most(path, MAX_CONFIG_BYTES)?
        .ok_or_else(|| Problem::new(path, "longer than 1 MiB").expected("a config.json of a few KiB"))?;
    Ok(parse(path, bytes, flags)?)
}

/// Parses the configuration in `bytes`; `path` is for messages.
///
/// # Errors
/// They are not JSON, lack a key, or have a value that no supported model has.
pub fn parse(path: &Path, bytes: Vec<u8>, flags: &Flags) -> Result<Settings, Problem> {
    let value = strict::parse(&bytes).map_err(|error| Problem::invalid_json(path, error))?;
    let Value::Object(object) = &value else {
        return Err(Problem::new(path, "JSON that is not an object").expected("the config.json of a model"));
    };
    let mut reader = Reader { at: Keys { path, object, prefix: "" }, flags, origins: Origins::default() };
    let config = reader.config()?;
    config
        .validate()
        .map_err(|error| Problem::new(path, format!("{} is {}", error.key, error.found)).expected(error.expected))?;
    let u2_is_bf16 = reader.dtype()? == Some("bfloat16");
    let tokenizer_class = object.get("tokenizer_class").and_then(Value::as_str).map(String::from);
    Ok(Settings { config, origins: reader.origins, u2_is_bf16, tokenizer_class, config_json: Some(bytes) })
}

/// Builds a [`ModelConfig`] and records the origin of its values.
struct Reader<'a> {
    at: Keys<'a>,
    flags: &'a Flags,
    origins: Origins,
}

impl Reader<'_> {
    fn config(&mut self) -> Result<ModelConfig, Problem> {
        let architecture = self.architecture()?;
        self.flags.refuse_useless(self.at.path, architecture)?;
        self.refuse_other_arithmetic()?;
        self.refuse_other_classes(architecture)?;
        let hidden_size = self.needed_count("hidden_size")?;
        let n_layers = self.needed_count("num_hidden_layers")?;
        let n_heads = self.needed_count("num_attention_heads")?;
        let n_kv_heads = self.count_or("num_key_value_heads", n_heads)?;
        let head_dim = self.head_dim(hidden_size, n_heads)?;
        let intermediate_size = self.needed_count("intermediate_size")?;
        let vocab_size = self.needed_count("vocab_size")?;
        let (path, flags) = (self.at.path, self.flags);
        let max_position_embeddings = merged(
            path,
            "max_position_embeddings",
            "--max-positions",
            self.max_positions()?,
            flags.max_positions,
            &mut self.origins,
        )?
        .ok_or_else(|| self.at.missing("max_position_embeddings", Some("--max-positions")))?;
        let rms_norm_eps = self.rms_norm_eps(architecture)?;
        let clip_qkv = self.clip_qkv(architecture)?;
        let rope =
            crate::model::rope_json::read(&self.at, architecture, flags, max_position_embeddings, &mut self.origins)?;
        // Checked before a list of that length is allocated.
        if n_layers > MAX_LAYERS {
            return Err(
                Problem::new(path, format!("num_hidden_layers is {n_layers}")).expected(format!("1 to {MAX_LAYERS}"))
            );
        }
        let layer_types = self.layer_types(architecture, n_layers)?;
        let sliding_window = self.sliding_window(architecture, &layer_types)?;
        let experts = self.experts(architecture)?;
        let linear = self.linear(&layer_types, hidden_size, n_heads)?;
        let tie_word_embeddings = match self.at.boolean("tie_word_embeddings")? {
            Some(tie) => {
                self.origins.note("tie_word_embeddings", Origin::ConfigJson);
                tie
            }
            None => {
                self.origins.note("tie_word_embeddings", Origin::Rule);
                false
            }
        };
        Ok(ModelConfig {
            architecture,
            hidden_size,
            n_heads,
            n_kv_heads,
            head_dim,
            intermediate_size,
            vocab_size,
            max_position_embeddings,
            rms_norm_eps,
            clip_qkv,
            rope_theta: rope.theta,
            rope_theta_sliding: rope.theta_sliding,
            yarn: rope.yarn,
            sliding_window,
            layer_types,
            experts,
            linear,
            tie_word_embeddings,
            eos_token_ids: self.eos_token_ids()?,
            bos_token_id: self.token_id("bos_token_id")?,
            pad_token_id: self.token_id("pad_token_id")?,
        })
    }

    fn architecture(&mut self) -> Result<Architecture, Problem> {
        let json = match self.at.text("model_type")? {
            None => None,
            Some(name) => Some(architecture_named(name).ok_or_else(|| {
                let advice = match name {
                    // The repositories from before transformers supported OLMo.
                    "hf_olmo" => "take the release of this model whose name ends in -hf",
                    "bolmo" => "Bolmo reads bytes by code of its own, and no class of transformers",
                    "emo" => "EMO has code of its own, and no class of transformers",
                    "olmo3moe" => "no such model was released",
                    _ => "no other models are supported",
                };
                self.at.bad("model_type", &name.into(), &named_architectures()).advice(advice)
            })?),
        };
        let names = (json.map(Architecture::name), self.flags.architecture.map(Architecture::name));
        let name = merged(self.at.path, "model_type", "--arch", names.0, names.1, &mut self.origins)?;
        name.and_then(architecture_named).ok_or_else(|| self.at.missing("model_type", Some("--arch")))
    }

    /// `max_position_embeddings`; the exporter of OLMo-core writes -1 where nothing states it.
    fn max_positions(&self) -> Result<Option<usize>, Problem> {
        const KEY: &str = "max_position_embeddings";
        match self.at.get(KEY) {
            Some(value) if value.as_f64() == Some(-1.0) => match self.flags.max_positions {
                Some(_) => Ok(None),
                None => {
                    let problem = self.at.bad(KEY, value, "the positions that the model was made for");
                    Err(problem.advice("the exporter did not know them: pass --max-positions"))
                }
            },
            _ => self.at.count(KEY),
        }
    }

    /// The experts of an architecture that has them.
    fn experts(&mut self, architecture: Architecture) -> Result<Option<Experts>, Problem> {
        if !architecture.has_experts() {
            return Ok(None);
        }
        let (count, alias) = (self.at.count("num_experts")?, self.at.count("num_local_experts")?);
        if let (Some(count), Some(alias)) = (count, alias)
            && count != alias
        {
            let problem = Problem::new(self.at.path, format!("num_local_experts is {alias}"));
            return Err(problem.expected(format!("{count} to match num_experts")));
        }
        let n_experts = count.or(alias).ok_or_else(|| self.at.missing("num_experts", None))?;
        self.origins.note("num_experts", Origin::ConfigJson);
        let n_per_token = self.needed_count("num_experts_per_tok")?;
        let norm = self.at.boolean("norm_topk_prob")?;
        let norm_topk_prob = norm.ok_or_else(|| self.at.missing("norm_topk_prob", None))?;
        self.origins.note("norm_topk_prob", Origin::ConfigJson);
        Ok(Some(Experts { n_experts, n_per_token, norm_topk_prob }))
    }

    /// The sizes of linear-attention layers, with the defaults of their class.
    fn linear(
        &mut self,
        kinds: &[AttentionKind],
        hidden_size: usize,
        n_heads: usize,
    ) -> Result<Option<LinearAttention>, Problem> {
        if !kinds.contains(&AttentionKind::Linear) {
            return Ok(None);
        }
        let n_key_heads = self.count_or("linear_num_key_heads", n_heads)?;
        let n_value_heads = self.count_or("linear_num_value_heads", n_heads)?;
        let three_quarters = hidden_size.saturating_mul(3).checked_div(n_key_heads.saturating_mul(4)).unwrap_or(0);
        let key_head_dim = self.count_or("linear_key_head_dim", three_quarters)?;
        let value_head_dim = self.count_or("linear_value_head_dim", key_head_dim.saturating_mul(2))?;
        let conv_kernel = self.count_or("linear_conv_kernel_dim", 4)?;
        let allow = self.at.boolean("linear_allow_neg_eigval")?;
        let origin = if allow.is_some() { Origin::ConfigJson } else { Origin::Rule };
        self.origins.note("linear_allow_neg_eigval", origin);
        let allow_neg_eigval = allow.unwrap_or(true);
        let sizes =
            LinearAttention { n_key_heads, n_value_heads, key_head_dim, value_head_dim, conv_kernel, allow_neg_eigval };
        Ok(Some(sizes))
    }

    /// Rejects keys that change the arithmetic of the forward pass.
    fn refuse_other_arithmetic(&self) -> Result<(), Problem> {
        let at = &self.at;
        match at.text("hidden_act")? {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(at.bad("hidden_act", &other.into(), "silu")),
        }
        for key in ["attention_bias", "mlp_bias"] {
            if at.boolean(key)? == Some(true) {
                return Err(at.bad(key, &true.into(), "false").advice("projections with a bias are not supported"));
            }
        }
        refuse_partial_rotation(at)?;
        for key in ["quantization_config", "compression_config"] {
            if let Some(value) = at.get(key) {
                return Err(at.bad(key, value, "null").advice("export the unquantized weights"));
            }
        }
        Ok(())
    }

    /// Rejects classes of other architectures, which compute something else from the same tensors.
    fn refuse_other_classes(&self, architecture: Architecture) -> Result<(), Problem> {
        let Some(value) = self.at.get("architectures") else { return Ok(()) };
        let list = value.as_array().ok_or_else(|| self.at.bad("architectures", value, "a list"))?;
        let families: &[&str] = match architecture {
            Architecture::Olmo1 => &["Olmo"],
            Architecture::Olmo2 => &["Olmo2", "Olmo1124"],
            Architecture::Olmo3 => &["Olmo3"],
            Architecture::Olmoe => &["Olmoe"],
            Architecture::FlexOlmo => &["FlexOlmo"],
            Architecture::OlmoHybrid => &["OlmoHybrid"],
        };
        let family = families[0];
        let known = |class: &&Value| {
            let rest = families.iter().filter_map(|family| class.as_str()?.strip_prefix(family));
            rest.into_iter().any(|rest| matches!(rest, "ForCausalLM" | "Model"))
        };
        match list.iter().find(|class| !known(class)) {
            None => Ok(()),
            Some(class) => Err(self.at.bad("architectures entry", class, &format!("{family}ForCausalLM"))),
        }
    }

    /// The type of the saved weights, under the key of transformers 5 or 4.
    fn dtype(&self) -> Result<Option<&str>, Problem> {
        let plain = |key| -> Result<Option<&str>, Problem> {
            Ok(self.at.text(key)?.map(|name| name.strip_prefix("torch.").unwrap_or(name)))
        };
        match (plain("dtype")?, plain("torch_dtype")?) {
            (Some(new), Some(old)) if new != old => {
                Err(self.at.bad("torch_dtype", &old.into(), &format!("{new} to match dtype")))
            }
            (new, old) => Ok(new.or(old)),
        }
    }

    fn needed_count(&mut self, key: &'static str) -> Result<usize, Problem> {
        let count = self.at.count(key)?.ok_or_else(|| self.at.missing(key, None))?;
        self.origins.note(key, Origin::ConfigJson);
        Ok(count)
    }

    fn count_or(&mut self, key: &'static str, default: usize) -> Result<usize, Problem> {
        let count = self.at.count(key)?;
        self.origins.note(key, if count.is_some() { Origin::ConfigJson } else { Origin::Rule });
        Ok(count.unwrap_or(default))
    }

    fn head_dim(&mut self, hidden_size: usize, n_heads: usize) -> Result<usize, Problem> {
        let json = self.at.count("head_dim")?;
        let (path, flag) = (self.at.path, self.flags.head_dim);
        let rule = match (json, hidden_size.checked_div(n_heads)) {
            (Some(_), _) | (None, None) => None,
            (None, Some(quotient)) if quotient * n_heads == hidden_size => Some(quotient),
            (None, Some(_)) if flag.is_some() => None,
            (None, Some(_)) => {
                return Err(Problem::new(path, format!("num_attention_heads is {n_heads}"))
                    .expected(format!("a divisor of hidden_size {hidden_size}, or a head_dim"))
                    .advice("correct it, add head_dim or pass --head-dim"));
            }
        };
        if let (Some(rule), Some(flag)) = (rule, flag)
            && rule != flag
        {
            return Err(Problem::new(path, format!("hidden_size / num_attention_heads is {rule}"))
                .expected(format!("{flag} as set by --head-dim"))
                .advice("add head_dim to config.json or leave out --head-dim"));
        }
        if let Some(rule) = rule {
            self.origins.note("head_dim", Origin::Rule);
            return Ok(rule);
        }
        // Without heads this is 0: validate() reports the invalid number of heads.
        Ok(merged(path, "head_dim", "--head-dim", json, flag, &mut self.origins)?.unwrap_or(0))
    }

    /// The epsilon of the norms. OLMo-1 does not write it: its class has a constant. Nor do the first releases of OLMoE,
    /// whose class has the same default in every version.
    fn rms_norm_eps(&mut self, architecture: Architecture) -> Result<f64, Problem> {
        let (json, flag) = (self.at.real("rms_norm_eps")?, self.flags.rms_norm_eps);
        match merged(self.at.path, "rms_norm_eps", "--rms-norm-eps", json, flag, &mut self.origins)? {
            Some(eps) => Ok(eps),
            None if matches!(architecture, Architecture::Olmo1 | Architecture::Olmoe) => {
                self.origins.note("rms_norm_eps", Origin::Rule);
                Ok(LAYER_NORM_EPS)
            }
            None => Err(self.at.missing("rms_norm_eps", Some("--rms-norm-eps"))),
        }
    }

    /// Only OLMo-1 and OLMoE clip. They write null, or no key at all, for a model without clipping.
    fn clip_qkv(&mut self, architecture: Architecture) -> Result<Option<f64>, Problem> {
        let (json, flag) = (self.at.real("clip_qkv")?, self.flags.clip_qkv);
        let shown = |clip: Option<f64>| clip.map_or("none".to_string(), |clip| clip.to_string());
        // An explicit null states a value, unlike an absent key.
        let stated = self.at.object.contains_key("clip_qkv").then_some(json);
        let texts = (stated.map(shown), flag.map(shown));
        let merged = merged(self.at.path, "clip_qkv", "--clip-qkv", texts.0, texts.1, &mut self.origins)?;
        if merged.is_none() && architecture.can_clip() {
            self.origins.note("clip_qkv", Origin::Rule);
        }
        Ok(json.or(flag.flatten()))
    }

    fn layer_types(&mut self, architecture: Architecture, n_layers: usize) -> Result<Vec<AttentionKind>, Problem> {
        let Some(value) = self.at.get("layer_types") else {
            if matches!(architecture, Architecture::Olmo3 | Architecture::OlmoHybrid) {
                self.origins.note("layer_types", Origin::Rule);
            }
            return Ok(default_layer_types(architecture, n_layers));
        };
        let list = value.as_array().ok_or_else(|| self.at.bad("layer_types", value, "a list"))?;
        if list.len() != n_layers {
            return Err(Problem::new(self.at.path, format!("layer_types has {} entries", list.len()))
                .expected(format!("{n_layers}, one for each layer")));
        }
        self.origins.note("layer_types", Origin::ConfigJson);
        let kind = |value: &Value| match value.as_str() {
            Some("full_attention") => Ok(AttentionKind::Full),
            Some("sliding_attention") => Ok(AttentionKind::Sliding),
            Some("linear_attention") if architecture == Architecture::OlmoHybrid => Ok(AttentionKind::Linear),
            _ => {
                let expected = match architecture {
                    Architecture::OlmoHybrid => "full_attention or linear_attention",
                    _ => "full_attention or sliding_attention",
                };
                Err(self.at.bad("layer_types entry", value, expected))
            }
        };
        list.iter().map(kind).collect()
    }

    fn sliding_window(&mut self, architecture: Architecture, kinds: &[AttentionKind]) -> Result<usize, Problem> {
        if architecture != Architecture::Olmo3 || !kinds.contains(&AttentionKind::Sliding) {
            return Ok(0);
        }
        let (json, flag) = (self.at.count("sliding_window")?, self.flags.sliding_window);
        merged(self.at.path, "sliding_window", "--sliding-window", json, flag, &mut self.origins)?
            .ok_or_else(|| self.at.missing("sliding_window", Some("--sliding-window")))
    }

    fn eos_token_ids(&mut self) -> Result<Vec<u32>, Problem> {
        let (json, flag) = (self.at.ids("eos_token_id")?, &self.flags.eos_token_ids);
        let texts = (json.as_deref().map(shown_ids), flag.as_deref().map(shown_ids));
        merged(self.at.path, "eos_token_id", "--eos", texts.0, texts.1, &mut self.origins)?;
        Ok(json.or_else(|| flag.clone()).unwrap_or_default())
    }

    fn token_id(&mut self, key: &'static str) -> Result<Option<u32>, Problem> {
        let Some(value) = self.at.get(key) else { return Ok(None) };
        self.origins.note(key, Origin::ConfigJson);
        // Some tools write -1 for an absent id.
        if value.as_f64() == Some(-1.0) {
            return Ok(None);
        }
        token_id(value).map(Some).ok_or_else(|| self.at.bad(key, value, "a token id, -1 or null"))
    }
}

/// The supported architecture with this `model_type`. The preview of OLMo-2 has another name and is the same.
pub fn architecture_named(name: &str) -> Option<Architecture> {
    let name = if name == "olmo_1124" { Architecture::Olmo2.name() } else { name };
    Architecture::ALL.into_iter().find(|architecture| architecture.name() == name)
}

/// The values of `model_type` and `--arch`, for messages.
pub fn named_architectures() -> String {
    let [names @ .., last] = Architecture::ALL.map(Architecture::name);
    format!("{} or {last}", names.join(", "))
}

/// The default attention of each layer: in Olmo-3 and Olmo-Hybrid every fourth layer is full, and in a hybrid of fewer
/// layers the last one.
pub fn default_layer_types(architecture: Architecture, n_layers: usize) -> Vec<AttentionKind> {
    let is_full = |layer: usize| (layer + 1).is_multiple_of(4);
    let kind = |layer: usize| match architecture {
        Architecture::Olmo3 if !is_full(layer) => AttentionKind::Sliding,
        Architecture::OlmoHybrid if !is_full(layer) && (n_layers >= 4 || layer + 1 < n_layers) => AttentionKind::Linear,
        _ => AttentionKind::Full,
    };
    (0..n_layers).map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The `config.json` of an OLMo-2 with some keys set.
    fn parsed(changes: Value, flags: &Flags) -> Result<Settings, String> {
        let mut json = json!({
            "model_type": "olmo2",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "intermediate_size": 7,
            "vocab_size": 11,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e5,
        });
        json.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        parse(Path::new("c"), json.to_string().into_bytes(), flags).map_err(|problem| problem.to_string())
    }

    #[test]
    fn parse_returns_tokenizer_class() {
        let class =
            |value| parsed(json!({ "tokenizer_class": value }), &Flags::default()).expect("read").tokenizer_class;
        assert_eq!(class(json!("GPT2Tokenizer")), Some("GPT2Tokenizer".into()));
        assert_eq!((class(json!(null)), class(json!(7))), (None, None));
    }

    #[test]
    fn head_dim_comes_from_key_quotient_or_flag() {
        let divisor =
            "expected a divisor of hidden_size 24, or a head_dim; correct it, add head_dim or pass --head-dim";
        for (n_heads, stated, given, wanted) in [
            (6, None, None, Ok((4, Origin::Rule))),
            (6, None, Some(4), Ok((4, Origin::Rule))),
            (6, Some(8), None, Ok((8, Origin::ConfigJson))),
            (5, Some(8), Some(8), Ok((8, Origin::ConfigJson))),
            (5, None, Some(8), Ok((8, Origin::Flag))),
            (5, None, None, Err(format!("c: num_attention_heads is 5, {divisor}"))),
            (0, None, None, Err("c: num_attention_heads is 0, expected 1 to 1048576".into())),
            (
                6,
                None,
                Some(8),
                Err("c: hidden_size / num_attention_heads is 4, expected 8 as set by --head-dim; add head_dim to \
                     config.json or leave out --head-dim"
                    .into()),
            ),
            (
                6,
                Some(8),
                Some(4),
                Err("c: head_dim is 8, expected 4 as set by --head-dim; correct one of them or leave out --head-dim"
                    .into()),
            ),
        ] {
            let flags = Flags { head_dim: given, ..Flags::default() };
            let settings = parsed(json!({"num_attention_heads": n_heads, "head_dim": stated}), &flags);
            let found = settings.map(|Settings { config, origins, .. }| {
                let origin = origins.0.iter().find(|(key, _)| *key == "head_dim").expect("an origin").1;
                (config.head_dim, origin)
            });
            assert_eq!(found, wanted, "{n_heads} heads, {stated:?}, {given:?}");
        }
    }

    #[test]
    fn long_values_are_shortened_in_errors() {
        let line = |length: usize| {
            parsed(json!({"quantization_config": "é".repeat(length)}), &Flags::default()).expect_err("not null")
        };
        let said =
            |shown: String| format!("c: quantization_config is {shown}, expected null; export the unquantized weights");
        // The quotes count too.
        assert_eq!(line(58), said(format!("\"{}\"", "é".repeat(58))));
        assert_eq!(line(59), said(format!("\"{}...", "é".repeat(59))));
        assert_eq!(line(1000), said(format!("\"{}...", "é".repeat(59))));
    }
}
