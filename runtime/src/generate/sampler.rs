//! The choice of the next token: greedy or sampled.
//!
//! The steps and their order are those of `generation/logits_process.py` of transformers: repetition penalty,
//! temperature, top-k, top-p, min-p. Everything is computed in one order in f64, so that the same seed gives the same
//! tokens on every machine and for every number of threads.

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::generate::top_k::{top_k_into, top_k_room};
use crate::os::memory;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    random: Pcg64,
    /// Tokens that have occurred; empty without a repetition penalty.
    seen: Vec<bool>,
    /// Tokens and their weights.
    candidates: Vec<(u32, f64)>,
    logits: Vec<f32>,
    top: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab_size` tokens. It allocates nothing after this.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(sampling: Sampling, vocab_size: usize) -> Result<Sampler, Error> {
        const WHAT: &str = "the choice of tokens";
        let n_seen = if sampling.repetition_penalty == 1.0 { 0 } else { vocab_size };
        let mut seen = memory::room_for(n_seen, WHAT)?;
        seen.resize(n_seen, false);
        let n_candidates = if sampling.temperature == 0.0 { 0 } else { sampling.top_k.unwrap_or(vocab_size) };
        Ok(Sampler {
            sampling,
            random: Pcg64::seed_from_u64(sampling.seed),
            seen,
            candidates: memory::room_for(n_candidates.min(vocab_size), WHAT)?,
            logits: memory::room_for(vocab_size, WHAT)?,
            top: memory::room_for(top_k_room(sampling.top_k.unwrap_or(1), vocab_size), WHAT)?,
        })
    }

    /// Records that a token has occurred, in the prompt or after it.
    pub fn observe(&mut self, token: u32) {
        if let Some(seen) = self.seen.get_mut(token as usize) {
            *seen = true;
        }
    }

    /// The next token for these logits, `[vocab_size]`, which must be finite.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k: most, top_p, min_p, repetition_penalty, .. } = self.sampling;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for (logit, _) in self.logits.iter_mut().zip(&self.seen).filter(|(_, seen)| **seen) {
            let penalty = repetition_penalty as f32;
            let penalized = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            // A small or large penalty must not make a logit infinite.
            *logit = penalized.clamp(f32::MIN, f32::MAX);
        }
        if temperature == 0.0 {
            top_k_into(&self.logits, 1, &mut self.top);
            return self.top[0].0;
        }
        let largest = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // At most 1, and exactly that for the most likely token.
        let weight = |logit: f32| libm::exp((f64::from(logit) - f64::from(largest)) / temperature);
        self.candidates.clear();
        match most {
            Some(most) => {
                top_k_into(&self.logits, most, &mut self.top);
                self.candidates.extend(self.top.iter().map(|&(token, logit)| (token, weight(logit))));
            }
            None => {
                // Less than 2^-53 of the most likely one: no random number of 53 bits would ever choose it.
                let least = f64::from(largest) - 53.0 * std::f64::consts::LN_2 * temperature;
                let likely = (0..).zip(&self.logits).filter(|(_, logit)| f64::from(**logit) >= least);
                self.candidates.extend(likely.map(|(token, &logit)| (token, weight(logit))));
            }
        }
        if top_p < 1.0 {
            keep_likely(&mut self.candidates, top_p);
        }
        self.candidates.retain(|&(_, weight)| weight >= min_p);
        self.candidates.sort_unstable_by_key(|&(token, _)| token);
        let total: f64 = self.candidates.iter().map(|(_, weight)| weight).sum();
        // 53 random bits: a number in [0, 1).
        let mut left = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        for &(token, weight) in &self.candidates {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        // Rounding can leave a small rest: the last token with a positive weight is chosen.
        let last = self.candidates.iter().rev().find(|(_, weight)| *weight > 0.0);
        last.expect("the most likely token stays and weighs 1").0
    }
}

/// Keeps the fewest most likely tokens whose probabilities sum to `top_p`; ties keep the lower ids.
fn keep_likely(candidates: &mut Vec<(u32, f64)>, top_p: f64) {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    // The tokens that weigh less than this have less than 1 - top_p together, so they need not be sorted.
    let bound = (1.0 - top_p) * total / candidates.len() as f64;
    candidates.retain(|&(_, weight)| weight >= bound);
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut sum = 0.0;
    let enough = candidates.iter().position(|(_, weight)| {
        sum += weight;
        sum >= top_p * total
    });
    candidates.truncate(enough.map_or(candidates.len(), |last| last + 1).max(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: Sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::GREEDY };

    /// Counts of four tokens in 10,000 samples; their probabilities are 0.3, 0.5, 0.05 and 0.15.
    fn counts(sampling: Sampling) -> [usize; 4] {
        let logits = [0.3f32, 0.5, 0.05, 0.15].map(|p| p.ln() + 3.0);
        let mut sampler = Sampler::new(sampling, 4).expect("memory");
        let mut counts = [0; 4];
        (0..10_000).for_each(|_| counts[sampler.choose(&logits) as usize] += 1);
        counts
    }

    #[track_caller]
    fn assert_near(counts: [usize; 4], expected: [f64; 4]) {
        for (count, expected) in counts.into_iter().zip(expected) {
            // Five standard deviations of a count in 10,000 samples are at most 250.
            assert!((count as f64 - 10_000.0 * expected).abs() < 250.0, "{counts:?}");
            assert!(expected > 0.0 || count == 0, "{counts:?}");
        }
    }

    #[test]
    fn tokens_are_sampled_with_their_probabilities() {
        assert_near(counts(HOT), [0.3, 0.5, 0.05, 0.15]);
        let squares = [0.09, 0.25, 0.0025, 0.0225].map(|square| square / 0.365);
        assert_near(counts(Sampling { temperature: 0.5, ..HOT }), squares);
        assert_near(counts(Sampling { top_k: Some(2), ..HOT }), [0.375, 0.625, 0.0, 0.0]);
        assert_near(counts(Sampling { top_k: Some(9), ..HOT }), [0.3, 0.5, 0.05, 0.15]);
        // The third is needed to reach 0.81.
        assert_near(counts(Sampling { top_p: 0.81, ..HOT }), [0.3 / 0.95, 0.5 / 0.95, 0.0, 0.15 / 0.95]);
        assert_near(counts(Sampling { top_p: 0.79, ..HOT }), [0.375, 0.625, 0.0, 0.0]);
        assert_near(counts(Sampling { top_p: 0.0, ..HOT }), [0.0, 1.0, 0.0, 0.0]);
        assert_near(counts(Sampling { min_p: 0.31, ..HOT }), [0.375, 0.625, 0.0, 0.0]);
        assert_near(counts(Sampling { min_p: 1.0, ..HOT }), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(counts(Sampling { temperature: 0.0, ..HOT }), [0, 10_000, 0, 0]);
    }

    #[test]
    fn same_seed_gives_same_tokens_and_another_seed_others() {
        let sample = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..HOT }, 100).expect("memory");
            let logits: Vec<f32> = (0..100u16).map(|i| f32::from(i % 7)).collect();
            (0..50).map(|_| sampler.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }

    #[test]
    fn rejects_values_out_of_range() {
        assert!(HOT.check().is_ok() && Sampling::GREEDY.check().is_ok());
        let bad = [
            Sampling { top_k: Some(0), ..HOT },
            Sampling { temperature: -1.0, ..HOT },
            Sampling { temperature: f64::NAN, ..HOT },
            Sampling { top_p: 1.5, ..HOT },
            Sampling { min_p: 1.5, ..HOT },
            Sampling { repetition_penalty: 0.0, ..HOT },
        ];
        assert!(bad.iter().all(|sampling| sampling.check().is_err()));
        let error = bad[3].check().expect_err("more than all").to_string();
        assert_eq!(error, "top_p is 1.5, expected a number from 0 to 1");
    }

    #[test]
    fn penalty_makes_seen_tokens_less_likely() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(sampling, 4).expect("memory");
        assert_eq!(sampler.choose(&[1.0, 3.0, 2.0, -1.0]), 1);
        sampler.observe(1);
        assert_eq!(sampler.choose(&[1.0, 3.0, 2.0, -1.0]), 2);
        [0, 2, 3].into_iter().for_each(|token| sampler.observe(token));
        assert_eq!(sampler.choose(&[-1.0, -1.5, -4.0, -1.1]), 0);
        let hot = Sampling { temperature: 1.0, repetition_penalty: 1e9, ..sampling };
        let mut sampler = Sampler::new(hot, 2).expect("memory");
        sampler.observe(1);
        assert!((0..100).filter(|_| sampler.choose(&[0.0, 30.0]) == 1).count() > 20);
    }

    #[test]
    fn choose_handles_extreme_logits_penalties_and_temperatures() {
        let sampling = Sampling { temperature: 1e-6, top_p: 0.9, ..HOT };
        assert_eq!(Sampler::new(sampling, 3).expect("memory").choose(&[-3e38, 3e38, 2.9e38]), 1);
        for repetition_penalty in [1e-3, 1e3] {
            let mut sampler = Sampler::new(Sampling { repetition_penalty, ..HOT }, 3).expect("memory");
            (0..3).for_each(|token| sampler.observe(token));
            assert!(sampler.choose(&[-3e38, 3e38, 2.9e38]) > 0);
        }
        let sampling = Sampling { temperature: 1e9, ..HOT };
        assert!(Sampler::new(sampling, 3).expect("memory").choose(&[-3e38, 3e38, 2.9e38]) > 0);
    }
}
