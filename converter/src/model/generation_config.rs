//! `generation_config.json`: the EOS ids and the recommended sampling settings. transformers generates with this file
//! and not with `config.json`; the EOS ids of instruct models differ, as they also stop at the end of a turn.

use crate::error::{Error, Problem, escaped, shortened};
use crate::folder::source_file;
use crate::json::keys::Keys;
use crate::json::strict;
use crate::model::config_json::MAX_CONFIG_BYTES;
use olmo_infer::internals::file::sampling::Sampling;
use olmo_infer::internals::file::sampling::{AuthorSampling, MAX_TOP_K};
use serde_json::{Map, Value};
use std::path::Path;

/// The top-k of transformers when the file does not set it.
const DEFAULT_TOP_K: usize = 50;
/// Most characters of a value in a message.
const SHOWN_CHARS: usize = 40;
/// The keys that are stored.
const KNOWN: [&str; 6] = ["do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"];
/// Unsupported keys that would change an answer, each with its neutral value.
const UNKNOWN: [(&str, f64); 21] = [
    ("num_beams", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("penalty_alpha", 0.0),
    ("dola_layers", 0.0),
    ("constraints", 0.0),
    ("force_words_ids", 0.0),
    ("bad_words_ids", 0.0),
    ("sequence_bias", 0.0),
    ("suppress_tokens", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("forced_bos_token_id", f64::NAN),
    ("forced_eos_token_id", f64::NAN),
    ("exponential_decay_length_penalty", 0.0),
    ("guidance_scale", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("stop_strings", 0.0),
    ("token_healing", 0.0),
    ("watermarking_config", 0.0),
];
/// Unsupported keys that matter only for sampling, with their neutral values.
const UNKNOWN_WHEN_SAMPLING: [(&str, f64); 4] =
    [("typical_p", 1.0), ("epsilon_cutoff", 0.0), ("eta_cutoff", 0.0), ("top_h", f64::NAN)];

/// The used content of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// EOS ids, if the file has any.
    pub eos_token_ids: Option<Vec<u32>>,
    /// Sampling settings, if the file has supported ones.
    pub sampling: Option<AuthorSampling>,
    /// Warnings about unsupported keys, a line each.
    pub warnings: Vec<String>,
    /// The file, byte for byte.
    pub bytes: Option<Vec<u8>>,
}

impl GenerationConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is not JSON, or has invalid token ids.
    pub fn read(path: &Path) -> Result<GenerationConfig, Error> {
        let bytes = source_file::read_at_most(path, MAX_CONFIG_BYTES)?
            .ok_or_else(|| Problem::new(path, "longer than 1 MiB").expected("a file of a few hundred bytes"))?;
        Ok(GenerationConfig { bytes: Some(bytes.clone()), ..GenerationConfig::parse(path, &bytes)? })
    }

    /// Parses the file in `bytes`; `path` is for messages. Invalid sampling settings are not an error, as no weight
    /// depends on them: they are dropped with a warning.
    ///
    /// # Errors
    /// They are not JSON, or have invalid token ids.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<GenerationConfig, Problem> {
        let value = strict::parse(bytes).map_err(|error| Problem::invalid_json(path, error))?;
        let Value::Object(object) = &value else {
            return Err(Problem::new(path, "JSON that is not an object").expected("a generation_config.json"));
        };
        let keys = Keys { path, object, prefix: "" };
        let mut config = GenerationConfig { eos_token_ids: keys.ids("eos_token_id")?, ..GenerationConfig::default() };
        if KNOWN.iter().any(|key| keys.get(key).is_some()) {
            match sampling(object) {
                Ok(sampling) => config.sampling = Some(sampling),
                Err(why) => {
                    config.warnings.push(format!("generation_config.json: {why}; its sampling settings are ignored"))
                }
            }
        }
        let samples = config.sampling.is_some_and(|author| author.sampling().temperature > 0.0);
        if config.sampling.is_some() && !samples {
            let ignored = |key: &&&str| !["do_sample", "repetition_penalty"].contains(*key) && keys.get(key).is_some();
            let ignored: Vec<&str> = KNOWN.iter().filter(ignored).copied().collect();
            if !ignored.is_empty() && keys.get("do_sample").is_none() {
                config.warnings.push(format!(
                    "generation_config.json has {} without \"do_sample\": true, so that transformers ignores it, and so \
                     does --chat",
                    ignored.join(", ")
                ));
            }
        }
        let unknown = UNKNOWN.iter().chain(UNKNOWN_WHEN_SAMPLING.iter().filter(|_| samples));
        let unknown: Vec<&str> =
            unknown.filter(|(key, neutral)| has_effect(object.get(*key), *neutral)).map(|(key, _)| *key).collect();
        if !unknown.is_empty() {
            config.warnings.push(format!(
                "generation_config.json has {}, which is not supported: answers differ from those of transformers",
                unknown.join(", ")
            ));
        }
        Ok(config)
    }
}

/// Whether a value is set and not `neutral`.
fn has_effect(value: Option<&Value>, neutral: f64) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
        Some(value) => value.as_f64() != Some(neutral),
    }
}

/// The sampling settings, with the defaults of transformers 5 for absent or null keys; or why they are invalid.
fn sampling(object: &Map<String, Value>) -> Result<AuthorSampling, String> {
    let get = |key: &str| object.get(key).filter(|value| !value.is_null());
    let bad = |key: &str, value: &Value, expected: &str| {
        format!("{key} is {}, expected {expected}", escaped(&shortened(&value.to_string(), SHOWN_CHARS)))
    };
    let number = |key: &str, default: f64, low: f64, high: f64| match get(key) {
        None => Ok(default),
        Some(value) => match value.as_f64().filter(|number| (low..=high).contains(number)) {
            Some(number) => Ok(number.abs()),
            None => Err(bad(key, value, &format!("a number from {low} to {high}"))),
        },
    };
    let samples = match get("do_sample") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| bad("do_sample", value, "true or false"))?,
    };
    let repetition_penalty = number("repetition_penalty", 1.0, 1e-3, 1e3)?;
    let greedy = Sampling { repetition_penalty, ..Sampling::GREEDY };
    let sampling = match samples {
        false => greedy,
        true => Sampling {
            temperature: number("temperature", 1.0, 1e-6, 1e6)?,
            // 0 means no limit.
            top_k: match get("top_k") {
                None => Some(DEFAULT_TOP_K),
                Some(value) => {
                    let count = value.as_u64().filter(|&count| count <= MAX_TOP_K as u64);
                    let count = count.ok_or_else(|| bad("top_k", value, &format!("0 to {MAX_TOP_K}")))?;
                    Some(count as usize).filter(|&count| count > 0)
                }
            },
            top_p: number("top_p", 1.0, 0.0, 1.0)?,
            min_p: number("min_p", 0.0, 0.0, 1.0)?,
            ..greedy
        },
    };
    AuthorSampling::of(sampling).ok_or_else(|| "its values leave no token to sample".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(json: Value) -> GenerationConfig {
        GenerationConfig::parse(Path::new("g"), json.to_string().as_bytes()).expect("ids")
    }

    #[test]
    fn absent_and_null_values_take_transformers_defaults() {
        let all = Sampling { temperature: 1.0, top_k: Some(50), ..Sampling::GREEDY };
        for (json, wanted) in [
            (json!({"do_sample": true}), all),
            (json!({"do_sample": true, "temperature": null, "top_k": null, "top_p": null, "min_p": null}), all),
            (
                json!({"do_sample": true, "temperature": 0.6, "top_p": 0.95}),
                Sampling { temperature: 0.6, top_p: 0.95, ..all },
            ),
            (json!({"do_sample": true, "top_k": 0}), Sampling { top_k: None, ..all }),
            (json!({"do_sample": true, "top_k": 7, "min_p": 0.1}), Sampling { top_k: Some(7), min_p: 0.1, ..all }),
            (json!({"do_sample": true, "repetition_penalty": 1.2}), Sampling { repetition_penalty: 1.2, ..all }),
            (json!({"do_sample": false}), Sampling::GREEDY),
            (
                json!({"do_sample": false, "temperature": -3, "top_k": "x", "repetition_penalty": 1.2}),
                Sampling { repetition_penalty: 1.2, ..Sampling::GREEDY },
            ),
            (json!({"repetition_penalty": 1}), Sampling::GREEDY),
        ] {
            let found = parsed(json.clone());
            assert_eq!(found.sampling.map(|author| author.sampling()), Some(wanted), "{json}");
            assert!(found.warnings.is_empty(), "{json}: {:?}", found.warnings);
        }
        // A file without sampling keys makes no recommendation.
        for json in [json!({}), json!({"eos_token_id": 5, "max_new_tokens": 9}), json!({"do_sample": null})] {
            assert_eq!(parsed(json).sampling, None);
        }
        let ignored = parsed(json!({"temperature": 0.7, "top_p": 0.9}));
        assert_eq!(ignored.sampling.map(|author| author.sampling()), Some(Sampling::GREEDY));
        assert!(ignored.warnings[0].contains("has temperature, top_p without \"do_sample\": true"), "{ignored:?}");
    }

    #[test]
    fn invalid_sampling_is_dropped_with_warning() {
        for (json, says) in [
            (json!({"do_sample": "yes"}), "do_sample is \"yes\", expected true or false"),
            (json!({"do_sample": 1}), "do_sample is 1"),
            (json!({"do_sample": true, "temperature": -0.5}), "temperature is -0.5, expected a number from"),
            (json!({"do_sample": true, "temperature": 0}), "temperature is 0,"),
            (json!({"do_sample": true, "temperature": "hot"}), "temperature is \"hot\""),
            (json!({"do_sample": true, "top_p": 7}), "top_p is 7, expected a number from 0 to 1"),
            (json!({"do_sample": true, "top_p": true}), "top_p is true"),
            (json!({"do_sample": true, "top_k": 1u64 << 63}), "top_k is 9223372036854775808, expected 0 to 16777216"),
            (json!({"do_sample": true, "top_k": -1}), "top_k is -1"),
            (json!({"do_sample": true, "top_k": 1.5}), "top_k is 1.5"),
            (json!({"do_sample": true, "min_p": 2}), "min_p is 2"),
            (json!({"repetition_penalty": 0.0}), "repetition_penalty is 0.0"),
            (json!({"repetition_penalty": "\u{1b}[31m\n"}), "repetition_penalty is \""),
        ] {
            let found = parsed(json.clone());
            assert_eq!(found.sampling, None, "{json}");
            let [line] = found.warnings.as_slice() else { panic!("{json}: {:?}", found.warnings) };
            assert!(
                line.contains(says) && line.ends_with("; its sampling settings are ignored"),
                "{line}\nwants {says}"
            );
            assert!(!line.contains(char::is_control), "{line}");
        }
    }

    #[test]
    fn unsupported_keys_with_effect_are_reported() {
        let neutral = json!({"do_sample": true, "num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0,
            "suppress_tokens": [], "bad_words_ids": null, "penalty_alpha": null, "token_healing": false,
            "guidance_scale": 1, "max_new_tokens": 32768});
        assert_eq!(parsed(neutral).warnings, Vec::<String>::new());
        let line = |json: Value| parsed(json).warnings.concat();
        let has_effect = json!({"num_beams": 4, "typical_p": 0.9, "suppress_tokens": [3], "forced_eos_token_id": 0});
        let says = "generation_config.json has num_beams, suppress_tokens, forced_eos_token_id, which is not supported";
        assert!(line(has_effect.clone()).starts_with(says), "{}", line(has_effect));
        assert!(line(json!({"do_sample": true, "typical_p": 0.9})).contains("has typical_p, which"));
    }
}
