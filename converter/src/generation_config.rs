//! `generation_config.json`: the ids that end a text. transformers generates by this file and not by `config.json`;
//! those of the models that were trained to answer differ, for they also stop at the end of a turn.

use crate::config_json::{Keys, MAX_CONFIG_BYTES};
use crate::error::{Error, Problem};
use crate::source_file;
use crate::strict_json;
use serde_json::Value;
use std::path::Path;

/// What is used of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end a text, when the file has any.
    pub eos_token_ids: Option<Vec<u32>>,
}

impl GenerationConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is no JSON, or has something else than ids there.
    pub fn read(path: &Path) -> Result<GenerationConfig, Error> {
        let bytes = source_file::read_at_most(path, MAX_CONFIG_BYTES)?
            .ok_or_else(|| Problem::new(path, "longer than 1 MiB").expected("a file of a few hundred bytes"))?;
        let value = strict_json::parse(&bytes).map_err(|error| Problem::no_json(path, error))?;
        let Value::Object(object) = &value else {
            return Err(Problem::new(path, "JSON that is no object").expected("a generation_config.json").into());
        };
        Ok(GenerationConfig { eos_token_ids: Keys { path, object, prefix: "" }.ids("eos_token_id")? })
    }
}
