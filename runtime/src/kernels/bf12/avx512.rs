//! The stream of a bf12 panel for AVX-512.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::super::tiles::{Ahead, Rows, WeightStream};
use super::super::x86_64::avx512::{self, Bf16Product};
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, Exponents, RAW_STEP_BYTES, SIGNS_BYTES, Step};
use std::arch::x86_64::*;

/// One tile of a product. Leaves the decoded weights in `decoded`, unless that is empty.
///
/// # Safety
/// As [`avx512::product_bf16`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn product(
    panel: &Bf12Panel,
    ahead: Ahead,
    rows: Rows<'_, '_, u32>,
    decoded: &mut [Step],
    product: Bf16Product,
) {
    // SAFETY: the attribute enables AVX-512F and AVX-512BW; `# Safety` demands AVX512-BF16 where `product` needs it.
    unsafe {
        let stream = Bf12::new(panel, panel.stretches(), ahead);
        if decoded.is_empty() {
            avx512::product_bf16(stream, rows, product)
        } else {
            avx512::product_bf16(Kept::new(stream, decoded), rows, product)
        }
    }
}

/// The weights of a bf12 panel, decoded.
struct Bf12<I> {
    decoder: Decoder,
    /// Where the next step begins.
    bytes: *const u8,
    n_steps: usize,
    stretches: I,
    ahead: Ahead,
}

impl<I: Iterator<Item = (usize, bool)>> Bf12<I> {
    /// `stretches` are those of the panel.
    ///
    /// # Safety
    /// The CPU must have AVX-512BW.
    #[inline(always)]
    unsafe fn new(panel: &Bf12Panel, stretches: I, ahead: Ahead) -> Self {
        Bf12 {
            // SAFETY: `# Safety` demands AVX-512BW, which `product` enables.
            decoder: unsafe { Decoder::new(panel.exponents()) },
            bytes: panel.bytes().for_kernels().as_ptr(),
            n_steps: panel.n_steps(),
            stretches,
            ahead,
        }
    }
}

// SAFETY: `Bf12Panel::stretches` asserts that its runs and raw steps are the `n_steps` of the panel. `Bf12Panels::new`
// asserts that the matrix, and `Bf12Panel::split_at` that a part of a panel, has the bytes of such steps.
unsafe impl<I: Iterator<Item = (usize, bool)>> WeightStream<__m512i, 4> for Bf12<I> {
    type Activation = u32;

    fn n_steps(&self) -> usize {
        self.n_steps
    }

    #[inline(always)]
    fn next_run(&mut self) -> usize {
        self.stretches.next().map_or(0, |(n_bf12, _)| n_bf12)
    }

    #[inline(always)]
    unsafe fn step(&mut self) -> [__m512i; 4] {
        self.ahead.fetch_step();
        // SAFETY: `avx512::tile` takes the steps that `next_run` states, which the `unsafe impl` shows to be there.
        // `MulAdd::tile` enables AVX-512BW.
        unsafe {
            let w = self.decoder.step(self.bytes);
            self.bytes = self.bytes.add(CODED_STEP_BYTES);
            w
        }
    }

    #[inline(always)]
    unsafe fn raw_step(&mut self) -> [__m512i; 4] {
        self.ahead.fetch_step();
        self.ahead.skip(RAW_STEP_BYTES - CODED_STEP_BYTES);
        // SAFETY: `avx512::tile` takes a raw step where a run ends before the stream does, which the `unsafe impl`
        // shows to be there. `MulAdd::tile` enables AVX-512F.
        unsafe {
            let mut w = [_mm512_setzero_si512(); 4];
            for r in 0..4 {
                w[r] = _mm512_loadu_si512(self.bytes.add(64 * r).cast());
            }
            self.bytes = self.bytes.add(RAW_STEP_BYTES);
            w
        }
    }
}

/// A stream whose weights are also stored for the tiles that follow.
struct Kept<'a, S> {
    stream: S,
    steps: std::slice::IterMut<'a, Step>,
}

impl<'a, S: WeightStream<__m512i, 4>> Kept<'a, S> {
    /// # Panics
    /// When `steps` has another length than the stream.
    fn new(stream: S, steps: &'a mut [Step]) -> Self {
        assert!(steps.len() == stream.n_steps());
        Kept { stream, steps: steps.iter_mut() }
    }

    /// # Safety
    /// The CPU must have AVX-512F, and this must be one of the stream's steps.
    #[inline(always)]
    unsafe fn keep(&mut self, w: [__m512i; 4]) {
        // SAFETY: `Kept::new` asserts that there is a place for each step of the stream, and `# Safety` demands that
        // this is one of them, and AVX-512F.
        unsafe { store(w, self.steps.next().unwrap_unchecked()) }
    }
}

// SAFETY: these are the steps and the runs of `stream`, which keeps the contract.
unsafe impl<S: WeightStream<__m512i, 4>> WeightStream<__m512i, 4> for Kept<'_, S> {
    type Activation = S::Activation;

    fn n_steps(&self) -> usize {
        self.stream.n_steps()
    }

    #[inline(always)]
    fn next_run(&mut self) -> usize {
        self.stream.next_run()
    }

    #[inline(always)]
    unsafe fn step(&mut self) -> [__m512i; 4] {
        // SAFETY: `# Safety` demands the step and AVX-512F, for `stream` and `keep` alike.
        unsafe {
            let w = self.stream.step();
            self.keep(w);
            w
        }
    }

    #[inline(always)]
    unsafe fn raw_step(&mut self) -> [__m512i; 4] {
        // SAFETY: `# Safety` demands the raw step and AVX-512F, for `stream` and `keep` alike.
        unsafe {
            let w = self.stream.raw_step();
            self.keep(w);
            w
        }
    }
}

/// The exponents of the codes, twice, and the bits of an exponent.
struct Decoder {
    exponents: __m512i,
    mask: __m512i,
}

impl Decoder {
    /// # Safety
    /// The CPU must have AVX-512BW.
    #[inline(always)]
    unsafe fn new(exponents: &Exponents) -> Decoder {
        let lanes = exponents.lanes();
        // SAFETY: 32 lanes of 16 bits are 512 bits. `# Safety` demands AVX-512BW, which `product` and `decode` enable.
        unsafe { Decoder { exponents: _mm512_loadu_si512(lanes.as_ptr().cast()), mask: _mm512_set1_epi16(0x7f80) } }
    }

    /// The pairs of a coded step, 16 rows to a register.
    ///
    /// # Safety
    /// The CPU must have AVX-512BW, and a coded step must begin at `step`.
    #[inline(always)]
    unsafe fn step(&self, step: *const u8) -> [__m512i; 4] {
        // SAFETY: `# Safety` demands AVX-512BW and a coded step: `SIGNS_BYTES`, 128, and 64 bytes of codes.
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
/// The CPU must have AVX-512F.
#[inline(always)]
unsafe fn store(pairs: [__m512i; 4], to: &mut Step) {
    for (r, to) in to.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // SAFETY: 16 pairs are a register, and `# Safety` demands AVX-512F.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs[r]) };
    }
}

/// See [`super::super::Isa::decode`]; `steps` and `out` are equally long.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn decode(steps: &[[u8; CODED_STEP_BYTES]], exponents: &Exponents, out: &mut [Step]) {
    // SAFETY: the attribute enables AVX-512BW, and `[u8; CODED_STEP_BYTES]` is a coded step.
    unsafe {
        let decoder = Decoder::new(exponents);
        for (step, out) in steps.iter().zip(out) {
            store(decoder.step(step.as_ptr()), out);
        }
    }
}
