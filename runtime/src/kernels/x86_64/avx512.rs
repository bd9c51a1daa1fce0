//! Products with AVX-512: four registers of weights times up to six rows of activations, 24 accumulators.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::super::bf16_dot::fma_flushed;
use super::super::lanes::LaneOp;
use super::super::tiles::{Ahead, Microkernel, PlainWeights, Rows, TILE_ROWS, WeightStream, for_rows};
use super::again;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Compiles lane-wise work for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// What a product does at every step for one register of 16 outputs.
trait MulAdd {
    /// An f32, or a pair of bf16: 32 bits.
    type Activation;

    /// Products of a step for one output, which are added one after the other.
    const N_PARTS: usize;

    /// Of weights or activations of a step, what belongs to product `part`.
    ///
    /// # Safety
    /// The CPU must have the features of [`MulAdd::tile`].
    unsafe fn part(v: __m512i, part: usize) -> __m512i;

    /// `acc` plus one product; `w` are weights of 16 outputs, `x` one activation everywhere.
    ///
    /// # Safety
    /// The CPU must have the features of [`MulAdd::tile`].
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512;

    /// [`tile`], compiled for the features that it takes.
    ///
    /// # Safety
    /// The CPU must have these features.
    unsafe fn tile<W, const REGISTERS: usize, const ROWS: usize>(weights: W, rows: Rows<'_, '_, Self::Activation>)
    where
        W: WeightStream<__m512i, REGISTERS, Activation = Self::Activation>;
}

struct F32;
impl MulAdd for F32 {
    type Activation = f32;
    const N_PARTS: usize = 1;

    #[inline(always)]
    unsafe fn part(v: __m512i, _: usize) -> __m512i {
        v
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: `# Safety` demands the features of `MulAdd::tile`, AVX-512F among them.
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), acc) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn tile<W, const REGISTERS: usize, const ROWS: usize>(weights: W, rows: Rows<'_, '_, f32>)
    where
        W: WeightStream<__m512i, REGISTERS, Activation = f32>,
    {
        // SAFETY: the attribute enables the features.
        unsafe { tile::<Self, W, REGISTERS, ROWS>(weights, rows) }
    }
}

struct Bf16Dot;
impl MulAdd for Bf16Dot {
    type Activation = u32;
    const N_PARTS: usize = 1;

    #[inline(always)]
    unsafe fn part(v: __m512i, _: usize) -> __m512i {
        v
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: `# Safety` demands the features of `MulAdd::tile`, AVX512-BF16 among them. The two types hold
        // the same 512 bits.
        unsafe {
            _mm512_dpbf16_ps(
                acc,
                std::mem::transmute::<__m512i, __m512bh>(w),
                std::mem::transmute::<__m512i, __m512bh>(x),
            )
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tile<W, const REGISTERS: usize, const ROWS: usize>(weights: W, rows: Rows<'_, '_, u32>)
    where
        W: WeightStream<__m512i, REGISTERS, Activation = u32>,
    {
        // SAFETY: the attribute enables the features.
        unsafe { tile::<Self, W, REGISTERS, ROWS>(weights, rows) }
    }
}

/// The bf16 dot product by two FMAs. Without `FLUSH` the caller has shown that nothing can be subnormal.
struct Bf16ByFma<const FLUSH: bool>;
impl<const FLUSH: bool> MulAdd for Bf16ByFma<FLUSH> {
    type Activation = u32;
    /// First the odd, then the even one.
    const N_PARTS: usize = 2;

    #[inline(always)]
    unsafe fn part(v: __m512i, part: usize) -> __m512i {
        // SAFETY: `# Safety` demands the features of `MulAdd::tile`, AVX-512F among them.
        unsafe {
            if part == 0 {
                _mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000u32 as i32))
            } else {
                _mm512_slli_epi32::<16>(v)
            }
        }
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: `# Safety` demands the features of `MulAdd::tile`, AVX-512F among them.
        unsafe { fma::<FLUSH>(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), acc) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn tile<W, const REGISTERS: usize, const ROWS: usize>(weights: W, rows: Rows<'_, '_, u32>)
    where
        W: WeightStream<__m512i, REGISTERS, Activation = u32>,
    {
        // SAFETY: the attribute enables the features.
        unsafe { tile::<Self, W, REGISTERS, ROWS>(weights, rows) }
    }
}

/// `w * x + acc`; with `FLUSH` as [`fma_flushed`] computes it.
///
/// # Safety
/// The CPU must have AVX-512F.
#[inline(always)]
unsafe fn fma<const FLUSH: bool>(w: __m512, x: __m512, acc: __m512) -> __m512 {
    // SAFETY: `# Safety` demands AVX-512F, which `Isa::available` detects.
    unsafe {
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

/// [`fma_flushed`] on each lane.
#[cold]
#[target_feature(enable = "avx512f")]
fn one_by_one(w: __m512, x: __m512, acc: __m512) -> __m512 {
    // SAFETY: 16 lanes of f32 are 512 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m512, [f32; 16]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 16] = std::array::from_fn(|i| fma_flushed(w[i], x[i], acc[i]));
    // SAFETY: 16 lanes of f32 are 512 bits, as in `lanes`.
    unsafe { std::mem::transmute::<[f32; 16], __m512>(result) }
}

/// The stream of a plain panel.
pub struct Plain<'a, T, const REGISTERS: usize> {
    steps: std::slice::Iter<'a, [[T; 16]; REGISTERS]>,
    n_steps: usize,
    ahead: Ahead,
}

impl<'a, T, const REGISTERS: usize> Plain<'a, T, REGISTERS> {
    /// # Panics
    /// When the panel has another width.
    pub fn new(weights: &PlainWeights<'a, T>) -> Self {
        const { assert!(size_of::<T>() == 4) }
        assert!(weights.width == 16 * REGISTERS);
        let (steps, rest) = weights.panel.as_chunks().0.as_chunks();
        assert!(rest.is_empty());
        Plain { steps: steps.iter(), n_steps: steps.len(), ahead: weights.ahead }
    }
}

// SAFETY: `n_steps` is what `Plain::new` counted in the panel, whose steps are one run.
unsafe impl<T, const REGISTERS: usize> WeightStream<__m512i, REGISTERS> for Plain<'_, T, REGISTERS> {
    type Activation = T;

    fn n_steps(&self) -> usize {
        self.n_steps
    }

    fn next_run(&mut self) -> usize {
        self.n_steps()
    }

    #[inline(always)]
    unsafe fn step(&mut self) -> [__m512i; REGISTERS] {
        // SAFETY: `tile` asserts that it takes no more than `n_steps` steps, and `Isa::available` detects AVX-512F. A
        // register is 16 elements of 32 bits, as `Plain::new` asserts.
        unsafe {
            let step = self.steps.next().unwrap_unchecked();
            let mut w = [_mm512_setzero_si512(); REGISTERS];
            for r in 0..REGISTERS {
                w[r] = _mm512_loadu_si512(step[r].as_ptr().cast());
            }
            // After the loads: before them, products of 12 to 18 rows take a tenth longer.
            self.ahead.fetch_step();
            w
        }
    }
}

/// A call of [`tile`] whose number of rows is not yet chosen.
struct Tile<'r, 'out, M: MulAdd, W, const REGISTERS: usize> {
    weights: W,
    rows: Rows<'r, 'out, M::Activation>,
    mul_add: PhantomData<M>,
}

impl<M: MulAdd, W, const REGISTERS: usize> Microkernel for Tile<'_, '_, M, W, REGISTERS>
where
    W: WeightStream<__m512i, REGISTERS, Activation = M::Activation>,
{
    #[inline(always)]
    unsafe fn run<const ROWS: usize>(self) {
        // SAFETY: `Microkernel::run` demands the features of `M::tile`; `by_rows` makes the only `Tile`.
        unsafe { M::tile::<W, REGISTERS, ROWS>(self.weights, self.rows) }
    }
}

/// # Safety
/// The CPU must have the features of `M::tile`.
unsafe fn by_rows<M: MulAdd, W, const REGISTERS: usize>(weights: W, rows: Rows<'_, '_, M::Activation>)
where
    W: WeightStream<__m512i, REGISTERS, Activation = M::Activation>,
{
    let n_rows = rows.n_rows();
    let tile = Tile::<M, W, REGISTERS> { weights, rows, mul_add: PhantomData };
    // SAFETY: `# Safety` demands the features of `M::tile`, which `Isa::available` detects.
    unsafe { for_rows(tile, n_rows) }
}

/// See [`super::super::Isa::product_f32`].
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
pub unsafe fn product_f32(weights: &PlainWeights<'_, f32>, rows: Rows<'_, '_, f32>) {
    // SAFETY: `# Safety` demands the features of `F32::tile`, which `Isa::available` detects.
    unsafe {
        match weights.width {
            16 => by_rows::<F32, _, 1>(Plain::new(weights), rows),
            32 => by_rows::<F32, _, 2>(Plain::new(weights), rows),
            48 => by_rows::<F32, _, 3>(Plain::new(weights), rows),
            _ => by_rows::<F32, _, 4>(Plain::new(weights), rows),
        }
    }
}

/// How pairs of bf16 are multiplied: the same bits.
pub enum Bf16Product {
    /// By the bf16 dot product.
    Dot,
    /// By two FMAs, for CPUs without it. `no_subnormals` as in [`super::super::Isa::product_bf16`].
    Fma { no_subnormals: bool },
}

/// A product of weights that the stream widens to pairs of bf16, see [`super::super::Isa::product_bf16`].
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW, and for [`Bf16Product::Dot`] AVX512-BF16.
pub unsafe fn product_bf16<W>(weights: W, rows: Rows<'_, '_, u32>, product: Bf16Product)
where
    W: WeightStream<__m512i, 4, Activation = u32>,
{
    // SAFETY: `# Safety` demands them, and `Isa::bf16_product` makes `Dot` only where `Isa::available` detected
    // AVX512-BF16.
    unsafe {
        match product {
            Bf16Product::Dot => by_rows::<Bf16Dot, _, 4>(weights, rows),
            Bf16Product::Fma { no_subnormals: true } => by_rows::<Bf16ByFma<false>, _, 4>(weights, rows),
            Bf16Product::Fma { no_subnormals: false } => by_rows::<Bf16ByFma<true>, _, 4>(weights, rows),
        }
    }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 16` accumulators over all steps. Inlined into [`MulAdd::tile`], which
/// enables the features.
///
/// # Safety
/// The CPU must have the features of `M::tile`.
#[inline(always)]
unsafe fn tile<M: MulAdd, W, const REGISTERS: usize, const ROWS: usize>(
    mut weights: W,
    mut rows: Rows<'_, '_, M::Activation>,
) where
    W: WeightStream<__m512i, REGISTERS, Activation = M::Activation>,
{
    const { assert!(size_of::<M::Activation>() == 4 && ROWS <= TILE_ROWS) }
    let n_steps = rows.n_steps();
    assert!(weights.n_steps() == n_steps && rows.n_rows() == ROWS);
    let mut x = [std::ptr::null::<i32>(); ROWS];
    let mut out = [std::ptr::null_mut::<f32>(); ROWS];
    let mut x_rows = rows.x();
    for t in 0..ROWS {
        x[t] = x_rows.next().expect("activations of each row").as_ptr().cast();
        out[t] = rows.outputs(t)[..16 * REGISTERS].as_mut_ptr();
    }
    // SAFETY: each row of `Rows::x` is a slice of `n_steps` activations: `check_shapes` asserts that `x` has them, and
    // `Tile::run` cuts them out. The first assertion above compares `n_steps` with the stream, whose contract
    // (`WeightStream`) covers the steps up to there; `end <= n_steps` keeps within them. `out` points to slices of
    // `REGISTERS` registers, cut above. `M::tile`, the only caller, enables the features.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        if rows.accumulate() {
            for t in 0..ROWS {
                for r in 0..REGISTERS {
                    acc[t][r] = _mm512_loadu_ps(out[t].add(16 * r));
                }
            }
        }
        let mut k = 0;
        loop {
            let end = k + weights.next_run();
            assert!(end <= n_steps);
            while k < end {
                let w = weights.step();
                multiply::<M, REGISTERS, ROWS>(&mut acc, w, x, k);
                k += 1;
            }
            if k == n_steps {
                break;
            }
            let w = weights.raw_step();
            multiply::<M, REGISTERS, ROWS>(&mut acc, w, x, k);
            k += 1;
        }
        for t in 0..ROWS {
            for r in 0..REGISTERS {
                _mm512_storeu_ps(out[t].add(16 * r), acc[t][r]);
            }
        }
    }
}

/// One step of k for all accumulators.
///
/// # Safety
/// The CPU must have the instructions of `M`, and each row of `x` an element `k`.
#[inline(always)]
unsafe fn multiply<M: MulAdd, const REGISTERS: usize, const ROWS: usize>(
    acc: &mut [[__m512; REGISTERS]; ROWS],
    w: [__m512i; REGISTERS],
    x: [*const i32; ROWS],
    k: usize,
) {
    // One row takes all parts of a register's weights at once; more rows share a part of all registers' weights.
    let group = if ROWS == 1 { 1 } else { REGISTERS };
    // Accumulators, weights, a part of them, and activations of all rows: whether they take all 32 registers.
    let is_full = ROWS > 1 && ROWS * REGISTERS + 2 * REGISTERS + ROWS >= 32;
    for first in (0..REGISTERS).step_by(group) {
        for part in 0..M::N_PARTS {
            let k = if part > 0 && is_full { again(k) } else { k };
            // SAFETY: `tile`, the only caller, stays below the `n_steps` elements of each row; `M::tile` enables the
            // instructions.
            unsafe {
                let mut w_part = w;
                for r in first..first + group {
                    w_part[r] = M::part(w[r], part);
                }
                for t in 0..ROWS {
                    let x = M::part(_mm512_set1_epi32(*x[t].add(k)), part);
                    for r in first..first + group {
                        acc[t][r] = M::mul_add(acc[t][r], w_part[r], x);
                    }
                }
            }
        }
    }
}
