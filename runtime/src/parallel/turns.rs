//! Turns of callers, in order of arrival.

use super::sync::{Condvar, Mutex};

/// Number of condition variables that waiting callers share. The end of a turn wakes only the callers of one of them.
const CONDITIONS: usize = 16;

/// Hands out turns, one at a time.
pub(crate) struct Turns {
    numbers: Mutex<Numbers>,
    /// Caller n waits for condition n modulo [`CONDITIONS`].
    called: [Condvar; CONDITIONS],
}

struct Numbers {
    /// The number that the next caller gets.
    next: u64,
    /// The number of the caller whose turn it is.
    now: u64,
}

/// A turn; it ends when this is dropped.
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns { numbers: Mutex::new(Numbers { next: 0, now: 0 }), called: std::array::from_fn(|_| Condvar::new()) }
    }

    /// Blocks until all earlier callers have had their turns.
    pub(crate) fn wait(&self) -> Turn<'_> {
        // No thread panics while it holds this lock.
        let mut numbers = self.numbers.lock().expect("not poisoned");
        let mine = numbers.next;
        numbers.next += 1;
        while numbers.now != mine {
            numbers = self.called[mine as usize % CONDITIONS].wait(numbers).expect("not poisoned");
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut numbers = self.0.numbers.lock().expect("not poisoned");
        numbers.now += 1;
        self.0.called[numbers.now as usize % CONDITIONS].notify_all();
    }
}
