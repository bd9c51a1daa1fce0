//! The scale of a group of numbers: the one of some candidates that has the smallest squared error.

use crate::encode::nearest::{Nearest, int8_squared_errors, rounded};
use crate::encode::nearest_level::NearestLevel;
use crate::encode::sums::{squared_errors, squares_and_largest, weighted_squared_errors, weighted_squares};
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization, Scales};

/// What the scale that makes an int8 of the largest number is multiplied with to get candidates: the largest number may
/// be cut a little, and which of the larger scales rounds best is chance.
const INT8_FACTORS: [f32; 5] = [1.0, 0.985, 1.015, 1.03, 1.045];
/// Where among the levels the largest number can be. Scales have both signs, because levels reach further on one side.
const INT4_STARTS: [f32; 6] = [-64.0, 56.5, -53.5, -61.0, -67.0, 53.5];
/// The largest int4 number over the largest scale: no start leads to a larger scale.
const INT4_LARGEST: f32 = 50.4;
/// Largest f16 number.
const LARGEST_F16: f32 = 65504.0;
/// Smallest f16 number that is not denormal: 2^-14.
const SMALLEST_NORMAL_F16: f32 = f32::from_bits(0x3880_0000);
/// Smallest f16 number above 0: 2^-24.
const SMALLEST_F16: f32 = f32::from_bits(0x3380_0000);

/// A group of numbers as it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Encoded<const N: usize> {
    /// The scale: 0 where zeros are the best.
    pub scale: f32,
    /// Codes of int4, or bytes of int8 elements; of a scale of 0 they are any.
    pub codes: [u8; N],
    /// Their numbers.
    pub numbers: [f32; N],
    /// Sum of the squares of the numbers.
    pub squares: f32,
    /// Sum of the squares of the errors.
    pub squared_errors: f32,
}

/// Encodes groups of matrices that are quantized alike.
pub struct ScaleSearch {
    nearest: Nearest,
    scales: Scales,
    /// The code where the scale is 0.
    zero: u8,
}

impl ScaleSearch {
    /// For matrices that are quantized like this; `zero` is the code where the scale is 0.
    pub fn new(quantization: &Quantization, zero: u8) -> ScaleSearch {
        ScaleSearch { nearest: Nearest::new(&quantization.elements), scales: quantization.scales, zero }
    }

    /// The factor of a row whose largest magnitude is `largest`: its largest numbers get the largest scales.
    pub fn factor(&self, largest: f32) -> f32 {
        let largest_number = match self.nearest {
            Nearest::Int8 => 127.0,
            Nearest::Int4(_) => INT4_LARGEST,
        };
        match self.scales {
            Scales::F16 => 1.0,
            _ if largest == 0.0 => 0.0,
            // Of smaller factors the inverse would be infinite.
            Scales::Row32 | Scales::Row16 => (largest / (127.0 * largest_number)).max(f32::MIN_POSITIVE),
        }
    }

    /// Encodes `x`, numbers over the factor of their row. The square of an error is multiplied with its weight.
    pub fn encode<const N: usize>(&self, x: &[f32; N], weights: Option<&[f32; N]>) -> Encoded<N> {
        let (squares, largest) = squares_and_largest(x);
        let zeros = Encoded { scale: 0.0, codes: [self.zero; N], numbers: [0.0; N], squares, squared_errors: squares };
        if largest == 0.0 {
            return zeros;
        }
        let scale = match &self.nearest {
            Nearest::Int8 => self.int8_scale(x, weights, largest),
            Nearest::Int4(nearest) => self.int4_scale(nearest, x, weights, largest),
        };
        if scale == 0.0 {
            return zeros;
        }
        let (codes, numbers) = self.nearest.encode(x, scale);
        let squared_errors = squared_errors(x, &numbers);
        let gains = match weights {
            None => squared_errors < squares,
            Some(weights) => weighted_squared_errors(x, &numbers, weights) < weighted_squares(x, weights),
        };
        if gains { Encoded { scale, codes, numbers, squares, squared_errors } } else { zeros }
    }

    fn int8_scale<const N: usize>(&self, x: &[f32; N], weights: Option<&[f32; N]>, largest: f32) -> f32 {
        let (mut least, mut best) = (f32::INFINITY, 0.0);
        for factor in INT8_FACTORS {
            let scale = self.storable(largest / 127.0 * factor);
            if scale != 0.0 && scale != best {
                let error = match weights {
                    None => int8_squared_errors(x, scale),
                    Some(weights) => weighted_squared_errors(x, &self.nearest.encode(x, scale).1, weights),
                };
                if error < least {
                    (least, best) = (error, scale);
                }
            }
        }
        best
    }

    fn int4_scale<const N: usize>(
        &self,
        nearest: &NearestLevel,
        x: &[f32; N],
        weights: Option<&[f32; N]>,
        largest: f32,
    ) -> f32 {
        let (mut least, mut best) = (f32::INFINITY, 0.0);
        let extreme = x.iter().copied().find(|x| x.abs() == largest).unwrap_or(largest);
        for start in INT4_STARTS {
            let projection = match weights {
                None => nearest.project(x, extreme / start),
                Some(weights) => nearest.project_weighted(x, weights, extreme / start),
            };
            if projection.error < least {
                (least, best) = (projection.error, projection.scale);
            }
        }
        self.storable(best)
    }

    /// The number nearest to `scale` that can be stored.
    fn storable(&self, scale: f32) -> f32 {
        match self.scales {
            Scales::F16 => nearest_f16(scale),
            Scales::Row32 | Scales::Row16 => {
                let scale = if scale < 127.0 { scale } else { 127.0 };
                let nearest = rounded(if scale > -127.0 { scale } else { -127.0 });
                // A small scale is better than none, most of the time.
                if nearest == 0.0 { 1f32.copysign(scale) } else { nearest }
            }
        }
    }
}

/// The largest magnitude of numbers that can be stored.
pub fn limit(quantization: &Quantization) -> f32 {
    match (quantization.scales, quantization.elements) {
        (Scales::F16, Elements::Int8) => LARGEST_F16 * 127.0,
        (Scales::F16, Elements::Int4(_)) => LARGEST_F16 * INT4_LARGEST,
        // Products that are rounded up must not become infinite.
        (Scales::Row32 | Scales::Row16, _) => f32::MAX / 4.0,
    }
}

/// The finite f16 number nearest to `x`, ties to even.
fn nearest_f16(x: f32) -> f32 {
    let magnitude = x.abs().min(LARGEST_F16);
    let nearest = if magnitude < SMALLEST_NORMAL_F16 {
        rounded(magnitude / SMALLEST_F16) * SMALLEST_F16
    } else {
        // A carry into the exponent is right, and the limit is an f16 number.
        let bits = magnitude.to_bits();
        f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
    };
    nearest.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::element::{f16_to_f32, f32_to_f16};

    #[test]
    fn nearest_f16_is_nearest() {
        for half in 0..0x7bffu16 {
            let (this, next) = (f32::from_bits(f16_to_f32(half)), f32::from_bits(f16_to_f32(half + 1)));
            assert_eq!(nearest_f16(this), this);
            let middle = (this + next) / 2.0;
            let even = if half % 2 == 0 { this } else { next };
            assert_eq!((nearest_f16(middle), nearest_f16(-middle)), (even, -even));
            assert_eq!(nearest_f16(f32::from_bits(middle.to_bits() + 1)), next);
            assert_eq!(nearest_f16(f32::from_bits(middle.to_bits() - 1)), this);
        }
        assert_eq!(nearest_f16(f32::MAX), LARGEST_F16);
        assert_eq!(f32_to_f16(LARGEST_F16.to_bits()), Some(0x7bff));
    }
}
