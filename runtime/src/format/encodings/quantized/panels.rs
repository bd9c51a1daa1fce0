//! The panels of a quantized matrix.

use crate::format::encodings::quantized::quantization::{ELEMENT_OFFSET, Elements, Quantization, Scales, matrix_bytes};
use crate::format::kinds::BLOCK_COLUMNS;
use crate::format::mapped_bytes::MappedBytes;
use crate::format::panels::{PANEL_ROWS, PanelShape};

/// A quantized matrix.
#[derive(Clone, Copy)]
pub struct QuantizedPanels<'a> {
    bytes: MappedBytes<'a>,
    quantization: Quantization,
    columns: usize,
}

impl<'a> QuantizedPanels<'a> {
    /// The matrix of `shape` in `bytes`; `None` when they are not those of one.
    pub fn new(quantization: Quantization, shape: &PanelShape, bytes: MappedBytes<'a>) -> Option<QuantizedPanels<'a>> {
        let fits = matrix_bytes(&quantization, shape) == Ok(bytes.len() as u64);
        fits.then_some(QuantizedPanels { bytes, quantization, columns: shape.columns })
    }

    /// How it is quantized.
    pub fn quantization(&self) -> Quantization {
        self.quantization
    }

    /// One panel.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel(&self, panel: usize) -> QuantizedPanel<'a> {
        let bytes = self.quantization.panel_bytes(self.columns);
        let begin = panel.checked_mul(bytes).expect("a panel of this matrix");
        let (factors, blocks) = self
            .bytes
            .get(begin..begin.saturating_add(bytes))
            .and_then(|bytes| bytes.split_at(self.quantization.factor_bytes()))
            .expect("a panel of this matrix");
        QuantizedPanel { factors, blocks, quantization: self.quantization }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// One panel of a quantized matrix.
#[derive(Clone, Copy)]
pub struct QuantizedPanel<'a> {
    factors: MappedBytes<'a>,
    blocks: MappedBytes<'a>,
    quantization: Quantization,
}

impl<'a> QuantizedPanel<'a> {
    /// How it is quantized.
    pub fn quantization(&self) -> Quantization {
        self.quantization
    }

    /// The factors of its rows, f32 in little-endian order; none with [`Scales::F16`].
    pub fn factors(&self) -> MappedBytes<'a> {
        self.factors
    }

    /// Its blocks, one after the other.
    pub fn blocks(&self) -> MappedBytes<'a> {
        self.blocks
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        self.blocks.len() / self.quantization.block_bytes()
    }

    /// The factor of row `row`: 1 with [`Scales::F16`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn factor(&self, row: usize) -> f32 {
        assert!(row < PANEL_ROWS);
        let factors = self.factors.for_kernels().as_chunks::<4>().0;
        factors.get(row).map_or(1.0, |&bytes| f32::from_le_bytes(bytes))
    }

    /// Integers and scales of row `row` in block `block`: the scale of the first and of the second half of the block,
    /// without the factor of the row.
    ///
    /// # Panics
    /// When there is no such row or block.
    pub fn block_row(&self, block: usize, row: usize) -> ([i16; BLOCK_COLUMNS], [f32; 2]) {
        assert!(row < PANEL_ROWS);
        let quantization = &self.quantization;
        let bytes = &self.blocks.for_kernels()[block * quantization.block_bytes()..][..quantization.block_bytes()];
        let (scales, elements) = bytes.split_at(quantization.scale_bytes());
        let small = |at: usize| f32::from(scales[at].cast_signed());
        let scales = match quantization.scales {
            Scales::F16 => [f16_to_f32(u16::from_le_bytes(scales.as_chunks().0[row])); 2],
            Scales::Row32 => [small(row); 2],
            Scales::Row16 => [small(row), small(PANEL_ROWS + row)],
        };
        let quad = |quad: usize| elements[(quad * PANEL_ROWS + row) * 4..][..4].iter();
        let mut integers = [0; BLOCK_COLUMNS];
        match quantization.elements {
            Elements::Int8 => {
                for (index, quad_of) in integers.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    quad_of.iter_mut().zip(quad(index)).for_each(|(integer, &byte)| {
                        *integer = i16::from(byte) - i16::from(ELEMENT_OFFSET);
                    });
                }
            }
            Elements::Int4(levels) => {
                let level = |code: u8| i16::from(levels.get()[usize::from(code & 0xf)]);
                for (index, octet) in integers.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    for (i, &byte) in quad(index).enumerate() {
                        (octet[i], octet[i + 4]) = (level(byte), level(byte >> 4));
                    }
                }
            }
        }
        (integers, scales)
    }

    /// The numbers of row `row` in block `block`: integer times scale, times the factor of the row. The first product is
    /// exact.
    ///
    /// # Panics
    /// When there is no such row or block.
    pub fn numbers(&self, block: usize, row: usize) -> [f32; BLOCK_COLUMNS] {
        let ((integers, scales), factor) = (self.block_row(block, row), self.factor(row));
        std::array::from_fn(|i| f32::from(integers[i]) * scales[i / (BLOCK_COLUMNS / 2)] * factor)
    }

    /// Copies row `row` as f32 into `out`, which has the columns of the matrix.
    ///
    /// # Panics
    /// When there is no such row, or there are fewer columns.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        for (block, out) in out.chunks_mut(BLOCK_COLUMNS).enumerate() {
            out.copy_from_slice(&self.numbers(block, row)[..out.len()]);
        }
    }
}

/// An f16 number as f32; exact.
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10 & 0x1f);
    let fraction = u32::from(half & 0x3ff);
    f32::from_bits(match exponent {
        // A denormal: fraction times 2^-24, whose bits these are.
        0 => sign | (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 => sign | 0x7f80_0000 | fraction << 13,
        _ => sign | (exponent + 112) << 23 | fraction << 13,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::encodings::quantized::Levels;
    use crate::format::kinds::Dtype;

    #[test]
    fn a_row_is_integers_times_scales_times_its_factor() {
        let levels = Levels::new(std::array::from_fn(|i| 5 * i as i8 - 37)).expect("ascending");
        for (elements, dtype) in [(Elements::Int8, Dtype::Int8), (Elements::Int4(levels), Dtype::Int4)] {
            for scales in [Scales::F16, Scales::Row32, Scales::Row16] {
                let quantization = Quantization { elements, scales };
                let shape = PanelShape { rows: 66, columns: 40, dtype };
                let mut bytes = vec![0; matrix_bytes(&quantization, &shape).expect("small") as usize];
                // Row 65, columns 21 and 38: a code or an element, and its scales.
                let panel = quantization.panel_bytes(40);
                if scales != Scales::F16 {
                    bytes[panel + 4..][..4].copy_from_slice(&0.25f32.to_le_bytes());
                }
                let block = |index| panel + quantization.factor_bytes() + index * quantization.block_bytes();
                for index in [0, 1] {
                    match scales {
                        Scales::F16 => bytes[block(index) + 2..][..2].copy_from_slice(&[0, 0xb8]),
                        Scales::Row32 => bytes[block(index) + 1] = (-2i8).cast_unsigned(),
                        Scales::Row16 => {
                            bytes[block(index) + 1] = 7;
                            bytes[block(index) + 64 + 1] = (-2i8).cast_unsigned();
                            bytes.swap(block(1) + 1, block(1) + 65);
                        }
                    }
                }
                let in_block = quantization.scale_bytes();
                // Column 21 is 5 of the octet 2, or 1 of the quad 5; column 38 is 6 of octet 0, 2 of quad 1.
                let at = match elements {
                    Elements::Int8 => [(5 * 64 + 1) * 4 + 1, (64 + 1) * 4 + 2],
                    Elements::Int4(_) => [(2 * 64 + 1) * 4 + 1, 4 + 2],
                };
                for (index, at) in at.into_iter().enumerate() {
                    bytes[block(index) + in_block + at] = if elements == Elements::Int8 { 138 } else { 0xb0 };
                }
                let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
                let mut row = vec![0.0; 40];
                panels.panel(1).copy_row(1, &mut row);
                let (value, zero) = if elements == Elements::Int8 { (10.0, -128.0) } else { (18.0, -37.0) };
                // -0.5 as f16, or -2 as i8 times 0.25.
                let scale = -0.5;
                assert_eq!((row[21], row[38]), (value * scale, value * scale), "{quantization:?}");
                assert_eq!(row[20], zero * scale, "{quantization:?}");
                assert!(QuantizedPanels::new(quantization, &shape, bytes[1..].into()).is_none());
            }
        }
    }

    #[test]
    fn f16_numbers_are_exact() {
        let known = [(0x0001, 5.960_464_5e-8), (0x83ff, -6.097_555e-5), (0x3c00, 1.0), (0xfbff, -65504.0), (0, 0.0)];
        for (half, value) in known {
            assert_eq!(f16_to_f32(half), value);
        }
        assert_eq!(f16_to_f32(0x7c00), f32::INFINITY);
        assert!(f16_to_f32(0xfe00).is_nan());
    }
}
