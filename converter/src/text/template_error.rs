//! The error and the limit of functions that chat templates call.

use minijinja::{Error, ErrorKind};

/// Longest output of a template.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;

/// An error of a template that gives a function a value that it does not take.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}
