//! The arithmetic, chosen by instruction set at run time.
//!
//! Two kinds of code live here. The products of panels with activations are written per instruction set
//! (`avx512`, `avx2`, `scalar`); everything else (`lanes`) is written once over 16 virtual lanes and compiled
//! for each set. Every output of a product is one accumulator that runs over k in one order, whatever the number of
//! rows, so that prefill, decode, chunks and batches give the same bits:
//!
//! * f32: `acc = fma(w[k], x[k], acc)` for ascending k.
//! * bf16: the activations are rounded to bf16, and for each pair first
//!   `acc = fma(w[k+1], x[k+1], acc)`, then `acc = fma(w[k], x[k], acc)`, both with subnormal inputs and results as
//!   zeros: what the instruction `vdpbf16ps` does. `format-spec.md` has the details.
//!
//! `Scalar` is the oracle of the tests. `Portable` is for CPUs without kernels of ours: its products come from the
//! `gemm` crate (see `matmul.rs`), the rest multiplies and adds separately.

#![allow(unsafe_code)]
// Loops over fixed numbers of registers and lanes read best, and unroll, with indices.
#![allow(clippy::needless_range_loop)]

mod bf12;
pub mod gemm;
pub mod grid;
pub mod lanes;
pub use lanes::LANES;
mod scalar;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::format::PANEL_ROWS;
use crate::kernels::grid::Block;
pub(crate) use tiles::check_shapes;
use tiles::{Tile, Tiles};
#[cfg(target_arch = "x86_64")]
use x86_64::{avx2, avx512};

/// An instruction set that this machine has. Only [`Isa::best`], [`Isa::named`] and [`Isa::available`] make one, after
/// asking the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// AVX-512 with the bf16 dot product.
    Avx512Bf16,
    /// AVX-512 without it.
    Avx512,
    Avx2,
    Portable,
    Scalar,
}

/// Work over 16 virtual lanes that is compiled once for each instruction set.
pub trait LaneOp {
    /// What it yields.
    type Output;
    /// The work. `FUSED`: multiply and add in one rounding. Implementations are `#[inline(always)]`, so that they are
    /// compiled with the features of the caller.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

impl Isa {
    /// Every instruction set that this machine has, the fastest first; `scalar` is the last.
    pub fn available() -> &'static [Isa] {
        // Each has what the ones after it need.
        #[cfg(target_arch = "x86_64")]
        {
            static ALL: [Isa; 5] =
                [Isa(Kind::Avx512Bf16), Isa(Kind::Avx512), Isa(Kind::Avx2), Isa(Kind::Portable), Isa(Kind::Scalar)];
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            let first = match (avx2, avx512) {
                (_, true) if is_x86_feature_detected!("avx512bf16") => 0,
                (_, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
            };
            &ALL[first..]
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            static ALL: [Isa; 2] = [Isa(Kind::Portable), Isa(Kind::Scalar)];
            &ALL
        }
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// The best available set of a family: `avx512`, `avx2`, `portable` or `scalar`.
    pub fn named(name: &str) -> Option<Isa> {
        let family = |isa: &&Isa| isa.name().strip_suffix("+bf16").unwrap_or(isa.name()) == name;
        Isa::available().iter().find(family).copied()
    }

    /// Name for people: `avx512+bf16`, `avx512`, `avx2`, `portable` or `scalar`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Avx512Bf16 => "avx512+bf16",
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
            Kind::Scalar => "scalar",
        }
    }

    /// Whether coded panels are decoded as fast as memory gives them; without AVX-512 that takes the processor longer.
    pub fn suits_bf12(self) -> bool {
        matches!(self.0, Kind::Avx512Bf16 | Kind::Avx512)
    }

    /// Whether products come from the kernels here; otherwise they come from the `gemm` crate.
    pub fn has_products(self) -> bool {
        self.0 != Kind::Portable
    }

    /// How often a product of so many rows goes over a panel, tile by tile of rows: AVX2 has registers for 16 outputs
    /// of several rows at a time.
    fn strips(self, rows: usize, width: usize) -> usize {
        match self.0 {
            Kind::Avx2 if rows > 1 || width != 64 => width / 16,
            _ => 1,
        }
    }

    /// Runs lane-wise work compiled for this instruction set.
    pub fn run<O: LaneOp>(self, op: O) -> O::Output {
        match self.0 {
            // SAFETY: an `Isa` of this kind exists only on CPUs with these features.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::run(op) },
            // SAFETY: as above.
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
    /// `panel` is `[k][width]`, `width` 16, 32, 48 or 64; `x` holds the rows `x[t * x_stride ..][..k]`; the block has
    /// at most `width` columns.
    ///
    /// # Panics
    /// When the shapes do not fit, or on `Portable`, which has no products.
    pub fn product_f32(
        self,
        panel: &[f32],
        width: usize,
        x: &[f32],
        x_stride: usize,
        out: &mut Block,
        accumulate: bool,
    ) {
        let steps = panel.len() / width;
        check_shapes(panel.len(), width, steps, x.len(), x_stride, out);
        if steps == 0 && !accumulate {
            (0..out.rows()).for_each(|row| out.row(row).fill(0.0));
        }
        let mut tiles = Tiles::of_panel(self, panel, width, out, accumulate);
        while let Some(tile) = tiles.next() {
            let work = tile.work(panel, width, x, x_stride);
            tile.on_outputs(width, |outputs| match self.0 {
                // SAFETY: an `Isa` of this kind exists only on CPUs with these features; `check_shapes` and the slices
                // above bound what the kernels read.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::product_f32(&work, outputs) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2::product_f32(&work, outputs) },
                Kind::Portable => unreachable!("the portable products come from gemm"),
                // SAFETY: `Tile::on_outputs` gives rows of `width` outputs that nobody else uses.
                _ => unsafe { scalar::product_f32(&work, outputs) },
            });
        }
    }

    /// As [`Isa::product_f32`], for a bf16 panel `[k / 2][64][2]` and activations rounded to bf16, two to a `u32`, the
    /// even one in the low half. `no_subnormals` promises that no product or sum can be subnormal, see
    /// `matmul::no_subnormals`; it changes the speed and not the result.
    ///
    /// # Panics
    /// As [`Isa::product_f32`].
    pub fn product_bf16(self, panel: &[u32], x: &[u32], x_stride: usize, out: &mut Block, no_subnormals: bool) {
        let steps = panel.len() / PANEL_ROWS;
        check_shapes(panel.len(), PANEL_ROWS, steps, x.len(), x_stride, out);
        if steps == 0 {
            (0..out.rows()).for_each(|row| out.row(row).fill(0.0));
        }
        let mut tiles = Tiles::of_panel(self, panel, PANEL_ROWS, out, false);
        while let Some(tile) = tiles.next() {
            self.bf16_tile(tile, panel, x, x_stride, no_subnormals);
        }
    }

    /// One tile of a bf16 product.
    fn bf16_tile(self, tile: Tile, panel: &[u32], x: &[u32], x_stride: usize, no_subnormals: bool) {
        let work = tile.work(panel, PANEL_ROWS, x, x_stride);
        tile.on_outputs(PANEL_ROWS, |outputs| match self.0 {
            // SAFETY: as in `product_f32`.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => unsafe { avx512::product_bf16(&work, outputs) },
            // SAFETY: as in `product_f32`.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::product_bf16_by_fma(&work, outputs, no_subnormals) },
            // SAFETY: as in `product_f32`.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::product_bf16_by_fma(&work, outputs, no_subnormals) },
            Kind::Portable => unreachable!("the portable products come from gemm"),
            // SAFETY: as in `product_f32`.
            _ => unsafe { scalar::product_bf16(&work, outputs) },
        });
    }
}

/// The two bf16 numbers of a step as f32: (even k, odd k).
#[inline(always)]
fn split_pair(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}

/// A subnormal number as zero of the same sign.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `w * x + acc` as the bf16 dot instruction computes it: subnormal inputs are zeros, the result is rounded to 24 bits
/// whatever its exponent, and becomes zero of its sign when it is then below 2^-126. `w * x` must be exact in f64, as
/// it is for bf16 numbers.
#[inline(always)]
fn fma_flushed(w: f32, x: f32, acc: f32) -> f32 {
    let (w, x, acc) = (flush(w), flush(x), flush(acc));
    let result = w.mul_add(x, acc);
    if result.abs() <= f32::MIN_POSITIVE {
        return flush_tiny(w, x, acc, result);
    }
    result
}

/// The rare end of [`fma_flushed`]. A result of exactly 2^-126 may have been rounded up to it by the coarser steps of
/// subnormal numbers; with 24 bits it would have stayed below, if the exact sum is below 2^-126 - 2^-151.
#[cold]
fn flush_tiny(w: f32, x: f32, acc: f32, result: f32) -> f32 {
    let smallest = f64::from(f32::MIN_POSITIVE);
    // In f64 this sum is exact where it matters: its terms have no bits below 2^-166 when it is that close to 2^-126.
    let sum = f64::from(w) * f64::from(x) + f64::from(acc);
    let half_step = smallest * 2f64.powi(-25);
    if result.abs() == f32::MIN_POSITIVE && sum.abs() >= smallest - half_step { result } else { 0f32.copysign(result) }
}

#[cfg(test)]
mod tests;
