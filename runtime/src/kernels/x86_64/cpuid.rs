//! What the processor reports about itself.

#![allow(unsafe_code, reason = "an instruction that every x86-64 has")]

use std::arch::x86_64::{__cpuid_count, CpuidResult};

/// A leaf of `CPUID`; zeros when there is no such leaf.
pub fn cpuid(leaf: u32, part: u32) -> CpuidResult {
    // Older compilers call the function unsafe.
    #[allow(unused_unsafe, reason = "newer compilers do not")]
    // SAFETY: every x86-64 has the instruction, and answers for leaf 0.
    unsafe {
        if leaf <= __cpuid_count(0, 0).eax {
            __cpuid_count(leaf, part)
        } else {
            CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
        }
    }
}

/// Whether it states this vendor.
pub fn is_made_by(vendor: &[u8; 12]) -> bool {
    let leaf = cpuid(0, 0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == vendor
}
