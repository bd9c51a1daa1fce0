//! Products of quantized weights in plain code, for machines without kernels of their own: compilers vectorise the
//! integers. Where the target has no fused multiplication, each block ends with slow ones.

use super::rows::integers_of;
use super::tile::Tile;
use crate::format::PANEL_ROWS;
use crate::format::encodings::quantized::{
    BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, QuantizedPanel, Scales, f16_to_f32,
};

/// The elements of a quad of columns, `[64][4]`.
type Quad = [i8; 4 * PANEL_ROWS];
/// Quads of a block.
const QUADS: usize = BLOCK_COLUMNS / 4;

/// Adds the products of the blocks with the rows to their sums.
pub fn add_blocks(tile: Tile) {
    let quantization = tile.quantization();
    let bytes = tile.bytes().chunks_exact(quantization.block_bytes());
    let Tile { blocks, x, sums, .. } = tile;
    // Without a second scale the whole block is one part.
    let parts = if quantization.scales == Scales::Row16 { 2 } else { 1 };
    for (block, bytes) in blocks.zip(bytes) {
        let (scales, elements) = bytes.split_at(quantization.scale_bytes());
        let quads = quads_of(quantization.elements, elements);
        let scales: [[f32; PANEL_ROWS]; 2] = std::array::from_fn(|part| scales_of(quantization.scales, scales, part));
        for (t, sums) in sums.iter_mut().enumerate() {
            let words = x.from_block(t, block);
            let (x, x_scale) = (integers_of(words, x.form.arrangement), f32::from_bits(words[0]));
            for part in 0..parts {
                let mut products = [0i32; PANEL_ROWS];
                let range = part * QUADS / parts..(part + 1) * QUADS / parts;
                for (quad, x) in quads[range.clone()].iter().zip(&x.as_chunks::<4>().0[range]) {
                    for (product, w) in products.iter_mut().zip(quad.as_chunks::<4>().0) {
                        let terms = [0, 1, 2, 3].map(|i| i32::from(w[i]) * x[i]);
                        *product += terms[0] + terms[1] + terms[2] + terms[3];
                    }
                }
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = (products[r] as f32 * x_scale).mul_add(scales[part][r], *sum);
                }
            }
        }
    }
}

/// Widens blocks of a panel, from block `first` on, to f32 `[columns][64]`: integer times scale, times the factor of the
/// row.
///
/// # Panics
/// When there are no such blocks.
pub fn widen_blocks(panel: &QuantizedPanel, first: usize, out: &mut [f32]) {
    let quantization = panel.quantization();
    let factors: [f32; PANEL_ROWS] = std::array::from_fn(|row| panel.factor(row));
    let blocks = panel.blocks().for_kernels().chunks_exact(quantization.block_bytes()).skip(first);
    let out = out.chunks_mut(BLOCK_COLUMNS * PANEL_ROWS);
    assert!(blocks.len() >= out.len());
    for (out, bytes) in out.zip(blocks) {
        let (scales, elements) = bytes.split_at(quantization.scale_bytes());
        let quads = quads_of(quantization.elements, elements);
        let scales: [[f32; PANEL_ROWS]; 2] = std::array::from_fn(|part| scales_of(quantization.scales, scales, part));
        for (column, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let (quad, scales) = (&quads[column / 4], &scales[column / (BLOCK_COLUMNS / 2)]);
            for (row, out) in out.iter_mut().enumerate() {
                *out = f32::from(quad[4 * row + column % 4]) * scales[row] * factors[row];
            }
        }
    }
}

/// The integers of a block.
fn quads_of(elements: Elements, bytes: &[u8]) -> [Quad; QUADS] {
    let mut quads = [[0; 4 * PANEL_ROWS]; QUADS];
    match elements {
        Elements::Int8 => {
            for (quad, bytes) in quads.iter_mut().zip(bytes.chunks_exact(4 * PANEL_ROWS)) {
                quad.iter_mut().zip(bytes).for_each(|(w, byte)| *w = (byte ^ ELEMENT_OFFSET).cast_signed());
            }
        }
        Elements::Int4(levels) => {
            let level = |code: u8| levels.get()[usize::from(code & 0xf)];
            for ([low, high], bytes) in quads.as_chunks_mut::<2>().0.iter_mut().zip(bytes.chunks_exact(4 * PANEL_ROWS))
            {
                for (i, &byte) in bytes.iter().enumerate() {
                    (low[i], high[i]) = (level(byte), level(byte >> 4));
                }
            }
        }
    }
    quads
}

/// The scales of a block, or of a half of it.
fn scales_of(kind: Scales, bytes: &[u8], part: usize) -> [f32; PANEL_ROWS] {
    let small = |at: usize| f32::from(bytes[at].cast_signed());
    std::array::from_fn(|row| match kind {
        Scales::F16 => f16_to_f32(u16::from_le_bytes([bytes[2 * row], bytes[2 * row + 1]])),
        Scales::Row32 => small(row),
        Scales::Row16 => small(part * PANEL_ROWS + row),
    })
}
