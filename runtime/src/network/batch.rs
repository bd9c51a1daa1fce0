//! Sequences that share each forward pass, and their memory.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::network::activations::Buffers;
use crate::network::experts::most_pairs;
use crate::network::kv_cache::KvCache;
use crate::network::linear_state::LinearStates;
use crate::network::sequence::{self, Row, Sequence};
use crate::network::speculate::Speculate;
use crate::network::{Network, Options};
use crate::os::fp_mode;
use crate::os::memory;
use crate::parallel::matmul::Matmul;
use std::iter;
use std::sync::Arc;

/// Columns of the widest matrix.
fn widest(config: &ModelConfig) -> usize {
    let linear = config.linear.map_or(0, |linear| linear.value_width());
    config.hidden_size.max(config.q_width()).max(config.intermediate_size).max(linear)
}

/// Most rows that a matrix is multiplied with, in passes of at most `rows` rows.
fn most_rows(config: &ModelConfig, rows: usize) -> usize {
    rows.max(most_pairs(config, rows))
}

/// Sequences that share each forward pass: a pass reads every weight once for all of them.
///
/// Each sequence has a slot, numbered from 0. When it has ended, [`Batch::begin`] starts another in its slot. The
/// results of a sequence do not depend on the others, to the last bit.
pub struct Batch {
    pub(super) network: Arc<Network>,
    pub(super) options: Options,
    pub(super) sequences: Vec<Sequence>,
    pub(super) matmul: Matmul,
    /// The tokens of the pass; row t of every buffer belongs to the token in row t here.
    pub(super) rows: Vec<Row>,
    pub(super) buffers: Buffers,
    /// Rows of logits that are computed.
    pub(super) n_logits: usize,
}

impl Batch {
    /// Bytes of a batch with one sequence for each of `positions`, which holds at most that many: KV caches and
    /// activations.
    pub fn bytes(config: &ModelConfig, options: &Options, positions: &[usize]) -> u64 {
        let rows = options.clamped(positions.len()).chunk;
        let caches = positions.iter().map(|&positions| KvCache::bytes(config, options.kv, positions, rows));
        let states = LinearStates::bytes(config).saturating_mul(positions.len() as u64);
        let caches = caches.fold(states, u64::saturating_add);
        let converted =
            [most_rows(config, rows) as u64, widest(config) as u64].into_iter().fold(4, u64::saturating_mul);
        caches.saturating_add(Buffers::bytes(config, rows)).saturating_add(converted)
    }

    /// Bytes of the states of linear attention of a sequence.
    pub(crate) fn state_bytes(config: &ModelConfig) -> u64 {
        LinearStates::bytes(config)
    }

    /// The states of linear attention of the sequence in a slot, layer by layer.
    pub(crate) fn states(&self, slot: usize) -> impl Iterator<Item = &[f32]> {
        self.sequences[slot].states().numbers()
    }

    /// As [`Batch::states`], mutably.
    pub(crate) fn states_mut(&mut self, slot: usize) -> impl Iterator<Item = &mut [f32]> {
        self.sequences[slot].states_mut().numbers_mut()
    }

    /// A batch of `n_slots` free slots.
    ///
    /// # Errors
    /// [`Error::TooManyPositions`] for more than the model has, [`Error::NoPositions`], [`Error::OutOfMemory`],
    /// [`Error::NotRun`] on a thread with a non-default floating-point mode.
    pub fn new(network: &Arc<Network>, options: Options, n_slots: usize) -> Result<Batch, Error> {
        fp_mode::check()?;
        let config = network.config();
        let (asked, most) = (options.positions, config.max_position_embeddings);
        if asked > most {
            return Err(Error::TooManyPositions { asked, most });
        }
        if asked == 0 || options.chunk == 0 || n_slots == 0 {
            return Err(Error::NoPositions);
        }
        let options = options.clamped(n_slots);
        let copies = iter::once(network.weights()).chain(network.draft());
        let matrices = copies.flat_map(|weights| weights.matrices());
        Ok(Batch {
            network: network.clone(),
            options,
            sequences: memory::collected((0..n_slots).map(|_| Sequence::without_room()), "the sequences")?,
            matmul: Matmul::new(
                options.backend,
                options.activations,
                matrices,
                most_rows(config, options.chunk),
                widest(config),
            )?,
            rows: memory::room_for(options.chunk, "the rows of a pass")?,
            buffers: Buffers::new(config, options.chunk)?,
            n_logits: 0,
        })
    }

    /// A batch of one slot, in which a sequence has begun.
    ///
    /// # Errors
    /// Those of [`Batch::new`].
    pub fn of_one(network: &Arc<Network>, options: Options) -> Result<Batch, Error> {
        let mut batch = Batch::new(network, options, 1)?;
        batch.begin(0, options.positions)?;
        Ok(batch)
    }

    /// Begins a sequence of at most `positions` positions in a slot, whose sequence is forgotten. Allocates the KV
    /// cache, unless the slot has one that is large enough.
    ///
    /// # Errors
    /// [`Error::TooManyPositions`] for more than [`Options::positions`], [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// When there is no such slot, or its sequence has branches.
    pub fn begin(&mut self, slot: usize, positions: usize) -> Result<(), Error> {
        if positions > self.options.positions {
            return Err(Error::TooManyPositions { asked: positions, most: self.options.positions });
        }
        self.forget_rows();
        sequence::release(&mut self.sequences, slot);
        self.sequences[slot].begin(self.network.config(), &self.options, positions)
    }

    /// Lets the slot `branch` continue the first `n` positions of the sequence in the slot `stem`, up to `positions`
    /// positions in all. Keys and values are shared: the stem stays as it is until its branches have ended, by
    /// [`Batch::release`] or because their slots begin another sequence. The results that follow have the bits of a
    /// sequence that was evaluated by itself.
    ///
    /// `false`, with nothing changed, where layers with a sliding window have overwritten keys that position `n` sees,
    /// where the stem is itself a branch that shares position `n`, and where layers have states and `n` is not all of the
    /// stem: a state has no earlier one.
    ///
    /// # Errors
    /// [`Error::TooManyPositions`] for more than [`Options::positions`], [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// When there are no such slots or positions, or `branch` has branches.
    pub fn fork(&mut self, stem: usize, n: usize, branch: usize, positions: usize) -> Result<bool, Error> {
        if positions > self.options.positions {
            return Err(Error::TooManyPositions { asked: positions, most: self.options.positions });
        }
        assert!(stem != branch && n <= self.position(stem) && n <= positions, "positions of another sequence");
        if !sequence::can_fork(&self.sequences, stem, n) {
            return Ok(false);
        }
        self.forget_rows();
        sequence::release(&mut self.sequences, branch);
        sequence::fork(&mut self.sequences, [stem, branch], n, self.network.config(), &self.options, positions)?;
        Ok(true)
    }

    /// Forgets the sequence in a slot, so that its stem has a branch less; its memory is kept.
    ///
    /// # Panics
    /// When there is no such slot, or its sequence has branches.
    pub fn release(&mut self, slot: usize) {
        self.forget_rows();
        sequence::release(&mut self.sequences, slot);
    }

    /// Forgets the sequence in a slot; the next tokens begin a new one in the same memory.
    ///
    /// # Panics
    /// When there is no such slot, or its sequence has branches.
    pub fn restart(&mut self, slot: usize) {
        self.release(slot);
    }

    /// Cuts the sequence in a slot back to its first `n` positions; returns the number of positions that are left: `n`,
    /// or the present number where that is smaller. It is 0 where a layer with a sliding window has overwritten keys
    /// that position `n` sees, and where a layer has a state, which has no earlier one; the caller then evaluates the tokens again. The results that follow have the bits of a
    /// sequence that was never longer.
    ///
    /// # Panics
    /// When there is no such slot, or its sequence is a branch or has branches.
    pub fn truncate(&mut self, slot: usize, n: usize) -> usize {
        if n < self.position(slot) {
            self.forget_rows();
            self.sequences[slot].truncate(n);
        }
        self.position(slot)
    }

    /// Takes back the positions from `n` on of the sequence in a slot, which were in the last forward pass. Its rows and
    /// logits stay: [`Batch::accept`] gives the positions again, one by one.
    ///
    /// # Panics
    /// When there is no such slot, when positions before the last forward pass are taken back, or the sequence is a
    /// branch or has branches.
    pub fn take_back(&mut self, slot: usize, n: usize) {
        self.sequences[slot].truncate(n);
        assert!(self.position(slot) == n, "a ring has room for a window and a pass");
    }

    /// Gives the sequence in a slot its next position again, after [`Batch::take_back`] and no other pass since.
    ///
    /// # Panics
    /// When there is no such slot, or the last forward pass has no such row.
    pub fn accept(&mut self, slot: usize) {
        let position = self.sequences[slot].advance();
        assert!(self.rows.iter().any(|row| row.sequence == slot && row.position == position), "a row of the pass");
    }

    fn forget_rows(&mut self) {
        self.rows.clear();
        self.n_logits = 0;
    }

    /// Its network.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        self.network.config()
    }

    /// Number of slots.
    pub fn n_slots(&self) -> usize {
        self.sequences.len()
    }

    /// Number of evaluated positions of the sequence in a slot.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn position(&self, slot: usize) -> usize {
        self.sequences[slot].position()
    }

    /// How this batch computes; the chunk is at most the positions of all sequences, and at least the number of slots.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Changes how the next tokens are guessed.
    pub(crate) fn set_speculate(&mut self, speculate: Speculate) {
        self.options.speculate = speculate;
    }

    /// The tokens of the last forward pass.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Row `row` of [`Batch::computed_logits`]; empty when there is none.
    pub fn logits_of(&self, row: usize) -> &[f32] {
        let vocab_size = self.config().vocab_size;
        if row < self.n_logits { &self.buffers.logits[row * vocab_size..][..vocab_size] } else { &[] }
    }

    /// The result of [`Batch::logits`] for the last forward pass, `[rows, vocab_size]`; empty when that was not called
    /// since, or failed.
    pub fn computed_logits(&self) -> &[f32] {
        &self.buffers.logits[..self.n_logits * self.config().vocab_size]
    }

    /// Gives every token its row and its position; on an error, no token.
    pub(super) fn give_rows<'t>(&mut self, parts: impl IntoIterator<Item = (usize, &'t [u32])>) -> Result<(), Error> {
        self.forget_rows();
        // Takes them back when it is dropped early, also where the iterator panics.
        struct Giving<'b>(Option<&'b mut Batch>);
        impl Drop for Giving<'_> {
            fn drop(&mut self) {
                if let Some(batch) = self.0.take() {
                    batch.rows.drain(..).for_each(|row| batch.sequences[row.sequence].step_back());
                }
            }
        }
        let mut giving = Giving(Some(self));
        for (slot, tokens) in parts {
            let batch = giving.0.as_mut().expect("until it is done");
            batch.give_rows_to(slot, tokens)?;
        }
        if giving.0.as_ref().is_some_and(|batch| batch.rows.is_empty()) {
            return Err(Error::NoTokens);
        }
        giving.0 = None;
        Ok(())
    }

    fn give_rows_to(&mut self, slot: usize, tokens: &[u32]) -> Result<(), Error> {
        let n_slots = self.sequences.len();
        let sequence = self.sequences.get_mut(slot).ok_or(Error::NoSlot { slot, n_slots })?;
        assert!(!sequence.has_branches(), "a stem stays as it is");
        let room = sequence.left().min(self.options.chunk - self.rows.len());
        if tokens.is_empty() || tokens.len() > room {
            return Err(Error::PassTooLong { tokens: tokens.len(), room });
        }
        let vocab_size = self.network.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::UnknownToken { token, vocab_size });
        }
        let row = |&token| Row { sequence: slot, position: sequence.advance(), token };
        self.rows.extend(tokens.iter().map(row));
        Ok(())
    }
}
