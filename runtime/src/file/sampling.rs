//! How tokens are chosen, and the values that the author of a model recommends.

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::{SamplingBlock, section};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use zerocopy::FromBytes;

/// How the next token is chosen: `Sampling { temperature: 0.7, top_p: 0.95, seed: 1, ..Sampling::GREEDY }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; at 0 the most likely token is taken.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability.
    pub top_p: f64,
    /// Only tokens with at least this share of the probability of the most likely one.
    pub min_p: f64,
    /// What the logits of tokens that have occurred are divided by, or multiplied with when negative
    /// (Keskar et al. 2019, arXiv 1909.05858).
    pub repetition_penalty: f64,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

    /// Whether nothing but the largest logit counts.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

    /// Looks whether every value is one that tokens can be chosen with.
    ///
    /// # Errors
    /// [`Error::Sampling`] with the first one that is not.
    pub fn check(&self) -> Result<(), Error> {
        if self.top_k == Some(0) {
            return Err(Error::Sampling { name: "top_k", value: 0.0, low: 1.0, high: f64::INFINITY });
        }
        let numbers = [
            ("temperature", self.temperature, 0.0, 1e6),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 1e-3, 1e3),
        ];
        match numbers.into_iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((name, value, low, high)) => Err(Error::Sampling { name, value, low, high }),
            None => Ok(()),
        }
    }
}

/// A sampling of which a user has chosen some values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingWishes {
    /// [`Sampling::temperature`]
    pub temperature: Option<f64>,
    /// [`Sampling::top_k`]
    pub top_k: Option<usize>,
    /// [`Sampling::top_p`]
    pub top_p: Option<f64>,
    /// [`Sampling::min_p`]
    pub min_p: Option<f64>,
    /// [`Sampling::repetition_penalty`]
    pub repetition_penalty: Option<f64>,
    /// [`Sampling::seed`]
    pub seed: Option<u64>,
}

impl SamplingWishes {
    /// The whole sampling: what is not chosen is the author's value, from
    /// [`Model::recommended_sampling`](crate::Model::recommended_sampling). Without any temperature, a value that limits
    /// the tokens to sample from means 1; otherwise the choice is greedy. Without a seed each call has another one.
    pub fn sampling(&self, author: Option<Sampling>) -> Sampling {
        let base = author.unwrap_or(Sampling::GREEDY);
        let samples = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        // A seed alone keeps the author's temperature.
        let samples = samples || author.is_none() && self.seed.is_some();
        let default = if samples { 1.0 } else { 0.0 };
        let of_author = if base.temperature > 0.0 { base.temperature } else { default };
        Sampling {
            temperature: self.temperature.unwrap_or(of_author),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            // The keys of std's hasher are random.
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        }
    }
}

/// The sampling that the `generation_config.json` of a model recommends. Its seed is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuthorSampling(Sampling);

impl AuthorSampling {
    /// The one in `file`; `None` without a recommendation. Checks the digest and every value.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn new(file: &ModelFile) -> Result<Option<AuthorSampling>, Error> {
        let Some(bytes) = file.checked_section(section::SAMPLING)? else { return Ok(None) };
        let damaged = || Error::Damaged {
            path: file.path().to_path_buf(),
            place: "sampling".into(),
            found: "values that choose no token".into(),
            expected: "those of a SamplingBlock".into(),
        };
        AuthorSampling::in_section(&bytes).ok_or_else(damaged).map(Some)
    }

    /// The one in the bytes of a section; `None` when they are not what the format describes.
    pub fn in_section(bytes: &[u8]) -> Option<AuthorSampling> {
        let block = SamplingBlock::read_from_bytes(bytes).ok()?;
        let sampling = AuthorSampling(Sampling {
            temperature: block.temperature.get(),
            top_k: Some(block.top_k.get() as usize).filter(|&top_k| top_k > 0),
            top_p: block.top_p.get(),
            min_p: block.min_p.get(),
            repetition_penalty: block.repetition_penalty.get(),
            seed: 0,
        });
        // There is one way to write each, so that the bytes of a file do not depend on who writes it.
        (sampling.is_possible() && sampling.block() == block).then_some(sampling)
    }

    /// `sampling` as an author's; `None` when a value is not possible.
    pub fn of(sampling: Sampling) -> Option<AuthorSampling> {
        let drawing = sampling.temperature > 0.0;
        let author = AuthorSampling(match drawing {
            true => Sampling { seed: 0, ..sampling },
            false => Sampling { repetition_penalty: sampling.repetition_penalty, ..Sampling::GREEDY },
        });
        (sampling.temperature >= 0.0 && author.is_possible()).then_some(author)
    }

    /// What the section holds.
    pub fn block(&self) -> SamplingBlock {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self.0;
        SamplingBlock {
            temperature: temperature.into(),
            top_p: top_p.into(),
            min_p: min_p.into(),
            repetition_penalty: repetition_penalty.into(),
            top_k: (top_k.unwrap_or(0) as u32).into(),
            reserved: 0.into(),
        }
    }

    /// As a choice of tokens, with the seed 0.
    pub fn sampling(&self) -> Sampling {
        self.0
    }

    fn is_possible(&self) -> bool {
        let greedy = Sampling { repetition_penalty: self.0.repetition_penalty, ..Sampling::GREEDY };
        let is_zero = |number: f64| number.to_bits() == 0.0f64.to_bits();
        self.0.check().is_ok()
            && self.0.top_k.is_none_or(|top_k| top_k <= MAX_TOP_K)
            && (self.0.min_p > 0.0 || is_zero(self.0.min_p))
            && (self.0.top_p > 0.0 || is_zero(self.0.top_p))
            && (self.0.temperature > 0.0 || is_zero(self.0.temperature) && self.0 == greedy)
    }
}

/// Most rows that a model has: a larger `top_k` excludes no token.
pub const MAX_TOP_K: usize = 1 << 24;

impl fmt::Display for AuthorSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        described(&self.0).fmt(f)
    }
}

/// A choice of tokens for people: "temperature 0.6, top-p 0.95", or "greedy".
pub fn described(sampling: &Sampling) -> String {
    let mut parts = Vec::new();
    let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, .. } = sampling;
    if *temperature == 0.0 {
        parts.push("greedy".to_string());
    } else {
        parts.push(format!("temperature {temperature}"));
        parts.extend(top_k.map(|top_k| format!("top-k {top_k}")));
        parts.extend((*top_p < 1.0).then(|| format!("top-p {top_p}")));
        parts.extend((*min_p > 0.0).then(|| format!("min-p {min_p}")));
    }
    parts.extend((*repetition_penalty != 1.0).then(|| format!("repetition penalty {repetition_penalty}")));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    const AUTHOR: Sampling =
        Sampling { temperature: 0.6, top_k: Some(50), top_p: 0.95, min_p: 0.0, repetition_penalty: 1.1, seed: 0 };

    fn author(sampling: Sampling) -> AuthorSampling {
        AuthorSampling::of(sampling).expect("possible")
    }

    #[test]
    fn section_gives_back_what_was_written() {
        let greedy = Sampling { repetition_penalty: 1.2, ..Sampling::GREEDY };
        for sampling in [AUTHOR, greedy, Sampling::GREEDY, Sampling { top_k: None, min_p: 0.1, ..AUTHOR }] {
            let block = author(sampling).block();
            assert_eq!(block.as_bytes().len(), 40);
            assert_eq!(AuthorSampling::in_section(block.as_bytes()), Some(author(sampling)));
        }
        // What greedy has no use for is not kept.
        assert_eq!(
            author(Sampling { temperature: 0.0, ..AUTHOR }).sampling(),
            Sampling { repetition_penalty: 1.1, ..Sampling::GREEDY }
        );
    }

    #[test]
    fn refuses_impossible_values_and_second_spellings() {
        let good = author(AUTHOR).block();
        let mut greedy = author(Sampling::GREEDY).block();
        let bad = |change: &dyn Fn(&mut SamplingBlock)| {
            let mut block = good;
            change(&mut block);
            AuthorSampling::in_section(block.as_bytes())
        };
        for number in [f64::NAN, -1.0, -0.0, 1e7, f64::INFINITY] {
            assert_eq!(bad(&|block| block.temperature = number.into()), None, "temperature {number}");
        }
        for number in [f64::NAN, -0.0, -1.0, 7.0] {
            assert_eq!(bad(&|block| block.top_p = number.into()), None, "top_p {number}");
            assert_eq!(bad(&|block| block.min_p = number.into()), None, "min_p {number}");
        }
        for number in [f64::NAN, 0.0, -1.0, 1e4] {
            assert_eq!(bad(&|block| block.repetition_penalty = number.into()), None, "penalty {number}");
        }
        assert_eq!(bad(&|block| block.top_k = u32::MAX.into()), None);
        assert_eq!(bad(&|block| block.reserved = 1.into()), None);
        assert_eq!(AuthorSampling::in_section(&good.as_bytes()[1..]), None);
        assert_eq!(AuthorSampling::in_section(&[good.as_bytes(), b"x"].concat()), None);
        greedy.top_k = 50.into();
        assert_eq!(AuthorSampling::in_section(greedy.as_bytes()), None);
        for impossible in [
            Sampling { temperature: -1.0, ..AUTHOR },
            Sampling { temperature: f64::NAN, ..AUTHOR },
            Sampling { top_k: Some(0), ..AUTHOR },
            Sampling { top_k: Some(usize::MAX), ..AUTHOR },
            Sampling { top_p: 7.0, ..AUTHOR },
        ] {
            assert_eq!(AuthorSampling::of(impossible), None, "{impossible:?}");
        }
    }

    #[test]
    fn describes_what_is_not_as_always() {
        assert_eq!(author(AUTHOR).to_string(), "temperature 0.6, top-k 50, top-p 0.95, repetition penalty 1.1");
        assert_eq!(author(Sampling::GREEDY).to_string(), "greedy");
    }
}
