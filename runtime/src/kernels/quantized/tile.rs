//! The operands of the kernels of quantized weights.

use super::rows::QuantizedRows;
use crate::format::PANEL_ROWS;
use crate::format::encodings::quantized::{Elements, N_LEVELS, Quantization, QuantizedPanel};
use std::ops::Range;

/// Blocks that are taken from one panel before it is the turn of the next, or that meet all rows of a group: they stay
/// in the L1 cache.
pub const TURN_BLOCKS: usize = 4;
/// Rows of panels whose sums are kept at a time: 12 KiB.
pub const GROUP_SUMS: usize = 48;

/// Some blocks of a panel, and some rows.
pub struct Tile<'a> {
    /// The panel.
    pub panel: &'a QuantizedPanel<'a>,
    /// Which of its blocks.
    pub blocks: Range<usize>,
    /// The rows.
    pub x: &'a QuantizedRows<'a>,
    /// Bytes from each line of the blocks to the one that is fetched meanwhile; `None` fetches nothing.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "plain code does not fetch"))]
    pub ahead_bytes: Option<usize>,
    /// What the products are added to, one for each row.
    pub sums: &'a mut [[f32; PANEL_ROWS]],
}

impl<'a> Tile<'a> {
    /// How the panel is quantized.
    pub fn quantization(&self) -> Quantization {
        self.panel.quantization()
    }

    /// The bytes of the blocks, [`Quantization::block_bytes`] each.
    pub fn bytes(&self) -> &'a [u8] {
        let bytes = self.quantization().block_bytes();
        &self.panel.blocks().for_kernels()[self.blocks.start * bytes..self.blocks.end * bytes]
    }

    /// The words of row `row`, [`super::Form::block_words`] for each of the blocks.
    pub fn row(&self, row: usize) -> &'a [u32] {
        &self.x.from_block(row, self.blocks.start)[..self.blocks.len() * self.x.form.block_words()]
    }
}

/// The levels of int4 elements with an offset, again and again; zeros for int8.
pub fn level_bytes<const N: usize>(elements: Elements, offset: u8) -> [u8; N] {
    let Elements::Int4(levels) = elements else { return [0; N] };
    std::array::from_fn(|code| levels.get()[code % N_LEVELS].cast_unsigned().wrapping_add(offset))
}
