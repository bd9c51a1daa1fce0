//! Blocks of a GGUF file that an encoding stores as they are: into panels, and out of them.

use crate::encode::panels::Seen;
use crate::encode::quantized::PanelEncoder;
use crate::folder::element::{SourceType, f16_to_f32, f32_to_f16, widen};
use crate::folder::gguf::blocks::BlockType;
use olmo_infer::internals::format::encodings::quantized::{
    BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Quantization, QuantizedPanel,
};

impl PanelEncoder {
    /// Fills a panel from the blocks of up to 64 rows of `columns` elements, and their numbers as f32. `None` when a
    /// block has an integer of -128, for which the encoding has no place. Rows with numbers that are not finite become
    /// zeros.
    ///
    /// # Panics
    /// When the lengths do not fit, or the encoding does not store such blocks.
    pub fn keep(
        &mut self,
        kind: BlockType,
        blocks: &[u8],
        numbers: &[u8],
        columns: usize,
        panel: &mut [u8],
    ) -> Option<Seen> {
        let quantization = kind.quantization().filter(|of_blocks| self.is_for(*of_blocks, columns));
        let quantization = quantization.expect("the encoding of such blocks");
        assert!(panel.len() == quantization.panel_bytes(columns) && columns.is_multiple_of(BLOCK_COLUMNS));
        let row_bytes = columns / BLOCK_COLUMNS * kind.bytes();
        assert!(blocks.len() / row_bytes == numbers.len() / (4 * columns));
        let mut seen = Seen::default();
        self.clear(panel);
        let mut bits = Vec::with_capacity(columns);
        let rows = blocks.chunks_exact(row_bytes).zip(numbers.chunks_exact(4 * columns));
        for (index, (blocks, numbers)) in rows.enumerate() {
            bits.clear();
            widen(SourceType::F32, numbers, &mut bits);
            if seen.look_at_row(&bits, (index * columns) as u64, f32::MAX).is_none() {
                continue;
            }
            seen.loss.squares += bits.iter().map(|&bits| f64::from(f32::from_bits(bits)).powi(2)).sum::<f64>();
            let of_panel = panel.chunks_exact_mut(quantization.block_bytes());
            for (block, out) in blocks.chunks_exact(kind.bytes()).zip(of_panel) {
                let (scale, codes) = kind.scale_and_codes(block);
                if kind == BlockType::Q8_0 && codes.contains(&0) {
                    return None;
                }
                let scale = f32::from_bits(f16_to_f32(u16::from_le_bytes(scale)));
                self.put([scale; 2], &codes, out, index);
            }
        }
        Some(seen)
    }
}

/// Takes blocks out of panels that store them as they are: the way back of [`PanelEncoder::keep`].
pub struct KeptBlocks {
    kind: BlockType,
    /// The elements of a block by their integers, as bytes.
    codes: [u8; 256],
}

impl KeptBlocks {
    /// For panels of this quantization; `None` when they do not store such blocks as they are.
    pub fn new(kind: BlockType, quantization: Quantization) -> Option<KeptBlocks> {
        if kind.quantization() != Some(quantization) {
            return None;
        }
        let codes = match quantization.elements {
            Elements::Int8 => std::array::from_fn(|integer| integer as u8 ^ ELEMENT_OFFSET),
            Elements::Int4(levels) => {
                let mut codes = [0; 256];
                let levels = (0..).zip(levels.get());
                levels.for_each(|(code, level)| codes[usize::from(level.cast_unsigned())] = code);
                codes
            }
        };
        Some(KeptBlocks { kind, codes })
    }

    /// Appends the blocks of row `row` of a panel. A scale that is not the f32 number of an f16 becomes 0; no panel has
    /// one.
    ///
    /// # Panics
    /// When the panel has no such row.
    pub fn append_row(&self, panel: &QuantizedPanel<'_>, row: usize, out: &mut Vec<u8>) {
        for block in 0..panel.n_blocks() {
            let (integers, scales) = panel.block_row(block, row);
            let scale = f32_to_f16(scales[0].to_bits()).expect("a scale that is stored as f16");
            // From -128 to 127.
            let codes = integers.map(|integer| self.codes[usize::from(integer as u8)]);
            self.kind.append(scale.to_le_bytes(), &codes, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::internals::format::Dtype;
    use olmo_infer::internals::format::encodings::quantized::QuantizedPanels;
    use olmo_infer::internals::format::panels::PanelShape;
    use std::path::Path;

    #[test]
    fn kept_blocks_have_their_numbers() {
        for kind in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Iq4Nl] {
            let (rows, columns) = (5, 96);
            let n_blocks = rows * columns / 32;
            let mut blocks: Vec<u8> = (0..n_blocks * kind.bytes()).map(|i| (i * 37 + i / 7) as u8 | 1).collect();
            blocks.chunks_exact_mut(kind.bytes()).enumerate().for_each(|(i, block)| {
                // Scales of both signs, a denormal one and zero.
                let scale = [0x3c01u16, 0xa9ff, 0x0003, 0][i % 4];
                block[..2].copy_from_slice(&scale.to_le_bytes());
            });
            let mut numbers = Vec::new();
            kind.widen(&blocks, &mut numbers);
            let quantization = kind.quantization().expect("kept");
            let mut panel = vec![1; quantization.panel_bytes(columns)];
            let mut encoder = PanelEncoder::new(quantization, columns, Path::new("")).expect("memory");
            let seen = encoder.keep(kind, &blocks, &numbers, columns, &mut panel).expect("no -128");
            assert_eq!((seen.n_changed, seen.loss.squared_errors), (0, 0.0));
            let dtype = if kind == BlockType::Q8_0 { Dtype::Int8 } else { Dtype::Int4 };
            let shape = PanelShape { rows, columns, dtype };
            let panels = QuantizedPanels::new(quantization, &shape, panel[..].into()).expect("its length");
            for (row, numbers) in numbers.chunks_exact(4 * columns).enumerate() {
                let mut found = vec![0.0f32; columns];
                panels.panel(0).copy_row(row, &mut found);
                let found: Vec<u8> = found.iter().flat_map(|x| x.to_le_bytes()).collect();
                assert!(found == numbers, "{kind:?} row {row}");
            }
            let kept = KeptBlocks::new(kind, quantization).expect("kept");
            let mut back = Vec::new();
            (0..rows).for_each(|row| kept.append_row(&panels.panel(0), row, &mut back));
            assert!(back == blocks, "{kind:?}");
            assert!(KeptBlocks::new(BlockType::Q6K, quantization).is_none());
            if kind == BlockType::Q8_0 {
                blocks[40] = 0x80;
                assert!(encoder.keep(kind, &blocks, &numbers, columns, &mut panel).is_none());
            }
        }
    }
}
