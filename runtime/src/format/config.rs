//! The shape of a model and every other value that the forward pass needs in addition to the weights.
//!
//! Names are those of `config.json` as transformers writes it. [`ModelConfig::validate`] is the one definition
//! of a possible model; the converter runs it before it plans a file and the reader before it believes one.

use crate::error::{ConfigError, Error};
use crate::format::sizes::{TooLarge, product, sum};
use crate::os::memory;
use std::fmt;

/// Largest `hidden_size`, `n_heads * head_dim` and `intermediate_size` the format admits.
pub const MAX_WIDTH: usize = 1 << 20;
/// Largest number of transformer layers.
pub const MAX_LAYERS: usize = 1024;
/// Largest head dimension.
pub const MAX_HEAD_DIM: usize = 1024;
/// Largest number of vocabulary rows.
pub const MAX_VOCAB_SIZE: usize = 1 << 24;
/// Largest number of positions.
pub const MAX_POSITIONS: usize = 1 << 24;
/// Most end-of-text ids that a file can name.
pub const MAX_EOS_TOKENS: usize = 16;
/// Most experts of a layer.
pub const MAX_EXPERTS: usize = 512;
/// Most tensors of a model, drafts not counted.
pub const MAX_TENSORS: usize = 1 << 16;
/// Largest number of heads of a linear-attention layer, and largest dimension of one.
pub const MAX_LINEAR_HEADS: usize = 1 << 12;
/// Largest kernel of the convolution of a linear-attention layer, in positions.
pub const MAX_CONV_KERNEL: usize = 16;
/// Epsilon of every LayerNorm of OLMo-1: `modeling_olmo.py` knows no other, and no `config.json` has it.
pub const LAYER_NORM_EPS: f64 = 1e-5;

/// Which reference implementation the forward pass follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `modeling_olmo.py` of transformers: pre-norm blocks, LayerNorm without weights, in some models clipped queries,
    /// keys and values, full attention everywhere.
    Olmo1,
    /// `modeling_olmo2.py` of transformers: post-norm blocks, full attention everywhere.
    Olmo2,
    /// `modeling_olmo3.py` of transformers: the same block, sliding-window layers, YaRN on full-attention layers only.
    Olmo3,
    /// `modeling_olmoe.py` of transformers: pre-norm blocks, experts in place of the MLP, in some models clipped queries,
    /// keys and values.
    Olmoe,
    /// `modeling_flex_olmo.py` of transformers: the block of OLMo-2 with the router and the experts of OLMoE.
    FlexOlmo,
    /// `modeling_olmo_hybrid.py` of transformers: linear-attention layers, which are pre-norm, among layers of OLMo-2.
    OlmoHybrid,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 6] = [
        Architecture::Olmo1,
        Architecture::Olmo2,
        Architecture::Olmo3,
        Architecture::Olmoe,
        Architecture::FlexOlmo,
        Architecture::OlmoHybrid,
    ];

    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "olmo",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
            Architecture::Olmoe => "olmoe",
            Architecture::FlexOlmo => "flex_olmo",
            Architecture::OlmoHybrid => "olmo_hybrid",
        }
    }

    /// Whether norms multiply with weights. Where they do not, a model has no vectors at all.
    pub fn has_norm_weights(self) -> bool {
        self != Architecture::Olmo1
    }

    /// Whether a layer has experts in place of an MLP.
    pub fn has_experts(self) -> bool {
        matches!(self, Architecture::Olmoe | Architecture::FlexOlmo)
    }

    /// Whether queries, keys and values can be clipped.
    pub fn can_clip(self) -> bool {
        matches!(self, Architecture::Olmo1 | Architecture::Olmoe)
    }
}

/// What the queries of a layer may see, or what a layer has in place of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Every earlier position.
    Full,
    /// The last `sliding_window` positions, the current one included.
    Sliding,
    /// No keys: the layer keeps a state of one size, see [`LinearAttention`].
    Linear,
}

/// The experts of a layer: MLPs of which a router takes some for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Number of experts.
    pub n_experts: usize,
    /// Experts that a token takes: the likeliest.
    pub n_per_token: usize,
    /// Whether the probabilities of the experts taken are divided by their sum.
    pub norm_topk_prob: bool,
}

/// The sizes of linear-attention layers: the gated delta rule (Yang et al. 2024, arXiv 2412.06464) after a causal
/// convolution of each channel of its queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearAttention {
    /// Number of query heads, and of key heads.
    pub n_key_heads: usize,
    /// Number of value heads, a multiple of the key heads; each has a state.
    pub n_value_heads: usize,
    /// Width of a query or key.
    pub key_head_dim: usize,
    /// Width of a value.
    pub value_head_dim: usize,
    /// Positions of the convolution, the current one included.
    pub conv_kernel: usize,
    /// Whether a state can be changed by up to twice the difference to a value.
    pub allow_neg_eigval: bool,
}

impl LinearAttention {
    /// Rows of `q_proj` and `k_proj`.
    pub fn key_width(&self) -> usize {
        self.n_key_heads.saturating_mul(self.key_head_dim)
    }

    /// Rows of `v_proj` and `g_proj`, columns of `o_proj`.
    pub fn value_width(&self) -> usize {
        self.n_value_heads.saturating_mul(self.value_head_dim)
    }

    /// Channels of the convolution: those of queries, keys and values.
    pub fn n_channels(&self) -> usize {
        self.key_width().saturating_mul(2).saturating_add(self.value_width())
    }
}

/// YaRN scaling of the rotary embedding (Peng et al. 2023, arXiv 2309.00071), as `modeling_rope_utils.py` computes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Ratio of the new to the original context length.
    pub factor: f64,
    /// Context length of pre-training, in positions.
    pub original_max_position_embeddings: usize,
    /// Rotations above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Factor on cos and sin, of queries and keys alike.
    pub attention_factor: f64,
    /// Whether the bounds of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

/// A model's sizes and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Family of the forward pass.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the MLP, or of one expert.
    pub intermediate_size: usize,
    /// Rows of the embedding and of the head, padded rows included.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm; [`LAYER_NORM_EPS`] in OLMo-1.
    pub rms_norm_eps: f64,
    /// OLMo-1 and OLMoE: largest magnitude of an element of queries, keys and values; larger ones become it. None are
    /// clipped without it.
    pub clip_qkv: Option<f64>,
    /// RoPE base of full-attention layers; 0 where they do not rotate queries and keys, as in the released Olmo-Hybrid.
    pub rope_theta: f64,
    /// RoPE base of sliding-window layers (the same value in every released model).
    pub rope_theta_sliding: f64,
    /// RoPE scaling of full-attention layers.
    pub yarn: Option<Yarn>,
    /// Window of the sliding layers, the current position included; 0 when there are none.
    pub sliding_window: usize,
    /// One entry a layer.
    pub layer_types: Vec<AttentionKind>,
    /// Experts of every layer, in the architectures that have them.
    pub experts: Option<Experts>,
    /// Sizes of the linear-attention layers, in the architecture that has them.
    pub linear: Option<LinearAttention>,
    /// Whether the head uses the embedding matrix.
    pub tie_word_embeddings: bool,
    /// EOS ids.
    pub eos_token_ids: Vec<u32>,
    /// Id that begins a text, when the model has one.
    pub bos_token_id: Option<u32>,
    /// Id of padding, when the model has one.
    pub pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// A copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn try_clone(&self) -> Result<ModelConfig, Error> {
        const WHAT: &str = "the configuration";
        Ok(ModelConfig {
            layer_types: memory::collected(self.layer_types.iter().copied(), WHAT)?,
            eos_token_ids: memory::collected(self.eos_token_ids.iter().copied(), WHAT)?,
            yarn: self.yarn.clone(),
            ..*self
        })
    }

    /// Number of transformer layers.
    pub fn n_layers(&self) -> usize {
        self.layer_types.len()
    }

    /// Number of layers with a sliding window.
    pub fn n_sliding_layers(&self) -> usize {
        self.layer_types.iter().filter(|&&kind| kind == AttentionKind::Sliding).count()
    }

    /// Whether the blocks of a layer read the norm of the residual stream, instead of adding the norm of what they
    /// compute.
    pub fn is_pre_norm(&self, layer: usize) -> bool {
        match self.architecture {
            Architecture::Olmo1 | Architecture::Olmoe => true,
            Architecture::Olmo2 | Architecture::Olmo3 | Architecture::FlexOlmo => false,
            Architecture::OlmoHybrid => self.layer_types[layer] == AttentionKind::Linear,
        }
    }

    /// Whether queries and keys are rotated.
    pub fn has_rope(&self) -> bool {
        // Only +0 means that there is no rotation.
        self.rope_theta.to_bits() != 0
    }

    /// Number of layers with linear attention.
    pub fn n_linear_layers(&self) -> usize {
        self.layer_types.iter().filter(|&&kind| kind == AttentionKind::Linear).count()
    }

    /// Rows of `q_proj`, columns of `o_proj`.
    pub fn q_width(&self) -> usize {
        self.n_heads.saturating_mul(self.head_dim)
    }

    /// Rows of `k_proj` and `v_proj`.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads.saturating_mul(self.head_dim)
    }

    /// Query heads that share one key/value head.
    ///
    /// # Panics
    /// Without key/value heads.
    #[expect(clippy::arithmetic_side_effects, reason = "division panics as documented, and cannot overflow")]
    pub fn heads_per_kv(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Number of weights of all tensors, tied ones once; `u64::MAX` when that overflows.
    pub fn n_parameters(&self) -> u64 {
        self.count_parameters(self.experts.map_or(0, |experts| experts.n_experts)).unwrap_or(u64::MAX)
    }

    /// Number of weights that a token is multiplied with or takes, of the embedding all; `u64::MAX` when that overflows.
    pub fn n_active_parameters(&self) -> u64 {
        self.count_parameters(self.experts.map_or(0, |experts| experts.n_per_token)).unwrap_or(u64::MAX)
    }

    /// Number of weights with this number of experts in a layer.
    fn count_parameters(&self, n_experts: usize) -> Result<u64, TooLarge> {
        let sizes = [self.hidden_size, self.intermediate_size, self.q_width(), self.kv_width(), self.vocab_size];
        let [h, f, q, kv, v] = sizes.map(|size| size as u64);
        let mlp = match self.experts {
            None => product([3, h, f])?,
            Some(experts) => sum([product([experts.n_experts as u64, h])?, product([3, n_experts as u64, h, f])?])?,
        };
        let has_norms = self.architecture.has_norm_weights();
        let norms = if has_norms { sum([q, kv, h, h])? } else { 0 };
        let full = sum([product([2, h, q])?, product([2, h, kv])?, mlp, norms])?;
        let linear = match self.linear {
            None => 0,
            Some(linear) => {
                let sizes = [linear.key_width(), linear.value_width(), linear.n_value_heads, linear.n_channels()];
                let [keys, values, heads, channels] = sizes.map(|size| size as u64);
                let matrices = sum([product([2, keys, h])?, product([3, values, h])?, product([2, heads, h])?])?;
                let convolution = product([channels, linear.conv_kernel as u64])?;
                let vectors = sum([convolution, heads, heads, linear.value_head_dim as u64, h, h])?;
                sum([matrices, vectors, mlp])?
            }
        };
        let n_linear = self.n_linear_layers() as u64;
        let n_others = (self.n_layers() as u64).saturating_sub(n_linear);
        let embeddings = product([if self.tie_word_embeddings { 1 } else { 2 }, v, h])?;
        let last_norm = if has_norms { h } else { 0 };
        sum([product([n_others, full])?, product([n_linear, linear])?, last_norm, embeddings])
    }

    /// Number of tensors of the model.
    ///
    /// # Errors
    /// [`TooLarge`].
    fn n_tensors(&self) -> Result<u64, TooLarge> {
        // The most that a layer has without experts: a linear one 16, as 18 in a checkpoint.
        let of_layer = sum([18, product([3, self.experts.map_or(0, |experts| experts.n_experts)])?])?;
        sum([product([self.n_layers() as u64, of_layer])?, 3])
    }

    /// Checks every value against what a model can be.
    ///
    /// # Errors
    /// The first value that is impossible, with its key, what was found and what is possible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let count = |key, found: usize, max: usize| {
            if (1..=max).contains(&found) {
                return Ok(());
            }
            Err(ConfigError { key, found: found.to_string(), expected: format!("1 to {max}") })
        };
        count("hidden_size", self.hidden_size, MAX_WIDTH)?;
        count("num_hidden_layers", self.layer_types.len(), MAX_LAYERS)?;
        count("num_attention_heads", self.n_heads, MAX_WIDTH)?;
        count("num_key_value_heads", self.n_kv_heads, self.n_heads)?;
        count("head_dim", self.head_dim, MAX_HEAD_DIM)?;
        count("intermediate_size", self.intermediate_size, MAX_WIDTH)?;
        count("vocab_size", self.vocab_size, MAX_VOCAB_SIZE)?;
        count("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS)?;
        let bad = |key, found: &dyn fmt::Display, expected: String| {
            Err(ConfigError { key, found: found.to_string(), expected })
        };
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", &self.head_dim, "an even number".into());
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return bad("num_key_value_heads", &self.n_kv_heads, format!("a divisor of {} heads", self.n_heads));
        }
        if !product([self.n_heads, self.head_dim]).is_ok_and(|width| width <= MAX_WIDTH as u64) {
            return bad("head_dim", &self.head_dim, format!("heads * head_dim of at most {MAX_WIDTH}"));
        }
        let real = |key, found: f64, min: f64, max: f64| {
            if (min..=max).contains(&found) {
                return Ok(());
            }
            // Debug writes the smallest and the largest numbers with an exponent, Display with 300 digits.
            Err(ConfigError { key, found: format!("{found:?}"), expected: format!("a number from {min:e} to {max:e}") })
        };
        let name = self.architecture.name();
        real("rms_norm_eps", self.rms_norm_eps, 1e-12, 1.0)?;
        if self.architecture == Architecture::Olmo1 && self.rms_norm_eps != LAYER_NORM_EPS {
            let expected = format!("{LAYER_NORM_EPS:e} as in every {name} model");
            return bad("rms_norm_eps", &format_args!("{:?}", self.rms_norm_eps), expected);
        }
        if let Some(clip) = self.clip_qkv {
            if !self.architecture.can_clip() {
                return bad("clip_qkv", &format_args!("{clip:?}"), format!("none for {name}"));
            }
            real("clip_qkv", clip, 1e-3, 1e6)?;
        }
        if self.has_rope() || self.rope_theta_sliding.to_bits() != 0 || self.architecture != Architecture::OlmoHybrid {
            real("rope_theta", self.rope_theta, 1.0, 1e12)?;
            real("rope_theta", self.rope_theta_sliding, 1.0, 1e12)?;
        }
        if let Some(yarn) = &self.yarn {
            real("rope_scaling.factor", yarn.factor, 1.0, 1e6)?;
            real("rope_scaling.beta_fast", yarn.beta_fast, 1e-3, 1e6)?;
            real("rope_scaling.beta_slow", yarn.beta_slow, 1e-3, 1e6)?;
            real("rope_scaling.attention_factor", yarn.attention_factor, 1e-3, 1e3)?;
            count(
                "rope_scaling.original_max_position_embeddings",
                yarn.original_max_position_embeddings,
                MAX_POSITIONS,
            )?;
            if self.rope_theta <= 1.0 {
                return bad("rope_theta", &self.rope_theta, "more than 1 with YaRN".into());
            }
            if self.architecture != Architecture::Olmo3 {
                return bad("rope_scaling", &"yarn", format!("none for {name}"));
            }
        }
        let slides = self.layer_types.contains(&AttentionKind::Sliding);
        if slides && self.architecture != Architecture::Olmo3 {
            return bad("layer_types", &"sliding_attention", format!("full_attention everywhere for {name}"));
        }
        if slides {
            count("sliding_window", self.sliding_window, MAX_POSITIONS)?;
        } else if self.sliding_window != 0 {
            return bad("sliding_window", &self.sliding_window, "0 when no layer slides".into());
        }
        self.validate_experts()?;
        self.validate_linear()?;
        if !self.n_tensors().is_ok_and(|n| n <= MAX_TENSORS as u64) {
            let found = format_args!("{} in {} layers", self.experts.map_or(0, |e| e.n_experts), self.n_layers());
            return bad("num_experts", &found, format!("at most {MAX_TENSORS} tensors in all"));
        }
        if self.eos_token_ids.len() > MAX_EOS_TOKENS {
            let found = format_args!("{} ids", self.eos_token_ids.len());
            return bad("eos_token_id", &found, format!("at most {MAX_EOS_TOKENS} ids"));
        }
        // The file's entry without an id.
        if self.eos_token_ids.contains(&u32::MAX) {
            return bad("eos_token_id", &u32::MAX, "the id of a token".into());
        }
        Ok(())
    }

    fn validate_experts(&self) -> Result<(), ConfigError> {
        let bad = |key, found: usize, expected: String| Err(ConfigError { key, found: found.to_string(), expected });
        let name = self.architecture.name();
        match self.experts {
            None if self.architecture.has_experts() => bad("num_experts", 0, format!("1 to {MAX_EXPERTS}")),
            None => Ok(()),
            Some(experts) if !self.architecture.has_experts() => {
                bad("num_experts", experts.n_experts, format!("none for {name}"))
            }
            Some(Experts { n_experts, .. }) if !(1..=MAX_EXPERTS).contains(&n_experts) => {
                bad("num_experts", n_experts, format!("1 to {MAX_EXPERTS}"))
            }
            Some(Experts { n_experts, n_per_token, .. }) if !(1..=n_experts).contains(&n_per_token) => {
                bad("num_experts_per_tok", n_per_token, format!("1 to {n_experts}, the number of experts"))
            }
            Some(_) => Ok(()),
        }
    }

    fn validate_linear(&self) -> Result<(), ConfigError> {
        let name = self.architecture.name();
        let has_linear = self.layer_types.contains(&AttentionKind::Linear);
        if has_linear && self.architecture != Architecture::OlmoHybrid {
            let expected = format!("full_attention everywhere for {name}");
            return Err(ConfigError { key: "layer_types", found: "linear_attention".into(), expected });
        }
        let Some(linear) = self.linear else {
            if !has_linear {
                return Ok(());
            }
            let expected = format!("1 to {MAX_LINEAR_HEADS}");
            return Err(ConfigError { key: "linear_num_key_heads", found: "0".into(), expected });
        };
        if !has_linear {
            let (found, expected) = (linear.n_key_heads.to_string(), "none without linear_attention layers".into());
            return Err(ConfigError { key: "linear_num_key_heads", found, expected });
        }
        for (key, found, most) in [
            ("linear_num_key_heads", linear.n_key_heads, MAX_LINEAR_HEADS),
            ("linear_num_value_heads", linear.n_value_heads, MAX_LINEAR_HEADS),
            ("linear_key_head_dim", linear.key_head_dim, MAX_HEAD_DIM),
            ("linear_value_head_dim", linear.value_head_dim, MAX_HEAD_DIM),
            ("linear_conv_kernel_dim", linear.conv_kernel, MAX_CONV_KERNEL),
        ] {
            if !(1..=most).contains(&found) {
                return Err(ConfigError { key, found: found.to_string(), expected: format!("1 to {most}") });
            }
        }
        if !linear.n_value_heads.is_multiple_of(linear.n_key_heads) {
            let (found, expected) =
                (linear.n_value_heads.to_string(), format!("a multiple of {} key heads", linear.n_key_heads));
            return Err(ConfigError { key: "linear_num_value_heads", found, expected });
        }
        if linear.n_channels() > MAX_WIDTH {
            let expected = format!("queries, keys and values of at most {MAX_WIDTH} in all");
            return Err(ConfigError {
                key: "linear_value_head_dim",
                found: linear.value_head_dim.to_string(),
                expected,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Olmo-3 with a window and YaRN: every value of a configuration but `clip_qkv` means something in it.
    fn olmo3() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Olmo3,
            hidden_size: 24,
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 4,
            intermediate_size: 7,
            vocab_size: 11,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-6,
            clip_qkv: None,
            rope_theta: 5e5,
            rope_theta_sliding: 1e4,
            yarn: Some(yarn()),
            sliding_window: 5,
            layer_types: vec![AttentionKind::Sliding, AttentionKind::Full],
            experts: None,
            linear: None,
            tie_word_embeddings: false,
            eos_token_ids: vec![1],
            bos_token_id: None,
            pad_token_id: Some(0),
        }
    }

    fn yarn() -> Yarn {
        Yarn {
            factor: 8.0,
            original_max_position_embeddings: 8,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.2,
            truncate: true,
        }
    }

    fn olmo2() -> ModelConfig {
        let layer_types = vec![AttentionKind::Full; 2];
        ModelConfig { architecture: Architecture::Olmo2, yarn: None, sliding_window: 0, layer_types, ..olmo3() }
    }

    fn olmo1() -> ModelConfig {
        ModelConfig { architecture: Architecture::Olmo1, rms_norm_eps: LAYER_NORM_EPS, clip_qkv: Some(8.0), ..olmo2() }
    }

    /// Asserts that each of these is refused in these words.
    #[track_caller]
    fn assert_refused<const N: usize>(cases: [(ModelConfig, &str); N]) {
        for (config, says) in cases {
            let error = config.validate().expect_err(says);
            assert_eq!(error.to_string(), says);
        }
    }

    #[test]
    fn every_size_has_a_smallest_and_a_largest() {
        type Size = fn(&mut ModelConfig) -> &mut usize;
        let limits: [(&str, usize, Size); 7] = [
            ("hidden_size", MAX_WIDTH, |config| &mut config.hidden_size),
            ("num_attention_heads", MAX_WIDTH, |config| &mut config.n_heads),
            ("head_dim", MAX_HEAD_DIM, |config| &mut config.head_dim),
            ("intermediate_size", MAX_WIDTH, |config| &mut config.intermediate_size),
            ("vocab_size", MAX_VOCAB_SIZE, |config| &mut config.vocab_size),
            ("max_position_embeddings", MAX_POSITIONS, |config| &mut config.max_position_embeddings),
            ("sliding_window", MAX_POSITIONS, |config| &mut config.sliding_window),
        ];
        for (key, most, size) in limits {
            for found in [0, most + 1, usize::MAX] {
                let mut config = olmo3();
                *size(&mut config) = found;
                let error = config.validate().expect_err(key);
                assert_eq!(error, ConfigError { key, found: found.to_string(), expected: format!("1 to {most}") });
            }
            // Heads have a limit together with head_dim, too.
            let expected = (key == "num_attention_heads").then(|| "heads * head_dim of at most 1048576".to_string());
            let mut config = ModelConfig { n_kv_heads: 1, ..olmo3() };
            *size(&mut config) = most;
            assert_eq!(config.validate().err().map(|error| error.expected), expected, "{key}");
        }
    }

    #[test]
    fn what_no_model_can_be_is_refused_by_key() {
        let layers = |n| vec![AttentionKind::Full; n];
        assert_refused([
            (ModelConfig { layer_types: layers(0), ..olmo2() }, "num_hidden_layers is 0, expected 1 to 1024"),
            (ModelConfig { layer_types: layers(1025), ..olmo2() }, "num_hidden_layers is 1025, expected 1 to 1024"),
            (ModelConfig { n_kv_heads: 0, ..olmo2() }, "num_key_value_heads is 0, expected 1 to 6"),
            (ModelConfig { n_kv_heads: 7, ..olmo2() }, "num_key_value_heads is 7, expected 1 to 6"),
            (ModelConfig { n_kv_heads: 4, ..olmo2() }, "num_key_value_heads is 4, expected a divisor of 6 heads"),
            (ModelConfig { head_dim: 3, ..olmo2() }, "head_dim is 3, expected an even number"),
            (
                ModelConfig { n_heads: 1026, head_dim: 1024, ..olmo2() },
                "head_dim is 1024, expected heads * head_dim of at most 1048576",
            ),
            (ModelConfig { rms_norm_eps: 0.0, ..olmo2() }, "rms_norm_eps is 0.0, expected a number from 1e-12 to 1e0"),
            (
                ModelConfig { rms_norm_eps: 1e300, ..olmo2() },
                "rms_norm_eps is 1e300, expected a number from 1e-12 to 1e0",
            ),
            (ModelConfig { rope_theta: f64::NAN, ..olmo2() }, "rope_theta is NaN, expected a number from 1e0 to 1e12"),
            (
                ModelConfig { rope_theta_sliding: 0.5, ..olmo3() },
                "rope_theta is 0.5, expected a number from 1e0 to 1e12",
            ),
            (ModelConfig { sliding_window: 5, ..olmo2() }, "sliding_window is 5, expected 0 when no layer slides"),
            (ModelConfig { eos_token_ids: vec![1; 17], ..olmo2() }, "eos_token_id is 17 ids, expected at most 16 ids"),
            (
                ModelConfig { eos_token_ids: vec![1, u32::MAX], ..olmo2() },
                "eos_token_id is 4294967295, expected the id of a token",
            ),
        ]);
        for config in [olmo1(), olmo2(), olmo3(), ModelConfig { layer_types: layers(1024), ..olmo2() }] {
            assert_eq!(config.validate(), Ok(()));
        }
        assert_eq!(ModelConfig { eos_token_ids: vec![1; 16], ..olmo2() }.validate(), Ok(()));
    }

    #[test]
    fn what_one_architecture_has_the_others_have_not() {
        let sliding = olmo3().layer_types;
        assert_refused([
            (
                ModelConfig { rms_norm_eps: 1e-6, ..olmo1() },
                "rms_norm_eps is 1e-6, expected 1e-5 as in every olmo model",
            ),
            (ModelConfig { clip_qkv: Some(8.0), ..olmo2() }, "clip_qkv is 8.0, expected none for olmo2"),
            (ModelConfig { clip_qkv: Some(8.0), ..olmo3() }, "clip_qkv is 8.0, expected none for olmo3"),
            (ModelConfig { clip_qkv: Some(0.0), ..olmo1() }, "clip_qkv is 0.0, expected a number from 1e-3 to 1e6"),
            (ModelConfig { yarn: Some(yarn()), ..olmo1() }, "rope_scaling is yarn, expected none for olmo"),
            (ModelConfig { yarn: Some(yarn()), ..olmo2() }, "rope_scaling is yarn, expected none for olmo2"),
            (
                ModelConfig { layer_types: sliding.clone(), ..olmo1() },
                "layer_types is sliding_attention, expected full_attention everywhere for olmo",
            ),
            (
                ModelConfig { layer_types: sliding, sliding_window: 5, ..olmo2() },
                "layer_types is sliding_attention, expected full_attention everywhere for olmo2",
            ),
        ]);
    }

    #[test]
    fn yarn_has_numbers_that_can_be_computed_with() {
        let with = |yarn| ModelConfig { yarn: Some(yarn), ..olmo3() };
        assert_refused([
            (with(Yarn { factor: 0.5, ..yarn() }), "rope_scaling.factor is 0.5, expected a number from 1e0 to 1e6"),
            (
                with(Yarn { beta_fast: 0.0, ..yarn() }),
                "rope_scaling.beta_fast is 0.0, expected a number from 1e-3 to 1e6",
            ),
            (
                with(Yarn { beta_slow: -1.0, ..yarn() }),
                "rope_scaling.beta_slow is -1.0, expected a number from 1e-3 to 1e6",
            ),
            (
                with(Yarn { attention_factor: 1e4, ..yarn() }),
                "rope_scaling.attention_factor is 10000.0, expected a number from 1e-3 to 1e3",
            ),
            (
                with(Yarn { original_max_position_embeddings: 0, ..yarn() }),
                "rope_scaling.original_max_position_embeddings is 0, expected 1 to 16777216",
            ),
            // The ramp divides by its logarithm.
            (ModelConfig { rope_theta: 1.0, ..olmo3() }, "rope_theta is 1, expected more than 1 with YaRN"),
        ]);
        assert_eq!(ModelConfig { rope_theta: 1.0, yarn: None, ..olmo3() }.validate(), Ok(()));
    }

    fn olmoe() -> ModelConfig {
        let experts = Some(Experts { n_experts: 64, n_per_token: 8, norm_topk_prob: false });
        ModelConfig { architecture: Architecture::Olmoe, experts, ..olmo2() }
    }

    fn hybrid() -> ModelConfig {
        let linear = LinearAttention {
            n_key_heads: 2,
            n_value_heads: 4,
            key_head_dim: 6,
            value_head_dim: 10,
            conv_kernel: 4,
            allow_neg_eigval: true,
        };
        ModelConfig {
            architecture: Architecture::OlmoHybrid,
            rope_theta: 0.0,
            rope_theta_sliding: 0.0,
            layer_types: vec![AttentionKind::Linear, AttentionKind::Full],
            linear: Some(linear),
            ..olmo2()
        }
    }

    #[test]
    fn blocks_norm_what_they_read_or_what_they_compute() {
        assert_eq!(
            [olmo1(), olmo2(), olmo3(), olmoe()].map(|config| config.is_pre_norm(0)),
            [true, false, false, true]
        );
        assert_eq!([0, 1].map(|layer| hybrid().is_pre_norm(layer)), [true, false]);
    }

    #[test]
    fn experts_are_of_models_that_have_them() {
        let with = |experts: Experts| ModelConfig { experts: Some(experts), ..olmoe() };
        let experts = olmoe().experts.expect("experts");
        assert_eq!(olmoe().validate(), Ok(()));
        assert_refused([
            (ModelConfig { experts: None, ..olmoe() }, "num_experts is 0, expected 1 to 512"),
            (with(Experts { n_experts: 0, ..experts }), "num_experts is 0, expected 1 to 512"),
            (with(Experts { n_experts: 513, ..experts }), "num_experts is 513, expected 1 to 512"),
            (
                with(Experts { n_per_token: 0, ..experts }),
                "num_experts_per_tok is 0, expected 1 to 64, the number of experts",
            ),
            (
                with(Experts { n_per_token: 65, ..experts }),
                "num_experts_per_tok is 65, expected 1 to 64, the number of experts",
            ),
            (ModelConfig { experts: Some(experts), ..olmo2() }, "num_experts is 64, expected none for olmo2"),
            (
                ModelConfig {
                    experts: Some(Experts { n_experts: 512, ..experts }),
                    layer_types: vec![AttentionKind::Full; 43],
                    ..olmoe()
                },
                "num_experts is 512 in 43 layers, expected at most 65536 tensors in all",
            ),
        ]);
    }

    #[test]
    fn linear_layers_have_possible_sizes() {
        let with = |change: fn(&mut LinearAttention)| {
            let mut config = hybrid();
            change(config.linear.as_mut().expect("sizes"));
            config
        };
        assert_eq!(hybrid().validate(), Ok(()));
        assert_eq!(ModelConfig { rope_theta: 5e5, rope_theta_sliding: 5e5, ..hybrid() }.validate(), Ok(()));
        assert_refused([
            (ModelConfig { linear: None, ..hybrid() }, "linear_num_key_heads is 0, expected 1 to 4096"),
            (
                ModelConfig { layer_types: vec![AttentionKind::Full], ..hybrid() },
                "linear_num_key_heads is 2, expected none without linear_attention layers",
            ),
            (
                ModelConfig { architecture: Architecture::Olmo3, rope_theta: 1e4, rope_theta_sliding: 1e4, ..hybrid() },
                "layer_types is linear_attention, expected full_attention everywhere for olmo3",
            ),
            (with(|linear| linear.n_key_heads = 0), "linear_num_key_heads is 0, expected 1 to 4096"),
            (with(|linear| linear.n_key_heads = 3), "linear_num_value_heads is 4, expected a multiple of 3 key heads"),
            (with(|linear| linear.n_value_heads = 4097), "linear_num_value_heads is 4097, expected 1 to 4096"),
            (with(|linear| linear.key_head_dim = 0), "linear_key_head_dim is 0, expected 1 to 1024"),
            (with(|linear| linear.value_head_dim = 1025), "linear_value_head_dim is 1025, expected 1 to 1024"),
            (with(|linear| linear.conv_kernel = 17), "linear_conv_kernel_dim is 17, expected 1 to 16"),
            (
                with(|linear| (linear.n_value_heads, linear.value_head_dim) = (2048, 1000)),
                "linear_value_head_dim is 1000, expected queries, keys and values of at most 1048576 in all",
            ),
            (ModelConfig { rope_theta: 0.0, ..olmo2() }, "rope_theta is 0.0, expected a number from 1e0 to 1e12"),
            (
                ModelConfig { rope_theta_sliding: 5e5, ..hybrid() },
                "rope_theta is 0.0, expected a number from 1e0 to 1e12",
            ),
        ]);
    }

    /// The published numbers of parameters, and those that a token takes.
    #[test]
    fn parameters_are_those_of_the_released_models() {
        let olmoe = ModelConfig {
            hidden_size: 2048,
            n_heads: 16,
            n_kv_heads: 16,
            head_dim: 128,
            intermediate_size: 1024,
            vocab_size: 50304,
            layer_types: vec![AttentionKind::Full; 16],
            ..olmoe()
        };
        // Of the embedding a token reads one row; the others are those of matrices, and 133,120 of norms.
        let read = olmoe.n_active_parameters() - 50304 * 2048 - 133_120;
        assert_eq!((olmoe.n_parameters(), read), (6_919_161_856, 1_178_861_568));
        let wide = ModelConfig {
            hidden_size: 4096,
            n_heads: 32,
            n_kv_heads: 32,
            head_dim: 128,
            intermediate_size: 11008,
            vocab_size: 100_278,
            layer_types: vec![AttentionKind::Full; 32],
            ..olmo2()
        };
        let experts = |n| Some(Experts { n_experts: n, n_per_token: n, norm_topk_prob: false });
        let bar = ModelConfig { architecture: Architecture::FlexOlmo, experts: experts(5), ..wide.clone() };
        assert_eq!((wide.n_parameters(), bar.n_parameters()), (7_298_011_136, 24_612_753_408));
        let flex = ModelConfig { vocab_size: 100_352, experts: experts(7), ..bar };
        assert_eq!(flex.n_parameters(), 33_270_665_216);
        let kinds = [AttentionKind::Linear, AttentionKind::Linear, AttentionKind::Linear, AttentionKind::Full];
        let hybrid = ModelConfig {
            hidden_size: 3840,
            n_heads: 30,
            n_kv_heads: 30,
            head_dim: 128,
            intermediate_size: 11008,
            vocab_size: 100_352,
            layer_types: kinds.repeat(8),
            linear: Some(LinearAttention {
                n_key_heads: 30,
                n_value_heads: 30,
                key_head_dim: 96,
                value_head_dim: 192,
                conv_kernel: 4,
                allow_neg_eigval: true,
            }),
            ..hybrid()
        };
        assert_eq!(hybrid.n_parameters(), 7_430_870_688);
    }
}
