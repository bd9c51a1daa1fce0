//! Safetensors files, written by hand so that they can be wrong in any way, and checkpoints made of `.npy` folders.

use olmo_pack::folder::element::SourceType;
use olmo_pack::folder::npy::NpyFile;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A tensor on its way into a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type as spelled in headers.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its numbers.
    pub data: Vec<u8>,
}

/// A file of this header, valid or not, and these bytes.
pub fn raw(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// The header of a file of these tensors, one behind the other, as the crate `safetensors` writes it.
pub fn header(tensors: &[Tensor]) -> Value {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.data.len();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    header.into()
}

/// The file of these tensors.
pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    with_header(&header(tensors), tensors)
}

/// The file with this header, padded to eight bytes, and the numbers of these tensors.
pub fn with_header(header: &Value, tensors: &[Tensor]) -> Vec<u8> {
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.data.iter().copied()).collect();
    raw(&text, &data)
}

/// The tensors of a folder of `.npy` files, by name.
pub fn tensors_of(weights: &Path) -> Vec<Tensor> {
    let entries = fs::read_dir(weights).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "npy")).collect();
    paths.sort();
    let tensor = |path: &PathBuf| {
        let stored = NpyFile::check(path).expect("an .npy file").tensor(true).expect("a type of weights");
        let mut data = vec![0; stored.bytes as usize];
        stored.read(0, &mut data).expect("read");
        let dtype = match stored.element {
            SourceType::F32 => "F32",
            SourceType::F16 => "F16",
            SourceType::Bf16 => "BF16",
        };
        Tensor {
            name: path.file_stem().expect("a name").to_str().expect("UTF-8").into(),
            dtype,
            shape: stored.shape,
            data,
        }
    };
    paths.iter().map(tensor).collect()
}

/// The name of a shard, from 1.
pub fn shard_name(number: usize, n_shards: usize) -> String {
    format!("model-{number:05}-of-{n_shards:05}.safetensors")
}

/// The path of the index of a checkpoint.
pub fn index_path(folder: &Path) -> PathBuf {
    folder.join("model.safetensors.index.json")
}

/// Writes `model.safetensors`, or `n_shards` shards with their index.
pub fn write_checkpoint(folder: &Path, tensors: &[Tensor], n_shards: usize) {
    if n_shards == 1 {
        fs::write(folder.join("model.safetensors"), file(tensors)).expect("written");
        return;
    }
    let mut weight_map = Map::new();
    for (i, shard) in tensors.chunks(tensors.len().div_ceil(n_shards)).enumerate() {
        let name = shard_name(i + 1, n_shards);
        fs::write(folder.join(&name), file(shard)).expect("written");
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone().into())));
    }
    let total: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    fs::write(index_path(folder), index.to_string()).expect("written");
}

/// Makes a checkpoint of a folder of `.npy` files: the same numbers, and the other files as they are.
pub fn convert(weights: &Path, folder: &Path, n_shards: usize) {
    fs::create_dir_all(folder).expect("a folder");
    for name in ["config.json", "generation_config.json", "vocab.txt"] {
        if weights.join(name).exists() {
            fs::copy(weights.join(name), folder.join(name)).expect("copied");
        }
    }
    write_checkpoint(folder, &tensors_of(weights), n_shards);
}
