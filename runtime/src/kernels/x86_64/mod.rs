//! The microkernels of x86-64.

pub mod avx2;
pub mod avx512;

/// `k`, which the compiler takes for another number: what was loaded from there is loaded again. Loads are cheap; to keep
/// the activations of all rows takes registers that the accumulators need.
#[inline(always)]
fn again(mut k: usize) -> usize {
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) k, options(nomem, nostack, preserves_flags)) };
    k
}
