//! The memory of a forward pass, allocated once.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::network::experts::ExpertBuffers;
use crate::network::linear_attention::LinearBuffers;
use crate::os::zeroed::ZeroedBuffer;

/// Most positions whose logits are computed at a time.
pub const LOGITS_CHUNK: usize = 48;

/// Activations of the rows of a pass; n of them are in use.
pub(crate) struct Buffers {
    pub hidden: ZeroedBuffer<f32>,      // [n, hidden_size], the residual stream
    pub block_input: ZeroedBuffer<f32>, // [n, hidden_size], what a block of a pre-norm model reads; empty in others
    pub q: ZeroedBuffer<f32>,           // [n, n_heads * head_dim]
    pub k: ZeroedBuffer<f32>,           // [n, n_kv_heads * head_dim]
    pub v: ZeroedBuffer<f32>,           // [n, n_kv_heads * head_dim]
    pub attention: ZeroedBuffer<f32>,   // [n, n_heads * head_dim]
    pub gate: ZeroedBuffer<f32>,        // [n, intermediate_size]
    pub up: ZeroedBuffer<f32>,          // [n, intermediate_size]
    pub projected: ZeroedBuffer<f32>,   // [n, hidden_size], what a block adds to the residual stream
    pub cos: [ZeroedBuffer<f32>; 2],    // [n, head_dim / 2], for full and sliding layers
    pub sin: [ZeroedBuffer<f32>; 2],    // [n, head_dim / 2]
    pub normed: ZeroedBuffer<f32>,      // [LOGITS_CHUNK, hidden_size]
    pub logits: ZeroedBuffer<f32>,      // [LOGITS_CHUNK, vocab_size]
    pub experts: ExpertBuffers,
    pub linear: LinearBuffers,
}

impl Buffers {
    /// Elements of each buffer that every model has, in the order of the fields.
    fn sizes(config: &ModelConfig, rows: usize) -> [usize; 15] {
        let half = if config.has_rope() { config.head_dim / 2 } else { 0 };
        let mlp_width = if config.experts.is_some() { 0 } else { config.intermediate_size };
        let is_pre_norm = (0..config.n_layers()).any(|layer| config.is_pre_norm(layer));
        let of_rows = |width: usize| rows.saturating_mul(width);
        let of_logits = |width: usize| rows.min(LOGITS_CHUNK).saturating_mul(width);
        [
            of_rows(config.hidden_size),
            if is_pre_norm { of_rows(config.hidden_size) } else { 0 },
            of_rows(config.q_width()),
            of_rows(config.kv_width()),
            of_rows(config.kv_width()),
            of_rows(config.q_width()),
            of_rows(mlp_width),
            of_rows(mlp_width),
            of_rows(config.hidden_size),
            of_rows(half),
            of_rows(half),
            of_rows(half),
            of_rows(half),
            of_logits(config.hidden_size),
            of_logits(config.vocab_size),
        ]
    }

    /// Bytes of the buffers for passes of at most `rows` rows.
    pub fn bytes(config: &ModelConfig, rows: usize) -> u64 {
        let bytes = Buffers::sizes(config, rows).map(|elements| 4u64.saturating_mul(elements as u64));
        let others = [ExpertBuffers::bytes(config, rows), LinearBuffers::bytes(config, rows)];
        bytes.into_iter().chain(others).fold(0, u64::saturating_add)
    }

    /// Buffers for passes of at most `rows` rows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, rows: usize) -> Result<Buffers, Error> {
        let mut sizes = Buffers::sizes(config, rows).into_iter();
        let mut next = || ZeroedBuffer::new(sizes.next().expect("a size for each buffer"), "the activations");
        Ok(Buffers {
            hidden: next()?,
            block_input: next()?,
            q: next()?,
            k: next()?,
            v: next()?,
            attention: next()?,
            gate: next()?,
            up: next()?,
            projected: next()?,
            cos: [next()?, next()?],
            sin: [next()?, next()?],
            normed: next()?,
            logits: next()?,
            experts: ExpertBuffers::new(config, rows)?,
            linear: LinearBuffers::new(config, rows)?,
        })
    }
}
