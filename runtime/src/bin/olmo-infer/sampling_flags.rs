//! The options of sampling, and the sampling that they and the author of the model give.

use olmo_infer::Sampling;
use olmo_infer::internals::file::sampling::{AuthorSampling, SamplingWishes};

/// The options of sampling, `--temperature` and so on; `None` where the user gives none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingFlags(pub SamplingWishes);

impl SamplingFlags {
    /// Checks that tokens can be chosen with every value.
    ///
    /// # Errors
    /// A text about the first value that is out of range.
    pub fn check(&self) -> Result<(), String> {
        let numbers = [
            ("--temperature", self.0.temperature, 0.0, 1e6),
            ("--top-p", self.0.top_p, 0.0, 1.0),
            ("--min-p", self.0.min_p, 0.0, 1.0),
            ("--repetition-penalty", self.0.repetition_penalty, 1e-3, 1e3),
        ];
        for (flag, value, low, high) in numbers {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                let shown = if value.abs() < 1e16 { value.to_string() } else { format!("{value:e}") };
                return Err(format!("{flag} {shown}: expected a number from {low} to {high}"));
            }
        }
        match self.0.top_k {
            Some(0) => Err("--top-k must be at least 1".into()),
            _ => Ok(()),
        }
    }

    /// The sampling of a run: each option overrides the author's value.
    pub fn resolve(&self, author: Option<&AuthorSampling>) -> Sampling {
        self.0.sampling(author.map(AuthorSampling::sampling))
    }

    /// Where the values of [`SamplingFlags::resolve`] come from, for messages.
    pub fn origin(&self, author: Option<&AuthorSampling>) -> &'static str {
        let given = SamplingWishes { seed: None, ..self.0 } != SamplingWishes::default();
        // Without an author the seed alone makes the answer random.
        let given = given || author.is_none() && self.0.seed.is_some();
        match (author.is_some(), given) {
            (true, true) => "flags, the rest by the model's author",
            (true, false) => "by the model's author",
            (false, true) => "flags",
            (false, false) => "default",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: Sampling =
        Sampling { temperature: 0.6, top_k: Some(50), top_p: 0.95, min_p: 0.0, repetition_penalty: 1.1, seed: 0 };

    fn author(sampling: Sampling) -> AuthorSampling {
        AuthorSampling::of(sampling).expect("possible")
    }

    #[test]
    fn flags_alone_mean_what_they_meant_without_an_author() {
        let resolve = |flags: SamplingFlags| Sampling { seed: 0, ..flags.resolve(None) };
        let none = SamplingFlags::default();
        assert_eq!(resolve(none), Sampling::GREEDY);
        let hot = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        assert_eq!(resolve(SamplingFlags(SamplingWishes { seed: Some(3), ..none.0 })), hot);
        assert_eq!(
            resolve(SamplingFlags(SamplingWishes { top_k: Some(3), ..none.0 })),
            Sampling { top_k: Some(3), ..hot }
        );
        assert_eq!(
            resolve(SamplingFlags(SamplingWishes { min_p: Some(0.5), ..none.0 })),
            Sampling { min_p: 0.5, ..hot }
        );
        let flags = SamplingFlags(SamplingWishes { temperature: Some(0.0), top_p: Some(0.5), ..none.0 });
        assert_eq!(resolve(flags), Sampling { top_p: 0.5, ..Sampling::GREEDY });
        let flags = SamplingFlags(SamplingWishes { repetition_penalty: Some(1.1), ..none.0 });
        assert_eq!(resolve(flags), Sampling { repetition_penalty: 1.1, ..Sampling::GREEDY });
        assert_eq!(SamplingFlags(SamplingWishes { seed: Some(77), ..none.0 }).resolve(None).seed, 77);
        assert_ne!(none.resolve(None).seed, none.resolve(None).seed);
    }

    #[test]
    fn a_flag_overrides_its_value_alone() {
        let author = author(AUTHOR);
        let resolve = |flags: SamplingFlags| Sampling { seed: 0, ..flags.resolve(Some(&author)) };
        let none = SamplingFlags::default();
        assert_eq!(resolve(none), AUTHOR);
        assert_eq!(resolve(SamplingFlags(SamplingWishes { seed: Some(1), ..none.0 })), AUTHOR);
        assert_eq!(
            resolve(SamplingFlags(SamplingWishes { top_p: Some(0.5), ..none.0 })),
            Sampling { top_p: 0.5, ..AUTHOR }
        );
        let greedy = resolve(SamplingFlags(SamplingWishes { temperature: Some(0.0), ..none.0 }));
        assert_eq!(greedy, Sampling { temperature: 0.0, ..AUTHOR });
        // An author who does not draw does not keep a user from it.
        let still = AuthorSampling::of(Sampling::GREEDY).expect("possible");
        let drawn = SamplingFlags(SamplingWishes { top_k: Some(9), ..none.0 }).resolve(Some(&still));
        assert_eq!((drawn.temperature, drawn.top_k), (1.0, Some(9)));
        let seeded = SamplingFlags(SamplingWishes { seed: Some(3), ..none.0 });
        assert_eq!(seeded.resolve(Some(&still)), Sampling { seed: 3, ..Sampling::GREEDY });
        assert_eq!((seeded.origin(Some(&still)), seeded.origin(None)), ("by the model's author", "flags"));
        let huge = SamplingFlags(SamplingWishes { temperature: Some(1e300), ..none.0 }).check();
        assert_eq!(huge, Err("--temperature 1e300: expected a number from 0 to 1000000".into()));
        assert_eq!(none.origin(Some(&author)), "by the model's author");
        assert_eq!(
            SamplingFlags(SamplingWishes { top_k: Some(9), ..none.0 }).origin(Some(&author)),
            "flags, the rest by the model's author"
        );
        assert_eq!(
            (none.origin(None), SamplingFlags(SamplingWishes { top_k: Some(9), ..none.0 }).origin(None)),
            ("default", "flags")
        );
    }
}
