//! Signals during long calls.

use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// How often Python gets to run its signal handlers: soon for a user, rarely for a pass of a small model.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs the signal handlers of Python now and then.
pub struct Signals {
    next: Instant,
    raised: Option<PyErr>,
}

impl Signals {
    /// Those of a call that begins now.
    pub fn new() -> Signals {
        Signals { next: Instant::now() + INTERVAL, raised: None }
    }

    /// Runs the handlers if it is time. Called without the GIL.
    ///
    /// # Errors
    /// What a handler raised, as KeyboardInterrupt.
    pub fn check(&mut self) -> PyResult<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + INTERVAL;
        Python::attach(|py| py.check_signals())
    }

    /// As [`Signals::check`], for a callback that answers whether to continue. [`Signals::raised`] has the exception.
    pub fn proceed(&mut self) -> bool {
        match self.check() {
            Ok(()) => true,
            Err(error) => {
                self.raised = Some(error);
                false
            }
        }
    }

    /// The exception that [`Signals::proceed`] met.
    pub fn raised(self) -> Option<PyErr> {
        self.raised
    }
}
