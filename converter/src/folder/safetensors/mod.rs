//! The tensors of a checkpoint in safetensors files: one `model.safetensors`, or shards with an index. The headers of
//! the files define their tensors; the index must agree with them.

pub mod header;
pub mod index;

use crate::error::{Error, Problem, Problems};
use crate::folder::gguf::rows::Rows;
use crate::folder::safetensors::header::{Entry, check, header_end};
use crate::folder::safetensors::index::ShardIndex;
use crate::folder::source_file::SourceFile;
use crate::folder::stored_tensor::StoredTensor;
use olmo_infer::internals::os::directory::folder_of;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Advice when the index and its shards do not belong together.
const ONE_REVISION: &str = "download the index and all shards again, of one revision";

/// The files and the entries of their headers.
#[derive(Clone, Debug)]
pub struct Shards {
    /// The file that determines the set of files: `model.safetensors` itself, or the index.
    root: PathBuf,
    files: Vec<SourceFile>,
    /// File number and entry of each tensor.
    tensors: BTreeMap<String, (usize, Entry)>,
}

impl Shards {
    /// Reads the header of a single file.
    ///
    /// # Errors
    /// It cannot be read, or is not a safetensors file.
    pub(crate) fn single(path: &Path) -> Result<Shards, Error> {
        let (file, entries) = read(path)?;
        if entries.is_empty() {
            let problem = Problem::new(path, "no tensors").expected("the weights of a model");
            return Err(problem.advice("save the model again").into());
        }
        let tensors = entries.into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        Ok(Shards { root: path.to_path_buf(), files: vec![file], tensors })
    }

    /// Reads the index at `path` and the headers of its shards in the same folder.
    ///
    /// # Errors
    /// A file is missing or is not a safetensors file, or the index disagrees with a header. All defects are collected.
    pub(crate) fn of_index(path: &Path) -> Result<Shards, Error> {
        let index = ShardIndex::read(path)?;
        let mut shards = Shards { root: path.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() };
        let mut problems = Problems::default();
        let mut unread = BTreeSet::new();
        let names: BTreeSet<&String> = index.files.values().collect();
        for name in names {
            match read(&folder_of(path).join(name)) {
                Ok((file, entries)) => shards.add(&index, name, file, entries, &mut problems),
                Err(error) => {
                    unread.insert(name);
                    problems.extend(error);
                }
            }
        }
        let is_lost = |tensor: &String, file: &String| !shards.tensors.contains_key(tensor) && !unread.contains(file);
        for (tensor, file) in index.files.iter().filter(|(tensor, file)| is_lost(tensor, file)) {
            problems.push_with(|| {
                let problem = Problem::new(folder_of(path).join(file), "missing").tensor(tensor);
                problem.expected("it in this file, as in the index").advice(ONE_REVISION)
            });
        }
        problems.result()?;
        Ok(shards)
    }

    /// Adds the tensors of the file with the name `name` in the index.
    fn add(
        &mut self,
        index: &ShardIndex,
        name: &String,
        file: SourceFile,
        entries: BTreeMap<String, Entry>,
        problems: &mut Problems,
    ) {
        for (tensor, entry) in entries {
            let problem = |found: String| Problem::new(&file.path, found).tensor(&tensor).advice(ONE_REVISION);
            match index.files.get(&tensor) {
                Some(place) if place == name => {
                    self.tensors.insert(tensor, (self.files.len(), entry));
                }
                Some(place) => {
                    problems
                        .push(problem(format!("is here, but in the index it is in {place}")).expected("it only there"));
                }
                None => problems.push(problem("is not in the index".into()).expected("only tensors of the index")),
            }
        }
        self.files.push(file);
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// The file that holds a tensor; without one, the index or the single file.
    pub fn place(&self, tensor: &str) -> &Path {
        self.tensors.get(tensor).map_or(&self.root, |(file, _)| &self.files[*file].path)
    }

    /// The file that determines the set of files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the file at `path` belongs to the checkpoint.
    pub fn contains(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Shape of a tensor, if present.
    pub fn shape(&self, tensor: &str) -> Option<&[u64]> {
        self.tensors.get(tensor).map(|(_, entry)| entry.shape.as_slice())
    }

    /// A tensor, if present.
    ///
    /// # Errors
    /// The element type is not one that weights can have.
    pub fn tensor(&self, name: &str) -> Option<Result<StoredTensor, Problem>> {
        let (file, entry) = self.tensors.get(name)?;
        let file = &self.files[*file];
        let element = match &entry.element {
            Ok(element) => *element,
            Err(other) => {
                let problem = Problem::new(&file.path, format!("element type {other}")).tensor(name);
                return Some(Err(problem.expected("F32, F16 or BF16").advice("save the weights as one of these")));
            }
        };
        Some(Ok(StoredTensor {
            file: file.clone(),
            name: Some(name.to_string()),
            element,
            rows: Rows::default(),
            shape: entry.shape.clone(),
            offset: entry.range.start,
            bytes: entry.range.end - entry.range.start,
            npy_header: Vec::new(),
            following: Vec::new(),
        }))
    }
}

/// Opens a file and reads its header.
fn read(path: &Path) -> Result<(SourceFile, BTreeMap<String, Entry>), Error> {
    let file = match SourceFile::look_at(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Problem::new(path, "missing").expected("a shard of the model").advice("download it").into());
        }
        looked_at => looked_at?,
    };
    let start = file.start(512)?;
    let end = header_end(path, &start, file.identity.bytes())?;
    let entries = check(path, &file.start(end)?, file.identity.bytes())?;
    Ok((file, entries))
}
