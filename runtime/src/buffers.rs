//! The memory of a forward pass, allocated once.

use crate::config::ModelConfig;
use crate::error::Error;
use crate::kv_cache::zeros;
use crate::model::LOGITS_CHUNK;

/// Activations of the rows of a pass; n of them are in use.
pub(crate) struct Buffers {
    pub hidden: Vec<f32>,    // [n, hidden_size], the residual stream
    pub q: Vec<f32>,         // [n, n_heads * head_dim]
    pub k: Vec<f32>,         // [n, n_kv_heads * head_dim]
    pub v: Vec<f32>,         // [n, n_kv_heads * head_dim]
    pub attention: Vec<f32>, // [n, n_heads * head_dim]
    pub gate: Vec<f32>,      // [n, intermediate_size]
    pub up: Vec<f32>,        // [n, intermediate_size]
    pub projected: Vec<f32>, // [n, hidden_size], what a block adds to the residual stream
    pub cos: [Vec<f32>; 2],  // [n, head_dim / 2], for full and sliding layers
    pub sin: [Vec<f32>; 2],  // [n, head_dim / 2]
    pub normed: Vec<f32>,    // [LOGITS_CHUNK, hidden_size]
    pub logits: Vec<f32>,    // [LOGITS_CHUNK, vocab_size]
}

impl Buffers {
    /// Elements of each buffer, in the order of the fields.
    fn sizes(config: &ModelConfig, rows: usize) -> [usize; 14] {
        let half = config.head_dim / 2;
        [
            rows * config.hidden_size,
            rows * config.q_width(),
            rows * config.kv_width(),
            rows * config.kv_width(),
            rows * config.q_width(),
            rows * config.intermediate_size,
            rows * config.intermediate_size,
            rows * config.hidden_size,
            rows * half,
            rows * half,
            rows * half,
            rows * half,
            rows.min(LOGITS_CHUNK) * config.hidden_size,
            rows.min(LOGITS_CHUNK) * config.vocab_size,
        ]
    }

    /// Bytes of the buffers for passes of at most `rows` rows.
    pub fn bytes(config: &ModelConfig, rows: usize) -> u64 {
        Buffers::sizes(config, rows).iter().map(|&elements| 4 * elements as u64).sum()
    }

    /// Buffers for passes of at most `rows` rows.
    ///
    /// # Errors
    /// [`Error::Request`] when the system does not give the memory.
    pub fn new(config: &ModelConfig, rows: usize) -> Result<Buffers, Error> {
        let sizes = Buffers::sizes(config, rows).map(|elements| zeros(elements, "activations"));
        let [hidden, q, k, v, attention, gate, up, projected, cos, cos_sliding, sin, sin_sliding, normed, logits] =
            sizes;
        Ok(Buffers {
            hidden: hidden?,
            q: q?,
            k: k?,
            v: v?,
            attention: attention?,
            gate: gate?,
            up: up?,
            projected: projected?,
            cos: [cos?, cos_sliding?],
            sin: [sin?, sin_sliding?],
            normed: normed?,
            logits: logits?,
        })
    }
}
