//! The library in other programs.

mod allocations;
mod allocator;
mod dependent;
mod examples;
mod no_handler;
mod saved_sessions;
mod scores;
mod sessions;
mod threads;
mod without_memory;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
