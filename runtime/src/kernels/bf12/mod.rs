//! Products of bf16 panels in 12 bits an element: decoded in the registers of the product where the memory is the
//! limit, and block by block into the cache where several tiles of rows use the same weights.

#![allow(unsafe_code, reason = "calls of code for detected instruction sets")]

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::grid::OutputBlock;
use super::isa::{Isa, Kind};
use super::tiles::{Ahead, Rows, TILE_ROWS, Tiles, block_steps, check_shapes};
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES, Step, decode};
use std::cell::RefCell;

thread_local! {
    /// The decoded block of this thread, `[steps][64]`.
    static BLOCK: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

impl Isa {
    /// As [`Isa::product_bf16`], for a bf12 panel: the same bits.
    ///
    /// # Panics
    /// As [`Isa::product_bf16`].
    pub fn product_bf12(
        self,
        panel: &Bf12Panel,
        x: &[u32],
        x_stride: usize,
        out: &mut OutputBlock,
        no_subnormals: bool,
    ) {
        let steps = panel.n_steps();
        check_shapes(steps * PANEL_ROWS, PANEL_ROWS, steps, x.len(), x_stride, out);
        if steps == 0 {
            (0..out.rows()).for_each(|row| out.row(row).fill(0.0));
        }
        if out.rows() <= self.bf12_rows() {
            let mut tiles = Tiles::of_stream(panel.bytes().for_kernels(), steps, CODED_STEP_BYTES, out);
            while let Some(tile) = tiles.next() {
                let ahead = tile.ahead();
                tile.run(PANEL_ROWS, x, x_stride, |rows| self.bf12_tile(panel, ahead, rows, &mut [], no_subnormals));
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

    /// Rows of activations that a kernel for bf12 takes; 0 when there is none, and panels are decoded first.
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
        out: &mut OutputBlock,
        accumulate: bool,
        no_subnormals: bool,
    ) {
        let first_tile_decodes = self.bf12_rows() == TILE_ROWS;
        if !first_tile_decodes {
            self.decode(part, block.as_flattened_mut());
        }
        let mut tiles = Tiles::of_block(part.bytes().for_kernels(), part.n_steps(), out, accumulate);
        let mut is_first = true;
        while let Some(tile) = tiles.next() {
            if is_first && first_tile_decodes {
                let ahead = tile.ahead();
                tile.run(PANEL_ROWS, x, x_stride, |rows| self.bf12_tile(part, ahead, rows, block, no_subnormals));
            } else {
                let weights = tile.weights(block.as_flattened(), PANEL_ROWS);
                tile.run(PANEL_ROWS, x, x_stride, |rows| self.bf16_tile(&weights, rows, no_subnormals));
            }
            is_first = false;
        }
    }

    /// One tile of at most [`Isa::bf12_rows`] rows. Leaves the decoded weights in `decoded`, unless that is empty.
    fn bf12_tile(self, panel: &Bf12Panel, ahead: Ahead, rows: Rows<u32>, decoded: &mut [Step], no_subnormals: bool) {
        match self.0 {
            // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => unsafe {
                avx512::product(panel, ahead, rows, decoded, self.bf16_product(no_subnormals))
            },
            // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::product(panel, ahead, rows, no_subnormals) },
            _ => unreachable!("`Isa::bf12_rows` is 0"),
        }
    }

    /// Decodes a panel, or a part of one, into `[steps][64]` pairs, as a plain panel has them. Padding becomes numbers
    /// that are not used.
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
                // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::decode(steps, panel.exponents(), to) },
                // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
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
