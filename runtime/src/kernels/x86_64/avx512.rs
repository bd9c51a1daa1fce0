//! Products with f32 activations by AVX-512: up to four registers of weights, 64 outputs, times up to six rows.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::super::lanes::LaneOp;
use super::super::numbers::Numbers;
use super::super::tiles::{PanelPart, Rows, TILE_ROWS};
use std::arch::x86_64::*;

/// Compiles lane-wise work for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// A number of a panel: f32, or the bits of bf16.
trait Number: Sized {
    /// Sixteen numbers as f32.
    ///
    /// # Safety
    /// The CPU must have AVX-512F, and `at` must be valid for reads of sixteen numbers.
    unsafe fn load(at: *const Self) -> __m512;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: `# Safety`.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Number for u16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(at: *const u16) -> __m512 {
        // SAFETY: `# Safety`; sixteen of them are 32 bytes.
        let bits = unsafe { _mm256_loadu_si256(at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}

/// See [`super::super::Isa::product`].
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
pub unsafe fn product(weights: &PanelPart, rows: Rows) {
    // SAFETY: `# Safety`.
    unsafe {
        match weights.panel {
            Numbers::F32(panel) => by_width(panel, weights, rows),
            Numbers::Bf16(panel) => by_width(panel, weights, rows),
        }
    }
}

/// `panel` are the numbers of `weights`.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
unsafe fn by_width<N: Number>(panel: &[N], weights: &PanelPart, rows: Rows) {
    // SAFETY: `# Safety` demands the features of `tile`, which `Isa::available` detects.
    unsafe {
        match weights.width {
            16 => by_rows::<N, 1>(panel, weights, rows),
            32 => by_rows::<N, 2>(panel, weights, rows),
            48 => by_rows::<N, 3>(panel, weights, rows),
            _ => by_rows::<N, 4>(panel, weights, rows),
        }
    }
}

/// # Safety
/// The CPU must have the features of [`tile`].
unsafe fn by_rows<N: Number, const REGISTERS: usize>(panel: &[N], weights: &PanelPart, rows: Rows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => tile::<N, REGISTERS, 1>(panel, weights, rows),
            2 => tile::<N, REGISTERS, 2>(panel, weights, rows),
            3 => tile::<N, REGISTERS, 3>(panel, weights, rows),
            4 => tile::<N, REGISTERS, 4>(panel, weights, rows),
            5 => tile::<N, REGISTERS, 5>(panel, weights, rows),
            TILE_ROWS => tile::<N, REGISTERS, TILE_ROWS>(panel, weights, rows),
            _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
        }
    }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 16` accumulators over all steps.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile<N: Number, const REGISTERS: usize, const ROWS: usize>(panel: &[N], weights: &PanelPart, mut rows: Rows) {
    let &PanelPart { width, mut ahead, .. } = weights;
    let n_steps = rows.n_steps();
    assert!(width == 16 * REGISTERS && panel.len() == n_steps * width && rows.n_rows() == ROWS);
    let mut x = [std::ptr::null::<f32>(); ROWS];
    let mut out = [std::ptr::null_mut::<f32>(); ROWS];
    let mut x_rows = rows.x();
    for t in 0..ROWS {
        x[t] = x_rows.next().expect("activations of each row").as_ptr();
        out[t] = rows.outputs(t)[..width].as_mut_ptr();
    }
    // SAFETY: each row of `Rows::x` is a slice of `n_steps` activations, and `out` points to slices of `REGISTERS`
    // registers, cut above. The first assertion shows that the panel has `n_steps` rows of `width` weights. The
    // features are those that this function enables.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        if rows.accumulate() {
            for t in 0..ROWS {
                for r in 0..REGISTERS {
                    acc[t][r] = _mm512_loadu_ps(out[t].add(16 * r));
                }
            }
        }
        let mut at = panel.as_ptr();
        for k in 0..n_steps {
            let mut w = [_mm512_setzero_ps(); REGISTERS];
            for r in 0..REGISTERS {
                w[r] = N::load(at.add(16 * r));
            }
            at = at.wrapping_add(width);
            // After the loads: before them, products of 12 to 18 rows take a tenth longer.
            ahead.fetch_step();
            for t in 0..ROWS {
                let x = _mm512_set1_ps(*x[t].add(k));
                for r in 0..REGISTERS {
                    acc[t][r] = _mm512_fmadd_ps(w[r], x, acc[t][r]);
                }
            }
        }
        for t in 0..ROWS {
            for r in 0..REGISTERS {
                _mm512_storeu_ps(out[t].add(16 * r), acc[t][r]);
            }
        }
    }
}
