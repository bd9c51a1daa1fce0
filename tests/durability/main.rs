//! Failures from outside: signals, power cuts, faults of disks and of calls, lack of memory, changed files.

mod budgets;
mod changed_models;
mod disk_faults;
mod failed_calls;
mod limits;
mod no_memory;
mod opening;
mod pack_output;
mod power_cuts;
mod signals;
mod slow_disk;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
