//! The panel layout of matrices: where element (row, column) lies. One definition for the converter, which fills
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
//! The arithmetic is bare, for it runs beside the kernels: on shapes of matrices whose bytes `layout.rs` has computed
//! with checks.

use crate::format::{Dtype, PANEL_ROWS};

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
    pub fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(self.dtype.columns_per_step())
    }

    /// Elements of one panel, padding included.
    pub fn panel_elements(&self) -> usize {
        self.padded_columns() * PANEL_ROWS
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.panel_elements() * self.dtype.bytes()
    }

    /// Position of (row, column) among the elements of the matrix, padding included.
    pub fn element(&self, row: usize, column: usize) -> usize {
        let step = self.dtype.columns_per_step();
        let in_panel = ((column / step) * PANEL_ROWS + row % PANEL_ROWS) * step + column % step;
        (row / PANEL_ROWS) * self.panel_elements() + in_panel
    }
}
