//! The team: threads that stay together for a whole run and meet at bounded spin waits.
//!
//! rayon's pool is entered once (`broadcast`). The leader runs the forward pass as ordinary sequential code and hands
//! each phase to the team; between phases the others spin for a moment, then yield, then park, so that a slow reader of
//! the output or a missing core costs power for a fraction of a millisecond only. A token has about 100
//! phases, so waking parked threads for each of them would show.
//!
//! Work is cut into items. Each thread owns a contiguous range of them, so that it streams through memory, and takes
//! items from the end of another's range when its own is used up. Every item is computed by exactly one thread and the
//! items do not depend on the number of threads, so the results do not either.

#![allow(unsafe_code)]

use crate::grid::{Block, Grid};
use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a waiting thread spins before it lets others run.
const SPIN: Duration = Duration::from_micros(200);
/// How often it then yields before it parks.
const YIELDS: u32 = 100;
/// Pauses between two looks at the clock while spinning.
const PAUSES_PER_LOOK: u32 = 64;

/// What a thread runs in a phase; the argument is its index.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// A value on cache lines of its own, so that threads do not slow each other by writing neighbours.
#[repr(align(128))]
struct Padded<T>(T);

/// What the threads share.
struct Shared {
    /// Number of the current phase; a change is the signal to begin.
    phase: Padded<AtomicU32>,
    /// Threads that still work on the current phase, the leader not counted.
    pending: Padded<AtomicUsize>,
    /// What to run in the current phase.
    task: UnsafeCell<Option<Task<'static>>>,
    /// Set before the last phase change.
    stop: AtomicBool,
    /// The first panic of a worker, until the leader passes it on.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Each thread's handle, once it runs, and whether it sleeps. The leader is thread 0.
    sleepers: Vec<Padded<Sleeper>>,
    /// Each thread's items of the current phase: next in the low half, end in the high half.
    ranges: Vec<Padded<AtomicU64>>,
    /// Whether spinning is of use: not with more threads than cores.
    spin: bool,
}

#[derive(Default)]
struct Sleeper {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
}

// SAFETY: `task` is the only field that is not Sync by itself. The leader writes it while no worker reads: between the
// moment `pending` reached 0 and the next change of `phase`; workers read it after they saw that change (Release and
// Acquire on `phase`) and before they decrement `pending`.
unsafe impl Sync for Shared {}

impl Shared {
    /// Waits until `ready`, spinning first; `me` sleeps when it takes longer.
    fn wait(&self, me: usize, ready: &dyn Fn() -> bool) {
        if ready() {
            return;
        }
        if self.spin {
            let begun = Instant::now();
            loop {
                for _ in 0..PAUSES_PER_LOOK {
                    std::hint::spin_loop();
                    if ready() {
                        return;
                    }
                }
                if begun.elapsed() > SPIN {
                    break;
                }
            }
        }
        for _ in 0..YIELDS {
            thread::yield_now();
            if ready() {
                return;
            }
        }
        let sleeper = &self.sleepers[me].0;
        loop {
            sleeper.asleep.store(true, Ordering::SeqCst);
            // Looked at after `asleep` is set: whoever makes it ready afterwards sees the flag and wakes us.
            let is_ready = ready();
            if !is_ready {
                thread::park();
            }
            sleeper.asleep.store(false, Ordering::SeqCst);
            if is_ready || ready() {
                return;
            }
        }
    }

    /// Wakes thread `index` if it sleeps.
    fn wake(&self, index: usize) {
        let sleeper = &self.sleepers[index].0;
        if sleeper.asleep.load(Ordering::SeqCst)
            && let Some(thread) = sleeper.thread.get()
        {
            thread.unpark();
        }
    }

    /// The life of a worker: a phase after another until the stop.
    fn work(&self, me: usize) {
        let _first_and_only = self.sleepers[me].0.thread.set(thread::current());
        let mut seen = 0;
        loop {
            self.wait(me, &|| self.phase.0.load(Ordering::SeqCst) != seen);
            seen = seen.wrapping_add(1);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: the leader wrote the task before it changed `phase`, and keeps it until `pending` is 0.
            let task = unsafe { *self.task.get() }.expect("a task is set before the phase changes");
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(me))) {
                // Nobody panics while holding this lock.
                self.panic.lock().expect("not poisoned").get_or_insert(panic);
            }
            if self.pending.0.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.wake(0);
            }
        }
    }

    /// The next item of thread `me`, its own or another's.
    fn next_item(&self, me: usize) -> Option<usize> {
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
                // Relaxed: the range is only a ticket counter, the phase orders the data.
                match range.compare_exchange_weak(packed, left, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return Some(item as usize),
                    Err(now) => packed = now,
                }
            }
        }
        None
    }
}

/// The leader's handle on the threads of a run. It stays on the leader's thread, which is the one the others wake.
pub struct Team<'a> {
    shared: &'a Shared,
    stays_here: PhantomData<*const ()>,
}

/// Runs `body` with a team of `n_threads` threads, the caller's place taken by one of them.
///
/// When the system does not give that many threads, fewer do the work: the results are the same.
pub fn with_team<R: Send>(n_threads: usize, body: impl FnOnce(&mut Team<'_>) -> R + Send) -> R {
    let mut n_threads = n_threads.max(1);
    let pool = loop {
        if n_threads == 1 {
            break None;
        }
        let builder = rayon::ThreadPoolBuilder::new().num_threads(n_threads).thread_name(|i| format!("olmo-{i}"));
        match builder.build() {
            Ok(pool) => {
                n_threads = pool.current_num_threads();
                break Some(pool);
            }
            Err(_refused_by_the_system) => n_threads /= 2,
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let shared = Shared {
        phase: Padded(AtomicU32::new(0)),
        pending: Padded(AtomicUsize::new(0)),
        task: UnsafeCell::new(None),
        stop: AtomicBool::new(false),
        panic: Mutex::new(None),
        sleepers: (0..n_threads).map(|_| Padded(Sleeper::default())).collect(),
        ranges: (0..n_threads).map(|_| Padded(AtomicU64::new(0))).collect(),
        spin: n_threads <= cores,
    };
    let lead = |body: Box<dyn FnOnce(&mut Team<'_>) -> R + Send + '_>| {
        let _first_and_only = shared.sleepers[0].0.thread.set(thread::current());
        // Whatever happens in the body, the workers must be told to leave.
        let result = catch_unwind(AssertUnwindSafe(|| body(&mut Team { shared: &shared, stays_here: PhantomData })));
        shared.stop.store(true, Ordering::Release);
        shared.phase.0.fetch_add(1, Ordering::SeqCst);
        (1..n_threads).for_each(|worker| shared.wake(worker));
        result.unwrap_or_else(|panic| resume_unwind(panic))
    };
    let Some(pool) = pool else {
        return lead(Box::new(body));
    };
    let body = Mutex::new(Some(body));
    let mut results = pool.broadcast(|context| {
        if context.index() != 0 {
            shared.work(context.index());
            return None;
        }
        let body = body.lock().ok().and_then(|mut body| body.take()).expect("the leader runs once");
        Some(lead(Box::new(body)))
    });
    results.swap_remove(0).expect("the leader has index 0")
}

impl Team<'_> {
    /// Number of threads, the leader included.
    pub fn n_threads(&self) -> usize {
        self.shared.ranges.len()
    }

    /// One phase: every thread runs `task` with its index, and all have finished when this returns.
    fn phase(&mut self, task: Task<'_>) {
        let shared = self.shared;
        let workers = self.n_threads() - 1;
        if workers == 0 {
            return task(0);
        }
        // SAFETY: no worker reads the slot now (see `Sync for Shared`), and this function does not return, not even by
        // a panic, before every worker has finished with the task: the longer lifetime is never used.
        unsafe { *shared.task.get() = Some(std::mem::transmute::<Task<'_>, Task<'static>>(task)) };
        shared.pending.0.store(workers, Ordering::SeqCst);
        shared.phase.0.fetch_add(1, Ordering::SeqCst);
        (1..=workers).for_each(|worker| shared.wake(worker));
        let own = catch_unwind(AssertUnwindSafe(|| task(0)));
        shared.wait(0, &|| shared.pending.0.load(Ordering::SeqCst) == 0);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if let Some(panic) = shared.panic.lock().expect("not poisoned").take() {
            resume_unwind(panic);
        }
    }

    /// Runs `body` once for every item below `n_items`, in no order. One item runs here, without waking anybody.
    ///
    /// # Panics
    /// When `body` does, or for 2^32 items or more.
    pub fn for_each(&mut self, n_items: usize, body: impl Fn(usize) + Sync) {
        if n_items <= 1 || self.n_threads() == 1 {
            return (0..n_items).for_each(body);
        }
        let shared = self.shared;
        let n_threads = self.n_threads();
        let n_items = u32::try_from(n_items).expect("fewer than 2^32 items");
        // Thread t begins with items t * n / threads .. (t + 1) * n / threads.
        let bound = |thread: usize| (u64::from(n_items) * thread as u64) / n_threads as u64;
        for (thread, range) in shared.ranges.iter().enumerate() {
            range.0.store(bound(thread + 1) << 32 | bound(thread), Ordering::Relaxed);
        }
        self.phase(&|me| {
            while let Some(item) = shared.next_item(me) {
                body(item);
            }
        });
    }

    /// Runs `body` once for every block of every grid; `body` gets the index of the grid and its part of the output.
    pub fn for_blocks(&mut self, grids: &mut [Grid<'_>], body: impl Fn(usize, Block<'_>) + Sync) {
        let n_items = grids.iter().map(Grid::n_blocks).sum();
        let grids = &*grids;
        self.for_each(n_items, |mut item| {
            let mut index = 0;
            while item >= grids[index].n_blocks() {
                item -= grids[index].n_blocks();
                index += 1;
            }
            // SAFETY: `for_each` hands out each item once, so each block of each grid once.
            body(index, unsafe { grids[index].block(item) });
        });
    }

    /// Runs `body` once for every row of a row-major matrix of that width, with the row's index.
    pub fn for_rows<T: Send>(&mut self, data: &mut [T], width: usize, body: impl Fn(usize, &mut [T]) + Sync) {
        let mut rows = Grid::new(data, width, 1, width);
        self.for_blocks_of(&mut rows, |row, block| body(row, block.into_row()));
    }

    /// As [`Team::for_rows`] for two matrices of the same shape, row by row together.
    pub fn for_row_pairs(
        &mut self,
        a: &mut [f32],
        b: &mut [f32],
        width: usize,
        body: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        assert!(a.len() == b.len());
        let (a, b) = (&Grid::new(a, width, 1, width), &Grid::new(b, width, 1, width));
        self.for_each(a.n_blocks(), |row| {
            // SAFETY: `for_each` hands out each row once.
            let (a, b) = unsafe { (a.block(row), b.block(row)) };
            body(row, a.into_row(), b.into_row());
        });
    }

    fn for_blocks_of<T: Send>(&mut self, grid: &mut Grid<'_, T>, body: impl Fn(usize, Block<'_, T>) + Sync) {
        let grid = &*grid;
        // SAFETY: `for_each` hands out each item once, so each block once.
        self.for_each(grid.n_blocks(), |item| body(item, unsafe { grid.block(item) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once_for_any_number_of_threads() {
        for n_threads in [1, 2, 3, 5, 8] {
            with_team(n_threads, |team| {
                for n_items in [0, 1, 2, 7, 64, 1000] {
                    let counts: Vec<AtomicUsize> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
                    team.for_each(n_items, |item| {
                        counts[item].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{n_threads} {n_items}");
                }
            });
        }
    }

    #[test]
    fn blocks_tile_the_matrix_without_overlap() {
        with_team(3, |team| {
            for (rows, width, block_rows, block_columns) in [(5, 7, 2, 3), (1, 64, 1, 16), (8, 8, 8, 8), (3, 10, 1, 64)]
            {
                let mut data = vec![0u32; rows * width];
                let mut grid = Grid::new(&mut data, width, block_rows, block_columns);
                team.for_blocks_of(&mut grid, |_, mut block| {
                    for row in 0..block.rows() {
                        let first = ((block.first_row() + row) * width + block.first_column()) as u32;
                        block.row(row).iter_mut().zip(first..).for_each(|(cell, number)| *cell += number + 1);
                    }
                });
                assert!(data.iter().zip(1..).all(|(&cell, number)| cell == number));
            }
        });
    }

    #[test]
    fn many_phases_and_pauses_neither_lose_nor_repeat_work() {
        with_team(4, |team| {
            let total = AtomicUsize::new(0);
            for phase in 0..2000 {
                team.for_each(8, |item| {
                    total.fetch_add(item, Ordering::Relaxed);
                });
                if phase % 500 == 0 {
                    thread::sleep(Duration::from_millis(5)); // Long enough for the others to park.
                }
            }
            assert_eq!(total.load(Ordering::Relaxed), 2000 * 28);
        });
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller() {
        for culprit in [0, 7] {
            let result = catch_unwind(|| with_team(2, |team| team.for_each(8, |item| assert_ne!(item, culprit))));
            assert!(result.is_err());
        }
    }
}
