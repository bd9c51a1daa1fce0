//! The definition of the products of quantized weights, one operation at a time.

use super::rows::integers_of;
use super::tile::Tile;
use crate::format::encodings::quantized::{BLOCK_COLUMNS, Scales};

/// Adds the products of the blocks with the rows to their sums.
pub fn add_blocks(tile: Tile) {
    let Tile { panel, blocks, x, sums, .. } = tile;
    // One scale for a block is one term, two are two.
    let width = match panel.quantization().scales {
        Scales::F16 | Scales::Row32 => BLOCK_COLUMNS,
        Scales::Row16 => BLOCK_COLUMNS / 2,
    };
    for (t, sums) in sums.iter_mut().enumerate() {
        for block in blocks.clone() {
            let words = x.from_block(t, block);
            let (x, x_scale) = (integers_of(words, x.form.arrangement), f32::from_bits(words[0]));
            for (r, sum) in sums.iter_mut().enumerate() {
                let (w, scales) = panel.block_row(block, r);
                for (part, (w, x)) in w.chunks(width).zip(x.chunks(width)).enumerate() {
                    let product: i32 = w.iter().zip(x).map(|(&w, &x)| i32::from(w) * x).sum();
                    *sum = (product as f32 * x_scale).mul_add(scales[part], *sum);
                }
            }
        }
    }
}
