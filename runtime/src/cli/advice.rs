//! Advice about options that several programs have, for the errors of the library.

use crate::error::Error;

/// The `--load` that avoids this error; `None` if none does.
pub fn of_load(error: &Error) -> Option<&'static str> {
    match error {
        Error::Map { .. } => Some("where files cannot be mapped, use --load read"),
        Error::ModelTooLarge { .. } => Some("map it instead, with --load mmap"),
        _ => None,
    }
}
