//! Products of coded bf16 panels: decoded in the registers of the product where the memory is the limit, and block by
//! block into the cache where several tiles of rows use the same weights.

use super::tiles::{TILE_ROWS, Tiles, block_steps, check_shapes, on_rows};
use super::{Isa, Kind};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::coded::{CODED_STEP_BYTES, CodedPanel, RAW_STEP_BYTES, decode};
use crate::format::PANEL_ROWS;
use crate::grid::Block;
use std::cell::RefCell;

thread_local! {
    /// The decoded block of this thread, `[steps][64]` pairs.
    static BLOCK: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// What a kernel computes in one pass: all outputs of a coded panel for up to [`TILE_ROWS`] rows.
pub struct CodedWork<'a> {
    pub panel: &'a CodedPanel<'a>,
    /// Row t begins at `t * x_stride` and has at least as many pairs as the panel has steps.
    pub x: &'a [u32],
    pub x_stride: usize,
}

impl Isa {
    /// As [`Isa::product_bf16`], for a coded panel: the same bits.
    ///
    /// # Panics
    /// As [`Isa::product_bf16`].
    pub fn product_coded(self, panel: &CodedPanel, x: &[u32], x_stride: usize, out: &mut Block, no_subnormals: bool) {
        let steps = panel.n_steps();
        check_shapes(steps * PANEL_ROWS, PANEL_ROWS, steps, x.len(), x_stride, out);
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 | Kind::Avx512 if out.rows() <= TILE_ROWS => {
                let work = CodedWork { panel, x, x_stride };
                let rows = 0..out.rows();
                on_rows(out, rows, PANEL_ROWS, false, |outputs| match self.0 {
                    // SAFETY: an `Isa` of this kind exists only on CPUs with these features; `check_shapes` bounds `x`, a
                    // `CodedPanel` has the bytes of its steps, and the outputs are rows of the panel's width.
                    Kind::Avx512Bf16 => unsafe { avx512::product_coded(&work, outputs) },
                    // SAFETY: as above.
                    _ => unsafe { avx512::product_coded_by_fma(&work, outputs, no_subnormals) },
                });
            }
            _ => BLOCK.with_borrow_mut(|block| self.by_blocks(block, panel, x, x_stride, out, no_subnormals)),
        }
    }

    fn by_blocks(
        self,
        block: &mut Vec<u32>,
        panel: &CodedPanel,
        x: &[u32],
        x_stride: usize,
        out: &mut Block,
        no_subnormals: bool,
    ) {
        let block_steps = block_steps(out.rows()).min(panel.n_steps());
        block.resize(block_steps * PANEL_ROWS, 0);
        let mut k = 0;
        for part in panel.chunks(block_steps) {
            let block = &mut block[..part.n_steps() * PANEL_ROWS];
            self.decode(&part, block);
            // The block after this one is about as long, in this panel or the next.
            let next = part.bytes().as_ptr_range().end.cast::<i8>();
            let tiles = Tiles::of_block(part.n_steps(), out, k > 0, next, part.bytes().len());
            self.bf16_tiles(tiles, block, &x[k..], x_stride, no_subnormals);
            k += part.n_steps();
        }
    }

    /// Decodes a panel, or a part of one, into `[steps][64]` pairs, as a plain panel has them; padding becomes numbers
    /// that nobody uses.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn decode(self, panel: &CodedPanel, out: &mut [u32]) {
        assert_eq!(out.len(), panel.n_steps() * PANEL_ROWS);
        let (mut bytes, mut out) = (panel.bytes(), out);
        for (coded, raw) in panel.stretches() {
            let (stretch, rest) = bytes.split_at(coded * CODED_STEP_BYTES);
            let (to, rest_out) = out.split_at_mut(coded * PANEL_ROWS);
            let (steps, to) = (stretch.as_chunks().0, to.as_chunks_mut().0);
            match self.0 {
                // SAFETY: an `Isa` of this kind exists only on CPUs with these features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::decode(steps, panel.exponents(), to) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2::decode(steps, panel.exponents(), to) },
                _ => to.iter_mut().zip(steps).for_each(|(to, step)| *to = decode(step, panel.exponents())),
            }
            (bytes, out) = (rest, rest_out);
            if raw {
                let (pairs, rest) = bytes.split_at(RAW_STEP_BYTES);
                let (to, rest_out) = out.split_at_mut(PANEL_ROWS);
                for (to, pair) in to.iter_mut().zip(pairs.as_chunks().0) {
                    *to = u32::from_le_bytes(*pair);
                }
                (bytes, out) = (rest, rest_out);
            }
        }
    }
}
