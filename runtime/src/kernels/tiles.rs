//! How a product with f32 activations is cut into calls of a kernel: tiles of rows over blocks of k, and what is
//! prefetched meanwhile.

#![allow(unsafe_code, reason = "a prefetch")]

use super::grid::OutputBlock;
use super::isa::Isa;
use super::numbers::Numbers;

/// Most rows of activations that one tile of a kernel takes.
pub const TILE_ROWS: usize = 6;
/// Steps of k that a pass over many rows covers, so that its part of a panel (256 KiB) stays in the L2 cache.
const BLOCK_STEPS: usize = 1024;
/// The same for few rows: the next block, which is fetched meanwhile, needs room too, and is needed soon.
const FEW_ROWS_BLOCK_STEPS: usize = 256;
/// Up to this number of rows memory limits the speed as much as the arithmetic does.
const FEW_ROWS: usize = 24;
/// Most cache lines fetched per step: those of the widest panel's steps.
const MOST_LINES: usize = 4;
/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;
/// Columns of the widest panel.
const MOST_COLUMNS: usize = 64;

/// Asserts that a product is possible: `panel` weights are `[steps][width]`, and `x` activations have a row of `steps`
/// at every multiple of `x_stride` for each row of `out`. Does not rely on the overflow checks of the build.
pub fn check_shapes(panel: usize, width: usize, steps: usize, x: usize, x_stride: usize, out: &OutputBlock) {
    assert!(matches!(width, 16 | 32 | 48 | 64) && steps.checked_mul(width) == Some(panel) && out.columns() <= width);
    let last_row = out.rows().checked_sub(1).and_then(|before| before.checked_mul(x_stride));
    let end = last_row.and_then(|begin| begin.checked_add(steps));
    assert!(steps <= x_stride && end.is_some_and(|end| end <= x));
}

/// A panel, or some steps of one, `[steps][width]`.
pub struct PanelPart<'a> {
    /// The weights.
    pub panel: Numbers<'a>,
    /// Weights of a step.
    pub width: usize,
    /// What to fetch meanwhile.
    pub ahead: Ahead,
}

/// What the weights of one call of a kernel meet: activations and outputs of 1 to [`TILE_ROWS`] rows.
pub struct Rows<'r, 'out> {
    /// Row t begins at `t * x_stride` and has at least `n_steps` elements.
    x: &'r [f32],
    x_stride: usize,
    n_steps: usize,
    outputs: OutputBlock<'out>,
    accumulate: bool,
}

impl<'r, 'out> Rows<'r, 'out> {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.outputs.rows()
    }

    /// Steps of k, each with one activation of every row.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// The activations of each row, `n_steps` of them.
    #[inline(always)]
    pub fn x(&self) -> impl Iterator<Item = &'r [f32]> + use<'r, 'out> {
        let n_steps = self.n_steps;
        self.x.chunks(self.x_stride).map(move |row| &row[..n_steps])
    }

    /// The outputs of row `t`, one for each column of the panel.
    ///
    /// # Panics
    /// When there is no such row.
    #[inline(always)]
    pub fn outputs(&mut self, t: usize) -> &mut [f32] {
        self.outputs.row(t)
    }

    /// Whether the sums begin with what the outputs hold, or with +0.
    pub fn accumulate(&self) -> bool {
        self.accumulate
    }
}

/// What a kernel fetches into the L2 cache while it computes: `lines` cache lines per step, at most [`MOST_LINES`], one
/// after the other.
#[derive(Clone, Copy)]
pub struct Ahead {
    from: *const i8,
    lines: usize,
}

impl Ahead {
    /// The share of strip `strip` of a panel, which has as many strips as a step has cache lines: one line per step.
    pub fn strip(self, strip: usize, n_steps: usize) -> Ahead {
        Ahead { from: self.from.wrapping_add(CACHE_LINE * strip * n_steps), lines: usize::from(strip < self.lines) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Ahead {
    /// Fetches the lines of one step.
    #[inline(always)]
    pub fn fetch_step(&mut self) {
        for line in 0..MOST_LINES {
            if line < self.lines {
                prefetch(self.from.wrapping_add(CACHE_LINE * line));
            }
        }
        self.from = self.from.wrapping_add(CACHE_LINE * self.lines);
    }
}

/// Fetches a cache line into the L2 cache. It is assembly without `nomem` and `readonly`, so that the compiler moves no load
/// across it: it would gather the requests, and the loads after a burst of them wait for it.
#[inline(always)]
pub fn prefetch(line: *const i8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 has the instruction, and it may be given any address.
    unsafe {
        std::arch::asm!("prefetcht1 [{line}]", line = in(reg) line, options(nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _no_hint_here = line;
}

/// As [`prefetch`], into the L1 cache; the compiler may move loads across it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn prefetch_near(line: *const i8) {
    // SAFETY: every x86-64 has the instruction, and it may be given any address.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) }
}

/// Rows of a tile when `rows` are cut into tiles of nearly equal height.
pub fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(TILE_ROWS))
}

/// The order of an f32 product: blocks of k outermost, so that each is read from memory once, and in each block the rows in
/// tiles of nearly equal height. Between blocks of k the accumulators rest in the output, which changes no bit.
///
/// Weights come from memory while the cores compute: what is read once is fetched some bytes ahead (`Streaming`); where several
/// tiles read a block one after the other, each of them fetches its share of the next block.
pub struct Tiles<'b, 'a> {
    out: &'b mut OutputBlock<'a>,
    steps: usize,
    accumulate: bool,
    k: usize,
    row: usize,
    tile_rows: usize,
    block_steps: usize,
    /// Cache lines that each tile fetches per step.
    ahead_lines: usize,
    origin: Origin,
}

/// Where the weights come from.
#[derive(Clone, Copy)]
enum Origin {
    /// A panel that is read once: what to fetch at its beginning.
    Once(*const i8),
    /// A panel that begins here, each block of it read by several tiles; cache lines of a step.
    Blocks(*const i8, usize),
}

/// One call of a kernel: some steps of k, some rows.
pub struct Tile<'t, 'a> {
    out: &'t mut OutputBlock<'a>,
    k: usize,
    steps: usize,
    row: usize,
    rows: usize,
    accumulate: bool,
    ahead: Ahead,
}

impl<'b, 'a> Tiles<'b, 'a> {
    /// The tiles of a panel `[steps][width]`.
    pub fn of_panel(isa: Isa, panel: Numbers, width: usize, out: &'b mut OutputBlock<'a>, accumulate: bool) -> Self {
        let from = panel.begin();
        let n_tiles = out.rows().div_ceil(TILE_ROWS);
        let (lines, steps) = ((width * panel.number_bytes()).div_ceil(CACHE_LINE), panel.len() / width);
        let (origin, block_steps) = match n_tiles * isa.strips(out.rows(), width) {
            1 => (Origin::Once(from.wrapping_add(isa.f32_ahead_bytes())), steps),
            _ => (Origin::Blocks(from, lines), block_steps(out.rows())),
        };
        let tile_rows = tile_rows(out.rows().max(1));
        let ahead_lines = lines.div_ceil(n_tiles);
        Tiles { out, steps, accumulate, k: 0, row: 0, tile_rows, block_steps, ahead_lines, origin }
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
        match self.origin {
            Origin::Once(from) => Ahead { from, lines: self.ahead_lines },
            Origin::Blocks(panel, lines) => Ahead {
                from: from(panel, (self.k + steps) * lines + before * steps),
                lines: self.ahead_lines.min(lines.saturating_sub(before)),
            },
        }
    }
}

/// Steps of a block that the tiles of `rows` rows read one after the other.
fn block_steps(rows: usize) -> usize {
    if rows <= FEW_ROWS { FEW_ROWS_BLOCK_STEPS } else { BLOCK_STEPS }
}

impl Tile<'_, '_> {
    /// Its part of a panel `[steps][width]`.
    pub fn weights<'w>(&self, panel: Numbers<'w>, width: usize) -> PanelPart<'w> {
        let numbers = self.k * width..(self.k + self.steps) * width;
        PanelPart { panel: panel.part(numbers), width, ahead: self.ahead }
    }

    /// Lets `kernel` compute its rows with the activations `x`, row t of the block at `t * x_stride`: in place, or
    /// through a buffer when the block is narrower than the panel.
    pub fn run(self, width: usize, x: &[f32], x_stride: usize, kernel: impl FnOnce(Rows)) {
        let columns = self.out.columns();
        let mut out = self.out.part(self.row..self.row + self.rows, 0..columns);
        let x = &x[self.row * x_stride + self.k..][..(self.rows - 1) * x_stride + self.steps];
        let rows = |outputs| Rows { x, x_stride, n_steps: self.steps, outputs, accumulate: self.accumulate };
        if columns == width {
            return kernel(rows(out));
        }
        let mut buffer = [0.0f32; TILE_ROWS * MOST_COLUMNS];
        let buffer = &mut buffer[..self.rows * width];
        for (t, row) in buffer.chunks_exact_mut(width).enumerate() {
            row[..columns].copy_from_slice(out.row(t));
        }
        kernel(rows(OutputBlock::whole(buffer, width)));
        for (t, row) in buffer.chunks_exact(width).enumerate() {
            out.row(t).copy_from_slice(&row[..columns]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::bf16::{Bf16Panel, Bf16Rows};
    use std::panic::catch_unwind;

    /// The oracle with every way to place its outputs, small enough for Miri.
    #[test]
    fn scalar_products_stay_inside_their_blocks() {
        let isa = Isa::named("scalar").expect("always there");
        let (panel, x) = (vec![1.0; 3 * 64], vec![1.0; 8 * 4]);
        let (pairs, x_pairs) = (vec![0x3f80_3f80; 3 * 64], vec![0x3f80_3f80; 8 * 3]);
        for (rows, columns, width) in [(1, 64, 64), (7, 64, 64), (8, 16, 16), (2, 5, 48), (8, 100, 32)] {
            let mut out = vec![0.0f32; rows * columns];
            let used = width.min(columns);
            let mut whole = OutputBlock::whole(&mut out, columns);
            let mut part = whole.part(0..rows, columns - used..columns);
            isa.product_f32(&panel[..3 * width], width, &x[..(rows - 1) * 4 + 3], 4, &mut part, false);
            if width == 64 {
                let words = &x_pairs[..rows * 3];
                let arrangement = isa.arrangement();
                let x = Bf16Rows::new(words, rows, 6, arrangement, 0x3f80_0000);
                isa.product_bf16(&[Bf16Panel::Plain(&pairs)], &x, &mut part, true);
            }
            let expected = if width == 64 { 6.0 } else { 3.0 };
            for row in out.chunks(columns) {
                assert!(row[..columns - used].iter().all(|&x| x == 0.0));
                assert!(row[columns - used..].iter().all(|&x| x == expected));
            }
        }
    }

    #[test]
    fn shapes_whose_products_wrap_are_refused() {
        let isa = Isa::named("scalar").expect("always there");
        // Three of the first are 2 more than 2^64.
        for x_stride in [6_148_914_691_236_517_206, usize::MAX / 3 + 1, usize::MAX / 2 + 1, usize::MAX] {
            let refused = catch_unwind(|| {
                let mut out = vec![0.0; 4 * 64];
                isa.product_f32(&[1.0; 128], 64, &[1.0; 10], x_stride, &mut OutputBlock::whole(&mut out, 64), false);
            });
            let panic = refused.expect_err("refused");
            // Not by an overflow check, which other builds do not have.
            let text = panic.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(text.starts_with("assertion failed"), "{text}");
        }
    }
}
