//! How much the errors in each column of a matrix count.

use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::tensors::{Role, TensorSpec};

/// Weights of squared errors, column by column, of the matrices of a model; their mean is about 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// One entry a layer.
    pub layers: Vec<OfLayer<f32>>,
    /// Of the head.
    pub lm_head: Vec<f32>,
}

/// A number for each column of the matrices of a layer. Matrices that are multiplied with the same numbers share them,
/// and so do the experts.
#[derive(Clone, Debug, PartialEq)]
pub struct OfLayer<T> {
    /// `q_proj`, `k_proj` and `v_proj`, and `g_proj` of linear attention.
    pub attention: Vec<T>,
    /// `o_proj`.
    pub attention_output: Vec<T>,
    /// `gate_proj` and `up_proj`.
    pub mlp: Vec<T>,
    /// `down_proj`.
    pub mlp_output: Vec<T>,
}

impl Importance {
    /// Whether a tensor is a matrix that something is multiplied with: not a vector, nor an embedding that is not the
    /// head.
    pub fn has(spec: &TensorSpec, config: &ModelConfig) -> bool {
        spec.has_choice() && (spec.role != Role::EmbedTokens || config.tie_word_embeddings)
    }

    /// The weights of a tensor's columns; `None` without [`Importance::has`].
    pub fn of(&self, spec: &TensorSpec, config: &ModelConfig) -> Option<&[f32]> {
        let layer = spec.layer.and_then(|layer| self.layers.get(layer));
        match spec.role {
            Role::QProj
            | Role::KProj
            | Role::VProj
            | Role::LinearQProj
            | Role::LinearKProj
            | Role::LinearVProj
            | Role::LinearGProj => layer.map(|layer| layer.attention.as_slice()),
            Role::OProj | Role::LinearOProj => layer.map(|layer| layer.attention_output.as_slice()),
            Role::GateProj | Role::UpProj | Role::ExpertGateProj | Role::ExpertUpProj => {
                layer.map(|layer| layer.mlp.as_slice())
            }
            Role::DownProj | Role::ExpertDownProj => layer.map(|layer| layer.mlp_output.as_slice()),
            Role::LmHead => Some(&self.lm_head),
            Role::EmbedTokens if config.tie_word_embeddings => Some(&self.lm_head),
            _ => None,
        }
    }
}
