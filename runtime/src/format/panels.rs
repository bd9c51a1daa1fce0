//! The panel layout of matrices: where element (row, column) is. One definition for the converter, which fills
//! panels, and for everything that reads them without a kernel.
//!
//! A matrix `[rows, columns]` is cut into panels of [`PANEL_ROWS`] rows. Inside a panel the columns run outermost, in
//! steps of [`Dtype::columns_per_step`] columns, so that one step of a product reads the next bytes of memory and
//! yields one more term of 64 outputs:
//!
//! ```text
//! f32   [panel][columns    ][64]
//! bf16  [panel][columns / 2][64][2]     an odd last column is paired with zeros
//! ```
//!
//! Rows that do not fill the last panel are zeros.
//!
//! Sizes are those of matrices in memory or in a file, which `layout.rs` has computed with checks: of others they are
//! refused by a panic. The position of an element is bare arithmetic, for the converter computes every one.

use crate::format::kinds::Dtype;
use crate::format::sizes::{TooLarge, product};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 64;

const POSSIBLE: &str = "a matrix of a possible size";

/// Geometry of one matrix in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelShape {
    /// Rows of the matrix: outputs of a product.
    pub rows: usize,
    /// Columns of the matrix: inputs of a product.
    pub columns: usize,
    /// Element type.
    pub dtype: Dtype,
}

impl PanelShape {
    /// Number of panels.
    pub fn n_panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Columns with the padding that fills the last step.
    ///
    /// # Panics
    /// For more columns than a matrix can have.
    pub fn padded_columns(&self) -> usize {
        self.columns.checked_next_multiple_of(self.dtype.columns_per_step()).expect(POSSIBLE)
    }

    /// Elements of one panel, padding included.
    ///
    /// # Panics
    /// For more columns than a matrix can have.
    pub fn panel_elements(&self) -> usize {
        self.padded_columns().checked_mul(PANEL_ROWS).expect(POSSIBLE)
    }

    /// Bytes of one panel of elements as they are, without scales.
    ///
    /// # Panics
    /// For more columns than a matrix can have.
    pub fn panel_bytes(&self) -> usize {
        // A panel of each type has whole bytes: it has 64 rows.
        self.panel_elements().checked_mul(self.dtype.bits()).expect(POSSIBLE) / 8
    }

    /// Bytes of all panels of elements as they are, without scales.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn plain_bytes(&self) -> Result<u64, TooLarge> {
        let columns = self.columns.checked_next_multiple_of(self.dtype.columns_per_step()).ok_or(TooLarge)?;
        product([self.n_panels(), PANEL_ROWS / 8, columns, self.dtype.bits()])
    }

    /// Position of (row, column) among the elements of an f32 or bf16 matrix, padding included; of a row and a column that
    /// it does not have, any number.
    ///
    /// # Panics
    /// For more columns than a matrix can have.
    #[expect(clippy::arithmetic_side_effects, reason = "the divisors are constants above 0")]
    pub fn element(&self, row: usize, column: usize) -> usize {
        let step = self.dtype.columns_per_step();
        let before = (column / step).wrapping_mul(PANEL_ROWS).wrapping_add(row % PANEL_ROWS);
        let in_panel = before.wrapping_mul(step).wrapping_add(column % step);
        (row / PANEL_ROWS).wrapping_mul(self.panel_elements()).wrapping_add(in_panel)
    }
}
