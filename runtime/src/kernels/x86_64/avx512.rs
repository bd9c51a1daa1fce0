//! f32 products with AVX-512: up to four registers of weights, 64 outputs, times up to six rows.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::super::lanes::LaneOp;
use super::super::tiles::{PanelPart, Rows, TILE_ROWS};
use std::arch::x86_64::*;

/// Compiles lane-wise work for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub fn run<O: LaneOp>(op: O) -> O::Output {
    op.run::<true>()
}

/// See [`super::super::Isa::product_f32`].
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
pub unsafe fn product_f32(weights: &PanelPart, rows: Rows) {
    // SAFETY: `# Safety` demands the features of `tile`, which `Isa::available` detects.
    unsafe {
        match weights.width {
            16 => by_rows::<1>(weights, rows),
            32 => by_rows::<2>(weights, rows),
            48 => by_rows::<3>(weights, rows),
            _ => by_rows::<4>(weights, rows),
        }
    }
}

/// # Safety
/// The CPU must have the features of [`tile`].
unsafe fn by_rows<const REGISTERS: usize>(weights: &PanelPart, rows: Rows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => tile::<REGISTERS, 1>(weights, rows),
            2 => tile::<REGISTERS, 2>(weights, rows),
            3 => tile::<REGISTERS, 3>(weights, rows),
            4 => tile::<REGISTERS, 4>(weights, rows),
            5 => tile::<REGISTERS, 5>(weights, rows),
            TILE_ROWS => tile::<REGISTERS, TILE_ROWS>(weights, rows),
            _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
        }
    }
}

/// The microkernel: `ROWS` rows of `REGISTERS * 16` accumulators over all steps.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile<const REGISTERS: usize, const ROWS: usize>(weights: &PanelPart, mut rows: Rows) {
    let &PanelPart { panel, width, mut ahead } = weights;
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
                w[r] = _mm512_loadu_ps(at.add(16 * r));
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
