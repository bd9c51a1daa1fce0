//! The floating-point mode of the processor. Every result assumes the default mode: round to nearest, ties to even,
//! with subnormal numbers. A library in the same process may have changed it for the calling thread, and new threads
//! inherit it.

#![allow(unsafe_code, reason = "registers of the CPU")]

use crate::error::{Error, NotRun};

/// Checks that this thread has the floating-point mode of `format-spec.md`.
///
/// # Errors
/// [`Error::NotRun`] when the thread flushes subnormal numbers (FTZ, DAZ) or uses another rounding mode.
pub fn check() -> Result<(), Error> {
    if mode::is_default() {
        return Ok(());
    }
    Err(Error::NotRun { why: NotRun::Rounding })
}

/// Sets the floating-point mode of `format-spec.md` for this thread, which must be one of the library's own.
///
/// # Errors
/// As [`check`], on processors whose mode register is not supported here.
pub fn restore() -> Result<(), Error> {
    mode::restore();
    check()
}

/// x86-64: the register MXCSR, which all SSE and AVX instructions obey.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod mode {
    use std::arch::asm;

    /// The rounding mode other than to nearest, FTZ and DAZ.
    const NON_DEFAULT: u32 = 3 << 13 | 1 << 15 | 1 << 6;
    /// All exceptions masked: none raises a signal.
    const MASKS: u32 = 0x3f << 7;

    fn get() -> u32 {
        let mut mode = 0u32;
        // SAFETY: every x86-64 processor has SSE, and the instruction writes a u32 to this address.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut mode, options(nostack, preserves_flags)) };
        mode
    }

    pub fn is_default() -> bool {
        get() & NON_DEFAULT == 0
    }

    pub fn restore() {
        let mode = get();
        let default = mode & !NON_DEFAULT | MASKS;
        if mode != default {
            // SAFETY: as above, it reads a u32. No reserved bit is set that was not set before, and the mode is the one
            // that the compiler assumes.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack, readonly)) };
        }
    }
}

/// AArch64: the register FPCR.
#[cfg(all(target_arch = "aarch64", not(miri)))]
mod mode {
    use std::arch::asm;

    /// The rounding mode other than to nearest, FZ, FZ16 and the alternate behaviour (FIZ, AH).
    const NON_DEFAULT: u64 = 3 << 22 | 1 << 24 | 1 << 19 | 0b11;

    pub fn is_default() -> bool {
        let mode: u64;
        // SAFETY: reading the register has no side effect.
        unsafe { asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags)) };
        mode & NON_DEFAULT == 0
    }

    pub fn restore() {
        if !is_default() {
            // SAFETY: zero is the mode that the compiler assumes.
            unsafe { asm!("msr fpcr, {}", in(reg) 0u64, options(nomem, nostack)) };
        }
    }
}

/// Other processors: the mode is detected by computing, and cannot be set.
#[cfg(any(test, miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod by_results {
    use std::hint::black_box;

    pub fn is_default() -> bool {
        // `black_box`: the compiler evaluates constants in the default mode.
        let (one, half_step) = (black_box(1.0f32), black_box(f32::EPSILON / 2.0));
        let ties_to_even = one + half_step == 1.0 && one + 3.0 * half_step == 1.0 + 2.0 * f32::EPSILON;
        let to_nearest = -one - half_step == -1.0 && one + 1.5 * half_step == 1.0 + f32::EPSILON;
        let keeps_results = black_box(f32::MIN_POSITIVE) * 0.5 != 0.0;
        let keeps_operands = black_box(f32::from_bits(1)) * black_box(2f32.powi(100)) != 0.0;
        ties_to_even && to_nearest && keeps_results && keeps_operands
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod mode {
    pub use super::by_results::is_default;

    pub fn restore() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_has_default_mode() {
        assert!(by_results::is_default());
        check().unwrap_or_else(|error| panic!("{error}"));
        restore().unwrap_or_else(|error| panic!("{error}"));
    }

    /// FTZ, DAZ and the three other rounding modes.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn check_detects_and_restore_resets_every_other_mode() {
        for bits in [1u32 << 15, 1 << 6, 1 << 13, 2 << 13, 3 << 13] {
            let mut mode = 0u32;
            // SAFETY: both instructions take the address of a live u32, and the mode is a valid one. Only the code
            // under test computes with it.
            unsafe {
                std::arch::asm!("stmxcsr [{}]", in(reg) &mut mode);
                std::arch::asm!("ldmxcsr [{}]", in(reg) &(mode | bits));
            }
            let before = (check().is_ok(), by_results::is_default());
            let after = (restore().is_ok(), by_results::is_default());
            assert_eq!((before, after), ((false, false), (true, true)), "{bits:x}");
        }
    }
}
