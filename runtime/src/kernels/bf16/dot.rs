//! The definition of a bf16 product, one operation at a time: what the tile instruction `tdpbf16ps` computes.

/// Columns of a matrix that a product sums apart from the others, in two chains: those of even and those of odd number.
pub const BLOCK_COLUMNS: usize = 32;
/// Steps of a panel in such a block: each has an even and an odd column.
pub const BLOCK_STEPS: usize = BLOCK_COLUMNS / 2;

/// The two bf16 numbers of a step as f32: (even k, odd k).
#[inline(always)]
pub fn split_pair(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}

/// A subnormal number as zero of the same sign.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `w * x + acc` as the instruction computes it: subnormal inputs are zeros, the result is rounded to 24 bits
/// regardless of its exponent, and becomes zero of its sign when it is then below 2^-126. `w * x` must be exact in f64,
/// as it is for bf16 numbers.
#[inline(always)]
pub fn dot_step(w: f32, x: f32, acc: f32) -> f32 {
    let (w, x, acc) = (flush(w), flush(x), flush(acc));
    let result = w.mul_add(x, acc);
    if result.abs() <= f32::MIN_POSITIVE {
        return flush_tiny(w, x, acc, result);
    }
    result
}

/// The rare end of [`dot_step`]. A result of exactly 2^-126 may have been rounded up to it by the coarser steps of
/// subnormal numbers; with 24 bits it would have stayed below, if the exact sum is below 2^-126 - 2^-151.
#[cold]
fn flush_tiny(w: f32, x: f32, acc: f32, result: f32) -> f32 {
    let smallest = f64::from(f32::MIN_POSITIVE);
    // In f64 this sum is exact where it matters: its terms have no bits below 2^-166 when it is that close to 2^-126.
    let sum = f64::from(w) * f64::from(x) + f64::from(acc);
    let half_step = smallest * 2f64.powi(-25);
    if result.abs() == f32::MIN_POSITIVE && sum.abs() >= smallest - half_step { result } else { 0f32.copysign(result) }
}

/// `a + b` as the instruction computes it: subnormal inputs are zeros, and so is a subnormal sum, which is exact.
#[inline(always)]
pub fn add_step(a: f32, b: f32) -> f32 {
    flush(flush(a) + flush(b))
}
