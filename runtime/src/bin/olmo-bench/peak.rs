//! How fast the threads can multiply and add when everything stays in registers.

#![allow(unsafe_code, reason = "intrinsics of each instruction set")]

use crate::rounds::median;
use crate::ways;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::kernels::{Isa, LANES, LaneOp};
use olmo_infer::internals::parallel::team::Team;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Steps of a loop that a thread runs before it takes the next item: about a tenth of a millisecond.
const STEPS: usize = 50_000;
/// Passes of a loop over tiles, each of four products of 16 cycles: about a fiftieth of a millisecond.
const TILE_PASSES: usize = 1_000;
/// Items of a thread between two looks at the clock.
const ITEMS: usize = 16;
/// Passes whose median counts.
const TRIES: usize = 3;

/// The peak of one instruction set for one type.
pub struct Peak {
    /// Name of the instruction set.
    pub isa: &'static str,
    /// Type of the factors.
    pub dtype: Dtype,
    /// Multiplications and additions, 1e9 a second, all threads together.
    pub gflop_s: f64,
}

/// A loop over registers.
#[derive(Clone, Copy)]
enum Loop {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The dot product of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Bytes,
    /// Products of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2Words,
    Tiles(Isa),
    Lanes(Isa),
}

impl Loop {
    /// The fastest loop of an instruction set for weights of a type. Without tiles and a bf16 dot product bf16 weights
    /// are multiplied as f32; integers on other machines count as f32 too.
    fn of(isa: Isa, dtype: Dtype) -> Loop {
        let is_integer = dtype.is_quantized();
        match (isa.name(), dtype) {
            #[cfg(target_arch = "x86_64")]
            ("amx" | "avx512-bf16" | "avx512", _) if is_integer && is_x86_feature_detected!("avx512vnni") => {
                Loop::Avx512Bytes
            }
            #[cfg(target_arch = "x86_64")]
            ("amx" | "avx512-bf16" | "avx512" | "avx2", _) if is_integer => Loop::Avx2Words,
            ("amx", Dtype::Bf16) => Loop::Tiles(isa),
            #[cfg(target_arch = "x86_64")]
            ("avx512-bf16", Dtype::Bf16) => Loop::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            ("amx" | "avx512-bf16" | "avx512", _) => Loop::Avx512,
            #[cfg(target_arch = "x86_64")]
            ("avx2", _) => Loop::Avx2,
            _ => Loop::Lanes(isa),
        }
    }

    /// Runs it and yields the number of operations.
    fn run(self) -> usize {
        match self {
            // SAFETY: `Loop::of` makes these only from an `Isa` of that name, which exists only on CPUs that have it.
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512 => unsafe { x86::fma_512() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512Bf16 => unsafe { x86::dot_512() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Loop::Avx2 => unsafe { x86::fma_256() },
            // SAFETY: as above; `Loop::of` has asked for the dot product.
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512Bytes => unsafe { x86::dot_bytes_512() },
            // SAFETY: as above; all of them have AVX2.
            #[cfg(target_arch = "x86_64")]
            Loop::Avx2Words => unsafe { x86::words_256() },
            Loop::Tiles(isa) => isa.repeat_tile_products(TILE_PASSES).expect("`Loop::of` has found tiles"),
            Loop::Lanes(isa) => isa.run(Lanes),
        }
    }
}

/// The peak loop of a machine's instruction set, for the rounds of prefill.
pub struct Arithmetic {
    body: Loop,
    time: Duration,
}

impl Arithmetic {
    /// For weights of type `dtype`; passes take `time`.
    pub fn new(isa: Isa, dtype: Dtype, time: Duration) -> Arithmetic {
        Arithmetic { body: Loop::of(isa, dtype), time }
    }

    /// Computes for the time of a pass; yields 1e9 operations a second.
    pub fn pass(&self, team: &mut Team) -> f64 {
        let body = self.body;
        let items = ITEMS * team.n_threads();
        // All items do the same work: one run of the loop measures it.
        let operations = items * body.run();
        let begun = Instant::now();
        let mut rounds = 0;
        loop {
            team.for_each(items, |_| {
                black_box(body.run());
            });
            rounds += 1;
            let elapsed = begun.elapsed();
            if elapsed >= self.time {
                return (rounds * operations) as f64 / elapsed.as_secs_f64() / 1e9;
            }
        }
    }
}

/// The peaks of every instruction set for which there are kernels, and every type that it computes differently.
pub fn all(time: Duration, team: &mut Team) -> Vec<Peak> {
    let mut peaks = Vec::new();
    for isa in ways::paths() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            let arithmetic = Arithmetic::new(isa, dtype, time);
            let passes: Vec<f64> = (0..TRIES).map(|_| arithmetic.pass(team)).collect();
            peaks.push(Peak { isa: isa.name(), dtype, gflop_s: median(&passes) });
        }
    }
    peaks
}

/// Plain code over virtual lanes, for what has no loop of its own.
struct Lanes;

impl LaneOp for Lanes {
    type Output = usize;
    #[inline(always)]
    fn run<const FUSED: bool>(self) -> usize {
        const CHAINS: usize = 8;
        let (a, b) = black_box((0.5f32, 0.25f32));
        let mut sums = [[0f32; LANES]; CHAINS];
        for _ in 0..STEPS / 16 {
            for lane in sums.as_flattened_mut() {
                *lane = if FUSED { a.mul_add(b, *lane) } else { a * b + *lane };
            }
            black_box(&mut sums);
        }
        2 * LANES * CHAINS * (STEPS / 16)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::STEPS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent sums: enough to hide the latency of both pipes.
    const CHAINS_512: usize = 16;
    const CHAINS_256: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub fn fma_512() -> usize {
        let (a, b) = black_box((0.5f32, 0.25f32));
        let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
        let mut sums = [_mm512_setzero_ps(); CHAINS_512];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        2 * 16 * CHAINS_512 * STEPS
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn dot_512() -> usize {
        // 0.5 in bf16, twice.
        let pair = _mm512_set1_epi32(black_box(0x3f00_3f00));
        // SAFETY: the two types hold the same 512 bits.
        let pair = unsafe { std::mem::transmute::<__m512i, __m512bh>(pair) };
        let mut sums = [_mm512_setzero_ps(); CHAINS_512];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, pair, pair);
            }
        }
        black_box(sums);
        4 * 16 * CHAINS_512 * STEPS
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn fma_256() -> usize {
        let (a, b) = black_box((0.5f32, 0.25f32));
        let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
        let mut sums = [_mm256_setzero_ps(); CHAINS_256];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        2 * 8 * CHAINS_256 * STEPS
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn dot_bytes_512() -> usize {
        let bytes = _mm512_set1_epi32(black_box(0x0102_0304));
        let mut sums = [_mm512_setzero_si512(); CHAINS_512];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, bytes, bytes);
            }
        }
        black_box(sums);
        2 * 64 * CHAINS_512 * STEPS
    }

    #[target_feature(enable = "avx2")]
    pub fn words_256() -> usize {
        let words = _mm256_set1_epi32(black_box(0x0001_0002));
        let mut sums = [_mm256_setzero_si256(); CHAINS_256];
        for _ in 0..STEPS {
            for sum in &mut sums {
                // Of the sum, so that no product is computed once for all.
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, words));
            }
        }
        black_box(sums);
        2 * 16 * CHAINS_256 * STEPS
    }
}
