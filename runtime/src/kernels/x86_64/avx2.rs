//! Products with AVX2 and FMA. One row of activations takes 64 outputs at once, eight registers; more rows take strips
//! of 16 outputs, two registers of weights times up to six rows, twelve accumulators.

use crate::format::encodings::bf12::{CODED_STEP_BYTES, Exponents, RAW_STEP_BYTES, SIGNS_BYTES, Step as Pairs};
use crate::kernels::bf12::Bf12Work;
use crate::kernels::tiles::{Ahead, CACHE_LINE, Outputs, TILE_ROWS, Work};
use crate::kernels::{LaneOp, fma_flushed};
use std::arch::x86_64::*;

/// Compiles lane-wise work for AVX2.
#[target_feature(enable = "avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// One step of k for one register of 8 outputs.
trait Step<T: Copy> {
    /// `acc` plus the products of one step; `w` are the weights of 8 outputs, `x` one activation (or pair) everywhere.
    ///
    /// # Safety
    /// The CPU must have AVX2 and FMA.
    unsafe fn step(acc: __m256, w: __m256i, x: __m256i) -> __m256;
}

struct F32;
impl Step<f32> for F32 {
    #[inline(always)]
    unsafe fn step(acc: __m256, w: __m256i, x: __m256i) -> __m256 {
        // SAFETY: as the caller promised.
        unsafe { _mm256_fmadd_ps(_mm256_castsi256_ps(w), _mm256_castsi256_ps(x), acc) }
    }
}

/// The bf16 dot product by two FMAs. Without `FLUSH` the caller has shown that nothing can be subnormal.
struct Bf16ByFma<const FLUSH: bool>;
impl<const FLUSH: bool> Step<u32> for Bf16ByFma<FLUSH> {
    #[inline(always)]
    unsafe fn step(acc: __m256, w: __m256i, x: __m256i) -> __m256 {
        // SAFETY: as the caller promised.
        unsafe {
            let odd = |pair| _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(0xffff_0000u32 as i32)));
            let even = |pair| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            let acc = fma::<FLUSH>(odd(w), odd(x), acc);
            fma::<FLUSH>(even(w), even(x), acc)
        }
    }
}

/// `w * x + acc`; with `FLUSH` as [`fma_flushed`] computes it.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn fma<const FLUSH: bool>(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: as the caller promised.
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

/// [`fma_flushed`] on each lane.
#[cold]
#[target_feature(enable = "avx2,fma")]
fn one_by_one(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: 8 lanes of f32 are 256 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m256, [f32; 8]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 8] = std::array::from_fn(|i| fma_flushed(w[i], x[i], acc[i]));
    // SAFETY: as above.
    unsafe { std::mem::transmute::<[f32; 8], __m256>(result) }
}

/// See [`crate::kernels::Isa::product_f32`].
///
/// # Safety
/// `work` must hold its shapes, and `outputs` rows of `width` elements that nobody else uses.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn product_f32(work: &Work<'_, f32>, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe { product::<F32, f32>(work, outputs) }
}

/// See [`crate::kernels::Isa::product_bf16`].
///
/// # Safety
/// As [`product_f32`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn product_bf16_by_fma(work: &Work<'_, u32>, outputs: &Outputs, no_subnormals: bool) {
    // SAFETY: as the caller promised.
    unsafe {
        if no_subnormals {
            product::<Bf16ByFma<false>, u32>(work, outputs)
        } else {
            product::<Bf16ByFma<true>, u32>(work, outputs)
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn product<S: Step<T>, T: Copy>(work: &Work<'_, T>, outputs: &Outputs) {
    // SAFETY: as the caller promised; strips of 16 tile every width.
    unsafe {
        if outputs.n_rows == 1 && work.width == 64 {
            return tile::<S, T, 8, 1>(work, outputs, 0);
        }
        for first in (0..work.width).step_by(16) {
            match outputs.n_rows {
                1 => tile::<S, T, 2, 1>(work, outputs, first),
                2 => tile::<S, T, 2, 2>(work, outputs, first),
                3 => tile::<S, T, 2, 3>(work, outputs, first),
                4 => tile::<S, T, 2, 4>(work, outputs, first),
                5 => tile::<S, T, 2, 5>(work, outputs, first),
                _ => tile::<S, T, 2, 6>(work, outputs, first),
            }
        }
    }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 8` accumulators, from output `first` of the panel on.
///
/// # Safety
/// As [`product_f32`]; `outputs.n_rows == ROWS`, `first + REGISTERS * 8 <= width`, and `T` is 32 bits wide.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<S: Step<T>, T: Copy, const REGISTERS: usize, const ROWS: usize>(
    work: &Work<'_, T>,
    outputs: &Outputs,
    first: usize,
) {
    const { assert!(size_of::<T>() == 4 && ROWS <= TILE_ROWS) }
    // SAFETY: rows and panel are as large as the caller promised: `steps * width` weights, and `steps` activations
    // after each `t * x_stride`. Prefetches may go anywhere.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
        if outputs.accumulate {
            for t in 0..ROWS {
                for r in 0..REGISTERS {
                    acc[t][r] = _mm256_loadu_ps(outputs.rows[t].add(first + 8 * r));
                }
            }
        }
        let mut x = [work.x.as_ptr().cast::<i32>(); ROWS];
        for t in 0..ROWS {
            x[t] = x[t].add(t * work.x_stride);
        }
        // Strips share what there is to fetch, a line per step each.
        let is_strip = REGISTERS * 8 < work.width;
        let strip = first / (REGISTERS * 8);
        let lines = if is_strip { usize::from(strip < work.ahead.lines) } else { work.ahead.lines };
        let mut ahead = Ahead { from: work.ahead.from.wrapping_add(CACHE_LINE * strip * work.steps), lines };
        let mut panel = work.panel.as_ptr().cast::<i32>().add(first);
        for k in 0..work.steps {
            ahead.fetch_step();
            let mut w = [_mm256_setzero_si256(); REGISTERS];
            for r in 0..REGISTERS {
                w[r] = _mm256_loadu_si256(panel.add(8 * r).cast());
            }
            for t in 0..ROWS {
                let x = _mm256_set1_epi32(*x[t].add(k));
                for r in 0..REGISTERS {
                    acc[t][r] = S::step(acc[t][r], w[r], x);
                }
            }
            panel = panel.wrapping_add(work.width);
        }
        for t in 0..ROWS {
            for r in 0..REGISTERS {
                _mm256_storeu_ps(outputs.rows[t].add(first + 8 * r), acc[t][r]);
            }
        }
    }
}

/// See [`crate::kernels::Isa::product_bf12`]: one row, 64 outputs at once.
///
/// # Safety
/// `work.x` must hold as many pairs as the panel has steps, and `outputs` one row of 64 elements that nobody else uses.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn product_bf12_by_fma(work: Bf12Work, outputs: &Outputs, no_subnormals: bool) {
    // SAFETY: as the caller promised.
    unsafe {
        if no_subnormals {
            bf12_row::<Bf16ByFma<false>>(work, outputs)
        } else {
            bf12_row::<Bf16ByFma<true>>(work, outputs)
        }
    }
}

/// # Safety
/// As [`product_bf12_by_fma`].
#[target_feature(enable = "avx2,fma")]
unsafe fn bf12_row<S: Step<u32>>(work: Bf12Work, outputs: &Outputs) {
    // SAFETY: the stretches of a panel cover its steps and its bytes exactly, as `Bf12Panel` makes sure, and `x` has a
    // pair for each of them, as the caller promised.
    unsafe {
        let decoder = Decoder::new(work.panel.exponents());
        let mut ahead = work.ahead;
        // Register 2 j + h holds the rows 16 j + 8 h to 16 j + 8 h + 7.
        let mut acc = [_mm256_setzero_ps(); 8];
        if outputs.accumulate {
            for r in 0..8 {
                acc[r] = _mm256_loadu_ps(outputs.rows[0].add(8 * r));
            }
        }
        let mut x = work.x.as_ptr().cast::<i32>();
        let mut bytes = work.panel.bytes().for_kernels().as_ptr();
        for (coded, raw) in work.panel.stretches() {
            for _ in 0..coded {
                ahead.fetch_step();
                let x_pair = _mm256_set1_epi32(*x);
                for half in 0..2 {
                    let w = decoder.half_step(bytes, half);
                    for group in 0..4 {
                        acc[2 * group + half] = S::step(acc[2 * group + half], w[group], x_pair);
                    }
                }
                x = x.add(1);
                bytes = bytes.add(CODED_STEP_BYTES);
            }
            if raw {
                ahead.fetch_raw_step();
                let x_pair = _mm256_set1_epi32(*x);
                for r in 0..8 {
                    acc[r] = S::step(acc[r], _mm256_loadu_si256(bytes.add(32 * r).cast()), x_pair);
                }
                x = x.add(1);
                bytes = bytes.add(RAW_STEP_BYTES);
            }
        }
        for r in 0..8 {
            _mm256_storeu_ps(outputs.rows[0].add(8 * r), acc[r]);
        }
    }
}

/// What it takes to decode: the exponents of the codes in both halves, the bits of a code in every byte, and those of
/// an exponent in a pair.
struct Decoder {
    exponents: __m256i,
    code: __m256i,
    mask: __m256i,
}

impl Decoder {
    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    unsafe fn new(exponents: &Exponents) -> Decoder {
        let bytes = exponents.to_bytes();
        // SAFETY: 16 bytes are 128 bits.
        unsafe {
            Decoder {
                exponents: _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())),
                code: _mm256_set1_epi8(0xf),
                mask: _mm256_set1_epi16(0x7f80),
            }
        }
    }

    /// The pairs of half a coded step: entry j holds the rows r + 16 j, r from 0 to 7 or from 8 to 15.
    ///
    /// # Safety
    /// The CPU must have AVX2, and a coded step must begin at `step`.
    #[inline(always)]
    unsafe fn half_step(&self, step: *const u8, half: usize) -> [__m256i; 4] {
        // SAFETY: as the caller promised.
        unsafe {
            let codes = _mm256_loadu_si256(step.add(SIGNS_BYTES + 32 * half).cast());
            // The lower bytes of the lanes are exponents of groups 0 and 1, the upper ones of groups 2 and 3.
            let even_codes = _mm256_and_si256(codes, self.code);
            let odd_codes = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), self.code);
            let even_groups = _mm256_shuffle_epi8(self.exponents, even_codes);
            let odd_groups = _mm256_shuffle_epi8(self.exponents, odd_codes);
            let exponents = [
                _mm256_slli_epi16::<7>(even_groups),
                _mm256_slli_epi16::<7>(odd_groups),
                _mm256_srli_epi16::<1>(even_groups),
                _mm256_srli_epi16::<1>(odd_groups),
            ];
            let mut pairs = [_mm256_setzero_si256(); 4];
            for group in 0..4 {
                let signs = _mm256_cvtepi8_epi16(_mm_loadu_si128(step.add(32 * group + 16 * half).cast()));
                // What the shifts brought along from the other byte is outside the mask.
                let exponent = _mm256_and_si256(exponents[group], self.mask);
                pairs[group] = _mm256_or_si256(_mm256_andnot_si256(self.mask, signs), exponent);
            }
            pairs
        }
    }
}

/// See [`crate::kernels::Isa::decode`]; `steps` and `out` are equally long.
#[target_feature(enable = "avx2,fma")]
pub fn decode(steps: &[[u8; CODED_STEP_BYTES]], exponents: &Exponents, out: &mut [Pairs]) {
    // SAFETY: this function runs on CPUs with AVX2; steps and pairs have the lengths of their types.
    unsafe {
        let decoder = Decoder::new(exponents);
        for (step, out) in steps.iter().zip(out) {
            for half in 0..2 {
                let pairs = decoder.half_step(step.as_ptr(), half);
                for group in 0..4 {
                    _mm256_storeu_si256(out.as_mut_ptr().add(16 * group + 8 * half).cast(), pairs[group]);
                }
            }
        }
    }
}
