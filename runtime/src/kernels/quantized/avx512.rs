//! Products of quantized weights with the byte dot product of AVX-512.
//!
//! Weights are bytes with an offset of 128: int8 as they are stored, levels of int4 by a table. Each accumulator begins
//! at what the offset adds, with the opposite sign.

#![allow(unsafe_code, reason = "loads through pointers")]

use super::rows::{Arrangement, HEAD_WORDS};
use super::tile::{Tile, level_bytes};
use crate::format::PANEL_ROWS;
use crate::format::encodings::quantized::{BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Scales};
use std::arch::x86_64::*;

/// Rows that are multiplied together.
pub const TILE_ROWS: usize = 6;

/// Rows of a panel in a register.
const LANES: usize = 16;
/// Bytes of a quad of columns of a panel.
const QUAD_BYTES: usize = 4 * PANEL_ROWS;
/// Words of an octet of columns.
const OCTET_WORDS: usize = 2;

/// Adds the products of the blocks with the rows to their sums.
///
/// # Safety
/// The processor has AVX-512F, AVX-512BW and AVX-512VNNI.
///
/// # Panics
/// When the rows are arranged for another instruction set.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn add_blocks(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        // It decides how many words of a block are read.
        match (tile.quantization().elements, tile.x.form.arrangement) {
            (Elements::Int8, Arrangement::Halves) => by_rows::<false, true>(tile),
            (Elements::Int8, Arrangement::Bytes) => by_rows::<false, false>(tile),
            (Elements::Int4(_), Arrangement::Halves) => by_rows::<true, true>(tile),
            (Elements::Int4(_), Arrangement::Bytes) => by_rows::<true, false>(tile),
            (_, Arrangement::Words) => panic!("words are not for AVX-512"),
        }
    }
}

/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn by_rows<const INT4: bool, const HALVES: bool>(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.sums.len() {
            1 => strips::<INT4, HALVES, 1, 4>(tile),
            2 => strips::<INT4, HALVES, 2, 4>(tile),
            3 => strips::<INT4, HALVES, 3, 2>(tile),
            4 => strips::<INT4, HALVES, 4, 2>(tile),
            5 => strips::<INT4, HALVES, 5, 2>(tile),
            _ => strips::<INT4, HALVES, 6, 2>(tile),
        }
    }
}

/// The blocks for strips of `WIDTH` registers of panel rows.
///
/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn strips<const INT4: bool, const HALVES: bool, const ROWS: usize, const WIDTH: usize>(tile: Tile) {
    let quantization = tile.quantization();
    let (block_bytes, scale_bytes) = (quantization.block_bytes(), quantization.scale_bytes());
    let block_words = tile.x.form.block_words();
    assert!(tile.sums.len() == ROWS);
    let rows: [&[u32]; ROWS] = std::array::from_fn(|row| tile.row(row));
    let levels: [u8; 64] = level_bytes(quantization.elements, ELEMENT_OFFSET);
    // SAFETY: 64 bytes.
    let levels = unsafe { _mm512_loadu_si512(levels.as_ptr().cast()) };
    let low_bits = _mm512_set1_epi8(0xf);
    let has_halves = quantization.scales == Scales::Row16;
    for (index, block) in tile.bytes().chunks_exact(block_bytes).enumerate() {
        let (scales, elements) = block.split_at(scale_bytes);
        let x: [*const u32; ROWS] = std::array::from_fn(|row| rows[row][index * block_words..].as_ptr());
        if let Some(ahead) = tile.ahead_bytes {
            fetch(scales.as_ptr().wrapping_add(ahead));
            if scale_bytes > 64 {
                fetch(scales.as_ptr().wrapping_add(ahead + 64));
            }
        }
        for strip in 0..PANEL_ROWS / (LANES * WIDTH) {
            let first = strip * WIDTH;
            // Of the low bytes, or of bytes.
            let mut low = [[_mm512_setzero_si512(); WIDTH]; ROWS];
            let mut high = [[_mm512_setzero_si512(); WIDTH]; ROWS];
            for half in 0..2 {
                if half == 0 || has_halves {
                    for row in 0..ROWS {
                        // SAFETY: the head of a block of the row. It holds 64 times the sum of the integers.
                        let sum = unsafe { *x[row].add(if has_halves { 2 + half } else { 1 }) }.cast_signed();
                        low[row] = [_mm512_set1_epi32(sum * (i32::from(ELEMENT_OFFSET) / 64)); WIDTH];
                        high[row] = [_mm512_setzero_si512(); WIDTH];
                    }
                }
                for octet in 2 * half..2 * half + 2 {
                    for y in 0..WIDTH {
                        // SAFETY: `chunks_exact` gives whole blocks, four octets of the columns of 64 rows.
                        let weights = unsafe {
                            let at = elements.as_ptr().add((first + y) * 64);
                            let load = |quad: usize| {
                                let at = at.add(quad * QUAD_BYTES);
                                if let Some(ahead) = tile.ahead_bytes {
                                    fetch(at.wrapping_add(ahead));
                                }
                                _mm512_loadu_si512(at.cast())
                            };
                            if INT4 {
                                let codes = load(octet);
                                let high = _mm512_srli_epi16::<4>(codes);
                                [codes, high]
                                    .map(|codes| _mm512_shuffle_epi8(levels, _mm512_and_si512(codes, low_bits)))
                            } else {
                                [load(2 * octet), load(2 * octet + 1)]
                            }
                        };
                        for row in 0..ROWS {
                            for (quad, weights) in weights.into_iter().enumerate() {
                                // SAFETY: `Tile::row` has words of the arrangement for each block.
                                let word = |at: usize| unsafe {
                                    let at = HEAD_WORDS + at + OCTET_WORDS * octet + quad;
                                    _mm512_set1_epi32((*x[row].add(at)).cast_signed())
                                };
                                if HALVES {
                                    high[row][y] = _mm512_dpbusd_epi32(high[row][y], weights, word(0));
                                    low[row][y] = _mm512_dpbusd_epi32(low[row][y], weights, word(BLOCK_COLUMNS / 4));
                                } else {
                                    low[row][y] = _mm512_dpbusd_epi32(low[row][y], weights, word(0));
                                }
                            }
                        }
                    }
                }
                if half == 0 && !has_halves {
                    continue;
                }
                let scales: [__m512; WIDTH] = std::array::from_fn(|y| {
                    // SAFETY: the scales of a block.
                    unsafe { scales_of(quantization.scales, scales.as_ptr(), first + y, half) }
                });
                for row in 0..ROWS {
                    // SAFETY: the head of a block of the row.
                    let scale = f32::from_bits(unsafe { *x[row] });
                    for y in 0..WIDTH {
                        let sum = match HALVES {
                            true => _mm512_add_epi32(_mm512_slli_epi32::<8>(high[row][y]), low[row][y]),
                            false => low[row][y],
                        };
                        let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale));
                        // SAFETY: sixteen of the sums of the row.
                        unsafe {
                            let out = tile.sums[row].as_mut_ptr().add((first + y) * LANES);
                            _mm512_storeu_ps(out, _mm512_fmadd_ps(product, scales[y], _mm512_loadu_ps(out)));
                        }
                    }
                }
            }
        }
    }
}

/// The scales of sixteen rows, the group `group` of them, for the half `half` of a block.
///
/// # Safety
/// As for [`add_blocks`]; `scales` are those of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn scales_of(kind: Scales, scales: *const u8, group: usize, half: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Scales::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(scales.add(2 * LANES * group).cast())),
            Scales::Row32 => small(scales.add(LANES * group)),
            Scales::Row16 => small(scales.add(half * PANEL_ROWS + LANES * group)),
        }
    }
}

/// Sixteen i8 as f32.
///
/// # Safety
/// As for [`add_blocks`]; they can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn small(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm_loadu_si128(at.cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

/// Fetches the line at an address, which may be anywhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn fetch(at: *const u8) {
    _mm_prefetch::<_MM_HINT_T0>(at.cast());
}
