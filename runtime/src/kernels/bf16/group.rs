//! Groups of blocks of weights, in the caches, as the kernels of several instruction sets take them.

use super::dot::BLOCK_STEPS;
use super::rows::Bf16Rows;
use crate::format::PANEL_ROWS;
use crate::kernels::grid::OutputBlock;

/// Weights of 64 outputs that are multiplied with several rows.
pub struct Group<'a> {
    /// The blocks, as the instruction set arranges them.
    pub blocks: &'a [u32],
    /// Steps in all blocks; only the last block may have fewer than the others.
    pub n_steps: usize,
    /// Where what to fetch meanwhile begins.
    pub next: *const i8,
    /// Bytes of that.
    pub next_bytes: usize,
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
    /// Step of the panel at which the next block begins.
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

    /// Whether the activations of each row are by themselves.
    pub fn are_apart(&self) -> bool {
        self.x.group_rows() == 1
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.sums.rows()
    }

    /// The activations of row `t` from the next block on, as [`Bf16Rows::block`] yields them.
    #[inline(always)]
    pub fn x(&self, t: usize) -> &'r [u32] {
        self.x.block(self.first_row + t, self.first_step / BLOCK_STEPS)
    }

    /// Continues with the next block.
    pub fn next_block(&mut self) {
        self.first_step += BLOCK_STEPS;
    }

    /// Whether the sums begin with what the outputs hold, or with +0.
    pub fn accumulate(&self) -> bool {
        self.first_step > 0
    }

    /// The outputs of row `t`, 64.
    #[inline(always)]
    pub fn sums(&mut self, t: usize) -> &mut [f32] {
        self.sums.row(t)
    }
}
