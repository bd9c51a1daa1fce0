//! Configuration values given by flags, and the origin of each value.

use crate::error::Problem;
use olmo_infer::internals::format::config::{Architecture, ModelConfig};
use std::fmt::{Debug, Display};
use std::path::Path;

/// Values given by flags. Each replaces one that `config.json` or the shapes do not have; a flag that contradicts
/// `config.json` is an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `--arch`
    pub architecture: Option<Architecture>,
    /// `--head-dim`
    pub head_dim: Option<usize>,
    /// `--rope-theta`
    pub rope_theta: Option<f64>,
    /// `--rms-norm-eps`
    pub rms_norm_eps: Option<f64>,
    /// `--clip-qkv`; `Some(None)`: no clipping.
    pub clip_qkv: Option<Option<f64>>,
    /// `--max-positions`
    pub max_positions: Option<usize>,
    /// `--eos`
    pub eos_token_ids: Option<Vec<u32>>,
    /// `--sliding-window`
    pub sliding_window: Option<usize>,
    /// `--yarn-factor`
    pub yarn_factor: Option<f64>,
    /// `--yarn-original-positions`
    pub yarn_original_positions: Option<usize>,
    /// `--yarn-beta-fast`
    pub yarn_beta_fast: Option<f64>,
    /// `--yarn-beta-slow`
    pub yarn_beta_slow: Option<f64>,
    /// `--yarn-attention-factor`
    pub yarn_attention_factor: Option<f64>,
    /// `--no-yarn`
    pub no_yarn: bool,
}

impl Flags {
    /// Whether any flag with a YaRN parameter is given.
    pub fn names_yarn(&self) -> bool {
        let floats = [self.yarn_factor, self.yarn_beta_fast, self.yarn_beta_slow, self.yarn_attention_factor];
        self.yarn_original_positions.is_some() || floats.iter().any(Option::is_some)
    }
}

impl Flags {
    /// Rejects flags that a model of `architecture` does not use.
    ///
    /// # Errors
    /// The flag that would be ignored.
    pub fn refuse_useless(&self, path: &Path, architecture: Architecture) -> Result<(), Problem> {
        use Architecture::{FlexOlmo, Olmo1, Olmo2, Olmo3, OlmoHybrid, Olmoe};
        // Each flag, whether it is given, and the architectures that use it.
        let flags: [(&str, bool, &[Architecture]); 5] = [
            ("--sliding-window", self.sliding_window.is_some(), &[Olmo3]),
            ("--yarn-factor", self.names_yarn(), &[Olmo3]),
            ("--no-yarn", self.no_yarn, &[Olmo3]),
            ("--rms-norm-eps", self.rms_norm_eps.is_some(), &[Olmo2, Olmo3, Olmoe, FlexOlmo, OlmoHybrid]),
            ("--clip-qkv", self.clip_qkv.is_some(), &[Olmo1, Olmoe]),
        ];
        match flags.into_iter().find(|(_, given, users)| *given && !users.contains(&architecture)) {
            None => Ok(()),
            Some((flag, _, users)) => {
                let users: Vec<&str> = users.iter().map(|user| user.name()).collect();
                Err(Problem::new(path, format!("{flag} for an {} model", architecture.name()))
                    .expected(format!("an {} model", users.join(" or ")))
                    .advice("leave it out"))
            }
        }
    }
}

/// Origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The key of that name in `config.json`.
    ConfigJson,
    /// The key of that name in `generation_config.json`.
    GenerationConfigJson,
    /// The metadata of a GGUF file.
    Gguf,
    /// Names and shapes of the tensors.
    Shapes,
    /// A constant of every published OLMo-2.
    PublishedOlmo2,
    /// A command-line flag.
    Flag,
    /// The default of an absent key.
    Rule,
}

impl Origin {
    /// Name in messages, JSON and the provenance section.
    pub fn name(self) -> &'static str {
        match self {
            Origin::ConfigJson => "config.json",
            Origin::GenerationConfigJson => "generation_config.json",
            Origin::Gguf => "GGUF metadata",
            Origin::Shapes => "shapes",
            Origin::PublishedOlmo2 => "published OLMo-2 constants",
            Origin::Flag => "flag",
            Origin::Rule => "default",
        }
    }
}

/// Collects the origins of values while a configuration is built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(pub Vec<(&'static str, Origin)>);

impl Origins {
    /// Records the origin of `key`.
    pub fn note(&mut self, key: &'static str, origin: Origin) {
        self.0.push((key, origin));
    }

    /// The keys grouped by origin, for the summary.
    pub fn grouped(&self) -> Vec<(Origin, Vec<&'static str>)> {
        let mut groups: Vec<(Origin, Vec<&'static str>)> = Vec::new();
        for &(key, origin) in &self.0 {
            match groups.iter_mut().find(|group| group.0 == origin) {
                Some(group) => group.1.push(key),
                None => groups.push((origin, vec![key])),
            }
        }
        groups.sort_by_key(|group| group.0);
        groups
    }
}

/// A configuration and the origin of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The configuration; it has passed [`ModelConfig::validate`].
    pub config: ModelConfig,
    /// The origin of its values.
    pub origins: Origins,
    /// Whether `config.json` declares bfloat16, which decides how `<u2` is read.
    pub u2_is_bf16: bool,
    /// `tokenizer_class` of `config.json`.
    pub tokenizer_class: Option<String>,
    /// `config.json` byte for byte.
    pub config_json: Option<Vec<u8>>,
}

impl Settings {
    /// Replaces the EOS ids by `ids` from the `generation_config.json` at `path`.
    ///
    /// # Errors
    /// They are invalid, or `--eos` contradicts them.
    pub fn with_eos(mut self, path: &Path, ids: Vec<u32>, flags: &Flags) -> Result<Settings, Problem> {
        let key = "eos_token_id";
        if let Some(flag) = flags.eos_token_ids.as_ref().filter(|flag| **flag != ids) {
            return Err(Problem::new(path, format!("{key} is {}", shown_ids(&ids)))
                .expected(format!("{} as set by --eos", shown_ids(flag)))
                .advice("correct one of them or leave out --eos"));
        }
        self.config.eos_token_ids = ids;
        self.config.validate().map_err(|error| {
            Problem::new(path, format!("{} is {}", error.key, error.found)).expected(error.expected)
        })?;
        self.origins.0.retain(|(noted, _)| *noted != key);
        self.origins.note(key, Origin::GenerationConfigJson);
        Ok(self)
    }
}

/// Ids in the syntax of `--eos`.
pub(crate) fn shown_ids(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The value of `key` from `config.json` or a flag.
///
/// # Errors
/// Both are present and differ.
pub fn merged<T: PartialEq + Debug + Clone + Display>(
    path: &Path,
    key: &'static str,
    flag_name: &str,
    json: Option<T>,
    flag: Option<T>,
    origins: &mut Origins,
) -> Result<Option<T>, Problem> {
    match (json, flag) {
        (Some(json), Some(flag)) if json != flag => Err(Problem::new(path, format!("{key} is {json}"))
            .expected(format!("{flag} as set by {flag_name}"))
            .advice(format!("correct one of them or leave out {flag_name}"))),
        (Some(json), _) => {
            origins.note(key, Origin::ConfigJson);
            Ok(Some(json))
        }
        (None, Some(flag)) => {
            origins.note(key, Origin::Flag);
            Ok(Some(flag))
        }
        (None, None) => Ok(None),
    }
}
