//! Sequences that are evaluated together. Each has its own position and KV cache, and some rows of a forward pass.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::network::kv_cache::{KvCache, LayerCache};
use crate::network::kv_type::KvType;
use crate::parallel::team::Team;
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

/// A sequence: its KV cache, its position and its capacity.
pub struct Sequence {
    cache: KvCache,
    room: usize,
    position: usize,
    /// Most positions that were stored before a cut: the slots of a ring may still hold positions after the cut.
    written: usize,
    /// Position (high half) and layer (low half) of the first non-finite activations; all bits set if there are none.
    not_finite: AtomicU64,
}

impl Sequence {
    /// A sequence of capacity zero, without memory.
    pub(crate) fn without_room() -> Sequence {
        Sequence { cache: KvCache::default(), room: 0, position: 0, written: 0, not_finite: AtomicU64::new(u64::MAX) }
    }

    /// Begins a new sequence of at most `positions` positions, added in chunks of at most `chunk`. Memory that is large
    /// enough is kept; its `kv` is that of all sequences in this memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn begin(
        &mut self,
        config: &ModelConfig,
        kv: KvType,
        positions: usize,
        chunk: usize,
    ) -> Result<(), Error> {
        if self.room < positions {
            // Frees the old cache first, so that both never exist at once.
            *self = Sequence::without_room();
            self.cache = KvCache::new(config, kv, positions, chunk)?;
            self.room = positions;
        }
        self.restart();
        Ok(())
    }

    /// Begins a new sequence in the same memory.
    pub(crate) fn restart(&mut self) {
        // Cache contents beyond the position are never read.
        self.position = 0;
        self.written = 0;
        *self.not_finite.get_mut() = u64::MAX;
    }

    /// Removes all positions from `n` on, or all positions if a ring no longer has the keys that position `n` sees.
    pub(crate) fn truncate(&mut self, n: usize) {
        if n >= self.position {
            return;
        }
        self.written = self.written.max(self.position);
        if !self.cache.holds(n, self.written) {
            return self.restart();
        }
        self.position = n;
        // Only the first mark is stored. One before the cut remains valid; one after it is removed.
        let mark = self.not_finite.get_mut();
        if *mark >> 32 >= n as u64 {
            *mark = u64::MAX;
        }
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
        self.room - self.position
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

    /// Keys and values of a layer.
    pub(crate) fn layer(&self, layer: usize) -> &LayerCache {
        self.cache.layer(layer)
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
        let cache = sequences[first.sequence].cache.layer_mut(layer);
        return cache.store_in_parallel(team, first.position, keys, values);
    }
    team.for_rows(sequences, 1, |index, sequence| {
        for stretch in stretches(rows).filter(|stretch| rows[stretch.start].sequence == index) {
            let numbers = stretch.start * width..stretch.end * width;
            let cache = sequence[0].cache.layer_mut(layer);
            cache.store(rows[stretch.start].position, &keys[numbers.clone()], &values[numbers]);
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
