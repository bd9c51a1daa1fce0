//! The nearest integers of an encoding.
//!
//! The loops are over arrays and without calls or branches, so that the compiler turns them into vector instructions;
//! sums have their own lanes, and so an order that is the same on every machine.

use olmo_infer::internals::format::encodings::quantized::{ELEMENT_OFFSET, Elements, Levels};

/// Adding and subtracting it rounds a number of small magnitude to the nearest integer, ties to even: 1.5 * 2^23. The
/// lower bits of the sum are those of the integer.
const ROUNDER: f32 = 12_582_912.0;
/// Entries of a table: positions of numbers between -128 and 128 in steps of a half.
const TABLE: usize = 512;
/// Partial sums of a loop.
const LANES: usize = 8;

/// Finds the nearest integers of an encoding.
pub enum Nearest {
    /// Of those from -127 to 127.
    Int8,
    /// Of the levels, by a table.
    Int4(Box<LevelTable>),
}

/// What is nearest to numbers in steps of a half: all limits between two levels are among them.
pub struct LevelTable {
    levels: [f32; TABLE],
    codes: [u8; TABLE],
    zero: u8,
    largest: f32,
}

/// Sums that choose a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Squares of the errors.
    pub error: f32,
    /// The scale that gives the same integers the smallest error.
    pub best_scale: f32,
}

impl LevelTable {
    fn new(levels: &Levels) -> LevelTable {
        let (zero, largest) = (zero_code(levels), smaller_end(levels));
        let mut table = LevelTable { levels: [0.0; TABLE], codes: [0; TABLE], zero, largest };
        for at in 0..TABLE {
            // The entry of `i` holds what is nearest to the numbers between i / 2 and (i + 1) / 2.
            let i = at as i32 - if at < TABLE / 2 { 0 } else { TABLE as i32 };
            let distance = |code: &usize| (4 * i32::from(levels.get()[*code]) - (2 * i + 1)).abs();
            let code = (0..levels.get().len()).min_by_key(distance).expect("there are levels");
            (table.levels[at], table.codes[at]) = (levels.get()[code].into(), code as u8);
        }
        table
    }

    /// The entries of numbers, whose scale is the inverse of half of `twice_inverse`.
    fn entries<const N: usize>(x: &[f32; N], twice_inverse: f32) -> [u32; N] {
        let mut entries = [0; N];
        for (entry, x) in entries.iter_mut().zip(x) {
            let halves = within(x * twice_inverse, 255.0);
            *entry = (halves - 0.5 + ROUNDER).to_bits() & (TABLE as u32 - 1);
        }
        entries
    }
}

/// The magnitude that the levels reach on both sides.
fn smaller_end(levels: &Levels) -> f32 {
    let levels = levels.get();
    f32::from(levels[0]).abs().min(f32::from(levels[levels.len() - 1]).abs())
}

/// `x` with a magnitude of at most `limit`.
fn within(x: f32, limit: f32) -> f32 {
    let x = if x < limit { x } else { limit };
    if x > -limit { x } else { -limit }
}

/// The integer nearest to a number of small magnitude, ties to even.
pub fn rounded(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

fn sum(lanes: [f32; LANES]) -> f32 {
    let halves: [f32; LANES / 2] = std::array::from_fn(|i| lanes[i] + lanes[i + LANES / 2]);
    (halves[0] + halves[2]) + (halves[1] + halves[3])
}

/// The sum of the squares of numbers, and the largest magnitude.
pub fn squares_and_largest<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut squares, mut largest) = ([0f32; LANES], [0f32; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            squares[lane] += x[lane] * x[lane];
            let magnitude = x[lane].abs();
            largest[lane] = if magnitude > largest[lane] { magnitude } else { largest[lane] };
        }
    }
    (sum(squares), largest.into_iter().fold(0.0, f32::max))
}

impl Nearest {
    /// For matrices of these elements.
    pub fn new(elements: &Elements) -> Nearest {
        match elements {
            Elements::Int8 => Nearest::Int8,
            Elements::Int4(levels) => Nearest::Int4(Box::new(LevelTable::new(levels))),
        }
    }

    /// The largest magnitude that the integers reach with either sign.
    pub fn largest(&self) -> f32 {
        match self {
            Nearest::Int8 => 127.0,
            Nearest::Int4(table) => table.largest,
        }
    }

    /// What a scale, which is not zero, makes of numbers.
    pub fn fit<const N: usize>(&self, x: &[f32; N], scale: f32) -> Fit {
        let integers = self.integers(x, scale);
        let mut sums = [[0f32; LANES]; 3];
        for (x, q) in x.as_chunks::<LANES>().0.iter().zip(integers.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                let error = x[lane] - q[lane] * scale;
                sums[0][lane] += error * error;
                sums[1][lane] += x[lane] * q[lane];
                sums[2][lane] += q[lane] * q[lane];
            }
        }
        let [error, products, squares] = sums.map(sum);
        Fit { error, best_scale: if squares > 0.0 { products / squares } else { 0.0 } }
    }

    /// The integers, with this scale, which is not zero.
    pub fn integers<const N: usize>(&self, x: &[f32; N], scale: f32) -> [f32; N] {
        let mut integers = [0.0; N];
        match self {
            Nearest::Int8 => {
                let inverse = 1.0 / scale;
                for (integer, x) in integers.iter_mut().zip(x) {
                    *integer = rounded(within(x * inverse, 127.0));
                }
            }
            Nearest::Int4(table) => {
                for (integer, at) in integers.iter_mut().zip(LevelTable::entries(x, 2.0 / scale)) {
                    *integer = table.levels[at as usize % TABLE];
                }
            }
        }
        integers
    }

    /// Codes of int4, or bytes of int8 elements, and the numbers that they stand for with this scale.
    pub fn encode<const N: usize>(&self, x: &[f32; N], scale: f32) -> ([u8; N], [f32; N]) {
        if scale == 0.0 {
            return ([self.zero(); N], [0.0; N]);
        }
        let integers = self.integers(x, scale);
        let codes = match self {
            // Exact: they are small.
            Nearest::Int8 => integers.map(|integer| (integer as i32 + i32::from(ELEMENT_OFFSET)) as u8),
            Nearest::Int4(table) => LevelTable::entries(x, 2.0 / scale).map(|at| table.codes[at as usize % TABLE]),
        };
        (codes, integers.map(|integer| integer * scale))
    }

    /// What stands for zero with any scale, as far as there is such a thing.
    fn zero(&self) -> u8 {
        match self {
            Nearest::Int8 => ELEMENT_OFFSET,
            Nearest::Int4(table) => table.zero,
        }
    }
}

/// The code of zero, or of the first level where no level is zero.
pub fn zero_code(levels: &Levels) -> u8 {
    levels.get().iter().position(|&level| level == 0).unwrap_or_default() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::levels::LEVELS;

    /// Numbers around all limits of `n` integers, and beyond them.
    fn numbers() -> Vec<[f32; 16]> {
        (-1400..1400).map(|i| std::array::from_fn(|j| (i as f32 + j as f32 / 16.0) / 10.0)).collect()
    }

    #[test]
    fn integers_are_the_nearest_ones() {
        let without_zero = Levels::new(std::array::from_fn(|i| (15 * i as i32 - 117) as i8)).expect("ascending");
        let of_levels = |levels: &Levels| levels.get().map(f32::from).to_vec();
        let all = (-127..=127).map(|i| i as f32).collect();
        for (elements, all) in [
            (Elements::Int8, all),
            (Elements::Int4(LEVELS), of_levels(&LEVELS)),
            (Elements::Int4(without_zero), of_levels(&without_zero)),
        ] {
            let nearest = Nearest::new(&elements);
            for (x, scale) in numbers().iter().flat_map(|x| [1.0, -0.5, 3.0].map(|scale| (x, scale))) {
                let integers = nearest.integers(x, scale);
                let (codes, numbers) = nearest.encode(x, scale);
                assert_eq!(numbers, integers.map(|integer| integer * scale));
                for ((x, integer), code) in x.iter().zip(integers).zip(codes) {
                    let distance = |integer: f32| (x / scale - integer).abs();
                    let least = all.iter().map(|&other| distance(other)).fold(f32::INFINITY, f32::min);
                    assert!(distance(integer) <= least + 1e-4, "{x} / {scale}: {integer}");
                    let of_code = match elements {
                        Elements::Int8 => f32::from(code) - 128.0,
                        Elements::Int4(levels) => levels.get()[usize::from(code)].into(),
                    };
                    assert_eq!(of_code, integer);
                }
                let fit = nearest.fit(x, scale);
                let error: f64 = x.iter().zip(integers).map(|(x, q)| f64::from(x - q * scale).powi(2)).sum();
                assert!((f64::from(fit.error) - error).abs() <= 1e-5 * error, "{fit:?} {error}");
                let with_best = x.iter().zip(integers).map(|(x, q)| f64::from(x - q * fit.best_scale).powi(2));
                assert!(with_best.sum::<f64>() <= error * (1.0 + 1e-5));
            }
        }
    }

    #[test]
    fn zero_is_a_zero_where_there_is_one() {
        let with_zero = Levels::new(std::array::from_fn(|i| 2 * i as i8 - 14)).expect("ascending");
        assert_eq!((zero_code(&LEVELS), zero_code(&with_zero)), (0, 7));
        for (elements, zero) in [(Elements::Int8, 128), (Elements::Int4(LEVELS), 0), (Elements::Int4(with_zero), 7)] {
            assert_eq!(Nearest::new(&elements).encode(&[1.0; 16], 0.0), ([zero; 16], [0.0; 16]));
        }
    }
}
