//! Sums over short arrays, in an order that is the same on every machine.
//!
//! The loops have their own lanes, without calls or branches, so that the compiler turns them into vector instructions.

/// Partial sums of a loop.
pub(super) const LANES: usize = 8;

/// The sum of partial sums.
pub(super) fn sum(lanes: [f32; LANES]) -> f32 {
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

/// The sum of the squares of differences.
pub fn squared_errors<const N: usize>(x: &[f32; N], numbers: &[f32; N]) -> f32 {
    let mut lanes = [0f32; LANES];
    for (x, numbers) in x.as_chunks::<LANES>().0.iter().zip(numbers.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let error = x[lane] - numbers[lane];
            lanes[lane] += error * error;
        }
    }
    sum(lanes)
}

/// The sum of `weights[i] * x[i]^2`.
pub fn weighted_squares<const N: usize>(x: &[f32; N], weights: &[f32; N]) -> f32 {
    let mut lanes = [0f32; LANES];
    for (x, weights) in x.as_chunks::<LANES>().0.iter().zip(weights.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            lanes[lane] += weights[lane] * (x[lane] * x[lane]);
        }
    }
    sum(lanes)
}

/// The sum of `weights[i] * (x[i] - numbers[i])^2`.
pub fn weighted_squared_errors<const N: usize>(x: &[f32; N], numbers: &[f32; N], weights: &[f32; N]) -> f32 {
    weighted_squares(&std::array::from_fn(|i| x[i] - numbers[i]), weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_all_numbers() {
        let mut x = [0.5f32; 16];
        x[11] = -3.0;
        assert_eq!(squares_and_largest(&x), (12.75, 3.0));
        let mut weights = [2.0; 16];
        (weights[11], weights[0]) = (0.25, 0.0);
        assert_eq!(weighted_squares(&x, &weights), 14.0 * 0.5 + 2.25);
        assert_eq!(squared_errors(&x, &[1.0; 16]), 15.0 * 0.25 + 16.0);
        assert_eq!(weighted_squared_errors(&x, &[1.0; 16], &weights), 14.0 * 0.5 + 4.0);
    }
}
