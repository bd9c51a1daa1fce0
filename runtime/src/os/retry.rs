//! Calls that a signal interrupts.

use std::io;

/// How often a call may be interrupted in a row: more than any signals do, and less than forever.
const MAX_INTERRUPTIONS: u32 = 1000;

/// Repeats a call as long as a signal interrupts it.
///
/// # Errors
/// Those of the call.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut n_interruptions = 0;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && n_interruptions < MAX_INTERRUPTIONS => {
                n_interruptions += 1;
            }
            result => return result,
        }
    }
}
