//! Errors with the values that a user needs to fix them, one line each.

use olmo_infer::internals::error::reason;
use olmo_infer::internals::error::shown;
pub use olmo_infer::internals::error::shown::{one_line as escaped, path_text as shown_path};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Most problems of a folder that are printed.
const SHOWN_PROBLEMS: usize = 10;

/// One defect of one file.
///
/// Displayed as `<path>[: <tensor>]: <found>[, expected <expected>][; <advice>]`.
///
/// Shown as `<path>[: <tensor>]: <found>[, expected <expected>][; <advice>]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// The tensor or the key, unless the path names it.
    pub tensor: Option<String>,
    /// What was found.
    pub found: String,
    /// The valid value.
    pub expected: Option<String>,
    /// What to do.
    pub advice: Option<String>,
}

impl Problem {
    /// A problem with `path`; `found` is the defect.
    pub fn new(path: impl AsRef<Path>, found: impl Into<String>) -> Problem {
        Problem { path: path.as_ref().to_path_buf(), tensor: None, found: found.into(), expected: None, advice: None }
    }

    /// A file that is not JSON, or whose JSON cannot be read.
    pub(crate) fn invalid_json(path: impl AsRef<Path>, error: impl Into<String>) -> Problem {
        Problem::new(path, error).expected("JSON").advice("correct it, or download it again")
    }

    /// Sets the tensor or key.
    pub fn tensor(mut self, tensor: impl Into<String>) -> Problem {
        self.tensor = Some(tensor.into());
        self
    }

    /// Sets the valid value.
    pub fn expected(mut self, expected: impl Into<String>) -> Problem {
        self.expected = Some(expected.into());
        self
    }

    /// Sets the advice.
    pub fn advice(mut self, advice: impl Into<String>) -> Problem {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = shown_path(&self.path);
        if let Some(tensor) = &self.tensor {
            line += &format!(": {tensor}");
        }
        line += &format!(": {}", self.found);
        if let Some(expected) = &self.expected {
            line += &format!(", expected {expected}");
        }
        if let Some(advice) = &self.advice {
            line += &format!("; {advice}");
        }
        f.write_str(&escaped(&line))
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Error {
    /// A file or a value is invalid.
    Problem(Box<Problem>),
    /// A weights folder or a model file has several defects.
    Several {
        /// The first of them, or all.
        problems: Vec<Problem>,
        /// The number of further problems.
        more: usize,
    },
    /// The OS returned an error.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failed action, as in "cannot open".
        action: &'static str,
        /// The error of the OS.
        source: io::Error,
    },
    /// A thread cannot be started.
    NoThread {
        /// The error of the OS.
        reason: String,
    },
    /// Some files of a folder were written before an error, and are kept.
    Partly {
        /// The error.
        source: Box<Error>,
        /// The number of files.
        n_written: usize,
    },
    /// The written file fails its check, and gets no name.
    Unreadable {
        /// The intended path of the file.
        path: PathBuf,
        /// The error of the reader.
        found: String,
    },
    /// The model file cannot be opened.
    Model(olmo_infer::internals::error::Error),
    /// The arguments contradict each other.
    Usage(String),
}

impl Error {
    /// An error of the OS for `action` on `path`.
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: impl Into<io::Error>) -> Error {
        Error::Io { path: path.as_ref().to_path_buf(), action, source: source.into() }
    }

    /// This error as problems, to collect those of a folder.
    pub fn into_problems(self) -> Vec<Problem> {
        match self {
            Error::Problem(problem) => vec![*problem],
            Error::Several { problems, .. } => problems,
            Error::Io { path, action, source } => vec![Problem::new(path, format!("{action}: {}", reason(&source)))],
            other => vec![Problem::new("", other.to_string())],
        }
    }

    /// The exit status for this error.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Usage(_)) { 2 } else { 1 }
    }
}

/// The problems of a folder: those to print, and the number of further ones. The further ones are not stored, as a
/// folder can have a hundred thousand.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    shown: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        self.push_with(|| problem);
    }

    /// Adds a problem that is built only if it will be printed.
    pub(crate) fn push_with(&mut self, problem: impl FnOnce() -> Problem) {
        if self.shown.len() < SHOWN_PROBLEMS {
            self.shown.push(problem());
        } else {
            self.more += 1;
        }
    }

    /// Adds the problems of an error.
    pub(crate) fn extend(&mut self, error: Error) {
        self.more += if let Error::Several { more, .. } = &error { *more } else { 0 };
        error.into_problems().into_iter().for_each(|problem| self.push(problem));
    }

    /// All of them as one error.
    ///
    /// # Errors
    /// Every problem added.
    pub(crate) fn result(mut self) -> Result<(), Error> {
        match self.shown.len() {
            0 => Ok(()),
            1 if self.more == 0 => Err(self.shown.remove(0).into()),
            _ => Err(Error::Several { problems: self.shown, more: self.more }),
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Error {
        Error::Problem(Box::new(problem))
    }
}

impl From<olmo_infer::internals::error::Error> for Error {
    fn from(error: olmo_infer::internals::error::Error) -> Error {
        Error::Model(error)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Model(source) => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Problem(problem) => problem.fmt(f),
            Error::Several { problems, more } => {
                for (i, problem) in problems.iter().take(SHOWN_PROBLEMS).enumerate() {
                    write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
                }
                match problems.len().saturating_sub(SHOWN_PROBLEMS) + more {
                    0 => Ok(()),
                    more => write!(f, "\nand {more} more"),
                }
            }
            Error::Io { path, action, source } => {
                write!(f, "{}: {action}: {}", escaped(&shown_path(path)), reason(source))
            }
            Error::NoThread { reason } => {
                write!(f, "cannot start a thread: {reason}; raise the limits of processes and memory (ulimit -u, -v)")
            }
            Error::Partly { source, n_written } => {
                let files = match n_written {
                    1 => "1 file was already written and is kept",
                    n => &format!("{n} files were already written and are kept"),
                };
                write!(f, "{source}; {files}")
            }
            Error::Unreadable { path, found } => {
                let line = format!("{}: not written: the reader would reject it: {found}", shown_path(path));
                write!(f, "{}; this is a bug in olmo-pack or a disk error, please report it", escaped(&line))
            }
            Error::Model(error) => error.fmt(f),
            Error::Usage(text) => f.write_str(&escaped(text)),
        }
    }
}

/// `value` as one line of JSON, control characters escaped.
pub(crate) fn json_line(value: &serde_json::Value) -> String {
    shown::json_line(&value.to_string())
}

/// The beginning of a text that may be as long as a file.
pub(crate) fn shortened(text: &str, most_chars: usize) -> String {
    match text.char_indices().nth(most_chars) {
        None => text.to_string(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_line_escapes_control_characters() {
        let line = json_line(&serde_json::json!({ "a\n\u{9b}": ["\u{7f}\u{202e}", "é\u{a0}"] }));
        assert_eq!(line, "{\"a\\n\\u009b\":[\"\\u007f\\u202e\",\"é\u{a0}\"]}");
    }

    #[test]
    fn problem_is_one_line_for_any_file_name() {
        let problem = Problem::new("a\nb\u{1b}[31m\u{202e}", "x").tensor("t").expected("y").advice("do z");
        assert_eq!(problem.to_string(), "a\\nb\\u{1b}[31m\\u{202e}: t: x, expected y; do z");
    }

    #[test]
    fn problems_beyond_ten_are_counted() {
        let problems = (0..12).map(|i| Problem::new(format!("f{i}"), "bad")).collect();
        let text = Error::Several { problems, more: 1 }.to_string();
        assert_eq!(text.lines().count(), 11);
        assert!(text.ends_with("\nand 3 more"), "{text}");
    }
}
