//! The primitives of the barrier, the work ranges and the turns, in a file of their own so that the model checker of
//! `barrier_model.rs` can replace them.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex};
pub(crate) use std::thread::{Thread, current, park};
use std::time::{Duration, Instant};

/// How long a waiting thread spins before it lets others run.
const SPIN: Duration = Duration::from_micros(200);
/// How often it then yields before it parks.
const YIELDS: u32 = 100;
/// Pauses between two looks at the clock while spinning.
const PAUSES_PER_LOOK: u32 = 64;

/// Pauses of a wait that does not look at the clock.
const PAUSES: u32 = 256;

/// Waits a few microseconds until `ready`. Returns whether it is ready.
pub(crate) fn spin_briefly(ready: &dyn Fn() -> bool) -> bool {
    (0..PAUSES).any(|_| {
        let is_ready = ready();
        if !is_ready {
            std::hint::spin_loop();
        }
        is_ready
    })
}

/// Waits a moment until `ready`: spins, where that is of use, and lets others run. Returns whether it is ready.
pub(crate) fn wait_a_moment(spin: bool, ready: &dyn Fn() -> bool) -> bool {
    if ready() {
        return true;
    }
    if spin {
        let begun = Instant::now();
        while begun.elapsed() <= SPIN {
            for _ in 0..PAUSES_PER_LOOK {
                std::hint::spin_loop();
                if ready() {
                    return true;
                }
            }
        }
    }
    (0..YIELDS).any(|_| {
        std::thread::yield_now();
        ready()
    })
}
