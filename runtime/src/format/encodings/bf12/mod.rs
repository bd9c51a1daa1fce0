//! bf12: bf16 matrices in 12 bits an element, without losing a bit.
//!
//! A trained matrix has few exponents: 16 of the 256 cover nearly all of its elements. An element is stored as a byte of
//! sign and mantissa and a code of four bits for the exponent. A step of a panel, two columns of 64 rows, is
//!
//! ```text
//! 128 bytes   [64][2]  sign and mantissa of (row, column): bit 7 the sign, bits 0 to 6 the mantissa
//!  64 bytes   [16][2]  u16: bits 4j to 4j + 3 of entry (r, column) are the code of row r + 16 j
//! ```
//!
//! so that a kernel gets 32 elements by a load that extends the sign, a shift of the codes, a lookup of the exponents
//! and a blend. A step with an exponent that has no code is stored raw, as in a plain panel, 256 bytes. Which steps are
//! raw is in the [`Bf12Table`], which is read into owned memory and checked when the file is opened.

// What runs at every step: lengths were compared before, and a check of each number would cost as much as the decoding.
#[expect(clippy::arithmetic_side_effects, reason = "Bf12Panels::new has compared what it is made of")]
mod panels;
#[expect(clippy::arithmetic_side_effects, reason = "positions in arrays of a fixed size")]
mod step;
mod table;

pub use panels::{Bf12Panel, Bf12Panels, StoredStep};
pub use step::{
    CODED_STEP_BYTES, Codes, Exponents, N_CODES, RAW_STEP_BYTES, SIGNS_BYTES, Step, decode, smallest_magnitude,
};
pub use table::{BadTable, Bf12Table, STEPS_PER_RAW_STEP, matrix_bytes, pays};

use crate::format::encodings::bf16;
use crate::format::panels::PANEL_ROWS;

/// Copies row `row` as f32 into `out`, which has its columns.
///
/// # Panics
/// When there is no such row.
pub fn copy_row(panels: &Bf12Panels, row: usize, out: &mut [f32]) {
    let panel = panels.panel(row / PANEL_ROWS);
    bf16::widen_pairs(panel.row(row % PANEL_ROWS), out);
}
