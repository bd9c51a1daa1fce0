//! Tries after guesses that did not pay, at distances that grow.

/// Most chances between two tries: each try that fails doubles the number.
const LONGEST: u32 = 512;

/// Chances that pass until the next try.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    first: u32,
    chances: u32,
    waited: u32,
}

impl Pause {
    /// With `first` chances before the first try.
    pub fn new(first: u32) -> Pause {
        Pause { first, chances: first, waited: 0 }
    }

    /// Another chance; whether it is one to wait.
    pub fn waits(&mut self) -> bool {
        self.waited = self.waited.saturating_add(1);
        self.waited <= self.chances
    }

    /// A try is made: the next one comes after twice the chances.
    pub fn tried(&mut self) {
        self.waited = 0;
        self.chances = (2 * self.chances).min(LONGEST);
    }

    /// A try has paid.
    pub fn begin_again(&mut self) {
        *self = Pause::new(self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_become_longer() {
        let mut pause = Pause::new(8);
        let mut is_try = |_: &usize| {
            let tries = !pause.waits();
            if tries {
                pause.tried();
            }
            tries
        };
        let tries: Vec<usize> = (0..6000).filter(&mut is_try).collect();
        assert_eq!(tries[..4], [8, 25, 58, 123]);
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] <= 513) && tries.len() > 10);
        pause.begin_again();
        assert_eq!((0..9).filter(|_| !pause.waits()).count(), 1);
    }
}
