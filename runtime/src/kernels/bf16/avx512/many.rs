//! Products of blocks that are arranged, with many rows, tile by tile.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::multiply::{By, Dot, Fma, Multiply, REGISTERS, load};
use crate::format::PANEL_ROWS;
use crate::kernels::bf16::dot::BLOCK_STEPS;
use crate::kernels::bf16::group::Group;
use crate::kernels::bf16::rows::Bf16Rows;
use crate::kernels::fetch::Fetch;
use crate::kernels::tiles::{CACHE_LINE, TILE_ROWS};
use std::arch::x86_64::*;

/// Adds the products of a group of blocks, from step `first_step` of a panel on, with rows of activations to their sums,
/// `[rows][64]`; the sums of the first group begin with +0.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW, and for [`By::Dot`] AVX512-BF16.
pub unsafe fn multiply(by: By, group: &Group, x: &Bf16Rows, first_step: usize, sums: &mut [f32]) {
    assert!(group.blocks.len() == group.n_blocks() * by.block_words());
    // SAFETY: `# Safety`.
    unsafe {
        match by {
            By::Fma { no_subnormals: true } => by_tiles::<Fma<false>>(group, x, first_step, sums),
            By::Fma { no_subnormals: false } => by_tiles::<Fma<true>>(group, x, first_step, sums),
            By::Dot { no_subnormals: true } => by_tiles::<Dot<false>>(group, x, first_step, sums),
            By::Dot { no_subnormals: false } => by_tiles::<Dot<true>>(group, x, first_step, sums),
        }
    }
}

/// Tiles of equally many rows, one after the other.
struct Tiles {
    /// The activations of the first tile from the first block on.
    x: *const u32,
    /// Words from one tile to the next.
    x_stride: usize,
    /// The sums of the first row.
    sums: *mut f32,
    /// Number of tiles.
    n: usize,
    /// Whether the sums begin with what is there, or with +0.
    accumulate: bool,
}

/// Steps of a chain that `n_steps` steps of the panel give.
const fn chain_steps<M: Multiply>(n_steps: usize) -> usize {
    (n_steps * M::CHAIN_STEPS).div_ceil(BLOCK_STEPS)
}

/// How the lines of the next group are requested: few at a time, because loads wait for a burst of requests.
struct Requests {
    fetch: Fetch,
    /// Before each block of a tile.
    of_block: usize,
    /// With each step of a block and half of its outputs.
    of_step: usize,
}

/// Most requests with a step: those of the fewest tiles, two, with plain weights.
const MOST_OF_STEP: usize = 2;

impl Requests {
    /// For a group that is multiplied with `n_tiles` tiles.
    fn new<M: Multiply>(group: &Group, n_tiles: usize) -> Requests {
        let lines = group.next_bytes.div_ceil(CACHE_LINE);
        let blocks = n_tiles * group.n_blocks();
        let steps = n_tiles * chain_steps::<M>(group.n_steps) * (REGISTERS / SIDE_BY_SIDE);
        let of_step = (lines / steps).min(MOST_OF_STEP);
        let of_block = (lines - steps * of_step).div_ceil(blocks);
        let fetch = Fetch::in_requests(group.next, group.next_bytes, steps * of_step + blocks * of_block);
        Requests { fetch, of_block, of_step }
    }
}

/// # Safety
/// The CPU must have the instructions of `M`, and the group the words of `M` for each of its blocks.
unsafe fn by_tiles<M: InTiles>(group: &Group, x: &Bf16Rows, first_step: usize, sums: &mut [f32]) {
    let (first_block, row_words) = (first_step / BLOCK_STEPS, x.arrangement.row_words(x.columns));
    assert!((first_block + group.n_blocks()) * 2 * M::CHAIN_STEPS <= row_words);
    assert!(x.words.len() == x.rows * row_words && sums.len() == x.rows * PANEL_ROWS);
    let tile_rows = x.group_rows();
    let (n_whole, rest) = (x.rows / tile_rows, x.rows % tile_rows);
    let mut requests = Requests::new::<M>(group, n_whole + rest.min(1));
    for (first, rows, n) in [(0, tile_rows, n_whole), (n_whole * tile_rows, rest, rest.min(1))] {
        if n == 0 {
            continue;
        }
        let tiles = Tiles {
            x: x.words[first * row_words..][first_block * rows * 2 * M::CHAIN_STEPS..].as_ptr(),
            x_stride: rows * row_words,
            sums: sums[first * PANEL_ROWS..].as_mut_ptr(),
            n,
            accumulate: first_step > 0,
        };
        // SAFETY: `# Safety`. The assertions show the sums of each row and, since a group of rows has its blocks one after
        // the other, the activations of the blocks.
        unsafe {
            match rows {
                1 => M::tiles::<1>(group, &mut requests, tiles),
                2 => M::tiles::<2>(group, &mut requests, tiles),
                3 => M::tiles::<3>(group, &mut requests, tiles),
                4 => M::tiles::<4>(group, &mut requests, tiles),
                5 => M::tiles::<5>(group, &mut requests, tiles),
                TILE_ROWS => M::tiles::<TILE_ROWS>(group, &mut requests, tiles),
                _ => unreachable!("tiles have at most {TILE_ROWS} rows"),
            }
        }
    }
}

/// The microkernel: tiles of `ROWS` rows of 64 outputs, block by block. Inlined into [`InTiles::tiles`], which enables
/// the features.
///
/// # Safety
/// The CPU must have the features of `M::tiles`, the group the words of `M` for each of its blocks, and the tiles
/// activations of these blocks and sums for `ROWS` rows each.
#[inline(always)]
unsafe fn tiles<M: Multiply, const ROWS: usize>(group: &Group, requests: &mut Requests, tiles: Tiles) {
    let block_words = 2 * M::CHAIN_STEPS * PANEL_ROWS;
    for tile in 0..tiles.n {
        // SAFETY: `# Safety`.
        unsafe {
            let mut x = tiles.x.add(tile * tiles.x_stride);
            let sums = tiles.sums.add(tile * ROWS * PANEL_ROWS);
            let mut w = group.blocks.as_ptr();
            let (mut left, mut accumulate) = (group.n_steps, tiles.accumulate);
            while left > 0 {
                let n_steps = chain_steps::<M>(left.min(BLOCK_STEPS));
                requests.fetch.lines(requests.of_block);
                let fetch = &mut requests.fetch;
                match requests.of_step {
                    0 => add_block::<M, ROWS, 0>(w, n_steps, x, sums, accumulate, fetch),
                    1 => add_block::<M, ROWS, 1>(w, n_steps, x, sums, accumulate, fetch),
                    _ => add_block::<M, ROWS, MOST_OF_STEP>(w, n_steps, x, sums, accumulate, fetch),
                }
                accumulate = true;
                left = left.saturating_sub(BLOCK_STEPS);
                w = w.wrapping_add(block_words);
                x = x.wrapping_add(ROWS * 2 * M::CHAIN_STEPS);
            }
        }
    }
}

/// Registers of outputs whose two chains are computed side by side: with six rows they fill 24 of the 32 registers, so that
/// no sum goes to memory in between.
const SIDE_BY_SIDE: usize = 2;

/// One block: both chains, of `n_steps` steps each, their sum, and that added to the outputs. Fetches `LINES` lines with
/// each step.
///
/// # Safety
/// As [`tiles`]: weights of the block, activations of each row, and outputs must be there.
#[inline(always)]
unsafe fn add_block<M: Multiply, const ROWS: usize, const LINES: usize>(
    w: *const u32,
    n_steps: usize,
    x: *const u32,
    sums: *mut f32,
    accumulate: bool,
    fetch: &mut Fetch,
) {
    // SAFETY: `# Safety`.
    unsafe {
        for first in (0..PANEL_ROWS).step_by(16 * SIDE_BY_SIDE) {
            let zeros = [[_mm512_setzero_ps(); SIDE_BY_SIDE]; ROWS];
            let (mut even, mut odd) = (zeros, zeros);
            for k in 0..n_steps {
                fetch.lines(LINES);
                let evens = load::<SIDE_BY_SIDE>(w.add(k * PANEL_ROWS + first).cast());
                let odds = load::<SIDE_BY_SIDE>(w.add((M::CHAIN_STEPS + k) * PANEL_ROWS + first).cast());
                for t in 0..ROWS {
                    let x_even = _mm512_set1_epi32(x.add(t * 2 * M::CHAIN_STEPS + k).cast::<i32>().read());
                    let x_odd = _mm512_set1_epi32(x.add((2 * t + 1) * M::CHAIN_STEPS + k).cast::<i32>().read());
                    for r in 0..SIDE_BY_SIDE {
                        even[t][r] = M::mul_add(even[t][r], evens[r], x_even);
                        odd[t][r] = M::mul_add(odd[t][r], odds[r], x_odd);
                    }
                }
            }
            for t in 0..ROWS {
                for r in 0..SIDE_BY_SIDE {
                    let sum = sums.add(t * PANEL_ROWS + first + 16 * r);
                    let before = if accumulate { _mm512_loadu_ps(sum) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(sum, M::add(before, M::add(even[t][r], odd[t][r])));
                }
            }
        }
    }
}

/// The microkernel, compiled with the instructions of a way to multiply.
trait InTiles: Multiply {
    /// [`tiles`] with the instructions.
    ///
    /// # Safety
    /// As [`tiles`], and the CPU must have the instructions.
    unsafe fn tiles<const ROWS: usize>(group: &Group, requests: &mut Requests, on: Tiles);
}

impl<const FLUSH: bool> InTiles for Fma<FLUSH> {
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn tiles<const ROWS: usize>(group: &Group, requests: &mut Requests, on: Tiles) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { tiles::<Self, ROWS>(group, requests, on) }
    }
}

impl<const FLUSH: bool> InTiles for Dot<FLUSH> {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tiles<const ROWS: usize>(group: &Group, requests: &mut Requests, on: Tiles) {
        // SAFETY: `# Safety`, and the attribute enables the features.
        unsafe { tiles::<Self, ROWS>(group, requests, on) }
    }
}
