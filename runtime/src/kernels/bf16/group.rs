//! Groups of blocks of weights, in the caches, as the kernels of several instruction sets take them.

use super::dot::BLOCK_STEPS;
use super::rows::Bf16Rows;
use crate::format::PANEL_ROWS;
use crate::kernels::grid::OutputBlock;
use crate::kernels::isa::Isa;
use crate::kernels::tiles::{CACHE_LINE, TILE_ROWS, prefetch};

/// Weights of 64 outputs that are multiplied with several rows.
pub struct Group<'a> {
    /// The blocks, as the instruction set arranges them.
    pub blocks: &'a [u32],
    /// Steps in all blocks; only the last block may have fewer than the others.
    pub n_steps: usize,
    /// Whether the sums begin with what the outputs hold, or with +0.
    pub accumulate: bool,
    /// What to fetch meanwhile.
    pub fetch: Fetch,
    /// Lines of that to fetch before each block.
    pub lines: usize,
}

impl Group<'_> {
    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        self.n_steps.div_ceil(BLOCK_STEPS)
    }
}

/// Rows of activations, and their outputs of one panel.
pub struct GroupRows<'r, 'out> {
    x: Bf16Rows<'r>,
    /// The first of them.
    first_row: usize,
    /// Step of the panel at which the group begins.
    first_step: usize,
    /// Whole rows of 64.
    sums: OutputBlock<'out>,
}

impl<'r, 'out> GroupRows<'r, 'out> {
    /// # Panics
    /// When the outputs have another width than a panel.
    pub fn new(x: Bf16Rows<'r>, first_row: usize, first_step: usize, sums: OutputBlock<'out>) -> Self {
        assert!(sums.columns() == PANEL_ROWS);
        GroupRows { x, first_row, first_step, sums }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.sums.rows()
    }

    /// The activations of row `t` from the group's first step on.
    #[inline(always)]
    pub fn x(&self, t: usize) -> &'r [u32] {
        let words = self.x.arrangement.row_words(self.x.columns);
        &self.x.words[(self.first_row + t) * words..][..words][self.x.arrangement.words_before(self.first_step)..]
    }

    /// The outputs of row `t`, 64.
    #[inline(always)]
    pub fn sums(&mut self, t: usize) -> &mut [f32] {
        self.sums.row(t)
    }
}

/// Cache lines of a plain block.
pub const BLOCK_LINES: usize = BLOCK_STEPS * PANEL_ROWS * size_of::<u32>() / CACHE_LINE;

/// What a kernel fetches into the L2 cache while it multiplies, line after line.
#[derive(Clone, Copy)]
pub struct Fetch(*const i8);

impl Fetch {
    /// From `from` on.
    pub fn new(from: *const i8) -> Fetch {
        Fetch(from)
    }

    /// Fetches the next `lines` lines.
    #[inline(always)]
    pub fn lines(&mut self, lines: usize) {
        for line in 0..lines {
            prefetch(self.0.wrapping_add(CACHE_LINE * line));
        }
        self.0 = self.0.wrapping_add(CACHE_LINE * lines);
    }
}

/// A few rows of activations, at some block, and their outputs of one panel.
pub struct Few<'r, 'out> {
    isa: Isa,
    x: [&'r [u32]; TILE_ROWS],
    /// Words of a block.
    block_words: usize,
    accumulate: bool,
    /// Whole rows of 64.
    sums: OutputBlock<'out>,
}

impl<'r, 'out> Few<'r, 'out> {
    /// At the block that begins with step `first_step` of the panel.
    ///
    /// # Panics
    /// When the outputs have another width than a panel, or too many rows.
    pub fn new(isa: Isa, x: &Bf16Rows<'r>, first_step: usize, sums: OutputBlock<'out>) -> Self {
        assert!(sums.columns() == PANEL_ROWS && sums.rows() <= TILE_ROWS);
        let arrangement = x.arrangement;
        let (words, before) = (arrangement.row_words(x.columns), arrangement.words_before(first_step));
        let mut rows = x.words.chunks_exact(words);
        let mut x: [&[u32]; TILE_ROWS] = [&[]; TILE_ROWS];
        x.iter_mut().zip(rows.by_ref()).for_each(|(x, row)| *x = &row[before..]);
        let block_words = arrangement.words_before(BLOCK_STEPS);
        Few { isa, x, block_words, accumulate: first_step > 0, sums }
    }

    /// The instruction set, to decode with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Continues with the next block.
    #[inline(always)]
    pub fn next_block(&mut self) {
        for x in &mut self.x {
            *x = x.get(self.block_words..).unwrap_or_default();
        }
        self.accumulate = true;
    }

    /// Number of rows.
    #[inline(always)]
    pub fn n_rows(&self) -> usize {
        self.sums.rows()
    }

    /// The activations of row `t` from the block on.
    #[inline(always)]
    pub fn x(&self, t: usize) -> &'r [u32] {
        self.x[t]
    }

    /// Whether the sums begin with what the outputs hold, or with +0.
    #[inline(always)]
    pub fn accumulate(&self) -> bool {
        self.accumulate
    }

    /// The outputs of row `t`, 64.
    #[inline(always)]
    pub fn sums(&mut self, t: usize) -> &mut [f32] {
        self.sums.row(t)
    }
}
