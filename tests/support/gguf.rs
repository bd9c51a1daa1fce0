//! GGUF files, written by hand so that they can be wrong in any way, and models made of weights folders.

use crate::safetensors;
use olmo_infer::internals::format::config::{Architecture, AttentionKind, ModelConfig};
use olmo_pack::folder::element::{SourceType, widen};
use olmo_pack::folder::gguf::names;
use olmo_pack::folder::gguf::tensor_type::TensorType;
use std::path::Path;

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Meta {
    /// A u32.
    U32(u32),
    /// A u64.
    U64(u64),
    /// An i32.
    I32(i32),
    /// An f32.
    F32(f32),
    /// An f64.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of i32.
    I32s(Vec<i32>),
    /// A list of truth values.
    Bools(Vec<bool>),
    /// The number of a type and any bytes.
    Raw(u32, Vec<u8>),
}

impl From<&str> for Meta {
    fn from(text: &str) -> Meta {
        Meta::Text(text.into())
    }
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn list(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
}

impl Meta {
    /// The number of its type, and its bytes.
    fn bytes(&self) -> (u32, Vec<u8>) {
        match self {
            Meta::U32(number) => (4, number.to_le_bytes().into()),
            Meta::I32(number) => (5, number.to_le_bytes().into()),
            Meta::F32(number) => (6, number.to_le_bytes().into()),
            Meta::Bool(value) => (7, vec![u8::from(*value)]),
            Meta::Text(value) => (8, text(value.as_bytes())),
            Meta::U64(number) => (10, number.to_le_bytes().into()),
            Meta::F64(number) => (12, number.to_le_bytes().into()),
            Meta::Texts(texts) => (9, list(8, &texts.iter().map(|value| text(value.as_bytes())).collect::<Vec<_>>())),
            Meta::I32s(numbers) => (9, list(5, &numbers.iter().map(|n| n.to_le_bytes().into()).collect::<Vec<_>>())),
            Meta::Bools(values) => (9, list(7, &values.iter().map(|v| vec![u8::from(*v)]).collect::<Vec<_>>())),
            Meta::Raw(kind, bytes) => (*kind, bytes.clone()),
        }
    }
}

/// A tensor on its way into a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// The number of its type.
    pub kind: u32,
    /// Row-major.
    pub shape: Vec<u64>,
    /// Its data.
    pub data: Vec<u8>,
    /// Their offset according to the header, if that is wrong.
    pub offset: Option<u64>,
}

/// A file.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// The version.
    pub version: u32,
    /// The metadata, in the order of the file.
    pub keys: Vec<(String, Meta)>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<Tensor>,
    /// The alignment of the data, regardless of the metadata.
    pub alignment: usize,
}

impl Gguf {
    /// A file without tensors.
    pub fn new(keys: Vec<(String, Meta)>) -> Gguf {
        Gguf { version: 3, keys, tensors: Vec::new(), alignment: 32 }
    }

    /// Sets a key, in its place or at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Meta>) {
        let value = value.into();
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.into(), value)),
        }
    }

    /// Removes a key.
    pub fn unset(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key);
    }

    /// The tensor with this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("there")
    }

    /// The header, without the bytes that align the data.
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            let (kind, value) = value.bytes();
            bytes.extend([&text(key.as_bytes())[..], &kind.to_le_bytes(), &value].concat());
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            bytes.extend(text(tensor.name.as_bytes()));
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            bytes.extend(tensor.shape.iter().rev().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += (tensor.data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        bytes
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&tensor.data);
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes
    }
}

/// The metadata of a model as the converter of llama.cpp writes them.
pub fn keys(config: &ModelConfig) -> Vec<(String, Meta)> {
    let is_olmo1 = config.architecture == Architecture::Olmo1;
    let name = if is_olmo1 { "olmo" } else { "olmo2" };
    let mut keys: Vec<(String, Meta)> =
        vec![("general.architecture".into(), name.into()), ("general.name".into(), "A model".into())];
    let mut add = |key: &str, value: Meta| keys.push((format!("{name}.{key}"), value));
    let count = |count: usize| Meta::U32(count as u32);
    add("block_count", count(config.n_layers()));
    add("context_length", count(config.max_position_embeddings));
    add("embedding_length", count(config.hidden_size));
    add("feed_forward_length", count(config.intermediate_size));
    add("attention.head_count", count(config.n_heads));
    add("attention.head_count_kv", count(config.n_kv_heads));
    if config.n_heads * config.head_dim != config.hidden_size {
        add("attention.key_length", count(config.head_dim));
        add("attention.value_length", count(config.head_dim));
    }
    add("rope.freq_base", Meta::F32(config.rope_theta as f32));
    if is_olmo1 {
        add("attention.layer_norm_epsilon", Meta::F32(config.rms_norm_eps as f32));
        if let Some(clip) = config.clip_qkv {
            add("attention.clamp_kqv", Meta::F32(clip as f32));
        }
    } else {
        add("attention.layer_norm_rms_epsilon", Meta::F32(config.rms_norm_eps as f32));
    }
    if let Some(yarn) = &config.yarn {
        add("rope.scaling.type", "yarn".into());
        add("rope.scaling.factor", Meta::F32(yarn.factor as f32));
        add("rope.scaling.attn_factor", Meta::F32(yarn.attention_factor as f32));
        add("rope.scaling.original_context_length", count(yarn.original_max_position_embeddings));
        for (key, beta, usual) in [("fast", yarn.beta_fast, 32.0), ("slow", yarn.beta_slow, 1.0)] {
            if beta != usual {
                add(&format!("rope.scaling.yarn_beta_{key}"), Meta::F32(beta as f32));
            }
        }
    }
    if config.rope_theta_sliding != config.rope_theta {
        add("rope.freq_base_swa", Meta::F32(config.rope_theta_sliding as f32));
    }
    if config.sliding_window > 0 {
        let slides = config.layer_types.iter().map(|kind| *kind == AttentionKind::Sliding);
        add("attention.sliding_window", count(config.sliding_window));
        add("attention.sliding_window_pattern", Meta::Bools(slides.collect()));
    }
    for (name, id) in [("bos", config.bos_token_id), ("padding", config.pad_token_id)] {
        keys.extend(id.map(|id| (format!("tokenizer.ggml.{name}_token_id"), Meta::U32(id))));
    }
    let eos = config.eos_token_ids.first();
    keys.extend(eos.map(|id| ("tokenizer.ggml.eos_token_id".to_string(), Meta::U32(*id))));
    keys
}

/// The model in a folder of `.npy` files as the converter of llama.cpp writes it: vectors as f32, matrices as the folder
/// has them, and the rows of queries and keys of an OLMo-1 in its own order.
pub fn of_folder(weights: &Path, config: &ModelConfig) -> Gguf {
    let mut gguf = Gguf::new(keys(config));
    for tensor in safetensors::tensors_of(weights) {
        let element = match tensor.dtype {
            "F32" => SourceType::F32,
            "F16" => SourceType::F16,
            _ => SourceType::Bf16,
        };
        let (mut data, mut kind) = (tensor.data, type_of(element));
        if tensor.shape.len() == 1 {
            let mut bits = Vec::new();
            widen(element, &data, &mut bits);
            (data, kind) = (bits.into_iter().flat_map(u32::to_le_bytes).collect(), 0);
        }
        let is_rotated = ["q_proj.weight", "k_proj.weight"].iter().any(|end| tensor.name.ends_with(end));
        if config.architecture == Architecture::Olmo1 && is_rotated {
            data = interleaved(&data, data.len() / tensor.shape[0] as usize, config.head_dim);
        }
        let name = names::of_gguf(&tensor.name).expect("a tensor of OLMo");
        gguf.tensors.push(Tensor { name, kind, shape: tensor.shape, data, offset: None });
    }
    gguf
}

/// The number of the type of single elements.
pub fn type_of(element: SourceType) -> u32 {
    match element {
        SourceType::F32 => 0,
        SourceType::F16 => 1,
        SourceType::Bf16 => 30,
    }
}

/// The rows of each head, those of its second half between those of its first.
pub fn interleaved(data: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = data.chunks(row_bytes).collect();
    let of_head = |head: &[&[u8]]| {
        let (first, second) = head.split_at(head_dim / 2);
        first.iter().zip(second).flat_map(|(a, b)| [*a, *b].concat()).collect::<Vec<u8>>()
    };
    rows.chunks(head_dim).flat_map(of_head).collect()
}

/// Blocks of a type with random codes and small scales, for this many elements.
pub fn blocks(kind: TensorType, n_elements: u64, random: &mut crate::Random) -> Vec<u8> {
    let n_blocks = n_elements / kind.block_elements;
    let mut data = Vec::new();
    for _ in 0..n_blocks {
        // From 2^-9 to 2^-8.
        let scale = (0x1800 + random.below(0x400) as u16).to_le_bytes();
        let mut codes: Vec<u8> = (2..kind.block_bytes).map(|_| random.bits() as u8).collect();
        if kind.name == "Q8_0" {
            // No quantizer writes -128.
            codes.iter_mut().filter(|code| **code == 0x80).for_each(|code| *code = 0x81);
        }
        // Only that of Q6_K is at the end.
        data.extend(if kind.name == "Q6_K" { [&codes, &scale[..]].concat() } else { [&scale[..], &codes].concat() });
    }
    data
}
