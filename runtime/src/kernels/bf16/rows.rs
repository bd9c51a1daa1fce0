//! Rows of activations rounded to bf16, arranged as an instruction set reads them.

use super::dot::{BLOCK_COLUMNS, BLOCK_STEPS};
use crate::kernels::lanes::{LANES, LaneOp};
use crate::kernels::tiles::tile_rows;
use std::ops::Range;

/// Words after a row of [`Arrangement::Columns`].
const GAP: usize = 16;

/// How the activations of a row are stored in memory. All but [`Arrangement::Pairs`] fill the last block of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Pairs as in a panel: `[columns / 2]`, the even column in the low half.
    Pairs,
    /// f32 numbers in the order of the columns, and a cache line that is not used: rows of a tile would fall into the same
    /// sets of the L1 cache where their length is a power of two.
    Columns,
    /// f32 numbers, of each block first the even and then the odd columns: `[groups][blocks][rows of the group][2][16]`.
    /// The rows are in groups that are the tiles of the kernels, which so read on: of nearly equal height, the last with the
    /// rows that are left.
    Floats,
    /// Pairs of two even, then pairs of two odd columns, of each block: `[groups][blocks][rows of the group][2][8]`, in
    /// groups as those of [`Arrangement::Floats`]. The bf16 dot product of AVX-512 adds the high half first, so the
    /// column that comes first is there.
    Halves,
    /// Pairs, in groups of 16 rows, the last with the rows that are left: `[groups][blocks][rows of the group][16]`.
    /// Tiles of AMX.
    Tiles,
}

impl Arrangement {
    /// Of `rows` rows, how many are stored together.
    pub fn group_rows(self, rows: usize) -> usize {
        match self {
            Arrangement::Tiles => 16,
            Arrangement::Floats | Arrangement::Halves => tile_rows(rows.max(1)),
            Arrangement::Pairs | Arrangement::Columns => 1,
        }
    }

    /// Words of a row of `columns` columns; a size that overflows saturates.
    pub fn row_words(self, columns: usize) -> usize {
        let blocks = columns.div_ceil(BLOCK_COLUMNS);
        match self {
            Arrangement::Pairs => columns.div_ceil(2),
            Arrangement::Columns => blocks.saturating_mul(BLOCK_COLUMNS).saturating_add(GAP),
            Arrangement::Floats => blocks.saturating_mul(BLOCK_COLUMNS),
            Arrangement::Halves | Arrangement::Tiles => blocks.saturating_mul(BLOCK_STEPS),
        }
    }

    /// Words of a block of one row.
    pub(crate) fn block_words(self) -> usize {
        match self {
            Arrangement::Columns | Arrangement::Floats => BLOCK_COLUMNS,
            Arrangement::Pairs | Arrangement::Halves | Arrangement::Tiles => BLOCK_STEPS,
        }
    }
}

/// Rows of activations in an arrangement.
#[derive(Clone, Copy)]
pub struct Bf16Rows<'a> {
    /// Group after group.
    pub(crate) words: &'a [u32],
    /// Number of rows.
    pub(crate) rows: usize,
    /// Number of columns.
    pub(crate) columns: usize,
    /// How they are arranged.
    pub(crate) arrangement: Arrangement,
    /// Bits of the smallest magnitude that is not zero, as f32; `u32::MAX` when all are zero.
    pub(crate) min_magnitude: u32,
    group_rows: usize,
}

impl<'a> Bf16Rows<'a> {
    /// Rows that [`RoundGroup`] has rounded, group after group.
    pub fn new(words: &'a [u32], rows: usize, columns: usize, arrangement: Arrangement, min_magnitude: u32) -> Self {
        let group_rows = arrangement.group_rows(rows);
        Bf16Rows { words, rows, columns, arrangement, min_magnitude, group_rows }
    }

    /// Rows that are stored together; the last group has those that are left.
    pub fn group_rows(&self) -> usize {
        self.group_rows
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// When they are not all there, or do not begin with a group and end with one or with the last row.
    pub fn part(&self, rows: Range<usize>) -> Bf16Rows<'a> {
        let group = self.group_rows;
        assert!(rows.start.is_multiple_of(group) && (rows.end.is_multiple_of(group) || rows.end == self.rows));
        let row = self.arrangement.row_words(self.columns);
        Bf16Rows { words: &self.words[rows.start * row..rows.end * row], rows: rows.len(), ..*self }
    }

    /// The words from block `block` of row `row` on: those of this block, and after them what follows in memory, which is
    /// the next block of the row where rows are not in groups.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline(always)]
    pub fn block(&self, row: usize, block: usize) -> &'a [u32] {
        let (group_rows, row_words) = (self.group_rows, self.arrangement.row_words(self.columns));
        assert!(row < self.rows);
        let first = row / group_rows * group_rows;
        let rows = group_rows.min(self.rows - first);
        let words = &self.words[first * row_words..][..rows * row_words];
        &words[(block * rows + row - first) * self.arrangement.block_words()..]
    }
}

/// Rounds a group of rows to bf16: to nearest, ties to even, see [`round_to_bf16`]. Yields the bits of the smallest
/// magnitude that is not zero, or `u32::MAX`.
pub struct RoundGroup<'a> {
    /// `[rows][columns]`, the rows of one group, see [`Arrangement::group_rows`].
    pub x: &'a [f32],
    /// Columns of a row.
    pub columns: usize,
    /// How to arrange them.
    pub arrangement: Arrangement,
    /// [`Arrangement::row_words`] of them for each row.
    pub words: &'a mut [u32],
}

impl LaneOp for RoundGroup<'_> {
    type Output = u32;
    #[inline(always)]
    fn run<const FUSED: bool>(self) -> u32 {
        const { assert!(LANES == BLOCK_STEPS) }
        let mut smallest = [u32::MAX; LANES];
        let rows = self.x.len() / self.columns;
        let words = rows * self.arrangement.row_words(self.columns);
        assert!(rows <= self.arrangement.group_rows(rows) && self.words.len() == words);
        for (row, x) in self.x.chunks_exact(self.columns).enumerate() {
            for (block, x) in x.chunks(BLOCK_COLUMNS).enumerate() {
                let mut columns = [0.0; BLOCK_COLUMNS];
                let x: &[f32; BLOCK_COLUMNS] = match x.try_into() {
                    Ok(whole) => whole,
                    Err(_) => {
                        columns[..x.len()].copy_from_slice(x);
                        &columns
                    }
                };
                let (mut even, mut odd) = ([0u32; LANES], [0u32; LANES]);
                for i in 0..LANES {
                    (even[i], odd[i]) = (round_to_bf16(x[2 * i]).into(), round_to_bf16(x[2 * i + 1]).into());
                    smallest[i] = smallest[i].min(nonzero_magnitude(even[i])).min(nonzero_magnitude(odd[i]));
                }
                match self.arrangement {
                    Arrangement::Pairs => {
                        let words = &mut self.words[block * BLOCK_STEPS..];
                        for (i, word) in words.iter_mut().take(BLOCK_STEPS).enumerate() {
                            *word = even[i] | odd[i] << 16;
                        }
                    }
                    Arrangement::Columns => {
                        let words = &mut self.words[block * BLOCK_COLUMNS..][..BLOCK_COLUMNS];
                        for i in 0..LANES {
                            (words[2 * i], words[2 * i + 1]) = (even[i] << 16, odd[i] << 16);
                        }
                    }
                    Arrangement::Floats => {
                        let words = &mut self.words[(block * rows + row) * BLOCK_COLUMNS..][..BLOCK_COLUMNS];
                        for i in 0..LANES {
                            (words[i], words[LANES + i]) = (even[i] << 16, odd[i] << 16);
                        }
                    }
                    Arrangement::Halves => {
                        let words = &mut self.words[(block * rows + row) * BLOCK_STEPS..][..BLOCK_STEPS];
                        for i in 0..LANES / 2 {
                            words[i] = even[2 * i + 1] | even[2 * i] << 16;
                            words[LANES / 2 + i] = odd[2 * i + 1] | odd[2 * i] << 16;
                        }
                        // Of a last odd step: times a weight of +0 this is -0, which changes no sum.
                        let n_steps = (self.columns - block * BLOCK_COLUMNS).div_ceil(2);
                        if n_steps < BLOCK_STEPS && n_steps % 2 == 1 {
                            words[n_steps / 2] = words[n_steps / 2] & 0xffff_0000 | 0x8000;
                            words[LANES / 2 + n_steps / 2] = words[LANES / 2 + n_steps / 2] & 0xffff_0000 | 0x8000;
                        }
                    }
                    Arrangement::Tiles => {
                        let words = &mut self.words[(block * rows + row) * BLOCK_STEPS..][..BLOCK_STEPS];
                        for i in 0..LANES {
                            words[i] = even[i] | odd[i] << 16;
                        }
                    }
                }
            }
        }
        smallest.into_iter().fold(u32::MAX, u32::min)
    }
}

/// Bits of |x| as f32; zeros become the largest number, so that a minimum passes over them.
#[inline(always)]
fn nonzero_magnitude(x: u32) -> u32 {
    let magnitude = (x & 0x7fff) << 16;
    if magnitude == 0 { u32::MAX } else { magnitude }
}

/// The nearest bf16 number, ties to even; subnormal f32 numbers become zeros of their sign, NaN stays NaN.
#[inline(always)]
pub fn round_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let rounded = if magnitude > 0x7f80_0000 { bits | 0x0040_0000 } else { rounded };
    let rounded = if magnitude < 0x0080_0000 { bits & 0x8000_0000 } else { rounded };
    (rounded >> 16) as u16
}
