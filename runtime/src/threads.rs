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

use crate::barrier::Barrier;
use crate::grid::{Block, Grid};
use crate::tickets::Tickets;
use memmap2::MmapOptions;
use rayon::ThreadPool;
use std::any::Any;
use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};

/// Stack of a thread; what std takes when nothing else is said, and here whatever the environment says.
const STACK_BYTES: usize = 2 << 20;
/// Address space beside the stack without which no thread is started: a new one ends the program when it does not get
/// the stack of its signal handlers, or no memory for what std keeps of it.
const START_BYTES: usize = 1 << 20;
/// Address space that a thread takes at most: malloc of glibc reserves twice 64 MiB, and does without where it must.
const AMPLE_BYTES: usize = 256 << 20;

/// What a thread runs in a phase; the argument is its index.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// What the threads share.
struct Shared {
    barrier: Barrier,
    /// What to run in the current phase.
    task: UnsafeCell<Option<Task<'static>>>,
    /// The first panic of a worker, until the leader passes it on.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The items of the current phase.
    tickets: Tickets,
}

// SAFETY: `task` is the only field that is not Sync by itself. The leader writes it while no worker reads: after
// `wait_for_all` and before the next `begin`; workers read it between `next_phase` and `arrive`. The barrier orders
// these, see tests/barrier_model.rs.
unsafe impl Sync for Shared {}

impl Shared {
    /// The life of a worker: a phase after another until the stop.
    fn work(&self, me: usize) {
        self.barrier.enter(me);
        let mut seen = 0;
        while self.barrier.next_phase(me, &mut seen) {
            // SAFETY: the leader wrote the task before it began the phase, and keeps it until all have arrived.
            let task = unsafe { *self.task.get() }.expect("a task is set before the phase changes");
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(me))) {
                // Nobody panics while holding this lock.
                self.panic.lock().expect("not poisoned").get_or_insert(panic);
            }
            self.barrier.arrive();
        }
    }
}

/// The leader's handle on the threads of a run. It stays on the leader's thread, which is the one the others wake.
pub struct Team<'a> {
    shared: &'a Shared,
    stays_here: PhantomData<*const ()>,
}

/// Threads that wait until there is something to do.
pub struct Threads {
    /// `None` when the caller's thread does everything.
    pool: Option<ThreadPool>,
}

impl Threads {
    /// So many threads, or fewer when the system does not give that many: the results are the same.
    pub fn new(n_threads: usize) -> Threads {
        let mut wanted = n_threads.max(1);
        while wanted > 1 {
            match pool(wanted) {
                Ok(pool) => return Threads { pool: Some(pool) },
                Err(_refused_by_the_system) => wanted /= 2,
            }
        }
        Threads { pool: None }
    }

    /// Runs `body` with the threads as a team, the caller's place taken by one of them. Waking them takes some tens of
    /// microseconds, so that a whole run is better than a token.
    pub fn run<R: Send>(&self, body: impl FnOnce(&mut Team<'_>) -> R + Send) -> R {
        let n_threads = self.pool.as_ref().map_or(1, ThreadPool::current_num_threads);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            barrier: Barrier::new(n_threads, n_threads <= cores),
            task: UnsafeCell::new(None),
            panic: Mutex::new(None),
            tickets: Tickets::new(n_threads),
        };
        let lead = |body: Box<dyn FnOnce(&mut Team<'_>) -> R + Send + '_>| {
            shared.barrier.enter(0);
            // Whatever happens in the body, the workers must be told to leave.
            let result =
                catch_unwind(AssertUnwindSafe(|| body(&mut Team { shared: &shared, stays_here: PhantomData })));
            shared.barrier.stop();
            result.unwrap_or_else(|panic| resume_unwind(panic))
        };
        let Some(pool) = &self.pool else {
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
}

/// A pool of so many threads, none of which ends the program for want of address space as it starts.
///
/// # Errors
/// The system gives fewer.
pub fn pool(n_threads: usize) -> Result<ThreadPool, rayon::ThreadPoolBuildError> {
    let is_ample = is_free(n_threads.saturating_mul(AMPLE_BYTES));
    let builder = rayon::ThreadPoolBuilder::new().num_threads(n_threads).thread_name(|i| format!("olmo-{i}"));
    builder.spawn_handler(|worker| start_worker(worker, is_ample)).build()
}

/// Whether the system gives so much address space. Nothing is written there, and it is given back.
fn is_free(bytes: usize) -> bool {
    MmapOptions::new().len(bytes).no_reserve_swap().map_anon().is_ok()
}

/// Starts a thread by `spawn`, which is to say first of all that it has started. Where address space is not ample, as
/// under `ulimit -v`, that is waited for, and none is started without enough left: what std does in a new thread has no
/// way to fail but to end the program.
fn guarded<H>(is_ample: bool, spawn: impl FnOnce(mpsc::SyncSender<()>) -> io::Result<H>) -> io::Result<H> {
    if !is_ample && !is_free(STACK_BYTES + START_BYTES) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let (started, has_started) = mpsc::sync_channel(1);
    let thread = spawn(started)?;
    if !is_ample {
        let _it_has_started = has_started.recv();
    }
    Ok(thread)
}

/// Starts a thread of a pool.
fn start_worker(worker: rayon::ThreadBuilder, is_ample: bool) -> io::Result<()> {
    let builder = thread::Builder::new().stack_size(STACK_BYTES).name(worker.name().unwrap_or_default().to_string());
    let run = |started: mpsc::SyncSender<()>| {
        builder.spawn(move || {
            // Nobody waits for it where there is plenty.
            let _nobody_waits = started.send(());
            worker.run();
        })
    };
    guarded(is_ample, run).map(drop)
}

/// Starts a thread of a scope, for work that can be done without it.
///
/// # Errors
/// The system gives no thread, or too little address space is left for one.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let builder = thread::Builder::new().stack_size(STACK_BYTES).name(name.into());
    guarded(is_free(AMPLE_BYTES), |started| {
        builder.spawn_scoped(scope, move || {
            let _nobody_waits = started.send(());
            body()
        })
    })
}

/// Runs `body` with a team of `n_threads` threads, for callers that need them once: see [`Threads`].
pub fn with_team<R: Send>(n_threads: usize, body: impl FnOnce(&mut Team<'_>) -> R + Send) -> R {
    Threads::new(n_threads).run(body)
}

impl Team<'_> {
    /// Number of threads, the leader included.
    pub fn n_threads(&self) -> usize {
        self.shared.tickets.n_threads()
    }

    /// One phase: every thread runs `task` with its index, and all have finished when this returns.
    fn phase(&mut self, task: Task<'_>) {
        let shared = self.shared;
        if self.n_threads() == 1 {
            return task(0);
        }
        // SAFETY: no worker reads the slot now (see `Sync for Shared`), and this function does not return, not even by
        // a panic, before every worker has finished with the task: the longer lifetime is never used.
        unsafe { *shared.task.get() = Some(std::mem::transmute::<Task<'_>, Task<'static>>(task)) };
        shared.barrier.begin();
        let own = catch_unwind(AssertUnwindSafe(|| task(0)));
        shared.barrier.wait_for_all();
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
        shared.tickets.lay_out(u32::try_from(n_items).expect("fewer than 2^32 items"));
        self.phase(&|me| {
            while let Some(item) = shared.tickets.take(me) {
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

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
