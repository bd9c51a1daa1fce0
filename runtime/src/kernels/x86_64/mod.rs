//! The microkernels of f32 products for x86-64.

pub mod avx2;
pub mod avx512;
