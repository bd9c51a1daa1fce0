//! `model.safetensors.index.json`: which shard of a checkpoint holds which tensor.

use crate::error::{Error, Problem, shortened};
use crate::safetensors_header::MAX_NAME_BYTES;
use crate::source_file;
use crate::strict_json::{self, Object};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest index; that of the largest model that the format can hold, 1024 layers, has 1.3 MB.
const MAX_INDEX_BYTES: u64 = 2 << 20;
/// Most of what is shown of an error or of a name that is none.
const SHOWN_CHARS: usize = 200;

/// The content of an index.
#[derive(Debug)]
pub struct ShardIndex {
    /// Names of files by the names of the tensors in them.
    pub files: BTreeMap<String, String>,
    /// Bytes of the numbers of all tensors, where the index says so.
    pub total_bytes: Option<u64>,
}

/// The index as it is written; what else is in it says nothing about the tensors.
#[derive(Deserialize)]
struct Written {
    metadata: Option<Metadata>,
    weight_map: Object<String>,
}

#[derive(Deserialize)]
struct Metadata {
    total_size: Option<f64>,
}

impl ShardIndex {
    /// Reads the index at `path`.
    ///
    /// # Errors
    /// The file cannot be read or is no index, or names a file that is not beside it.
    pub fn read(path: &Path) -> Result<ShardIndex, Error> {
        let bytes = source_file::read_at_most(path, MAX_INDEX_BYTES)?
            .ok_or_else(|| Problem::new(path, "longer than 2 MiB").expected("an index of some hundred KiB"))?;
        Ok(ShardIndex::parse(path, &bytes)?)
    }

    /// Reads an index; `path` is for messages.
    ///
    /// # Errors
    /// It is no index, or names a file that is not beside it.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<ShardIndex, Problem> {
        let problem = |found: &str| Problem::new(path, found).expected("a weight_map from tensors to files");
        let is_none = |error: String| problem(&shortened(&error, SHOWN_CHARS)).advice("download it again");
        let value = strict_json::parse(bytes).map_err(is_none)?;
        let written: Written = serde_json::from_value(value).map_err(|error| is_none(error.to_string()))?;
        let files = written.weight_map.0;
        if files.is_empty() {
            return Err(problem("names no tensors").advice("download it again"));
        }
        if let Some(name) = files.keys().find(|name| name.len() > MAX_NAME_BYTES) {
            return Err(problem(&format!("a name of {} bytes", name.len())).advice("download it again"));
        }
        // No path is taken from a file: whoever wrote it could name any other file of this machine.
        if let Some((tensor, file)) = files.iter().find(|(_, file)| !is_plain_name(file)) {
            let found = format!("the file \"{}\"", shortened(file, SHOWN_CHARS));
            return Err(Problem::new(path, found)
                .tensor(tensor)
                .expected("the name of a .safetensors file in the same folder")
                .advice("download the index again"));
        }
        let total = written.metadata.and_then(|metadata| metadata.total_size);
        let total_bytes = match total {
            // Below, every whole number is one of the doubles.
            Some(total) if total.fract() == 0.0 && (0.0..9e15).contains(&total) => Some(total as u64),
            Some(total) => {
                let problem = Problem::new(path, format!("total_size is {total}")).expected("a number of bytes");
                return Err(problem.advice("download the index again"));
            }
            None => None,
        };
        Ok(ShardIndex { files, total_bytes })
    }
}

/// Whether this is the name of a safetensors file, and nothing of a path.
fn is_plain_name(file: &str) -> bool {
    let is_safe = |stem: &str| !stem.is_empty() && !stem.contains(['/', '\\', '\0']);
    file.len() <= MAX_NAME_BYTES && file.strip_suffix(".safetensors").is_some_and(is_safe)
}
