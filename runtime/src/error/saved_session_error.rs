//! Why a saved session cannot be loaded.

use std::fmt;

/// Why a file is not a saved session that this model can continue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SavedSessionError {
    /// It does not begin as a saved session does.
    NotASession,
    /// It has another version of the format.
    Version {
        /// The version found.
        found: u32,
        /// The one that is read.
        supported: u32,
    },
    /// Its length is another one than its header states.
    Length {
        /// Length in bytes.
        found: u64,
        /// Length in the header, or the least that a saved session has.
        expected: u64,
    },
    /// It belongs to another model: other weights, another encoding or another configuration.
    OtherModel {
        /// Identity of the model that it was saved from.
        found: u64,
        /// Identity of this model.
        expected: u64,
    },
    /// A field is not what the format allows, or a digest is not that of the bytes.
    Damaged {
        /// Field or digest.
        place: &'static str,
        /// The value found.
        found: u64,
        /// What is allowed.
        expected: String,
    },
}

impl fmt::Display for SavedSessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SavedSessionError::NotASession => {
                f.write_str("not a saved session; give a file that a session was saved to")
            }
            SavedSessionError::Version { found, supported } => {
                write!(f, "saved as version {found}, this program reads {supported}; evaluate the tokens again")
            }
            SavedSessionError::Length { found, expected } => {
                let what = if found < expected { "truncated" } else { "too long" };
                write!(f, "{what}: has {found} bytes, expected {expected}; copy it again, or evaluate the tokens again")
            }
            SavedSessionError::OtherModel { found, expected } => write!(
                f,
                "saved from the model {found:016x}, this one is {expected:016x}; open the model that it was saved from, or \
                 evaluate the tokens again"
            ),
            SavedSessionError::Damaged { place, found, expected } => write!(
                f,
                "{place}: found {found}, expected {expected}; the file is damaged, copy it again or evaluate the tokens \
                 again"
            ),
        }
    }
}

impl std::error::Error for SavedSessionError {}
