//! The nearest integers of an encoding.
//!
//! The loops are over arrays and without calls or branches, so that the compiler turns them into vector instructions.

use crate::encode::nearest_level::{NearestLevel, ROUNDER};
use crate::encode::sums::{LANES, sum};
use olmo_infer::internals::format::encodings::quantized::{ELEMENT_OFFSET, Elements};

/// Finds the nearest integers of an encoding.
pub enum Nearest {
    /// Of those from -127 to 127.
    Int8,
    /// Of the levels.
    Int4(NearestLevel),
}

/// The integer nearest to a number of small magnitude, ties to even.
#[inline]
pub fn rounded(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

impl Nearest {
    /// For matrices of these elements.
    pub fn new(elements: &Elements) -> Nearest {
        match elements {
            Elements::Int8 => Nearest::Int8,
            Elements::Int4(levels) => Nearest::Int4(NearestLevel::new(levels)),
        }
    }

    /// Codes of int4, or bytes of int8 elements, and the numbers that they give with this scale, which is not zero.
    pub fn encode<const N: usize>(&self, x: &[f32; N], scale: f32) -> ([u8; N], [f32; N]) {
        match self {
            Nearest::Int8 => {
                let mut numbers = int8(x, scale);
                let mut codes = [0; N];
                for (code, number) in codes.iter_mut().zip(&mut numbers) {
                    *code = (*number + ROUNDER).to_bits() as u8 ^ ELEMENT_OFFSET;
                    *number *= scale;
                }
                (codes, numbers)
            }
            Nearest::Int4(nearest) => {
                let (codes, levels) = nearest.encode(x, scale);
                let mut numbers = [0.0; N];
                numbers.iter_mut().zip(levels).for_each(|(number, level)| *number = f32::from(level) * scale);
                (codes, numbers)
            }
        }
    }
}

/// The nearest int8 numbers to numbers over a scale, which is not zero.
#[inline]
fn int8<const N: usize>(x: &[f32; N], scale: f32) -> [f32; N] {
    let inverse = 1.0 / scale;
    let mut integers = [0.0; N];
    for (integer, x) in integers.iter_mut().zip(x) {
        *integer = rounded_int8(x * inverse);
    }
    integers
}

/// The int8 number nearest to `x`.
#[inline]
fn rounded_int8(x: f32) -> f32 {
    let x = if x < 127.0 { x } else { 127.0 };
    rounded(if x > -127.0 { x } else { -127.0 })
}

/// Squares of the errors of int8 numbers with a scale, which is not zero.
// Inlined into its callers the compiler takes the loops over arrays apart, which takes longer.
#[inline(never)]
pub fn int8_squared_errors<const N: usize>(x: &[f32; N], scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    let mut lanes = [0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let error = x[lane] - rounded_int8(x[lane] * inverse) * scale;
            lanes[lane] += error * error;
        }
    }
    sum(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::levels::LEVELS;
    use crate::encode::sums::squared_errors;
    use olmo_infer::internals::format::encodings::quantized::Levels;

    /// Numbers around all limits between integers, and beyond them.
    fn numbers() -> Vec<[f32; 16]> {
        (-1400..1400).map(|i| std::array::from_fn(|j| (i as f32 + j as f32 / 16.0) / 10.0)).collect()
    }

    #[test]
    fn integers_are_the_nearest_ones() {
        let with_zero = Levels::new(std::array::from_fn(|i| (15 * i as i32 - 120) as i8)).expect("ascending");
        let of_levels = |levels: &Levels| levels.get().map(f32::from).to_vec();
        let all = (-127..=127).map(|i| i as f32).collect();
        for (elements, all) in [
            (Elements::Int8, all),
            (Elements::Int4(LEVELS), of_levels(&LEVELS)),
            (Elements::Int4(with_zero), of_levels(&with_zero)),
        ] {
            let nearest = Nearest::new(&elements);
            for (x, scale) in numbers().iter().flat_map(|x| [1.0, -0.5, 3.0].map(|scale| (x, scale))) {
                let (codes, numbers) = nearest.encode(x, scale);
                for ((x, number), code) in x.iter().zip(numbers).zip(codes) {
                    let integer = match elements {
                        Elements::Int8 => f32::from(code) - 128.0,
                        Elements::Int4(levels) => levels.get()[usize::from(code)].into(),
                    };
                    assert_eq!(number, integer * scale);
                    let distance = |integer: f32| (x / scale - integer).abs();
                    let least = all.iter().map(|&other| distance(other)).fold(f32::INFINITY, f32::min);
                    assert!(distance(integer) <= least + 1e-4, "{x} / {scale}: {integer}");
                }
                let error: f64 = x.iter().zip(numbers).map(|(x, number)| f64::from(x - number).powi(2)).sum();
                assert!((f64::from(squared_errors(x, &numbers)) - error).abs() <= 1e-5 * error);
                if elements == Elements::Int8 {
                    assert_eq!(int8_squared_errors(x, scale), squared_errors(x, &numbers));
                }
            }
        }
    }

    #[test]
    fn ties_are_rounded_to_even() {
        assert_eq!([2.5, 3.5, -0.5, 126.51].map(rounded), [2.0, 4.0, -0.0, 127.0]);
    }
}
