//! bf16 products with AVX2 and FMA: pairs are split into f32 as they are multiplied. There are registers for both chains
//! of a block where the rows are few; otherwise one is multiplied after the other.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::dot::{BLOCK_STEPS, dot_step};
use super::group::GroupRows;
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES};
use crate::kernels::bf12::avx2::Decoder;
use crate::kernels::fetch::Fetch;
use crate::kernels::tiles::TILE_ROWS;
use std::arch::x86_64::*;

/// Rows of [`bf12`].
pub const BF12_ROWS: usize = 3;
/// Steps of a whole block without a branch.
const UNROLL: usize = 4;

/// The sums of both chains for `REGISTERS * 8` outputs of each row. The first register of two has the outputs 0, 1, 4
/// and 5, the second one 2, 3, 6 and 7 of the eight: each the sum of the even and then that of the odd columns.
type Sums<const REGISTERS: usize, const ROWS: usize> = [[[__m256; 2]; REGISTERS]; ROWS];

/// Adds the products of some blocks of pairs `[steps][64]` with the rows of a tile to their outputs.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn plain(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows, no_subnormals: bool) {
    // SAFETY: `# Safety` demands AVX2 and FMA.
    unsafe {
        if no_subnormals {
            plain_by_rows::<false>(pairs, fetch, rows);
        } else {
            plain_by_rows::<true>(pairs, fetch, rows);
        }
    }
}

/// # Safety
/// The CPU must have AVX2 and FMA.
unsafe fn plain_by_rows<const FLUSH: bool>(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => strips::<4, 1, FLUSH>(pairs, fetch, rows),
            2 => strips::<2, 2, FLUSH>(pairs, fetch, rows),
            3 => strips::<1, 3, FLUSH>(pairs, fetch, rows),
            4 => strips::<1, 4, FLUSH>(pairs, fetch, rows),
            5 => strips_by_chains::<2, 5, FLUSH>(pairs, fetch, rows),
            TILE_ROWS => strips_by_chains::<2, TILE_ROWS, FLUSH>(pairs, fetch, rows),
            _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
        }
    }
}

/// As [`plain`] for bf12, with at most [`BF12_ROWS`] rows.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
///
/// # Panics
/// When a step is raw.
pub unsafe fn bf12(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows, no_subnormals: bool) {
    // SAFETY: `# Safety` demands AVX2 and FMA.
    unsafe {
        if no_subnormals {
            bf12_by_rows::<false>(panel, fetch, rows);
        } else {
            bf12_by_rows::<true>(panel, fetch, rows);
        }
    }
}

/// # Safety
/// The CPU must have AVX2 and FMA.
unsafe fn bf12_by_rows<const FLUSH: bool>(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => bf12_strips::<1, FLUSH>(panel, fetch, rows),
            2 => bf12_strips::<2, FLUSH>(panel, fetch, rows),
            BF12_ROWS => bf12_strips::<BF12_ROWS, FLUSH>(panel, fetch, rows),
            _ => unreachable!("bf12 kernels take 1 to {BF12_ROWS} rows"),
        }
    }
}

/// The rows of a tile: the activations of the next block, and the outputs.
struct Operands<const ROWS: usize> {
    x: [*const u32; ROWS],
    sums: [*mut f32; ROWS],
    accumulate: bool,
}

impl<const ROWS: usize> Operands<ROWS> {
    /// Of `n_blocks` blocks.
    ///
    /// # Panics
    /// When there are other rows, or too few activations, or the blocks of a row do not follow each other.
    fn new(rows: &mut GroupRows, n_blocks: usize) -> Self {
        assert!(rows.n_rows() == ROWS && rows.are_apart());
        let mut operands =
            Operands { x: [std::ptr::null(); ROWS], sums: [std::ptr::null_mut(); ROWS], accumulate: rows.accumulate() };
        for t in 0..ROWS {
            operands.x[t] = rows.x(t)[..n_blocks * 2 * BLOCK_STEPS].as_ptr();
            operands.sums[t] = rows.sums(t)[..PANEL_ROWS].as_mut_ptr();
        }
        operands
    }

    /// Continues with the next block.
    #[inline(always)]
    fn next_block(&mut self) {
        for t in 0..ROWS {
            self.x[t] = self.x[t].wrapping_add(2 * BLOCK_STEPS);
        }
        self.accumulate = true;
    }

    /// Adds eight sums of a block to the outputs of row `t` from `column` on.
    ///
    /// # Safety
    /// The CPU must have AVX2 and FMA, and the columns must be those of a panel.
    #[inline(always)]
    unsafe fn add<const FLUSH: bool>(&self, t: usize, column: usize, sums: __m256) {
        // SAFETY: `# Safety`. There are 64 outputs of each row, see `Operands::new`.
        unsafe {
            let out = self.sums[t].add(column);
            let before = if self.accumulate { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() };
            _mm256_storeu_ps(out, flush::<FLUSH>(_mm256_add_ps(before, flush::<FLUSH>(sums))));
        }
    }
}

/// The microkernel: `ROWS` rows, `REGISTERS * 8` outputs at a time, block by block.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn strips<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    pairs: &[u32],
    mut fetch: Fetch,
    rows: &mut GroupRows,
) {
    let mut operands = Operands::<ROWS>::new(rows, pairs.len().div_ceil(BLOCK_STEPS * PANEL_ROWS));
    for block in pairs.chunks(BLOCK_STEPS * PANEL_ROWS) {
        let n_steps = block.len() / PANEL_ROWS;
        for first in (0..PANEL_ROWS).step_by(8 * REGISTERS) {
            // SAFETY: `# Safety` demands AVX2 and FMA. The registers from `first` on are inside the 64 pairs of whole
            // steps, and there are activations of whole blocks.
            unsafe {
                let (w, x) = (block.as_ptr().add(first), operands.x);
                // A whole block has a number of steps that the compiler knows.
                let sums = if n_steps == BLOCK_STEPS {
                    chains::<REGISTERS, ROWS, FLUSH>(w, BLOCK_STEPS, x, &mut fetch)
                } else {
                    chains::<REGISTERS, ROWS, FLUSH>(w, n_steps, x, &mut fetch)
                };
                for t in 0..ROWS {
                    for r in 0..REGISTERS {
                        let [low, high] = sums[t][r];
                        operands.add::<FLUSH>(t, first + 8 * r, _mm256_hadd_ps(low, high));
                    }
                }
            }
        }
        operands.next_block();
    }
}

/// Both chains of a block.
///
/// # Safety
/// The CPU must have AVX2 and FMA; the weights of `n_steps` steps, and the activations of a block must be there.
#[inline(always)]
unsafe fn chains<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    w: *const u32,
    n_steps: usize,
    x: [*const u32; ROWS],
    fetch: &mut Fetch,
) -> Sums<REGISTERS, ROWS> {
    // SAFETY: `# Safety`.
    unsafe {
        let mut sums = [[[_mm256_setzero_ps(); 2]; REGISTERS]; ROWS];
        let unroll = if n_steps == BLOCK_STEPS { UNROLL } else { 1 };
        for first in (0..n_steps).step_by(unroll) {
            fetch.lines_near(REGISTERS * unroll / 2);
            for k in first..first + unroll {
                let mut pairs = [_mm256_setzero_si256(); REGISTERS];
                for r in 0..REGISTERS {
                    pairs[r] = _mm256_loadu_si256(w.add(k * PANEL_ROWS + 8 * r).cast());
                }
                add_pairs::<REGISTERS, ROWS, FLUSH>(&mut sums, pairs, x, k);
            }
        }
        sums
    }
}

/// As [`strips`], one chain after the other: with five rows and more, twice the outputs at a time save more instructions
/// than reading the weights twice costs.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn strips_by_chains<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    pairs: &[u32],
    mut fetch: Fetch,
    rows: &mut GroupRows,
) {
    let mut operands = Operands::<ROWS>::new(rows, pairs.len().div_ceil(BLOCK_STEPS * PANEL_ROWS));
    for block in pairs.chunks(BLOCK_STEPS * PANEL_ROWS) {
        let n_steps = block.len() / PANEL_ROWS;
        for first in (0..PANEL_ROWS).step_by(8 * REGISTERS) {
            // SAFETY: as in `strips`.
            unsafe {
                let (w, x) = (block.as_ptr().add(first), operands.x);
                let [even, odd] = if n_steps == BLOCK_STEPS {
                    [
                        chain::<REGISTERS, ROWS, false, FLUSH>(w, BLOCK_STEPS, x, &mut fetch),
                        chain::<REGISTERS, ROWS, true, FLUSH>(w, BLOCK_STEPS, x, &mut fetch),
                    ]
                } else {
                    [
                        chain::<REGISTERS, ROWS, false, FLUSH>(w, n_steps, x, &mut fetch),
                        chain::<REGISTERS, ROWS, true, FLUSH>(w, n_steps, x, &mut fetch),
                    ]
                };
                for t in 0..ROWS {
                    for r in 0..REGISTERS {
                        operands.add::<FLUSH>(t, first + 8 * r, _mm256_add_ps(even[t][r], odd[t][r]));
                    }
                }
            }
        }
        operands.next_block();
    }
}

/// The sums of the products of the even or the odd columns of a block.
///
/// # Safety
/// As [`chains`].
#[inline(always)]
unsafe fn chain<const REGISTERS: usize, const ROWS: usize, const ODD: bool, const FLUSH: bool>(
    w: *const u32,
    n_steps: usize,
    x: [*const u32; ROWS],
    fetch: &mut Fetch,
) -> [[__m256; REGISTERS]; ROWS] {
    // SAFETY: `# Safety`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
        let unroll = if n_steps == BLOCK_STEPS { UNROLL } else { 1 };
        for first in (0..n_steps).step_by(unroll) {
            fetch.lines(REGISTERS * unroll / 4);
            for k in first..first + unroll {
                let mut weights = [_mm256_setzero_ps(); REGISTERS];
                for r in 0..REGISTERS {
                    let pairs = _mm256_loadu_si256(w.add(k * PANEL_ROWS + 8 * r).cast());
                    weights[r] = _mm256_castsi256_ps(if ODD {
                        _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32))
                    } else {
                        _mm256_slli_epi32::<16>(pairs)
                    });
                }
                for t in 0..ROWS {
                    let x = _mm256_broadcast_ss(&*x[t].add(2 * k + usize::from(ODD)).cast());
                    for r in 0..REGISTERS {
                        sums[t][r] = fma::<FLUSH>(weights[r], x, sums[t][r]);
                    }
                }
            }
        }
        sums
    }
}

/// Blocks of bf12 steps times `ROWS` rows, 16 outputs at a time, as they are decoded.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn bf12_strips<const ROWS: usize, const FLUSH: bool>(panel: &Bf12Panel, mut fetch: Fetch, rows: &mut GroupRows) {
    let (steps, rest) = panel.bytes().for_kernels().as_chunks::<CODED_STEP_BYTES>();
    assert!(steps.len() == panel.n_steps() && rest.is_empty());
    let mut operands = Operands::<ROWS>::new(rows, steps.len().div_ceil(BLOCK_STEPS));
    // SAFETY: `# Safety` demands AVX2 and FMA. A block has at most `BLOCK_STEPS` steps.
    unsafe {
        let decoder = Decoder::new(panel.exponents());
        for block in steps.chunks(BLOCK_STEPS) {
            if let Ok(block) = <&[_; BLOCK_STEPS]>::try_from(block) {
                // Its number of steps is one that the compiler knows.
                bf12_block::<ROWS, FLUSH>(&decoder, block, &mut fetch, &operands);
            } else {
                bf12_block::<ROWS, FLUSH>(&decoder, block, &mut fetch, &operands);
            }
            operands.next_block();
        }
    }
}

/// A block of bf12 steps times `ROWS` rows.
///
/// # Safety
/// As [`bf12_strip`].
#[inline(always)]
unsafe fn bf12_block<const ROWS: usize, const FLUSH: bool>(
    decoder: &Decoder,
    block: &[[u8; CODED_STEP_BYTES]],
    fetch: &mut Fetch,
    operands: &Operands<ROWS>,
) {
    // SAFETY: `# Safety`.
    unsafe {
        for half in 0..2 {
            bf12_strip::<ROWS, 0, FLUSH>(decoder, block, half, fetch, operands);
            bf12_strip::<ROWS, 1, FLUSH>(decoder, block, half, fetch, operands);
        }
    }
}

/// A block of bf12 steps times `ROWS` rows, for the outputs of `Decoder::groups::<2, FIRST>`.
///
/// # Safety
/// The CPU must have AVX2 and FMA, and the block at most [`BLOCK_STEPS`] steps.
#[inline(always)]
unsafe fn bf12_strip<const ROWS: usize, const FIRST: usize, const FLUSH: bool>(
    decoder: &Decoder,
    block: &[[u8; CODED_STEP_BYTES]],
    half: usize,
    fetch: &mut Fetch,
    operands: &Operands<ROWS>,
) {
    // SAFETY: `# Safety`. There are activations of whole blocks, see `Operands::new`.
    unsafe {
        let mut sums = [[[_mm256_setzero_ps(); 2]; 2]; ROWS];
        let unroll = if block.len() == BLOCK_STEPS { UNROLL } else { 1 };
        for first in (0..block.len()).step_by(unroll) {
            // Three of the four strips fetch one of the three lines of each step.
            fetch.lines_near(usize::from(FIRST == 0 || half == 0) * unroll);
            for k in first..first + unroll {
                let pairs = decoder.groups::<2, FIRST>(block.as_ptr().add(k).cast(), half);
                add_pairs::<2, ROWS, FLUSH>(&mut sums, pairs, operands.x, k);
            }
        }
        for t in 0..ROWS {
            for r in 0..2 {
                let [low, high] = sums[t][r];
                let column = 16 * (FIRST + 2 * r) + 8 * half;
                operands.add::<FLUSH>(t, column, _mm256_hadd_ps(low, high));
            }
        }
    }
}

/// Adds the products of step `k` of a block. A bf16 number with zeros behind it is an f32: interleaving pairs with zeros
/// splits them.
///
/// # Safety
/// The CPU must have AVX2 and FMA, and the activations of a block must be there.
#[inline(always)]
unsafe fn add_pairs<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    sums: &mut Sums<REGISTERS, ROWS>,
    pairs: [__m256i; REGISTERS],
    x: [*const u32; ROWS],
    k: usize,
) {
    // SAFETY: `# Safety`.
    unsafe {
        let zero = _mm256_setzero_si256();
        let mut weights = [[_mm256_setzero_ps(); 2]; REGISTERS];
        for r in 0..REGISTERS {
            weights[r] = [
                _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, pairs[r])),
                _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, pairs[r])),
            ];
        }
        for t in 0..ROWS {
            // The activations of both columns, everywhere.
            let x = _mm256_castpd_ps(_mm256_set1_pd(x[t].add(2 * k).cast::<f64>().read_unaligned()));
            for r in 0..REGISTERS {
                for part in 0..2 {
                    sums[t][r][part] = fma::<FLUSH>(weights[r][part], x, sums[t][r][part]);
                }
            }
        }
    }
}

/// `w * x + acc`; with `FLUSH` as [`dot_step`] computes it.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn fma<const FLUSH: bool>(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        let result = _mm256_fmadd_ps(w, x, acc);
        if !FLUSH {
            return result;
        }
        let magnitude = |v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
        let above_smallest = _mm256_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32 + 1);
        let smallest = _mm256_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32);
        // A subnormal weight shows by its exponent; the result shows the rest.
        let is_zero = _mm256_cmpeq_epi32(magnitude(w), _mm256_setzero_si256());
        let subnormal_weight = _mm256_andnot_si256(is_zero, _mm256_cmpgt_epi32(smallest, magnitude(w)));
        let tiny_result = _mm256_cmpgt_epi32(above_smallest, magnitude(result));
        if _mm256_movemask_epi8(_mm256_or_si256(subnormal_weight, tiny_result)) == 0 {
            return result;
        }
        one_by_one(w, x, acc)
    }
}

/// With `FLUSH` subnormal numbers become zeros of their sign. What a chain leaves is never subnormal, but a sum may be.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn flush<const FLUSH: bool>(sum: __m256) -> __m256 {
    if !FLUSH {
        return sum;
    }
    // SAFETY: `# Safety`.
    unsafe {
        let exponent = _mm256_set1_epi32(0x7f80_0000);
        let bits = _mm256_castps_si256(sum);
        let is_tiny = _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), _mm256_setzero_si256());
        let sign = _mm256_set1_ps(-0.0);
        _mm256_blendv_ps(sum, _mm256_and_ps(sum, sign), _mm256_castsi256_ps(is_tiny))
    }
}

/// [`dot_step`] on each lane.
#[cold]
#[target_feature(enable = "avx2,fma")]
fn one_by_one(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: 8 lanes of f32 are 256 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m256, [f32; 8]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 8] = std::array::from_fn(|i| dot_step(w[i], x[i], acc[i]));
    // SAFETY: 8 lanes of f32 are 256 bits, as in `lanes`.
    unsafe { std::mem::transmute::<[f32; 8], __m256>(result) }
}
