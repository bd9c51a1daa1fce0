//! Products with AMX: tiles of 16 rows of activations times tiles of 16 outputs, 16 pairs of bf16 at a time.
//!
//! The language has no tiles yet, so each thing done with them is assembly. The compiler, which knows no tiles, makes no
//! code that touches any: what one piece of assembly leaves in them is there for the next. They are used only through
//! [`Tiles`], which releases them when it goes, so that nothing that is computed between two products, or a panic, keeps
//! them: a system saves 8 KiB whenever it takes the processor from a thread with tiles in use.
//!
//! Tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights. The sums are those of one block of rows with all 64
//! outputs of a panel (a strip), or of two blocks of rows with 32 of them (a square).

#![allow(unsafe_code, reason = "instructions that the compiler has no functions for")]

use super::super::grid::OutputBlock;
use super::super::packed_rows::PackedRows;
use super::super::tile_product::{TILE_PAIRS, TILE_ROWS};
use crate::format::PANEL_ROWS;
use std::arch::asm;
use std::marker::PhantomData;

/// Rows of activations to compute with at a time: with 2048 columns they take half of a cache of 2 MiB.
pub const CHUNK_ROWS: usize = 256;
/// Steps of k that a pass over several blocks of rows covers, so that its part of a panel (256 KiB) stays in the L2
/// cache. Between two passes the sums rest in the outputs: with half of the steps that costs a tenth of the speed.
pub const BLOCK_STEPS: usize = 1024;

/// Rows of a square.
const SQUARE_ROWS: usize = 2 * TILE_ROWS;
/// Columns of a square.
const SQUARE_COLUMNS: usize = 32;
/// Bytes of a row of a tile.
const ROW_BYTES: usize = 64;
/// Bytes of a step of a panel.
const STEP_BYTES: usize = PANEL_ROWS * size_of::<u32>();

/// What the instruction `LDTILECFG` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Configuration>() == 64);

impl Configuration {
    /// For two blocks of `heights` rows and `pairs` pairs, all 1 to 16.
    fn new(heights: [usize; 2], pairs: usize) -> Configuration {
        let is_size = |size: usize| (1..=16).contains(&size);
        assert!(is_size(heights[0]) && is_size(heights[1]) && is_size(pairs));
        let [first, second] = heights.map(|height| height as u8);
        let mut row_bytes = [0; 16];
        row_bytes[..8].fill(ROW_BYTES as u16);
        row_bytes[4..6].fill(4 * pairs as u16);
        let mut rows = [0; 16];
        // A strip has all of its sums in rows of one block, whose height both are.
        rows[..6].copy_from_slice(&[first, first, second, second, first, second]);
        rows[6..8].fill(pairs as u8);
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

/// The tiles of this thread, configured.
pub struct Tiles {
    heights: [usize; 2],
    pairs: usize,
    /// Tiles are registers of one thread: these cannot go to another.
    thread: PhantomData<*mut ()>,
}

impl Tiles {
    /// For sums of rows in two blocks of these heights, and weights of `pairs` pairs at a time.
    ///
    /// # Safety
    /// The CPU must have AMX for bf16, the process the permission to use it, and this thread no other `Tiles`.
    ///
    /// # Panics
    /// When a number is not 1 to 16.
    #[inline]
    pub unsafe fn new(heights: [usize; 2], pairs: usize) -> Tiles {
        let mut tiles = Tiles { heights, pairs, thread: PhantomData };
        tiles.configure(heights, pairs);
        tiles
    }

    /// Other blocks of rows. Every tile becomes zeros.
    ///
    /// # Panics
    /// When a number is not 1 to 16.
    #[inline]
    fn configure(&mut self, heights: [usize; 2], pairs: usize) {
        let configuration = Configuration::new(heights, pairs);
        (self.heights, self.pairs) = (heights, pairs);
        // SAFETY: `Tiles::new`, which made `self`, demands AMX and the permission. It reads 64 bytes, the size asserted
        // above, with numbers that `Configuration::new` has asserted.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags)
            );
        }
    }

    /// Where the sums are in a block of outputs: of a strip if it has 64 columns, of a square if it has 32.
    fn places(&self, out: &mut OutputBlock) -> [*mut f32; 4] {
        let is_strip = out.columns() == PANEL_ROWS && out.rows() == self.heights[0] && out.rows() == self.heights[1];
        let is_square = out.columns() == SQUARE_COLUMNS && out.rows() == self.heights[0] + self.heights[1];
        assert!(is_strip || is_square);
        let below = self.heights[0] * out.stride();
        let offsets = if is_strip { [0, 16, 32, 48] } else { [0, 16, below, below + 16] };
        let first = out.as_mut_ptr();
        offsets.map(|offset| first.wrapping_add(offset))
    }

    /// Begins the sums of a block of outputs with what it holds, or with +0.
    ///
    /// # Panics
    /// When the block has other rows than the tiles, or neither 64 nor 32 columns.
    #[inline]
    pub fn begin(&mut self, out: &mut OutputBlock, accumulate: bool) {
        let [a, b, c, d] = self.places(out);
        // SAFETY: `Tiles::new` demands AMX. `Tiles::places` has compared the rows of the tiles with those of the block,
        // and asserted that these have the four tiles.
        unsafe {
            if accumulate {
                asm!(
                    "tileloadd tmm0, [{a} + {stride}*1]",
                    "tileloadd tmm1, [{b} + {stride}*1]",
                    "tileloadd tmm2, [{c} + {stride}*1]",
                    "tileloadd tmm3, [{d} + {stride}*1]",
                    a = in(reg) a, b = in(reg) b, c = in(reg) c, d = in(reg) d,
                    stride = in(reg) out.stride() * size_of::<f32>(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly, preserves_flags)
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, nomem, preserves_flags)
                );
            }
        }
    }

    /// Stores the sums in a block of outputs.
    ///
    /// # Panics
    /// As [`Tiles::begin`].
    #[inline]
    pub fn end(&mut self, out: &mut OutputBlock) {
        let [a, b, c, d] = self.places(out);
        // SAFETY: as in `Tiles::begin`; the block is borrowed exclusively.
        unsafe {
            asm!(
                "tilestored [{a} + {stride}*1], tmm0",
                "tilestored [{b} + {stride}*1], tmm1",
                "tilestored [{c} + {stride}*1], tmm2",
                "tilestored [{d} + {stride}*1], tmm3",
                a = in(reg) a, b = in(reg) b, c = in(reg) c, d = in(reg) d,
                stride = in(reg) out.stride() * size_of::<f32>(),
                options(nostack, preserves_flags)
            );
        }
    }

    /// Tiles of activations in `x`, of a block of `height` rows.
    ///
    /// # Panics
    /// When `weights` has not the steps of these tiles.
    fn count(&self, weights: &[u32], x: &[u32], height: usize) -> usize {
        let n = x.len() / (height * TILE_PAIRS);
        assert!(n * height * TILE_PAIRS == x.len() && n * self.pairs * PANEL_ROWS == weights.len());
        assert!(n == 1 || self.pairs == TILE_PAIRS);
        n
    }

    /// Adds to the sums of a strip: `x` are the tiles of its rows, `weights` some steps of a panel, `[steps][64]`. What
    /// is `ahead` bytes after them is fetched into the L2 cache, unless that is 0: the lines of a tile at a time, in the
    /// order in which tiles load them, which the memory delivers faster than in the order of the addresses.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[inline]
    pub fn strip(&mut self, weights: &[u32], x: &[u32], ahead: usize) {
        let n = self.count(weights, x, self.heights[0]);
        if n == 0 {
            return;
        }
        // SAFETY: `Tiles::new` demands AMX. `Tiles::count` has asserted that there are `n` tiles of activations, and
        // the steps of `n` rows of four tiles of weights. A prefetch may be given any address.
        unsafe {
            asm!(
                "2:",
                "tileloadd tmm4, [{x} + {row}*1]",
                "tileloadd tmm6, [{w} + {step}*1]",
                "test {ahead}, {ahead}",
                "jz 4f",
                "lea {line}, [{w} + {ahead}]",
                "mov {groups:e}, 4",
                "3:",
                "prefetcht1 [{line}]",
                "prefetcht1 [{line} + 256]",
                "prefetcht1 [{line} + 512]",
                "prefetcht1 [{line} + 768]",
                "add {line}, 1024",
                "dec {groups:e}",
                "jnz 3b",
                "4:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {step}*1 + 64]",
                "test {ahead}, {ahead}",
                "jz 4f",
                "lea {line}, [{w} + {ahead} + 64]",
                "mov {groups:e}, 4",
                "3:",
                "prefetcht1 [{line}]",
                "prefetcht1 [{line} + 256]",
                "prefetcht1 [{line} + 512]",
                "prefetcht1 [{line} + 768]",
                "add {line}, 1024",
                "dec {groups:e}",
                "jnz 3b",
                "4:",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm6, [{w} + {step}*1 + 128]",
                "test {ahead}, {ahead}",
                "jz 4f",
                "lea {line}, [{w} + {ahead} + 128]",
                "mov {groups:e}, 4",
                "3:",
                "prefetcht1 [{line}]",
                "prefetcht1 [{line} + 256]",
                "prefetcht1 [{line} + 512]",
                "prefetcht1 [{line} + 768]",
                "add {line}, 1024",
                "dec {groups:e}",
                "jnz 3b",
                "4:",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {step}*1 + 192]",
                "test {ahead}, {ahead}",
                "jz 4f",
                "lea {line}, [{w} + {ahead} + 192]",
                "mov {groups:e}, 4",
                "3:",
                "prefetcht1 [{line}]",
                "prefetcht1 [{line} + 256]",
                "prefetcht1 [{line} + 512]",
                "prefetcht1 [{line} + 768]",
                "add {line}, 1024",
                "dec {groups:e}",
                "jnz 3b",
                "4:",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "add {w}, {tile_steps}",
                "add {x}, {tile}",
                "dec {n}",
                "jnz 2b",
                w = inout(reg) weights.as_ptr() => _,
                x = inout(reg) x.as_ptr() => _,
                n = inout(reg) n => _,
                ahead = in(reg) ahead,
                line = out(reg) _,
                groups = out(reg) _,
                row = in(reg) ROW_BYTES,
                step = in(reg) STEP_BYTES,
                tile_steps = const TILE_PAIRS * STEP_BYTES,
                tile = in(reg) self.heights[0] * ROW_BYTES,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly)
            );
        }
    }

    /// Adds to the sums of a square: `x` are the tiles of its two blocks of rows, `weights` some steps of a panel,
    /// `[steps][64]`, of which the square has the columns from 32 `half` on. At every step, some lines of what is next are
    /// fetched into the L2 cache.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[inline]
    pub fn square(&mut self, weights: &[u32], half: usize, x: [&[u32]; 2], next: &mut Next) {
        let n = self.count(weights, x[0], self.heights[0]);
        assert!(n == self.count(weights, x[1], self.heights[1]) && half < 2);
        if n == 0 {
            return;
        }
        // SAFETY: as in `Tiles::strip`, for both blocks of rows; `half` is one of the two, as asserted. A prefetch may be
        // given any address.
        unsafe {
            asm!(
                "2:",
                "tileloadd tmm6, [{w} + {step}*1]",
                "tileloadd tmm4, [{x0} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "mov {groups:e}, {groups_of_step:e}",
                "test {groups:e}, {groups:e}",
                "jz 4f",
                "3:",
                "prefetcht0 [{line}]",
                "prefetcht0 [{line} + 64]",
                "prefetcht0 [{line} + 128]",
                "prefetcht0 [{line} + 192]",
                "add {line}, 256",
                "dec {groups:e}",
                "jnz 3b",
                "4:",
                "tileloadd tmm7, [{w} + {step}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {w}, {tile_steps}",
                "add {x0}, {tile0}",
                "add {x1}, {tile1}",
                "dec {n}",
                "jnz 2b",
                w = inout(reg) weights.as_ptr().wrapping_add(SQUARE_COLUMNS * half) => _,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                n = inout(reg) n => _,
                line = inout(reg) next.line,
                groups = out(reg) _,
                groups_of_step = in(reg) next.groups_of_step,
                row = in(reg) ROW_BYTES,
                step = in(reg) STEP_BYTES,
                tile_steps = const TILE_PAIRS * STEP_BYTES,
                tile0 = in(reg) self.heights[0] * ROW_BYTES,
                tile1 = in(reg) self.heights[1] * ROW_BYTES,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly)
            );
        }
    }
}

/// Weights that are needed after those that are multiplied. Squares fetch them: the memory is idle while several blocks of
/// rows read a panel, and without it the first of them would wait for each tile of the next panel.
pub struct Next {
    line: *const u8,
    /// Groups of four cache lines that a step of a square fetches.
    groups_of_step: usize,
}

impl Next {
    /// For `bytes` after what `rows` rows multiply with `steps` steps.
    pub fn new(begin: *const u8, bytes: usize, rows: usize, steps: usize) -> Next {
        let squares = (rows + TILE_ROWS - 1) / SQUARE_ROWS;
        let square_steps = 2 * squares * steps.div_ceil(TILE_PAIRS);
        Next { line: begin, groups_of_step: bytes.div_ceil(256).div_ceil(square_steps.max(1)) }
    }

    /// Nothing is next.
    pub fn nothing() -> Next {
        Next { line: std::ptr::null(), groups_of_step: 0 }
    }
}

/// Multiplications and additions of a pass of [`repeat_products`].
pub const PASS_OPERATIONS: usize = 4 * 2 * TILE_ROWS * TILE_ROWS * 2 * TILE_PAIRS;

/// Two tiles of activations and two of weights, bf16 numbers of both signs from 1/8 to 2: a processor takes more power,
/// and less speed, for such numbers than for zeros.
static FACTORS: [u32; 4 * TILE_ROWS * TILE_PAIRS] = factors();

const fn factors() -> [u32; 4 * TILE_ROWS * TILE_PAIRS] {
    let mut factors = [0; 4 * TILE_ROWS * TILE_PAIRS];
    let (mut state, mut i) = (0x9e37_79b9_7f4a_7c15u64, 0);
    while i < factors.len() {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        factors[i] = (state >> 32) as u32 & 0x81ff_81ff | 0x3e00_3e00;
        i += 1;
    }
    factors
}

/// Multiplies tiles that stay in registers, the four pairs of two and two in each pass: the most that a thread can do.
///
/// # Safety
/// As [`Tiles::new`].
pub unsafe fn repeat_products(passes: usize) {
    // SAFETY: `# Safety` demands it.
    let _tiles = unsafe { Tiles::new([TILE_ROWS; 2], TILE_PAIRS) };
    if passes == 0 {
        return;
    }
    // SAFETY: `# Safety` demands AMX. The tiles are whole ones, as configured above, and `FACTORS` holds four of them.
    unsafe {
        asm!(
            "tileloadd tmm4, [{x} + {row}*1]",
            "tileloadd tmm5, [{x} + {row}*1 + 1024]",
            "tileloadd tmm6, [{x} + {row}*1 + 2048]",
            "tileloadd tmm7, [{x} + {row}*1 + 3072]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            x = in(reg) FACTORS.as_ptr(),
            n = inout(reg) passes => _,
            row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly)
        );
    }
}

impl Drop for Tiles {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `Tiles::new` demands AMX and that there are no other `Tiles` in this thread.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}

/// See [`super::super::Isa::product_bf16`]; `x` has the steps of the panel, and `ahead` is that of [`Tiles::strip`], for
/// rows of one block.
///
/// # Safety
/// As [`Tiles::new`].
///
/// # Panics
/// When the shapes do not fit.
pub unsafe fn product_bf16(panel: &[u32], x: &PackedRows, out: &mut OutputBlock, ahead: usize) {
    assert!(panel.len() == x.n_steps() * PANEL_ROWS && x.n_rows() == out.rows());
    // SAFETY: `# Safety` demands what `add` does.
    unsafe {
        in_whole_blocks(x, out, |x, out| {
            let whole_steps = x.n_steps() / TILE_PAIRS * TILE_PAIRS;
            let (whole, rest) = panel.split_at(whole_steps * PANEL_ROWS);
            let is_strip = x.n_rows() <= TILE_ROWS;
            let (block_steps, ahead) = if is_strip { (whole_steps, ahead) } else { (BLOCK_STEPS, 0) };
            for (block, k) in whole.chunks(block_steps.max(1) * PANEL_ROWS).zip((0..).step_by(block_steps.max(1))) {
                // The block that follows, in this panel or the next, is about as long.
                let next = Next::new(
                    block.as_ptr_range().end.cast(),
                    size_of_val(block),
                    x.n_rows(),
                    block.len() / PANEL_ROWS,
                );
                add(block, x, k, out, ahead, next);
            }
            if !rest.is_empty() {
                add(rest, x, whole_steps, out, 0, Next::nothing());
            }
        });
    }
}

/// Lets `product` fill blocks of 64 columns: `out`, or a buffer for [`SQUARE_ROWS`] of its rows at a time when it has
/// fewer columns.
pub fn in_whole_blocks(x: &PackedRows, out: &mut OutputBlock, mut product: impl FnMut(&PackedRows, &mut OutputBlock)) {
    let (rows, columns) = (out.rows(), out.columns());
    assert!(columns <= PANEL_ROWS && x.n_rows() == rows);
    if x.n_steps() == 0 {
        (0..rows).for_each(|row| out.row(row).fill(0.0));
        return;
    }
    if columns == PANEL_ROWS {
        return product(x, out);
    }
    for first in (0..rows).step_by(SQUARE_ROWS) {
        let last = (first + SQUARE_ROWS).min(rows);
        let mut buffer = [0.0f32; SQUARE_ROWS * PANEL_ROWS];
        let buffer = &mut buffer[..(last - first) * PANEL_ROWS];
        product(&x.part(first..last), &mut OutputBlock::whole(buffer, PANEL_ROWS));
        for (row, sums) in (first..last).zip(buffer.chunks_exact(PANEL_ROWS)) {
            out.row(row).copy_from_slice(&sums[..columns]);
        }
    }
}

/// Adds the product of some steps of a panel, those from `k` on, to a block of 64 columns, or replaces the block by it
/// when `k` is 0. The steps are whole tiles, or less than one. Strips fetch what is `ahead` bytes after their weights,
/// squares what is next.
///
/// # Safety
/// As [`Tiles::new`].
///
/// # Panics
/// When the shapes do not fit.
pub unsafe fn add(weights: &[u32], x: &PackedRows, k: usize, out: &mut OutputBlock, ahead: usize, mut next: Next) {
    let steps = weights.len() / PANEL_ROWS;
    assert!(out.columns() == PANEL_ROWS && out.rows() == x.n_rows() && k + steps <= x.n_steps());
    let pairs = steps.min(TILE_PAIRS);
    let mut tiles: Option<Tiles> = None;
    for first in (0..x.n_rows()).step_by(SQUARE_ROWS) {
        let rows = (x.n_rows() - first).min(SQUARE_ROWS);
        let heights = if rows <= TILE_ROWS { [rows; 2] } else { [TILE_ROWS, rows - TILE_ROWS] };
        let tiles = match &mut tiles {
            // SAFETY: `# Safety` demands it; these are the only `Tiles` here.
            None => tiles.insert(unsafe { Tiles::new(heights, pairs) }),
            Some(tiles) => {
                if tiles.heights != heights {
                    tiles.configure(heights, pairs);
                }
                tiles
            }
        };
        if rows <= TILE_ROWS {
            let mut out = out.part(first..first + rows, 0..PANEL_ROWS);
            tiles.begin(&mut out, k > 0);
            tiles.strip(weights, x.tiles(first, k, steps), ahead);
            tiles.end(&mut out);
        } else {
            let blocks = [first, first + TILE_ROWS].map(|row| x.tiles(row, k, steps));
            for half in 0..2 {
                let columns = SQUARE_COLUMNS * half..SQUARE_COLUMNS * (half + 1);
                let mut out = out.part(first..first + rows, columns);
                tiles.begin(&mut out, k > 0);
                tiles.square(weights, half, blocks, &mut next);
                tiles.end(&mut out);
            }
        }
    }
}
