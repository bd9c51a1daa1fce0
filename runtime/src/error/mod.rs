//! Everything that can go wrong in the runtime, with the values that say what to do about it.
//!
//! `Display` gives one line: where, what was found, what was expected, what to do. Library code returns these; only
//! the binaries print.

mod config_error;
pub mod shown;

pub use config_error::ConfigError;
pub use shown::one_line;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the runtime.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an operation on a file.
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as in "cannot {action}".
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The path names something that is not a regular file.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// The file is no `.olmo` file.
    NotOlmo {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// The file was made for another reader.
    Version {
        /// The file.
        path: PathBuf,
        /// What the file needs.
        found: String,
        /// What this program reads.
        supported: String,
        /// Whether this program is the newer one.
        is_older: bool,
    },
    /// The file's length is not the one its header states.
    Length {
        /// The file.
        path: PathBuf,
        /// Length in bytes.
        found: u64,
        /// Length in the header, or the least that a header has.
        expected: u64,
        /// Whether the header states it.
        is_stated: bool,
    },
    /// A field or a digest of the file is not what the format allows.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Field, section or tensor.
        place: String,
        /// The value found.
        found: String,
        /// What the format says.
        expected: String,
    },
    /// The file was changed just before it was opened, and parts of it are not written.
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// The file was written to while it was in use.
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The configuration in the file describes no possible model.
    Config {
        /// The file.
        path: PathBuf,
        /// The value in question.
        source: ConfigError,
    },
    /// The tokens cannot be used with this model.
    Tokens {
        /// The file, or `-` for standard input.
        path: PathBuf,
        /// What is wrong, with the values.
        problem: String,
    },
    /// The system does not give memory.
    Memory {
        /// How much was asked for.
        bytes: u64,
        /// What for.
        what: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// The threads of a model do not run something here; nothing of it has begun.
    NotRun {
        /// Why.
        why: NotRun,
    },
    /// A request that the model or the machine cannot satisfy.
    Request {
        /// What was asked for and what is possible.
        problem: String,
    },
    /// The computation produced a number that is not finite.
    NotFinite {
        /// Which of the sequences evaluated together, from 0.
        sequence: usize,
        /// Position in the sequence.
        position: usize,
        /// The first bad logit's token id.
        token: usize,
        /// Where such numbers began in this sequence: position and layer. `None` when it was in the last norm or the
        /// head.
        first: Option<(usize, usize)>,
    },
}

/// Why threads do not run something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotRun {
    /// It is part of another run of the same threads, for the end of which it would wait.
    Nested,
    /// It would wait for a run that waits for the end of one that it is part of.
    Circle,
    /// This process was forked off after the threads were started, and has none of them.
    Forked,
    /// The processor rounds or flushes otherwise than by default on this thread.
    Rounding,
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotRun::Nested => {
                "this run would wait for the end of another one that it is part of; leave that first, or open the \
                 model twice"
            }
            NotRun::Circle => {
                "this run would wait for one that waits for it; let runs inside of others begin in the same order everywhere"
            }
            NotRun::Forked => {
                "this process was forked off after the threads of the model were started; open the model in this \
                 process"
            }
            NotRun::Rounding => {
                "this thread rounds or flushes otherwise than processors do by default, so that results would not be \
                 the same everywhere; call from a thread whose mode no other library has changed"
            }
        })
    }
}

impl Error {
    /// An [`Error::Io`] for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { path: path.to_path_buf(), action, source }
    }
}

/// A path for an error line; `-` is standard input, and `""` a path of nothing.
pub fn display_path(path: &Path) -> impl fmt::Display {
    match path.to_string_lossy().as_ref() {
        "-" => "standard input".into(),
        "" => "\"\"".into(),
        path => one_line(path),
    }
}

/// The system's words for an error, without Rust's "(os error 2)"; Rust's own for one that the system does not have say
/// nothing to a user.
pub fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the file ends before its length".into();
    }
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, action, source } => {
                write!(f, "{}: cannot {action}: {}", display_path(path), reason(source))
            }
            Error::NotAFile { path, found, advice } => {
                write!(f, "{}: is {found}, expected a regular file; {advice}", display_path(path))
            }
            Error::NotOlmo { path, found, advice } => {
                write!(f, "{}: not an .olmo file but {found}; {advice}", display_path(path))
            }
            Error::Version { path, found, supported, is_older } => {
                let advice = if *is_older {
                    "pack the weights again with olmo-pack weights/ model.olmo"
                } else {
                    "use the olmo-infer that came with its olmo-pack, or pack the weights again"
                };
                write!(f, "{}: needs {found}, this program reads {supported}; {advice}", display_path(path))
            }
            Error::Length { path, found, expected, is_stated } => {
                let what = if found < expected { "truncated" } else { "too long" };
                let whose = if *is_stated { "as its header says" } else { "at least, for the header" };
                write!(
                    f,
                    "{}: {what}: has {found} bytes, expected {expected} {whose}; copy or pack it again",
                    display_path(path)
                )
            }
            Error::Damaged { path, place, found, expected } => write!(
                f,
                "{}: {place}: found {found}, expected {expected}; the file is damaged, copy or pack it again",
                display_path(path)
            ),
            Error::Unfinished { path } => write!(
                f,
                "{}: changed less than two seconds before it was opened and has holes of more than 16 MiB, as a file that \
                 is still being copied; wait until it is whole, and run again",
                display_path(path)
            ),
            Error::Changed { path } => write!(
                f,
                "{}: changed while it was in use, so that these results are worth nothing; replace a model by renaming, as \
                 olmo-pack does, and run again",
                display_path(path)
            ),
            Error::Config { path, source } => write!(f, "{}: {source}; pack the weights again", display_path(path)),
            Error::Tokens { path, problem } => write!(f, "{}: {problem}", display_path(path)),
            Error::Memory { bytes, what, advice } => {
                write!(f, "the system does not give {bytes} bytes of memory for {what}; {advice}")
            }
            Error::NotRun { why } => why.fmt(f),
            Error::Request { problem } => f.write_str(problem),
            Error::NotFinite { position, token, first, .. } => {
                write!(f, "logit of token {token} at position {position} is not a finite number")?;
                match first {
                    Some((position, layer)) => {
                        write!(f, ", the first ones were computed at position {position} in layer {layer}")?
                    }
                    None => write!(f, ", which comes from the last norm or the head")?,
                }
                f.write_str("; check the file with olmo-pack verify, and the weights with olmo-pack")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Config { source, .. } => Some(source),
            _ => None,
        }
    }
}
