//! How often guesses of a kind have been right.

use crate::generate::speculation::pause::Pause;

/// How much a guess counts after the next one: about the last twenty count.
const FADES: f64 = 0.95;
/// Chances without a guess before one is tried again.
const FIRST_PAUSE: u32 = 8;

/// The share of guesses that were right, the late ones counting most.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    expected: f64,
    right: f64,
    tried: f64,
    /// After too many that were wrong.
    pub pause: Pause,
}

impl Trust {
    /// Before the first guess, `expected` is the share; it counts as one guess.
    pub fn new(expected: f64) -> Trust {
        Trust { expected, right: 0.0, tried: 0.0, pause: Pause::new(FIRST_PAUSE) }
    }

    /// The share that is to be expected of the next guess.
    pub fn share(&self) -> f64 {
        (self.expected + self.right) / (1.0 + self.tried)
    }

    /// Takes in that a guess was right, or was not.
    pub fn learn(&mut self, is_right: bool) {
        self.right = FADES * self.right + f64::from(u8::from(is_right));
        self.tried = FADES * self.tried + 1.0;
    }

    /// After a try that was right: what was known is old.
    pub fn begin_again(&mut self) {
        *self = Trust::new(self.expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_follows_the_late_guesses() {
        let mut trust = Trust::new(0.6);
        assert_eq!(trust.share(), 0.6);
        trust.learn(false);
        assert_eq!(trust.share(), 0.3);
        (0..100).for_each(|_| trust.learn(false));
        assert!(trust.share() < 0.03);
        (0..100).for_each(|i| trust.learn(i % 5 != 0));
        assert!((trust.share() - 0.8).abs() < 0.05, "{}", trust.share());
    }
}
