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

    /// The pairs of half a coded step: entry j holds the rows r + 16 j, r from 0 to 7 or from 8 to 15.
    ///
    /// # Safety
    /// The CPU must have AVX2, and a coded step must begin at `step`.
    #[inline(always)]
    pub unsafe fn half_step(&self, step: *const u8, half: usize) -> [__m256i; 4] {
        // SAFETY: `# Safety` demands AVX2 and a coded step: `SIGNS_BYTES`, 128, and 64 bytes of codes.
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
            for half in 0..2 {
                let pairs = decoder.half_step(step.as_ptr(), half);
                for group in 0..4 {
                    _mm256_storeu_si256(out.as_mut_ptr().add(16 * group + 8 * half).cast(), pairs[group]);
                }
            }
        }
    }
}
