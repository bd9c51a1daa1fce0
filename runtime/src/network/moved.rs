//! Sequences that leave a batch: as a copy for another thread, or as bytes that a later process reads.

use crate::error::Error;
use crate::kernels::lanes::KEY_BLOCK;
use crate::kernels::numbers::widened;
use crate::network::batch::Batch;
use crate::network::kv_type::KvType;
use crate::network::sequence::SequenceState;
use crate::os::memory;
use std::ops::Range;

/// Positions whose keys and values are moved at a time.
pub(crate) const MOVED_AT_ONCE: usize = KEY_BLOCK;

impl Batch {
    /// A batch with copies of all sequences, and of row `row` of the logits that were computed.
    ///
    /// # Errors
    /// Those of [`Batch::new`].
    ///
    /// # Panics
    /// When a sequence is a branch.
    pub fn copied(&self, row: usize) -> Result<Batch, Error> {
        let mut copy = Batch::new(&self.network, self.options, self.n_slots())?;
        for (to, from) in copy.sequences.iter_mut().zip(&self.sequences) {
            *to = from.copied(self.network.config(), &copy.options)?;
        }
        copy.restore_logits(self.logits_of(row));
        Ok(copy)
    }

    /// What the sequence in a slot is besides its tokens, its keys and its values.
    pub(crate) fn state(&self, slot: usize) -> SequenceState {
        self.sequences[slot].state(self.network.config())
    }

    /// The positions whose keys and values are moved of a layer, cut at the blocks of the cache.
    pub(crate) fn moved(&self, layer: usize, state: &SequenceState) -> impl Iterator<Item = Range<usize>> + use<> {
        let is_ring = self.sequences[0].cache().layer(layer).is_ring();
        let (first, end) = (if is_ring { state.first_kept } else { 0 }, state.position);
        let blocks = first / MOVED_AT_ONCE..end.div_ceil(MOVED_AT_ONCE);
        blocks.map(move |block| (block * MOVED_AT_ONCE).max(first)..((block + 1) * MOVED_AT_ONCE).min(end))
    }

    /// Bytes of the keys and values of a position in one layer.
    pub(crate) fn position_bytes(&self) -> usize {
        2 * self.network.config().kv_width() * self.options.kv.bytes() as usize
    }

    /// Appends the keys and values of some positions that [`Batch::moved`] names.
    pub(crate) fn append_bytes(&self, slot: usize, layer: usize, positions: Range<usize>, out: &mut Vec<u8>) {
        self.sequences[slot].cache().layer(layer).append_bytes(positions, out);
    }

    /// Stores what [`Batch::append_bytes`] appended, [`Batch::position_bytes`] for each position.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn store_bytes(
        &mut self,
        slot: usize,
        layer: usize,
        positions: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        const WHAT: &str = "the keys and values of a session";
        assert_eq!(bytes.len(), positions.len() * self.position_bytes());
        let (kv_width, kv) = (self.network.config().kv_width(), self.options.kv);
        let room = || memory::room_for(positions.len() * kv_width, WHAT);
        let (mut keys, mut values) = (room()?, room()?);
        for position in bytes.chunks_exact(self.position_bytes()) {
            let (of_keys, of_values) = position.split_at(position.len() / 2);
            keys.extend(numbers(kv, of_keys));
            values.extend(numbers(kv, of_values));
        }
        self.sequences[slot].cache_mut().layer_mut(layer).store(positions.start, &keys, &values);
        Ok(())
    }

    /// Makes the new sequence in a slot the one whose keys and values were stored there.
    pub(crate) fn restore(&mut self, slot: usize, state: SequenceState) {
        self.sequences[slot].restore(state);
    }

    /// Logits that another batch has computed, `[n, vocab_size]`.
    ///
    /// # Panics
    /// When there are more than a chunk of them.
    pub(crate) fn restore_logits(&mut self, logits: &[f32]) {
        self.buffers.logits[..logits.len()].copy_from_slice(logits);
        self.n_logits = logits.len() / self.network.config().vocab_size;
    }
}

/// Little-endian numbers of a KV cache as f32.
fn numbers(kv: KvType, bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(kv.bytes() as usize).map(|number| match *number {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b] => widened(u16::from_le_bytes([a, b])),
        _ => unreachable!("numbers of four or two bytes"),
    })
}
