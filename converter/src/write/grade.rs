//! The encodings of a whole model: what matrices get that no pattern names.

use crate::encode::levels::LEVELS;
use crate::write::wanted::Wanted;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization, Scales};
use olmo_infer::internals::format::tensors::{Role, TensorSpec};

/// How the matrices of a model are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// All alike.
    All(Wanted),
    /// int8.
    Int8,
    /// int4, and int8 where int4 costs most for its bytes: the head, and `v_proj` where several queries share a value,
    /// for there it is small. An embedding that is not the head is int4, as a token reads one row of it.
    Int4,
}

impl Grade {
    /// The encoding of a matrix of a model.
    pub fn wanted(self, spec: &TensorSpec, config: &ModelConfig) -> Wanted {
        let quantized = |elements| Wanted::Quantized(Quantization { elements, scales: Scales::Row32 });
        let is_sensitive = match spec.role {
            Role::LmHead => true,
            Role::EmbedTokens => config.tie_word_embeddings,
            Role::VProj => config.n_kv_heads < config.n_heads,
            _ => false,
        };
        match self {
            Grade::All(wanted) => wanted,
            Grade::Int4 if !is_sensitive => quantized(Elements::Int4(LEVELS)),
            Grade::Int8 | Grade::Int4 => quantized(Elements::Int8),
        }
    }
}
