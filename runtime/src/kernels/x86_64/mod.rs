//! The microkernels of f32 products for x86-64, and the tiles of AMX.

pub mod amx;
pub mod amx_detection;
pub mod avx2;
pub mod avx512;
pub mod cpuid;
pub mod dot_speed;

#[cfg(all(test, target_os = "linux"))]
mod tests;
