//! The operating system: memory, signals, files, and the floating-point mode of a thread.

pub mod allocator;
#[cfg(feature = "files")]
pub mod atomic_file;
#[cfg(feature = "compute")]
pub mod cpu_clock;
#[cfg(feature = "files")]
pub mod directory;
#[cfg(feature = "files")]
pub mod disk;
pub mod file_state;
pub mod file_system;
pub mod fp_mode;
pub mod holes;
#[cfg(all(feature = "files", feature = "internals"))]
pub mod hooked_disk;
#[cfg(feature = "files")]
pub mod made_folders;
pub mod mapped_ranges;
pub mod memory;
#[cfg(feature = "files")]
pub mod output_file;
#[cfg(feature = "files")]
pub mod place;
mod raw_line;
#[cfg(feature = "files")]
pub mod retry;
pub mod signals;
pub mod spawn;
pub mod temporary_names;
pub mod terminal;
pub mod tile_permission;
pub mod zeroed;
