//! How AVX-512 multiplies bf16 numbers: by FMA or by the bf16 dot product, with the same bits.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use crate::format::PANEL_ROWS;
use crate::kernels::bf16::dot::{BLOCK_STEPS, dot_step};
use std::arch::x86_64::*;

/// Registers of a step: 64 outputs.
pub const REGISTERS: usize = PANEL_ROWS / 16;

/// A way to multiply.
pub trait Multiply {
    /// Steps of a chain over a whole block: two of the panel's at a time, or one.
    const CHAIN_STEPS: usize;

    /// Of two steps of the panel, the first of even number, the weights of step `part` of the chains: those of the even
    /// and those of the odd columns. `part` is less than [`Multiply::CHAIN_STEPS`] / 8.
    ///
    /// # Safety
    /// The CPU must have AVX-512F and AVX-512BW.
    unsafe fn unpack(first: __m512i, second: __m512i, part: usize) -> (__m512i, __m512i);

    /// `acc` plus the products of a step of the chain.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512;

    /// `a + b`.
    ///
    /// # Safety
    /// The CPU must have AVX-512F.
    unsafe fn add(a: __m512, b: __m512) -> __m512;
}

/// Steps of a chain that two steps of the panel give.
pub const fn parts<M: Multiply>() -> usize {
    M::CHAIN_STEPS / (BLOCK_STEPS / 2)
}

/// FMA on f32 numbers. Without `FLUSH` the caller has shown that nothing can be subnormal.
pub struct Fma<const FLUSH: bool>;

impl<const FLUSH: bool> Multiply for Fma<FLUSH> {
    const CHAIN_STEPS: usize = BLOCK_STEPS;

    #[inline(always)]
    unsafe fn unpack(first: __m512i, second: __m512i, part: usize) -> (__m512i, __m512i) {
        let pairs = if part == 0 { first } else { second };
        // SAFETY: `# Safety` demands AVX-512F.
        unsafe {
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32 as i32));
            (_mm512_slli_epi32::<16>(pairs), odd)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: `# Safety` demands AVX-512F.
        unsafe {
            let (w, x) = (_mm512_castsi512_ps(w), _mm512_castsi512_ps(x));
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

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `# Safety` demands AVX-512F.
        unsafe { add::<FLUSH>(a, b) }
    }
}

/// The bf16 dot product, which adds first the product of the high halves and then that of the low ones. So a word has
/// the columns of two steps: that of the first in its high half. It flushes by itself; additions do with `FLUSH`.
pub struct Dot<const FLUSH: bool>;

impl<const FLUSH: bool> Multiply for Dot<FLUSH> {
    const CHAIN_STEPS: usize = BLOCK_STEPS / 2;

    #[inline(always)]
    unsafe fn unpack(first: __m512i, second: __m512i, _: usize) -> (__m512i, __m512i) {
        const HIGH: __mmask32 = 0xaaaa_aaaa;
        // SAFETY: `# Safety` demands AVX-512BW.
        unsafe {
            let even = _mm512_mask_blend_epi16(HIGH, second, _mm512_slli_epi32::<16>(first));
            let odd = _mm512_mask_blend_epi16(HIGH, _mm512_srli_epi32::<16>(second), first);
            (even, odd)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: any 512 bits are 32 bf16 numbers. `# Safety` demands AVX512-BF16.
        unsafe {
            let pairs = |v| std::mem::transmute::<__m512i, __m512bh>(v);
            _mm512_dpbf16_ps(acc, pairs(w), pairs(x))
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `# Safety` demands AVX-512F.
        unsafe { add::<FLUSH>(a, b) }
    }
}

/// `a + b`; with `FLUSH` as `add_step` computes it.
///
/// # Safety
/// The CPU must have AVX-512F.
#[inline(always)]
unsafe fn add<const FLUSH: bool>(a: __m512, b: __m512) -> __m512 {
    // SAFETY: `# Safety` demands AVX-512F.
    unsafe {
        let sum = _mm512_add_ps(a, b);
        if !FLUSH {
            return sum;
        }
        // What a chain leaves is never subnormal, but a sum may be.
        let bits = _mm512_castps_si512(sum);
        let is_tiny = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
        _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, is_tiny, bits, _mm512_set1_epi32(i32::MIN)))
    }
}

/// [`dot_step`] on each lane.
#[cold]
#[target_feature(enable = "avx512f")]
fn one_by_one(w: __m512, x: __m512, acc: __m512) -> __m512 {
    // SAFETY: 16 lanes of f32 are 512 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m512, [f32; 16]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 16] = std::array::from_fn(|i| dot_step(w[i], x[i], acc[i]));
    // SAFETY: 16 lanes of f32 are 512 bits, as in `lanes`.
    unsafe { std::mem::transmute::<[f32; 16], __m512>(result) }
}

/// By which instruction.
#[derive(Clone, Copy)]
pub enum By {
    /// FMA.
    Fma {
        /// As in [`crate::kernels::Isa::product_bf16`].
        no_subnormals: bool,
    },
    /// The bf16 dot product.
    Dot {
        /// As in [`crate::kernels::Isa::product_bf16`].
        no_subnormals: bool,
    },
}

impl By {
    /// Words of a block: `[2 parts][steps of a chain][64]`.
    pub const fn block_words(self) -> usize {
        match self {
            By::Fma { .. } => 2 * Fma::<false>::CHAIN_STEPS * PANEL_ROWS,
            By::Dot { .. } => 2 * Dot::<false>::CHAIN_STEPS * PANEL_ROWS,
        }
    }
}

/// `N` registers of 16 words.
///
/// # Safety
/// They must be there, and the CPU must have AVX-512F.
#[inline(always)]
pub unsafe fn load<const N: usize>(from: *const u8) -> [__m512i; N] {
    // SAFETY: `# Safety`.
    unsafe {
        let mut w = [_mm512_setzero_si512(); N];
        for r in 0..N {
            w[r] = _mm512_loadu_si512(from.add(64 * r).cast());
        }
        w
    }
}
