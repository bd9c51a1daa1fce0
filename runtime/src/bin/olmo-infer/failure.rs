//! Why a run ends early.

use crate::advice::Advised;
use olmo_infer::internals::error::{Error, reason};
use std::fmt;
use std::io;

/// Why a run ends early.
pub enum Failure {
    /// The library's error.
    Runtime(Error),
    /// The request does not fit the model or the machine.
    Refused(String),
    /// The model cannot continue, here or with another request.
    Fatal(String),
    /// The arguments do not fit the model.
    Usage(String),
    /// More than one thing is wrong, each with a line of its own.
    Several(Vec<Failure>),
    /// Standard output does not take the results.
    Output(io::Error),
    /// The reader of standard output has left: nothing more is wanted.
    ReaderGone,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Runtime(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe { Failure::ReaderGone } else { Failure::Output(error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Runtime(error) => Advised::new(error).fmt(f),
            Failure::Refused(problem) | Failure::Fatal(problem) | Failure::Usage(problem) => f.write_str(problem),
            Failure::Several(failures) => failures.iter().try_for_each(|failure| writeln!(f, "{failure}")),
            Failure::Output(error) => write!(f, "cannot write the results to standard output: {}", reason(error)),
            Failure::ReaderGone => f.write_str("standard output was closed"),
        }
    }
}
