//! Which tensors a model has: a pure function of the configuration.

use crate::format::config::{AttentionKind, LinearAttention, ModelConfig};
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
    InputLayernorm = 15,
    Router = 16,
    ExpertGateProj = 17,
    ExpertUpProj = 18,
    ExpertDownProj = 19,
    LinearQProj = 20,
    LinearKProj = 21,
    LinearVProj = 22,
    LinearConv1d = 23,
    LinearAProj = 24,
    LinearBProj = 25,
    LinearALog = 26,
    LinearDtBias = 27,
    LinearGProj = 28,
    LinearONorm = 29,
    LinearOProj = 30,
}

impl Role {
    /// All that a layer can have, in the order of the file, which is the order of use; those of experts come for each
    /// expert.
    pub const LAYER: [Role; 27] = [
        Role::InputLayernorm,
        Role::QProj,
        Role::KProj,
        Role::VProj,
        Role::QNorm,
        Role::KNorm,
        Role::OProj,
        Role::LinearQProj,
        Role::LinearKProj,
        Role::LinearVProj,
        Role::LinearConv1d,
        Role::LinearAProj,
        Role::LinearBProj,
        Role::LinearALog,
        Role::LinearDtBias,
        Role::LinearGProj,
        Role::LinearONorm,
        Role::LinearOProj,
        Role::PostAttentionLayernorm,
        Role::Router,
        Role::GateProj,
        Role::UpProj,
        Role::DownProj,
        Role::PostFeedforwardLayernorm,
        Role::ExpertGateProj,
        Role::ExpertUpProj,
        Role::ExpertDownProj,
    ];

    /// Those of an expert.
    pub const EXPERT: [Role; 3] = [Role::ExpertGateProj, Role::ExpertUpProj, Role::ExpertDownProj];

    /// Whether it belongs to an expert.
    pub fn is_of_expert(self) -> bool {
        Role::EXPERT.contains(&self)
    }

    /// Whether a matrix of this role is f32 in every file. Rounding the router's would send tokens to other experts, and
    /// those of a state's decay and rate have 30 rows.
    pub fn is_always_f32(self) -> bool {
        matches!(self, Role::Router | Role::LinearAProj | Role::LinearBProj)
    }

    /// Whether a layer of this kind has a tensor of this role, of those that are not of an expert.
    fn is_in(self, config: &ModelConfig, layer: usize) -> bool {
        let is_linear = config.layer_types[layer] == AttentionKind::Linear;
        let has_experts = config.experts.is_some();
        let (has_norms, is_pre_norm) = (config.architecture.has_norm_weights(), config.is_pre_norm(layer));
        match self {
            Role::QProj | Role::KProj | Role::VProj | Role::OProj => !is_linear,
            Role::QNorm | Role::KNorm => !is_linear && has_norms,
            Role::LinearQProj
            | Role::LinearKProj
            | Role::LinearVProj
            | Role::LinearConv1d
            | Role::LinearAProj
            | Role::LinearBProj
            | Role::LinearALog
            | Role::LinearDtBias
            | Role::LinearGProj
            | Role::LinearONorm
            | Role::LinearOProj => is_linear,
            Role::InputLayernorm => has_norms && is_pre_norm,
            Role::PostAttentionLayernorm => has_norms,
            Role::PostFeedforwardLayernorm => has_norms && !is_pre_norm,
            Role::Router => has_experts,
            Role::GateProj | Role::UpProj | Role::DownProj => !has_experts,
            Role::ExpertGateProj | Role::ExpertUpProj | Role::ExpertDownProj => false,
            Role::EmbedTokens | Role::Norm | Role::LmHead => false,
        }
    }

    /// The code in the file.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The name in a checkpoint, without the prefix of the layer or the expert.
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
            Role::InputLayernorm => "input_layernorm.weight",
            Role::Router => "mlp.gate.weight",
            Role::ExpertGateProj => "gate_proj.weight",
            Role::ExpertUpProj => "up_proj.weight",
            Role::ExpertDownProj => "down_proj.weight",
            Role::LinearQProj => "linear_attn.q_proj.weight",
            Role::LinearKProj => "linear_attn.k_proj.weight",
            Role::LinearVProj => "linear_attn.v_proj.weight",
            Role::LinearConv1d => "linear_attn.conv1d.weight",
            Role::LinearAProj => "linear_attn.a_proj.weight",
            Role::LinearBProj => "linear_attn.b_proj.weight",
            Role::LinearALog => "linear_attn.A_log",
            Role::LinearDtBias => "linear_attn.dt_bias",
            Role::LinearGProj => "linear_attn.g_proj.weight",
            Role::LinearONorm => "linear_attn.o_norm.weight",
            Role::LinearOProj => "linear_attn.o_proj.weight",
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
    /// Its expert, when it belongs to one.
    pub expert: Option<usize>,
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
        let suffix = self.role.suffix();
        match (self.layer, self.expert) {
            (Some(layer), Some(expert)) => format!("{prefix}model.layers.{layer}.mlp.experts.{expert}.{suffix}"),
            (Some(layer), None) => format!("{prefix}model.layers.{layer}.{suffix}"),
            (None, _) => format!("{prefix}{suffix}"),
        }
    }

    /// The draft of this matrix; `None` of a vector, of a draft and of a matrix that is f32 in every file.
    pub fn draft(&self) -> Option<TensorSpec> {
        let may = self.has_choice() && !self.is_draft;
        may.then_some(TensorSpec { is_draft: true, ..*self })
    }

    /// Whether it is a matrix that can have one encoding or another.
    pub fn has_choice(&self) -> bool {
        self.columns.is_some() && !self.role.is_always_f32()
    }

    /// `role` as the file stores it.
    pub fn role_code(&self) -> u32 {
        self.role.code() | if self.is_draft { DRAFT_ROLE } else { 0 }
    }

    /// `expert` as the file stores it.
    pub fn expert_code(&self) -> u32 {
        self.expert.map_or(0, |expert| expert as u32)
    }

    /// Row-major shape as in the checkpoint, in which only a convolution has another: `[channels, 1, kernel]`.
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

/// Every tensor of the model, in the order of the file: the embedding, the layers, the final norm, the head. In a layer
/// the experts come last, one after the other. Where norms have no weights there are only matrices.
pub fn tensors_of(config: &ModelConfig) -> Vec<TensorSpec> {
    let n_experts = config.experts.map_or(0, |experts| experts.n_experts);
    let of_layer = |layer: usize| {
        let roles = Role::LAYER.into_iter().filter(move |role| role.is_in(config, layer));
        let experts = (0..n_experts).flat_map(|expert| Role::EXPERT.map(|role| (role, Some(expert))));
        roles.map(|role| (role, None)).chain(experts).map(move |(role, expert)| spec(config, role, Some(layer), expert))
    };
    let outside = |role| spec(config, role, None, None);
    let norm = config.architecture.has_norm_weights().then(|| outside(Role::Norm));
    let head = (!config.tie_word_embeddings).then(|| outside(Role::LmHead));
    let layers = (0..config.n_layers()).flat_map(of_layer);
    std::iter::once(outside(Role::EmbedTokens)).chain(layers).chain(norm).chain(head).collect()
}

fn spec(config: &ModelConfig, role: Role, layer: Option<usize>, expert: Option<usize>) -> TensorSpec {
    let hidden = config.hidden_size;
    let (q_width, kv_width, mlp_width) = (config.q_width(), config.kv_width(), config.intermediate_size);
    let linear = |size: fn(&LinearAttention) -> usize| config.linear.as_ref().map_or(0, size);
    let (keys, values) = (linear(LinearAttention::key_width), linear(LinearAttention::value_width));
    let heads = linear(|linear| linear.n_value_heads);
    let (rows, columns) = match role {
        Role::EmbedTokens | Role::LmHead => (config.vocab_size, Some(hidden)),
        Role::QProj => (q_width, Some(hidden)),
        Role::KProj | Role::VProj => (kv_width, Some(hidden)),
        Role::QNorm => (q_width, None),
        Role::KNorm => (kv_width, None),
        Role::OProj => (hidden, Some(q_width)),
        Role::GateProj | Role::UpProj | Role::ExpertGateProj | Role::ExpertUpProj => (mlp_width, Some(hidden)),
        Role::DownProj | Role::ExpertDownProj => (hidden, Some(mlp_width)),
        Role::InputLayernorm | Role::PostAttentionLayernorm | Role::PostFeedforwardLayernorm | Role::Norm => {
            (hidden, None)
        }
        Role::Router => (config.experts.map_or(0, |experts| experts.n_experts), Some(hidden)),
        Role::LinearQProj | Role::LinearKProj => (keys, Some(hidden)),
        Role::LinearVProj | Role::LinearGProj => (values, Some(hidden)),
        Role::LinearAProj | Role::LinearBProj => (heads, Some(hidden)),
        Role::LinearConv1d => (linear(|linear| linear.n_channels().saturating_mul(linear.conv_kernel)), None),
        Role::LinearALog | Role::LinearDtBias => (heads, None),
        Role::LinearONorm => (linear(|linear| linear.value_head_dim), None),
        Role::LinearOProj => (hidden, Some(values)),
    };
    TensorSpec { role, layer, expert, rows, columns, is_draft: false }
}
