//! Whether the bf16 dot product of AVX-512 is fast on this processor.

#![allow(unsafe_code, reason = "an instruction that is detected by the caller")]

use std::arch::x86_64::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Measurements of each, by turns, of which the shortest counts.
const TRIES: usize = 9;
/// Operations in a row, in each of the chains.
const ROUNDS: usize = 64;
/// Independent chains: more than the operations that are under way at a time.
const CHAINS: usize = 16;

/// Whether it takes less time than the two FMAs in its place: about ten microseconds of both.
///
/// # Safety
/// The CPU must have AVX-512F and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn dot_is_fast() -> bool {
    let ones = black_box(_mm512_set1_epi32(0x3f80_3f80));
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..TRIES {
        for (way, shortest) in shortest.iter_mut().enumerate() {
            let mut sums = black_box([_mm512_setzero_ps(); CHAINS]);
            let begun = Instant::now();
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = match way {
                        0 => dot(*sum, ones),
                        _ => two_fmas(*sum, ones),
                    };
                }
            }
            black_box(sums);
            *shortest = begun.elapsed().min(*shortest);
        }
    }
    shortest[0] < shortest[1]
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn dot(sum: __m512, pairs: __m512i) -> __m512 {
    // SAFETY: any 512 bits are 32 bf16 numbers.
    let pairs = unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) };
    _mm512_dpbf16_ps(sum, pairs, pairs)
}

#[target_feature(enable = "avx512f")]
fn two_fmas(sum: __m512, numbers: __m512i) -> __m512 {
    let x = _mm512_castsi512_ps(numbers);
    _mm512_fmadd_ps(x, x, _mm512_fmadd_ps(x, x, sum))
}
