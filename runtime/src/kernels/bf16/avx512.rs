//! bf16 products with AVX-512, by FMA or by the bf16 dot product: the same bits. The weights of a group of blocks are
//! widened to f32 or regrouped, and then multiplied.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::dot::{BLOCK_STEPS, dot_step};
use super::group::{Group, GroupRows};
use super::panel::Bf16Panel;
use super::rows::Bf16Rows;
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES};
use crate::kernels::bf12::avx512::Decoder;
use crate::kernels::fetch::Fetch;
use crate::kernels::tiles::{CACHE_LINE, TILE_ROWS};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Registers of a step: 64 outputs.
const REGISTERS: usize = PANEL_ROWS / 16;

/// A way to multiply.
trait Multiply {
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

    /// [`tiles`] with the instructions.
    ///
    /// # Safety
    /// As [`tiles`], and the CPU must have the instructions.
    unsafe fn tiles<const ROWS: usize>(group: &Group, requests: &mut Requests, on: Tiles);

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

/// Steps of a chain that two steps of the panel give.
const fn parts<M: Multiply>() -> usize {
    M::CHAIN_STEPS / (BLOCK_STEPS / 2)
}

/// FMA on f32 numbers. Without `FLUSH` the caller has shown that nothing can be subnormal.
struct Fma<const FLUSH: bool>;

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

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn tiles<const ROWS: usize>(group: &Group, requests: &mut Requests, on: Tiles) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { tiles::<Self, ROWS>(group, requests, on) }
    }

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

/// The bf16 dot product, which adds first the product of the high halves and then that of the low ones. So a word has
/// the columns of two steps: that of the first in its high half. It flushes by itself; additions do with `FLUSH`.
struct Dot<const FLUSH: bool>;

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

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tiles<const ROWS: usize>(group: &Group, requests: &mut Requests, on: Tiles) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { tiles::<Self, ROWS>(group, requests, on) }
    }

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

/// Arranges some steps of a panel in the blocks of a group.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn fill(by: By, panel: &Bf16Panel, blocks: &mut [u32]) {
    assert!(blocks.len() == panel.n_steps().div_ceil(BLOCK_STEPS) * by.block_words());
    // SAFETY: the attribute enables the features, and the assertion above shows the blocks.
    unsafe {
        match by {
            By::Fma { .. } => fill_for::<Fma<false>>(panel, blocks),
            By::Dot { .. } => fill_for::<Dot<false>>(panel, blocks),
        }
    }
}

/// # Safety
/// The CPU must have AVX-512F and AVX-512BW, and the blocks must have room for the steps of the panel.
#[inline(always)]
unsafe fn fill_for<M: Multiply>(panel: &Bf16Panel, blocks: &mut [u32]) {
    // SAFETY: `# Safety` demands a place for each step. A plain panel is read by whole steps of 64 pairs;
    // `Bf12Panel::stretches` asserts that its runs and raw steps are those of the panel, and `Bf12Panels::new` and
    // `split_at` that it has their bytes.
    unsafe {
        let mut out = Arranged::<M>::new(blocks);
        match panel {
            Bf16Panel::Plain(pairs) => {
                for step in pairs.as_chunks::<PANEL_ROWS>().0 {
                    let w = load(step.as_ptr().cast());
                    out.put(w);
                }
            }
            Bf16Panel::Bf12(panel) => {
                let decoder = Decoder::new(panel.exponents());
                let mut bytes = panel.bytes().for_kernels().as_ptr();
                for (n_bf12, raw) in panel.stretches() {
                    for _ in 0..n_bf12 {
                        out.put(decoder.step(bytes, None));
                        bytes = bytes.add(CODED_STEP_BYTES);
                    }
                    if raw {
                        out.put(load(bytes));
                        bytes = bytes.add(RAW_STEP_BYTES);
                    }
                }
            }
        }
        out.end();
    }
}

/// `N` registers of 16 words.
///
/// # Safety
/// They must be there, and the CPU must have AVX-512F.
#[inline(always)]
unsafe fn load<const N: usize>(from: *const u8) -> [__m512i; N] {
    // SAFETY: `# Safety`.
    unsafe {
        let mut w = [_mm512_setzero_si512(); N];
        for r in 0..N {
            w[r] = _mm512_loadu_si512(from.add(64 * r).cast());
        }
        w
    }
}

/// Where the next step goes.
struct Arranged<'b, M> {
    blocks: &'b mut [u32],
    step: usize,
    /// The step before, if its number is even.
    first: [__m512i; REGISTERS],
    multiply: PhantomData<M>,
}

impl<'b, M: Multiply> Arranged<'b, M> {
    /// # Safety
    /// The CPU must have AVX-512F.
    #[inline(always)]
    unsafe fn new(blocks: &'b mut [u32]) -> Self {
        // SAFETY: `# Safety`.
        let first = unsafe { [_mm512_setzero_si512(); REGISTERS] };
        Arranged { blocks, step: 0, first, multiply: PhantomData }
    }

    /// # Safety
    /// There must be a place for this step in the blocks, and the CPU must have AVX-512F and AVX-512BW.
    #[inline(always)]
    unsafe fn put(&mut self, pairs: [__m512i; REGISTERS]) {
        if self.step.is_multiple_of(2) {
            self.first = pairs;
        } else {
            // SAFETY: `# Safety`.
            unsafe { self.store(pairs) };
        }
        self.step += 1;
    }

    /// Stores the step that is left without a second one, with weights of +0.
    ///
    /// # Safety
    /// As [`Arranged::put`].
    #[inline(always)]
    unsafe fn end(mut self) {
        if self.step % 2 == 1 {
            // SAFETY: `# Safety`.
            unsafe { self.store([_mm512_setzero_si512(); REGISTERS]) };
        }
    }

    /// # Safety
    /// As [`Arranged::put`].
    #[inline(always)]
    unsafe fn store(&mut self, second: [__m512i; REGISTERS]) {
        let (block, pair) = (self.step / BLOCK_STEPS, self.step % BLOCK_STEPS / 2);
        // A pair of steps is one or two steps of a chain.
        let at = (2 * block * M::CHAIN_STEPS + pair * M::CHAIN_STEPS / (BLOCK_STEPS / 2)) * PANEL_ROWS;
        // SAFETY: block, part and step of the chain are inside `[2][CHAIN_STEPS][64]` of a block that is there.
        unsafe {
            let even = self.blocks.as_mut_ptr().add(at);
            for part in 0..parts::<M>() {
                for r in 0..REGISTERS {
                    let (evens, odds) = M::unpack(self.first[r], second[r], part);
                    let even = even.add(part * PANEL_ROWS + 16 * r);
                    _mm512_storeu_si512(even.cast(), evens);
                    _mm512_storeu_si512(even.add(M::CHAIN_STEPS * PANEL_ROWS).cast(), odds);
                }
            }
        }
    }
}

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
unsafe fn bf12_by_rows<M: Multiply>(panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows) {
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
unsafe fn plain_by_rows<M: Multiply>(pairs: &[u32], fetch: Fetch, rows: &mut GroupRows) {
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

/// Adds the products of a group of blocks, from step `first_step` of a panel on, with rows of activations to their sums,
/// `[rows][64]`; the sums of the first group begin with +0.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW, and for [`By::Dot`] AVX512-BF16.
pub unsafe fn multiply(by: By, group: &Group, x: &Bf16Rows, first_step: usize, sums: &mut [f32]) {
    assert!(group.blocks.len() == group.n_blocks() * by.block_words());
    // SAFETY: `# Safety`.
    unsafe {
        match by {
            By::Fma { no_subnormals: true } => by_tiles::<Fma<false>>(group, x, first_step, sums),
            By::Fma { no_subnormals: false } => by_tiles::<Fma<true>>(group, x, first_step, sums),
            By::Dot { no_subnormals: true } => by_tiles::<Dot<false>>(group, x, first_step, sums),
            By::Dot { no_subnormals: false } => by_tiles::<Dot<true>>(group, x, first_step, sums),
        }
    }
}

/// Tiles of equally many rows, one after the other.
struct Tiles {
    /// The activations of the first tile from the first block on.
    x: *const u32,
    /// Words from one tile to the next.
    x_stride: usize,
    /// The sums of the first row.
    sums: *mut f32,
    /// Number of tiles.
    n: usize,
    /// Whether the sums begin with what is there, or with +0.
    accumulate: bool,
}

/// How the lines of the next group are requested: few at a time, because loads wait for a burst of requests.
struct Requests {
    fetch: Fetch,
    /// Before each block of a tile.
    of_block: usize,
    /// With each step of a block and half of its outputs.
    of_step: usize,
}

/// Most requests with a step: those of the fewest tiles, two, with plain weights.
const MOST_OF_STEP: usize = 2;

impl Requests {
    /// For a group that is multiplied with `n_tiles` tiles.
    fn new<M: Multiply>(group: &Group, n_tiles: usize) -> Requests {
        let lines = group.next_bytes.div_ceil(CACHE_LINE);
        let blocks = n_tiles * group.n_blocks();
        let steps = blocks * M::CHAIN_STEPS * (REGISTERS / SIDE_BY_SIDE);
        let of_step = (lines / steps).min(MOST_OF_STEP);
        let of_block = (lines - steps * of_step).div_ceil(blocks);
        let fetch = Fetch::in_requests(group.next, group.next_bytes, steps * of_step + blocks * of_block);
        Requests { fetch, of_block, of_step }
    }
}

/// # Safety
/// The CPU must have the instructions of `M`, and the group the words of `M` for each of its blocks.
unsafe fn by_tiles<M: Multiply>(group: &Group, x: &Bf16Rows, first_step: usize, sums: &mut [f32]) {
    let (first_block, row_words) = (first_step / BLOCK_STEPS, x.arrangement.row_words(x.columns));
    assert!((first_block + group.n_blocks()) * 2 * M::CHAIN_STEPS <= row_words);
    assert!(x.words.len() == x.rows * row_words && sums.len() == x.rows * PANEL_ROWS);
    let tile_rows = x.group_rows();
    let (n_whole, rest) = (x.rows / tile_rows, x.rows % tile_rows);
    let mut requests = Requests::new::<M>(group, n_whole + rest.min(1));
    for (first, rows, n) in [(0, tile_rows, n_whole), (n_whole * tile_rows, rest, rest.min(1))] {
        let tiles = Tiles {
            x: x.words[first * row_words..][first_block * rows * 2 * M::CHAIN_STEPS..].as_ptr(),
            x_stride: rows * row_words,
            sums: sums[first * PANEL_ROWS..].as_mut_ptr(),
            n,
            accumulate: first_step > 0,
        };
        // SAFETY: `# Safety`. The assertions show the activations of the blocks and the sums of each row.
        unsafe {
            match rows {
                0 => {}
                1 => M::tiles::<1>(group, &mut requests, tiles),
                2 => M::tiles::<2>(group, &mut requests, tiles),
                3 => M::tiles::<3>(group, &mut requests, tiles),
                4 => M::tiles::<4>(group, &mut requests, tiles),
                5 => M::tiles::<5>(group, &mut requests, tiles),
                TILE_ROWS => M::tiles::<TILE_ROWS>(group, &mut requests, tiles),
                _ => unreachable!("tiles have at most {TILE_ROWS} rows"),
            }
        }
    }
}

/// The microkernel: tiles of `ROWS` rows of 64 outputs, block by block. Inlined into [`Multiply::tiles`], which enables
/// the features.
///
/// # Safety
/// The CPU must have the features of `M::tiles`, the group the words of `M` for each of its blocks, and the tiles
/// activations of these blocks and sums for `ROWS` rows each.
#[inline(always)]
unsafe fn tiles<M: Multiply, const ROWS: usize>(group: &Group, requests: &mut Requests, tiles: Tiles) {
    let block_words = 2 * M::CHAIN_STEPS * PANEL_ROWS;
    for tile in 0..tiles.n {
        // SAFETY: `# Safety`.
        unsafe {
            let mut x = tiles.x.add(tile * tiles.x_stride);
            let sums = tiles.sums.add(tile * ROWS * PANEL_ROWS);
            let mut w = group.blocks.as_ptr();
            let (mut left, mut accumulate) = (group.n_steps, tiles.accumulate);
            while left > 0 {
                let n_steps = (left.min(BLOCK_STEPS) * M::CHAIN_STEPS).div_ceil(BLOCK_STEPS);
                requests.fetch.lines(requests.of_block);
                let fetch = &mut requests.fetch;
                match requests.of_step {
                    0 => add_block::<M, ROWS, 0>(w, n_steps, x, sums, accumulate, fetch),
                    1 => add_block::<M, ROWS, 1>(w, n_steps, x, sums, accumulate, fetch),
                    _ => add_block::<M, ROWS, MOST_OF_STEP>(w, n_steps, x, sums, accumulate, fetch),
                }
                accumulate = true;
                left = left.saturating_sub(BLOCK_STEPS);
                w = w.wrapping_add(block_words);
                x = x.wrapping_add(ROWS * 2 * M::CHAIN_STEPS);
            }
        }
    }
}

/// Registers of outputs whose two chains are computed side by side: with six rows they fill 24 of the 32 registers, so that
/// no sum goes to memory in between.
const SIDE_BY_SIDE: usize = 2;

/// One block: both chains, of `n_steps` steps each, their sum, and that added to the outputs. Fetches `LINES` lines with
/// each step.
///
/// # Safety
/// As [`tiles`]: weights of the block, activations of each row, and outputs must be there.
#[inline(always)]
unsafe fn add_block<M: Multiply, const ROWS: usize, const LINES: usize>(
    w: *const u32,
    n_steps: usize,
    x: *const u32,
    sums: *mut f32,
    accumulate: bool,
    fetch: &mut Fetch,
) {
    // SAFETY: `# Safety`.
    unsafe {
        for first in (0..PANEL_ROWS).step_by(16 * SIDE_BY_SIDE) {
            let zeros = [[_mm512_setzero_ps(); SIDE_BY_SIDE]; ROWS];
            let (mut even, mut odd) = (zeros, zeros);
            for k in 0..n_steps {
                fetch.lines(LINES);
                let evens = load::<SIDE_BY_SIDE>(w.add(k * PANEL_ROWS + first).cast());
                let odds = load::<SIDE_BY_SIDE>(w.add((M::CHAIN_STEPS + k) * PANEL_ROWS + first).cast());
                for t in 0..ROWS {
                    let x_even = _mm512_set1_epi32(x.add(t * 2 * M::CHAIN_STEPS + k).cast::<i32>().read());
                    let x_odd = _mm512_set1_epi32(x.add((2 * t + 1) * M::CHAIN_STEPS + k).cast::<i32>().read());
                    for r in 0..SIDE_BY_SIDE {
                        even[t][r] = M::mul_add(even[t][r], evens[r], x_even);
                        odd[t][r] = M::mul_add(odd[t][r], odds[r], x_odd);
                    }
                }
            }
            for t in 0..ROWS {
                for r in 0..SIDE_BY_SIDE {
                    let sum = sums.add(t * PANEL_ROWS + first + 16 * r);
                    let before = if accumulate { _mm512_loadu_ps(sum) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(sum, M::add(before, M::add(even[t][r], odd[t][r])));
                }
            }
        }
    }
}
