//! Activations in the order in which tiles take them.

use super::tile_product::{TILE_PAIRS, TILE_ROWS};
use std::ops::Range;

/// Bytes of a cache line. A row of a tile is one, and is read fastest where it begins with one.
const CACHE_LINE: usize = 64;
/// Words that [`aligned`] may skip.
pub const ALIGNMENT_WORDS: usize = CACHE_LINE / size_of::<u32>() - 1;

/// Rows of pairs of bf16, cut into blocks of [`TILE_ROWS`] rows, of which the last may have fewer, and these into tiles
/// of [`TILE_PAIRS`] pairs: `[block of rows][block of pairs][row][pair]`. The pairs of the last tiles that are missing
/// are zeros, which no kernel takes.
#[derive(Clone, Copy)]
pub struct PackedRows<'a> {
    words: &'a [u32],
    n_rows: usize,
    n_steps: usize,
}

impl<'a> PackedRows<'a> {
    /// Words of `n_rows` packed rows of `n_steps` pairs.
    pub fn words(n_rows: usize, n_steps: usize) -> usize {
        n_rows * n_steps.next_multiple_of(TILE_PAIRS)
    }

    /// Rows that [`pack`] has packed.
    ///
    /// # Panics
    /// When `words` has another length than [`PackedRows::words`].
    pub fn new(words: &'a [u32], n_rows: usize, n_steps: usize) -> PackedRows<'a> {
        let row = n_steps.div_ceil(TILE_PAIRS).checked_mul(TILE_PAIRS);
        assert!(row.and_then(|row| row.checked_mul(n_rows)) == Some(words.len()));
        PackedRows { words, n_rows, n_steps }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Pairs of each row.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// When they are not all there, or do not begin with a block and end with one or with the last row.
    pub fn part(&self, rows: Range<usize>) -> PackedRows<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows);
        assert!(rows.start.is_multiple_of(TILE_ROWS) || rows.is_empty());
        assert!(rows.end.is_multiple_of(TILE_ROWS) || rows.end == self.n_rows);
        let row = PackedRows::words(1, self.n_steps);
        PackedRows { words: &self.words[rows.start * row..rows.end * row], n_rows: rows.len(), ..*self }
    }

    /// The tiles of the block of rows that begins with `row`, from that of pair `k` on: those of `n_steps` pairs.
    ///
    /// # Panics
    /// When there are no such tiles, or `row` or `k` is not the first of one.
    pub fn tiles(&self, row: usize, k: usize, n_steps: usize) -> &'a [u32] {
        assert!(row.is_multiple_of(TILE_ROWS) && row < self.n_rows && k.is_multiple_of(TILE_PAIRS));
        let rows = (self.n_rows - row).min(TILE_ROWS);
        let block = &self.words[row * PackedRows::words(1, self.n_steps)..][..PackedRows::words(rows, self.n_steps)];
        &block[k * rows..][..PackedRows::words(rows, n_steps)]
    }
}

/// Packs `n_rows` rows of `n_steps` pairs, row t at `x[t * x_stride ..]`. Several threads can pack a matrix, each some
/// of its blocks of [`TILE_ROWS`] rows.
///
/// # Panics
/// When the shapes do not fit, or `words` has another length than [`PackedRows::words`].
pub fn pack(x: &[u32], x_stride: usize, n_rows: usize, n_steps: usize, words: &mut [u32]) {
    PackedRows::new(words, n_rows, n_steps);
    if n_steps == 0 {
        return;
    }
    assert!(n_steps <= x_stride);
    for (block, words) in words.chunks_mut(PackedRows::words(TILE_ROWS, n_steps)).enumerate() {
        let first = block * TILE_ROWS;
        let rows = (n_rows - first).min(TILE_ROWS);
        for row in 0..rows {
            let x = &x[(first + row) * x_stride..][..n_steps];
            let mut tiles = words.as_chunks_mut::<TILE_PAIRS>().0[row..].iter_mut().step_by(rows);
            let (whole, rest) = x.as_chunks::<TILE_PAIRS>();
            for (tile, x) in tiles.by_ref().zip(whole) {
                *tile = *x;
            }
            if !rest.is_empty() {
                let last = &mut words.as_chunks_mut::<TILE_PAIRS>().0[whole.len() * rows + row];
                last[..rest.len()].copy_from_slice(rest);
                last[rest.len()..].fill(0);
            }
        }
    }
}

/// `len` words from the first one on that begins a cache line.
///
/// # Panics
/// When `words` has fewer than `len` and [`ALIGNMENT_WORDS`].
pub fn aligned(words: &mut [u32], len: usize) -> &mut [u32] {
    assert!(words.len() >= len + ALIGNMENT_WORDS);
    // A wish: Miri may not grant it.
    let skipped = words.as_ptr().align_offset(CACHE_LINE).min(ALIGNMENT_WORDS);
    &mut words[skipped..][..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_in_its_tile() {
        for (n_rows, n_steps) in [(1, 1), (2, 16), (15, 17), (16, 32), (17, 15), (40, 33), (33, 48), (3, 0)] {
            let x_stride = n_steps + 2;
            let x: Vec<u32> = (0..(n_rows * x_stride) as u32).collect();
            let mut words = vec![u32::MAX; PackedRows::words(n_rows, n_steps)];
            pack(&x, x_stride, n_rows, n_steps, &mut words);
            let packed = PackedRows::new(&words, n_rows, n_steps);
            for row in 0..n_rows {
                let first = row / TILE_ROWS * TILE_ROWS;
                for k in 0..n_steps {
                    let first_pair = k / TILE_PAIRS * TILE_PAIRS;
                    let at = (row - first) * TILE_PAIRS + k % TILE_PAIRS;
                    let expected = x[row * x_stride + k];
                    assert_eq!(packed.tiles(first, first_pair, 1)[at], expected, "{n_rows} {n_steps} {row} {k}");
                    let part = packed.part(first..n_rows);
                    assert_eq!(part.tiles(0, first_pair, 1)[at], expected, "{n_rows} {n_steps} {row} {k}");
                }
            }
            let missing = words.len() - n_rows * n_steps;
            assert!(words.iter().filter(|&&word| word == 0).count() >= missing);
            assert!(!words.contains(&u32::MAX));
        }
    }

    #[test]
    fn aligned_words_begin_a_cache_line() {
        let mut words = vec![0; 100];
        for skip in 0..16 {
            let aligned = aligned(&mut words[skip..], 50);
            assert!(aligned.len() == 50);
            #[cfg(not(miri))]
            assert!(aligned.as_ptr().addr().is_multiple_of(CACHE_LINE));
        }
    }
}
