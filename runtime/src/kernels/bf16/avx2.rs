//! bf16 products with AVX2 and FMA. Weights are widened to f32, a group of blocks at a time, and multiplied by FMA.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::dot::{BLOCK_STEPS, dot_step};
use super::group::{BLOCK_LINES, Fetch, Few, Group, GroupRows};
use super::panel::Bf16Panel;
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES, SIGNS_BYTES};
use crate::kernels::bf12::avx2::Decoder;
use crate::kernels::tiles::{CACHE_LINE, TILE_ROWS};
use std::arch::x86_64::*;

/// Rows up to which weights stay in registers: with more, reading the activations takes longer than the products.
pub const FEW_ROWS: usize = 4;
/// Outputs of a strip: two registers, times up to six rows the twelve accumulators that leave room for weights.
const STRIP: usize = 16;
/// Numbers of a strip in one of the two parts, even and odd, of a block.
const PART: usize = BLOCK_STEPS * STRIP;
/// Words of a block: `[4 strips][2 parts][16 steps][16 outputs]`, f32.
pub const BLOCK_WORDS: usize = 2 * BLOCK_STEPS * PANEL_ROWS;

/// Widens some steps of a panel into the blocks of a group.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn fill(panel: &Bf16Panel, blocks: &mut [u32]) {
    assert!(blocks.len() == panel.n_steps().div_ceil(BLOCK_STEPS) * BLOCK_WORDS);
    let mut out = Widened { blocks: blocks.as_mut_ptr(), step: 0 };
    // SAFETY: the assertion above: there is a place for each step. A plain panel is read by whole steps of 64 pairs;
    // `Bf12Panel::stretches` asserts that its runs and raw steps are those of the panel, and `Bf12Panels::new` and
    // `split_at` that it has their bytes. The attribute enables AVX2.
    unsafe {
        match panel {
            Bf16Panel::Plain(pairs) => {
                for step in pairs.as_chunks::<PANEL_ROWS>().0 {
                    out.put(load(step.as_ptr().cast()));
                }
            }
            Bf16Panel::Bf12(panel) => {
                let decoder = Decoder::new(panel.exponents());
                let mut bytes = panel.bytes().for_kernels().as_ptr();
                for (n_bf12, raw) in panel.stretches() {
                    for _ in 0..n_bf12 {
                        let mut w = [_mm256_setzero_si256(); 8];
                        for half in 0..2 {
                            let pairs = decoder.half_step(bytes, half);
                            for group in 0..4 {
                                w[2 * group + half] = pairs[group];
                            }
                        }
                        out.put(w);
                        bytes = bytes.add(CODED_STEP_BYTES);
                    }
                    if raw {
                        out.put(load(bytes));
                        bytes = bytes.add(RAW_STEP_BYTES);
                    }
                }
            }
        }
    }
    const { assert!(SIGNS_BYTES < CODED_STEP_BYTES && RAW_STEP_BYTES == 4 * PANEL_ROWS) }
}

/// The 64 pairs of a plain step.
///
/// # Safety
/// They must be there, and the CPU must have AVX2.
#[inline(always)]
unsafe fn load(step: *const u8) -> [__m256i; 8] {
    let mut w = [std::mem::MaybeUninit::<__m256i>::uninit(); 8];
    for r in 0..8 {
        // SAFETY: `# Safety` demands 64 pairs of four bytes and AVX2.
        w[r].write(unsafe { _mm256_loadu_si256(step.add(32 * r).cast()) });
    }
    // SAFETY: the loop has written all eight.
    w.map(|w| unsafe { w.assume_init() })
}

/// Where the next step goes.
struct Widened {
    blocks: *mut u32,
    step: usize,
}

impl Widened {
    /// # Safety
    /// There must be a place for this step in the blocks, and the CPU must have AVX2.
    #[inline(always)]
    unsafe fn put(&mut self, pairs: [__m256i; 8]) {
        let (block, step) = (self.step / BLOCK_STEPS, self.step % BLOCK_STEPS);
        self.step += 1;
        // SAFETY: `# Safety`: block, strip, part, step and half are inside `[4][2][16][16]` of a block that is there.
        unsafe {
            let block = self.blocks.add(block * BLOCK_WORDS + step * STRIP);
            for r in 0..8 {
                let even = block.add(r / 2 * 2 * PART + r % 2 * 8);
                _mm256_storeu_si256(even.cast(), _mm256_slli_epi32::<16>(pairs[r]));
                let odd = _mm256_and_si256(pairs[r], _mm256_set1_epi32(0xffff_0000u32 as i32));
                _mm256_storeu_si256(even.add(PART).cast(), odd);
            }
        }
    }
}

/// Adds the products of some blocks with a few rows to their outputs: the weights stay in registers. `decoded` has room
/// for the pairs of the blocks.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn few(blocks: &Bf16Panel, fetch: Fetch, rows: &mut Few, decoded: &mut [u32], no_subnormals: bool) {
    let n_steps = blocks.n_steps();
    // SAFETY: `# Safety` demands AVX2 and FMA. Plain weights are whole steps of 64 pairs, and decoded ones too.
    unsafe {
        let pairs = match blocks {
            Bf16Panel::Plain(pairs) => pairs,
            Bf16Panel::Bf12(panel) => {
                let has_raw_steps = panel.stretches().any(|(_, raw)| raw);
                if rows.n_rows() == 1 && !has_raw_steps {
                    return if no_subnormals {
                        bf12_row::<false>(panel, fetch, rows)
                    } else {
                        bf12_row::<true>(panel, fetch, rows)
                    };
                }
                let decoded = &mut decoded[..n_steps * PANEL_ROWS];
                rows.isa().decode(panel, decoded);
                return plain_by_rows(decoded, fetch, rows, no_subnormals);
            }
        };
        plain_by_rows(pairs, fetch, rows, no_subnormals);
    }
}

/// # Safety
/// As [`plain`].
unsafe fn plain_by_rows(pairs: &[u32], fetch: Fetch, rows: &mut Few, no_subnormals: bool) {
    // SAFETY: `# Safety`.
    unsafe {
        if no_subnormals {
            plain_by_rows_for::<false>(pairs, fetch, rows);
        } else {
            plain_by_rows_for::<true>(pairs, fetch, rows);
        }
    }
}

/// Eight to twelve accumulators keep two multipliers of four cycles busy.
///
/// # Safety
/// As [`plain`].
unsafe fn plain_by_rows_for<const FLUSH: bool>(pairs: &[u32], fetch: Fetch, rows: &mut Few) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => plain::<4, 1, FLUSH>(pairs, fetch, rows),
            2 => plain::<2, 2, FLUSH>(pairs, fetch, rows),
            3 => plain::<2, 3, FLUSH>(pairs, fetch, rows),
            FEW_ROWS => plain::<1, FEW_ROWS, FLUSH>(pairs, fetch, rows),
            _ => unreachable!("few rows are 1 to {FEW_ROWS}"),
        }
    }
}

/// Blocks of pairs `[steps][64]` times `ROWS` rows, `REGISTERS * 8` outputs at a time.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn plain<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    pairs: &[u32],
    mut fetch: Fetch,
    rows: &mut Few,
) {
    for block in pairs.chunks(BLOCK_STEPS * PANEL_ROWS) {
        let n_steps = block.len() / PANEL_ROWS;
        for first in (0..PANEL_ROWS).step_by(8 * REGISTERS) {
            // SAFETY: the attribute enables AVX2 and FMA. The registers of a strip, `REGISTERS` from `first` on, are
            // inside the 64 pairs of whole steps.
            unsafe {
                // Up to three rows read faster with some lines a step, four with all of a strip's lines at once.
                if REGISTERS == 1 {
                    fetch.lines(BLOCK_LINES * 8 * REGISTERS / PANEL_ROWS);
                }
                let mut chains = Chains::<REGISTERS, ROWS, FLUSH>::new(rows, n_steps);
                let weights = |k: usize| {
                    let at = block.as_ptr().add(k * PANEL_ROWS + first);
                    std::array::from_fn(|r| _mm256_loadu_si256(at.add(8 * r).cast()))
                };
                // A whole block has a number of steps that the compiler knows.
                if n_steps == BLOCK_STEPS {
                    for k in 0..BLOCK_STEPS {
                        if REGISTERS > 1 {
                            fetch.lines(REGISTERS / 2);
                        }
                        chains.step(weights(k), k);
                    }
                } else {
                    (0..n_steps).for_each(|k| chains.step(weights(k), k));
                }
                chains.end(rows, |r| first + 8 * r);
            }
        }
        rows.next_block();
    }
}

/// Blocks of bf12 steps times one row, half of the outputs at a time.
///
/// # Safety
/// The CPU must have AVX2 and FMA, and no step may be raw.
#[target_feature(enable = "avx2,fma")]
unsafe fn bf12_row<const FLUSH: bool>(panel: &Bf12Panel, mut fetch: Fetch, row: &mut Few) {
    let (steps, rest) = panel.bytes().for_kernels().as_chunks::<CODED_STEP_BYTES>();
    assert!(steps.len() == panel.n_steps() && rest.is_empty());
    // SAFETY: the attribute enables AVX2 and FMA, and the assertion shows bf12 steps.
    unsafe {
        let decoder = Decoder::new(panel.exponents());
        for block in steps.chunks(BLOCK_STEPS) {
            for half in 0..2 {
                let mut chains = Chains::<4, 1, FLUSH>::new(row, block.len());
                for (k, step) in block.iter().enumerate() {
                    if half == 0 {
                        fetch.lines(CODED_STEP_BYTES / CACHE_LINE);
                    }
                    chains.step(decoder.half_step(step.as_ptr(), half), k);
                }
                chains.end(row, |r| 16 * r + 8 * half);
            }
            row.next_block();
        }
    }
}

/// The two chains of a block, for `ROWS` rows of `REGISTERS` registers of outputs.
struct Chains<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool> {
    even: [[__m256; REGISTERS]; ROWS],
    odd: [[__m256; REGISTERS]; ROWS],
    x: [*const u32; ROWS],
}

impl<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool> Chains<REGISTERS, ROWS, FLUSH> {
    /// # Safety
    /// The CPU must have AVX2 and FMA.
    #[inline(always)]
    unsafe fn new(rows: &Few, n_steps: usize) -> Self {
        assert!(rows.n_rows() == ROWS && n_steps <= BLOCK_STEPS);
        let mut x = [std::ptr::null(); ROWS];
        for t in 0..ROWS {
            x[t] = rows.x(t)[..2 * BLOCK_STEPS].as_ptr();
        }
        // SAFETY: `# Safety`.
        let zeros = unsafe { [[_mm256_setzero_ps(); REGISTERS]; ROWS] };
        Chains { even: zeros, odd: zeros, x }
    }

    /// One step of both.
    ///
    /// # Safety
    /// The CPU must have AVX2 and FMA, and `k` must be below the number of steps of [`Chains::new`].
    #[inline(always)]
    unsafe fn step(&mut self, pairs: [__m256i; REGISTERS], k: usize) {
        // SAFETY: `# Safety`: the activations are slices of two parts of a block, see `Chains::new`.
        unsafe {
            for r in 0..REGISTERS {
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[r]));
                let odd = _mm256_castsi256_ps(_mm256_and_si256(pairs[r], _mm256_set1_epi32(0xffff_0000u32 as i32)));
                for t in 0..ROWS {
                    let x_even = _mm256_broadcast_ss(&*self.x[t].add(k).cast());
                    let x_odd = _mm256_broadcast_ss(&*self.x[t].add(BLOCK_STEPS + k).cast());
                    self.even[t][r] = fma::<FLUSH>(even, x_even, self.even[t][r]);
                    self.odd[t][r] = fma::<FLUSH>(odd, x_odd, self.odd[t][r]);
                }
            }
        }
    }

    /// Adds the sum of both to the outputs: register `r` has those from `column(r)` on.
    ///
    /// # Safety
    /// The CPU must have AVX2 and FMA.
    #[inline(always)]
    unsafe fn end(self, rows: &mut Few, column: impl Fn(usize) -> usize) {
        for t in 0..ROWS {
            // SAFETY: `# Safety`.
            unsafe { add_to_sums::<REGISTERS, FLUSH>(rows, t, [self.even[t], self.odd[t]], &column) };
        }
    }
}

/// Adds the sum of two chains to the outputs of row `t`: register `r` has those from `column(r)` on.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn add_to_sums<const REGISTERS: usize, const FLUSH: bool>(
    rows: &mut Few,
    t: usize,
    [even, odd]: [[__m256; REGISTERS]; 2],
    column: impl Fn(usize) -> usize,
) {
    let accumulate = rows.accumulate();
    let sums = &mut rows.sums(t)[..PANEL_ROWS];
    for r in 0..REGISTERS {
        let sums = sums[column(r)..][..8].as_mut_ptr();
        // SAFETY: eight outputs, cut above; `# Safety` demands AVX2 and FMA.
        unsafe {
            let before = if accumulate { _mm256_loadu_ps(sums) } else { _mm256_setzero_ps() };
            _mm256_storeu_ps(sums, add::<FLUSH>(before, add::<FLUSH>(even[r], odd[r])));
        }
    }
}

/// Adds the products of a group of blocks with rows of activations to their outputs.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
pub unsafe fn multiply(group: &Group, rows: &mut GroupRows, no_subnormals: bool) {
    assert!(group.blocks.len() == group.n_blocks() * BLOCK_WORDS);
    // SAFETY: `# Safety` demands AVX2 and FMA.
    unsafe {
        if no_subnormals {
            by_rows::<false>(group, rows);
        } else {
            by_rows::<true>(group, rows);
        }
    }
}

/// # Safety
/// As [`strips`].
unsafe fn by_rows<const FLUSH: bool>(group: &Group, rows: &mut GroupRows) {
    // SAFETY: `# Safety`.
    unsafe {
        match rows.n_rows() {
            1 => strips::<8, 1, FLUSH>(group, rows),
            2 => strips::<4, 2, FLUSH>(group, rows),
            3 => strips::<4, 3, FLUSH>(group, rows),
            4 => strips::<2, 4, FLUSH>(group, rows),
            5 => strips::<2, 5, FLUSH>(group, rows),
            TILE_ROWS => strips::<2, TILE_ROWS, FLUSH>(group, rows),
            _ => unreachable!("tiles have 1 to {TILE_ROWS} rows"),
        }
    }
}

/// The microkernel: `ROWS` rows, `REGISTERS * 8` outputs at a time, block by block.
///
/// # Safety
/// The CPU must have AVX2 and FMA, and the group [`BLOCK_WORDS`] for each of its blocks.
#[target_feature(enable = "avx2,fma")]
unsafe fn strips<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(group: &Group, rows: &mut GroupRows) {
    const { assert!(REGISTERS.is_multiple_of(2) && PANEL_ROWS.is_multiple_of(8 * REGISTERS)) }
    assert!(rows.n_rows() == ROWS);
    let mut fetch = group.fetch;
    for first in (0..PANEL_ROWS).step_by(8 * REGISTERS) {
        let mut x = [std::ptr::null::<u32>(); ROWS];
        let mut sums = [std::ptr::null_mut::<f32>(); ROWS];
        for t in 0..ROWS {
            x[t] = rows.x(t)[..group.n_blocks() * 2 * BLOCK_STEPS].as_ptr();
            sums[t] = rows.sums(t)[first..][..8 * REGISTERS].as_mut_ptr();
        }
        let (mut left, mut accumulate) = (group.n_steps, group.accumulate);
        // SAFETY: `# Safety` demands the blocks, and the strips from `first` on are inside one. The slices above have
        // the activations of these blocks, and the outputs.
        unsafe {
            let mut w = group.blocks.as_ptr().add(first / STRIP * 2 * PART);
            while left > 0 {
                fetch.lines(group.lines);
                // A whole block has a number of steps that the compiler knows.
                if left >= BLOCK_STEPS {
                    add_block::<REGISTERS, ROWS, FLUSH>(w.cast(), BLOCK_STEPS, x, sums, accumulate);
                } else {
                    add_block::<REGISTERS, ROWS, FLUSH>(w.cast(), left, x, sums, accumulate);
                }
                accumulate = true;
                left = left.saturating_sub(BLOCK_STEPS);
                w = w.wrapping_add(BLOCK_WORDS);
                for t in 0..ROWS {
                    x[t] = x[t].wrapping_add(2 * BLOCK_STEPS);
                }
            }
        }
    }
}

/// One block of `n_steps` steps: both chains, their sum, and that added to the outputs.
///
/// # Safety
/// As [`strips`]: weights of the block, activations of each row, and outputs must be there.
#[inline(always)]
unsafe fn add_block<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    w: *const f32,
    n_steps: usize,
    x: [*const u32; ROWS],
    sums: [*mut f32; ROWS],
    accumulate: bool,
) {
    // SAFETY: `# Safety`.
    unsafe {
        let even = chain::<REGISTERS, ROWS, FLUSH>(w, n_steps, x);
        let odd = chain::<REGISTERS, ROWS, FLUSH>(w.add(PART), n_steps, x.map(|x| x.add(BLOCK_STEPS)));
        for t in 0..ROWS {
            for r in 0..REGISTERS {
                let sum = sums[t].add(8 * r);
                let before = if accumulate { _mm256_loadu_ps(sum) } else { _mm256_setzero_ps() };
                _mm256_storeu_ps(sum, add::<FLUSH>(before, add::<FLUSH>(even[t][r], odd[t][r])));
            }
        }
    }
}

/// The sums of the products of one part.
///
/// # Safety
/// As [`add_block`].
#[inline(always)]
unsafe fn chain<const REGISTERS: usize, const ROWS: usize, const FLUSH: bool>(
    w: *const f32,
    n_steps: usize,
    x: [*const u32; ROWS],
) -> [[__m256; REGISTERS]; ROWS] {
    // SAFETY: `# Safety`.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); REGISTERS]; ROWS];
        for k in 0..n_steps {
            let w = w.add(k * STRIP);
            let mut weights = [_mm256_setzero_ps(); REGISTERS];
            for r in 0..REGISTERS {
                weights[r] = _mm256_loadu_ps(w.add(r / 2 * 2 * PART + r % 2 * 8));
            }
            for t in 0..ROWS {
                let x = _mm256_broadcast_ss(&*x[t].add(k).cast());
                for r in 0..REGISTERS {
                    acc[t][r] = fma::<FLUSH>(weights[r], x, acc[t][r]);
                }
            }
        }
        acc
    }
}

/// `w * x + acc`; with `FLUSH` as [`dot_step`] computes it.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn fma<const FLUSH: bool>(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        let result = _mm256_fmadd_ps(w, x, acc);
        if !FLUSH {
            return result;
        }
        let magnitude = |v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
        let above_smallest = _mm256_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32 + 1);
        let smallest = _mm256_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32);
        // A subnormal weight shows by its exponent; the result shows the rest.
        let is_zero = _mm256_cmpeq_epi32(magnitude(w), _mm256_setzero_si256());
        let subnormal_weight = _mm256_andnot_si256(is_zero, _mm256_cmpgt_epi32(smallest, magnitude(w)));
        let tiny_result = _mm256_cmpgt_epi32(above_smallest, magnitude(result));
        if _mm256_movemask_epi8(_mm256_or_si256(subnormal_weight, tiny_result)) == 0 {
            return result;
        }
        one_by_one(w, x, acc)
    }
}

/// `a + b`; with `FLUSH` as `add_step` computes it.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn add<const FLUSH: bool>(a: __m256, b: __m256) -> __m256 {
    // SAFETY: `# Safety` demands AVX2 and FMA, which `Isa::available` detects.
    unsafe {
        let sum = _mm256_add_ps(a, b);
        if !FLUSH {
            return sum;
        }
        // What a chain leaves is never subnormal, but a sum may be.
        let exponent = _mm256_set1_epi32(0x7f80_0000);
        let bits = _mm256_castps_si256(sum);
        let is_tiny = _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), _mm256_setzero_si256());
        let sign = _mm256_set1_ps(-0.0);
        _mm256_blendv_ps(sum, _mm256_and_ps(sum, sign), _mm256_castsi256_ps(is_tiny))
    }
}

/// [`dot_step`] on each lane.
#[cold]
#[target_feature(enable = "avx2,fma")]
fn one_by_one(w: __m256, x: __m256, acc: __m256) -> __m256 {
    // SAFETY: 8 lanes of f32 are 256 bits, in both directions.
    let lanes = |v| unsafe { std::mem::transmute::<__m256, [f32; 8]>(v) };
    let (w, x, acc) = (lanes(w), lanes(x), lanes(acc));
    let result: [f32; 8] = std::array::from_fn(|i| dot_step(w[i], x[i], acc[i]));
    // SAFETY: 8 lanes of f32 are 256 bits, as in `lanes`.
    unsafe { std::mem::transmute::<[f32; 8], __m256>(result) }
}
