//! The team: threads that stay together for the life of a model or a run and meet at bounded spin waits.
//!
//! Whoever calls [`Threads::run`] is the leader of a team until it returns. It runs the forward pass as ordinary
//! sequential code and hands each phase to the workers; between phases these spin for a moment, then yield, then park,
//! so that a slow reader of the output or a missing core costs power for a fraction of a millisecond only. A token has
//! about 100 phases, so waking parked threads for each of them would show. Between runs they wait in the same way:
//! nothing is handed over when a run begins or ends. A thread that waits for its turn to lead does nothing else.
//!
//! Work is cut into items. Each thread owns a contiguous range of them, so that it streams through memory, and takes
//! items from the end of another's range when its own is used up. Every item is computed by exactly one thread and the
//! items do not depend on the number of threads, so the results do not either.

#![allow(unsafe_code)]

use crate::error::{Error, NotRun};
use crate::kernels::grid::{OutputBlock, OutputGrid};
use crate::os::fp_mode;
use crate::os::memory;
use crate::os::spawn;
use crate::parallel::barrier::Barrier;
use crate::parallel::turns::Turns;
use crate::parallel::work_ranges::WorkRanges;
use std::any::Any;
use std::cell::{RefCell, UnsafeCell};
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Most threads of a team; more would only wait for each other.
pub const MAX_THREADS: usize = 1024;
/// What [`WORKS_FOR`] is, in errors.
const LISTS: &str = "the list of teams that a thread works for";

/// What a thread runs in a phase; the argument is its index.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// What the threads share.
struct Shared {
    barrier: Barrier,
    /// What to run in the current phase.
    task: UnsafeCell<Option<Task<'static>>>,
    /// The first panic of a worker, until the leader passes it on.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The items of the current phase that are left.
    ranges: WorkRanges,
    /// The number of the current run.
    run: AtomicU64,
    /// The teams that the leader of the current run is in.
    leads_in: Mutex<Vec<TeamId>>,
}

/// Tells teams apart: where the one's [`Shared`] lies.
type TeamId = usize;

thread_local! {
    /// The teams that this thread works for now, as their leader or as a worker, those around them included.
    static WORKS_FOR: RefCell<Vec<TeamId>> = const { RefCell::new(Vec::new()) };
}

// SAFETY: `task` is the only field that is not Sync by itself. The leader writes it while no worker reads: after
// `wait_for_all` and before the next `begin`; workers read it between `next_phase` and `arrive`. The barrier orders
// these, and the turns of `Threads` order the leaders, see barrier_model.rs.
unsafe impl Sync for Shared {}
// SAFETY: a task may be run by any thread, see `Task`; it is the only field that is not Send by itself.
unsafe impl Send for Shared {}

impl Shared {
    /// The life of a worker: a phase after another until the stop.
    fn work(&self, me: usize) {
        self.barrier.enter(me);
        let (mut seen, mut run) = (0, 0);
        while self.barrier.next_phase(me, &mut seen) {
            // SAFETY: the leader wrote the task before it began the phase, and keeps it until all have arrived.
            let task = unsafe { *self.task.get() }.expect("a task is set before the phase changes");
            let work = || {
                // Relaxed: the leader wrote it before it began the phase.
                let current = self.run.load(Ordering::Relaxed);
                if current != run {
                    self.join_run();
                    run = current;
                }
                task(me);
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                // Nobody panics while holding this lock.
                let mut first = self.panic.lock().expect("not poisoned");
                match &mut *first {
                    // One is enough, and dropping another could panic.
                    Some(_) => std::mem::forget(panic),
                    first => *first = Some(panic),
                }
            }
            self.barrier.arrive();
        }
    }

    /// A worker takes part in a new run.
    fn join_run(&self) {
        // The mode comes from whoever started this thread, or from an item of an earlier run. Where it cannot be set
        // no result is better than another one.
        fp_mode::restore().unwrap_or_else(|error| panic!("{error}"));
        let leads_in = self.leads_in.lock().expect("not poisoned");
        WORKS_FOR.with_borrow_mut(|teams| teams.clone_from(&leads_in));
    }

    fn id(&self) -> TeamId {
        std::ptr::from_ref(self).addr()
    }

    fn n_threads(&self) -> usize {
        self.ranges.n_threads()
    }
}

/// The leader's handle on the threads of a run. It stays on the leader's thread, which is the one the others wake.
pub struct Team<'a> {
    shared: &'a Shared,
    stays_here: PhantomData<*const ()>,
}

/// Threads that wait until there is something to do.
///
/// Any number of callers may have them run something at a time; they take turns, in the order in which they came. With
/// one thread, which is the caller's own, they do not wait for each other.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turns: Turns,
    /// The process that has the workers: a fork has none.
    process: u32,
}

impl Threads {
    /// Starts `n_threads` threads, the caller's included: at most [`MAX_THREADS`], and fewer when the OS refuses some,
    /// which changes no result. More threads than processors is possible and slow: threads that wait for each other
    /// then sleep at once, and are woken some hundred times a token.
    pub fn new(n_threads: usize) -> Threads {
        spawn::halving(n_threads.clamp(1, MAX_THREADS), Threads::start).expect("one thread is the caller's own")
    }

    /// # Errors
    /// The OS refuses a thread.
    fn start(n_threads: usize) -> io::Result<Threads> {
        let cores = if n_threads > 1 { thread::available_parallelism().map_or(1, usize::from) } else { 1 };
        let shared = Arc::new(Shared {
            barrier: Barrier::new(n_threads, n_threads <= cores),
            task: UnsafeCell::new(None),
            panic: Mutex::new(None),
            ranges: WorkRanges::new(n_threads),
            run: AtomicU64::new(0),
            leads_in: Mutex::new(Vec::new()),
        });
        let workers = Vec::with_capacity(n_threads - 1);
        // From here on dropping it ends the workers there are.
        let mut threads = Threads { shared, workers, turns: Turns::new(), process: process::id() };
        let is_ample = n_threads == 1 || spawn::has_room_for(n_threads);
        for me in 1..n_threads {
            let shared = threads.shared.clone();
            threads.workers.push(spawn::spawn(&format!("olmo-{me}"), is_ample, move || shared.work(me))?);
        }
        Ok(threads)
    }

    /// Runs `body` on this thread, with a team of the threads and this one. Callers that find another run wait for its
    /// end.
    ///
    /// Inside the body, and inside the items that it hands to the team, a run of other threads is possible, and one of
    /// the same threads is an error, as is one for which two callers would wait for each other's threads. A thread that
    /// the body started and waits for must not have these threads run something: it would wait for the end of the body.
    /// After a fork inside the body the child has no team.
    ///
    /// # Errors
    /// [`Error::NotRun`] inside of another run of the same threads, or of one that it would wait for; in a process that was forked off after they were
    /// started; and on a thread whose processor rounds or flushes otherwise than by default. [`Error::OutOfMemory`]. The body
    /// has not begun then.
    ///
    /// # Panics
    /// When the body does, or an item that it hands to the team. The threads are good for further runs.
    pub fn run<R>(&self, body: impl FnOnce(&mut Team<'_>) -> R) -> Result<R, Error> {
        let refused = |why| Err(Error::NotRun { why });
        if !self.workers.is_empty() && self.process != process::id() {
            return refused(NotRun::Forked);
        }
        fp_mode::check()?;
        let shared = &*self.shared;
        let Some(_works) = Works::enter(shared.id())? else { return refused(NotRun::Nested) };
        let mut team = Team { shared, stays_here: PhantomData };
        if self.workers.is_empty() {
            return Ok(body(&mut team));
        }
        let waits = WORKS_FOR.with_borrow(|teams| Waits::begin(&teams[..teams.len() - 1], shared.id()))?;
        let Some(waits) = waits else { return refused(NotRun::Circle) };
        let _turn = self.turns.wait();
        drop(waits);
        // Relaxed: workers look at it after they have seen a phase of this run.
        shared.run.fetch_add(1, Ordering::Relaxed);
        let mut leads_in = shared.leads_in.lock().expect("not poisoned");
        WORKS_FOR.with_borrow(|teams| {
            leads_in.clear();
            memory::reserve(&mut leads_in, teams.len(), LISTS)?;
            leads_in.extend_from_slice(teams);
            Ok::<(), Error>(())
        })?;
        drop(leads_in);
        shared.barrier.enter(0);
        Ok(body(&mut team))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let workers = std::mem::take(&mut self.workers);
        if self.process != process::id() {
            // After a fork there is nobody to tell or to wait for, and the handles stand for nothing.
            std::mem::forget(workers);
            return;
        }
        self.shared.barrier.stop();
        for worker in workers {
            // It panics outside of items only, and has been told to leave.
            let _ended = worker.join();
        }
    }
}

/// A caller that waits for its turn while it works for other teams.
struct Waiting {
    number: u64,
    /// For these.
    held: Vec<TeamId>,
    /// For the turn of this one.
    team: TeamId,
}

/// All of them. Nobody else can be waited for by somebody who holds what others wait for.
static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());

/// A caller is among those that wait, when it works for other teams, as long as this lives.
struct Waits(Option<u64>);

impl Waits {
    /// `None` when this one, which works for the teams in `held`, would wait for itself.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn begin(held: &[TeamId], team: TeamId) -> Result<Option<Waits>, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if held.is_empty() {
            return Ok(Some(Waits(None)));
        }
        // Nobody panics while holding this lock.
        let mut waiting = WAITING.lock().expect("not poisoned");
        // Teams the end of whose runs would be waited for, each once.
        let mut awaited = memory::room_for(waiting.len() + 1, LISTS)?;
        awaited.push(team);
        let mut at = 0;
        while let Some(&team) = awaited.get(at) {
            if held.contains(&team) {
                return Ok(None);
            }
            for other in waiting.iter().filter(|other| other.held.contains(&team)) {
                if !awaited.contains(&other.team) {
                    awaited.push(other.team);
                }
            }
            at += 1;
        }
        let held = memory::collected(held.iter().copied(), LISTS)?;
        memory::reserve(&mut waiting, 1, LISTS)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        waiting.push(Waiting { number, held, team });
        Ok(Some(Waits(Some(number))))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            WAITING.lock().expect("not poisoned").retain(|waiting| waiting.number != number);
        }
    }
}

/// This thread leads a team as long as this lives.
struct Works {
    stays_here: PhantomData<*const ()>,
}

impl Works {
    /// `None` when this thread works for the team already.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn enter(team: TeamId) -> Result<Option<Works>, Error> {
        WORKS_FOR.with_borrow_mut(|teams| {
            if teams.contains(&team) {
                return Ok(None);
            }
            memory::reserve(teams, 1, LISTS)?;
            teams.push(team);
            Ok(Some(Works { stays_here: PhantomData }))
        })
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        WORKS_FOR.with_borrow_mut(Vec::pop);
    }
}

/// Runs `body` with a team of `n_threads` threads, for callers that need them once: see [`Threads`].
///
/// # Errors
/// [`Error::NotRun`] on a thread whose processor rounds or flushes otherwise than by default.
///
/// # Panics
/// As [`Threads::run`].
pub fn with_team<R>(n_threads: usize, body: impl FnOnce(&mut Team<'_>) -> R) -> Result<R, Error> {
    Threads::new(n_threads).run(body)
}

impl Team<'_> {
    /// Number of threads, the leader included.
    pub fn n_threads(&self) -> usize {
        self.shared.n_threads()
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
        // Taken in any case: it is none of the next phase.
        let of_a_worker = shared.panic.lock().expect("not poisoned").take();
        if let Err(panic) = own {
            // One is enough, and dropping another could panic.
            std::mem::forget(of_a_worker);
            resume_unwind(panic);
        }
        if let Some(panic) = of_a_worker {
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
        shared.ranges.lay_out(u32::try_from(n_items).expect("fewer than 2^32 items"));
        self.phase(&|me| {
            while let Some(item) = shared.ranges.take(me) {
                body(item);
            }
        });
    }

    /// Runs `body` once for every block of every grid; `body` gets the index of the grid and its part of the output.
    pub fn for_blocks(&mut self, grids: &mut [OutputGrid<'_>], body: impl Fn(usize, OutputBlock<'_>) + Sync) {
        let n_items = grids.iter().map(OutputGrid::n_blocks).sum();
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
        let mut rows = OutputGrid::new(data, width, 1, width);
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
        let (a, b) = (&OutputGrid::new(a, width, 1, width), &OutputGrid::new(b, width, 1, width));
        self.for_each(a.n_blocks(), |row| {
            // SAFETY: `for_each` hands out each row once.
            let (a, b) = unsafe { (a.block(row), b.block(row)) };
            body(row, a.into_row(), b.into_row());
        });
    }

    fn for_blocks_of<T: Send>(
        &mut self,
        grid: &mut OutputGrid<'_, T>,
        body: impl Fn(usize, OutputBlock<'_, T>) + Sync,
    ) {
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
            })
            .expect("runs");
        }
    }

    #[test]
    fn blocks_tile_the_matrix_without_overlap() {
        with_team(3, |team| {
            for (rows, width, block_rows, block_columns) in [(5, 7, 2, 3), (1, 64, 1, 16), (8, 8, 8, 8), (3, 10, 1, 64)]
            {
                let mut data = vec![0u32; rows * width];
                let mut grid = OutputGrid::new(&mut data, width, block_rows, block_columns);
                team.for_blocks_of(&mut grid, |_, mut block| {
                    for row in 0..block.rows() {
                        let first = ((block.first_row() + row) * width + block.first_column()) as u32;
                        block.row(row).iter_mut().zip(first..).for_each(|(cell, number)| *cell += number + 1);
                    }
                });
                assert!(data.iter().zip(1..).all(|(&cell, number)| cell == number));
            }
        })
        .expect("runs");
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
        })
        .expect("runs");
    }

    #[test]
    fn a_panic_reaches_the_caller_once_and_the_threads_stay_usable() {
        let threads = Threads::new(2);
        for n in 0..100 {
            let culprits = [0, 7, 100 * (n % 2)];
            let body = |team: &mut Team| {
                let panics = |item| assert!(!culprits.contains(&item), "item {item}");
                assert!(catch_unwind(AssertUnwindSafe(|| team.for_each(8, panics))).is_err());
                // That of the other thread is not left for the next phase.
                team.for_each(8, |_| ());
                team.for_each(8, panics);
            };
            assert!(catch_unwind(AssertUnwindSafe(|| threads.run(body))).is_err());
            let in_body = || threads.run(|_| panic!("in the body"));
            assert!(catch_unwind(AssertUnwindSafe(in_body)).is_err());
            threads.run(|team| team.for_each(8, |_| ())).expect("runs");
        }
    }

    /// What a run in another run says.
    fn refusal(result: Result<(), Error>) -> String {
        result.expect_err("an error").to_string()
    }

    #[test]
    fn a_run_inside_a_run_of_the_same_threads_is_refused() {
        for n_threads in [1, 2, 3] {
            let (threads, others) = (Threads::new(n_threads), Threads::new(2));
            let is_refused = || assert!(refusal(threads.run(|_| ())).contains("end that first"));
            let outer = |team: &mut Team| {
                is_refused();
                team.for_each(100, |_| {
                    is_refused();
                    thread::sleep(Duration::from_micros(10)); // So that every thread gets some.
                });
                // On threads of others that a run of these waits for, too, workers and all.
                others.run(|team| team.for_each(100, |_| is_refused())).expect("they are free");
                team.for_each(3, |_| {
                    others.run(|team| team.for_each(100, |_| is_refused())).expect("each item gets its turn");
                });
                assert!(catch_unwind(AssertUnwindSafe(|| threads.run(|_| ()).expect("it is not"))).is_err());
            };
            threads.run(outer).expect("runs");
            threads.run(|_| ()).expect("the outer run has ended");
        }
    }

    #[test]
    fn callers_take_turns() {
        let threads = Threads::new(3);
        let inside = AtomicUsize::new(0);
        let turn = |team: &mut Team| {
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
            team.for_each(8, |_| ());
            assert_eq!(inside.fetch_sub(1, Ordering::Relaxed), 1);
        };
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..50).for_each(|_| threads.run(turn).expect("runs")));
            }
        });
    }

    #[test]
    fn no_more_threads_are_started_than_are_of_use() {
        for n_threads in [0, 1] {
            assert_eq!(Threads::new(n_threads).run(|team| team.n_threads()).expect("runs"), 1);
        }
        let most = Threads::new(usize::MAX);
        assert!(most.workers.len() < MAX_THREADS);
        most.run(|team| team.for_each(10_000, |_| ())).expect("runs");
    }

    #[test]
    fn callers_that_would_wait_for_each_other_are_told() {
        for n in [2, 3] {
            let all: Vec<Threads> = (0..n).map(|_| Threads::new(2)).collect();
            let all_lead = std::sync::Barrier::new(n);
            let ended = thread::scope(|scope| {
                let callers = (0..n).map(|i| {
                    let (own, next) = (&all[i], &all[(i + 1) % n]);
                    let all_lead = &all_lead;
                    scope.spawn(move || {
                        let inner = own.run(|_| {
                            all_lead.wait();
                            next.run(|_| ())
                        });
                        inner.expect("the first of its team")
                    })
                });
                let callers: Vec<_> = callers.collect();
                callers.into_iter().map(|caller| caller.join().expect("no panic")).collect::<Vec<_>>()
            });
            let is_told = |ended: &&Result<(), Error>| matches!(ended, Err(Error::NotRun { why: NotRun::Circle }));
            assert_eq!(ended.iter().filter(is_told).count(), 1, "{ended:?}");
            assert_eq!(ended.iter().filter(|ended| ended.is_ok()).count(), n - 1, "{ended:?}");
            assert!(WAITING.lock().expect("not poisoned").is_empty());
        }
    }
}
