//! How a product is cut into passes of a kernel: tiles of rows over blocks of k, and what is fetched meanwhile.

use super::Isa;
use crate::grid::Block;
use std::ops::Range;

/// Most rows of activations that one tile of a kernel takes.
pub const TILE_ROWS: usize = 6;
/// Steps of k that a pass over many rows covers, so that its part of a panel (256 KiB) stays in the L2 cache.
const BLOCK_STEPS: usize = 1024;
/// The same for few rows: the next block, which is fetched meanwhile, needs room too, and is needed soon.
const FEW_ROWS_BLOCK_STEPS: usize = 256;
/// Up to so many rows memory limits the speed as much as the arithmetic does.
const FEW_ROWS: usize = 24;
/// Bytes fetched ahead of weights that are read once, into the L2 cache: 1 to 4 KiB read fastest, 1 KiB also with six rows.
pub const AHEAD_BYTES: usize = 1024;
/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;

/// Asserts that a product is possible.
pub fn check_shapes(panel: usize, width: usize, steps: usize, x: usize, x_stride: usize, out: &Block) {
    assert!(matches!(width, 16 | 32 | 48 | 64) && panel == steps * width && out.columns() <= width);
    assert!(out.rows() >= 1 && steps <= x_stride && (out.rows() - 1) * x_stride + steps <= x);
}

/// What one call of a kernel computes: `rows` outputs of `width` over `steps` steps of k.
pub struct Work<'a, T> {
    /// `[steps][width]`
    pub panel: &'a [T],
    pub width: usize,
    pub steps: usize,
    /// Row t begins at `t * x_stride` and has at least `steps` elements.
    pub x: &'a [T],
    pub x_stride: usize,
    /// What to fetch meanwhile.
    pub ahead: Ahead,
}

/// What a kernel fetches into the L2 cache while it computes: `lines` cache lines per step, one after the other.
#[derive(Clone, Copy)]
pub struct Ahead {
    pub from: *const i8,
    pub lines: usize,
}

/// Where a kernel puts its outputs: up to [`TILE_ROWS`] rows of `width` accumulators.
pub struct Outputs {
    pub rows: [*mut f32; TILE_ROWS],
    pub n_rows: usize,
    /// Whether the accumulators begin with what is there, or with +0.
    pub accumulate: bool,
}

/// The order of a product: blocks of k outermost, so that each is read from memory once, and in each block the rows in
/// tiles of nearly equal height. Between blocks of k the accumulators rest in the output, which changes no bit.
///
/// Weights come from memory while the cores compute: what is read once is fetched [`AHEAD_BYTES`] ahead; where several
/// tiles read a block one after the other, each of them fetches its share of the next block.
pub struct Tiles<'b, 'a> {
    out: &'b mut Block<'a>,
    steps: usize,
    accumulate: bool,
    k: usize,
    row: usize,
    tile_rows: usize,
    block_steps: usize,
    /// Cache lines that each tile fetches per step.
    ahead_lines: usize,
    source: Source,
}

/// Where the weights come from.
#[derive(Clone, Copy)]
enum Source {
    /// A panel that begins here and is read once.
    Once(*const i8),
    /// A panel that begins here, each block of it read by several tiles; cache lines of a step.
    Blocks(*const i8, usize),
    /// The caches. The weights that follow begin here; how many cache lines they have.
    Caches(*const i8, usize),
}

/// One pass of a kernel: some steps of k, some rows.
pub struct Tile<'t, 'a> {
    out: &'t mut Block<'a>,
    k: usize,
    steps: usize,
    row: usize,
    rows: usize,
    accumulate: bool,
    ahead: Ahead,
}

impl<'b, 'a> Tiles<'b, 'a> {
    /// The tiles of a panel `[steps][width]` of 32-bit steps in memory.
    pub fn of_panel<T>(isa: Isa, panel: &[T], width: usize, out: &'b mut Block<'a>, accumulate: bool) -> Self {
        let from = panel.as_ptr().cast::<i8>();
        let n_tiles = out.rows().div_ceil(TILE_ROWS);
        let lines = width * size_of::<T>() / CACHE_LINE;
        let source = match n_tiles * isa.strips(out.rows(), width) {
            1 => Source::Once(from),
            _ => Source::Blocks(from, lines),
        };
        let steps = panel.len() / width;
        let block_steps = match source {
            Source::Once(_) => steps,
            _ => block_steps(out.rows()),
        };
        Tiles::new(out, steps, block_steps, accumulate, lines.div_ceil(n_tiles), source)
    }

    /// The tiles of `steps` steps that lie in the caches; meanwhile the `next_lines` cache lines from `next` on are
    /// fetched.
    pub fn of_block(
        steps: usize,
        out: &'b mut Block<'a>,
        accumulate: bool,
        next: *const i8,
        next_lines: usize,
    ) -> Self {
        let n_tiles = out.rows().div_ceil(TILE_ROWS);
        let ahead_lines = next_lines.div_ceil(steps.max(1) * n_tiles);
        Tiles::new(out, steps, steps, accumulate, ahead_lines, Source::Caches(next, next_lines))
    }

    fn new(
        out: &'b mut Block<'a>,
        steps: usize,
        block_steps: usize,
        accumulate: bool,
        ahead_lines: usize,
        source: Source,
    ) -> Self {
        let tile_rows = out.rows().div_ceil(out.rows().div_ceil(TILE_ROWS));
        Tiles { out, steps, accumulate, k: 0, row: 0, tile_rows, block_steps, ahead_lines, source }
    }

    /// The next tile.
    pub fn next(&mut self) -> Option<Tile<'_, 'a>> {
        if self.row >= self.out.rows() {
            self.row = 0;
            self.k += self.block_steps;
        }
        if self.k >= self.steps {
            return None;
        }
        let row = self.row;
        let rows = self.tile_rows.min(self.out.rows() - row);
        self.row += rows;
        let steps = self.block_steps.min(self.steps - self.k);
        let ahead = self.ahead(row / self.tile_rows, steps);
        Some(Tile { k: self.k, steps, row, rows, accumulate: self.accumulate || self.k > 0, ahead, out: self.out })
    }

    /// What pass number `pass` over a block of `steps` steps fetches.
    fn ahead(&self, pass: usize, steps: usize) -> Ahead {
        let from = |from: *const i8, lines: usize| from.wrapping_add(lines * CACHE_LINE);
        let before = pass * self.ahead_lines;
        match self.source {
            Source::Once(panel) => Ahead { from: panel.wrapping_add(AHEAD_BYTES), lines: self.ahead_lines },
            Source::Blocks(panel, lines) => Ahead {
                from: from(panel, (self.k + steps) * lines + before * steps),
                lines: self.ahead_lines.min(lines.saturating_sub(before)),
            },
            Source::Caches(next, lines) => Ahead {
                from: from(next, before * steps),
                lines: if before * steps < lines { self.ahead_lines } else { 0 },
            },
        }
    }
}

/// Steps of a block that the tiles of `rows` rows read one after the other.
pub fn block_steps(rows: usize) -> usize {
    if rows <= FEW_ROWS { FEW_ROWS_BLOCK_STEPS } else { BLOCK_STEPS }
}

impl Tile<'_, '_> {
    /// Its part of `panel`, `[steps][width]`, and of the rows of activations in `x`.
    pub fn work<'w, T>(&self, panel: &'w [T], width: usize, x: &'w [T], x_stride: usize) -> Work<'w, T> {
        let x = &x[self.row * x_stride + self.k..];
        let last = (self.rows - 1) * x_stride + self.steps;
        Work {
            panel: &panel[self.k * width..][..self.steps * width],
            width,
            steps: self.steps,
            x: &x[..last],
            x_stride,
            ahead: self.ahead,
        }
    }

    /// Lets `kernel` write the rows of this tile.
    pub fn on_outputs(self, width: usize, kernel: impl FnOnce(&Outputs)) {
        on_rows(self.out, self.row..self.row + self.rows, width, self.accumulate, kernel);
    }
}

/// Lets `kernel` write `rows` of a block, at most [`TILE_ROWS`]: in place, or through a buffer when the block is narrower
/// than the panel.
pub fn on_rows(out: &mut Block, rows: Range<usize>, width: usize, accumulate: bool, kernel: impl FnOnce(&Outputs)) {
    let mut outputs = Outputs { rows: [std::ptr::null_mut(); TILE_ROWS], n_rows: rows.len(), accumulate };
    if out.columns() == width {
        for (to, row) in outputs.rows.iter_mut().zip(rows) {
            *to = out.row(row).as_mut_ptr();
        }
        return kernel(&outputs);
    }
    let mut buffer = [[0.0f32; 64]; TILE_ROWS];
    for ((to, buffer), row) in outputs.rows.iter_mut().zip(&mut buffer).zip(rows.clone()) {
        buffer[..out.columns()].copy_from_slice(out.row(row));
        *to = buffer.as_mut_ptr();
    }
    kernel(&outputs);
    for (buffer, row) in buffer.iter().zip(rows) {
        let columns = out.columns();
        out.row(row).copy_from_slice(&buffer[..columns]);
    }
}
