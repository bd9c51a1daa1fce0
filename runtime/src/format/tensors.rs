//! Which tensors a model has: a pure function of the configuration.

use crate::format::config::ModelConfig;
use crate::format::config_block::NONE;
use crate::format::kinds::{Dtype, TensorLayout};
use crate::format::panels::PanelShape;
use crate::format::sizes::product;

/// Bit of a role's code in the file: the draft of the matrix of that role.
pub const DRAFT_ROLE: u32 = 0x100;

/// What a tensor is for. The discriminant is its code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the variants are the checkpoint's names")]
pub enum Role {
    EmbedTokens = 1,
    QProj = 2,
    KProj = 3,
    VProj = 4,
    QNorm = 5,
    KNorm = 6,
    OProj = 7,
    PostAttentionLayernorm = 8,
    GateProj = 9,
    UpProj = 10,
    DownProj = 11,
    PostFeedforwardLayernorm = 12,
    Norm = 13,
    LmHead = 14,
}

impl Role {
    /// All that a layer can have, in the order of the file, which is the order of use.
    pub const LAYER: [Role; 11] = [
        Role::QProj,
        Role::KProj,
        Role::VProj,
        Role::QNorm,
        Role::KNorm,
        Role::OProj,
        Role::PostAttentionLayernorm,
        Role::GateProj,
        Role::UpProj,
        Role::DownProj,
        Role::PostFeedforwardLayernorm,
    ];

    /// The code in the file.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The name in a checkpoint, without the layer's prefix.
    fn suffix(self) -> &'static str {
        match self {
            Role::EmbedTokens => "model.embed_tokens.weight",
            Role::QProj => "self_attn.q_proj.weight",
            Role::KProj => "self_attn.k_proj.weight",
            Role::VProj => "self_attn.v_proj.weight",
            Role::QNorm => "self_attn.q_norm.weight",
            Role::KNorm => "self_attn.k_norm.weight",
            Role::OProj => "self_attn.o_proj.weight",
            Role::PostAttentionLayernorm => "post_attention_layernorm.weight",
            Role::GateProj => "mlp.gate_proj.weight",
            Role::UpProj => "mlp.up_proj.weight",
            Role::DownProj => "mlp.down_proj.weight",
            Role::PostFeedforwardLayernorm => "post_feedforward_layernorm.weight",
            Role::Norm => "model.norm.weight",
            Role::LmHead => "lm_head.weight",
        }
    }
}

/// One tensor that a model of a given configuration must have, or the draft of a matrix: a second copy in another
/// encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its layer, when it belongs to one.
    pub layer: Option<usize>,
    /// Rows: outputs of the product; the length of a vector.
    pub rows: usize,
    /// Columns: inputs of the product; `None` for a vector.
    pub columns: Option<usize>,
    /// Whether it is a draft.
    pub is_draft: bool,
}

impl TensorSpec {
    /// The parameter's name in a checkpoint, for example `model.layers.3.self_attn.q_proj.weight`; `draft.` precedes
    /// that of a draft.
    pub fn name(&self) -> String {
        let prefix = if self.is_draft { "draft." } else { "" };
        match self.layer {
            Some(layer) => format!("{prefix}model.layers.{layer}.{}", self.role.suffix()),
            None => format!("{prefix}{}", self.role.suffix()),
        }
    }

    /// The draft of this matrix; `None` of a vector and of a draft.
    pub fn draft(&self) -> Option<TensorSpec> {
        let may = self.columns.is_some() && !self.is_draft;
        may.then_some(TensorSpec { is_draft: true, ..*self })
    }

    /// `role` as the file stores it.
    pub fn role_code(&self) -> u32 {
        self.role.code() | if self.is_draft { DRAFT_ROLE } else { 0 }
    }

    /// Row-major shape as in the checkpoint.
    pub fn shape(&self) -> Vec<usize> {
        std::iter::once(self.rows).chain(self.columns).collect()
    }

    /// Number of elements, padding not counted.
    ///
    /// # Panics
    /// When they are more than a tensor of a checked configuration can have.
    pub fn n_elements(&self) -> u64 {
        product([self.rows, self.columns.unwrap_or(1)]).expect("a configuration has limits")
    }

    /// `layer` as the file stores it.
    pub fn layer_code(&self) -> u32 {
        self.layer.map_or(NONE, |layer| layer as u32)
    }

    /// Layout in the file: matrices in panels, vectors as they are.
    pub fn layout(&self) -> TensorLayout {
        match self.columns {
            Some(_) => TensorLayout::Panels64,
            None => TensorLayout::Vector,
        }
    }

    /// Geometry of a matrix of elements of `dtype`; `None` for a vector.
    pub fn panel_shape(&self, dtype: Dtype) -> Option<PanelShape> {
        self.columns.map(|columns| PanelShape { rows: self.rows, columns, dtype })
    }
}

/// Every tensor of the model, in the order of the file: the embedding, the layers, the final norm, the head.
/// Where norms have no weights there are only matrices: all vectors are norms.
pub fn tensors_of(config: &ModelConfig) -> Vec<TensorSpec> {
    let hidden = config.hidden_size;
    let (q_width, kv_width, mlp_width) = (config.q_width(), config.kv_width(), config.intermediate_size);
    let spec = |role, layer| {
        let (rows, columns) = match role {
            Role::EmbedTokens | Role::LmHead => (config.vocab_size, Some(hidden)),
            Role::QProj => (q_width, Some(hidden)),
            Role::KProj | Role::VProj => (kv_width, Some(hidden)),
            Role::QNorm => (q_width, None),
            Role::KNorm => (kv_width, None),
            Role::OProj => (hidden, Some(q_width)),
            Role::GateProj | Role::UpProj => (mlp_width, Some(hidden)),
            Role::DownProj => (hidden, Some(mlp_width)),
            Role::PostAttentionLayernorm | Role::PostFeedforwardLayernorm | Role::Norm => (hidden, None),
        };
        TensorSpec { role, layer, rows, columns, is_draft: false }
    };
    let layers = (0..config.n_layers()).flat_map(|layer| Role::LAYER.map(|role| spec(role, Some(layer))));
    let head = (!config.tie_word_embeddings).then(|| spec(Role::LmHead, None));
    let all = std::iter::once(spec(Role::EmbedTokens, None)).chain(layers).chain([spec(Role::Norm, None)]).chain(head);
    all.filter(|spec| spec.columns.is_some() || config.architecture.has_norm_weights()).collect()
}
