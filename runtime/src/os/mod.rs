//! The operating system: memory, signals, files, and the floating-point mode of a thread.

pub mod allocator;
#[cfg(feature = "files")]
pub mod atomic_file;
#[cfg(feature = "files")]
pub mod directory;
#[cfg(feature = "files")]
pub mod disk;
pub mod file_state;
pub mod file_system;
pub mod fp_mode;
pub mod holes;
pub mod memory;
pub mod signals;
pub mod zeroed;
