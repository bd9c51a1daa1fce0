//! Rotary position embedding: the frequencies of a model and the rotation angles of positions.

use crate::error::Error;
use crate::format::config::{AttentionKind, MAX_HEAD_DIM, ModelConfig, Yarn};
use crate::os::memory;

/// Frequencies of one kind of layer, and the factor on cos and sin.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians per position, `[head_dim / 2]`.
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
}

impl Rope {
    /// The rotation of the layers of `kind`, of a configuration whose heads are no wider than [`MAX_HEAD_DIM`]: YaRN
    /// belongs to full-attention layers only (`modeling_olmo3.py`).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, kind: AttentionKind) -> Result<Rope, Error> {
        let (theta, yarn) = match kind {
            AttentionKind::Full | AttentionKind::Linear => (config.rope_theta, config.yarn.as_ref()),
            AttentionKind::Sliding => (config.rope_theta_sliding, None),
        };
        // Without a rotation there are no angles.
        let d = if config.has_rope() { config.head_dim } else { 0 };
        assert!(d <= MAX_HEAD_DIM, "a head of a possible width");
        let default = |i: usize| libm::pow(theta, -((2 * i) as f64) / d as f64);
        let frequency = |i: usize| match yarn {
            None => default(i),
            Some(yarn) => {
                let interpolated = ramp(yarn, theta, d, i);
                default(i) * ((1.0 - interpolated) + interpolated / yarn.factor)
            }
        };
        Ok(Rope {
            inverse_frequencies: memory::collected((0..d / 2).map(|i| frequency(i) as f32), "the rotary frequencies")?,
            attention_factor: yarn.map_or(1.0, |yarn| yarn.attention_factor as f32),
        })
    }

    /// cos and sin of every pair of dimensions at `position`, both `[head_dim / 2]`.
    ///
    /// The angle is rounded to f32 as in `modeling_rope_utils.py`; its cos and sin are those of that angle, rounded
    /// once.
    pub fn angles(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        for ((cos, sin), &inverse) in cos.iter_mut().zip(sin).zip(&self.inverse_frequencies) {
            let angle = f64::from(position as f32 * inverse);
            *cos = libm::cos(angle) as f32 * self.attention_factor;
            *sin = libm::sin(angle) as f32 * self.attention_factor;
        }
    }
}

/// How far dimension pair `i` is interpolated: 0 keeps its frequency, 1 divides it by the factor.
fn ramp(yarn: &Yarn, theta: f64, d: usize, i: usize) -> f64 {
    let dimension = |rotations: f64| {
        let length = yarn.original_max_position_embeddings as f64;
        d as f64 * libm::log(length / (rotations * 2.0 * std::f64::consts::PI)) / (2.0 * libm::log(theta))
    };
    let (mut low, mut high) = (dimension(yarn.beta_fast), dimension(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(d as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::config::Architecture;

    /// The rotary constants of the released Olmo-3 models with 65536 positions.
    fn olmo3() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Olmo3,
            hidden_size: 4096,
            n_heads: 32,
            n_kv_heads: 32,
            head_dim: 128,
            intermediate_size: 11008,
            vocab_size: 100278,
            max_position_embeddings: 65536,
            rms_norm_eps: 1e-6,
            clip_qkv: None,
            rope_theta: 500000.0,
            rope_theta_sliding: 500000.0,
            yarn: Some(Yarn {
                factor: 8.0,
                original_max_position_embeddings: 8192,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.2079441541679836,
                truncate: true,
            }),
            sliding_window: 4096,
            layer_types: vec![AttentionKind::Sliding, AttentionKind::Full],
            experts: None,
            linear: None,
            tie_word_embeddings: false,
            eos_token_ids: vec![],
            bos_token_id: None,
            pad_token_id: None,
        }
    }

    #[test]
    fn frequencies_are_those_of_the_released_olmo3_models() {
        let full = Rope::new(&olmo3(), AttentionKind::Full).expect("memory");
        let sliding = Rope::new(&olmo3(), AttentionKind::Sliding).expect("memory");
        for (i, default, yarn) in [
            (0, 1.0, 1.0),
            (17, 0.030634520893224042, 0.030634520893224042),
            (19, 0.020329105980970156, 0.019282754937831985),
            (26, 0.004839421345719893, 0.00284671843865876),
            (35, 0.0007644969883171747, 9.556212353964683e-05),
            (63, 2.455140791131609e-06, 3.068925988914511e-07),
        ] {
            assert_eq!(sliding.inverse_frequencies[i], default as f32, "{i}");
            assert_eq!(full.inverse_frequencies[i], yarn as f32, "{i}");
        }
        assert_eq!((full.attention_factor, sliding.attention_factor), (1.207_944_1, 1.0));
    }

    #[test]
    fn the_attention_factor_scales_cos_and_sin() {
        let rope = Rope::new(&olmo3(), AttentionKind::Full).expect("memory");
        let (mut cos, mut sin) = (vec![0.0; 64], vec![0.0; 64]);
        rope.angles(3, &mut cos, &mut sin);
        assert!((cos[0] - 3f32.cos() * 1.2079442).abs() < 1e-6);
        assert!((sin[0] - 3f32.sin() * 1.2079442).abs() < 1e-6);
    }
}
