//! What `verify` checks in a panel of an int8 or int4 matrix.

use crate::encode::quantized::padding;
use olmo_infer::internals::format::PANEL_ROWS;
use olmo_infer::internals::format::encodings::quantized::{
    BLOCK_COLUMNS, Elements, Quantization, QuantizedPanel, Scales, f16_to_f32,
};
use olmo_infer::internals::format::panels::PanelShape;

/// Bytes of the largest block: int8 elements, with two scales or an f16 for each row.
const LARGEST_BLOCK: usize = PANEL_ROWS * (BLOCK_COLUMNS + 2);

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Factors, scales or elements of rows and columns that the matrix does not have, and that are not those of
    /// padding.
    pub padding: bool,
    /// A factor or a scale that is not finite.
    pub not_finite: bool,
    /// The element -128, which int8 matrices do not have.
    pub minus_128: bool,
}

impl Look {
    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: Look) {
        self.padding |= other.padding;
        self.not_finite |= other.not_finite;
        self.minus_128 |= other.minus_128;
    }
}

/// Looks at panel number `index` of a matrix.
pub fn look_at_panel(panel: &QuantizedPanel, shape: &PanelShape, index: usize) -> Look {
    let quantization = panel.quantization();
    let n_rows = (shape.rows - index * PANEL_ROWS).min(PANEL_ROWS);
    let mut factors = [0; 4 * PANEL_ROWS];
    let factors = &mut factors[..quantization.factor_bytes()];
    panel.factors().copy_to(factors);
    let mut look = Look {
        not_finite: factors.as_chunks().0.iter().any(|&factor| !f32::from_le_bytes(factor).is_finite()),
        padding: factors.iter().skip(4 * n_rows).any(|&byte| byte != 0),
        minus_128: false,
    };
    let mut bytes = [0; LARGEST_BLOCK];
    let bytes = &mut bytes[..quantization.block_bytes()];
    for block in 0..panel.n_blocks() {
        let at = block * bytes.len();
        panel.blocks().get(at..at + bytes.len()).expect("a block of the panel").copy_to(bytes);
        let n_columns = (shape.columns - block * BLOCK_COLUMNS).min(BLOCK_COLUMNS);
        look.add(look_at_block(&quantization, bytes, n_rows, n_columns));
    }
    look
}

/// Looks at a block of which these rows and columns are those of the matrix.
fn look_at_block(quantization: &Quantization, bytes: &[u8], n_rows: usize, n_columns: usize) -> Look {
    let (scales, elements) = bytes.split_at(quantization.scale_bytes());
    let bytes_of_scale = if quantization.scales == Scales::F16 { 2 } else { 1 };
    let of_rows = scales.chunks_exact(bytes_of_scale * PANEL_ROWS);
    let mut padding_differs = of_rows.flat_map(|rows| &rows[bytes_of_scale * n_rows..]).any(|&byte| byte != 0);
    if n_rows < PANEL_ROWS || n_columns < BLOCK_COLUMNS {
        let expected = padding(quantization);
        let per_word = if quantization.elements == Elements::Int8 { 4 } else { 8 };
        for (at, word) in elements.as_chunks::<4>().0.iter().enumerate() {
            let (row, first) = (at % PANEL_ROWS, at / PANEL_ROWS * per_word);
            for (i, &byte) in word.iter().enumerate() {
                let is_padding = |column: usize| row >= n_rows || column >= n_columns;
                padding_differs |= match quantization.elements {
                    Elements::Int8 => is_padding(first + i) && byte != expected,
                    Elements::Int4(_) => {
                        let other = byte ^ expected;
                        is_padding(first + i) && other & 0xf != 0 || is_padding(first + i + 4) && other >> 4 != 0
                    }
                };
            }
        }
    }
    let is_finite = |&half: &[u8; 2]| f16_to_f32(u16::from_le_bytes(half)).is_finite();
    Look {
        padding: padding_differs,
        not_finite: quantization.scales == Scales::F16 && !scales.as_chunks().0.iter().all(is_finite),
        minus_128: quantization.elements == Elements::Int8 && elements.contains(&0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::levels::LEVELS;
    use crate::encode::quantized::PanelEncoder;
    use crate::folder::element::SourceType;
    use olmo_infer::internals::format::Dtype;
    use olmo_infer::internals::format::encodings::quantized::QuantizedPanels;
    use std::path::Path;

    #[test]
    fn every_byte_of_padding_is_looked_at() {
        for elements in [Elements::Int8, Elements::Int4(LEVELS)] {
            for scales in [Scales::F16, Scales::Row32, Scales::Row16] {
                let quantization = Quantization { elements, scales };
                let dtype = if elements == Elements::Int8 { Dtype::Int8 } else { Dtype::Int4 };
                let shape = PanelShape { rows: 5, columns: 35, dtype };
                let rows: Vec<u8> = (0..5 * 35).flat_map(|i| (0.1 + i as f32).to_le_bytes()).collect();
                let mut good = vec![0; quantization.panel_bytes(35)];
                let mut encoder = PanelEncoder::new(quantization, 35, Path::new("")).expect("memory");
                encoder.fill(SourceType::F32, &rows, 35, None, &mut good);
                let look = |bytes: &[u8]| {
                    let panels = QuantizedPanels::new(quantization, &shape, bytes.into()).expect("its length");
                    look_at_panel(&panels.panel(0), &shape, 0)
                };
                assert_eq!(look(&good), Look::default());
                let n_found = (0..8 * good.len()).filter(|bit| {
                    let mut damaged = good.clone();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    look(&damaged).padding
                });
                // All bits but those of the factors and scales of five rows and of their elements.
                let element_bits = if elements == Elements::Int8 { 8 } else { 4 };
                let (factor_bits, scale_bits) = match scales {
                    Scales::F16 => (0, 16),
                    Scales::Row32 => (32, 8),
                    Scales::Row16 => (32, 16),
                };
                let used = 5 * (factor_bits + 2 * scale_bits + 35 * element_bits);
                assert_eq!(n_found.count(), 8 * good.len() - used, "{quantization:?}");
            }
        }
    }

    #[test]
    fn scales_that_are_not_finite_and_minus_128_are_found() {
        let shape = PanelShape { rows: 64, columns: 32, dtype: Dtype::Int8 };
        for (scales, at, value, expected) in [
            (Scales::Row32, 255, 0x7f, Look { not_finite: true, ..Look::default() }),
            (Scales::F16, 127, 0x7c, Look { not_finite: true, ..Look::default() }),
            (Scales::F16, 128 + 2047, 0, Look { minus_128: true, ..Look::default() }),
        ] {
            let quantization = Quantization { elements: Elements::Int8, scales };
            let mut bytes = vec![0x80; quantization.panel_bytes(32)];
            bytes[at - usize::from(scales == Scales::Row32)] = 0x80;
            bytes[at] = value;
            let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
            assert_eq!(look_at_panel(&panels.panel(0), &shape, 0), expected, "{scales:?} {at}");
        }
    }
}
