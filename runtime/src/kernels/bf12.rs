//! Products of coded bf16 panels: decoded in the registers of the product where the memory is the limit, and block by
//! block into the cache where several tiles of rows use the same weights.

use super::tiles::{Ahead, Outputs, TILE_ROWS, Tiles, block_steps, check_shapes};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{avx2, avx512};
use super::{Isa, Kind};
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES, Step, decode};
use crate::kernels::grid::Block;
use std::cell::RefCell;

thread_local! {
    /// The decoded block of this thread, `[steps][64]`.
    static BLOCK: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// What one call of a kernel computes from a coded panel, or a part of one.
pub struct Bf12Work<'a> {
    pub panel: Bf12Panel<'a>,
    /// Row t begins at `t * x_stride` and has at least as many pairs as the panel has steps.
    pub x: &'a [u32],
    pub x_stride: usize,
    /// What to fetch meanwhile.
    pub ahead: Ahead,
    /// Where to leave the decoded panel for the tiles that follow, `[steps][64]`; empty when there are none.
    pub decoded: &'a mut [Step],
}

impl Isa {
    /// As [`Isa::product_bf16`], for a coded panel: the same bits.
    ///
    /// # Panics
    /// As [`Isa::product_bf16`].
    pub fn product_bf12(self, panel: &Bf12Panel, x: &[u32], x_stride: usize, out: &mut Block, no_subnormals: bool) {
        let steps = panel.n_steps();
        check_shapes(steps * PANEL_ROWS, PANEL_ROWS, steps, x.len(), x_stride, out);
        if out.rows() <= self.bf12_rows() {
            let mut tiles = Tiles::of_bf12_panel(panel, out);
            while let Some(tile) = tiles.next() {
                let work = tile.bf12_work(panel, x, x_stride, &mut []);
                tile.on_outputs(PANEL_ROWS, |outputs| self.bf12_tile(work, outputs, no_subnormals));
            }
            return;
        }
        BLOCK.with_borrow_mut(|block| {
            let block_steps = block_steps(out.rows()).min(steps);
            block.resize(block_steps, [0; PANEL_ROWS]);
            let mut k = 0;
            for part in panel.chunks(block_steps) {
                let block = &mut block[..part.n_steps()];
                self.product_of_block(&part, block, &x[k..], x_stride, out, k > 0, no_subnormals);
                k += part.n_steps();
            }
        });
    }

    /// Rows of activations that a kernel for coded panels takes; 0 when there is none, and panels are decoded first.
    fn bf12_rows(self) -> usize {
        match self.0 {
            Kind::Avx512Bf16 | Kind::Avx512 => TILE_ROWS,
            Kind::Avx2 => 1,
            _ => 0,
        }
    }

    /// Adds the product of some steps to `out`; the first tile, or a pass of its own, decodes them into `block`.
    #[expect(clippy::too_many_arguments, reason = "the shapes of a product and the place for its weights")]
    fn product_of_block(
        self,
        part: &Bf12Panel,
        block: &mut [Step],
        x: &[u32],
        x_stride: usize,
        out: &mut Block,
        accumulate: bool,
        no_subnormals: bool,
    ) {
        let first_tile_decodes = self.bf12_rows() == TILE_ROWS;
        if !first_tile_decodes {
            self.decode(part, block.as_flattened_mut());
        }
        let mut tiles = Tiles::of_bf12_block(part, out, accumulate);
        let mut is_first = true;
        while let Some(tile) = tiles.next() {
            if is_first && first_tile_decodes {
                let work = tile.bf12_work(part, x, x_stride, block);
                tile.on_outputs(PANEL_ROWS, |outputs| self.bf12_tile(work, outputs, no_subnormals));
            } else {
                self.bf16_tile(tile, block.as_flattened(), x, x_stride, no_subnormals);
            }
            is_first = false;
        }
    }

    /// One tile of at most [`Isa::bf12_rows`] rows.
    fn bf12_tile(self, work: Bf12Work, outputs: &Outputs, no_subnormals: bool) {
        assert!(work.decoded.is_empty() || work.decoded.len() == work.panel.n_steps());
        match self.0 {
            // SAFETY: an `Isa` of this kind exists only on CPUs with these features; `Tile::bf12_work` bounds `x`, a
            // `Bf12Panel` has the bytes of its steps, `decoded` is as long as the panel, and the outputs are rows of
            // its width.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => unsafe { avx512::product_bf12(work, outputs) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::product_bf12_by_fma(work, outputs, no_subnormals) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::product_bf12_by_fma(work, outputs, no_subnormals) },
            _ => unreachable!("only for instruction sets with coded rows"),
        }
    }

    /// Decodes a panel, or a part of one, into `[steps][64]` pairs, as a plain panel has them; padding becomes numbers
    /// that nobody uses.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn decode(self, panel: &Bf12Panel, out: &mut [u32]) {
        assert_eq!(out.len(), panel.n_steps() * PANEL_ROWS);
        let (mut bytes, mut out) = (panel.bytes().for_kernels(), out);
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
