//! The arithmetic, chosen by instruction set at run time.
//!
//! Two kinds of code live here. The products of panels with activations ([`products`], [`bf16`]) are written per
//! instruction set (`x86_64`, `bf16`, `scalar`). Everything else ([`lanes`]) is written once over 16 virtual lanes and
//! compiled for each set. Every output of a product is summed over k in one order for any number of rows, so that
//! prefill, decode, chunks and batches give the same bits:
//!
//! * f32: `acc = fma(w[k], x[k], acc)` for ascending k. Panels of keys and values may be bf16; they are widened.
//! * bf16: the activations are rounded to bf16. In each block of 32 columns the products of even columns are one
//!   chain of fused operations from +0, those of odd columns another, and the sum of both is added to the output;
//!   subnormal inputs and results are zeros: what the instruction `tdpbf16ps` does. `format-spec.md` has the details.
//! * int8 and int4: the activations are rounded to integers. The sum of the products of a block of 32 columns is exact;
//!   [`quantized`] states how blocks are added.
//!
//! The instruction set `scalar` is the oracle of the tests. `portable` is for CPUs without kernels here: its products
//! come from the `gemm` crate, the rest multiplies and adds separately.

// Loops over fixed numbers of registers and lanes read best, and unroll, with indices.
#![allow(clippy::needless_range_loop)]

pub mod backend;
pub mod bf12;
pub mod bf16;
pub mod delta_rule;
mod fetch;
pub mod gemm;
pub mod grid;
pub mod isa;
pub mod lanes;
pub mod numbers;
pub mod packed_rows;
pub mod products;
pub mod quantized;
pub mod routing;
mod scalar;
pub mod streaming;
pub mod tile_product;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use isa::Isa;
pub use lanes::{LANES, LaneOp};

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
