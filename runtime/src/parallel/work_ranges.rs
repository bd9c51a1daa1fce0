//! The assignment of the items of a phase to threads. Each thread has its own range. When that is empty, it takes items
//! from the end of other ranges. No item is taken twice.

use super::padded::Padded;
use super::sync::{AtomicU64, Ordering};

/// The remaining items of each thread's range.
pub(crate) struct WorkRanges {
    /// Next item in the low half, end in the high half.
    ranges: Vec<Padded<AtomicU64>>,
}

impl WorkRanges {
    /// Empty ranges for `n_threads` threads.
    pub(crate) fn new(n_threads: usize) -> WorkRanges {
        WorkRanges { ranges: (0..n_threads).map(|_| Padded(AtomicU64::new(0))).collect() }
    }

    /// Assigns `n_items` new items to the threads below `n_threads`: thread t gets those from t * n / threads to
    /// (t + 1) * n / threads. All earlier items have been taken. A thread that takes a new one sees what the caller wrote
    /// before.
    pub(crate) fn assign(&self, n_items: u32, n_threads: usize) {
        let bound = |thread: usize| u64::from(n_items) * thread as u64 / n_threads as u64;
        for (thread, range) in self.ranges[..n_threads].iter().enumerate() {
            // Only a range with items is changed by others. A thread that has read an earlier value changes the range
            // only if it is the same as this one; then it takes an item of this one.
            range.0.store(bound(thread + 1) << 32 | bound(thread), Ordering::Release);
        }
    }

    /// Takes the next item for thread `me`, from its own range or from another.
    pub(crate) fn take(&self, me: usize) -> Option<usize> {
        let n_threads = self.ranges.len();
        for other in (me..n_threads).chain(0..me) {
            let range = &self.ranges[other].0;
            let mut packed = range.load(Ordering::Relaxed);
            loop {
                let (next, end) = (packed as u32, (packed >> 32) as u32);
                if next >= end {
                    break;
                }
                // The owner takes from the front, others from the back.
                let (item, left) = if other == me {
                    (next, u64::from(end) << 32 | u64::from(next + 1))
                } else {
                    (end - 1, u64::from(end - 1) << 32 | u64::from(next))
                };
                // Acquire: what was written before the items were assigned. The exchanges of others between that store
                // and this one do not break the order, and what the items write is ordered by the barrier.
                match range.compare_exchange_weak(packed, left, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Some(item as usize),
                    Err(now) => packed = now,
                }
            }
        }
        None
    }

    /// Takes all items; returns how many.
    pub(crate) fn clear(&self) -> u32 {
        let n_items = |packed: u64| (packed >> 32) as u32 - packed as u32;
        self.ranges.iter().map(|range| n_items(range.0.swap(0, Ordering::Relaxed))).sum()
    }
}
