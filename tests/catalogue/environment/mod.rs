//! The catalogue of bad inputs, rows E: arguments, standard streams, signals, limits and file systems, for every
//! program that they concern.

mod arguments;
mod disks;
mod limits;
mod outputs;
mod place;
mod processors;
mod signals;
mod streams;
mod surroundings;

use std::time::Duration;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
const BENCH: &str = env!("CARGO_BIN_EXE_tested-olmo-bench");

/// After this time something hangs.
const HANG: Duration = Duration::from_secs(20);
