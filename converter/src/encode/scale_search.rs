//! The scale of a group of numbers: of some candidates the one with the smallest squared error.

use crate::encode::nearest::{Nearest, rounded, squares_and_largest};
use olmo_infer::internals::format::encodings::quantized::{Quantization, Scales};

/// What the scale that reaches the largest number exactly is multiplied with to get candidates, for int8. Larger scales
/// are worth a look: which of them rounds best is chance.
const INT8_FACTORS: [f32; 5] = [1.0, 0.985, 1.015, 1.03, 1.045];
/// The same for int4. Each is tried with both signs, because levels reach further on one side.
const INT4_FACTORS: [f32; 7] = [1.0, 0.76, 0.84, 0.92, 1.08, 1.16, 1.24];
/// Largest f16 number.
const LARGEST_F16: f32 = 65504.0;
/// Smallest f16 number that is not denormal: 2^-14.
const SMALLEST_NORMAL_F16: f32 = f32::from_bits(0x3880_0000);
/// Smallest f16 number above 0: 2^-24.
const SMALLEST_F16: f32 = f32::from_bits(0x3380_0000);

/// The best scale so far.
pub struct Best {
    /// Squares of the numbers.
    pub squares: f32,
    /// Squares of its errors.
    pub error: f32,
    /// The scale.
    pub scale: f32,
    /// What would be best for the same integers.
    refined: f32,
}

/// Finds scales of matrices that are quantized alike.
pub struct ScaleSearch {
    /// The integers that the scales are for.
    pub nearest: Nearest,
    scales: Scales,
}

impl ScaleSearch {
    /// For matrices that are quantized like this.
    pub fn new(quantization: &Quantization) -> ScaleSearch {
        ScaleSearch { nearest: Nearest::new(&quantization.elements), scales: quantization.scales }
    }

    /// The largest magnitude of numbers that can be stored.
    pub fn limit(&self) -> f32 {
        match self.scales {
            Scales::F16 => LARGEST_F16 * self.nearest.largest(),
            // Products that are rounded up must not become infinite.
            Scales::Row32 | Scales::Row16 => f32::MAX / 4.0,
        }
    }

    /// The factor of a row whose largest magnitude is `largest`: its largest numbers get the largest scales.
    pub fn factor(&self, largest: f32) -> f32 {
        match self.scales {
            Scales::F16 => 1.0,
            _ if largest == 0.0 => 0.0,
            // Of smaller factors the inverse would be infinite.
            Scales::Row32 | Scales::Row16 => (largest / (127.0 * self.nearest.largest())).max(f32::MIN_POSITIVE),
        }
    }

    /// The scale of `x`, numbers over the factor of their row; 0 where nothing is better than zeros.
    pub fn best<const N: usize>(&self, x: &[f32; N]) -> Best {
        let (squares, largest) = squares_and_largest(x);
        let full = largest / self.nearest.largest();
        let mut best = Best { squares, error: squares, scale: 0.0, refined: 0.0 };
        match self.nearest {
            Nearest::Int8 => INT8_FACTORS.iter().for_each(|factor| self.attempt(x, full * factor, &mut best)),
            Nearest::Int4(_) => {
                for factor in INT4_FACTORS {
                    self.attempt(x, full * factor, &mut best);
                    self.attempt(x, -full * factor, &mut best);
                }
                self.attempt(x, best.refined, &mut best);
            }
        }
        best
    }

    /// Keeps the storable scale next to `scale` if it is better.
    fn attempt<const N: usize>(&self, x: &[f32; N], scale: f32, best: &mut Best) {
        let scale = self.storable(scale);
        if scale != 0.0 && scale != best.scale {
            let fit = self.nearest.fit(x, scale);
            if fit.error < best.error {
                *best = Best { error: fit.error, scale, refined: fit.best_scale, ..*best };
            }
        }
    }

    /// The number nearest to `scale` that can be stored.
    fn storable(&self, scale: f32) -> f32 {
        match self.scales {
            Scales::F16 => nearest_f16(scale),
            Scales::Row32 | Scales::Row16 => rounded(scale.clamp(-127.0, 127.0)),
        }
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
