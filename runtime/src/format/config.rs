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
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 3] = [Architecture::Olmo1, Architecture::Olmo2, Architecture::Olmo3];

    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "olmo",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
        }
    }

    /// Whether a block reads the norm of the residual stream, instead of adding the norm of what it computes.
    pub fn is_pre_norm(self) -> bool {
        match self {
            Architecture::Olmo1 => true,
            Architecture::Olmo2 | Architecture::Olmo3 => false,
        }
    }

    /// Whether norms multiply with weights. Where they do not, a model has no vectors at all.
    pub fn has_norm_weights(self) -> bool {
        match self {
            Architecture::Olmo1 => false,
            Architecture::Olmo2 | Architecture::Olmo3 => true,
        }
    }
}

/// What the queries of a layer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Every earlier position.
    Full,
    /// The last `sliding_window` positions, the current one included.
    Sliding,
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
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Rows of the embedding and of the head, padded rows included.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm; [`LAYER_NORM_EPS`] in OLMo-1.
    pub rms_norm_eps: f64,
    /// OLMo-1: largest magnitude of an element of queries, keys and values; larger ones become it. None are clipped
    /// without it.
    pub clip_qkv: Option<f64>,
    /// RoPE base of full-attention layers.
    pub rope_theta: f64,
    /// RoPE base of sliding-window layers (the same value in every released model).
    pub rope_theta_sliding: f64,
    /// RoPE scaling of full-attention layers.
    pub yarn: Option<Yarn>,
    /// Window of the sliding layers, the current position included; 0 when there are none.
    pub sliding_window: usize,
    /// One entry a layer.
    pub layer_types: Vec<AttentionKind>,
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
        let sizes = [self.hidden_size, self.intermediate_size, self.q_width(), self.kv_width(), self.vocab_size];
        let [h, f, q, kv, v] = sizes.map(|size| size as u64);
        let all = || -> Result<u64, TooLarge> {
            let matrices = sum([product([2, h, q])?, product([2, h, kv])?, product([3, h, f])?])?;
            let has_norms = self.architecture.has_norm_weights();
            let (norms, last_norm) = if has_norms { (sum([q, kv, h, h])?, h) } else { (0, 0) };
            let embeddings = product([if self.tie_word_embeddings { 1 } else { 2 }, v, h])?;
            sum([product([self.n_layers() as u64, sum([matrices, norms])?])?, last_norm, embeddings])
        };
        all().unwrap_or(u64::MAX)
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
            if self.architecture != Architecture::Olmo1 {
                return bad("clip_qkv", &format_args!("{clip:?}"), format!("none for {name}"));
            }
            real("clip_qkv", clip, 1e-3, 1e6)?;
        }
        real("rope_theta", self.rope_theta, 1.0, 1e12)?;
        real("rope_theta", self.rope_theta_sliding, 1.0, 1e12)?;
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

    #[test]
    fn only_olmo1_norms_what_a_block_reads_and_has_no_norm_weights() {
        let blocks =
            Architecture::ALL.map(|architecture| (architecture.is_pre_norm(), architecture.has_norm_weights()));
        assert_eq!(blocks, [(true, false), (false, true), (false, true)]);
    }
}
