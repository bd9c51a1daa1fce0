//! The main path: the network of a model, a batch of sequences, and the forward pass from token ids to logits.

pub mod activations;
mod attention;
pub mod batch;
mod expert_pages;
mod experts;
mod forward;
mod kv_cache;
pub mod kv_type;
mod linear_attention;
mod linear_state;
mod moved;
pub mod observer;
mod owned_weights;
mod rope;
pub mod sequence;
pub mod speculate;
pub mod weights;

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::config::{AttentionKind, ModelConfig};
use crate::kernels::backend::Backend;
use crate::network::expert_pages::ExpertPages;
use crate::network::kv_type::KvType;
use crate::network::owned_weights::OwnedWeights;
use crate::network::rope::Rope;
use crate::network::speculate::Speculate;
use crate::network::weights::Weights;
use crate::os::fp_mode;
use crate::parallel::matmul::Activations;
use std::sync::Arc;

/// A model ready to run: views of its weights, and what is derived from the configuration. Batches share one in an
/// [`Arc`].
pub struct Network {
    config: ModelConfig,
    weights: OwnedWeights,
    rope_full: Rope,
    rope_sliding: Rope,
    expert_pages: ExpertPages,
}

impl Network {
    /// The network of `file`, which it keeps open.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::NotRun`] on a thread with a non-default floating-point mode.
    pub fn new(file: Arc<ModelFile>) -> Result<Network, Error> {
        Network::with(file.config().try_clone()?, OwnedWeights::of_file(file)?)
    }

    /// A network whose weights are anywhere; their shapes must be those of [`crate::format::layout::tensors`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// Here or later, when they are not, or the configuration is one that [`ModelConfig::validate`] refuses.
    pub fn from_weights(config: ModelConfig, weights: Weights<'static>) -> Result<Network, Error> {
        Network::with(config, OwnedWeights::of_static(weights))
    }

    fn with(config: ModelConfig, weights: OwnedWeights) -> Result<Network, Error> {
        fp_mode::check()?;
        let rope_full = Rope::new(&config, AttentionKind::Full)?;
        let rope_sliding = Rope::new(&config, AttentionKind::Sliding)?;
        let expert_pages = ExpertPages::new(&config, weights.borrow_owner().clone())?;
        Ok(Network { config, weights, rope_full, rope_sliding, expert_pages })
    }

    /// Number of experts that some token has taken, and of all experts of all layers.
    pub fn n_experts_taken(&self) -> (usize, usize) {
        self.expert_pages.n_taken()
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The file that it keeps open; `None` for weights from elsewhere.
    pub(crate) fn file(&self) -> Option<&Arc<ModelFile>> {
        self.weights.borrow_owner().as_ref()
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights<'_> {
        &self.weights.borrow_dependent().model
    }

    /// Its weights with drafts in place of some matrices; `None` of a model without drafts.
    pub fn draft(&self) -> Option<&Weights<'_>> {
        self.weights.borrow_dependent().draft.as_ref()
    }
}

/// How sequences are computed: `Options { chunk: 64, ..Options::new(4096) }`.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most positions of a sequence, prompt and generated tokens together.
    pub positions: usize,
    /// Most tokens of one forward pass, those of all sequences together. It changes speed and memory, never a result.
    pub chunk: usize,
    /// Which code computes the products.
    #[doc(hidden)]
    pub backend: Backend,
    /// What weights are multiplied with.
    pub activations: Activations,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// How the next tokens of a text are guessed. It changes speed, never a result. Models with linear attention make no
    /// guesses: their states could not take them back.
    pub speculate: Speculate,
}

impl Options {
    /// The fastest way on this machine, for sequences of `positions` positions: chunks of 512 tokens, a KV cache in
    /// f32, guesses where they pay.
    pub fn new(positions: usize) -> Options {
        let backend = Backend::best();
        let (activations, kv, speculate) = (Activations::Auto, KvType::F32, Speculate::AUTO);
        Options { positions, chunk: 512, backend, activations, kv, speculate }
    }

    /// With a chunk that is no longer than the sequences together, and has a row for each of them.
    pub(crate) fn clamped(self, sequences: usize) -> Options {
        let all = self.positions.saturating_mul(sequences);
        Options { chunk: self.chunk.min(all).max(sequences).max(1), ..self }
    }
}
