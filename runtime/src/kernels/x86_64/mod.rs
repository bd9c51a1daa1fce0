//! The microkernels of x86-64.

#![allow(unsafe_code, reason = "an empty line of assembly")]

#[allow(dead_code, reason = "no `Isa` takes it yet")]
pub mod amx;
#[allow(dead_code, reason = "no `Isa` takes it yet")]
pub mod amx_detection;
pub mod avx2;
pub mod avx512;

/// `k`, hidden from the compiler, which then loads again what it has loaded from there. Loads are cheap; keeping the
/// activations of all rows takes registers that the accumulators need.
#[inline(always)]
fn again(mut k: usize) -> usize {
    // SAFETY: the line of assembly is a comment: no instruction.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) k, options(nomem, nostack, preserves_flags)) };
    k
}
