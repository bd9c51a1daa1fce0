//! What the instruction `TDPBF16PS` of AMX computes, one operation at a time, as Intel's manual defines it: for tests,
//! and for the check of a processor before its tiles are used. Numbers are bits here, because payloads of NaN count.

/// Pairs that one instruction adds up at most.
pub const TILE_PAIRS: usize = 16;
/// Rows of activations, and outputs of a row, that one instruction takes at most.
pub const TILE_ROWS: usize = 16;

/// The NaN that an operation makes of numbers.
const DEFAULT_NAN: u32 = 0xffc0_0000;
/// What makes a NaN a quiet one.
const QUIET: u32 = 1 << 22;
/// The smallest normal number, 2^-126.
const SMALLEST: u32 = 1 << 23;

fn is_nan(x: u32) -> bool {
    x & !SIGN > INFINITY
}

/// The sign of a number.
const SIGN: u32 = 1 << 31;
/// Infinity, or the bits of an exponent.
const INFINITY: u32 = 0xff << 23;

/// A subnormal number as zero of its sign.
fn flushed(x: u32) -> u32 {
    if x & INFINITY == 0 { x & SIGN } else { x }
}

/// The first NaN among the operands, made quiet.
fn first_nan(operands: &[u32]) -> Option<u32> {
    operands.iter().find(|&&x| is_nan(x)).map(|x| x | QUIET)
}

/// `a * b + acc`, where `a` and `b` are bf16 numbers widened to f32. Subnormal operands are zeros; the exact sum is
/// rounded once to 24 bits, to nearest even, regardless of its exponent, and then becomes zero of its sign when it is below
/// 2^-126. The result is the first NaN of `a`, `b` and `acc` if there is one.
pub fn dot_step(a: u32, b: u32, acc: u32) -> u32 {
    if let Some(nan) = first_nan(&[a, b, acc]) {
        return nan;
    }
    let [a, b, acc] = [a, b, acc].map(|x| f32::from_bits(flushed(x)));
    let result = a.mul_add(b, acc);
    let bits = result.to_bits();
    if result.is_nan() {
        return DEFAULT_NAN;
    }
    if bits & !SIGN != SMALLEST {
        return flushed(bits);
    }
    // It may have been rounded up to 2^-126 by the coarser steps of subnormal numbers. In f64 the sum is exact where it
    // matters: its terms have no bits below 2^-166 when it is that close to 2^-126.
    let sum = f64::from(a) * f64::from(b) + f64::from(acc);
    let smallest = f64::from(f32::MIN_POSITIVE);
    if sum.abs() >= smallest - smallest * 2f64.powi(-25) { bits } else { bits & SIGN }
}

/// `a + b`, rounded to nearest even, subnormal operands and results as zeros of their sign. The result is the first
/// NaN of `a` and `b` if there is one.
pub fn add_step(a: u32, b: u32) -> u32 {
    if let Some(nan) = first_nan(&[a, b]) {
        return nan;
    }
    let sum = f32::from_bits(flushed(a)) + f32::from_bits(flushed(b));
    if sum.is_nan() { DEFAULT_NAN } else { flushed(sum.to_bits()) }
}

/// `c[m][n] += sum over k of a[m][k] * b[k][n]`, where each element of `a`, `[rows][pairs]`, and of `b`,
/// `[pairs][columns]`, is a pair of bf16 numbers, the even one in the low half. `c`, `[rows][columns]`, has f32.
///
/// # Panics
/// When the shapes do not fit, or have more than [`TILE_PAIRS`] pairs.
pub fn tile_product(pairs: usize, a: &[u32], b: &[u32], c: &mut [u32]) {
    assert!((1..=TILE_PAIRS).contains(&pairs) && a.len().is_multiple_of(pairs) && b.len().is_multiple_of(pairs));
    let (rows, columns) = (a.len() / pairs, b.len() / pairs);
    assert!(rows * columns == c.len());
    for (m, a) in a.chunks_exact(pairs).enumerate() {
        for n in 0..columns {
            let (mut even, mut odd) = (0, 0);
            for (k, &a) in a.iter().enumerate() {
                let b = b[k * columns + n];
                even = dot_step(a << 16, b << 16, even);
                odd = dot_step(a & 0xffff_0000, b & 0xffff_0000, odd);
            }
            let c = &mut c[m * columns + n];
            *c = add_step(*c, add_step(even, odd));
        }
    }
}
