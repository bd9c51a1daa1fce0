//! Products of quantized weights with activations rounded to integers.
//!
//! The integers of a block of 32 columns are multiplied and added exactly; the sum, as f32, is multiplied with the scale
//! of the activations, and the product of that and the scale of the weights is added to the output, block by block:
//!
//! ```text
//! out = 0
//! for each block, or half of a block with `Scales::Row16`:
//!     sum = the sum of w[k] * x[k], an i32
//!     out = fma(f32(sum) * scale of x, scale of w, out)
//! out = out * factor of the row                              with `Scales::Row32` and `Scales::Row16`
//! ```

#![allow(unsafe_code, reason = "calls of code for detected instruction sets")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
pub mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod tile;

pub use portable::widen_blocks;
pub use rows::{Arrangement, Form, Precision, QuantizeRow, QuantizedRows};

use super::grid::OutputBlock;
use super::isa::{Isa, Kind};
use super::streaming::Streaming;
use crate::format::PANEL_ROWS;
use crate::format::encodings::quantized::{BLOCK_COLUMNS, Elements, Quantization, QuantizedPanel};
use tile::{GROUP_SUMS, TURN_BLOCKS, Tile};

/// Up to this number of rows a panel is read in one go.
const ONE_GO_ROWS: usize = 4;
/// Rows of panels whose sums are kept where there are few, so that little is cleared.
const FEW_SUMS: usize = 8;
const _: () = assert!(GROUP_SUMS >= Streaming::MAX_PANELS);

/// The code that multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// The byte dot product of AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain code.
    Portable,
    /// The definition.
    Scalar,
}

impl Family {
    /// Rows that are multiplied together.
    fn tile_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Family::Avx512 => avx512::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Family::Avx2 => avx2::TILE_ROWS,
            Family::Portable => GROUP_SUMS,
            Family::Scalar => 1,
        }
    }
}

impl Isa {
    /// How this instruction set takes activations for weights of `quantization`.
    pub fn form(self, quantization: &Quantization, precision: Precision) -> Form {
        let arrangement = match (self.family(), precision, quantization.elements) {
            #[cfg(target_arch = "x86_64")]
            (Family::Avx512, Precision::Int16, _) => Arrangement::Halves,
            #[cfg(target_arch = "x86_64")]
            (Family::Avx512, Precision::Int8, _) => Arrangement::Bytes,
            #[cfg(target_arch = "x86_64")]
            (Family::Avx2, Precision::Int8, Elements::Int4(levels)) if levels.are_narrow() => Arrangement::Bytes,
            _ => Arrangement::Words,
        };
        Form { precision, arrangement }
    }

    fn family(self) -> Family {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx | Kind::Avx512Bf16 | Kind::Avx512 if is_x86_feature_detected!("avx512vnni") => Family::Avx512,
            #[cfg(target_arch = "x86_64")]
            Kind::Amx | Kind::Avx512Bf16 | Kind::Avx512 | Kind::Avx2 if is_x86_feature_detected!("f16c") => {
                Family::Avx2
            }
            Kind::Scalar => Family::Scalar,
            _ => Family::Portable,
        }
    }

    /// The products of some panels of one matrix with rows of activations, as [`crate::kernels::quantized`] defines
    /// them. The block has the columns of the panels, of the last one some or all.
    ///
    /// # Panics
    /// When the shapes do not fit, or the activations have another form than [`Isa::form`].
    pub fn product_quantized(self, panels: &[QuantizedPanel], x: &QuantizedRows, out: &mut OutputBlock) {
        let quantization = panels.first().expect("a panel").quantization();
        let n_blocks = x.columns.div_ceil(BLOCK_COLUMNS);
        assert!(panels.len() <= Streaming::MAX_PANELS && out.columns().div_ceil(PANEL_ROWS) == panels.len());
        assert!(panels.iter().all(|panel| panel.quantization() == quantization && panel.n_blocks() == n_blocks));
        assert!(x.form == self.form(&quantization, x.form.precision));
        assert!(x.rows == out.rows() && x.rows.checked_mul(x.form.row_words(x.columns)) == Some(x.words.len()));
        let (columns, group_rows) = (out.columns(), GROUP_SUMS / panels.len());
        for begin in (0..x.rows).step_by(group_rows) {
            let rows = begin..x.rows.min(begin + group_rows);
            let (x, mut out) = (x.part(rows.clone()), out.part(rows, 0..columns));
            match x.rows * panels.len() {
                ..=FEW_SUMS => self.group::<FEW_SUMS>(panels, &x, &mut out),
                _ => self.group::<GROUP_SUMS>(panels, &x, &mut out),
            }
        }
    }

    /// The products of the rows of a group.
    fn group<const SUMS: usize>(self, panels: &[QuantizedPanel], x: &QuantizedRows, out: &mut OutputBlock) {
        let (n_blocks, tile_rows) = (panels[0].n_blocks(), self.family().tile_rows());
        let mut sums = [[0.0f32; PANEL_ROWS]; SUMS];
        let has_turns = panels.len() > 1 || x.rows > ONE_GO_ROWS;
        let turn = if has_turns { TURN_BLOCKS } else { n_blocks.max(1) };
        for first in (0..n_blocks).step_by(turn) {
            let blocks = first..n_blocks.min(first + turn);
            for (panel, sums) in panels.iter().zip(sums.chunks_mut(x.rows)) {
                for row in (0..x.rows).step_by(tile_rows) {
                    let rows = row..x.rows.min(row + tile_rows);
                    // The first tile that reads the blocks fetches those that follow.
                    let ahead_bytes = (row == 0).then_some(self.1.ahead_bytes);
                    let (x, sums) = (&x.part(rows.clone()), &mut sums[rows]);
                    self.add_blocks(Tile { panel, blocks: blocks.clone(), x, ahead_bytes, sums });
                }
            }
        }
        for (index, (panel, sums)) in panels.iter().zip(sums.chunks(x.rows)).enumerate() {
            let factors: [f32; PANEL_ROWS] = std::array::from_fn(|row| panel.factor(row));
            for (t, sums) in sums.iter().enumerate() {
                let out = out.row(t)[index * PANEL_ROWS..].iter_mut();
                out.zip(sums.iter().zip(factors)).for_each(|(out, (sum, factor))| *out = sum * factor);
            }
        }
    }

    /// Adds the products of some blocks of a panel with some rows to sums.
    fn add_blocks(self, tile: Tile) {
        match self.family() {
            Family::Scalar => scalar::add_blocks(tile),
            Family::Portable => portable::add_blocks(tile),
            // SAFETY: `family` has asked for the byte dot product, and `Isa::available` makes these kinds only where it
            // found AVX-512F and AVX-512BW.
            #[cfg(target_arch = "x86_64")]
            Family::Avx512 => unsafe { avx512::add_blocks(tile) },
            // SAFETY: `family` has asked for F16C, and `Isa::available` makes these kinds only where it found AVX2 and
            // FMA.
            #[cfg(target_arch = "x86_64")]
            Family::Avx2 => unsafe { avx2::add_blocks(tile) },
        }
    }
}
