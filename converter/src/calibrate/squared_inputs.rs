//! The sizes of the numbers that matrices are multiplied with.

use crate::encode::importance::{Importance, OfLayer};
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::network::observer::Inputs;

/// Part of the mean weight that a column keeps whose inputs are all zero: other texts may use it.
const LEAST: f64 = 1.0 / 1024.0;

/// Sums of the squares of the inputs of matrices, column by column.
#[derive(Clone, Debug)]
pub struct SquaredInputs {
    layers: Vec<OfLayer<f64>>,
    lm_head: Vec<f64>,
}

impl SquaredInputs {
    /// Zeros for the matrices of a model.
    pub fn new(config: &ModelConfig) -> SquaredInputs {
        let zeros = |columns: usize| vec![0.0; columns];
        let of_layer = |kind: &AttentionKind| OfLayer {
            attention: zeros(config.hidden_size),
            attention_output: zeros(match (kind, config.linear) {
                (AttentionKind::Linear, Some(linear)) => linear.value_width(),
                _ => config.q_width(),
            }),
            mlp: zeros(config.hidden_size),
            mlp_output: zeros(config.intermediate_size),
        };
        SquaredInputs { layers: config.layer_types.iter().map(of_layer).collect(), lm_head: zeros(config.hidden_size) }
    }

    /// Adds rows of the inputs of a layer.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn add(&mut self, layer: usize, inputs: Inputs, rows: &[f32]) {
        let layer = &mut self.layers[layer];
        let sums = match inputs {
            // No matrix is multiplied with them.
            Inputs::Layer => return,
            Inputs::Attention => &mut layer.attention,
            Inputs::AttentionOutput => &mut layer.attention_output,
            Inputs::Mlp => &mut layer.mlp,
            Inputs::MlpOutput => &mut layer.mlp_output,
        };
        add(sums, rows);
    }

    /// Adds rows of the inputs of the head.
    pub fn add_of_head(&mut self, rows: &[f32]) {
        add(&mut self.lm_head, rows);
    }

    /// What the columns weigh: the means of their squares; `None` when those of a matrix are not finite.
    pub fn importance(&self) -> Option<Importance> {
        let of_layer = |layer: &OfLayer<f64>| {
            Some(OfLayer {
                attention: weights(&layer.attention)?,
                attention_output: weights(&layer.attention_output)?,
                mlp: weights(&layer.mlp)?,
                mlp_output: weights(&layer.mlp_output)?,
            })
        };
        let layers: Option<Vec<_>> = self.layers.iter().map(of_layer).collect();
        Some(Importance { layers: layers?, lm_head: weights(&self.lm_head)? })
    }
}

/// Adds the squares of rows to sums, in the order of the rows.
fn add(sums: &mut [f64], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
}

/// Weights with a mean of about 1. Columns that are all zero count alike.
fn weights(sums: &[f64]) -> Option<Vec<f32>> {
    let mean = sums.iter().sum::<f64>() / sums.len() as f64;
    let weight = |sum: &f64| if mean > 0.0 { (sum / mean + LEAST) as f32 } else { 1.0 };
    mean.is_finite().then(|| sums.iter().map(weight).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_mean_squares_of_columns() {
        let mut sums = vec![0.0; 3];
        add(&mut sums, &[1.0, 0.0, 3.0, -1.0, 0.0, 1.0]);
        assert_eq!(sums, [2.0, 0.0, 10.0]);
        let least = LEAST as f32;
        assert_eq!(weights(&sums), Some(vec![0.5 + least, least, 2.5 + least]));
        assert_eq!(weights(&[0.0; 2]), Some(vec![1.0; 2]));
        assert_eq!((weights(&[1.0, f64::INFINITY]), weights(&[f64::NAN])), (None, None));
    }
}
