//! bf16 matrices, as they are: `[panel][columns / 2][64]`, each the elements of two columns, the even one in the low half.

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

/// The pairs in `bytes`; `None` when they are not aligned or not those of a matrix of `shape`.
pub fn panels<'a>(shape: &PanelShape, bytes: MappedBytes<'a>) -> Option<&'a [u32]> {
    bytes.u32s().filter(|_| matrix_bytes(shape) == Ok(bytes.len() as u64))
}

/// Copies row `row` as f32 into `out`, which has its columns.
///
/// # Panics
/// When there is no such row.
pub fn copy_row(panels: &[u32], shape: &PanelShape, row: usize, out: &mut [f32]) {
    let pairs = (0..shape.columns).step_by(2).map(|column| panels[shape.element(row, column) / 2]);
    widen_pairs(pairs, out);
}

/// Writes pairs of bf16 numbers as f32, until `out` is full.
pub(super) fn widen_pairs(pairs: impl Iterator<Item = u32>, out: &mut [f32]) {
    for (out, pair) in out.chunks_mut(2).zip(pairs) {
        out[0] = f32::from_bits(pair << 16);
        if let Some(odd) = out.get_mut(1) {
            *odd = f32::from_bits(pair & 0xffff_0000);
        }
    }
}
