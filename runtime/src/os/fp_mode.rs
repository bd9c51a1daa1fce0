//! How the processor rounds. Every result assumes what each thread begins with: to nearest, ties to even, with
//! subnormal numbers. A library in the same process may have changed that for the thread that calls, and threads
//! inherit it.

#![allow(unsafe_code)]

use crate::error::{Error, NotRun};

/// Makes sure that this thread computes as `format-spec.md` says.
///
/// # Errors
/// [`Error::NotRun`] when it flushes subnormal numbers or rounds otherwise.
pub fn check() -> Result<(), Error> {
    if mode::is_usual() {
        return Ok(());
    }
    Err(Error::NotRun { why: NotRun::Rounding })
}

/// Makes this thread, which is one of ours, compute as `format-spec.md` says.
///
/// # Errors
/// As [`check`], on processors whose mode is not known here.
pub fn restore() -> Result<(), Error> {
    mode::restore();
    check()
}

/// x86-64: the register MXCSR, which all SSE and AVX instructions obey.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod mode {
    use std::arch::asm;

    /// Rounding other than to nearest, results and operands that are flushed.
    const UNUSUAL: u32 = 3 << 13 | 1 << 15 | 1 << 6;
    /// No exception is a signal.
    const MASKS: u32 = 0x3f << 7;

    fn get() -> u32 {
        let mut mode = 0u32;
        // SAFETY: every processor that this is compiled for has the instruction, which writes a u32 to this address.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack, preserves_flags)) };
        mode
    }

    pub fn is_usual() -> bool {
        get() & UNUSUAL == 0
    }

    pub fn restore() {
        let mode = get();
        let usual = mode & !UNUSUAL | MASKS;
        if mode != usual {
            // SAFETY: as above, it reads a u32; no reserved bit is set that was not set before, and the mode is the
            // one that the compiler takes for granted.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const usual, options(nostack, readonly)) };
        }
    }
}

/// AArch64: the register FPCR.
#[cfg(all(target_arch = "aarch64", not(miri)))]
mod mode {
    use std::arch::asm;

    /// Rounding other than to nearest, numbers that are flushed, and the alternate behaviour.
    const UNUSUAL: u64 = 3 << 22 | 1 << 24 | 1 << 19 | 0b11;

    pub fn is_usual() -> bool {
        let mode: u64;
        // SAFETY: reading the register changes nothing.
        unsafe { asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags)) };
        mode & UNUSUAL == 0
    }

    pub fn restore() {
        if !is_usual() {
            // SAFETY: zero is the mode that the compiler takes for granted.
            unsafe { asm!("msr fpcr, {}", in(reg) 0u64, options(nomem, nostack)) };
        }
    }
}

/// Elsewhere the mode shows in what is computed, and cannot be set.
#[cfg(any(test, miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod by_results {
    use std::hint::black_box;

    pub fn is_usual() -> bool {
        // The compiler must not compute these itself: it always rounds in the usual way.
        let (one, half_step) = (black_box(1.0f32), black_box(f32::EPSILON / 2.0));
        let to_even = one + half_step == 1.0 && one + 3.0 * half_step == 1.0 + 2.0 * f32::EPSILON;
        let to_nearest = -one - half_step == -1.0 && one + 1.5 * half_step == 1.0 + f32::EPSILON;
        let keeps_results = black_box(f32::MIN_POSITIVE) * 0.5 != 0.0;
        let keeps_operands = black_box(f32::from_bits(1)) * black_box(2f32.powi(100)) != 0.0;
        to_even && to_nearest && keeps_results && keeps_operands
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod mode {
    pub use super::by_results::is_usual;

    pub fn restore() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_computes_as_it_should() {
        assert!(by_results::is_usual());
        check().unwrap_or_else(|error| panic!("{error}"));
        restore().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Flush to zero, denormals are zero, and the three ways to round that are not the usual one.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn every_other_mode_is_seen_and_set_right() {
        for bits in [1u32 << 15, 1 << 6, 1 << 13, 2 << 13, 3 << 13] {
            let mut mode = 0u32;
            // SAFETY: both instructions take the address of a u32 that lives here, and the mode set is a valid one.
            // What is computed meanwhile is the code under test.
            unsafe {
                std::arch::asm!("stmxcsr [{}]", in(reg) &mut mode);
                std::arch::asm!("ldmxcsr [{}]", in(reg) &(mode | bits));
            }
            let before = (check().is_ok(), by_results::is_usual());
            let after = (restore().is_ok(), by_results::is_usual());
            assert_eq!((before, after), ((false, false), (true, true)), "{bits:x}");
        }
    }
}
