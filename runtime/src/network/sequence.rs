//! Sequences that are evaluated together. Each has its own position and KV cache, and some rows of a forward pass.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::kernels::lanes::KEY_BLOCK;
use crate::kernels::numbers::Numbers;
use crate::network::Options;
use crate::network::kv_cache::{KvCache, LayerCache};
use crate::network::linear_state::LinearStates;
use crate::parallel::team::Team;
use std::iter;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// One token of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which sequence it belongs to.
    pub sequence: usize,
    /// Its position there, from 0.
    pub position: usize,
    /// Its id.
    pub token: u32,
}

/// Runs of adjacent rows of one sequence; their positions are consecutive.
pub(crate) fn stretches(rows: &[Row]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    rows.chunk_by(|a, b| a.sequence == b.sequence).map(move |stretch| {
        let first = end;
        end += stretch.len();
        first..end
    })
}

/// What a sequence is besides its tokens, its keys and its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceState {
    /// Positions that were evaluated.
    pub position: usize,
    /// The first position whose keys and values are kept of layers with a sliding window: that which the last evaluated
    /// position sees, so that it can be evaluated again, or the one after it.
    pub first_kept: usize,
    /// Position and layer of the first non-finite activations.
    pub not_finite: Option<(usize, usize)>,
}

/// A sequence: its KV cache, its position and its capacity.
///
/// A branch continues another sequence, its stem: it reads the whole blocks of the stem's keys and values where they
/// are, and has a cache of its own for what follows.
pub struct Sequence {
    cache: KvCache,
    /// Those after the last evaluated position; they have no earlier ones.
    states: LinearStates,
    /// Positions that the cache has room for.
    room: usize,
    /// The sequence that has the positions before those of the cache.
    stem: Option<usize>,
    /// The position that the cache begins with: a multiple of [`KEY_BLOCK`], 0 without a stem.
    origin: usize,
    /// How many branches read this cache, which does not change meanwhile.
    n_branches: usize,
    position: usize,
    /// Most positions that were stored before a cut: the slots of a ring may still hold positions after the cut.
    written: usize,
    /// Position (high half) and layer (low half) of the first non-finite activations; all bits set if there are none.
    not_finite: AtomicU64,
}

impl Sequence {
    /// A sequence of capacity zero, without memory.
    pub(crate) fn without_room() -> Sequence {
        Sequence {
            cache: KvCache::default(),
            states: LinearStates::default(),
            room: 0,
            stem: None,
            origin: 0,
            n_branches: 0,
            position: 0,
            written: 0,
            not_finite: AtomicU64::new(u64::MAX),
        }
    }

    /// Begins a new sequence of at most `positions` positions. Memory that is large enough is kept; all sequences in it
    /// have the same options.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// When the sequence is a branch, or has branches.
    pub(crate) fn begin(&mut self, config: &ModelConfig, options: &Options, positions: usize) -> Result<(), Error> {
        self.restart();
        if self.room < positions {
            // Frees the old cache first, so that both never exist at once.
            *self = Sequence::without_room();
            self.cache = KvCache::new(config, options.kv, positions, options.chunk)?;
            self.room = positions;
        }
        if self.states.is_empty() {
            self.states = LinearStates::new(config)?;
        }
        Ok(())
    }

    /// Begins a new sequence in the same memory.
    ///
    /// # Panics
    /// When the sequence is a branch, or has branches.
    pub(crate) fn restart(&mut self) {
        assert!(self.stem.is_none() && self.n_branches == 0, "a sequence by itself");
        // Cache contents beyond the position are never read.
        self.position = 0;
        self.written = 0;
        *self.not_finite.get_mut() = u64::MAX;
    }

    /// Removes all positions from `n` on, or all positions if a ring no longer has the keys that position `n` sees, or a
    /// layer has a state, which has no earlier one.
    ///
    /// # Panics
    /// When the sequence is a branch, or has branches.
    pub(crate) fn truncate(&mut self, n: usize) {
        if n >= self.position {
            return;
        }
        assert!(self.stem.is_none() && self.n_branches == 0, "a sequence by itself");
        self.written = self.written.max(self.position);
        if !self.cache.holds(n, self.written) || !self.states.is_empty() {
            return self.restart();
        }
        self.position = n;
        // Only the first mark is stored. One before the cut remains valid; one after it is removed.
        let mark = self.not_finite.get_mut();
        if *mark >> 32 >= n as u64 {
            *mark = u64::MAX;
        }
    }

    /// A sequence of its own with the same positions and room.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// When the sequence is a branch, or has branches.
    pub(crate) fn copied(&self, config: &ModelConfig, options: &Options) -> Result<Sequence, Error> {
        assert!(self.stem.is_none() && self.n_branches == 0, "a sequence by itself");
        let mut copy = Sequence::without_room();
        let written = self.written.max(self.position);
        copy.cache = self.cache.copied(config, options.kv, [self.room, options.chunk], written)?;
        if !self.states.is_empty() {
            copy.states = LinearStates::new(config)?;
            copy.states.copy_from(&self.states);
        }
        (copy.room, copy.position, copy.written) = (self.room, self.position, self.written);
        copy.not_finite = AtomicU64::new(self.not_finite.load(Ordering::Relaxed));
        Ok(copy)
    }

    /// What [`Sequence::restore`] needs besides keys and values.
    ///
    /// # Panics
    /// When the sequence is a branch.
    pub(crate) fn state(&self, config: &ModelConfig) -> SequenceState {
        assert!(self.stem.is_none(), "a sequence by itself");
        let (window, held) = (config.sliding_window, self.cache.first_held(self.written.max(self.position)));
        let first_kept = if window == 0 { 0 } else { self.position.saturating_sub(window).max(held) };
        SequenceState { position: self.position, first_kept, not_finite: self.first_not_finite() }
    }

    /// Makes a sequence without positions one whose keys and values are in its cache already.
    ///
    /// # Panics
    /// When it has positions, or no room for them.
    pub(crate) fn restore(&mut self, state: SequenceState) {
        assert!(self.position == 0 && self.stem.is_none() && state.position <= self.room, "a new sequence");
        self.position = state.position;
        self.written = self.cache.written_when_first_is(state.first_kept);
        if let Some((position, layer)) = state.not_finite {
            self.note_not_finite(position, layer);
        }
    }

    /// Its keys and values.
    pub(crate) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Its keys and values, mutably.
    pub(crate) fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// The states of its layers with linear attention.
    pub(crate) fn states(&self) -> &LinearStates {
        &self.states
    }

    /// The states of its layers with linear attention, mutably.
    pub(crate) fn states_mut(&mut self) -> &mut LinearStates {
        &mut self.states
    }

    /// Records that a layer computed non-finite activations.
    pub(crate) fn note_not_finite(&self, position: usize, layer: usize) {
        self.not_finite.fetch_min((position as u64) << 32 | layer as u64, Ordering::Relaxed);
    }

    /// Position and layer of the first non-finite activations.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, usize)> {
        let first = self.not_finite.load(Ordering::Relaxed);
        (first != u64::MAX).then_some(((first >> 32) as usize, first as u32 as usize))
    }

    /// Number of positions evaluated so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Number of positions left.
    pub(crate) fn left(&self) -> usize {
        self.origin + self.room - self.position
    }

    /// Whether branches read its cache: then it gets no positions.
    pub(crate) fn has_branches(&self) -> bool {
        self.n_branches > 0
    }

    /// Takes the next position.
    pub(crate) fn advance(&mut self) -> usize {
        self.position += 1;
        self.position - 1
    }

    /// Gives the last position back.
    pub(crate) fn step_back(&mut self) {
        self.position -= 1;
    }

    /// Stores the keys and values of positions from `first` on in a layer; with a team, its threads share the heads.
    fn store(&mut self, team: Option<&mut Team>, layer: usize, first: usize, keys: &[f32], values: &[f32]) {
        let (cache, first) = (self.cache.layer_mut(layer), first - self.origin);
        match team {
            Some(team) => cache.store_in_parallel(team, first, keys, values),
            None => cache.store(first, keys, values),
        }
    }
}

/// Lets `branch`, which is by itself, continue the first `n` positions of `stem`, up to `positions` in all. The last
/// block of the `n` positions is copied if it is not whole.
///
/// # Errors
/// [`Error::OutOfMemory`].
///
/// # Panics
/// When the stem does not have the positions, or a layer with a sliding window has lost keys that position `n` sees;
/// when `branch` is not by itself.
pub(crate) fn fork(
    sequences: &mut [Sequence],
    [stem, branch]: [usize; 2],
    n: usize,
    config: &ModelConfig,
    options: &Options,
    positions: usize,
) -> Result<(), Error> {
    let origin = n / KEY_BLOCK * KEY_BLOCK;
    assert!(can_fork(sequences, stem, n), "the stem has what position {n} sees");
    assert!(stem != branch && n <= positions, "room for the positions of the stem");
    sequences[branch].begin(config, options, positions - origin)?;
    if n > origin {
        // A branch of a branch: the block is where its positions were stored.
        let (owner, block) = owner(sequences, stem, n / KEY_BLOCK);
        let [from, to] = sequences.get_disjoint_mut([owner, branch]).expect("two sequences");
        (0..config.n_layers())
            .for_each(|layer| to.cache.layer_mut(layer).copy_block(0, from.cache.layer(layer), block));
    }
    if !sequences[stem].states.is_empty() {
        let [from, to] = sequences.get_disjoint_mut([stem, branch]).expect("two sequences");
        to.states.copy_from(&from.states);
    }
    let first_not_finite = sequences[stem].first_not_finite().filter(|(position, _)| *position < n);
    sequences[stem].n_branches += 1;
    let branch = &mut sequences[branch];
    (branch.stem, branch.origin, branch.position) = (Some(stem), origin, n);
    if let Some((position, layer)) = first_not_finite {
        branch.note_not_finite(position, layer);
    }
    Ok(())
}

/// Whether [`fork`] after the first `n` positions of `stem` is possible: the last of them are its own, its cache and
/// those of its stems have what position `n` sees, and its states, if it has any, are those after `n` positions.
pub(crate) fn can_fork(sequences: &[Sequence], stem: usize, n: usize) -> bool {
    if !(sequences[stem].origin..=sequences[stem].position).contains(&n) {
        return false;
    }
    if n != sequences[stem].position && !sequences[stem].states.is_empty() {
        return false;
    }
    let with_stems = iter::successors(Some(stem), |&stem| sequences[stem].stem);
    with_stems.map(|stem| &sequences[stem]).all(|sequence| {
        let written = sequence.written.max(sequence.position) - sequence.origin;
        sequence.cache.holds(n - sequence.origin, written)
    })
}

/// Makes a branch a sequence by itself again, without positions.
///
/// # Panics
/// When it has branches.
pub(crate) fn release(sequences: &mut [Sequence], branch: usize) {
    assert!(!sequences[branch].has_branches(), "a stem stays as it is");
    if let Some(stem) = sequences[branch].stem.take() {
        sequences[stem].n_branches -= 1;
    }
    sequences[branch].origin = 0;
    sequences[branch].restart();
}

/// The sequence whose cache has block `block` of a sequence, and which block it is there.
fn owner(sequences: &[Sequence], sequence: usize, block: usize) -> (usize, usize) {
    let mut owner = sequence;
    while let Some(stem) = sequences[owner].stem.filter(|_| block * KEY_BLOCK < sequences[owner].origin) {
        owner = stem;
    }
    (owner, block - sequences[owner].origin / KEY_BLOCK)
}

/// Keys and values of a layer of a sequence, those of its stems included.
#[derive(Clone, Copy)]
pub(crate) struct LayerView<'a> {
    sequences: &'a [Sequence],
    sequence: usize,
    layer: usize,
}

impl<'a> LayerView<'a> {
    /// Those of a sequence.
    pub fn new(sequences: &'a [Sequence], sequence: usize, layer: usize) -> LayerView<'a> {
        LayerView { sequences, sequence, layer }
    }

    /// As [`LayerCache::padded_head_dim`].
    pub fn padded_head_dim(&self) -> usize {
        self.sequences[self.sequence].cache.layer(self.layer).padded_head_dim()
    }

    /// As [`LayerCache::keys`].
    pub fn keys(&self, head: usize, block: usize) -> Numbers<'a> {
        let (cache, block) = self.owner(block);
        cache.keys(head, block)
    }

    /// As [`LayerCache::values`].
    pub fn values(&self, head: usize, block: usize) -> impl Iterator<Item = (usize, usize, Numbers<'a>)> {
        let (cache, block) = self.owner(block);
        cache.values(head, block)
    }

    fn owner(&self, block: usize) -> (&'a LayerCache, usize) {
        let (owner, block) = owner(self.sequences, self.sequence, block);
        (self.sequences[owner].cache.layer(self.layer), block)
    }
}

/// Stores the keys and values of `rows`, both `[rows][n_kv_heads * head_dim]`, in one layer of their sequences.
pub(crate) fn store(
    team: &mut Team,
    sequences: &mut [Sequence],
    layer: usize,
    rows: &[Row],
    keys: &[f32],
    values: &[f32],
) {
    let width = keys.len() / rows.len();
    let first = rows[0];
    if rows.iter().all(|row| row.sequence == first.sequence) {
        // The threads share the heads of a single sequence.
        return sequences[first.sequence].store(Some(team), layer, first.position, keys, values);
    }
    team.for_rows(sequences, 1, |index, sequence| {
        for stretch in stretches(rows).filter(|stretch| rows[stretch.start].sequence == index) {
            let numbers = stretch.start * width..stretch.end * width;
            let first = rows[stretch.start].position;
            sequence[0].store(None, layer, first, &keys[numbers.clone()], &values[numbers]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_the_neighbours_of_one_sequence() {
        let row = |sequence, position| Row { sequence, position, token: 0 };
        let rows = [row(2, 7), row(0, 0), row(0, 1), row(0, 2), row(2, 8)];
        assert_eq!(stretches(&rows).collect::<Vec<_>>(), [0..1, 1..4, 4..5]);
        assert_eq!(stretches(&[]).count(), 0);
    }
}
