//! The encodings of tensors, and matrices in them: the one place that chooses between the modules of `encodings`.

use crate::format::encodings::bf12::{self, Bf12Panels, Bf12Table};
use crate::format::encodings::{bf16, f32};
use crate::format::kinds::{Dtype, ENCODING_BF12, ENCODING_PLAIN};
use crate::format::mapped_bytes::MappedBytes;
use crate::format::panels::PanelShape;
use crate::format::sizes::TooLarge;
use crate::format::tensors::TensorSpec;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// f32, as they are: every vector, and matrices.
    F32,
    /// bf16, as they are.
    Bf16,
    /// bf16 in 12 bits each.
    Bf12 {
        /// Steps that are stored as they are.
        n_raw_steps: u32,
    },
}

/// A code in a record that its tensor cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCode {
    /// The code.
    pub found: String,
    /// The codes that it can have.
    pub expected: &'static str,
}

impl Encoding {
    /// The encoding of `spec` that a record states.
    ///
    /// # Errors
    /// [`BadCode`].
    pub fn from_codes(spec: &TensorSpec, dtype: u32, encoding: u32, n_raw_steps: u32) -> Result<Encoding, BadCode> {
        let bad = |found: String, expected| Err(BadCode { found, expected });
        let dtype = match (Dtype::from_code(dtype), spec.columns) {
            (Some(Dtype::F32), _) => Dtype::F32,
            (Some(Dtype::Bf16), Some(_)) => Dtype::Bf16,
            (_, None) => return bad(format!("element type {dtype}"), "1 (f32), as in every vector"),
            (None, Some(_)) => return bad(format!("element type {dtype}"), "1 (f32) or 2 (bf16)"),
        };
        match (dtype, encoding, spec.panel_shape(dtype)) {
            (_, ENCODING_PLAIN, _) if n_raw_steps != 0 => {
                bad(format!("{n_raw_steps} raw steps"), "none in a plain tensor")
            }
            (Dtype::F32, ENCODING_PLAIN, _) => Ok(Encoding::F32),
            (Dtype::Bf16, ENCODING_PLAIN, _) => Ok(Encoding::Bf16),
            // One way to write a matrix: beyond this it is plain.
            (Dtype::Bf16, ENCODING_BF12, Some(shape)) if !bf12::pays(&shape, n_raw_steps.into()) => {
                bad(format!("{n_raw_steps} raw steps"), "at most one of eight steps in a bf12 matrix")
            }
            (Dtype::Bf16, ENCODING_BF12, Some(_)) => Ok(Encoding::Bf12 { n_raw_steps }),
            (_, ENCODING_BF12, _) => bad("encoding 1 (bf12)".into(), "0 (plain), as every f32 tensor has"),
            _ => bad(format!("encoding {encoding}"), "0 (plain) or 1 (bf12)"),
        }
    }

    /// Elements of `dtype`, as they are.
    pub fn plain(dtype: Dtype) -> Encoding {
        match dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::Bf16 => Encoding::Bf16,
        }
    }

    /// Type of the elements.
    pub fn dtype(self) -> Dtype {
        match self {
            Encoding::F32 => Dtype::F32,
            Encoding::Bf16 | Encoding::Bf12 { .. } => Dtype::Bf16,
        }
    }

    /// [`crate::format::header::TensorRecord::encoding`].
    pub fn code(self) -> u32 {
        match self {
            Encoding::F32 | Encoding::Bf16 => ENCODING_PLAIN,
            Encoding::Bf12 { .. } => ENCODING_BF12,
        }
    }

    /// Steps stored raw; 0 unless it is bf12.
    pub fn n_raw_steps(self) -> u32 {
        match self {
            Encoding::F32 | Encoding::Bf16 => 0,
            Encoding::Bf12 { n_raw_steps } => n_raw_steps,
        }
    }

    /// Name for people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::Bf16 => "bf16",
            Encoding::Bf12 { .. } => "bf12",
        }
    }

    /// Bytes of a matrix of `shape` in the file, padding inside panels included.
    ///
    /// # Errors
    /// [`TooLarge`] when they leave the range of file sizes.
    pub fn matrix_bytes(self, shape: &PanelShape) -> Result<u64, TooLarge> {
        match self {
            Encoding::F32 => f32::matrix_bytes(shape),
            Encoding::Bf16 => bf16::matrix_bytes(shape),
            Encoding::Bf12 { n_raw_steps } => bf12::matrix_bytes(shape, n_raw_steps),
        }
    }

    /// Bytes of the table of a matrix of `shape`; 0 of an encoding without tables.
    ///
    /// # Errors
    /// [`TooLarge`] when they leave the range of file sizes.
    pub fn table_bytes(self, shape: &PanelShape) -> Result<u64, TooLarge> {
        match self {
            Encoding::F32 | Encoding::Bf16 => Ok(0),
            Encoding::Bf12 { n_raw_steps } => Bf12Table::bytes(shape, n_raw_steps),
        }
    }
}

/// A matrix `[rows, columns]` in panels.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Geometry.
    pub shape: PanelShape,
    /// Its elements.
    pub panels: Panels<'a>,
    /// Bits of the smallest magnitude that is not zero, as f32; 0 when all are zero.
    pub min_magnitude: u32,
}

/// The elements of a matrix, padding included.
#[derive(Clone, Copy)]
pub enum Panels<'a> {
    /// `[panel][columns][64]`
    F32(&'a [f32]),
    /// `[panel][columns / 2][64]`, each the bf16 numbers of two columns, the even one in the low half.
    Bf16(&'a [u32]),
    /// The same in 12 bits an element.
    Bf12(Bf12Panels<'a>),
}

impl<'a> Panels<'a> {
    /// The elements of a matrix of `shape` in `bytes`, with the table that was read for it.
    ///
    /// # Panics
    /// When the bytes or the table are those of another matrix.
    pub fn new(
        encoding: Encoding,
        shape: &PanelShape,
        bytes: MappedBytes<'a>,
        table: Option<&'a Bf12Table>,
    ) -> Panels<'a> {
        const SIZED: &str = "the layout aligns and sizes tensors";
        match encoding {
            Encoding::F32 => Panels::F32(f32::panels(shape, bytes).expect(SIZED)),
            Encoding::Bf16 => Panels::Bf16(bf16::panels(shape, bytes).expect(SIZED)),
            Encoding::Bf12 { .. } => Panels::Bf12(Bf12Panels::new(shape, bytes, table.expect("a table for each"))),
        }
    }
}

impl Matrix<'_> {
    /// Copies row `row` as f32 into `out`, `[columns]`.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.shape.rows && out.len() == self.shape.columns);
        match self.panels {
            Panels::F32(panels) => f32::copy_row(panels, &self.shape, row, out),
            Panels::Bf16(panels) => bf16::copy_row(panels, &self.shape, row, out),
            Panels::Bf12(panels) => bf12::copy_row(&panels, row, out),
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        match self.panels {
            Panels::F32(panels) => size_of_val(panels) as u64,
            Panels::Bf16(panels) => size_of_val(panels) as u64,
            Panels::Bf12(panels) => panels.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tensors::Role;

    #[test]
    fn encoding_is_refused_where_codes_contradict() {
        let matrix = TensorSpec { role: Role::LmHead, layer: None, rows: 64, columns: Some(32), is_draft: false };
        let vector = TensorSpec { role: Role::Norm, columns: None, ..matrix };
        let good = [
            (&vector, (1, 0, 0), Encoding::F32),
            (&matrix, (1, 0, 0), Encoding::F32),
            (&matrix, (2, 0, 0), Encoding::Bf16),
            (&matrix, (2, 1, 2), Encoding::Bf12 { n_raw_steps: 2 }),
        ];
        for (spec, (dtype, encoding, n_raw_steps), expected) in good {
            assert_eq!(Encoding::from_codes(spec, dtype, encoding, n_raw_steps), Ok(expected));
            assert_eq!((expected.dtype().code(), expected.code()), (dtype, encoding));
            assert_eq!(expected.n_raw_steps(), n_raw_steps);
        }
        let bad = [
            (&vector, (2, 0, 0), "element type 2"),
            (&vector, (3, 0, 0), "element type 3"),
            (&vector, (1, 1, 0), "encoding 1 (bf12)"),
            (&vector, (1, 0, 1), "1 raw steps"),
            (&matrix, (0, 0, 0), "element type 0"),
            (&matrix, (3, 0, 0), "element type 3"),
            (&matrix, (1, 1, 0), "encoding 1 (bf12)"),
            (&matrix, (2, 2, 0), "encoding 2"),
            (&matrix, (1, u32::MAX, 0), "encoding 4294967295"),
            (&matrix, (2, 0, 1), "1 raw steps"),
            (&matrix, (2, 1, 3), "3 raw steps"),
        ];
        for (spec, (dtype, encoding, n_raw_steps), found) in bad {
            let refused = Encoding::from_codes(spec, dtype, encoding, n_raw_steps).expect_err(found);
            assert_eq!(refused.found, found);
        }
    }
}
