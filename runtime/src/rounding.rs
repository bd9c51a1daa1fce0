//! How the processor rounds. Every result assumes what each thread begins with: to nearest, ties to even, with
//! subnormal numbers. A library in the same process may have changed that for the thread that calls, and threads
//! inherit it.

use crate::error::Error;
use std::hint::black_box;

/// Makes sure that this thread computes as `format-spec.md` says.
///
/// # Errors
/// [`Error::Request`] when it flushes subnormal numbers or rounds otherwise.
pub fn check() -> Result<(), Error> {
    // The compiler must not compute these itself: it always rounds in the usual way.
    let (one, half_step) = (black_box(1.0f32), black_box(f32::EPSILON / 2.0));
    let to_even = one + half_step == 1.0 && one + 3.0 * half_step == 1.0 + 2.0 * f32::EPSILON;
    let to_nearest = -one - half_step == -1.0 && one + 1.5 * half_step == 1.0 + f32::EPSILON;
    let keeps_results = black_box(f32::MIN_POSITIVE) * 0.5 != 0.0;
    let keeps_operands = black_box(f32::from_bits(1)) * black_box(2f32.powi(100)) != 0.0;
    if to_even && to_nearest && keeps_results && keeps_operands {
        return Ok(());
    }
    Err(Error::Request {
        problem:
            "this thread rounds or flushes otherwise than processors do by default, so that results would not be the \
                  same everywhere; call from a thread whose mode no other library has changed"
                .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_computes_as_it_should() {
        check().unwrap_or_else(|error| panic!("{error}"));
    }
}
