//! Arguments, standard streams, signals, limits and file systems, for every program that they concern.

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

/// After this time something hangs.
const HANG: Duration = Duration::from_secs(20);
