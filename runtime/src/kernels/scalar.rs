//! The fused oracle: the definition of the products, one operation at a time. For tests; every other instruction set
//! gives the same bits.

use super::bf16_dot::{fma_flushed, split_pair};
use super::tiles::{PlainWeights, Rows};

/// See [`super::Isa::product_f32`].
pub fn product_f32(weights: &PlainWeights<'_, f32>, rows: Rows<'_, '_, f32>) {
    for_each_output(weights, rows, |acc, w, x| w.mul_add(x, acc));
}

/// See [`super::Isa::product_bf16`].
pub fn product_bf16(weights: &PlainWeights<'_, u32>, rows: Rows<'_, '_, u32>) {
    for_each_output(weights, rows, |acc, w, x| {
        let ((w_even, w_odd), (x_even, x_odd)) = (split_pair(w), split_pair(x));
        fma_flushed(w_even, x_even, fma_flushed(w_odd, x_odd, acc))
    });
}

fn for_each_output<T: Copy>(
    weights: &PlainWeights<'_, T>,
    mut rows: Rows<'_, '_, T>,
    mul_add: impl Fn(f32, T, T) -> f32,
) {
    for (t, x) in rows.x().enumerate() {
        if !rows.accumulate() {
            rows.outputs(t).fill(0.0);
        }
        for (w, &x) in weights.panel.chunks_exact(weights.width).zip(x) {
            rows.outputs(t).iter_mut().zip(w).for_each(|(acc, &w)| *acc = mul_add(*acc, w, x));
        }
    }
}
