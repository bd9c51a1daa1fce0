//! Products with AVX-512: four registers of weights times up to six rows of activations, 24 accumulators.

use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{CODED_STEP_BYTES, Exponents, RAW_STEP_BYTES, SIGNS_BYTES, Step as Pairs};
use crate::kernels::bf12::Bf12Work;
use crate::kernels::tiles::{Outputs, TILE_ROWS, Work};
use crate::kernels::{LaneOp, fma_flushed};
use std::arch::x86_64::*;

/// Compiles lane-wise work for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// What the three products have in common with each other: one step of k for one register of 16 outputs.
trait Step<T: Copy> {
    /// `acc` plus the products of one step; `w` are the weights of 16 outputs, `x` one activation (or pair) everywhere.
    ///
    /// # Safety
    /// The CPU must have the features of the kernel that uses it.
    unsafe fn step(acc: __m512, w: __m512i, x: __m512i) -> __m512;
}

struct F32;
impl Step<f32> for F32 {
    #[inline(always)]
    unsafe fn step(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: the caller runs on a CPU with AVX-512F.
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), acc) }
    }
}

struct Bf16Dot;
impl Step<u32> for Bf16Dot {
    #[inline(always)]
    unsafe fn step(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: the caller runs on a CPU with AVX512-BF16; the two types hold the same 512 bits.
        unsafe {
            _mm512_dpbf16_ps(
                acc,
                std::mem::transmute::<__m512i, __m512bh>(w),
                std::mem::transmute::<__m512i, __m512bh>(x),
            )
        }
    }
}

/// The bf16 dot product by two FMAs. Without `FLUSH` the caller has shown that nothing can be subnormal.
struct Bf16ByFma<const FLUSH: bool>;
impl<const FLUSH: bool> Step<u32> for Bf16ByFma<FLUSH> {
    #[inline(always)]
    unsafe fn step(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: the caller runs on a CPU with AVX-512F.
        unsafe {
            let odd = |pair| _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(0xffff_0000u32 as i32)));
            let even = |pair| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            let acc = fma::<FLUSH>(odd(w), odd(x), acc);
            fma::<FLUSH>(even(w), even(x), acc)
        }
    }
}

/// `w * x + acc`; with `FLUSH` as [`fma_flushed`] computes it.
///
/// # Safety
/// The CPU must have AVX-512F.
#[inline(always)]
unsafe fn fma<const FLUSH: bool>(w: __m512, x: __m512, acc: __m512) -> __m512 {
    // SAFETY: as the caller promised.
    unsafe {
        let result = _mm512_fmadd_ps(w, x, acc);
        if !FLUSH {
            return result;
        }
        let magnitude = |v| _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fff_ffff));
        let smallest = _mm512_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32);
        // A subnormal weight shows by its exponent; the result shows the rest.
        let subnormal_weight =
            _mm512_cmplt_epi32_mask(magnitude(w), smallest) & _mm512_test_epi32_mask(magnitude(w), magnitude(w));
        let tiny_result = _mm512_cmple_epi32_mask(magnitude(result), smallest);
        if subnormal_weight | tiny_result == 0 {
            return result;
        }
        one_by_one(w, x, acc)
    }
}

/// [`fma_flushed`] on each lane.
#[cold]
#[target_feature(enable = "avx512f")]
fn one_by_one(w: __m512, x: __m512, acc: __m512) -> __m512 {
    // SAFETY: 16 lanes of f32 are 512 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m512, [f32; 16]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 16] = std::array::from_fn(|i| fma_flushed(w[i], x[i], acc[i]));
    // SAFETY: as above.
    unsafe { std::mem::transmute::<[f32; 16], __m512>(result) }
}

/// See [`crate::kernels::Isa::product_f32`].
///
/// # Safety
/// `work` must hold its shapes, and `outputs` rows of `width` elements that nobody else uses.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn product_f32(work: &Work<'_, f32>, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        match work.width {
            16 => by_rows::<F32, f32, 1>(work, outputs),
            32 => by_rows::<F32, f32, 2>(work, outputs),
            48 => by_rows::<F32, f32, 3>(work, outputs),
            _ => by_rows::<F32, f32, 4>(work, outputs),
        }
    }
}

/// See [`crate::kernels::Isa::product_bf16`].
///
/// # Safety
/// As [`product_f32`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn product_bf16(work: &Work<'_, u32>, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        match outputs.n_rows {
            1 => dot_tile::<1>(work, outputs),
            2 => dot_tile::<2>(work, outputs),
            3 => dot_tile::<3>(work, outputs),
            4 => dot_tile::<4>(work, outputs),
            5 => dot_tile::<5>(work, outputs),
            _ => dot_tile::<6>(work, outputs),
        }
    }
}

/// See [`crate::kernels::Isa::product_bf16`], for CPUs without the instruction.
///
/// # Safety
/// As [`product_f32`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn product_bf16_by_fma(work: &Work<'_, u32>, outputs: &Outputs, no_subnormals: bool) {
    // SAFETY: as the caller promised.
    unsafe {
        if no_subnormals {
            by_rows::<Bf16ByFma<false>, u32, 4>(work, outputs)
        } else {
            by_rows::<Bf16ByFma<true>, u32, 4>(work, outputs)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn by_rows<S: Step<T>, T: Copy, const REGISTERS: usize>(work: &Work<'_, T>, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        match outputs.n_rows {
            1 => fma_tile::<S, T, REGISTERS, 1>(work, outputs),
            2 => fma_tile::<S, T, REGISTERS, 2>(work, outputs),
            3 => fma_tile::<S, T, REGISTERS, 3>(work, outputs),
            4 => fma_tile::<S, T, REGISTERS, 4>(work, outputs),
            5 => fma_tile::<S, T, REGISTERS, 5>(work, outputs),
            _ => fma_tile::<S, T, REGISTERS, 6>(work, outputs),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn dot_tile<const ROWS: usize>(work: &Work<'_, u32>, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe { tile::<Bf16Dot, u32, 4, ROWS>(work, outputs) }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fma_tile<S: Step<T>, T: Copy, const REGISTERS: usize, const ROWS: usize>(
    work: &Work<'_, T>,
    outputs: &Outputs,
) {
    // SAFETY: as the caller promised.
    unsafe { tile::<S, T, REGISTERS, ROWS>(work, outputs) }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 16` accumulators over all steps. Inlined into functions that enable the
/// features.
///
/// # Safety
/// As [`product_f32`], `outputs.n_rows == ROWS`, and `T` is 32 bits wide.
#[inline(always)]
unsafe fn tile<S: Step<T>, T: Copy, const REGISTERS: usize, const ROWS: usize>(work: &Work<'_, T>, outputs: &Outputs) {
    const { assert!(size_of::<T>() == 4 && ROWS <= TILE_ROWS) }
    // SAFETY: rows and panel are as large as the caller promised: `steps * width` weights, and `steps` activations
    // after each `t * x_stride`. Prefetches may go anywhere.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        if outputs.accumulate {
            for t in 0..ROWS {
                for r in 0..REGISTERS {
                    acc[t][r] = _mm512_loadu_ps(outputs.rows[t].add(16 * r));
                }
            }
        }
        let mut x = [work.x.as_ptr().cast::<i32>(); ROWS];
        for t in 0..ROWS {
            x[t] = x[t].add(t * work.x_stride);
        }
        let mut panel = work.panel.as_ptr().cast::<i32>();
        let mut ahead = work.ahead;
        for k in 0..work.steps {
            ahead.fetch_step();
            let mut w = [_mm512_setzero_si512(); REGISTERS];
            for r in 0..REGISTERS {
                w[r] = _mm512_loadu_si512(panel.add(16 * r).cast());
            }
            multiply::<S, T, REGISTERS, ROWS>(&mut acc, w, x, k);
            panel = panel.add(16 * REGISTERS);
        }
        for t in 0..ROWS {
            for r in 0..REGISTERS {
                _mm512_storeu_ps(outputs.rows[t].add(16 * r), acc[t][r]);
            }
        }
    }
}

/// See [`crate::kernels::Isa::product_bf12`].
///
/// # Safety
/// `work.x` must hold `outputs.n_rows` rows of as many pairs as the panel has steps, `work.decoded` nothing or as many
/// steps, and `outputs` rows of 64 elements that nobody else uses.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn product_bf12(work: Bf12Work, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        match outputs.n_rows {
            1 => bf12_dot_tile::<1>(work, outputs),
            2 => bf12_dot_tile::<2>(work, outputs),
            3 => bf12_dot_tile::<3>(work, outputs),
            4 => bf12_dot_tile::<4>(work, outputs),
            5 => bf12_dot_tile::<5>(work, outputs),
            _ => bf12_dot_tile::<6>(work, outputs),
        }
    }
}

/// See [`crate::kernels::Isa::product_bf12`], for CPUs without the bf16 dot product.
///
/// # Safety
/// As [`product_bf12`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn product_bf12_by_fma(work: Bf12Work, outputs: &Outputs, no_subnormals: bool) {
    // SAFETY: as the caller promised.
    unsafe {
        if no_subnormals {
            bf12_by_rows::<Bf16ByFma<false>>(work, outputs)
        } else {
            bf12_by_rows::<Bf16ByFma<true>>(work, outputs)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn bf12_by_rows<S: Step<u32>>(work: Bf12Work, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        match outputs.n_rows {
            1 => bf12_fma_tile::<S, 1>(work, outputs),
            2 => bf12_fma_tile::<S, 2>(work, outputs),
            3 => bf12_fma_tile::<S, 3>(work, outputs),
            4 => bf12_fma_tile::<S, 4>(work, outputs),
            5 => bf12_fma_tile::<S, 5>(work, outputs),
            _ => bf12_fma_tile::<S, 6>(work, outputs),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn bf12_dot_tile<const ROWS: usize>(work: Bf12Work, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        if work.decoded.is_empty() {
            bf12_tile::<Bf16Dot, ROWS, false>(work, outputs)
        } else {
            bf12_tile::<Bf16Dot, ROWS, true>(work, outputs)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn bf12_fma_tile<S: Step<u32>, const ROWS: usize>(work: Bf12Work, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe {
        if work.decoded.is_empty() {
            bf12_tile::<S, ROWS, false>(work, outputs)
        } else {
            bf12_tile::<S, ROWS, true>(work, outputs)
        }
    }
}

/// The microkernel over a coded panel: as [`tile`], with 64 outputs; with `DECODES` it leaves the decoded panel behind.
/// Inlined into functions that enable the features.
///
/// # Safety
/// As [`product_bf12`], `outputs.n_rows == ROWS`, and with `DECODES` `work.decoded` is not empty.
#[inline(always)]
unsafe fn bf12_tile<S: Step<u32>, const ROWS: usize, const DECODES: bool>(work: Bf12Work, outputs: &Outputs) {
    const { assert!(ROWS <= TILE_ROWS) }
    // SAFETY: the stretches of a panel cover its steps and its bytes exactly, as `Bf12Panel` makes sure, and `x` has a
    // pair for each of them, as the caller promised. Prefetches may go anywhere.
    unsafe {
        let decoder = Decoder::new(work.panel.exponents());
        let mut decoded = work.decoded.as_mut_ptr().cast::<u32>();
        let mut ahead = work.ahead;
        let mut acc = [[_mm512_setzero_ps(); 4]; ROWS];
        if outputs.accumulate {
            for t in 0..ROWS {
                for r in 0..4 {
                    acc[t][r] = _mm512_loadu_ps(outputs.rows[t].add(16 * r));
                }
            }
        }
        let mut x = [work.x.as_ptr().cast::<i32>(); ROWS];
        for t in 0..ROWS {
            x[t] = x[t].add(t * work.x_stride);
        }
        let mut bytes = work.panel.bytes().for_kernels().as_ptr();
        for (coded, raw) in work.panel.stretches() {
            for k in 0..coded {
                ahead.fetch_step();
                let w = decoder.step(bytes);
                if DECODES {
                    store(w, decoded);
                    decoded = decoded.add(PANEL_ROWS);
                }
                multiply::<S, u32, 4, ROWS>(&mut acc, w, x, k);
                bytes = bytes.add(CODED_STEP_BYTES);
            }
            for t in 0..ROWS {
                x[t] = x[t].add(coded);
            }
            if raw {
                ahead.fetch_raw_step();
                let mut w = [_mm512_setzero_si512(); 4];
                for r in 0..4 {
                    w[r] = _mm512_loadu_si512(bytes.add(64 * r).cast());
                }
                if DECODES {
                    store(w, decoded);
                    decoded = decoded.add(PANEL_ROWS);
                }
                multiply::<S, u32, 4, ROWS>(&mut acc, w, x, 0);
                bytes = bytes.add(RAW_STEP_BYTES);
                for t in 0..ROWS {
                    x[t] = x[t].add(1);
                }
            }
        }
        for t in 0..ROWS {
            for r in 0..4 {
                _mm512_storeu_ps(outputs.rows[t].add(16 * r), acc[t][r]);
            }
        }
    }
}

/// One step of k for all accumulators.
///
/// # Safety
/// The CPU must have the features of `S`, and `k` must be an element of each row of `x`.
#[inline(always)]
unsafe fn multiply<S: Step<T>, T: Copy, const REGISTERS: usize, const ROWS: usize>(
    acc: &mut [[__m512; REGISTERS]; ROWS],
    w: [__m512i; REGISTERS],
    x: [*const i32; ROWS],
    k: usize,
) {
    for t in 0..ROWS {
        // SAFETY: as the caller promised.
        unsafe {
            let x = _mm512_set1_epi32(*x[t].add(k));
            for r in 0..REGISTERS {
                acc[t][r] = S::step(acc[t][r], w[r], x);
            }
        }
    }
}

/// What it takes to decode: the exponents of the codes, twice, and the bits of an exponent.
struct Decoder {
    exponents: __m512i,
    mask: __m512i,
}

impl Decoder {
    /// # Safety
    /// The CPU must have AVX-512BW.
    #[inline(always)]
    unsafe fn new(exponents: &Exponents) -> Decoder {
        // SAFETY: 32 lanes of 16 bits are 512 bits.
        unsafe {
            let lanes = exponents.lanes();
            Decoder { exponents: _mm512_loadu_si512(lanes.as_ptr().cast()), mask: _mm512_set1_epi16(0x7f80) }
        }
    }

    /// The pairs of a coded step, 16 rows to a register.
    ///
    /// # Safety
    /// The CPU must have AVX-512BW, and a coded step must begin at `step`.
    #[inline(always)]
    unsafe fn step(&self, step: *const u8) -> [__m512i; 4] {
        // SAFETY: as the caller promised.
        unsafe {
            let mut codes = _mm512_loadu_si512(step.add(SIGNS_BYTES).cast());
            let mut pairs = [_mm512_setzero_si512(); 4];
            for r in 0..4 {
                let signs = _mm512_cvtepi8_epi16(_mm256_loadu_si256(step.add(32 * r).cast()));
                // A lookup takes the low five bits of its index, and the table has 16 entries twice.
                let exponents = _mm512_permutexvar_epi16(codes, self.exponents);
                // The exponent where the mask is 1, sign and mantissa elsewhere.
                pairs[r] = _mm512_ternarylogic_epi32::<0xd8>(signs, exponents, self.mask);
                codes = _mm512_srli_epi16::<4>(codes);
            }
            pairs
        }
    }
}

/// Stores the pairs of a step.
///
/// # Safety
/// The CPU must have AVX-512F, and there must be room for 64 numbers.
#[inline(always)]
unsafe fn store(pairs: [__m512i; 4], to: *mut u32) {
    for r in 0..4 {
        // SAFETY: as the caller promised.
        unsafe { _mm512_storeu_si512(to.add(16 * r).cast(), pairs[r]) };
    }
}

/// See [`crate::kernels::Isa::decode`]; `steps` and `out` are equally long.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn decode(steps: &[[u8; CODED_STEP_BYTES]], exponents: &Exponents, out: &mut [Pairs]) {
    // SAFETY: this function runs on CPUs with AVX-512BW; steps and pairs have the lengths of their types.
    unsafe {
        let decoder = Decoder::new(exponents);
        for (step, out) in steps.iter().zip(out) {
            store(decoder.step(step.as_ptr()), out.as_mut_ptr());
        }
    }
}
