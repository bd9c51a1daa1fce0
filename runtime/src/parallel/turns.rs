//! Callers that take turns, in the order in which they came.

use super::sync::{Condvar, Mutex};

/// Callers that wait are spread over so many conditions, so that the end of a turn wakes few but the next one.
const CONDITIONS: usize = 16;

/// Hands out turns, one at a time.
pub(crate) struct Turns {
    numbers: Mutex<Numbers>,
    /// Caller number n waits at n modulo [`CONDITIONS`].
    called: [Condvar; CONDITIONS],
}

struct Numbers {
    /// The number of the next caller that comes.
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

    /// Waits until all who came before have had their turns. Who waits here does nothing else.
    pub(crate) fn wait(&self) -> Turn<'_> {
        // Nobody panics while holding this lock.
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
