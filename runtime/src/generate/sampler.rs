//! The choice of the next token: greedy or sampled.
//!
//! The steps and their order are those of `generation/logits_process.py` of transformers: repetition penalty,
//! temperature, top-k, top-p, min-p. The choice among the tokens that are left is that of the largest sum of
//! `logit / temperature` and noise, see `noise.rs`; of equal sums, that of the lower id. Everything is computed in one
//! order in f64, so that the same seed gives the same tokens on every machine and for every number of threads.

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::generate::noise::{MOST_DIFFERENCE, Noise};
use crate::generate::top_k::{top_k_into, top_k_room};
use crate::os::memory;

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    /// Tokens that have occurred; empty without a repetition penalty.
    seen: Vec<bool>,
    /// Tokens and their weights.
    candidates: Vec<(u32, f64)>,
    logits: Vec<f32>,
    top: Vec<(u32, f32)>,
}

/// A token, and by how much it was ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// By how much what decided is larger than for every other token; of a greedy choice the logit, else the logit over
    /// the temperature with its noise.
    pub margin: f64,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab_size` tokens. It allocates nothing after this.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(sampling: Sampling, vocab_size: usize) -> Result<Sampler, Error> {
        const WHAT: &str = "the choice of tokens";
        let has_penalty = sampling.repetition_penalty != 1.0;
        let n_seen = if has_penalty { vocab_size } else { 0 };
        let mut seen = memory::room_for(n_seen, WHAT)?;
        seen.resize(n_seen, false);
        let n_candidates = if sampling.temperature == 0.0 { 0 } else { sampling.top_k.unwrap_or(vocab_size) };
        Ok(Sampler {
            sampling,
            seen,
            candidates: memory::room_for(n_candidates.min(vocab_size), WHAT)?,
            logits: memory::room_for(if has_penalty { vocab_size } else { 0 }, WHAT)?,
            top: memory::room_for(top_k_room(sampling.top_k.unwrap_or(1).max(2), vocab_size), WHAT)?,
        })
    }

    /// Records that a token has occurred, in the prompt or after it.
    pub fn observe(&mut self, token: u32) {
        if let Some(seen) = self.seen.get_mut(token as usize) {
            *seen = true;
        }
    }

    /// The token that becomes the one at `position` of the sequence, for these logits, `[vocab_size]`, which must be
    /// finite.
    pub fn choose(&mut self, logits: &[f32], position: usize) -> u32 {
        self.choice(logits, position, 1).token
    }

    /// As [`Sampler::choose`], as if the tokens of `guessed` had occurred too, and with the margin.
    pub fn guess(&mut self, logits: &[f32], position: usize, guessed: &[u32]) -> Choice {
        // Each once, so that all are forgotten again.
        let mut unseen = guessed.iter().filter(|&&token| self.seen.get(token as usize) == Some(&false)).copied();
        match unseen.next() {
            None => self.choice(logits, position, 2),
            Some(token) => {
                self.seen[token as usize] = true;
                let choice = self.guess(logits, position, guessed);
                self.seen[token as usize] = false;
                choice
            }
        }
    }

    /// The token with the largest sum, and its margin when `ranks` is 2.
    fn choice(&mut self, logits: &[f32], position: usize, ranks: usize) -> Choice {
        let Sampling { temperature, top_k: most, top_p, min_p, repetition_penalty, seed } = self.sampling;
        let logits = match self.seen.is_empty() {
            true => logits,
            false => {
                self.logits.clear();
                self.logits.extend_from_slice(logits);
                for (logit, _) in self.logits.iter_mut().zip(&self.seen).filter(|(_, seen)| **seen) {
                    let penalty = repetition_penalty as f32;
                    let penalized = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
                    // A small or large penalty must not make a logit infinite.
                    *logit = penalized.clamp(f32::MIN, f32::MAX);
                }
                &self.logits
            }
        };
        if temperature == 0.0 {
            top_k_into(logits, ranks, &mut self.top);
            let second = self.top.get(1).map_or(f64::NEG_INFINITY, |second| f64::from(second.1));
            return Choice { token: self.top[0].0, margin: f64::from(self.top[0].1) - second };
        }
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let scaled = |token: u32| (f64::from(logits[token as usize]) - largest) / temperature;
        let mut winner = Winner::new(Noise::new(seed, position));
        if most.is_none() && top_p == 1.0 && min_p == 0.0 {
            // Rounding keeps the order: no logit above the bound is left out.
            let least = (largest - MOST_DIFFERENCE * temperature) as f32;
            let likely = (0..).zip(logits).filter(|(_, logit)| **logit >= least);
            likely.for_each(|(token, _)| winner.add(token, scaled(token)));
            return winner.choice();
        }
        // At most 1, and exactly that for the most likely token.
        let weight = |token: u32| libm::exp(scaled(token));
        self.candidates.clear();
        match most {
            Some(most) => {
                top_k_into(logits, most, &mut self.top);
                self.candidates.extend(self.top.iter().map(|&(token, _)| (token, weight(token))));
            }
            None => {
                let least = (largest - MOST_DIFFERENCE * temperature) as f32;
                let likely = (0..).zip(logits).filter(|(_, logit)| **logit >= least);
                self.candidates.extend(likely.map(|(token, _)| (token, weight(token))));
            }
        }
        if top_p < 1.0 {
            keep_likely(&mut self.candidates, top_p);
        }
        let left = self.candidates.iter().filter(|(_, weight)| *weight >= min_p);
        left.for_each(|&(token, _)| winner.add(token, scaled(token)));
        winner.choice()
    }
}

/// The two largest sums of scaled logits and noise.
struct Winner {
    noise: Noise,
    token: u32,
    best: f64,
    second: f64,
}

impl Winner {
    fn new(noise: Noise) -> Winner {
        Winner { noise, token: u32::MAX, best: f64::NEG_INFINITY, second: f64::NEG_INFINITY }
    }

    fn add(&mut self, token: u32, scaled: f64) {
        let uniform = self.noise.of(token);
        // Most are below without a logarithm.
        if scaled + uniform.gumbel_bound() < self.second {
            return;
        }
        let sum = scaled + uniform.gumbel();
        if sum > self.best || sum == self.best && token < self.token {
            (self.token, self.second, self.best) = (token, self.best, sum);
        } else {
            self.second = self.second.max(sum);
        }
    }

    fn choice(self) -> Choice {
        assert!(self.token != u32::MAX, "the most likely token is always added");
        Choice { token: self.token, margin: self.best - self.second }
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
        (0..10_000).for_each(|position| counts[sampler.choose(&logits, position) as usize] += 1);
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
            (0..50).map(|position| sampler.choose(&logits, position)).collect::<Vec<_>>()
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }

    /// What the steps of the module leave of these logits, computed in the plainest way.
    fn probabilities(sampling: &Sampling, logits: &[f32], seen: &[u32]) -> Vec<f64> {
        let penalized = |(token, &logit): (usize, &f32)| {
            let logit = f64::from(logit);
            let penalty = if seen.contains(&(token as u32)) { sampling.repetition_penalty } else { 1.0 };
            (if logit < 0.0 { logit * penalty } else { logit / penalty }) / sampling.temperature
        };
        let scaled: Vec<f64> = logits.iter().enumerate().map(penalized).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]));
        order.truncate(sampling.top_k.unwrap_or(usize::MAX));
        let share = |order: &[usize]| {
            let weights: Vec<f64> = order.iter().map(|&token| scaled[token].exp()).collect();
            let total: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / total).collect::<Vec<f64>>()
        };
        let (shares, mut sum) = (share(&order), 0.0);
        let enough = shares.iter().position(|share| {
            sum += share;
            sum >= sampling.top_p
        });
        order.truncate(enough.map_or(order.len(), |last| last + 1));
        let shares = share(&order);
        let n = shares.iter().filter(|&&share| share >= sampling.min_p * shares[0]).count();
        order.truncate(n);
        let mut all = vec![0.0; logits.len()];
        order.iter().zip(share(&order)).for_each(|(&token, share)| all[token] = share);
        all
    }

    /// Whether counts differ from the expected ones by no more than chance does in 999,999 of a million cases.
    #[track_caller]
    fn assert_by_chance(counts: &[usize], probabilities: &[f64], case: &dyn std::fmt::Debug) {
        let n: usize = counts.iter().sum();
        // Tokens with few expected counts are taken together.
        let (mut statistic, mut cells, mut rest) = (0.0, 0, (0.0, 0.0));
        let mut add = |count: f64, expected: f64| {
            statistic += (count - expected).powi(2) / expected;
            cells += 1;
        };
        for (&count, &probability) in counts.iter().zip(probabilities) {
            let (count, expected) = (count as f64, probability * n as f64);
            assert!(expected > 0.0 || count == 0.0, "{case:?}: a token that is excluded");
            if expected >= 10.0 { add(count, expected) } else { rest = (rest.0 + count, rest.1 + expected) }
        }
        if rest.1 >= 10.0 {
            add(rest.0, rest.1);
        }
        // The quantile of Wilson and Hilferty (1931).
        let freedom = f64::from(cells - 1).max(1.0);
        let bound = freedom * (1.0 - 2.0 / (9.0 * freedom) + 4.75 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
        assert!(statistic <= bound, "{case:?}: {statistic} of at most {bound}");
    }

    #[test]
    fn counts_are_those_of_the_distribution_by_position_and_by_seed() {
        let logits: Vec<f32> = (0..300u16).map(|i| 6.0 * (f32::from(i) * 0.731).sin() + f32::from(i % 11)).collect();
        let seen = [11, 87, 142, 208];
        let cases = [
            HOT,
            Sampling { temperature: 0.6, ..HOT },
            Sampling { temperature: 2.5, ..HOT },
            Sampling { top_k: Some(40), ..HOT },
            Sampling { top_k: Some(299), temperature: 3.0, ..HOT },
            Sampling { top_p: 0.9, ..HOT },
            Sampling { min_p: 0.02, ..HOT },
            Sampling { top_k: Some(50), top_p: 0.95, min_p: 0.01, temperature: 1.5, ..HOT },
            Sampling { repetition_penalty: 1.3, ..HOT },
            Sampling { repetition_penalty: 0.7, top_p: 0.8, temperature: 1.7, ..HOT },
        ];
        for sampling in cases {
            let expected = probabilities(&sampling, &logits, &seen);
            let (mut by_position, mut by_seed) = (vec![0; logits.len()], vec![0; logits.len()]);
            let mut sampler = Sampler::new(sampling, logits.len()).expect("memory");
            seen.into_iter().for_each(|token| sampler.observe(token));
            for i in 0..10_000 {
                sampler.sampling.seed = sampling.seed;
                by_position[sampler.choose(&logits, i) as usize] += 1;
                sampler.sampling.seed = i as u64;
                by_seed[sampler.choose(&logits, 5) as usize] += 1;
            }
            assert_by_chance(&by_position, &expected, &("by position", sampling));
            assert_by_chance(&by_seed, &expected, &("by seed", sampling));
        }
    }

    #[test]
    fn a_token_does_not_depend_on_what_was_chosen_before() {
        let logits: Vec<f32> = (0..100u16).map(|i| f32::from(i % 7)).collect();
        let mut sampler = Sampler::new(HOT, 100).expect("memory");
        let forwards: Vec<u32> = (0..50).map(|position| sampler.choose(&logits, position)).collect();
        let backwards: Vec<u32> = (0..50).rev().map(|position| sampler.choose(&logits, position)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        // Equal logits that are chosen in turn: neighbours of a position are as likely as they should be.
        let mut pairs = [0; 4];
        (0..40_000).for_each(|i| {
            let pair = [2 * i, 2 * i + 1].map(|position| sampler.choose(&[0.5, 0.5], position) as usize);
            pairs[2 * pair[0] + pair[1]] += 1;
        });
        assert_by_chance(&pairs, &[0.25; 4], &"pairs");
    }

    #[test]
    fn guesses_are_choices_that_are_forgotten() {
        let logits: Vec<f32> = (0..100u16).map(|i| 2.0 + (f32::from(i) * 0.7).sin()).collect();
        let greedy = Sampling { repetition_penalty: 1.5, ..Sampling::GREEDY };
        for sampling in [HOT, greedy, Sampling { repetition_penalty: 3.0, top_p: 0.9, ..HOT }] {
            let mut sampler = Sampler::new(sampling, 100).expect("memory");
            let before: Vec<u32> = (0..50).map(|position| sampler.choose(&logits, position)).collect();
            for position in 0..50 {
                let guess = sampler.guess(&logits, position, &before);
                let mut other = Sampler::new(sampling, 100).expect("memory");
                before.iter().for_each(|&token| other.observe(token));
                assert_eq!(guess.token, other.choose(&logits, position), "{sampling:?} {position}");
                // What a logit must be raised by at least, to be another choice.
                let is_other = sampling.repetition_penalty == 1.0 && guess.margin > 1e-3;
                for (token, by) in [(guess.token, -0.999), (guess.token, -1.001)] {
                    let mut moved = logits.clone();
                    moved[token as usize] += (guess.margin * by) as f32;
                    let stays = by > -1.0;
                    let choice = sampler.choose(&moved, position);
                    assert!(!is_other || (choice == token) == stays, "{sampling:?} {position} {by}");
                }
            }
            let after: Vec<u32> = (0..50).map(|position| sampler.choose(&logits, position)).collect();
            assert_eq!(before, after, "{sampling:?}");
        }
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
        assert_eq!(sampler.choose(&[1.0, 3.0, 2.0, -1.0], 0), 1);
        sampler.observe(1);
        assert_eq!(sampler.choose(&[1.0, 3.0, 2.0, -1.0], 0), 2);
        [0, 2, 3].into_iter().for_each(|token| sampler.observe(token));
        assert_eq!(sampler.choose(&[-1.0, -1.5, -4.0, -1.1], 0), 0);
        let hot = Sampling { temperature: 1.0, repetition_penalty: 1e9, ..sampling };
        let mut sampler = Sampler::new(hot, 2).expect("memory");
        sampler.observe(1);
        assert!((0..100).filter(|&position| sampler.choose(&[0.0, 30.0], position) == 1).count() > 20);
    }

    #[test]
    fn choose_handles_extreme_logits_penalties_and_temperatures() {
        let sampling = Sampling { temperature: 1e-6, top_p: 0.9, ..HOT };
        assert_eq!(Sampler::new(sampling, 3).expect("memory").choose(&[-3e38, 3e38, 2.9e38], 0), 1);
        for repetition_penalty in [1e-3, 1e3] {
            let mut sampler = Sampler::new(Sampling { repetition_penalty, ..HOT }, 3).expect("memory");
            (0..3).for_each(|token| sampler.observe(token));
            assert!(sampler.choose(&[-3e38, 3e38, 2.9e38], 0) > 0);
        }
        let sampling = Sampling { temperature: 1e9, ..HOT };
        assert!(Sampler::new(sampling, 3).expect("memory").choose(&[-3e38, 3e38, 2.9e38], 0) > 0);
    }
}
