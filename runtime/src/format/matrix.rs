//! The encodings of tensors, and matrices in them: the one place that chooses between the modules of `encodings`.

use crate::format::encodings::bf12::{self, Bf12Panels, Bf12Table};
use crate::format::encodings::quantized::{Elements, Levels, N_LEVELS, Quantization, QuantizedPanels, Scales};
use crate::format::encodings::{bf16, f32, quantized};
use crate::format::kinds::{
    Dtype, ENCODING_BF12, ENCODING_F16_SCALES, ENCODING_PLAIN, ENCODING_ROW_SCALES_16, ENCODING_ROW_SCALES_32,
};
use crate::format::mapped_bytes::MappedBytes;
use crate::format::panels::{PANEL_ROWS, PanelShape};
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
    /// int8 or int4, with scales.
    Quantized(Quantization),
}

/// What a record states about the encoding of its tensor: fields of [`crate::format::header::TensorRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes {
    /// Code of the [`Dtype`].
    pub dtype: u32,
    /// Code of the encoding.
    pub encoding: u32,
    /// Steps stored raw; 0 unless it is bf12.
    pub n_raw_steps: u32,
    /// The levels of int4; 0 of all others.
    pub levels: [i8; N_LEVELS],
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
    pub fn from_codes(spec: &TensorSpec, codes: &Codes) -> Result<Encoding, BadCode> {
        let bad = |found: String, expected| Err(BadCode { found, expected });
        let &Codes { dtype: code, encoding, n_raw_steps, levels } = codes;
        let dtype = match (Dtype::from_code(code), spec.columns) {
            (Some(Dtype::F32), _) => Dtype::F32,
            (_, Some(_)) if spec.role.is_always_f32() => {
                return bad(format!("element type {code}"), "1 (f32), as in every matrix of this role");
            }
            (Some(dtype), Some(_)) => dtype,
            (_, None) => return bad(format!("element type {code}"), "1 (f32), as in every vector"),
            (None, Some(_)) => return bad(format!("element type {code}"), "1 (f32), 2 (bf16), 3 (int8) or 4 (int4)"),
        };
        if n_raw_steps != 0 && encoding != ENCODING_BF12 {
            return bad(format!("{n_raw_steps} raw steps"), "none, as in every tensor that is not bf12");
        }
        if levels != [0; N_LEVELS] && dtype != Dtype::Int4 {
            return bad("levels".into(), "zeros, as in every tensor that is not int4");
        }
        match (dtype, encoding, spec.panel_shape(dtype)) {
            (Dtype::F32, ENCODING_PLAIN, _) => Ok(Encoding::F32),
            (Dtype::Bf16, ENCODING_PLAIN, _) => Ok(Encoding::Bf16),
            // One way to write a matrix: beyond this it is plain.
            (Dtype::Bf16, ENCODING_BF12, Some(shape)) if !bf12::pays(&shape, n_raw_steps.into()) => {
                bad(format!("{n_raw_steps} raw steps"), "at most one of eight steps in a bf12 matrix")
            }
            (Dtype::Bf16, ENCODING_BF12, Some(_)) => Ok(Encoding::Bf12 { n_raw_steps }),
            (Dtype::F32, ENCODING_BF12, _) => bad("encoding 1 (bf12)".into(), "0 (plain), as every f32 tensor has"),
            (Dtype::F32, ..) => bad(format!("encoding {encoding}"), "0 (plain), as every f32 tensor has"),
            (Dtype::Bf16, ..) => bad(format!("encoding {encoding}"), "0 (plain) or 1 (bf12)"),
            (Dtype::Int8 | Dtype::Int4, ..) => {
                let scales = match encoding {
                    ENCODING_F16_SCALES => Scales::F16,
                    ENCODING_ROW_SCALES_32 => Scales::Row32,
                    ENCODING_ROW_SCALES_16 => Scales::Row16,
                    _ => return bad(format!("encoding {encoding}"), "2, 3 or 4 (scales), as in int8 and int4 tensors"),
                };
                let elements = match (dtype, Levels::new(levels)) {
                    (Dtype::Int8, _) => Elements::Int8,
                    (_, Ok(levels)) => Elements::Int4(levels),
                    (_, Err(_)) => return bad(format!("levels {levels:?}"), "16 ascending levels from -127 on"),
                };
                Ok(Encoding::Quantized(Quantization { elements, scales }))
            }
        }
    }

    /// What its record states.
    pub fn codes(self) -> Codes {
        let plain = Codes { dtype: self.dtype().code(), encoding: ENCODING_PLAIN, ..Codes::default() };
        match self {
            Encoding::F32 | Encoding::Bf16 => plain,
            Encoding::Bf12 { n_raw_steps } => Codes { encoding: ENCODING_BF12, n_raw_steps, ..plain },
            Encoding::Quantized(quantization) => {
                let encoding = match quantization.scales {
                    Scales::F16 => ENCODING_F16_SCALES,
                    Scales::Row32 => ENCODING_ROW_SCALES_32,
                    Scales::Row16 => ENCODING_ROW_SCALES_16,
                };
                let levels = match quantization.elements {
                    Elements::Int8 => [0; N_LEVELS],
                    Elements::Int4(levels) => *levels.get(),
                };
                Codes { encoding, levels, ..plain }
            }
        }
    }

    /// Elements of `dtype`, f32 or bf16, as they are; `None` of types that have scales.
    pub fn plain(dtype: Dtype) -> Option<Encoding> {
        match dtype {
            Dtype::F32 => Some(Encoding::F32),
            Dtype::Bf16 => Some(Encoding::Bf16),
            Dtype::Int8 | Dtype::Int4 => None,
        }
    }

    /// Type of the elements.
    pub fn dtype(self) -> Dtype {
        match self {
            Encoding::F32 => Dtype::F32,
            Encoding::Bf16 | Encoding::Bf12 { .. } => Dtype::Bf16,
            Encoding::Quantized(Quantization { elements: Elements::Int8, .. }) => Dtype::Int8,
            Encoding::Quantized(Quantization { elements: Elements::Int4(_), .. }) => Dtype::Int4,
        }
    }

    /// Name for people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::Bf16 => "bf16",
            Encoding::Bf12 { .. } => "bf12",
            Encoding::Quantized(quantization) => match (quantization.elements, quantization.scales) {
                (Elements::Int8, Scales::Row32) => "int8",
                (Elements::Int8, Scales::Row16) => "int8-16",
                (Elements::Int8, Scales::F16) => "int8-f16",
                (Elements::Int4(_), Scales::Row32) => "int4",
                (Elements::Int4(_), Scales::Row16) => "int4-16",
                (Elements::Int4(_), Scales::F16) => "int4-f16",
            },
        }
    }

    /// Bytes of a panel of a matrix of `shape`; `None` where they differ from panel to panel.
    ///
    /// # Panics
    /// For more columns than a matrix can have.
    pub fn panel_bytes(self, shape: &PanelShape) -> Option<usize> {
        match self {
            Encoding::F32 | Encoding::Bf16 => Some(shape.panel_bytes()),
            Encoding::Bf12 { .. } => None,
            Encoding::Quantized(quantization) => Some(quantization.panel_bytes(shape.columns)),
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
            Encoding::Quantized(quantization) => quantized::matrix_bytes(&quantization, shape),
        }
    }

    /// Bytes of the table of a matrix of `shape`; 0 of an encoding without tables.
    ///
    /// # Errors
    /// [`TooLarge`] when they leave the range of file sizes.
    pub fn table_bytes(self, shape: &PanelShape) -> Result<u64, TooLarge> {
        match self {
            Encoding::F32 | Encoding::Bf16 | Encoding::Quantized(_) => Ok(0),
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
    /// int8 or int4, with scales.
    Quantized(QuantizedPanels<'a>),
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
            Encoding::Quantized(quantization) => {
                Panels::Quantized(QuantizedPanels::new(quantization, shape, bytes).expect(SIZED))
            }
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
            Panels::Quantized(panels) => panels.panel(row / PANEL_ROWS).copy_row(row % PANEL_ROWS, out),
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        match self.panels {
            Panels::F32(panels) => size_of_val(panels) as u64,
            Panels::Bf16(panels) => size_of_val(panels) as u64,
            Panels::Bf12(panels) => panels.bytes(),
            Panels::Quantized(panels) => panels.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tensors::Role;

    #[test]
    fn encoding_is_refused_where_codes_contradict() {
        let matrix =
            TensorSpec { role: Role::LmHead, layer: None, expert: None, rows: 64, columns: Some(32), is_draft: false };
        let vector = TensorSpec { role: Role::Norm, columns: None, ..matrix };
        let levels: [i8; 16] = std::array::from_fn(|i| 3 * i as i8 - 20);
        let codes = |dtype, encoding, n_raw_steps| Codes { dtype, encoding, n_raw_steps, levels: [0; 16] };
        let int4 = |encoding| Codes { levels, ..codes(4, encoding, 0) };
        let quantized = |elements, scales| Encoding::Quantized(Quantization { elements, scales });
        let of_levels = Elements::Int4(Levels::new(levels).expect("ascending"));
        let good = [
            (&vector, codes(1, 0, 0), Encoding::F32),
            (&matrix, codes(1, 0, 0), Encoding::F32),
            (&matrix, codes(2, 0, 0), Encoding::Bf16),
            (&matrix, codes(2, 1, 2), Encoding::Bf12 { n_raw_steps: 2 }),
            (&matrix, codes(3, 2, 0), quantized(Elements::Int8, Scales::F16)),
            (&matrix, codes(3, 3, 0), quantized(Elements::Int8, Scales::Row32)),
            (&matrix, int4(3), quantized(of_levels, Scales::Row32)),
            (&matrix, int4(4), quantized(of_levels, Scales::Row16)),
        ];
        for (spec, codes, expected) in good {
            assert_eq!(Encoding::from_codes(spec, &codes), Ok(expected));
            assert_eq!(expected.codes(), codes);
        }
        let bad = [
            (&vector, codes(2, 0, 0), "element type 2"),
            (&vector, codes(3, 0, 0), "element type 3"),
            (&vector, codes(1, 1, 0), "encoding 1 (bf12)"),
            (&vector, codes(1, 0, 1), "1 raw steps"),
            (&vector, codes(1, 2, 0), "encoding 2"),
            (&matrix, codes(0, 0, 0), "element type 0"),
            (&matrix, codes(5, 0, 0), "element type 5"),
            (&matrix, codes(1, 1, 0), "encoding 1 (bf12)"),
            (&matrix, codes(2, 2, 0), "encoding 2"),
            (&matrix, codes(1, u32::MAX, 0), "encoding 4294967295"),
            (&matrix, codes(2, 0, 1), "1 raw steps"),
            (&matrix, codes(2, 1, 3), "3 raw steps"),
            (&matrix, codes(3, 0, 0), "encoding 0"),
            (&matrix, codes(3, 1, 0), "encoding 1"),
            (&matrix, codes(3, 5, 0), "encoding 5"),
            (&matrix, codes(3, 2, 1), "1 raw steps"),
            (&matrix, Codes { levels, ..codes(3, 2, 0) }, "levels"),
            (&matrix, Codes { levels, ..codes(2, 0, 0) }, "levels"),
            (&matrix, codes(4, 3, 0), "levels [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"),
            (&matrix, int4(1), "encoding 1"),
        ];
        for (spec, codes, found) in bad {
            let refused = Encoding::from_codes(spec, &codes).expect_err(found);
            assert_eq!(refused.found, found);
        }
    }
}
