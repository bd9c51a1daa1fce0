//! The encodings of a whole model: what matrices get that no pattern names.

use crate::encode::levels::LEVELS;
use crate::write::recipe::Wanted;
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization, Scales};
use olmo_infer::internals::format::tensors::{Role, TensorSpec};

/// How the matrices of a model are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// All alike.
    All(Wanted),
    /// int8.
    Int8,
    /// int4; the embedding and the head, which lose more by it, are int8.
    Int4,
}

impl Grade {
    /// The encoding of a matrix.
    pub fn wanted(self, spec: &TensorSpec) -> Wanted {
        let quantized = |elements| Wanted::Quantized(Quantization { elements, scales: Scales::Row32 });
        match (self, spec.role) {
            (Grade::All(wanted), _) => wanted,
            (Grade::Int8, _) | (Grade::Int4, Role::EmbedTokens | Role::LmHead) => quantized(Elements::Int8),
            (Grade::Int4, _) => quantized(Elements::Int4(LEVELS)),
        }
    }
}
