//! Groups of blocks of weights, in the caches, as the kernels of several instruction sets take them.

use super::dot::BLOCK_STEPS;
use super::rows::Bf16Rows;
use crate::format::PANEL_ROWS;
use crate::kernels::grid::OutputBlock;
#[cfg(target_arch = "x86_64")]
use crate::kernels::tiles::prefetch_near;
use crate::kernels::tiles::{CACHE_LINE, prefetch};

/// Weights of 64 outputs that are multiplied with several rows.
pub struct Group<'a> {
    /// The blocks, as the instruction set arranges them.
    pub blocks: &'a [u32],
    /// Steps in all blocks; only the last block may have fewer than the others.
    pub n_steps: usize,
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
    /// The first of them, and the words of each.
    first_row: usize,
    row_words: usize,
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
        GroupRows { x, first_row, row_words: x.arrangement.row_words(x.columns), first_step, sums }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.sums.rows()
    }

    /// The activations of row `t` from the next block on.
    #[inline(always)]
    pub fn x(&self, t: usize) -> &'r [u32] {
        &self.x.words[(self.first_row + t) * self.row_words..][..self.row_words]
            [self.x.arrangement.words_before(self.first_step)..]
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

/// Cache lines of a plain block.
pub const BLOCK_LINES: usize = BLOCK_STEPS * PANEL_ROWS * size_of::<u32>() / CACHE_LINE;

/// What a kernel fetches into the caches while it multiplies, line after line.
#[derive(Clone, Copy)]
pub struct Fetch {
    from: *const i8,
    /// Bytes from one request to the next: those of a line, or fewer where each line is requested more than once.
    step: usize,
}

impl Fetch {
    /// From `from` on.
    pub fn new(from: *const i8) -> Fetch {
        Fetch { from, step: CACHE_LINE }
    }

    /// The part of tile `tile` of `n_tiles` tiles which fetch the lines of `bytes` bytes from `from` on, each with at
    /// least `bytes` / [`CACHE_LINE`] requests.
    pub fn of_tile(from: *const i8, bytes: usize, tile: usize, n_tiles: usize) -> Fetch {
        Fetch { from: from.wrapping_add(bytes * tile / n_tiles), step: CACHE_LINE.div_ceil(n_tiles) }
    }

    /// Fetches the next `lines` lines into the L2 cache.
    #[inline(always)]
    pub fn lines(&mut self, lines: usize) {
        for line in 0..lines {
            prefetch(self.from.wrapping_add(self.step * line));
        }
        self.from = self.from.wrapping_add(self.step * lines);
    }

    /// Fetches the next `lines` lines into the L1 cache.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn lines_near(&mut self, lines: usize) {
        for line in 0..lines {
            prefetch_near(self.from.wrapping_add(self.step * line));
        }
        self.from = self.from.wrapping_add(self.step * lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fetch_every_line_together() {
        const LINES: usize = 256;
        let memory = [0i8; LINES * CACHE_LINE];
        for n_tiles in 1..=100 {
            let mut requested = [false; LINES];
            for tile in 0..n_tiles {
                let fetch = Fetch::of_tile(memory.as_ptr(), memory.len(), tile, n_tiles);
                let begin = fetch.from.addr() - memory.as_ptr().addr();
                for request in 0..LINES {
                    if let Some(line) = requested.get_mut((begin + request * fetch.step) / CACHE_LINE) {
                        *line = true;
                    }
                }
            }
            assert!(requested.iter().all(|&line| line), "{n_tiles}");
        }
    }
}
