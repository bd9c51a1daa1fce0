//! Byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): the bytes of a word become ids.
//!
//! A word starts as the ids of its bytes. While any adjacent pair has a merge, the merge with the lowest rank is
//! applied, leftmost first, as in `models/bpe/word.rs` of the crate `tokenizers`.
//!
//! A word of n bytes takes 16 n bytes of memory and O(n log n) time.

use crate::format::{Merge, NONE};
use crate::os::memory;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, TryReserveError};
use zerocopy::little_endian::U32;

/// Longest word in bytes. Its memory is allocated at once; words of natural language are far shorter.
pub const MAX_WORD_BYTES: usize = 1 << 20;

/// Two adjacent ids.
type Pair = (u32, u32);

/// The merges of a tokenizer, by their pairs.
pub struct BytePairs {
    bytes: [U32; 256],
    ranks: HashMap<Pair, u32>,
    /// In the order of their ranks.
    merges: Vec<Merge>,
}

/// Why a word cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIds {
    /// A word of more than [`MAX_WORD_BYTES`].
    LongWord,
    /// Out of memory.
    NoMemory,
}

impl From<TryReserveError> for NoIds {
    fn from(_: TryReserveError) -> NoIds {
        NoIds::NoMemory
    }
}

/// The state of a word during merging. Its memory is reused for the next word.
#[derive(Default)]
pub struct Word {
    pieces: Vec<Slot>,
    /// Pairs that have a merge: its rank, and the position of the left piece.
    pairs: BinaryHeap<Reverse<(u32, u32)>>,
}

/// Why merges are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPairs {
    /// Two merges of the same pair.
    Twice {
        /// Id of the left piece.
        left: u32,
        /// Id of the right piece.
        right: u32,
    },
    /// Out of memory.
    NoMemory,
}

/// A piece occupies the slots of its bytes: its id is in the first one, [`NONE`] in the others, its length in the first
/// and the last one. So both neighbours can be found.
#[derive(Clone, Copy)]
struct Slot {
    id: u32,
    length: u32,
}

impl BytePairs {
    /// Builds the tables from the ids of single bytes and the merges in the order of their ranks.
    ///
    /// # Errors
    /// [`NoPairs`].
    pub fn new(bytes: &[U32; 256], merges: &[Merge]) -> Result<BytePairs, NoPairs> {
        let (mut ranks, mut by_rank) = (HashMap::new(), Vec::new());
        memory::asking(|| ranks.try_reserve(merges.len())).map_err(|_| NoPairs::NoMemory)?;
        memory::asking(|| by_rank.try_reserve_exact(merges.len())).map_err(|_| NoPairs::NoMemory)?;
        for (rank, merge) in (0..).zip(merges) {
            match ranks.entry((merge.left.get(), merge.right.get())) {
                Entry::Vacant(vacant) => vacant.insert(rank),
                Entry::Occupied(_) => return Err(NoPairs::Twice { left: merge.left.get(), right: merge.right.get() }),
            };
            by_rank.push(*merge);
        }
        Ok(BytePairs { bytes: *bytes, ranks, merges: by_rank })
    }

    /// Appends the ids of a word.
    ///
    /// # Errors
    /// [`NoIds`]; some ids may have been appended.
    pub fn encode(&self, bytes: &[u8], word: &mut Word, out: &mut Vec<u32>) -> Result<(), NoIds> {
        if bytes.len() > MAX_WORD_BYTES {
            return Err(NoIds::LongWord);
        }
        let Word { pieces, pairs } = word;
        pieces.clear();
        pairs.clear();
        memory::asking(|| pieces.try_reserve_exact(bytes.len()))?;
        pieces.extend(bytes.iter().map(|&byte| Slot { id: self.bytes[usize::from(byte)].get(), length: 1 }));
        // The largest number of valid pairs: stale ones are dropped before the heap grows beyond it.
        memory::asking(|| pairs.try_reserve_exact(bytes.len()))?;
        let mergeable =
            pieces.windows(2).zip(0..).filter_map(|(pair, at)| Some((self.rank(pair[0].id, pair[1].id)?, at)));
        pairs.extend(mergeable.map(Reverse));
        while let Some(Reverse((rank, at))) = pairs.pop() {
            let merge = &self.merges[rank as usize];
            let left = at as usize;
            let Some(right) = right_of(pieces, merge, left) else { continue };
            let length = pieces[left].length + pieces[right].length;
            let next = left + length as usize;
            pieces[right].id = NONE;
            pieces[left] = Slot { id: merge.id.get(), length };
            pieces[next - 1].length = length;
            if pairs.len() + 2 > bytes.len() {
                pairs.retain(|&Reverse((rank, at))| {
                    right_of(pieces, &self.merges[rank as usize], at as usize).is_some()
                });
            }
            if let Some(&Slot { id, .. }) = pieces.get(next) {
                pairs.extend(self.rank(merge.id.get(), id).map(|rank| Reverse((rank, at))));
            }
            if left > 0 {
                let before = left - pieces[left - 1].length as usize;
                let rank = self.rank(pieces[before].id, merge.id.get());
                pairs.extend(rank.map(|rank| Reverse((rank, before as u32))));
            }
        }
        // Bytes without an id do not occur in text.
        let ids = || pieces.iter().map(|slot| slot.id).filter(|&id| id != NONE);
        memory::asking(|| out.try_reserve(ids().count()))?;
        out.extend(ids());
        Ok(())
    }

    /// The rank of the merge of a pair.
    fn rank(&self, left: u32, right: u32) -> Option<u32> {
        self.ranks.get(&(left, right)).copied()
    }
}

/// The position of the right piece of a pair, if the piece at `left` and the next one still match `merge`.
fn right_of(pieces: &[Slot], merge: &Merge, left: usize) -> Option<usize> {
    let piece = pieces[left];
    let right = left + piece.length as usize;
    // A piece that became part of another has no id, so no merge matches it.
    let is_valid = piece.id == merge.left.get() && pieces.get(right)?.id == merge.right.get();
    is_valid.then_some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids of a word by the naive algorithm, which scans all pairs for every merge.
    fn naive(pairs: &BytePairs, bytes: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = bytes.iter().map(|&byte| pairs.bytes[usize::from(byte)].get()).collect();
        loop {
            let merges = ids.windows(2).enumerate();
            let merges = merges.filter_map(|(i, pair)| Some((pairs.rank(pair[0], pair[1])?, i)));
            let Some((rank, i)) = merges.min() else { return ids };
            ids.splice(i..i + 2, [pairs.merges[rank as usize].id.get()]);
        }
    }

    #[test]
    fn encode_matches_naive_algorithm() {
        let bytes: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
        // Some ids are made by two merges.
        let merges = [
            (a, b, 256),
            (a, a, 257),
            (b, c, 258),
            (256, c, 259),
            (a, 258, 259),
            (257, b, 260),
            (a, 256, 260),
            (c, c, 261),
            (258, c, 262),
            (b, 261, 262),
            (260, 261, 263),
            (257, 257, 264),
        ];
        let merges =
            merges.map(|(left, right, id)| Merge { left: U32::new(left), right: U32::new(right), id: U32::new(id) });
        let pairs = BytePairs::new(&bytes, &merges).expect("no pair twice");
        let mut word = Word::default();
        for number in 0..3usize.pow(9) {
            let bytes: Vec<u8> = (0..9).map(|i| b'a' + (number / 3usize.pow(i) % 3) as u8).collect();
            for length in 0..=9 {
                let mut ids = Vec::new();
                pairs.encode(&bytes[..length], &mut word, &mut ids).expect("a short word");
                assert_eq!(ids, naive(&pairs, &bytes[..length]), "{bytes:?}");
            }
        }
        assert!(BytePairs::new(&bytes, &[merges[0], merges[0]]).is_err());
    }

    /// `n` merges that double runs of `a`: to 2, 4, 8, ... bytes.
    fn doubling(n: u32) -> BytePairs {
        let bytes: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let ids = || std::iter::once(u32::from(b'a')).chain(256..);
        let merge = |(of, id)| Merge { left: U32::new(of), right: U32::new(of), id: U32::new(id) };
        let merges: Vec<Merge> = ids().zip(256..).map(merge).take(n as usize).collect();
        BytePairs::new(&bytes, &merges).expect("no pair twice")
    }

    #[test]
    fn encode_takes_16_bytes_of_memory_per_byte() {
        let pairs = doubling(20);
        let (mut word, mut ids) = (Word::default(), Vec::new());
        let longest = vec![b'a'; MAX_WORD_BYTES];
        pairs.encode(&longest, &mut word, &mut ids).expect("the longest word");
        assert_eq!(ids, [256 + 19]);
        pairs.encode(&longest[1..], &mut word, &mut ids).expect("a word");
        assert_eq!(ids[1..], std::array::from_fn::<u32, 20, _>(|i| if i < 19 { 256 + 18 - i as u32 } else { 97 }));
        let bytes = word.pieces.capacity() * size_of::<Slot>() + word.pairs.capacity() * size_of::<(u32, u32)>();
        assert_eq!(bytes, 16 * MAX_WORD_BYTES);
        let more = vec![b'a'; MAX_WORD_BYTES + 1];
        assert_eq!(pairs.encode(&more, &mut word, &mut ids), Err(NoIds::LongWord));
    }

    #[test]
    fn stale_pairs_do_not_grow_the_heap() {
        // Every merge makes two new adjacent pairs.
        let bytes: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        let merge = |(left, right, id)| Merge { left: U32::new(left), right: U32::new(right), id: U32::new(id) };
        let merges = [(a, b, 256), (256, a, 257), (b, 256, 258), (256, 256, 259), (259, 256, 260), (259, 259, 261)]
            .into_iter()
            .chain([(b, a, 262), (a, a, 263), (b, b, 264), (261, 261, 265), (257, b, 266), (266, 266, 267)]);
        let merges: Vec<Merge> = merges.map(merge).collect();
        let pairs = BytePairs::new(&bytes, &merges).expect("no pair twice");
        let mut state = 1u32;
        for length in [1, 2, 3, 50, 400] {
            for round in 0..40 {
                let text: Vec<u8> = (0..length)
                    .map(|i| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let is_random = round % 4 == 0;
                        if if is_random { state >> 31 == 0 } else { i % (round % 4 + 1) == 0 } { b'a' } else { b'b' }
                    })
                    .collect();
                let mut ids = Vec::new();
                let mut word = Word::default();
                pairs.encode(&text, &mut word, &mut ids).expect("a short word");
                assert_eq!(ids, naive(&pairs, &text));
                assert!(word.pairs.capacity() <= length.max(4), "{} pairs", word.pairs.capacity());
            }
        }
    }
}
