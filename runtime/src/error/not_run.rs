//! Why the threads of a model do not run something.

use std::fmt;

/// Why threads do not run a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotRun {
    /// It is inside another run of the same threads, and would wait for itself.
    Nested,
    /// A deadlock: it would wait for a run that waits for an enclosing run of this one.
    Circle,
    /// This process was forked after the threads were started, and has none of them.
    Forked,
    /// This thread has a non-default floating-point mode.
    Rounding,
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotRun::Nested => {
                "this run would wait for the end of a run that it is part of; end that first, or open the model twice"
            }
            NotRun::Circle => {
                "this run would wait for one that waits for it; let runs inside others begin in the same order everywhere"
            }
            NotRun::Forked => {
                "this process was forked off after the threads of the model were started; open the model in this \
                 process"
            }
            NotRun::Rounding => {
                "this thread has a non-default floating-point mode (FTZ/DAZ or rounding), which would change results; call \
                 from a thread whose mode no other library has changed"
            }
        })
    }
}
