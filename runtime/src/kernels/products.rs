//! The products with f32 activations, and what an instruction set runs of everything else.

#![allow(unsafe_code, reason = "calls of code for detected instruction sets")]

use super::grid::OutputBlock;
use super::isa::{Isa, Kind};
use super::lanes::LaneOp;
use super::numbers::Numbers;
use super::scalar;
use super::tiles::{PanelPart, Rows, Tiles, check_shapes};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{avx2, avx512};

impl Isa {
    /// Runs lane-wise work compiled for this instruction set.
    pub fn run<O: LaneOp>(self, op: O) -> O::Output {
        match self.0 {
            // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW.
            #[cfg(target_arch = "x86_64")]
            Kind::Amx | Kind::Avx512Bf16 | Kind::Avx512 => unsafe { avx512::run(op) },
            // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::run(op) },
            Kind::Portable => op.run::<false>(),
            _ => op.run::<true>(),
        }
    }

    /// Adds the product of a panel with rows of activations to a block of outputs, or replaces the block by it:
    ///
    /// ```text
    /// out[t][r] = (out[t][r] if ACCUMULATE else 0) + sum over k of panel[k][r] * x[t][k]
    /// ```
    ///
    /// `panel` is `[k][width]`, of f32 or of bf16, which is widened; `width` is 16, 32, 48 or 64; `x` holds the rows
    /// `x[t * x_stride ..][..k]`; the block has at most `width` columns.
    ///
    /// # Panics
    /// When the shapes do not fit, or on `portable`, which has no products.
    pub fn product(
        self,
        panel: Numbers,
        width: usize,
        x: &[f32],
        x_stride: usize,
        out: &mut OutputBlock,
        accumulate: bool,
    ) {
        let steps = panel.len() / width;
        check_shapes(panel.len(), width, steps, x.len(), x_stride, out);
        if steps == 0 && !accumulate {
            (0..out.rows()).for_each(|row| out.row(row).fill(0.0));
        }
        let mut tiles = Tiles::of_panel(self, panel, width, out, accumulate);
        while let Some(tile) = tiles.next() {
            let weights = tile.weights(panel, width);
            tile.run(width, x, x_stride, |rows| self.tile(&weights, rows));
        }
    }

    /// As [`Isa::product`] for f32.
    ///
    /// # Panics
    /// As [`Isa::product`].
    pub fn product_f32(
        self,
        panel: &[f32],
        width: usize,
        x: &[f32],
        x_stride: usize,
        out: &mut OutputBlock,
        accumulate: bool,
    ) {
        self.product(Numbers::F32(panel), width, x, x_stride, out, accumulate);
    }

    /// One tile of a product.
    fn tile(self, weights: &PanelPart, rows: Rows) {
        match self.0 {
            // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW.
            #[cfg(target_arch = "x86_64")]
            Kind::Amx | Kind::Avx512Bf16 | Kind::Avx512 => unsafe { avx512::product(weights, rows) },
            // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::product(weights, rows) },
            Kind::Portable => unreachable!("the portable products come from gemm"),
            _ => scalar::product(weights, rows),
        }
    }
}
