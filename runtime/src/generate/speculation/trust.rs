//! How often guesses of a kind have been right, and whether it is time to try again.

/// How much a guess counts after the next one: about the last twenty count.
const FADES: f64 = 0.95;
/// Chances without a guess before one is tried, and the most of them: each try that fails doubles the number.
const FIRST_PAUSE: u32 = 8;
const LONGEST_PAUSE: u32 = 512;

/// The share of guesses that were right, the late ones counting most.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    expected: f64,
    right: f64,
    tried: f64,
    pause: u32,
    waited: u32,
}

impl Trust {
    /// Before the first guess, `expected` is the share; it counts as one guess.
    pub fn new(expected: f64) -> Trust {
        Trust { expected, right: 0.0, tried: 0.0, pause: FIRST_PAUSE, waited: 0 }
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

    /// A chance that was not taken because guesses are too often wrong. Whether to try one guess all the same.
    pub fn tries_again(&mut self) -> bool {
        self.waited += 1;
        let tries = self.waited > self.pause;
        if tries {
            self.waited = 0;
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
        tries
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

    #[test]
    fn pauses_become_longer() {
        let mut trust = Trust::new(0.6);
        let tries: Vec<usize> = (0..6000).filter(|_| trust.tries_again()).collect();
        assert_eq!(tries[..4], [8, 25, 58, 123]);
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] <= 513) && tries.len() > 10);
        trust.begin_again();
        assert_eq!((0..9).filter(|_| trust.tries_again()).count(), 1);
    }
}
