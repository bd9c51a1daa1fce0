//! How a product is cut into passes of a kernel: tiles of rows over blocks of k, and what is fetched meanwhile.

use super::Isa;
use super::bf12::Bf12Work;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES, Step};
use crate::kernels::grid::Block;

/// Most rows of activations that one tile of a kernel takes.
pub const TILE_ROWS: usize = 6;
/// Steps of k that a pass over many rows covers, so that its part of a panel (256 KiB) stays in the L2 cache.
const BLOCK_STEPS: usize = 1024;
/// The same for few rows: the next block, which is fetched meanwhile, needs room too, and is needed soon.
const FEW_ROWS_BLOCK_STEPS: usize = 256;
/// Up to so many rows memory limits the speed as much as the arithmetic does.
const FEW_ROWS: usize = 24;
/// Bytes fetched ahead of weights that are read once, into the L2 cache: 1 to 4 KiB read fastest, 1 KiB also with six
/// rows.
pub const AHEAD_BYTES: usize = 1024;
/// Most cache lines fetched per step: those of the widest panel's steps.
const MOST_LINES: usize = 4;
/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;

/// Asserts that a product is possible. What follows computes with these numbers, and reads by pointers, without further
/// checks: they are checked here whether the build has overflow checks or not.
pub fn check_shapes(panel: usize, width: usize, steps: usize, x: usize, x_stride: usize, out: &Block) {
    assert!(matches!(width, 16 | 32 | 48 | 64) && steps.checked_mul(width) == Some(panel) && out.columns() <= width);
    let last_row = out.rows().checked_sub(1).and_then(|before| before.checked_mul(x_stride));
    let end = last_row.and_then(|begin| begin.checked_add(steps));
    assert!(steps <= x_stride && end.is_some_and(|end| end <= x));
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

/// What a kernel fetches into the L2 cache while it computes: `lines` cache lines per step, at most [`MOST_LINES`], one
/// after the other.
#[derive(Clone, Copy)]
pub struct Ahead {
    pub from: *const i8,
    pub lines: usize,
}

#[cfg(target_arch = "x86_64")]
impl Ahead {
    /// Fetches the lines of one step.
    #[inline(always)]
    pub fn fetch_step(&mut self) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        for line in 0..MOST_LINES {
            if line < self.lines {
                // SAFETY: every x86-64 has the instruction, and it may be given any address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(self.from.wrapping_add(CACHE_LINE * line)) };
            }
        }
        self.from = self.from.wrapping_add(CACHE_LINE * self.lines);
    }

    /// The same at a raw step of a coded panel, which is longer: stays as far ahead as it was.
    #[inline(always)]
    pub fn fetch_raw_step(&mut self) {
        self.fetch_step();
        self.from = self.from.wrapping_add(RAW_STEP_BYTES - CODED_STEP_BYTES);
    }
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

    /// The one tile of a coded panel in memory whose rows a kernel takes all at once.
    pub fn of_bf12_panel(panel: &Bf12Panel, out: &'b mut Block<'a>) -> Self {
        let from = panel.bytes().for_kernels().as_ptr().cast::<i8>();
        let steps = panel.n_steps();
        Tiles::new(out, steps, steps, false, CODED_STEP_BYTES / CACHE_LINE, Source::Once(from))
    }

    /// The tiles of some steps of a coded panel. They are in the caches already; the block that follows, which is about
    /// as long, in this panel or the next, is fetched meanwhile.
    pub fn of_bf12_block(part: &Bf12Panel, out: &'b mut Block<'a>, accumulate: bool) -> Self {
        let (steps, n_tiles) = (part.n_steps(), out.rows().div_ceil(TILE_ROWS));
        let next = part.bytes().for_kernels().as_ptr_range().end.cast::<i8>();
        let next_lines = part.bytes().len() / CACHE_LINE;
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

    /// As [`Tile::work`], for a coded panel or a part of one, all of whose steps are in this tile.
    pub fn bf12_work<'w>(
        &self,
        panel: &Bf12Panel<'w>,
        x: &'w [u32],
        x_stride: usize,
        decoded: &'w mut [Step],
    ) -> Bf12Work<'w> {
        assert!(self.k == 0 && self.steps == panel.n_steps());
        let x = &x[self.row * x_stride..];
        let last = (self.rows - 1) * x_stride + self.steps;
        Bf12Work { panel: *panel, x: &x[..last], x_stride, ahead: self.ahead, decoded }
    }

    /// Lets `kernel` write the rows of this tile: in place, or through a buffer when the block is narrower than the
    /// panel.
    pub fn on_outputs(self, width: usize, kernel: impl FnOnce(&Outputs)) {
        let (out, rows) = (self.out, self.row..self.row + self.rows);
        let mut outputs =
            Outputs { rows: [std::ptr::null_mut(); TILE_ROWS], n_rows: rows.len(), accumulate: self.accumulate };
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    /// The oracle with every way to place its outputs, small enough for Miri.
    #[test]
    fn scalar_products_stay_inside_their_blocks() {
        let isa = Isa::named("scalar").expect("always there");
        let (panel, x) = (vec![1.0; 3 * 64], vec![1.0; 8 * 4]);
        let (pairs, x_pairs) = (vec![0x3f80_3f80; 3 * 64], vec![0x3f80_3f80; 8 * 4]);
        for (rows, columns, width) in [(1, 64, 64), (7, 64, 64), (8, 16, 16), (2, 5, 48), (8, 100, 32)] {
            let mut out = vec![0.0f32; rows * columns];
            let used = width.min(columns);
            let mut whole = Block::whole(&mut out, columns);
            let mut part = whole.part(0..rows, columns - used..columns);
            isa.product_f32(&panel[..3 * width], width, &x[..(rows - 1) * 4 + 3], 4, &mut part, false);
            if width == 64 {
                isa.product_bf16(&pairs, &x_pairs[..(rows - 1) * 4 + 3], 4, &mut part, true);
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
                isa.product_f32(&[1.0; 128], 64, &[1.0; 10], x_stride, &mut Block::whole(&mut out, 64), false);
            });
            let panic = refused.expect_err("refused");
            // Not by an overflow check, which other builds do not have.
            let text = panic.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(text.starts_with("assertion failed"), "{text}");
        }
    }
}
