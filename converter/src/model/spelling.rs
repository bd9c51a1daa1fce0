//! The names under which checkpoints have the tensors of a model. transformers holds the experts of a layer in two
//! tensors and writes each expert by itself; it wrote the norms and the convolution of Olmo-Hybrid under several names, and cut
//! the convolution in more than one way.

use crate::error::Problem;
use crate::folder::listing::Listing;
use crate::folder::npy::shown_shape;
use crate::folder::stored_tensor::StoredTensor;
use olmo_infer::internals::format::config::{Architecture, ModelConfig};
use olmo_infer::internals::format::tensors::{Role, TensorSpec};
use olmo_infer::internals::format::{SpellingHead, SpellingPart, SpellingRecord};
use std::collections::BTreeMap;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// How a folder has a tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As a tensor of this name, of the same shape.
    Whole(String),
    /// As a part of a tensor of three dimensions.
    Rows {
        /// Its name.
        name: String,
        /// Its shape.
        shape: [usize; 3],
        /// The first row of the part, counted in rows of its last dimension.
        first_row: usize,
    },
    /// As the elements of some tensors, one after the other: a convolution `[channels, 1, kernel]`.
    Joined {
        /// Their names.
        names: Vec<String>,
        /// Channels of all of them.
        channels: usize,
        /// The last dimension of each.
        kernel: usize,
    },
}

/// A tensor of a folder that is not one of the model: its name and shape, the bytes before its elements if it is an
/// `.npy` file, and what its elements are, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respelled {
    /// Its name.
    pub name: String,
    /// Row-major.
    pub shape: Vec<u64>,
    /// All bytes before the data of an `.npy` file; empty for other files.
    pub npy_header: Vec<u8>,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// Elements of a tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position of the tensor in the model file.
    pub tensor: usize,
    /// The first of the elements.
    pub first: u64,
    /// Their number.
    pub n: u64,
}

impl Spelling {
    /// How `listing` has a tensor of a model.
    ///
    /// # Errors
    /// It has the tensor in two ways.
    pub fn of(listing: &Listing, spec: &TensorSpec, config: &ModelConfig) -> Result<Spelling, Problem> {
        let found: Vec<Spelling> = possible(spec, config)
            .into_iter()
            .filter(|spelling| spelling.names().iter().any(|name| listing.tensors.contains(*name)))
            .collect();
        match found.as_slice() {
            [] => Ok(Spelling::Whole(spec.name())),
            [one] => Ok(one.clone()),
            [one, other, ..] if spec.role == Role::EmbedTokens => {
                // A tied model can have both; the head is compared with the embedding.
                debug_assert!(config.tie_word_embeddings && other.names() == [HEAD]);
                Ok(one.clone())
            }
            [one, other, ..] => {
                let problem = listing.problem(one.names()[0], format!("there, and {} too", other.names()[0]));
                Err(problem.expected("one of them").advice("keep one of the two: they are one tensor of the model"))
            }
        }
    }

    /// All names that the tensor of a model can have in folders.
    pub fn all_names(spec: &TensorSpec, config: &ModelConfig) -> Vec<String> {
        let names = |spelling: &Spelling| spelling.names().into_iter().map(String::from).collect::<Vec<_>>();
        possible(spec, config).iter().flat_map(names).collect()
    }

    /// The names of the tensors in the folder.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Spelling::Whole(name) | Spelling::Rows { name, .. } => vec![name],
            Spelling::Joined { names, .. } => names.iter().map(String::as_str).collect(),
        }
    }

    /// The tensor. `opened` keeps those that several tensors of the model are in.
    ///
    /// # Errors
    /// `open` returns one, a shape is not the one that it should be, or the types of parts differ.
    pub fn tensor<E: From<Problem>>(
        &self,
        spec: &TensorSpec,
        opened: &mut BTreeMap<String, StoredTensor>,
        open: impl Fn(&str) -> Result<StoredTensor, E>,
    ) -> Result<StoredTensor, E> {
        let bad_shape = |tensor: &StoredTensor, expected: String| {
            let problem = tensor.problem(format!("shape {}", shown_shape(&tensor.shape))).expected(expected);
            E::from(problem.advice("export it again or correct config.json"))
        };
        match self {
            Spelling::Whole(name) => open(name),
            Spelling::Rows { name, shape, first_row } => {
                let tensor = match opened.get(name) {
                    Some(tensor) => tensor,
                    None => opened.entry(name.clone()).or_insert(open(name)?),
                };
                let wanted = shape.map(|size| size as u64);
                if tensor.shape != wanted {
                    return Err(bad_shape(tensor, format!("{} as in config.json", shown_shape(&wanted))));
                }
                Ok(tensor.rows_of_last(*first_row as u64, &spec.shape()))
            }
            Spelling::Joined { names, channels, kernel } => {
                let mut tensors = Vec::with_capacity(names.len());
                for name in names {
                    let tensor = open(name)?;
                    if tensor.shape.len() != 3 || tensor.shape[1..] != [1, *kernel as u64] {
                        return Err(bad_shape(&tensor, format!("[channels, 1, {kernel}]")));
                    }
                    tensors.push(tensor);
                }
                let found = tensors.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.shape[0]));
                if found != *channels as u64 {
                    let problem = tensors[0].problem(format!("a convolution of {found} channels in all"));
                    return Err(problem.expected(format!("{channels}, those of q, k and v")).into());
                }
                if let Some(other) = tensors.iter().find(|tensor| tensor.element != tensors[0].element) {
                    let problem = other.problem(format!("of {} numbers", other.element.name()));
                    let expected = format!("{} numbers as in the part before", tensors[0].element.name());
                    return Err(problem.expected(expected).into());
                }
                let mut parts = tensors.into_iter();
                let mut first = parts.next().expect("at least one name");
                first.shape = spec.shape().iter().map(|&size| size as u64).collect();
                first.following = parts.collect();
                Ok(first)
            }
        }
    }
}

/// The ways in which folders have a tensor.
fn possible(spec: &TensorSpec, config: &ModelConfig) -> Vec<Spelling> {
    let own = spec.name();
    let (Some(layer), architecture) = (spec.layer, config.architecture) else {
        let mut names = vec![own];
        // A tied tensor can be saved under either of its names.
        if config.tie_word_embeddings && names[0] == EMBEDDING {
            names.push(HEAD.into());
        }
        return names.into_iter().map(Spelling::Whole).collect();
    };
    let in_layer = |suffix: &str| format!("model.layers.{layer}.{suffix}");
    let or = |suffix: &str| vec![Spelling::Whole(own.clone()), Spelling::Whole(in_layer(suffix))];
    match spec.role {
        Role::InputLayernorm if architecture == Architecture::OlmoHybrid => or("attention_layer_norm.weight"),
        Role::PostAttentionLayernorm if architecture == Architecture::OlmoHybrid => or("feedforward_layer_norm.weight"),
        Role::LinearOProj => or("linear_attn.out_proj.weight"),
        Role::LinearONorm => or("linear_attn.norm.weight"),
        Role::LinearConv1d => {
            let (channels, kernel) = config.linear.map_or((0, 0), |linear| (linear.n_channels(), linear.conv_kernel));
            let three = ["q", "k", "v"].map(|part| in_layer(&format!("linear_attn.{part}_conv1d.weight")));
            let joined = |names| Spelling::Joined { names, channels, kernel };
            vec![joined(three.to_vec()), joined(vec![own])]
        }
        Role::ExpertGateProj | Role::ExpertUpProj | Role::ExpertDownProj => {
            let (n_experts, expert) = (config.experts.map_or(0, |experts| experts.n_experts), spec.expert.unwrap_or(0));
            let (hidden, width) = (config.hidden_size, config.intermediate_size);
            let (name, shape, first) = match spec.role {
                Role::ExpertDownProj => ("mlp.experts.down_proj", [n_experts, hidden, width], 0),
                Role::ExpertGateProj => ("mlp.experts.gate_up_proj", [n_experts, 2 * width, hidden], 0),
                _ => ("mlp.experts.gate_up_proj", [n_experts, 2 * width, hidden], width),
            };
            let first_row = expert * shape[1] + first;
            vec![Spelling::Whole(own.clone()), Spelling::Rows { name: in_layer(name), shape, first_row }]
        }
        _ => vec![Spelling::Whole(own)],
    }
}

/// The section `SPELLING`; `None` where all tensors are those of the model.
pub fn section(respelled: &[Respelled]) -> Option<Vec<u8>> {
    if respelled.is_empty() {
        return None;
    }
    let mut section =
        SpellingHead { n_tensors: U32::new(respelled.len() as u32), reserved: U32::new(0) }.as_bytes().to_vec();
    for tensor in respelled {
        let size = |dimension: usize| U64::new(tensor.shape.get(dimension).copied().unwrap_or(0));
        let record = SpellingRecord {
            name_bytes: U32::new(tensor.name.len() as u32),
            header_bytes: U32::new(tensor.npy_header.len() as u32),
            rank: U32::new(tensor.shape.len() as u32),
            n_parts: U32::new(tensor.parts.len() as u32),
            shape: std::array::from_fn(size),
        };
        section.extend(record.as_bytes());
    }
    for part in respelled.iter().flat_map(|tensor| &tensor.parts) {
        let part = SpellingPart {
            tensor: U32::new(part.tensor as u32),
            reserved: U32::new(0),
            first: U64::new(part.first),
            n: U64::new(part.n),
        };
        section.extend(part.as_bytes());
    }
    respelled.iter().for_each(|tensor| section.extend(tensor.name.as_bytes()));
    respelled.iter().for_each(|tensor| section.extend(&tensor.npy_header));
    Some(section)
}

/// Collects the tensors of a folder that are not tensors of the model.
#[derive(Default)]
pub struct RespelledTensors(pub Vec<Respelled>);

impl RespelledTensors {
    /// Adds what a tensor of the model is in, at this position, and removes the header of its source, which is kept
    /// here.
    pub fn add(
        &mut self,
        tensor: usize,
        spelling: &Spelling,
        spec: &TensorSpec,
        source: &mut StoredTensor,
        shape: &[u64],
    ) {
        let n = spec.n_elements();
        match spelling {
            Spelling::Whole(name) if *name == spec.name() || [EMBEDDING, HEAD].contains(&name.as_str()) => {}
            Spelling::Whole(name) => self.0.push(Respelled {
                name: name.clone(),
                shape: source.shape.clone(),
                npy_header: std::mem::take(&mut source.npy_header),
                parts: vec![Part { tensor, first: 0, n }],
            }),
            Spelling::Rows { name, .. } => {
                let npy_header = std::mem::take(&mut source.npy_header);
                let part = Part { tensor, first: 0, n };
                // The tensors of a layer come together.
                match self.0.iter_mut().rev().take(2).find(|respelled| respelled.name == *name) {
                    Some(respelled) => respelled.parts.push(part),
                    None => {
                        let parts = vec![part];
                        self.0.push(Respelled { name: name.clone(), shape: shape.to_vec(), npy_header, parts });
                    }
                }
            }
            Spelling::Joined { names, kernel, .. } => {
                let (mut first, kernel) = (0, *kernel as u64);
                for (index, name) in names.iter().enumerate() {
                    let (element, bytes, header) = match index {
                        0 => (source.element, source.bytes, std::mem::take(&mut source.npy_header)),
                        _ => {
                            let part = &mut source.following[index - 1];
                            (part.element, part.bytes, std::mem::take(&mut part.npy_header))
                        }
                    };
                    let n = bytes / element.bytes() as u64;
                    self.0.push(Respelled {
                        name: name.clone(),
                        shape: vec![n / kernel, 1, kernel],
                        npy_header: header,
                        parts: vec![Part { tensor, first, n }],
                    });
                    first += n;
                }
            }
        }
    }
}
