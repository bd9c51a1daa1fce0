//! Products with AVX2 and FMA. One row of activations takes 64 outputs at once, eight registers; more rows take strips
//! of 16 outputs, two registers of weights times up to six rows, twelve accumulators.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::super::bf16_dot::fma_flushed;
use super::super::lanes::LaneOp;
use super::super::tiles::{Ahead, Microkernel, PlainWeights, Rows, TILE_ROWS, WeightStream, for_rows};
use super::again;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Compiles lane-wise work for AVX2.
#[target_feature(enable = "avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// What a product does at every step for one register of 8 outputs.
trait MulAdd {
    /// An f32, or a pair of bf16: 32 bits.
    type Activation;

    /// Products of a step for one output, which are added one after the other.
    const N_PARTS: usize;

    /// Of weights or activations of a step, what belongs to product `part`.
    ///
    /// # Safety
    /// The CPU must have AVX2 and FMA.
    unsafe fn part(v: __m256i, part: usize) -> __m256i;

    /// `acc` plus one product; `w` are weights of 8 outputs, `x` one activation everywhere.
    ///
    /// # Safety
    /// The CPU must have AVX2 and FMA.
    unsafe fn mul_add(acc: __m256, w: __m256i, x: __m256i) -> __m256;
}

struct F32;
impl MulAdd for F32 {
    type Activation = f32;
    const N_PARTS: usize = 1;

    #[inline(always)]
    unsafe fn part(v: __m256i, _: usize) -> __m256i {
        v
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m256, w: __m256i, x: __m256i) -> __m256 {
        // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
        unsafe { _mm256_fmadd_ps(_mm256_castsi256_ps(w), _mm256_castsi256_ps(x), acc) }
    }
}

/// The bf16 dot product by two FMAs. Without `FLUSH` the caller has shown that nothing can be subnormal.
struct Bf16ByFma<const FLUSH: bool>;
impl<const FLUSH: bool> MulAdd for Bf16ByFma<FLUSH> {
    type Activation = u32;
    /// First the odd, then the even one.
    const N_PARTS: usize = 2;

    #[inline(always)]
    unsafe fn part(v: __m256i, part: usize) -> __m256i {
        // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
        unsafe {
            if part == 0 {
                _mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000u32 as i32))
            } else {
                _mm256_slli_epi32::<16>(v)
            }
        }
    }

    #[inline(always)]
    unsafe fn mul_add(acc: __m256, w: __m256i, x: __m256i) -> __m256 {
        // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
        unsafe { fma::<FLUSH>(_mm256_castsi256_ps(w), _mm256_castsi256_ps(x), acc) }
    }
}

/// `w * x + acc`; with `FLUSH` as [`fma_flushed`] computes it.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn fma<const FLUSH: bool>(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        let result = _mm256_fmadd_ps(w, x, acc);
        if !FLUSH {
            return result;
        }
        let magnitude = |v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
        let above_smallest = _mm256_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32 + 1);
        let smallest = _mm256_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32);
        // A subnormal weight shows by its exponent; the result shows the rest.
        let is_zero = _mm256_cmpeq_epi32(magnitude(w), _mm256_setzero_si256());
        let subnormal_weight = _mm256_andnot_si256(is_zero, _mm256_cmpgt_epi32(smallest, magnitude(w)));
        let tiny_result = _mm256_cmpgt_epi32(above_smallest, magnitude(result));
        if _mm256_movemask_epi8(_mm256_or_si256(subnormal_weight, tiny_result)) == 0 {
            return result;
        }
        one_by_one(w, x, acc)
    }
}

/// [`fma_flushed`] on each lane.
#[cold]
#[target_feature(enable = "avx2,fma")]
fn one_by_one(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: 8 lanes of f32 are 256 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m256, [f32; 8]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 8] = std::array::from_fn(|i| fma_flushed(w[i], x[i], acc[i]));
    // SAFETY: 8 lanes of f32 are 256 bits, as in `lanes`.
    unsafe { std::mem::transmute::<[f32; 8], __m256>(result) }
}

/// The stream of a plain panel, or of the strip of one that begins at some column.
struct Plain<'a, T, const REGISTERS: usize> {
    /// Where the strip's next step begins.
    at: *const T,
    width: usize,
    n_steps: usize,
    ahead: Ahead,
    panel: PhantomData<&'a [T]>,
}

impl<'a, T, const REGISTERS: usize> Plain<'a, T, REGISTERS> {
    /// # Panics
    /// When the strip is not inside the panel.
    fn new(weights: &PlainWeights<'a, T>, first: usize) -> Self {
        const { assert!(size_of::<T>() == 4) }
        let &PlainWeights { panel, width, ahead } = weights;
        let (columns, n_steps) = (8 * REGISTERS, panel.len() / width);
        assert!(first + columns <= width);
        // Strips share what there is to fetch, a line per step each.
        let ahead = if columns < width { ahead.strip(first / columns, n_steps) } else { ahead };
        Plain { at: panel[first..].as_ptr(), width, n_steps, ahead, panel: PhantomData }
    }
}

// SAFETY: `n_steps` is what `Plain::new` computed from the panel, whose steps are one run.
unsafe impl<T, const REGISTERS: usize> WeightStream<__m256i, REGISTERS> for Plain<'_, T, REGISTERS> {
    type Activation = T;

    fn n_steps(&self) -> usize {
        self.n_steps
    }

    fn next_run(&mut self) -> usize {
        self.n_steps()
    }

    #[inline(always)]
    unsafe fn step(&mut self) -> [__m256i; REGISTERS] {
        self.ahead.fetch_step();
        // SAFETY: `tile` asserts that it takes no more than `n_steps` steps, and `Isa::available` detects AVX2.
        // `Plain::new` asserts that the strip is inside the panel, `n_steps` rows of `width` weights.
        unsafe {
            let mut w = [_mm256_setzero_si256(); REGISTERS];
            for r in 0..REGISTERS {
                w[r] = _mm256_loadu_si256(self.at.add(8 * r).cast());
            }
            self.at = self.at.wrapping_add(self.width);
            w
        }
    }
}

/// A call of [`tile`] for two registers of outputs whose number of rows is not yet chosen.
struct Strip<'s, 'r, 'out, M: MulAdd> {
    weights: Plain<'s, M::Activation, 2>,
    rows: &'s mut Rows<'r, 'out, M::Activation>,
    first: usize,
}

impl<M: MulAdd> Microkernel for Strip<'_, '_, '_, M> {
    #[inline(always)]
    unsafe fn run<const ROWS: usize>(self) {
        // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
        unsafe { tile::<M, _, 2, ROWS>(self.weights, self.rows, self.first) }
    }
}

/// # Safety
/// The CPU must have AVX2 and FMA.
unsafe fn product<M: MulAdd>(weights: &PlainWeights<'_, M::Activation>, mut rows: Rows<'_, '_, M::Activation>) {
    let n_rows = rows.n_rows();
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        if n_rows == 1 && weights.width == 64 {
            return tile::<M, _, 8, 1>(Plain::new(weights, 0), &mut rows, 0);
        }
        for first in (0..weights.width).step_by(16) {
            for_rows(Strip::<M> { weights: Plain::new(weights, first), rows: &mut rows, first }, n_rows);
        }
    }
}

/// See [`super::super::Isa::product_f32`].
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn product_f32(weights: &PlainWeights<'_, f32>, rows: Rows<'_, '_, f32>) {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe { product::<F32>(weights, rows) }
}

/// See [`super::super::Isa::product_bf16`].
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn product_bf16(weights: &PlainWeights<'_, u32>, rows: Rows<'_, '_, u32>, no_subnormals: bool) {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        if no_subnormals {
            product::<Bf16ByFma<false>>(weights, rows)
        } else {
            product::<Bf16ByFma<true>>(weights, rows)
        }
    }
}

/// A bf16 product of one row with weights that the stream widens to pairs of bf16.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn row_of_bf16<W>(weights: W, mut row: Rows<'_, '_, u32>, no_subnormals: bool)
where
    W: WeightStream<__m256i, 8, Activation = u32>,
{
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        if no_subnormals {
            tile::<Bf16ByFma<false>, W, 8, 1>(weights, &mut row, 0)
        } else {
            tile::<Bf16ByFma<true>, W, 8, 1>(weights, &mut row, 0)
        }
    }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 8` accumulators over all steps, from output `first` of each row on.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<M: MulAdd, W, const REGISTERS: usize, const ROWS: usize>(
    mut weights: W,
    rows: &mut Rows<'_, '_, M::Activation>,
    first: usize,
) where
    W: WeightStream<__m256i, REGISTERS, Activation = M::Activation>,
{
    const { assert!(size_of::<M::Activation>() == 4 && ROWS <= TILE_ROWS) }
    let n_steps = rows.n_steps();
    assert!(weights.n_steps() == n_steps && rows.n_rows() == ROWS);
    let mut x = [std::ptr::null::<i32>(); ROWS];
    let mut out = [std::ptr::null_mut::<f32>(); ROWS];
    let mut x_rows = rows.x();
    for t in 0..ROWS {
        x[t] = x_rows.next().expect("activations of each row").as_ptr().cast();
        out[t] = rows.outputs(t)[first..][..8 * REGISTERS].as_mut_ptr();
    }
    // SAFETY: each row of `Rows::x` is a slice of `n_steps` activations: `check_shapes` asserts that `x` has them, and
    // `Tile::run` cuts them out. The first assertion above compares `n_steps` with the stream, whose contract
    // (`WeightStream`) covers the steps up to there; `end <= n_steps` keeps within them. `out` points to slices of
    // `REGISTERS` registers, cut above. The features are those that this function enables.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
        if rows.accumulate() {
            for t in 0..ROWS {
                for r in 0..REGISTERS {
                    acc[t][r] = _mm256_loadu_ps(out[t].add(8 * r));
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
                _mm256_storeu_ps(out[t].add(8 * r), acc[t][r]);
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
    acc: &mut [[__m256; REGISTERS]; ROWS],
    w: [__m256i; REGISTERS],
    x: [*const i32; ROWS],
    k: usize,
) {
    // One row takes all parts of a register's weights at once; more rows share a part of all registers' weights.
    let group = if ROWS == 1 { 1 } else { REGISTERS };
    // Accumulators, weights, a part of them, and activations of all rows: whether they take all 16 registers.
    let is_full = ROWS > 1 && ROWS * REGISTERS + 2 * REGISTERS + ROWS >= 16;
    for first in (0..REGISTERS).step_by(group) {
        for part in 0..M::N_PARTS {
            let k = if part > 0 && is_full { again(k) } else { k };
            // SAFETY: `tile`, the only caller, stays below the `n_steps` elements of each row, and enables AVX2 and
            // FMA.
            unsafe {
                let mut w_part = w;
                for r in first..first + group {
                    w_part[r] = M::part(w[r], part);
                }
                for t in 0..ROWS {
                    let x = M::part(_mm256_set1_epi32(*x[t].add(k)), part);
                    for r in first..first + group {
                        acc[t][r] = M::mul_add(acc[t][r], w_part[r], x);
                    }
                }
            }
        }
    }
}
