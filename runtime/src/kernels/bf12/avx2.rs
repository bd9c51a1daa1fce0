//! Decodes bf12 steps with AVX2.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use crate::format::encodings::bf12::{CODED_STEP_BYTES, Exponents, SIGNS_BYTES, Step};
use std::arch::x86_64::*;

/// The exponents of the codes in both halves, the bits of a code in every byte, and those of an exponent in a pair.
pub struct Decoder {
    exponents: __m256i,
    code: __m256i,
    mask: __m256i,
}

impl Decoder {
    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    pub unsafe fn new(exponents: &Exponents) -> Decoder {
        let bytes = exponents.to_bytes();
        // SAFETY: 16 bytes are 128 bits. `# Safety` demands AVX2, which callers enable.
        unsafe {
            Decoder {
                exponents: _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())),
                code: _mm256_set1_epi8(0xf),
                mask: _mm256_set1_epi16(0x7f80),
            }
        }
    }

    /// The pairs of a coded step, as a plain step has them.
    ///
    /// # Safety
    /// The CPU must have AVX2, and a coded step must begin at `step`.
    #[inline(always)]
    unsafe fn step(&self, step: *const u8) -> [__m256i; 8] {
        // SAFETY: `# Safety` demands AVX2 and a coded step.
        unsafe {
            let mut pairs = [_mm256_setzero_si256(); 8];
            for half in 0..2 {
                let of_half = self.groups::<4, 0>(step, half);
                for group in 0..4 {
                    pairs[2 * group + half] = of_half[group];
                }
            }
            pairs
        }
    }

    /// Some pairs of half a coded step: entry j holds the rows 16 g + r of the group g = FIRST + 4 / N * j, r from 0 to
    /// 7 or from 8 to 15.
    ///
    /// # Safety
    /// The CPU must have AVX2, and a coded step must begin at `step`.
    #[inline(always)]
    pub unsafe fn groups<const N: usize, const FIRST: usize>(&self, step: *const u8, half: usize) -> [__m256i; N] {
        // SAFETY: `# Safety` demands AVX2 and a coded step: `SIGNS_BYTES`, 128, and 64 bytes of codes.
        unsafe {
            let codes = _mm256_loadu_si256(step.add(SIGNS_BYTES + 32 * half).cast());
            let mut pairs = [_mm256_setzero_si256(); N];
            for j in 0..N {
                let group = FIRST + 4 / N * j;
                // The lower bytes of the lanes are exponents of groups 0 and 1, the upper ones of groups 2 and 3.
                let codes = if group.is_multiple_of(2) { codes } else { _mm256_srli_epi16::<4>(codes) };
                let exponents = _mm256_shuffle_epi8(self.exponents, _mm256_and_si256(codes, self.code));
                let exponent =
                    if group < 2 { _mm256_slli_epi16::<7>(exponents) } else { _mm256_srli_epi16::<1>(exponents) };
                // What the shift brought along from the other byte is outside the mask.
                let exponent = _mm256_and_si256(exponent, self.mask);
                let signs = _mm256_cvtepi8_epi16(_mm_loadu_si128(step.add(32 * group + 16 * half).cast()));
                pairs[j] = _mm256_or_si256(_mm256_andnot_si256(self.mask, signs), exponent);
            }
            pairs
        }
    }
}

/// See [`super::super::Isa::decode`]; `steps` and `out` are equally long.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub fn decode(steps: &[[u8; CODED_STEP_BYTES]], exponents: &Exponents, out: &mut [Step]) {
    // SAFETY: the attribute enables AVX2. `[u8; CODED_STEP_BYTES]` is a coded step, and `Step` has 64 pairs.
    unsafe {
        let decoder = Decoder::new(exponents);
        for (step, out) in steps.iter().zip(out) {
            let pairs = decoder.step(step.as_ptr());
            for r in 0..8 {
                _mm256_storeu_si256(out.as_mut_ptr().add(8 * r).cast(), pairs[r]);
            }
        }
    }
}
