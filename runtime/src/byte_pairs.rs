//! Byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): the bytes of a word become ids.
//!
//! A word begins as the ids of its bytes. As long as there are neighbours that a merge names, the merge of the lowest
//! rank is carried out, the leftmost first: what `models/bpe/word.rs` of the crate `tokenizers` does.

use crate::format::{Merge, NONE};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use zerocopy::little_endian::U32;

/// Two ids that stand side by side.
type Pair = (u32, u32);

/// The merges of a tokenizer, by their pairs.
pub struct BytePairs {
    bytes: [U32; 256],
    /// Rank and result.
    merges: HashMap<Pair, (u32, u32)>,
}

/// A piece of a word.
#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    /// Where the one before it stands; itself for the first.
    previous: usize,
    /// Where the next one stands; the number of bytes for the last.
    next: usize,
    /// Whether it has become a part of the one before it.
    gone: bool,
}

/// A word while it is merged; its memory is used again for the next one.
#[derive(Default)]
pub struct Word {
    /// A piece stands where its first byte does.
    pieces: Vec<Piece>,
    /// Pairs that a merge names: its rank, where the left piece stands, both ids.
    pairs: BinaryHeap<Reverse<(u32, usize, Pair)>>,
}

impl BytePairs {
    /// Ids of single bytes and merges in the order of their ranks; `None` when a pair stands twice.
    pub fn new(bytes: &[U32; 256], merges: &[Merge]) -> Option<BytePairs> {
        let n_merges = merges.len();
        let merges =
            (0..).zip(merges).map(|(rank, merge)| ((merge.left.get(), merge.right.get()), (rank, merge.id.get())));
        let merges: HashMap<_, _> = merges.collect();
        (merges.len() == n_merges).then_some(BytePairs { bytes: *bytes, merges })
    }

    /// Appends the ids of a word.
    pub fn encode(&self, bytes: &[u8], word: &mut Word, out: &mut Vec<u32>) {
        word.pieces.clear();
        word.pairs.clear();
        for (at, &byte) in bytes.iter().enumerate() {
            let id = self.bytes[usize::from(byte)].get();
            word.pieces.push(Piece { id, previous: at.saturating_sub(1), next: at + 1, gone: false });
        }
        (1..bytes.len()).for_each(|right| self.push(word, right - 1, right));
        while let Some(Reverse((_, left, pair))) = word.pairs.pop() {
            let right = word.pieces[left].next;
            // One of the two pieces may have changed since.
            let is_there = !word.pieces[left].gone && right < bytes.len();
            if !is_there || (word.pieces[left].id, word.pieces[right].id) != pair {
                continue;
            }
            let next = word.pieces[right].next;
            word.pieces[left].id = self.merges[&pair].1;
            word.pieces[left].next = next;
            word.pieces[right].gone = true;
            if next < bytes.len() {
                word.pieces[next].previous = left;
                self.push(word, left, next);
            }
            if left > 0 {
                self.push(word, word.pieces[left].previous, left);
            }
        }
        let ids = word.pieces.iter().filter(|piece| !piece.gone).map(|piece| piece.id);
        // Bytes without an id do not occur in text.
        out.extend(ids.filter(|&id| id != NONE));
    }

    /// Notes that a merge names two neighbours.
    fn push(&self, word: &mut Word, left: usize, right: usize) {
        let pair = (word.pieces[left].id, word.pieces[right].id);
        if let Some(&(rank, _)) = self.merges.get(&pair) {
            word.pairs.push(Reverse((rank, left, pair)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids of a word, merged by looking at all pairs again and again.
    fn slow(pairs: &BytePairs, bytes: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = bytes.iter().map(|&byte| pairs.bytes[usize::from(byte)].get()).collect();
        loop {
            let merges = ids.windows(2).enumerate();
            let merges = merges.filter_map(|(i, pair)| Some((pairs.merges.get(&(pair[0], pair[1]))?, i)));
            let Some((&(_, id), i)) = merges.min() else { return ids };
            ids.splice(i..i + 2, [id]);
        }
    }

    #[test]
    fn merges_as_looking_at_all_pairs_does() {
        let bytes: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
        // Some ids are made in two ways.
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
                pairs.encode(&bytes[..length], &mut word, &mut ids);
                assert_eq!(ids, slow(&pairs, &bytes[..length]), "{bytes:?}");
            }
        }
        assert!(BytePairs::new(&bytes, &[merges[0], merges[0]]).is_none());
    }
}
