//! f32 matrices, as they are: `[panel][columns][64]`.

use crate::format::mapped_bytes::MappedBytes;
use crate::format::panels::PanelShape;
use crate::format::sizes::TooLarge;

/// Bytes of a matrix.
///
/// # Errors
/// [`TooLarge`].
pub fn matrix_bytes(shape: &PanelShape) -> Result<u64, TooLarge> {
    shape.plain_bytes()
}

/// The elements in `bytes`; `None` when they are not aligned or not those of a matrix of `shape`.
pub fn panels<'a>(shape: &PanelShape, bytes: MappedBytes<'a>) -> Option<&'a [f32]> {
    bytes.f32s().filter(|_| matrix_bytes(shape) == Ok(bytes.len() as u64))
}

/// Copies row `row` into `out`, which has its columns.
///
/// # Panics
/// When there is no such row.
pub fn copy_row(panels: &[f32], shape: &PanelShape, row: usize, out: &mut [f32]) {
    for (column, out) in out.iter_mut().enumerate() {
        *out = panels[shape.element(row, column)];
    }
}
