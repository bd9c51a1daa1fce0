//! How a run computes, on the command line.

use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::Options;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::parallel::matmul::Activations;

/// How a run computes.
pub struct Compute {
    /// Number of threads that are asked for, 0 for all processors.
    pub threads: usize,
    /// How products are computed.
    pub backend: Backend,
    /// What weights are multiplied with.
    pub activations: Activations,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// How the next tokens are guessed.
    pub speculate: Speculate,
    /// Most prompt tokens in one forward pass.
    pub chunk: Option<usize>,
    /// Most token files to evaluate at a time.
    pub batch: Option<usize>,
}

impl Compute {
    /// How the batch computes, for sequences of at most `positions`.
    pub fn options(&self, positions: usize) -> Options {
        let default = Options::new(positions);
        Options {
            chunk: self.chunk.unwrap_or(default.chunk),
            backend: self.backend,
            activations: self.activations,
            kv: self.kv,
            speculate: self.speculate,
            ..default
        }
    }
}
