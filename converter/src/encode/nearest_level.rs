//! The nearest levels of int4 matrices, and the scales that they fit.
//!
//! A number over its scale is taken to a multiple of a half: the limits between levels are such multiples, so the
//! nearest level is that of the number itself. The loops are over arrays of 16-bit integers, without calls or branches,
//! for the vectors of any processor; sums of integers are exact in every order.

use crate::encode::sums::{LANES, sum};
use olmo_infer::internals::format::encodings::quantized::{Levels, N_LEVELS};

/// Adding and subtracting it rounds a number of small magnitude to the nearest integer, ties to even: 1.5 * 2^23. The
/// lower bits of the sum are those of the integer.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// Finds the nearest levels.
pub struct NearestLevel {
    levels: [i16; N_LEVELS],
    /// A number in halves above limit `j` is nearer to level `j + 1` than to level `j`.
    limits: [i16; N_LEVELS - 1],
    /// Level `j + 1` less level `j`.
    steps: [i16; N_LEVELS - 1],
}

/// What a scale makes of numbers, and the scale that the levels it leads to fit best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projection {
    /// Squared errors with the best scale, 16 times.
    pub error: f32,
    /// The best scale.
    pub scale: f32,
}

impl Projection {
    /// With the sums of the squares of errors in quarters of `scale`, of the products of errors and levels, and of the
    /// squares of levels.
    fn of([errors, products, squares]: [f32; 3], scale: f32) -> Projection {
        if squares == 0.0 {
            return Projection { error: f32::INFINITY, scale };
        }
        let error = (errors - products * products / squares) * (scale * scale);
        Projection { error, scale: scale * (1.0 + products / squares / 4.0) }
    }
}

impl NearestLevel {
    /// Of these levels.
    pub fn new(levels: &Levels) -> NearestLevel {
        let levels = levels.get().map(i16::from);
        let limits = std::array::from_fn(|j| levels[j] + levels[j + 1] - 1);
        NearestLevel { levels, limits, steps: std::array::from_fn(|j| levels[j + 1] - levels[j]) }
    }

    /// The codes of the levels nearest to numbers over a scale, and the levels.
    // Inlined into its callers the compiler takes the loops over arrays apart, which takes longer.
    #[inline(never)]
    pub fn encode<const N: usize>(&self, x: &[f32; N], scale: f32) -> ([u8; N], [i16; N]) {
        let halves = halves(x, scale);
        let mut codes = [0i16; N];
        for limit in self.limits {
            for (code, &halves) in codes.iter_mut().zip(&halves) {
                *code = code.wrapping_add(i16::from(halves > limit));
            }
        }
        (codes.map(|code| code as u8), self.nearest(&halves))
    }

    /// The levels nearest to numbers in halves.
    #[inline]
    fn nearest<const N: usize>(&self, halves: &[i16; N]) -> [i16; N] {
        let mut levels = [self.levels[0]; N];
        for (&limit, &step) in self.limits.iter().zip(&self.steps) {
            for (level, &halves) in levels.iter_mut().zip(halves) {
                let above = if halves > limit { step } else { 0 };
                *level = level.wrapping_add(above);
            }
        }
        levels
    }

    /// What a scale, which is not zero, makes of numbers.
    #[inline(never)]
    pub fn project<const N: usize>(&self, x: &[f32; N], scale: f32) -> Projection {
        let halves = halves(x, scale);
        let (mut errors, mut products, mut squares) = (0i32, 0i32, 0i32);
        for (&halves, level) in halves.iter().zip(self.nearest(&halves)) {
            let (error, level) = (i32::from(quarters(halves, level)), i32::from(level));
            errors = errors.wrapping_add(error.wrapping_mul(error));
            products = products.wrapping_add(error.wrapping_mul(level));
            squares = squares.wrapping_add(level.wrapping_mul(level));
        }
        Projection::of([errors as f32, products as f32, squares as f32], scale)
    }

    /// As [`NearestLevel::project`]; the square of an error is multiplied with its weight.
    #[inline(never)]
    pub fn project_weighted<const N: usize>(&self, x: &[f32; N], weights: &[f32; N], scale: f32) -> Projection {
        let halves = halves(x, scale);
        let levels = self.nearest(&halves);
        let (mut errors, mut products, mut squares) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        let of_lanes = halves.as_chunks::<LANES>().0.iter().zip(levels.as_chunks::<LANES>().0);
        for ((halves, levels), weights) in of_lanes.zip(weights.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                let error = f32::from(quarters(halves[lane], levels[lane]));
                let (level, weight) = (f32::from(levels[lane]), weights[lane]);
                errors[lane] += weight * (error * error);
                products[lane] += weight * (error * level);
                squares[lane] += weight * (level * level);
            }
        }
        Projection::of([errors, products, squares].map(sum), scale)
    }
}

/// The error of a level in quarters of the scale: the middle of the half in which the number is, less the level.
#[inline]
fn quarters(halves: i16, level: i16) -> i16 {
    halves.wrapping_mul(2).wrapping_add(1).wrapping_sub(level.wrapping_mul(4))
}

/// Numbers over a scale in halves: `i` is every number between `i / 2` and `(i + 1) / 2`.
#[inline]
fn halves<const N: usize>(x: &[f32; N], scale: f32) -> [i16; N] {
    let twice_inverse = 2.0 / scale;
    let mut out = [0; N];
    for (out, x) in out.iter_mut().zip(x) {
        let halves = x * twice_inverse - 0.5;
        let halves = if halves < 255.0 { halves } else { 255.0 };
        let halves = if halves > -255.0 { halves } else { -255.0 };
        *out = (halves + ROUNDER).to_bits() as i16;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::levels::LEVELS;

    #[test]
    fn projection_leads_to_a_scale_that_is_no_worse() {
        let nearest = NearestLevel::new(&LEVELS);
        let mut state = 1u32;
        for _ in 0..1000 {
            let x: [f32; 32] = std::array::from_fn(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            });
            for scale in [1.0 / 60.0, -1.0 / 64.0, 1.0 / 50.0] {
                let (_, levels) = nearest.encode(&x, scale);
                let error = |scale: f32| -> f32 {
                    x.iter().zip(levels).map(|(x, level)| (x - f32::from(level) * scale).powi(2)).sum()
                };
                let projection = nearest.project(&x, scale);
                assert!(error(projection.scale) <= 1.003 * error(scale), "{projection:?}");
                assert!((projection.error / 16.0 / error(projection.scale) - 1.0).abs() < 0.1, "{projection:?}");
            }
        }
    }

    #[test]
    fn weights_count_as_repetitions() {
        let nearest = NearestLevel::new(&LEVELS);
        let x: [f32; 16] = std::array::from_fn(|i| (i * i * 37 % 101) as f32 - 50.0);
        // The first number three times, in place of the last two.
        let mut repeated = x;
        repeated[14..].fill(x[0]);
        let weights = std::array::from_fn(|i| [3.0, 1.0, 0.0][usize::from(i > 0) + usize::from(i >= 14)]);
        for scale in [0.7, 1.0, -0.9] {
            assert_eq!(nearest.project_weighted(&x, &[1.0; 16], scale), nearest.project(&x, scale));
            assert_eq!(nearest.project_weighted(&x, &weights, scale), nearest.project(&repeated, scale));
        }
    }

    #[test]
    fn zeros_have_no_best_scale() {
        let levels = Levels::new(std::array::from_fn(|i| i as i8 - 8)).expect("ascending");
        let nearest = NearestLevel::new(&levels);
        assert_eq!(nearest.project(&[0.0; 16], 1.0).error, f32::INFINITY);
        assert_eq!(nearest.project_weighted(&[1.0; 16], &[0.0; 16], 1.0).error, f32::INFINITY);
    }
}
