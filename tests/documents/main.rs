//! Documents and lock files agree with the sources.

mod catalogue;
mod locked_versions;
mod rooms;
mod spec_hexdump;
mod spec_tables;
mod unsafe_files;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
