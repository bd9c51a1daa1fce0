//! `model.safetensors.index.json`: the shard of each tensor of a checkpoint. Its `metadata` is ignored: no loader reads
//! it, and tools that rewrite shards leave it unchanged. The headers of the shards have their sizes.

use crate::error::{Error, Problem, shortened};
use crate::folder::safetensors::header::MAX_NAME_BYTES;
use crate::folder::source_file;
use crate::json::strict;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest accepted index; that of 1024 layers has 1.3 MB, that of OLMoE-1B-7B with its 3,219 tensors 0.3 MB.
const MAX_INDEX_BYTES: u64 = 2 << 20;
/// Most characters of an error or an invalid name in a message.
const SHOWN_CHARS: usize = 200;

/// The content of an index.
#[derive(Debug)]
pub struct ShardIndex {
    /// File names by tensor name.
    pub files: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads the index at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is not an index, or names a file outside its folder.
    pub fn read(path: &Path) -> Result<ShardIndex, Error> {
        let bytes = source_file::read_at_most(path, MAX_INDEX_BYTES)?
            .ok_or_else(|| Problem::new(path, "longer than 2 MiB").expected("an index of a few hundred KiB"))?;
        Ok(ShardIndex::parse(path, &bytes)?)
    }

    /// Parses an index; `path` is for messages.
    ///
    /// # Errors
    /// It is not an index, or names a file outside its folder.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<ShardIndex, Problem> {
        let problem = |found: &str| Problem::new(path, found).expected("a weight_map from tensors to files");
        let again = |found: &str| problem(&shortened(found, SHOWN_CHARS)).advice("download it again");
        let value = strict::parse(bytes).map_err(|error| again(&error))?;
        let weight_map = value.get("weight_map").ok_or_else(|| again("has no weight_map"))?;
        let weight_map = weight_map.as_object().ok_or_else(|| again("a weight_map that is not an object"))?;
        let mut files = BTreeMap::new();
        for (tensor, file) in weight_map {
            let file = file.as_str().ok_or_else(|| again(&format!("{tensor}: {file} instead of a file name")))?;
            files.insert(tensor.clone(), file.to_string());
        }
        if files.is_empty() {
            return Err(problem("lists no tensors").advice("download it again"));
        }
        if let Some(name) = files.keys().find(|name| name.len() > MAX_NAME_BYTES) {
            return Err(problem(&format!("a name of {} bytes", name.len())).advice("download it again"));
        }
        // Paths are rejected: the index is untrusted and could name any file of this machine.
        if let Some((tensor, file)) = files.iter().find(|(_, file)| !is_plain_name(file)) {
            let found = format!("the file \"{}\"", shortened(file, SHOWN_CHARS));
            return Err(Problem::new(path, found)
                .tensor(tensor)
                .expected("the name of a .safetensors file in the same folder")
                .advice("download the index again"));
        }
        Ok(ShardIndex { files })
    }
}

/// Whether this is a plain file name of a safetensors file, without a path.
fn is_plain_name(file: &str) -> bool {
    let is_safe = |stem: &str| !stem.is_empty() && !stem.contains(['/', '\\', '\0']);
    file.len() <= MAX_NAME_BYTES && file.strip_suffix(".safetensors").is_some_and(is_safe)
}
