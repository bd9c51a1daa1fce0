//! A model in one GGUF file, the format of llama.cpp: the tensors under the names of a checkpoint, and the metadata.

pub mod blocks;
pub mod cursor;
pub mod header;
pub mod kept;
pub mod metadata;
pub mod names;
pub mod rows;
pub mod tensor_type;
pub mod value;

use crate::error::{Error, Problem};
use crate::folder::element::SourceType;
use crate::folder::gguf::blocks::BlockType;
use crate::folder::gguf::header::{TensorInfo, check, most_bytes};
use crate::folder::gguf::metadata::Metadata;
use crate::folder::gguf::rows::Rows;
use crate::folder::gguf::tensor_type::Readable;
use crate::folder::source_file::SourceFile;
use crate::folder::stored_tensor::StoredTensor;
use olmo_infer::internals::format::sizes::product;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Bytes that are read first; a header without tokens is shorter.
const FIRST_BYTES: usize = 64 << 10;
/// What to get instead of a file that cannot be packed.
const OTHER_FILE: &str = "get a Q8_0, F16 or BF16 file of this model";
/// The head, and the embedding, which is the head of a model without one.
const HEAD: &str = "output.weight";
const EMBEDDING: &str = "token_embd.weight";

/// A GGUF file whose header was checked.
#[derive(Clone, Debug)]
pub struct GgufFile {
    /// The file.
    pub file: SourceFile,
    /// The metadata.
    pub metadata: Metadata,
    /// Where the data of the first tensor begin.
    data: u64,
    /// The tensors by their names in a checkpoint, or by their own if no OLMo model has such a tensor.
    tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Reads the header of the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or its header is invalid.
    pub(crate) fn open(path: &Path) -> Result<GgufFile, Error> {
        let file = SourceFile::look_at(path)?;
        let file_bytes = file.identity.bytes();
        let most = most_bytes(file_bytes);
        let mut length = FIRST_BYTES.min(most);
        loop {
            if let Some(read) = GgufFile::of_start(&file, file.start(length as u64)?, file_bytes)? {
                return Ok(read);
            }
            if length == most {
                // Past the end of the file or of the longest header, which is an error of its own.
                return Err(Problem::new(path, "a header that does not end").expected("a GGUF file").into());
            }
            length = length.saturating_mul(4).min(most);
        }
    }

    /// The file that has `file_bytes` bytes and begins with `start`; `None` if its header is longer than that.
    ///
    /// # Errors
    /// Its header is invalid.
    pub fn of_start(file: &SourceFile, mut start: Vec<u8>, file_bytes: u64) -> Result<Option<GgufFile>, Problem> {
        let path = &file.path;
        let Some(header) = check(path, &start, file_bytes)? else { return Ok(None) };
        let data = header.data;
        start.truncate(header.keys_end);
        start.shrink_to_fit();
        let metadata = Metadata::new(path, start, header.keys);
        Ok(Some(GgufFile { tensors: renamed(path, header.tensors)?, metadata, data, file: file.clone() }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The bytes of the file before the data of its tensors, and the ranges of these data, in the order of the file.
    ///
    /// # Errors
    /// The file cannot be read, or changed.
    pub(crate) fn start_and_data(&self) -> Result<(Vec<u8>, Vec<Range<u64>>), Error> {
        let mut data: Vec<Range<u64>> = self.tensors.values().map(|info| info.range.clone()).collect();
        data.sort_by_key(|range| range.start);
        Ok((self.file.start(self.data)?, data))
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// Shape of a tensor, if present.
    pub fn shape(&self, tensor: &str) -> Option<&[u64]> {
        self.tensors.get(tensor).map(|info| info.shape.as_slice())
    }

    /// A tensor, if present.
    ///
    /// # Errors
    /// Its type is not one that weights can have.
    pub fn tensor(&self, name: &str) -> Option<Result<StoredTensor, Problem>> {
        let info = self.tensors.get(name)?;
        let own_name = names::of_gguf(name).unwrap_or_else(|| name.into());
        let Some(readable) = info.kind.readable() else {
            let problem = Problem::new(self.path(), format!("type {}", info.kind.name)).tensor(name);
            return Some(Err(problem.expected("F32, F16, BF16, Q8_0, Q4_0 or IQ4_NL").advice(OTHER_FILE)));
        };
        let (element, blocks) = match readable {
            Readable::Elements(element) => (element, None),
            // What a reader gets.
            Readable::Blocks(block) => (SourceType::F32, Some(block)),
        };
        let n_elements = info.shape.iter().copied();
        let Ok(bytes) = product(n_elements.chain([element.bytes() as u64])) else {
            let problem = Problem::new(self.path(), "more than 2^64 bytes as f32").tensor(own_name);
            return Some(Err(problem.expected("the weights of a model")));
        };
        Some(Ok(StoredTensor {
            file: self.file.clone(),
            rows: Rows { blocks, head_dim: self.interleaved_head_dim(name, &info.shape) },
            name: Some(own_name),
            element,
            shape: info.shape.clone(),
            offset: info.range.start,
            bytes,
            npy_header: Vec::new(),
            following: Vec::new(),
        }))
    }

    /// The width of the heads of a matrix whose rows are in the order of llama.cpp: the queries and keys of OLMo-1. It
    /// rotates neighbouring rows there; OLMo-2 and Olmo-3 keep the order of the checkpoint.
    fn interleaved_head_dim(&self, name: &str, shape: &[u64]) -> Option<usize> {
        let is_olmo1 = self.metadata.text("general.architecture").ok().flatten() == Some("olmo");
        let key = match () {
            () if name.ends_with("self_attn.q_proj.weight") => "olmo.attention.head_count",
            () if name.ends_with("self_attn.k_proj.weight") => "olmo.attention.head_count_kv",
            () => return None,
        };
        let heads = |key| self.metadata.whole(key).ok().flatten();
        let n_heads = heads(key).or_else(|| heads("olmo.attention.head_count"))?;
        let rows = shape.first().copied()?;
        let is_even = n_heads > 0 && rows.is_multiple_of(n_heads.checked_mul(2)?);
        // Other shapes are refused when they are compared with the configuration.
        (is_olmo1 && shape.len() == 2 && is_even).then(|| (rows / n_heads) as usize)
    }

    /// Whether the head is to be read although its type is not one that weights can have otherwise: llama.cpp writes
    /// that of a Q4_0 or IQ4_NL file as Q6_K.
    pub(crate) fn recoded_head(&self) -> Option<String> {
        let head =
            [HEAD, EMBEDDING].into_iter().filter_map(names::of_checkpoint).find(|name| self.shape(name).is_some())?;
        let is = |info: &TensorInfo, block| info.kind.readable() == Some(Readable::Blocks(block));
        let of_layers =
            self.tensors.iter().filter(|(name, info)| info.shape.len() > 1 && name.starts_with("model.layers."));
        let mut n_layers = 0;
        let all_are = of_layers
            .inspect(|_| n_layers += 1)
            .all(|(_, info)| is(info, BlockType::Q4_0) || is(info, BlockType::Iq4Nl));
        (n_layers > 0 && all_are && is(self.tensors.get(&head)?, BlockType::Q6K)).then_some(head)
    }

    /// Refuses types that cannot be packed, all tensors in one line.
    ///
    /// # Errors
    /// The first of them, and how many there are.
    pub(crate) fn refuse_types(&self) -> Result<(), Problem> {
        let head = self.recoded_head();
        let is_refused = |(name, info): &(&String, &TensorInfo)| match info.kind.readable() {
            None => true,
            Some(Readable::Blocks(BlockType::Q6K)) => head.as_ref() != Some(*name),
            Some(_) => false,
        };
        // A tensor without a name there is superfluous, and its type does not count.
        let refused = self.tensors.iter().filter(is_refused);
        let mut refused = refused.filter_map(|(name, info)| Some((names::of_gguf(name)?, info)));
        let Some((name, info)) = refused.next() else { return Ok(()) };
        let more = match refused.count() {
            0 => String::new(),
            more => format!(", and {more} more tensors of such types"),
        };
        let found =
            format!("type {}{more}; storing it in another type would add a second error to its own", info.kind.name);
        let problem = Problem::new(self.path(), found).tensor(name);
        Err(problem.expected("F32, F16, BF16, Q8_0, Q4_0 or IQ4_NL").advice(OTHER_FILE))
    }
}

/// The tensors by their names in a checkpoint.
fn renamed(path: &Path, tensors: BTreeMap<String, TensorInfo>) -> Result<BTreeMap<String, TensorInfo>, Problem> {
    let mut renamed = BTreeMap::new();
    for (name, info) in tensors {
        if let Some(expected) = names::of_gguf(&name) {
            // It would be taken for the tensor with the other name.
            let problem = Problem::new(path, "the name of a tensor in a checkpoint").tensor(name);
            return Err(problem.expected(format!("{expected} in a GGUF file")).advice("convert the model again"));
        }
        renamed.insert(names::of_checkpoint(&name).unwrap_or(name), info);
    }
    if renamed.is_empty() {
        return Err(Problem::new(path, "no tensors").expected("the weights of a model").advice(OTHER_FILE));
    }
    Ok(renamed)
}
