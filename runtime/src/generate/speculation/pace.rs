//! What passes cost on this machine, measured while they run: whether guesses pay follows from it. Costs are shares of a
//! plain pass, which has one row for each sequence.

use crate::error::Error;
use crate::os::memory;

/// How much a measured cost counts against the earlier ones.
const COUNTS: f64 = 0.2;
/// Cost of a row more, before it is measured.
const ROW: f64 = 0.05;
/// Passes with guesses after which a plain one is measured again: it becomes longer with the text.
const STALE: usize = 64;

/// Measured costs.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Of a plain pass by number of sequences, from 1 on.
    plain: Vec<Plain>,
    /// Of each row beyond those of a plain pass.
    row: f64,
    /// Of a pass of the draft.
    draft: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Plain {
    /// Seconds; `None` before the first one.
    seconds: Option<f64>,
    /// Passes since a plain one.
    age: usize,
}

impl Pace {
    /// For up to `n` sequences; the drafts are `draft` of the weights.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(n: usize, draft: f64) -> Result<Pace, Error> {
        let plain = memory::collected((0..n).map(|_| Plain::default()), "the times of passes")?;
        Ok(Pace { plain, row: ROW, draft })
    }

    /// Seconds of a plain pass of `n` sequences; `None` when one should be measured first.
    pub fn plain(&self, n: usize) -> Option<f64> {
        self.plain[n - 1].seconds.filter(|_| self.plain[n - 1].age < STALE)
    }

    /// Cost of each row beyond those of a plain pass.
    pub fn row(&self) -> f64 {
        self.row
    }

    /// Cost of a pass of the draft.
    pub fn draft(&self) -> f64 {
        self.draft
    }

    /// Takes in the seconds of a pass of `n` sequences with `more` rows than a plain one.
    pub fn passed(&mut self, n: usize, more: usize, seconds: f64) {
        let plain = &mut self.plain[n - 1];
        match plain.seconds {
            None if more > 0 => {}
            None => *plain = Plain { seconds: Some(seconds), age: 0 },
            Some(before) if more == 0 => {
                // Half of it: clocks and contexts change, and there may be few plain passes.
                *plain = Plain { seconds: Some(before + 0.5 * (seconds - before).min(before)), age: 0 };
            }
            Some(before) => {
                // No pass takes longer with fewer rows.
                let of_plain = before.min(seconds);
                *plain = Plain { seconds: Some(of_plain), age: plain.age + 1 };
                self.row = mixed(self.row, (seconds / of_plain - 1.0) / more as f64);
            }
        }
    }

    /// Takes in the seconds of a pass of the draft for sequences of which a plain pass takes `plain`.
    pub fn drafted(&mut self, plain: f64, seconds: f64) {
        self.draft = mixed(self.draft, seconds / plain);
    }
}

/// A cost after another measurement. One that is less is believed sooner: what a machine is busy with only adds.
fn mixed(before: f64, measured: f64) -> f64 {
    let counts = if measured < before { 0.5 } else { COUNTS };
    before + counts * (measured - before).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_measured_against_a_plain_pass() {
        let mut pace = Pace::new(2, 0.3).expect("memory");
        assert_eq!(pace.plain(1), None);
        // Nothing to compare with.
        pace.passed(1, 3, 9.0);
        assert_eq!((pace.plain(1), pace.row()), (None, ROW));
        pace.passed(1, 0, 1.0);
        assert_eq!((pace.plain(1), pace.plain(2)), (Some(1.0), None));
        for _ in 0..60 {
            pace.passed(1, 5, 1.5);
            pace.drafted(1.0, 0.4);
        }
        assert!((pace.row() - 0.1).abs() < 1e-3 && (pace.draft() - 0.4).abs() < 1e-3, "{pace:?}");
        assert_eq!(pace.plain(1), Some(1.0));
        (0..4).for_each(|_| pace.passed(1, 5, 1.5));
        assert_eq!(pace.plain(1), None, "measured again");
        pace.passed(1, 0, 2.0);
        assert_eq!(pace.plain(1), Some(1.5));
        pace.passed(1, 1, 1.0);
        assert_eq!(pace.plain(1), Some(1.0));
    }

    #[test]
    fn one_slow_pass_does_not_decide() {
        let mut pace = Pace::new(1, 0.3).expect("memory");
        pace.passed(1, 0, 1.0);
        pace.passed(1, 1, 100.0);
        pace.drafted(1.0, 100.0);
        assert!(pace.row() < 0.3 && pace.draft() <= 0.5 + 1e-9, "{pace:?}");
        (0..5).for_each(|_| pace.drafted(1.0, 0.3));
        assert!((pace.draft() - 0.3).abs() < 0.01);
    }
}
