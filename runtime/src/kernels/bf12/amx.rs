//! The product of a bf12 panel with AMX: decoded into a cache, for the tiles to load it from there.

#![allow(unsafe_code, reason = "calls of code for detected instruction sets")]

use super::super::fetch::Fetch;
use super::super::grid::OutputBlock;
use super::super::isa::Isa;
use super::super::packed_rows::{ALIGNMENT_WORDS, PackedRows, aligned};
use super::super::tile_product::{TILE_PAIRS, TILE_ROWS};
use super::super::x86_64::amx::{self, BLOCK_STEPS, Next, Tiles};
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::Bf12Panel;
use std::cell::RefCell;

/// Steps that are decoded at a time: those of a tile. The memory is idle while tiles are multiplied, so it is not for long.
const PART_STEPS: usize = TILE_PAIRS;
/// Words of a block of steps, and what they are aligned with.
const DECODED_WORDS: usize = BLOCK_STEPS * PANEL_ROWS + ALIGNMENT_WORDS;

thread_local! {
    /// Decoded steps of this thread, `[steps][64]`: 256 KiB. They are there from the beginning, because a thread may take
    /// its first item at any token; the kernel gives the memory of those that are used.
    static DECODED: RefCell<[u32; DECODED_WORDS]> = const { RefCell::new([0; DECODED_WORDS]) };
}

/// See `Isa::product_bf16`; `x` has the steps of the panel, and `isa` decodes. What is `ahead` bytes after the steps
/// that are decoded is fetched into the L2 cache, unless that is 0.
///
/// # Safety
/// As `Tiles::new`.
///
/// # Panics
/// When the shapes do not fit.
pub unsafe fn product(isa: Isa, panel: &Bf12Panel, x: &PackedRows, out: &mut OutputBlock, ahead: usize) {
    assert!(panel.n_steps() == x.n_steps() && x.n_rows() == out.rows());
    DECODED.with_borrow_mut(|decoded| {
        let whole_steps = x.n_steps() / TILE_PAIRS * TILE_PAIRS;
        // One block of rows needs a step once: two parts in turn do. Others need it again.
        let is_strip = x.n_rows() <= TILE_ROWS;
        let kept = if is_strip { 2 * PART_STEPS } else { BLOCK_STEPS } * PANEL_ROWS;
        let block_steps = if is_strip { whole_steps.max(1) } else { BLOCK_STEPS };
        let decoded = aligned(decoded, kept);
        amx::in_whole_blocks(x, out, |x, out| {
            let (whole, rest) = panel.split_at(whole_steps);
            let mut k = 0;
            for block in whole.chunks(block_steps) {
                let first_rows = x.n_rows().min(TILE_ROWS);
                let mut first = out.part(0..first_rows, 0..PANEL_ROWS);
                // SAFETY: `# Safety` demands what `decode_and_add` does.
                unsafe { decode_and_add(isa, &block, &x.part(0..first_rows), k, &mut first, decoded, ahead) };
                if x.n_rows() > TILE_ROWS {
                    let others = TILE_ROWS..x.n_rows();
                    let mut out = out.part(others.clone(), 0..PANEL_ROWS);
                    let weights = &decoded[..block.n_steps() * PANEL_ROWS];
                    let bytes = block.bytes().for_kernels();
                    let next = Next::new(bytes.as_ptr_range().end, bytes.len(), others.len(), block.n_steps());
                    // SAFETY: `# Safety` demands what `add` does.
                    unsafe { amx::add(weights, &x.part(others), k, &mut out, 0, next) };
                }
                k += block.n_steps();
            }
            if rest.n_steps() > 0 {
                let weights = &mut decoded[..rest.n_steps() * PANEL_ROWS];
                isa.decode(&rest, weights);
                // SAFETY: `# Safety` demands what `add` does.
                unsafe { amx::add(weights, x, whole_steps, out, 0, Next::nothing()) };
            }
        });
    });
}

/// As [`amx::add`] of whole tiles, for one block of rows. Decodes the steps into `decoded`: one after the other, and when
/// it is full, from its beginning again.
///
/// # Safety
/// As `Tiles::new`.
unsafe fn decode_and_add(
    isa: Isa,
    steps: &Bf12Panel,
    x: &PackedRows,
    k: usize,
    out: &mut OutputBlock,
    decoded: &mut [u32],
    ahead: usize,
) {
    let rows = x.n_rows();
    // SAFETY: `# Safety` demands it; the caller has no `Tiles`.
    let mut tiles = unsafe { Tiles::new([rows; 2], TILE_PAIRS) };
    tiles.begin(out, k > 0);
    let n_parts = decoded.len() / (PART_STEPS * PANEL_ROWS);
    for (number, part) in steps.chunks(PART_STEPS).enumerate() {
        let weights = &mut decoded[number % n_parts * PART_STEPS * PANEL_ROWS..][..part.n_steps() * PANEL_ROWS];
        let fetch = (ahead > 0).then(|| Fetch::new(part.bytes().for_kernels().as_ptr().wrapping_add(ahead).cast()));
        isa.decode_and_fetch(&part, weights, fetch);
        tiles.strip(weights, x.tiles(0, k + number * PART_STEPS, part.n_steps()), 0);
    }
    tiles.end(out);
}
