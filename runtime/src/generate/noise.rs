//! Random numbers without a state: Gumbel noise that is a function of the seed, the position and the token.
//!
//! The token with the largest sum of its logit and such noise is a sample of the softmax of the logits (Gumbel 1954).
//! No noise depends on what was chosen before, so a guess that is sampled from nearly the same logits is nearly always
//! the same token.

use std::f64::consts::LN_2;

/// The most by which the noise of two tokens differs: no logit that is further below another one can win.
pub(super) const MOST_DIFFERENCE: f64 = 41.0;

/// What the counters of SplitMix64 are multiples of (Steele, Lea, Flood 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The noise of all tokens at one position.
#[derive(Clone, Copy)]
pub(super) struct Noise {
    key: u64,
}

impl Noise {
    /// That of the token which becomes the one at `position` of its sequence.
    pub fn new(seed: u64, position: usize) -> Noise {
        let of_seed = mixed(seed.wrapping_add(GAMMA));
        Noise { key: mixed(of_seed.wrapping_add((position as u64).wrapping_mul(GAMMA))) }
    }

    /// The number of a token: of [`Uniform`].
    pub fn of(self, token: u32) -> Uniform {
        let bits = mixed(self.key.wrapping_add((u64::from(token) + 1).wrapping_mul(GAMMA)));
        // Odd: neither 0 nor 1.
        Uniform { rest: bits >> 11 | 1 }
    }
}

/// A number u between 0 and 1.
#[derive(Clone, Copy)]
pub(super) struct Uniform {
    /// `(1 - u) * 2^53`, an odd number.
    rest: u64,
}

impl Uniform {
    /// `-ln(-ln(u))`
    pub fn gumbel(self) -> f64 {
        let u = ((1 << 53) - self.rest) as f64 / (1u64 << 53) as f64;
        -libm::log(-libm::log(u))
    }

    /// At least [`Uniform::gumbel`], without a logarithm: it is at most `-ln(1 - u)`.
    pub fn gumbel_bound(self) -> f64 {
        // A little more, for the rounding of the logarithms.
        f64::from(self.rest.leading_zeros() - 10) * LN_2 + 1e-9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_below_its_bound_and_within_the_stated_range() {
        let ends = [1, (1 << 53) - 1].map(|rest| Uniform { rest });
        assert!(ends[0].gumbel() - ends[1].gumbel() < MOST_DIFFERENCE);
        assert!((ends[0].gumbel() - 36.7368).abs() < 1e-4 && (ends[1].gumbel() + 3.6038).abs() < 1e-4);
        let noise = Noise::new(1, 2);
        for uniform in (0..100_000).map(|token| noise.of(token)).chain(ends) {
            let (gumbel, bound) = (uniform.gumbel(), uniform.gumbel_bound());
            assert!(gumbel <= bound, "{gumbel} {bound}");
        }
    }

    #[test]
    fn noise_has_the_moments_of_its_distribution() {
        // Over tokens, over positions and over seeds.
        let by: [fn(u64) -> Uniform; 3] =
            [|i| Noise::new(7, 7).of(i as u32), |i| Noise::new(7, i as usize).of(7), |i| Noise::new(i, 7).of(7)];
        for of in by {
            const N: u64 = 100_000;
            let values: Vec<f64> = (0..N).map(|i| of(i).gumbel()).collect();
            let mean = values.iter().sum::<f64>() / N as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64;
            let neighbours = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>() / N as f64;
            // Euler's constant and pi^2 / 6; five standard deviations.
            assert!((mean - 0.577_215_66).abs() < 0.021, "{mean}");
            assert!((variance - 1.644_934).abs() < 0.06, "{variance}");
            assert!(neighbours.abs() < 0.03, "{neighbours}");
        }
    }
}
