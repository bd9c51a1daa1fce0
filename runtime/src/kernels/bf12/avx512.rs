//! Decodes bf12 steps with AVX-512.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use crate::format::encodings::bf12::{CODED_STEP_BYTES, Exponents, SIGNS_BYTES, Step};
use crate::kernels::fetch::Fetch;
use crate::kernels::tiles::CACHE_LINE;
use std::arch::x86_64::*;

/// The exponents of the codes, twice, and the bits of an exponent.
pub struct Decoder {
    exponents: __m512i,
    mask: __m512i,
}

impl Decoder {
    /// # Safety
    /// The CPU must have AVX-512BW.
    #[inline(always)]
    pub unsafe fn new(exponents: &Exponents) -> Decoder {
        let lanes = exponents.lanes();
        // SAFETY: 32 lanes of 16 bits are 512 bits. `# Safety` demands AVX-512BW, which callers enable.
        unsafe { Decoder { exponents: _mm512_loadu_si512(lanes.as_ptr().cast()), mask: _mm512_set1_epi16(0x7f80) } }
    }

    /// The pairs of a coded step, 16 rows to a register. Fetches as many cache lines as the step has.
    ///
    /// # Safety
    /// The CPU must have AVX-512BW, and a coded step must begin at `step`.
    #[inline(always)]
    pub unsafe fn step(&self, step: *const u8, fetch: Option<&mut Fetch>) -> [__m512i; 4] {
        // SAFETY: `# Safety` demands AVX-512BW and a coded step: `SIGNS_BYTES`, 128, and 64 bytes of codes.
        unsafe {
            // In the order of the addresses, as the memory delivers them best.
            let mut pairs = [_mm512_setzero_si512(); 4];
            for r in 0..4 {
                pairs[r] = _mm512_cvtepi8_epi16(_mm256_loadu_si256(step.add(32 * r).cast()));
            }
            let mut codes = _mm512_loadu_si512(step.add(SIGNS_BYTES).cast());
            if let Some(fetch) = fetch {
                fetch.lines(CODED_STEP_BYTES / CACHE_LINE);
            }
            for r in 0..4 {
                // A lookup takes the low five bits of its index, and the table has 16 entries twice.
                let exponents = _mm512_permutexvar_epi16(codes, self.exponents);
                // The exponent where the mask is 1, sign and mantissa elsewhere.
                pairs[r] = _mm512_ternarylogic_epi32::<0xd8>(pairs[r], exponents, self.mask);
                codes = _mm512_srli_epi16::<4>(codes);
            }
            pairs
        }
    }
}

/// Stores the pairs of a step.
///
/// # Safety
/// The CPU must have AVX-512F.
#[inline(always)]
unsafe fn store(pairs: [__m512i; 4], to: &mut Step) {
    for (r, to) in to.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // SAFETY: 16 pairs are a register, and `# Safety` demands AVX-512F.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs[r]) };
    }
}

/// See [`super::super::Isa::decode`]; `steps` and `out` are equally long.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn decode(
    steps: &[[u8; CODED_STEP_BYTES]],
    exponents: &Exponents,
    out: &mut [Step],
    mut fetch: Option<&mut Fetch>,
) {
    // SAFETY: the attribute enables AVX-512BW, and `[u8; CODED_STEP_BYTES]` is a coded step.
    unsafe {
        let decoder = Decoder::new(exponents);
        for (step, out) in steps.iter().zip(out) {
            store(decoder.step(step.as_ptr(), fetch.as_deref_mut()), out);
        }
    }
}
