//! The model's configuration as stored in the header.

use crate::error::ConfigError;
use crate::format::config::{
    Architecture, AttentionKind, Experts, LinearAttention, MAX_EOS_TOKENS, MAX_LAYERS, ModelConfig, Yarn,
};
use std::mem::offset_of;
use zerocopy::little_endian::{F64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "None" of an optional token id; `layer` of a tensor that belongs to no layer.
pub const NONE: u32 = u32::MAX;

/// Rotation of all queries and keys.
const ROPE_DEFAULT: u32 = 0;
/// Rotation with YaRN on full-attention layers.
const ROPE_YARN: u32 = 1;
/// No rotation: both bases are 0.
const ROPE_NONE: u32 = 2;

/// The fixed block of configuration values in the header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConfigBlock {
    /// 1 OLMo-2, 2 Olmo-3, 3 OLMo-1, 4 OLMoE, 5 FlexOlmo, 6 Olmo-Hybrid.
    pub architecture: U32,
    /// Number of transformer layers.
    pub n_layers: U32,
    /// Width of the residual stream.
    pub hidden_size: U32,
    /// Query heads.
    pub n_heads: U32,
    /// Key/value heads.
    pub n_kv_heads: U32,
    /// Width of a head.
    pub head_dim: U32,
    /// Width of the MLP.
    pub intermediate_size: U32,
    /// Rows of the embedding.
    pub vocab_size: U32,
    /// Positions.
    pub max_position_embeddings: U32,
    /// Window of sliding layers, 0 without any.
    pub sliding_window: U32,
    /// 1 when the head uses the embedding.
    pub tie_word_embeddings: U32,
    /// 0 default, 1 YaRN on full-attention layers, 2 none.
    pub rope_type: U32,
    /// Epsilon of every norm.
    pub rms_norm_eps: F64,
    /// RoPE base of full-attention layers.
    pub rope_theta: F64,
    /// RoPE base of sliding layers.
    pub rope_theta_sliding: F64,
    /// YaRN: ratio of the context lengths. This and the next five are 0 without YaRN.
    pub yarn_factor: F64,
    /// YaRN: rotations above which a frequency is kept.
    pub yarn_beta_fast: F64,
    /// YaRN: rotations below which a frequency is divided.
    pub yarn_beta_slow: F64,
    /// YaRN: factor on cos and sin.
    pub yarn_attention_factor: F64,
    /// YaRN: original context length.
    pub yarn_original_max_position_embeddings: U32,
    /// YaRN: 1 when the ramp's bounds are rounded.
    pub yarn_truncate: U32,
    /// Id that begins a text, or [`NONE`].
    pub bos_token_id: U32,
    /// Id of padding, or [`NONE`].
    pub pad_token_id: U32,
    /// How many of `eos_token_ids` are used.
    pub n_eos_token_ids: U32,
    /// Zero.
    pub reserved: U32,
    /// EOS ids; unused entries are [`NONE`].
    pub eos_token_ids: [U32; MAX_EOS_TOKENS],
    /// Bit `l % 8` of byte `l / 8` is 1 when layer `l` has sliding-window attention.
    pub sliding_layers: [u8; MAX_LAYERS / 8],
    /// Largest magnitude of an element of queries, keys and values, 0 when they are not clipped.
    pub clip_qkv: F64,
    /// Experts of every layer; 0, like the next two, in a model without experts.
    pub n_experts: U32,
    /// Experts that a token takes.
    pub n_experts_per_tok: U32,
    /// 1 when the probabilities of the experts taken are divided by their sum.
    pub norm_topk_prob: U32,
    /// Query and key heads of linear-attention layers; 0, like the next five, in a model without such layers.
    pub linear_num_key_heads: U32,
    /// Value heads of linear-attention layers.
    pub linear_num_value_heads: U32,
    /// Width of their queries and keys.
    pub linear_key_head_dim: U32,
    /// Width of their values.
    pub linear_value_head_dim: U32,
    /// Positions of their convolution.
    pub linear_conv_kernel_dim: U32,
    /// 1 when `beta` goes up to 2.
    pub linear_allow_neg_eigval: U32,
    /// Zero.
    pub reserved_2: U32,
    /// Bit `l % 8` of byte `l / 8` is 1 when layer `l` has linear attention.
    pub linear_layers: [u8; MAX_LAYERS / 8],
}

impl ConfigBlock {
    /// The block for `config`, which must have passed [`ModelConfig::validate`].
    pub fn new(config: &ModelConfig) -> ConfigBlock {
        // validate() keeps every count below 2^24.
        let count = |n: usize| U32::new(u32::try_from(n).expect("validated counts fit u32"));
        let mut block = ConfigBlock {
            architecture: U32::new(match config.architecture {
                Architecture::Olmo2 => 1,
                Architecture::Olmo3 => 2,
                Architecture::Olmo1 => 3,
                Architecture::Olmoe => 4,
                Architecture::FlexOlmo => 5,
                Architecture::OlmoHybrid => 6,
            }),
            n_layers: count(config.n_layers()),
            hidden_size: count(config.hidden_size),
            n_heads: count(config.n_heads),
            n_kv_heads: count(config.n_kv_heads),
            head_dim: count(config.head_dim),
            intermediate_size: count(config.intermediate_size),
            vocab_size: count(config.vocab_size),
            max_position_embeddings: count(config.max_position_embeddings),
            sliding_window: count(config.sliding_window),
            tie_word_embeddings: U32::new(u32::from(config.tie_word_embeddings)),
            rope_type: U32::new(match config.yarn {
                Some(_) => ROPE_YARN,
                None if config.has_rope() => ROPE_DEFAULT,
                None => ROPE_NONE,
            }),
            rms_norm_eps: F64::new(config.rms_norm_eps),
            rope_theta: F64::new(config.rope_theta),
            rope_theta_sliding: F64::new(config.rope_theta_sliding),
            yarn_factor: F64::new(0.0),
            yarn_beta_fast: F64::new(0.0),
            yarn_beta_slow: F64::new(0.0),
            yarn_attention_factor: F64::new(0.0),
            yarn_original_max_position_embeddings: U32::new(0),
            yarn_truncate: U32::new(0),
            bos_token_id: U32::new(config.bos_token_id.unwrap_or(NONE)),
            pad_token_id: U32::new(config.pad_token_id.unwrap_or(NONE)),
            n_eos_token_ids: count(config.eos_token_ids.len()),
            reserved: U32::new(0),
            eos_token_ids: [U32::new(NONE); MAX_EOS_TOKENS],
            sliding_layers: [0; MAX_LAYERS / 8],
            clip_qkv: F64::new(config.clip_qkv.unwrap_or(0.0)),
            n_experts: U32::new(0),
            n_experts_per_tok: U32::new(0),
            norm_topk_prob: U32::new(0),
            linear_num_key_heads: U32::new(0),
            linear_num_value_heads: U32::new(0),
            linear_key_head_dim: U32::new(0),
            linear_value_head_dim: U32::new(0),
            linear_conv_kernel_dim: U32::new(0),
            linear_allow_neg_eigval: U32::new(0),
            reserved_2: U32::new(0),
            linear_layers: [0; MAX_LAYERS / 8],
        };
        if let Some(experts) = config.experts {
            block.n_experts = count(experts.n_experts);
            block.n_experts_per_tok = count(experts.n_per_token);
            block.norm_topk_prob = U32::new(u32::from(experts.norm_topk_prob));
        }
        if let Some(linear) = config.linear {
            block.linear_num_key_heads = count(linear.n_key_heads);
            block.linear_num_value_heads = count(linear.n_value_heads);
            block.linear_key_head_dim = count(linear.key_head_dim);
            block.linear_value_head_dim = count(linear.value_head_dim);
            block.linear_conv_kernel_dim = count(linear.conv_kernel);
            block.linear_allow_neg_eigval = U32::new(u32::from(linear.allow_neg_eigval));
        }
        if let Some(yarn) = &config.yarn {
            block.yarn_factor = F64::new(yarn.factor);
            block.yarn_beta_fast = F64::new(yarn.beta_fast);
            block.yarn_beta_slow = F64::new(yarn.beta_slow);
            block.yarn_attention_factor = F64::new(yarn.attention_factor);
            block.yarn_original_max_position_embeddings = count(yarn.original_max_position_embeddings);
            block.yarn_truncate = U32::new(u32::from(yarn.truncate));
        }
        for (slot, &id) in block.eos_token_ids.iter_mut().zip(&config.eos_token_ids) {
            *slot = U32::new(id);
        }
        for (layer, kind) in config.layer_types.iter().enumerate() {
            let bit = 1 << (layer % 8);
            match kind {
                AttentionKind::Full => {}
                AttentionKind::Sliding => block.sliding_layers[layer / 8] |= bit,
                AttentionKind::Linear => block.linear_layers[layer / 8] |= bit,
            }
        }
        block
    }

    /// The configuration in this block. [`ModelConfig::validate`] checks whether the values make a possible model.
    ///
    /// # Errors
    /// The first field with a code, a flag or a value without a use that the format does not allow.
    pub fn to_config(&self) -> Result<ModelConfig, ConfigError> {
        let wrong = |key, found: u32, expected: String| ConfigError { key, found: found.to_string(), expected };
        let flag = |key, value: U32| match value.get() {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(wrong(key, other, "0 or 1".into())),
        };
        let id = |value: U32| Some(value.get()).filter(|&id| id != NONE);
        let n_layers = self.n_layers.get() as usize;
        if n_layers > MAX_LAYERS {
            return Err(wrong("num_hidden_layers", self.n_layers.get(), format!("1 to {MAX_LAYERS}")));
        }
        let n_eos = self.n_eos_token_ids.get() as usize;
        if n_eos > MAX_EOS_TOKENS {
            return Err(wrong("n_eos_token_ids", self.n_eos_token_ids.get(), format!("at most {MAX_EOS_TOKENS}")));
        }
        let has_bit = |layers: &[u8], layer: usize| layers[layer / 8] >> (layer % 8) & 1 == 1;
        let kind = |layer: usize| match (has_bit(&self.sliding_layers, layer), has_bit(&self.linear_layers, layer)) {
            (_, true) => AttentionKind::Linear,
            (true, false) => AttentionKind::Sliding,
            (false, false) => AttentionKind::Full,
        };
        let has_experts = self.n_experts.get() != 0;
        let has_linear = self.linear_layers != [0; _];
        let config = ModelConfig {
            architecture: match self.architecture.get() {
                1 => Architecture::Olmo2,
                2 => Architecture::Olmo3,
                3 => Architecture::Olmo1,
                4 => Architecture::Olmoe,
                5 => Architecture::FlexOlmo,
                6 => Architecture::OlmoHybrid,
                other => {
                    return Err(wrong(
                        "architecture",
                        other,
                        "1 (olmo2), 2 (olmo3), 3 (olmo), 4 (olmoe), 5 (flex_olmo) or 6 (olmo_hybrid)".into(),
                    ));
                }
            },
            hidden_size: self.hidden_size.get() as usize,
            n_heads: self.n_heads.get() as usize,
            n_kv_heads: self.n_kv_heads.get() as usize,
            head_dim: self.head_dim.get() as usize,
            intermediate_size: self.intermediate_size.get() as usize,
            vocab_size: self.vocab_size.get() as usize,
            max_position_embeddings: self.max_position_embeddings.get() as usize,
            rms_norm_eps: self.rms_norm_eps.get(),
            // Only +0 means no clipping; validate() refuses -0.
            clip_qkv: Some(self.clip_qkv.get()).filter(|clip| clip.to_bits() != 0),
            rope_theta: self.rope_theta.get(),
            rope_theta_sliding: self.rope_theta_sliding.get(),
            yarn: match self.rope_type.get() {
                ROPE_DEFAULT | ROPE_NONE => None,
                ROPE_YARN => Some(Yarn {
                    factor: self.yarn_factor.get(),
                    original_max_position_embeddings: self.yarn_original_max_position_embeddings.get() as usize,
                    beta_fast: self.yarn_beta_fast.get(),
                    beta_slow: self.yarn_beta_slow.get(),
                    attention_factor: self.yarn_attention_factor.get(),
                    truncate: flag("yarn_truncate", self.yarn_truncate)?,
                }),
                other => return Err(wrong("rope_type", other, "0 to 2".into())),
            },
            sliding_window: self.sliding_window.get() as usize,
            layer_types: (0..n_layers).map(kind).collect(),
            experts: match has_experts {
                false => None,
                true => Some(Experts {
                    n_experts: self.n_experts.get() as usize,
                    n_per_token: self.n_experts_per_tok.get() as usize,
                    norm_topk_prob: flag("norm_topk_prob", self.norm_topk_prob)?,
                }),
            },
            linear: match has_linear {
                false => None,
                true => Some(LinearAttention {
                    n_key_heads: self.linear_num_key_heads.get() as usize,
                    n_value_heads: self.linear_num_value_heads.get() as usize,
                    key_head_dim: self.linear_key_head_dim.get() as usize,
                    value_head_dim: self.linear_value_head_dim.get() as usize,
                    conv_kernel: self.linear_conv_kernel_dim.get() as usize,
                    allow_neg_eigval: flag("linear_allow_neg_eigval", self.linear_allow_neg_eigval)?,
                }),
            },
            tie_word_embeddings: flag("tie_word_embeddings", self.tie_word_embeddings)?,
            eos_token_ids: self.eos_token_ids[..n_eos].iter().map(|id| id.get()).collect(),
            bos_token_id: id(self.bos_token_id),
            pad_token_id: id(self.pad_token_id),
        };
        self.check_unused(&config)?;
        Ok(config)
    }

    /// There is one way to write a configuration: everything without a use must be as [`ConfigBlock::new`] leaves it.
    fn check_unused(&self, config: &ModelConfig) -> Result<(), ConfigError> {
        // The counts were u32 in the block, so they fit again.
        let canonical = ConfigBlock::new(config);
        let differs = self.as_bytes().iter().zip(canonical.as_bytes()).position(|(found, expected)| found != expected);
        let Some(at) = differs else { return Ok(()) };
        // The last field that begins at or before the byte.
        let field = FIELDS_WITHOUT_USE.iter().rev().find(|field| field.0 <= at);
        let key = field.map_or("configuration", |field| field.1);
        Err(ConfigError { key, found: "set".into(), expected: "nothing where it has no use".into() })
    }
}

/// The fields of [`ConfigBlock`] that can be without a use, by their offsets.
const FIELDS_WITHOUT_USE: [(usize, &str); 20] = [
    (offset_of!(ConfigBlock, rope_type), "rope_type"),
    (offset_of!(ConfigBlock, yarn_factor), "yarn_factor"),
    (offset_of!(ConfigBlock, yarn_beta_fast), "yarn_beta_fast"),
    (offset_of!(ConfigBlock, yarn_beta_slow), "yarn_beta_slow"),
    (offset_of!(ConfigBlock, yarn_attention_factor), "yarn_attention_factor"),
    (offset_of!(ConfigBlock, yarn_original_max_position_embeddings), "yarn_original_max_position_embeddings"),
    (offset_of!(ConfigBlock, yarn_truncate), "yarn_truncate"),
    (offset_of!(ConfigBlock, reserved), "reserved"),
    (offset_of!(ConfigBlock, eos_token_ids), "eos_token_ids"),
    (offset_of!(ConfigBlock, sliding_layers), "sliding_layers"),
    (offset_of!(ConfigBlock, n_experts_per_tok), "num_experts_per_tok"),
    (offset_of!(ConfigBlock, norm_topk_prob), "norm_topk_prob"),
    (offset_of!(ConfigBlock, linear_num_key_heads), "linear_num_key_heads"),
    (offset_of!(ConfigBlock, linear_num_value_heads), "linear_num_value_heads"),
    (offset_of!(ConfigBlock, linear_key_head_dim), "linear_key_head_dim"),
    (offset_of!(ConfigBlock, linear_value_head_dim), "linear_value_head_dim"),
    (offset_of!(ConfigBlock, linear_conv_kernel_dim), "linear_conv_kernel_dim"),
    (offset_of!(ConfigBlock, linear_allow_neg_eigval), "linear_allow_neg_eigval"),
    (offset_of!(ConfigBlock, reserved_2), "reserved"),
    (offset_of!(ConfigBlock, linear_layers), "linear_layers"),
];
