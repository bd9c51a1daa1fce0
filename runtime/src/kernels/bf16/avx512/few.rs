//! Products with the rows of one tile: the weights go from memory to registers.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::multiply::{By, Dot, Fma, Multiply, REGISTERS, parts};
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES};
use crate::kernels::bf12::avx512::Decoder;
use crate::kernels::bf16::dot::BLOCK_STEPS;
use crate::kernels::bf16::group::GroupRows;
use crate::kernels::fetch::Fetch;
use crate::kernels::tiles::TILE_ROWS;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Rows of [`few_bf12`].
pub const BF12_ROWS: usize = 3;

/// Adds the products of some blocks with a few rows to their outputs: the weights stay in registers.
///
/// # Safety
/// As [`multiply`].
pub unsafe fn few(by: By, pairs: &[u32], fetch: Fetch, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match by {
            By::Fma { no_subnormals: true } => plain_by_rows::<Fma<false>>(pairs, fetch, rows),
            By::Fma { no_subnormals: false } => plain_by_rows::<Fma<true>>(pairs, fetch, rows),
            By::Dot { no_subnormals: true } => plain_by_rows::<Dot<false>>(pairs, fetch, rows),
            By::Dot { no_subnormals: false } => plain_by_rows::<Dot<true>>(pairs, fetch, rows),
        }
    }
}

/// As [`few`] for at most [`BF12_ROWS`] rows.
///
/// # Safety
/// As [`multiply`].
///
/// # Panics
/// When a step is raw.
pub unsafe fn few_bf12(by: By, panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match by {
            By::Fma { no_subnormals: true } => bf12_by_rows::<Fma<false>>(panel, fetch, rows),
            By::Fma { no_subnormals: false } => bf12_by_rows::<Fma<true>>(panel, fetch, rows),
            By::Dot { no_subnormals: true } => bf12_by_rows::<Dot<false>>(panel, fetch, rows),
            By::Dot { no_subnormals: false } => bf12_by_rows::<Dot<true>>(panel, fetch, rows),
        }
    }
}

/// # Safety
/// The CPU must have the instructions of `M`.
unsafe fn bf12_by_rows<M: WithFew>(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => M::bf12::<1>(panel, fetch, rows),
            2 => M::bf12::<2>(panel, fetch, rows),
            BF12_ROWS => M::bf12::<BF12_ROWS>(panel, fetch, rows),
            _ => unreachable!("bf12 kernels take 1 to {BF12_ROWS} rows"),
        }
    }
}

/// Up to 24 accumulators.
///
/// # Safety
/// The CPU must have the instructions of `M`.
unsafe fn plain_by_rows<M: WithFew>(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => M::plain::<4, 1>(pairs, fetch, rows),
            2 => M::plain::<4, 2>(pairs, fetch, rows),
            3 => M::plain::<4, 3>(pairs, fetch, rows),
            4 => M::plain::<2, 4>(pairs, fetch, rows),
            5 => M::plain::<2, 5>(pairs, fetch, rows),
            TILE_ROWS => M::plain::<2, TILE_ROWS>(pairs, fetch, rows),
            _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
        }
    }
}

/// Blocks of pairs `[steps][64]` times `ROWS` rows, `N` registers of outputs at a time.
///
/// # Safety
/// The CPU must have the features of `M::plain`.
#[inline(always)]
unsafe fn plain<M: Multiply, const N: usize, const ROWS: usize>(pairs: &[u32], mut fetch: Fetch, rows: &mut GroupRows) {
    for block in pairs.chunks(BLOCK_STEPS * PANEL_ROWS) {
        for first in (0..PANEL_ROWS).step_by(16 * N) {
            let weights = PlainSteps { steps: block.as_chunks::<PANEL_ROWS>().0, first };
            // SAFETY: `# Safety`.
            unsafe { Chains::<M, N, ROWS>::run(rows, &weights, &mut fetch, first) };
        }
        rows.next_block();
    }
}

/// Blocks of bf12 steps times `ROWS` rows.
///
/// # Safety
/// The CPU must have the features of `M::bf12`, and no step may be raw.
#[inline(always)]
unsafe fn bf12<M: Multiply, const ROWS: usize>(panel: &Bf12Panel, mut fetch: Fetch, rows: &mut GroupRows) {
    let (steps, rest) = panel.bytes().for_kernels().as_chunks::<CODED_STEP_BYTES>();
    assert!(steps.len() == panel.n_steps() && rest.is_empty());
    // SAFETY: `# Safety`. The assertion shows bf12 steps.
    unsafe {
        let decoder = Decoder::new(panel.exponents());
        for block in steps.chunks(BLOCK_STEPS) {
            let weights = CodedSteps { steps: block, decoder: &decoder };
            Chains::<M, REGISTERS, ROWS>::run(rows, &weights, &mut fetch, 0);
            rows.next_block();
        }
    }
}

/// The steps of a block of weights. A closure in its place would be a function of its own where the compiler does not
/// inline it: without the features, and so with a call for every instruction.
trait Steps<const N: usize> {
    /// Number of steps.
    fn n(&self) -> usize;

    /// `N` registers of the pairs of step `k`. Fetches as many cache lines as they take, a few at a time: the loads after a
    /// burst of requests would wait for it.
    ///
    /// # Safety
    /// The CPU must have AVX-512F and AVX-512BW.
    ///
    /// # Panics
    /// When there is no such step.
    unsafe fn pairs(&self, k: usize, fetch: &mut Fetch) -> [__m512i; N];
}

/// Plain steps, of which the pairs from `first` on are taken.
struct PlainSteps<'w> {
    steps: &'w [[u32; PANEL_ROWS]],
    first: usize,
}

impl<const N: usize> Steps<N> for PlainSteps<'_> {
    #[inline(always)]
    fn n(&self) -> usize {
        self.steps.len()
    }

    #[inline(always)]
    unsafe fn pairs(&self, k: usize, fetch: &mut Fetch) -> [__m512i; N] {
        let pairs = &self.steps[k][self.first..][..16 * N];
        // SAFETY: 16 pairs are a register, cut above; `# Safety` demands the instructions.
        unsafe {
            let mut registers = [_mm512_setzero_si512(); N];
            for r in 0..N {
                registers[r] = _mm512_loadu_si512(pairs.as_ptr().add(16 * r).cast());
                fetch.lines(1);
            }
            registers
        }
    }
}

/// Steps in 12 bits.
struct CodedSteps<'w> {
    steps: &'w [[u8; CODED_STEP_BYTES]],
    decoder: &'w Decoder,
}

impl Steps<REGISTERS> for CodedSteps<'_> {
    #[inline(always)]
    fn n(&self) -> usize {
        self.steps.len()
    }

    #[inline(always)]
    unsafe fn pairs(&self, k: usize, fetch: &mut Fetch) -> [__m512i; REGISTERS] {
        // SAFETY: a coded step has `CODED_STEP_BYTES`; `# Safety` demands the instructions.
        unsafe { self.decoder.step(self.steps[k].as_ptr(), Some(fetch)) }
    }
}

/// The two chains of a block, for `ROWS` rows of `N` registers of outputs.
struct Chains<M, const N: usize, const ROWS: usize> {
    even: [[__m512; N]; ROWS],
    odd: [[__m512; N]; ROWS],
    x: [*const u32; ROWS],
    multiply: PhantomData<M>,
}

impl<M: Multiply, const N: usize, const ROWS: usize> Chains<M, N, ROWS> {
    /// Both chains over the steps of a block, their sum, and that added to the outputs from `first` on. `weights` are
    /// the pairs of a step.
    ///
    /// # Safety
    /// The CPU must have the instructions of `M`.
    #[inline(always)]
    unsafe fn run(rows: &mut GroupRows, weights: &impl Steps<N>, fetch: &mut Fetch, first: usize) {
        let n_steps = weights.n();
        assert!(rows.n_rows() == ROWS && n_steps <= BLOCK_STEPS);
        let mut x = [std::ptr::null(); ROWS];
        for t in 0..ROWS {
            x[t] = rows.x(t)[..2 * M::CHAIN_STEPS].as_ptr();
        }
        // SAFETY: `# Safety`. The activations are slices of two parts of a block, cut above.
        unsafe {
            let zeros = [[_mm512_setzero_ps(); N]; ROWS];
            let mut chains = Chains::<M, N, ROWS> { even: zeros, odd: zeros, x, multiply: PhantomData };
            if n_steps == BLOCK_STEPS {
                for k in (0..BLOCK_STEPS).step_by(2) {
                    let (first, second) = (weights.pairs(k, fetch), weights.pairs(k + 1, fetch));
                    (0..parts::<M>()).for_each(|part| chains.step(first, second, k, part));
                }
            } else {
                for k in (0..n_steps).step_by(2) {
                    if k + 1 < n_steps {
                        let (first, second) = (weights.pairs(k, fetch), weights.pairs(k + 1, fetch));
                        (0..parts::<M>()).for_each(|part| chains.step(first, second, k, part));
                    } else {
                        // A step without a second one, with weights of +0.
                        chains.step(weights.pairs(k, fetch), [_mm512_setzero_si512(); N], k, 0);
                    }
                }
            }
            let accumulate = rows.accumulate();
            for t in 0..ROWS {
                let sums = rows.sums(t)[first..][..16 * N].as_mut_ptr();
                for r in 0..N {
                    let sum = sums.add(16 * r);
                    let before = if accumulate { _mm512_loadu_ps(sum) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(sum, M::add(before, M::add(chains.even[t][r], chains.odd[t][r])));
                }
            }
        }
    }

    /// Step `part` of those that steps `k` and `k + 1` of the panel give, of both chains.
    ///
    /// # Safety
    /// The CPU must have the instructions of `M`, and the steps must be in the block.
    #[inline(always)]
    unsafe fn step(&mut self, first: [__m512i; N], second: [__m512i; N], k: usize, part: usize) {
        let k = k * parts::<M>() / 2 + part;
        // SAFETY: `# Safety`.
        unsafe {
            for r in 0..N {
                let (even, odd) = M::unpack(first[r], second[r], part);
                for t in 0..ROWS {
                    let x_even = _mm512_set1_epi32(self.x[t].add(k).cast::<i32>().read());
                    let x_odd = _mm512_set1_epi32(self.x[t].add(M::CHAIN_STEPS + k).cast::<i32>().read());
                    self.even[t][r] = M::mul_add(self.even[t][r], even, x_even);
                    self.odd[t][r] = M::mul_add(self.odd[t][r], odd, x_odd);
                }
            }
        }
    }
}

/// The microkernels, compiled with the instructions of a way to multiply.
trait WithFew: Multiply {
    /// [`plain`] with the instructions.
    ///
    /// # Safety
    /// The CPU must have the instructions.
    unsafe fn plain<const N: usize, const ROWS: usize>(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows);

    /// [`bf12`] with the instructions.
    ///
    /// # Safety
    /// As [`bf12`], and the CPU must have the instructions.
    unsafe fn bf12<const ROWS: usize>(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows);
}

impl<const FLUSH: bool> WithFew for Fma<FLUSH> {
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn plain<const N: usize, const ROWS: usize>(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows) {
        // SAFETY: the attribute enables the features.
        unsafe { plain::<Self, N, ROWS>(pairs, fetch, rows) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn bf12<const ROWS: usize>(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { bf12::<Self, ROWS>(panel, fetch, rows) }
    }
}

impl<const FLUSH: bool> WithFew for Dot<FLUSH> {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn plain<const N: usize, const ROWS: usize>(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows) {
        // SAFETY: the attribute enables the features.
        unsafe { plain::<Self, N, ROWS>(pairs, fetch, rows) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn bf12<const ROWS: usize>(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { bf12::<Self, ROWS>(panel, fetch, rows) }
    }
}
