//! What the linear-attention layers of a sequence keep of its past: a state of one size for each value head, and the
//! last inputs of the convolution.

use crate::error::Error;
use crate::format::config::{AttentionKind, LinearAttention, ModelConfig};
use crate::kernels::delta_rule::STATE_COLUMNS;
use crate::os::memory;
use crate::os::zeroed::ZeroedBuffer;

const WHAT: &str = "the states of linear attention";

/// Those of all layers of a sequence.
#[derive(Default)]
pub struct LinearStates {
    /// One entry a layer; without memory for layers with attention.
    layers: Vec<LinearState>,
}

/// That of one layer.
pub struct LinearState {
    /// `[tile][key_head_dim][STATE_COLUMNS]`; a head has [`tiles_per_head`] tiles, the last one padded.
    pub state: ZeroedBuffer<f32>,
    /// `[conv_kernel - 1][n_channels]`: the projections of position p are in row `p % (conv_kernel - 1)`.
    pub history: ZeroedBuffer<f32>,
}

/// Tiles of the state of a value head.
pub fn tiles_per_head(linear: &LinearAttention) -> usize {
    linear.value_head_dim.div_ceil(STATE_COLUMNS)
}

/// Elements of the tiles and of the history of a layer.
fn sizes(config: &ModelConfig, kind: AttentionKind) -> [usize; 2] {
    match config.linear {
        Some(linear) if kind == AttentionKind::Linear => {
            // Widths are below 2^20 by `validate`, dimensions below 2^11: no overflow in 64 bits.
            let tile = linear.key_head_dim.saturating_mul(STATE_COLUMNS);
            let n_tiles = linear.n_value_heads.saturating_mul(tiles_per_head(&linear));
            let history = linear.conv_kernel.saturating_sub(1).saturating_mul(linear.n_channels());
            [n_tiles.saturating_mul(tile), history]
        }
        _ => [0, 0],
    }
}

impl LinearStates {
    /// Bytes of the states of a sequence.
    pub fn bytes(config: &ModelConfig) -> u64 {
        let elements = config.layer_types.iter().flat_map(|&kind| sizes(config, kind));
        elements.fold(0u64, |sum, elements| sum.saturating_add(4u64.saturating_mul(elements as u64)))
    }

    /// States of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig) -> Result<LinearStates, Error> {
        if config.linear.is_none() {
            return Ok(LinearStates::default());
        }
        let mut layers = memory::room_for(config.n_layers(), WHAT)?;
        for &kind in &config.layer_types {
            let [state, history] = sizes(config, kind);
            layers.push(LinearState {
                state: ZeroedBuffer::new(state, WHAT)?,
                history: ZeroedBuffer::new(history, WHAT)?,
            });
        }
        Ok(LinearStates { layers })
    }

    /// Whether the model has none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Makes them those of another sequence of the same model.
    ///
    /// # Panics
    /// When it is of another model.
    pub fn copy_from(&mut self, other: &LinearStates) {
        assert!(self.layers.len() == other.layers.len());
        for (to, from) in self.numbers_mut().zip(other.numbers()) {
            to.copy_from_slice(from);
        }
    }

    /// All numbers, layer by layer: the tiles of a layer, then its history.
    pub fn numbers(&self) -> impl Iterator<Item = &[f32]> {
        self.layers.iter().flat_map(|layer| [&*layer.state, &*layer.history])
    }

    /// As [`LinearStates::numbers`], mutably.
    pub fn numbers_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.layers.iter_mut().flat_map(|layer| [&mut *layer.state, &mut *layer.history])
    }

    /// That of a layer.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer(&self, layer: usize) -> &LinearState {
        &self.layers[layer]
    }

    /// That of a layer, mutably.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer_mut(&mut self, layer: usize) -> &mut LinearState {
        &mut self.layers[layer]
    }
}
