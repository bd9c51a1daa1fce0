//! Whether this process can multiply with AMX.

#![allow(unsafe_code, reason = "questions to the processor, and a product before the detection has ended")]

use super::super::grid::OutputBlock;
use super::super::packed_rows::{PackedRows, pack};
use super::super::tile_product::{TILE_PAIRS, tile_product};
use super::amx;
use super::cpuid::cpuid;
use crate::format::PANEL_ROWS;
use crate::os::tile_permission;
use std::arch::x86_64::_xgetbv;
use std::sync::OnceLock;

/// Whether the processor has AMX for bf16, with AVX-512 to decode weights, the system grants the use of it, and its
/// products are those of the definition. The first call asks, which takes about 50 microseconds.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    // SAFETY: `agrees` is called where `has_tiles` has found AMX and the permission.
    *AVAILABLE.get_or_init(|| has_tiles() && unsafe { agrees() })
}

/// Whether there are tiles, and this process may use them.
pub fn has_tiles() -> bool {
    cpu_has_tiles() && tile_permission::is_granted()
}

/// Whether the processor has tiles of 16 rows of 64 bytes and products of bf16, enabled by the OS, and AVX-512.
fn cpu_has_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Configuration and data of the tiles, as parts of the state of a thread.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    let has_avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    if !has_avx512 || cpuid(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
        return false;
    }
    // SAFETY: the processor has the instruction where the OS set OSXSAVE, and it always has register 0.
    let is_enabled = cpuid(1, 0).ecx & OSXSAVE != 0 && unsafe { _xgetbv(0) } & TILE_STATE == TILE_STATE;
    // The first kind of tiles: bytes of a tile, tiles, bytes of a row, rows.
    let (palettes, tiles) = (cpuid(0x1d, 0).eax, cpuid(0x1d, 1));
    let has_palette = palettes >= 1 && tiles.eax >> 16 == 1024 && tiles.ebx == 8 << 16 | 64 && tiles.ecx & 0xffff == 16;
    // Products: rows of the second factor, bytes of each.
    let products = cpuid(0x1e, 0).ebx;
    is_enabled && has_palette && products & 0xff == 16 && products >> 8 & 0xffff == 64
}

/// Whether a product of the tiles is the one of the definition: ordinary numbers, numbers around the smallest one,
/// subnormal and special ones, whole and partial tiles.
///
/// # Safety
/// As [`amx::Tiles::new`].
unsafe fn agrees() -> bool {
    const STEPS: usize = TILE_PAIRS + 3;
    /// Columns that differ; the other three tiles of a step are copies.
    const COLUMNS: usize = 16;
    // The exponents of each row, those of the weights being 0 to 127: of subnormal numbers too.
    const EXPONENTS: [(u64, u64); 4] = [(100, 30), (40, 50), (180, 76), (0, 256)];
    /// A square of tiles needs more than 16 rows.
    const ROWS: usize = 20;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut number = |(first, n): (u64, u64)| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let exponent = first + (state >> 20) % n;
        (state & 0x807f | exponent << 7) as u32
    };
    let mut pair = |exponents| number(exponents) | number(exponents) << 16;
    let weights: Vec<u32> = (0..STEPS * COLUMNS).map(|_| pair((0, 128))).collect();
    let x: Vec<u32> =
        EXPONENTS.iter().cycle().take(ROWS).flat_map(|&exponents| [exponents; STEPS]).map(&mut pair).collect();

    let rows = ROWS;
    let panel: Vec<u32> = weights.chunks_exact(COLUMNS).flat_map(|row| row.repeat(PANEL_ROWS / COLUMNS)).collect();
    let mut words = vec![0; PackedRows::words(rows, STEPS)];
    pack(&x, STEPS, rows, STEPS, &mut words);
    let mut found = vec![0.0f32; rows * PANEL_ROWS];
    // SAFETY: `# Safety` demands AMX and the permission.
    unsafe {
        let packed = PackedRows::new(&words, rows, STEPS);
        amx::product_bf16(&panel, &packed, &mut OutputBlock::whole(&mut found, PANEL_ROWS), 0);
    }
    let mut expected = vec![0; rows * COLUMNS];
    for (k, weights) in (0..STEPS).step_by(TILE_PAIRS).zip(weights.chunks(TILE_PAIRS * COLUMNS)) {
        let pairs = (STEPS - k).min(TILE_PAIRS);
        let x: Vec<u32> = x.chunks_exact(STEPS).flat_map(|x| &x[k..k + pairs]).copied().collect();
        tile_product(pairs, &x, weights, &mut expected);
    }
    let expected = expected.chunks_exact(COLUMNS).flat_map(|row| row.repeat(PANEL_ROWS / COLUMNS));
    found.iter().map(|sum| sum.to_bits()).eq(expected)
}
