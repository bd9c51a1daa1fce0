//! Products with f32 activations by AVX2 and FMA. One row of activations takes 64 outputs at once, eight registers; more rows take
//! strips of 16 outputs, two registers of weights times up to six rows, twelve accumulators.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::super::lanes::LaneOp;
use super::super::numbers::Numbers;
use super::super::tiles::{PanelPart, Rows, TILE_ROWS};
use std::arch::x86_64::*;

/// Compiles lane-wise work for AVX2.
#[target_feature(enable = "avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// A number of a panel: f32, or the bits of bf16.
trait Number: Sized {
    /// Eight numbers as f32.
    ///
    /// # Safety
    /// The CPU must have AVX2, and `at` must be valid for reads of eight numbers.
    unsafe fn load(at: *const Self) -> __m256;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: `# Safety`.
        unsafe { _mm256_loadu_ps(at) }
    }
}

impl Number for u16 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const u16) -> __m256 {
        // SAFETY: `# Safety`; eight of them are 16 bytes.
        let bits = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }
}

/// See [`super::super::Isa::product`].
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn product(weights: &PanelPart, rows: Rows) {
    // SAFETY: `# Safety`.
    unsafe {
        match weights.panel {
            Numbers::F32(panel) => strips(panel, weights, rows),
            Numbers::Bf16(panel) => strips(panel, weights, rows),
        }
    }
}

/// `panel` are the numbers of `weights`.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
unsafe fn strips<N: Number>(panel: &[N], weights: &PanelPart, mut rows: Rows) {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        if rows.n_rows() == 1 && weights.width == 64 {
            return tile::<N, 8, 1>(panel, weights, &mut rows, 0);
        }
        for first in (0..weights.width).step_by(16) {
            match rows.n_rows() {
                1 => tile::<N, 2, 1>(panel, weights, &mut rows, first),
                2 => tile::<N, 2, 2>(panel, weights, &mut rows, first),
                3 => tile::<N, 2, 3>(panel, weights, &mut rows, first),
                4 => tile::<N, 2, 4>(panel, weights, &mut rows, first),
                5 => tile::<N, 2, 5>(panel, weights, &mut rows, first),
                TILE_ROWS => tile::<N, 2, TILE_ROWS>(panel, weights, &mut rows, first),
                _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
            }
        }
    }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 8` accumulators over all steps, from output `first` of each row on.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<N: Number, const REGISTERS: usize, const ROWS: usize>(
    panel: &[N],
    weights: &PanelPart,
    rows: &mut Rows,
    first: usize,
) {
    let &PanelPart { width, ahead, .. } = weights;
    let (columns, n_steps) = (8 * REGISTERS, rows.n_steps());
    assert!(panel.len() == n_steps * width && first + columns <= width && rows.n_rows() == ROWS);
    // Strips share what there is to fetch, a line per step each.
    let mut ahead = if columns < width { ahead.strip(first / columns, n_steps) } else { ahead };
    let mut x = [std::ptr::null::<f32>(); ROWS];
    let mut out = [std::ptr::null_mut::<f32>(); ROWS];
    let mut x_rows = rows.x();
    for t in 0..ROWS {
        x[t] = x_rows.next().expect("activations of each row").as_ptr();
        out[t] = rows.outputs(t)[first..][..columns].as_mut_ptr();
    }
    // SAFETY: each row of `Rows::x` is a slice of `n_steps` activations, and `out` points to slices of `REGISTERS`
    // registers, cut above. The first assertion shows that the panel has `n_steps` rows of `width` weights, and that
    // the strip is inside them. The features are those that this function enables.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
        if rows.accumulate() {
            for t in 0..ROWS {
                for r in 0..REGISTERS {
                    acc[t][r] = _mm256_loadu_ps(out[t].add(8 * r));
                }
            }
        }
        let mut at = panel.as_ptr().wrapping_add(first);
        for k in 0..n_steps {
            ahead.fetch_step();
            let mut w = [_mm256_setzero_ps(); REGISTERS];
            for r in 0..REGISTERS {
                w[r] = N::load(at.add(8 * r));
            }
            at = at.wrapping_add(width);
            for t in 0..ROWS {
                let x = _mm256_broadcast_ss(&*x[t].add(k));
                for r in 0..REGISTERS {
                    acc[t][r] = _mm256_fmadd_ps(w[r], x, acc[t][r]);
                }
            }
        }
        for t in 0..ROWS {
            for r in 0..REGISTERS {
                _mm256_storeu_ps(out[t].add(8 * r), acc[t][r]);
            }
        }
    }
}
