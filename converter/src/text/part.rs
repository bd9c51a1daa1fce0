//! What became of a part of the texts, and the limit of the files that it comes from.

use crate::error::Problem;
use std::path::Path;

/// Longest of the small files; real ones have a few KiB.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// A section that may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Part {
    /// The folder has no source for it.
    #[default]
    Absent,
    /// The folder lacks a source; the advice names it.
    Missing(&'static str),
    /// The source cannot be used, for this reason.
    Unknown(String),
    /// The bytes, and the name of the source file.
    Known(Vec<u8>, &'static str),
}

impl Part {
    /// For messages: the source, or why there is none.
    pub fn origin(&self) -> String {
        match self {
            Part::Absent => "none".into(),
            Part::Missing(problem) => format!("none: {problem}"),
            Part::Unknown(problem) => format!("none: {problem}"),
            Part::Known(_, name) => (*name).into(),
        }
    }
}

/// The error for a file of more than [`MAX_BYTES`].
pub(crate) fn too_long(path: &Path) -> Problem {
    Problem::new(path, "longer than 4 MiB").expected("a file of a few KiB")
}
