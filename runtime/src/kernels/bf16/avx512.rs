//! bf16 products with AVX-512, by FMA or by the bf16 dot product: the same bits. The weights of a group of blocks are
//! widened to f32 or regrouped, and then multiplied.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::dot::{BLOCK_STEPS, dot_step};
use super::group::{Group, GroupRows};
use super::panel::Bf16Panel;
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES};
use crate::kernels::bf12::avx512::Decoder;
use crate::kernels::fetch::Fetch;
use crate::kernels::tiles::TILE_ROWS;
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

    /// [`tile`] with the instructions.
    ///
    /// # Safety
    /// As [`tile`], and the CPU must have the instructions.
    unsafe fn tile<const ROWS: usize>(group: &Group, rows: &mut GroupRows);

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
    unsafe fn tile<const ROWS: usize>(group: &Group, rows: &mut GroupRows) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { tile::<Self, ROWS>(group, rows) }
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
    unsafe fn tile<const ROWS: usize>(group: &Group, rows: &mut GroupRows) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { tile::<Self, ROWS>(group, rows) }
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

/// Adds the products of a group of blocks with rows of activations to their outputs.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW, and for [`By::Dot`] AVX512-BF16.
pub unsafe fn multiply(by: By, group: &Group, rows: &mut GroupRows) {
    assert!(group.blocks.len() == group.n_blocks() * by.block_words());
    // SAFETY: `# Safety`.
    unsafe {
        match by {
            By::Fma { no_subnormals: true } => by_rows::<Fma<false>>(group, rows),
            By::Fma { no_subnormals: false } => by_rows::<Fma<true>>(group, rows),
            By::Dot { no_subnormals: true } => by_rows::<Dot<false>>(group, rows),
            By::Dot { no_subnormals: false } => by_rows::<Dot<true>>(group, rows),
        }
    }
}

/// # Safety
/// As [`Multiply::tile`].
unsafe fn by_rows<M: Multiply>(group: &Group, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => M::tile::<1>(group, rows),
            2 => M::tile::<2>(group, rows),
            3 => M::tile::<3>(group, rows),
            4 => M::tile::<4>(group, rows),
            5 => M::tile::<5>(group, rows),
            TILE_ROWS => M::tile::<TILE_ROWS>(group, rows),
            _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
        }
    }
}

/// The microkernel: `ROWS` rows of 64 outputs, block by block. Inlined into [`Multiply::tile`], which enables the
/// features.
///
/// # Safety
/// The CPU must have the features of `M::tile`, and the group the words of `M` for each of its blocks.
#[inline(always)]
unsafe fn tile<M: Multiply, const ROWS: usize>(group: &Group, rows: &mut GroupRows) {
    assert!(rows.n_rows() == ROWS);
    let block_words = 2 * M::CHAIN_STEPS * PANEL_ROWS;
    let mut x = [std::ptr::null::<u32>(); ROWS];
    let mut sums = [std::ptr::null_mut::<f32>(); ROWS];
    for t in 0..ROWS {
        x[t] = rows.x(t)[..group.n_blocks() * 2 * M::CHAIN_STEPS].as_ptr();
        sums[t] = rows.sums(t)[..PANEL_ROWS].as_mut_ptr();
    }
    let (mut fetch, mut left, mut accumulate) = (group.fetch, group.n_steps, rows.accumulate());
    // SAFETY: `# Safety` demands the blocks. The slices above have the activations of these blocks, and the outputs.
    unsafe {
        let mut w = group.blocks.as_ptr();
        while left > 0 {
            fetch.lines(group.lines);
            let n_steps = (left.min(BLOCK_STEPS) * M::CHAIN_STEPS).div_ceil(BLOCK_STEPS);
            add_block::<M, ROWS>(w, n_steps, x, sums, accumulate);
            accumulate = true;
            left = left.saturating_sub(BLOCK_STEPS);
            w = w.wrapping_add(block_words);
            for t in 0..ROWS {
                x[t] = x[t].wrapping_add(2 * M::CHAIN_STEPS);
            }
        }
    }
}

/// Registers of outputs whose two chains are computed side by side: with six rows they fill 24 of the 32 registers, so that
/// no sum goes to memory in between.
const SIDE_BY_SIDE: usize = 2;

/// One block: both chains, of `n_steps` steps each, their sum, and that added to the outputs.
///
/// # Safety
/// As [`tile`]: weights of the block, activations of each row, and outputs must be there.
#[inline(always)]
unsafe fn add_block<M: Multiply, const ROWS: usize>(
    w: *const u32,
    n_steps: usize,
    x: [*const u32; ROWS],
    sums: [*mut f32; ROWS],
    accumulate: bool,
) {
    // SAFETY: `# Safety`.
    unsafe {
        for first in (0..PANEL_ROWS).step_by(16 * SIDE_BY_SIDE) {
            let zeros = [[_mm512_setzero_ps(); SIDE_BY_SIDE]; ROWS];
            let (mut even, mut odd) = (zeros, zeros);
            for k in 0..n_steps {
                let evens = load::<SIDE_BY_SIDE>(w.add(k * PANEL_ROWS + first).cast());
                let odds = load::<SIDE_BY_SIDE>(w.add((M::CHAIN_STEPS + k) * PANEL_ROWS + first).cast());
                for t in 0..ROWS {
                    let x_even = _mm512_set1_epi32(x[t].add(k).cast::<i32>().read());
                    let x_odd = _mm512_set1_epi32(x[t].add(M::CHAIN_STEPS + k).cast::<i32>().read());
                    for r in 0..SIDE_BY_SIDE {
                        even[t][r] = M::mul_add(even[t][r], evens[r], x_even);
                        odd[t][r] = M::mul_add(odd[t][r], odds[r], x_odd);
                    }
                }
            }
            for t in 0..ROWS {
                for r in 0..SIDE_BY_SIDE {
                    let sum = sums[t].add(first + 16 * r);
                    let before = if accumulate { _mm512_loadu_ps(sum) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(sum, M::add(before, M::add(even[t][r], odd[t][r])));
                }
            }
        }
    }
}
