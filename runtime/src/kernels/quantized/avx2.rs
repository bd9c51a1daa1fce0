//! Products of quantized weights with AVX2.
//!
//! Weights are bytes with an offset, so that they have no sign: int8 as they are stored, levels of int4 by a table. Rows
//! of words meet the even and the odd columns as 16-bit numbers. Rows of bytes meet narrow levels as bytes, whose pairs
//! of products fit 16 bits. What the offset adds is subtracted at the end of each block.

#![allow(unsafe_code, reason = "loads through pointers")]

use super::rows::{Arrangement, HEAD_WORDS};
use super::{MOST_TILE_ROWS, Tile};
use crate::format::PANEL_ROWS;
use crate::format::encodings::quantized::{ELEMENT_OFFSET, Elements, N_LEVELS, Scales};
use std::arch::x86_64::*;

/// Rows that are multiplied together: more do not fit the registers.
pub const TILE_ROWS: usize = 4;
const _: () = assert!(TILE_ROWS <= MOST_TILE_ROWS);

/// Rows of a panel in a register.
const LANES: usize = 8;
/// Bytes of a quad of columns of a panel.
const QUAD_BYTES: usize = 4 * PANEL_ROWS;
/// The offset of narrow levels.
const NARROW_OFFSET: u8 = 64;

/// Adds the products of the blocks to the sums.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn add_blocks(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match (tile.quantization.elements, tile.form.arrangement) {
            (Elements::Int8, _) => by_rows::<false, false>(tile),
            (Elements::Int4(_), Arrangement::Bytes) => by_rows::<true, true>(tile),
            (Elements::Int4(_), _) => by_rows::<true, false>(tile),
        }
    }
}

/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_rows<const INT4: bool, const BYTES: bool>(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.sums.len() {
            1 => strips::<INT4, BYTES, 1, 8>(tile),
            2 => strips::<INT4, BYTES, 2, 4>(tile),
            3 => strips::<INT4, BYTES, 3, 2>(tile),
            _ => strips::<INT4, BYTES, 4, 2>(tile),
        }
    }
}

/// Registers that stay the same.
#[derive(Clone, Copy)]
struct Constants {
    /// The level of each code, with its offset.
    levels: __m256i,
    low_bits: __m256i,
    even_bytes: __m256i,
    ones: __m256i,
}

/// The blocks for strips of `WIDTH` registers of panel rows.
///
/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strips<const INT4: bool, const BYTES: bool, const ROWS: usize, const WIDTH: usize>(tile: Tile) {
    let quantization = tile.quantization;
    let (block_bytes, scale_bytes) = (quantization.block_bytes(), quantization.scale_bytes());
    let block_words = tile.form.block_words();
    assert!(tile.sums.len() == ROWS);
    assert!(tile.rows[..ROWS].iter().all(|row| row.len() / block_words >= tile.blocks.len() / block_bytes));
    let offset = if BYTES { NARROW_OFFSET } else { ELEMENT_OFFSET };
    let mut levels = [0u8; 2 * N_LEVELS];
    if let Elements::Int4(of_matrix) = quantization.elements {
        let with_offset = |code: usize| of_matrix.get()[code % N_LEVELS].cast_unsigned().wrapping_add(offset);
        levels = std::array::from_fn(with_offset);
    }
    let constants = Constants {
        // SAFETY: 32 bytes.
        levels: unsafe { _mm256_loadu_si256(levels.as_ptr().cast()) },
        low_bits: _mm256_set1_epi8(0xf),
        even_bytes: _mm256_set1_epi16(0xff),
        ones: _mm256_set1_epi16(1),
    };
    for (index, block) in tile.blocks.chunks_exact(block_bytes).enumerate() {
        let (scales, elements) = block.split_at(scale_bytes);
        let x: [*const u32; ROWS] = std::array::from_fn(|row| tile.rows[row][index * block_words..].as_ptr());
        if let Some(ahead) = tile.ahead_bytes {
            fetch(scales.as_ptr().wrapping_add(ahead));
            if scale_bytes > 64 {
                fetch(scales.as_ptr().wrapping_add(ahead + 64));
            }
        }
        for strip in 0..PANEL_ROWS / (LANES * WIDTH) {
            let first = strip * WIDTH;
            let mut sums = [[_mm256_setzero_si256(); WIDTH]; ROWS];
            for half in 0..2 {
                for octet in 2 * half..2 * half + 2 {
                    // SAFETY: each block has four octets of the columns of 64 rows, and each row words for them.
                    unsafe {
                        let at = elements.as_ptr().add(octet * QUAD_BYTES * if INT4 { 1 } else { 2 } + first * 32);
                        if let Some(ahead) = tile.ahead_bytes {
                            fetch_strip::<WIDTH>(at.wrapping_add(ahead), strip);
                            if !INT4 {
                                fetch_strip::<WIDTH>(at.wrapping_add(ahead + QUAD_BYTES), strip);
                            }
                        }
                        let x = x.map(|x| x.add(HEAD_WORDS + octet * if BYTES { 2 } else { 4 }));
                        octet_products::<INT4, BYTES, ROWS, WIDTH>(at, x, &constants, &mut sums);
                    }
                }
                let is_half = quantization.scales == Scales::Row16;
                if half == 0 && !is_half {
                    continue;
                }
                for row in 0..ROWS {
                    // SAFETY: the head of a block of the row.
                    let (scale, correction) = unsafe {
                        let part = if is_half { 2 + half } else { 1 };
                        (f32::from_bits(*x[row]), (*x[row].add(part)).cast_signed())
                    };
                    // The words hold 64 times the sum of the integers.
                    let correction = correction * (i32::from(offset) / 64);
                    for y in 0..WIDTH {
                        let sum = _mm256_add_epi32(sums[row][y], _mm256_set1_epi32(correction));
                        let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale));
                        // SAFETY: eight of the scales of the block, and of the sums of the row.
                        unsafe {
                            let scale = scales_of(quantization.scales, scales.as_ptr(), first + y, half);
                            let out = tile.sums[row].as_mut_ptr().add((first + y) * LANES);
                            _mm256_storeu_ps(out, _mm256_fmadd_ps(product, scale, _mm256_loadu_ps(out)));
                        }
                        sums[row][y] = _mm256_setzero_si256();
                    }
                }
            }
        }
    }
}

/// Adds the products of an octet of columns, whose weights are at `at`, with rows.
///
/// # Safety
/// As for [`add_blocks`]; `WIDTH` registers of weights of the octet can be read at `at`, and at each `x` the words of
/// an octet.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn octet_products<const INT4: bool, const BYTES: bool, const ROWS: usize, const WIDTH: usize>(
    at: *const u8,
    x: [*const u32; ROWS],
    constants: &Constants,
    sums: &mut [[__m256i; WIDTH]; ROWS],
) {
    for y in 0..WIDTH {
        // SAFETY: the caller's promise.
        let weights = unsafe {
            let load = |quad: usize| _mm256_loadu_si256(at.add(quad * QUAD_BYTES + y * 32).cast());
            if INT4 {
                let codes = load(0);
                let low = _mm256_and_si256(codes, constants.low_bits);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), constants.low_bits);
                [low, high].map(|codes| _mm256_shuffle_epi8(constants.levels, codes))
            } else {
                [load(0), load(1)]
            }
        };
        for (quad, weights) in weights.into_iter().enumerate() {
            if BYTES {
                for row in 0..ROWS {
                    // SAFETY: the caller's promise.
                    let x = _mm256_set1_epi32(unsafe { *x[row].add(quad) }.cast_signed());
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), constants.ones);
                    sums[row][y] = _mm256_add_epi32(sums[row][y], pairs);
                }
            } else {
                let even = _mm256_and_si256(weights, constants.even_bytes);
                let odd = _mm256_srli_epi16::<8>(weights);
                for row in 0..ROWS {
                    // SAFETY: the caller's promise.
                    let word = |i: usize| _mm256_set1_epi32(unsafe { *x[row].add(2 * quad + i) }.cast_signed());
                    sums[row][y] = _mm256_add_epi32(sums[row][y], _mm256_madd_epi16(even, word(0)));
                    sums[row][y] = _mm256_add_epi32(sums[row][y], _mm256_madd_epi16(odd, word(1)));
                }
            }
        }
    }
}

/// The scales of eight rows, the group `group` of them, for the half `half` of a block.
///
/// # Safety
/// As for [`add_blocks`]; `scales` are those of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales_of(kind: Scales, scales: *const u8, group: usize, half: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Scales::F16 => _mm256_cvtph_ps(_mm_loadu_si128(scales.add(2 * LANES * group).cast())),
            Scales::Row32 => small(scales.add(LANES * group)),
            Scales::Row16 => small(scales.add(half * PANEL_ROWS + LANES * group)),
        }
    }
}

/// Eight i8 as f32.
///
/// # Safety
/// As for [`add_blocks`]; they can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn small(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm_loadl_epi64(at.cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// Fetches the line at an address, which may be anywhere.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch(at: *const u8) {
    _mm_prefetch::<_MM_HINT_T0>(at.cast());
}

/// Fetches the lines of a quad for one strip.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch_strip<const WIDTH: usize>(at: *const u8, strip: usize) {
    for line in 0..WIDTH.div_ceil(2) {
        if WIDTH > 1 || strip.is_multiple_of(2) {
            fetch(at.wrapping_add(64 * line));
        }
    }
}
