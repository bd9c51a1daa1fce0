//! The one call of the `gemm` crate: products on CPUs for which there are no kernels here, and a second opinion on the
//! others.

#![allow(unsafe_code, reason = "the call of the `gemm` crate")]

use super::grid::OutputBlock;
use super::numbers::widened;
use super::tiles::check_shapes;
use std::cell::RefCell;

/// Numbers that are widened at a time: 16 KiB of f32, which stay in the L1 cache.
const PIECE: usize = 4096;

/// As [`super::Isa::product_f32`], computed by the `gemm` crate on this thread. Its order of additions is its
/// own: results agree with the kernels' within rounding.
///
/// # Panics
/// When the shapes do not fit.
pub fn product_f32(panel: &[f32], width: usize, x: &[f32], x_stride: usize, out: &mut OutputBlock, accumulate: bool) {
    let steps = panel.len() / width;
    let (rows, columns, out_stride) = (out.rows(), out.columns(), out.stride());
    check_shapes(panel.len(), width, steps, x.len(), x_stride, out);
    let signed = |stride: usize| isize::try_from(stride).expect("strides of slices fit isize");
    // In the crate's terms: dst [m, n] = alpha * dst + beta * lhs [m, k] * rhs [k, n], with m outputs, n rows of
    // activations and k steps.
    let (m, n, k) = (columns, rows, steps);
    let (dst, dst_column_stride, dst_row_stride) = (out.as_mut_ptr(), signed(out_stride), 1);
    let (lhs, lhs_column_stride, lhs_row_stride) = (panel.as_ptr(), signed(width), 1);
    let (rhs, rhs_column_stride, rhs_row_stride) = (x.as_ptr(), signed(x_stride), 1);
    let (alpha, beta) = (1.0, 1.0);
    // SAFETY: `check_shapes` asserts that lhs, read at r + k * width, stays below panel.len(), and rhs, read at
    // k + t * x_stride, below x.len(). dst is written at r + t * out_stride for r < columns and t < rows, the elements
    // of this block, for which `OutputBlock::as_mut_ptr` is valid.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            dst_column_stride,
            dst_row_stride,
            accumulate,
            lhs,
            lhs_column_stride,
            lhs_row_stride,
            rhs,
            rhs_column_stride,
            rhs_row_stride,
            alpha,
            beta,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// As [`product_f32`] for a panel of bf16 numbers, which is widened piece by piece.
///
/// # Panics
/// When the shapes do not fit.
pub fn product_bf16(panel: &[u16], width: usize, x: &[f32], x_stride: usize, out: &mut OutputBlock, accumulate: bool) {
    thread_local! {
        // There from the beginning, because a thread may take its first item at any token.
        static WIDENED: RefCell<[f32; PIECE]> = const { RefCell::new([0.0; PIECE]) };
    }
    check_shapes(panel.len(), width, panel.len() / width, x.len(), x_stride, out);
    if panel.is_empty() {
        return product_f32(&[], width, x, x_stride, out, accumulate);
    }
    let steps = PIECE / width;
    WIDENED.with_borrow_mut(|wide| {
        for (index, numbers) in panel.chunks(steps * width).enumerate() {
            let wide = &mut wide[..numbers.len()];
            wide.iter_mut().zip(numbers).for_each(|(wide, &number)| *wide = widened(number));
            product_f32(wide, width, &x[index * steps..], x_stride, out, accumulate || index > 0);
        }
    });
}
