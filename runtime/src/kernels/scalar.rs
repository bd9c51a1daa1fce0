//! The fused oracle: the definition of the products, one operation at a time. For tests; every other path equals it bit
//! for bit.

use super::tiles::{Outputs, Work};
use super::{fma_flushed, split_pair};

/// See [`super::Isa::product_f32`].
///
/// # Safety
/// `outputs` must hold rows of `width` elements that nobody else uses.
pub unsafe fn product_f32(work: &Work<'_, f32>, outputs: &Outputs) {
    // SAFETY: as the caller promised.
    unsafe { for_each_output(work, outputs, |acc, w, x| w.mul_add(x, acc)) }
}

/// See [`super::Isa::product_bf16`].
///
/// # Safety
/// As [`product_f32`].
pub unsafe fn product_bf16(work: &Work<'_, u32>, outputs: &Outputs) {
    let step = |acc, w, x| {
        let ((w_even, w_odd), (x_even, x_odd)) = (split_pair(w), split_pair(x));
        fma_flushed(w_even, x_even, fma_flushed(w_odd, x_odd, acc))
    };
    // SAFETY: as the caller promised.
    unsafe { for_each_output(work, outputs, step) }
}

/// # Safety
/// As [`product_f32`].
unsafe fn for_each_output<T: Copy>(work: &Work<'_, T>, outputs: &Outputs, step: impl Fn(f32, T, T) -> f32) {
    for (t, &row) in outputs.rows.iter().take(outputs.n_rows).enumerate() {
        // SAFETY: as the caller promised.
        let row = unsafe { std::slice::from_raw_parts_mut(row, work.width) };
        if !outputs.accumulate {
            row.fill(0.0);
        }
        for (w, &x) in work.panel.chunks_exact(work.width).zip(&work.x[t * work.x_stride..]) {
            row.iter_mut().zip(w).for_each(|(acc, &w)| *acc = step(*acc, w, x));
        }
    }
}
