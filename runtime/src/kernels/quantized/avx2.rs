//! Products of quantized weights with AVX2.
//!
//! Weights are bytes with an offset, so that they have no sign: int8 as they are stored, levels of int4 by a table. Rows
//! of words meet the even and the odd columns as 16-bit numbers. Rows of bytes meet narrow levels as bytes, whose pairs
//! of products fit 16 bits. What the offset adds is subtracted at the end of each block.

#![allow(unsafe_code, reason = "loads through pointers")]

use super::rows::{Arrangement, HEAD_WORDS};
use super::tile::{GROUP_SUMS, TURN_BLOCKS, Tile, level_bytes};
use crate::format::PANEL_ROWS;
use crate::format::encodings::quantized::{BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Scales};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows that are multiplied together.
pub const TILE_ROWS: usize = GROUP_SUMS;
/// Rows whose sums stay in registers.
const STRIP_ROWS: usize = 4;
/// More rows than this meet weights that are expanded before.
const STRIPS_MOST_ROWS: usize = 2 * STRIP_ROWS;

/// Rows of a panel in a register.
const LANES: usize = 8;
/// Bytes of a quad of columns of a panel.
const QUAD_BYTES: usize = 4 * PANEL_ROWS;
/// The offset of narrow levels.
const NARROW_OFFSET: u8 = 64;

/// Adds the products of the blocks with the rows to their sums.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
///
/// # Panics
/// When the rows are arranged for another instruction set.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn add_blocks(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        // It decides how many words of a block are read.
        match (tile.quantization().elements, tile.x.form.arrangement) {
            (Elements::Int8, Arrangement::Words) => by_rows::<false, false>(tile),
            (Elements::Int4(_), Arrangement::Words) => by_rows::<true, false>(tile),
            (Elements::Int4(_), Arrangement::Bytes) => by_rows::<true, true>(tile),
            (_, other) => panic!("{other:?} are not for AVX2"),
        }
    }
}

/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_rows<const INT4: bool, const BYTES: bool>(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        if tile.sums.len() > STRIPS_MOST_ROWS {
            for first in tile.blocks.clone().step_by(TURN_BLOCKS) {
                let blocks = first..tile.blocks.end.min(first + TURN_BLOCKS);
                expanded::<INT4, BYTES>(Tile { blocks, sums: tile.sums, ..tile });
            }
            return;
        }
        for (index, sums) in tile.sums.chunks_mut(STRIP_ROWS).enumerate() {
            let x = &tile.x.part(index * STRIP_ROWS..index * STRIP_ROWS + sums.len());
            let ahead_bytes = tile.ahead_bytes.filter(|_| index == 0);
            let tile = Tile { blocks: tile.blocks.clone(), x, ahead_bytes, sums, ..tile };
            match tile.sums.len() {
                1 => strips::<INT4, BYTES, 1, 8>(tile),
                2 => strips::<INT4, BYTES, 2, 4>(tile),
                3 => strips::<INT4, BYTES, 3, 2>(tile),
                _ => strips::<INT4, BYTES, STRIP_ROWS, 2>(tile),
            }
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

impl Constants {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new(elements: Elements, offset: u8) -> Constants {
        let levels: [u8; 32] = level_bytes(elements, offset);
        Constants {
            // SAFETY: 32 bytes.
            levels: unsafe { _mm256_loadu_si256(levels.as_ptr().cast()) },
            low_bits: _mm256_set1_epi8(0xf),
            even_bytes: _mm256_set1_epi16(0xff),
            ones: _mm256_set1_epi16(1),
        }
    }
}

/// The offset of weights that meet rows of bytes or of words.
const fn offset_of(bytes: bool) -> u8 {
    if bytes { NARROW_OFFSET } else { ELEMENT_OFFSET }
}

/// The blocks for strips of `WIDTH` registers of panel rows.
///
/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strips<const INT4: bool, const BYTES: bool, const ROWS: usize, const WIDTH: usize>(tile: Tile) {
    let quantization = tile.quantization();
    let (block_bytes, scale_bytes) = (quantization.block_bytes(), quantization.scale_bytes());
    let block_words = tile.x.form.block_words();
    assert!(tile.sums.len() == ROWS);
    let rows: [&[u32]; ROWS] = std::array::from_fn(|row| tile.row(row));
    let (offset, has_halves) = (offset_of(BYTES), quantization.scales == Scales::Row16);
    let constants = Constants::new(quantization.elements, offset);
    for (index, block) in tile.bytes().chunks_exact(block_bytes).enumerate() {
        let (scales, elements) = block.split_at(scale_bytes);
        let x: [*const u32; ROWS] = std::array::from_fn(|row| rows[row][index * block_words..].as_ptr());
        if let Some(ahead) = tile.ahead_bytes {
            fetch_lines(scales.as_ptr().wrapping_add(ahead), scale_bytes / 64);
        }
        for strip in 0..PANEL_ROWS / (LANES * WIDTH) {
            let first = strip * WIDTH;
            let mut sums = [[_mm256_setzero_si256(); WIDTH]; ROWS];
            for half in 0..2 {
                for octet in 2 * half..2 * half + 2 {
                    // SAFETY: `chunks_exact` gives whole blocks, four octets of the columns of 64 rows, and `Tile::row`
                    // words of the arrangement for all of them.
                    unsafe {
                        let at = elements.as_ptr().add(octet * QUAD_BYTES * if INT4 { 1 } else { 2 } + first * 32);
                        if let Some(ahead) = tile.ahead_bytes {
                            fetch_lines(at.wrapping_add(ahead), WIDTH / 2);
                            if !INT4 {
                                fetch_lines(at.wrapping_add(ahead + QUAD_BYTES), WIDTH / 2);
                            }
                        }
                        let x = x.map(|x| x.add(HEAD_WORDS + octet * if BYTES { 2 } else { 4 }));
                        octet_products::<INT4, BYTES, ROWS, WIDTH>(at, x, &constants, &mut sums);
                    }
                }
                if half == 0 && !has_halves {
                    continue;
                }
                let scales: [__m256; WIDTH] = std::array::from_fn(|y| {
                    // SAFETY: the scales of a block.
                    unsafe { scales_of(quantization.scales, scales.as_ptr(), first + y, half) }
                });
                for row in 0..ROWS {
                    // SAFETY: the head of a block of the row.
                    let (scale, correction) = unsafe {
                        let part = if has_halves { 2 + half } else { 1 };
                        (f32::from_bits(*x[row]), (*x[row].add(part)).cast_signed())
                    };
                    // The words hold 64 times the sum of the integers.
                    let correction = correction * (i32::from(offset) / 64);
                    for y in 0..WIDTH {
                        let sum = _mm256_add_epi32(sums[row][y], _mm256_set1_epi32(correction));
                        let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale));
                        // SAFETY: eight of the sums of the row.
                        unsafe {
                            let out = tile.sums[row].as_mut_ptr().add((first + y) * LANES);
                            _mm256_storeu_ps(out, _mm256_fmadd_ps(product, scales[y], _mm256_loadu_ps(out)));
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
    for quad in 0..2 {
        // Rows inside: activations for all registers of a strip would not stay in registers.
        let mut weights = [_mm256_setzero_si256(); WIDTH];
        for y in 0..WIDTH {
            // SAFETY: the caller's promise.
            weights[y] = unsafe { quad_of::<INT4>(at.add(y * 32), quad, constants) };
        }
        for row in 0..ROWS {
            if BYTES {
                // SAFETY: the caller's promise.
                let x = _mm256_set1_epi32(unsafe { *x[row].add(quad) }.cast_signed());
                for y in 0..WIDTH {
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(weights[y], x), constants.ones);
                    sums[row][y] = _mm256_add_epi32(sums[row][y], pairs);
                }
            } else {
                // SAFETY: the caller's promise.
                let word = |i: usize| _mm256_set1_epi32(unsafe { *x[row].add(2 * quad + i) }.cast_signed());
                let (even_x, odd_x) = (word(0), word(1));
                for y in 0..WIDTH {
                    let even = _mm256_and_si256(weights[y], constants.even_bytes);
                    let odd = _mm256_srli_epi16::<8>(weights[y]);
                    sums[row][y] = _mm256_add_epi32(sums[row][y], _mm256_madd_epi16(even, even_x));
                    sums[row][y] = _mm256_add_epi32(sums[row][y], _mm256_madd_epi16(odd, odd_x));
                }
            }
        }
    }
}

/// The weights of eight rows with their offset: of quad 0 or 1 of the octet of columns at `at`.
///
/// # Safety
/// As for [`add_blocks`]; a register of weights of the octet can be read at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quad_of<const INT4: bool>(at: *const u8, quad: usize, constants: &Constants) -> __m256i {
    // SAFETY: the caller's promise.
    let load = |quad: usize| unsafe { _mm256_loadu_si256(at.add(quad * QUAD_BYTES).cast()) };
    match (INT4, quad) {
        (false, _) => load(quad),
        (true, 0) => _mm256_shuffle_epi8(constants.levels, _mm256_and_si256(load(0), constants.low_bits)),
        (true, _) => {
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(load(0)), constants.low_bits);
            _mm256_shuffle_epi8(constants.levels, high)
        }
    }
}

/// Registers of panel rows.
const GROUPS: usize = PANEL_ROWS / LANES;
/// Quads of a block.
const QUADS: usize = BLOCK_COLUMNS / 4;

/// The weights of a block as they are multiplied: bytes, or even columns and odd columns as 16-bit numbers; and its
/// scales, of its first and of its second half.
struct ExpandedBlock {
    weights: [[[__m256i; 2]; GROUPS]; QUADS],
    scales: [[__m256; GROUPS]; 2],
}

/// The blocks for many rows: expands them, so that each row needs few instructions.
///
/// # Safety
/// As for [`add_blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn expanded<const INT4: bool, const BYTES: bool>(tile: Tile) {
    let quantization = tile.quantization();
    let (block_bytes, scale_bytes) = (quantization.block_bytes(), quantization.scale_bytes());
    let constants = Constants::new(quantization.elements, offset_of(BYTES));
    let mut blocks = [const { MaybeUninit::<ExpandedBlock>::uninit() }; TURN_BLOCKS];
    let n_blocks = tile.blocks.len();
    assert!(n_blocks <= TURN_BLOCKS);
    for (out, block) in blocks.iter_mut().zip(tile.bytes().chunks_exact(block_bytes)) {
        let out = out.as_mut_ptr();
        let (scales, elements) = block.split_at(scale_bytes);
        if let Some(ahead) = tile.ahead_bytes {
            fetch_lines(block.as_ptr().wrapping_add(ahead), block_bytes / 64);
        }
        for quad in 0..QUADS {
            for y in 0..GROUPS {
                // SAFETY: each block has four octets of the columns of 64 rows.
                let weights = unsafe {
                    let octet = quad / 2 * QUAD_BYTES * if INT4 { 1 } else { 2 };
                    let at = elements.as_ptr().add(octet + 32 * y);
                    quad_of::<INT4>(at, quad % 2, &constants)
                };
                let even = _mm256_and_si256(weights, constants.even_bytes);
                let odd = _mm256_srli_epi16::<8>(weights);
                // SAFETY: a place of this block.
                unsafe { (*out).weights[quad][y] = if BYTES { [weights; 2] } else { [even, odd] } };
            }
        }
        for half in 0..2 {
            for y in 0..GROUPS {
                // SAFETY: the scales of a block, and a place of this block.
                unsafe { (*out).scales[half][y] = scales_of(quantization.scales, scales.as_ptr(), y, half) };
            }
        }
    }
    // SAFETY: all weights and scales of these blocks were written.
    let blocks = blocks[..n_blocks].iter().map(|block| unsafe { block.assume_init_ref() });
    let has_halves = quantization.scales == Scales::Row16;
    let n_parts = if has_halves { 2 } else { 1 };
    let block_words = tile.x.form.block_words();
    for row in 0..tile.sums.len() {
        let words = tile.row(row);
        let out = tile.sums[row].as_mut_ptr();
        for (block, words) in blocks.clone().zip(words.chunks_exact(block_words)) {
            let scale = _mm256_set1_ps(f32::from_bits(words[0]));
            let (head, integers) = words.split_at(HEAD_WORDS);
            for part in 0..n_parts {
                // The words hold 64 times the sum of the integers.
                let sum = head[if has_halves { 2 + part } else { 1 }].cast_signed();
                let mut sums = [_mm256_set1_epi32(sum * (i32::from(offset_of(BYTES)) / 64)); GROUPS];
                // Their number is not known here: unrolled, the sums would be added in another order, out of registers.
                let quads = QUADS / n_parts * part..QUADS / n_parts * (part + 1);
                if BYTES {
                    for (weights, &x) in block.weights[quads.clone()].iter().zip(&integers[quads]) {
                        let x = _mm256_set1_epi32(x.cast_signed());
                        for y in 0..GROUPS {
                            let pairs = _mm256_maddubs_epi16(weights[y][0], x);
                            sums[y] = _mm256_add_epi32(sums[y], _mm256_madd_epi16(pairs, constants.ones));
                        }
                    }
                } else {
                    let x = integers.as_chunks::<2>().0;
                    for (weights, x) in block.weights[quads.clone()].iter().zip(&x[quads]) {
                        let [even_x, odd_x] = x.map(|x| _mm256_set1_epi32(x.cast_signed()));
                        for y in 0..GROUPS {
                            let [even, odd] = weights[y];
                            sums[y] = _mm256_add_epi32(sums[y], _mm256_madd_epi16(even, even_x));
                            sums[y] = _mm256_add_epi32(sums[y], _mm256_madd_epi16(odd, odd_x));
                        }
                    }
                }
                for y in 0..GROUPS {
                    let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[y]), scale);
                    // SAFETY: eight of the sums of the row.
                    unsafe {
                        let out = out.add(y * LANES);
                        _mm256_storeu_ps(out, _mm256_fmadd_ps(product, block.scales[part][y], _mm256_loadu_ps(out)));
                    }
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

/// Fetches lines from an address on, which may be anywhere.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch_lines(at: *const u8, lines: usize) {
    for line in 0..lines {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64 * line).cast());
    }
}
