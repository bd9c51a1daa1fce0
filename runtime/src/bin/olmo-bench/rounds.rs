//! Measuring against a ceiling that drifts: rounds of a ceiling, the work, the ceiling again.

use olmo_infer::internals::error::Error;
use olmo_infer::internals::parallel::team::Team;

/// Rounds whose two ceilings differ by more than this were disturbed, and are dropped.
const QUIET: f64 = 0.05;

/// One round's work.
pub struct Sample {
    /// What was read or computed: bytes or operations.
    pub amount: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What came out.
pub struct Measured {
    /// Median time of a round's work, in seconds.
    pub seconds: f64,
    /// Median rate, 1e9 a second.
    pub rate: f64,
    /// Median of rate / mean of the ceilings right before and after; `None` when no round was quiet.
    pub share: Option<f64>,
    /// Median of the ceilings.
    pub ceiling: f64,
    /// Rounds that count.
    pub kept: usize,
    /// Rounds whose ceilings differed too much.
    pub dropped: usize,
}

impl Measured {
    /// Whether too many rounds were disturbed for the share to mean much.
    pub fn is_noisy(&self) -> bool {
        self.dropped > self.kept
    }
}

/// Most rounds that are tried to get `wanted` quiet ones.
pub fn most_rounds(wanted: usize) -> usize {
    wanted + wanted.div_ceil(2)
}

/// Measures until `wanted` rounds were quiet, or [`most_rounds`] were tried. Neighbouring rounds share the ceiling
/// between them. Without a quiet round, the disturbed ones give time and rate, and nothing gives a share.
pub fn measure(
    wanted: usize,
    team: &mut Team,
    mut ceiling: impl FnMut(&mut Team) -> f64,
    mut work: impl FnMut(&mut Team) -> Result<Sample, Error>,
) -> Result<Measured, Error> {
    let (mut quiet, mut disturbed) = (Vec::new(), Vec::new());
    let mut ceilings = vec![ceiling(team)];
    while quiet.len() < wanted && quiet.len() + disturbed.len() < most_rounds(wanted) {
        let before = ceilings[ceilings.len() - 1];
        let sample = work(team)?;
        let after = ceiling(team);
        ceilings.push(after);
        let mean = (before + after) / 2.0;
        let rounds = if (before - after).abs() <= QUIET * mean { &mut quiet } else { &mut disturbed };
        rounds.push((sample.seconds, sample.amount / sample.seconds / 1e9, mean));
    }
    let counted = if quiet.is_empty() { &disturbed } else { &quiet };
    let of = |value: fn(&(f64, f64, f64)) -> f64, rounds: &[_]| median(&rounds.iter().map(value).collect::<Vec<_>>());
    Ok(Measured {
        seconds: of(|round| round.0, counted),
        rate: of(|round| round.1, counted),
        share: (!quiet.is_empty()).then(|| of(|round| round.1 / round.2, &quiet)),
        ceiling: median(&ceilings),
        kept: quiet.len(),
        dropped: disturbed.len(),
    })
}

/// The middle of some numbers; NaN for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::internals::parallel::team::with_team;

    /// Ceilings in turn, and the same second of work each time.
    fn measured(wanted: usize, ceilings: &[f64]) -> Measured {
        let mut ceilings = ceilings.iter().copied();
        let work = |_: &mut Team| Ok(Sample { amount: 40e9, seconds: 1.0 });
        with_team(1, |team| measure(wanted, team, |_| ceilings.next().expect("a ceiling"), work))
            .expect("runs")
            .expect("no errors")
    }

    #[test]
    fn rounds_between_different_ceilings_are_dropped_and_counted() {
        // Rounds: 50-50 kept, 50-60 dropped, 60-60 kept.
        let result = measured(2, &[50.0, 50.0, 60.0, 60.0]);
        assert_eq!((result.kept, result.dropped), (2, 1));
        assert_eq!(result.share, Some((40.0 / 50.0 + 40.0 / 60.0) / 2.0));
        assert_eq!(result.rate, 40.0);
    }

    #[test]
    fn without_a_quiet_round_there_is_no_share() {
        let result = measured(2, &[50.0, 60.0, 50.0, 60.0]);
        assert_eq!((result.kept, result.dropped, result.share), (0, 3, None));
        assert_eq!((result.rate, result.seconds), (40.0, 1.0));
        assert!(result.is_noisy());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
