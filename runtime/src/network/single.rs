//! One sequence by itself, for callers that have no more than one and a team at hand.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::network::{Batch, Network, Options};
use crate::parallel::team::Team;
use std::ops::Range;

/// A batch of one sequence: its KV cache and the buffers of the forward pass, all allocated at the beginning.
pub struct Single<'m>(Batch<'m>);

impl<'m> Single<'m> {
    /// Bytes that a sequence needs: KV cache and activations.
    pub fn bytes(config: &ModelConfig, options: &Options) -> u64 {
        Batch::bytes(config, options, &[options.positions])
    }

    /// An empty sequence.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than the model has, no positions, or memory that the system does not give.
    pub fn new(network: &Network<'m>, options: Options) -> Result<Single<'m>, Error> {
        let mut batch = Batch::new(network, options, 1)?;
        batch.begin(0, options.positions)?;
        Ok(Single(batch))
    }

    /// Forgets the sequence; the next tokens begin a new one in the same memory.
    pub fn restart(&mut self) {
        self.0.restart(0);
    }

    /// Forgets the positions from `n` on, or all of them: see [`Batch::truncate`].
    pub fn truncate(&mut self, n: usize) -> usize {
        self.0.truncate(0, n)
    }

    /// The model's configuration.
    pub fn config(&self) -> &'m ModelConfig {
        self.0.config()
    }

    /// Number of positions evaluated so far.
    pub fn position(&self) -> usize {
        self.0.position(0)
    }

    /// How it is computed; the chunk is at most the positions.
    pub fn options(&self) -> &Options {
        self.0.options()
    }

    /// Evaluates the next tokens of the sequence, at most a chunk of them. [`Single::logits`] then gives what they
    /// predict.
    ///
    /// # Errors
    /// [`Error::Request`] when the tokens are none, more than a chunk, more than there are positions left, or not in
    /// the vocabulary.
    pub fn forward(&mut self, team: &mut Team, tokens: &[u32]) -> Result<(), Error> {
        self.0.forward(team, [(0, tokens)])
    }

    /// What some of the tokens of the last forward pass predict, `[rows, vocab_size]`; at most
    /// [`crate::network::LOGITS_CHUNK`] of them at a time.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is not a finite number.
    ///
    /// # Panics
    /// For rows beyond those of the last forward pass, or too many of them.
    pub fn logits(&mut self, team: &mut Team, rows: Range<usize>) -> Result<&[f32], Error> {
        self.0.logits(team, rows)
    }

    /// What [`Single::logits`] gave for the last forward pass, `[rows, vocab_size]`; empty when it was not called
    /// since, or failed.
    pub fn computed_logits(&self) -> &[f32] {
        self.0.computed_logits()
    }
}
