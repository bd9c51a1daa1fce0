//! The thread pool: threads that live as long as a model or a run, and meet at a barrier.
//!
//! The thread that calls [`Threads::run`] leads the team until the call returns. It runs the forward pass as sequential
//! code and hands each phase to the workers. Between phases workers spin briefly, then yield, then park: while the
//! leader waits for a slow reader of the output or for a core, they use power for a fraction of a millisecond only. A
//! token has about 100 phases, and waking parked threads for each of them would take measurable time. Workers wait in
//! the same way between runs, so that beginning and ending a run costs nothing. A caller that waits for its turn
//! blocks.
//!
//! Work is divided into items. Each thread has a contiguous range of them, so that it streams through memory. When its
//! range is empty, it takes items from the end of other ranges. Exactly one thread computes each item, and the items do
//! not depend on the number of threads, so the results do not either.
//!
//! Other programs can take cores away. A phase therefore ends when its items are done, whether or not all threads have
//! taken part, and fewer threads take part while that is faster (`strength.rs`).

#![allow(unsafe_code, reason = "a task that workers borrow from the leader")]

use crate::error::{Error, NotRun};
use crate::kernels::grid::{OutputBlock, OutputGrid};
use crate::os::fp_mode;
use crate::os::memory;
use crate::os::spawn;
use crate::parallel::barrier::Barrier;
use crate::parallel::strength::Strength;
use crate::parallel::turns::Turns;
use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Most threads of a team; more would only wait for each other.
pub const MAX_THREADS: usize = 1024;
/// The name of [`WORKS_FOR`] and [`WAITING`] in errors.
const LISTS: &str = "the list of teams that a thread works for";

/// What the threads run in a phase; the argument is an item.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// What the threads share.
struct Shared {
    barrier: Barrier,
    /// What to run in the current phase.
    task: UnsafeCell<Option<Task<'static>>>,
    /// How many threads take part; of the leader.
    strength: Mutex<Strength>,
    /// The first panic of a worker, until the leader passes it on.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The number of the current run.
    run: AtomicU64,
    /// The teams that the leader of the current run works for.
    leads_in: Mutex<Vec<TeamId>>,
}

/// Identifies a team: the address of its [`Shared`].
type TeamId = usize;

thread_local! {
    /// The teams that this thread works for, as leader or worker, including those of the enclosing runs.
    static WORKS_FOR: RefCell<Vec<TeamId>> = const { RefCell::new(Vec::new()) };
}

// SAFETY: `task` is the only field that is not Sync by itself. The leader writes it while no worker reads: after
// `wait_for_all` and before the next `begin`; workers read it between `take` and `report`. The barrier orders these, and
// the turns of `Threads` order the leaders, see barrier_model.rs.
unsafe impl Sync for Shared {}
// SAFETY: a task may be run by any thread, see `Task`; it is the only field that is not Send by itself.
unsafe impl Send for Shared {}

impl Shared {
    /// The loop of a worker: runs phases until the leader stops it.
    fn work(&self, me: usize) {
        self.barrier.enter(me);
        // Now, because this thread may take its first item at any token.
        WORKS_FOR.with_borrow_mut(|teams| teams.reserve(1));
        let (mut seen, mut run) = (0, 0);
        while self.barrier.next_phase(me, &mut seen) {
            let Some(first) = self.barrier.take(me) else { continue };
            // SAFETY: the leader wrote the task before it began the phase, and keeps it until this thread has reported
            // the items that it takes, of which there is one now.
            let task = unsafe { *self.task.get() }.expect("a task is set before there are items");
            let n_taken = Cell::new(1);
            let work = || {
                // Relaxed: the leader wrote it before it began the phase.
                let current = self.run.load(Ordering::Relaxed);
                if current != run {
                    self.join_run();
                    run = current;
                }
                task(first);
                while let Some(item) = self.barrier.take(me) {
                    n_taken.set(n_taken.get() + 1);
                    task(item);
                }
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                // No thread panics while it holds this lock.
                let mut first = self.panic.lock().expect("not poisoned");
                match &mut *first {
                    // One is enough, and dropping another could panic.
                    Some(_) => std::mem::forget(panic),
                    first => *first = Some(panic),
                }
            }
            self.barrier.report(n_taken.get());
        }
    }

    /// A worker takes part in a new run.
    fn join_run(&self) {
        // This thread inherited its floating-point mode from its creator, or an item of an earlier run changed it. If
        // it cannot be restored, this panics: results with other bits must not be returned.
        fp_mode::restore().unwrap_or_else(|error| panic!("{error}"));
        let leads_in = self.leads_in.lock().expect("not poisoned");
        WORKS_FOR.with_borrow_mut(|teams| teams.clone_from(&leads_in));
    }

    fn id(&self) -> TeamId {
        std::ptr::from_ref(self).addr()
    }

    fn n_threads(&self) -> usize {
        self.barrier.n_threads()
    }
}

/// The leader's handle on the threads of a run. It is not Send: workers wake the leader's thread.
pub struct Team<'a> {
    shared: &'a Shared,
    /// None in a team of one thread, whose leaders do not wait for each other.
    strength: Option<MutexGuard<'a, Strength>>,
    stays_here: PhantomData<*const ()>,
}

/// A thread pool.
///
/// Any number of callers may share it. They take turns, in order of arrival. A pool of one thread uses the caller's
/// own, and its callers do not wait for each other.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turns: Turns,
    /// The process that has the workers: a fork has none.
    process: u32,
}

impl Threads {
    /// Starts `n_threads` threads, the caller's included: at most [`MAX_THREADS`], and fewer when the OS cannot create
    /// them. The number changes no result. More threads than processors are slow: waiting threads then park at once,
    /// and are woken about a hundred times a token.
    pub fn new(n_threads: usize) -> Threads {
        spawn::halving(n_threads.clamp(1, MAX_THREADS), Threads::start).expect("one thread is the caller's own")
    }

    /// # Errors
    /// The OS cannot create a thread.
    fn start(n_threads: usize) -> io::Result<Threads> {
        let cores = if n_threads > 1 { thread::available_parallelism().map_or(1, usize::from) } else { 1 };
        let shared = Arc::new(Shared {
            barrier: Barrier::new(n_threads, n_threads <= cores),
            task: UnsafeCell::new(None),
            strength: Mutex::new(Strength::new(n_threads)),
            panic: Mutex::new(None),
            run: AtomicU64::new(0),
            leads_in: Mutex::new(Vec::new()),
        });
        let workers = Vec::with_capacity(n_threads - 1);
        // From here on dropping it ends the workers that were started.
        let mut threads = Threads { shared, workers, turns: Turns::new(), process: process::id() };
        let is_ample = n_threads == 1 || spawn::has_room_for(n_threads);
        for me in 1..n_threads {
            let shared = threads.shared.clone();
            threads.workers.push(spawn::spawn(&format!("olmo-{me}"), is_ample, move || shared.work(me))?);
        }
        Ok(threads)
    }

    /// Runs `body` on this thread, with a team of this thread and the pool. Waits until earlier runs have ended.
    ///
    /// The body and its items may run other pools. A run of the same pool inside the body is an error, and so is a run
    /// for which two callers would wait for each other's pools. If the body starts a thread and waits for it, that
    /// thread must not run this pool: it would wait for the end of the body, a deadlock that is not detected. After a
    /// fork inside the body the child has no team.
    ///
    /// # Errors
    /// The body has not begun if this returns an error. [`Error::NotRun`] inside another run of the same pool, for a
    /// deadlock with other callers, in a process that was forked after the threads were started, and on a thread with a
    /// non-default floating-point mode. [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// When the body or one of its items panics. The threads remain usable.
    pub fn run<R>(&self, body: impl FnOnce(&mut Team<'_>) -> R) -> Result<R, Error> {
        let refused = |why| Err(Error::NotRun { why });
        if !self.workers.is_empty() && self.process != process::id() {
            return refused(NotRun::Forked);
        }
        fp_mode::check()?;
        let shared = &*self.shared;
        let Some(_works) = Works::enter(shared.id())? else { return refused(NotRun::Nested) };
        if self.workers.is_empty() {
            return Ok(body(&mut Team { shared, strength: None, stays_here: PhantomData }));
        }
        let waits = WORKS_FOR.with_borrow(|teams| Waits::begin(&teams[..teams.len() - 1], shared.id()))?;
        let Some(waits) = waits else { return refused(NotRun::Circle) };
        let _turn = self.turns.wait();
        drop(waits);
        // Relaxed: workers read it after they have seen a phase of this run.
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
        // A body that panicked has left it as good as any other.
        let mut strength = shared.strength.lock().unwrap_or_else(PoisonError::into_inner);
        strength.begin_run();
        // Dropped before the turn, so that the next leader does not wait for the lock.
        let mut team = Team { shared, strength: Some(strength), stays_here: PhantomData };
        let result = body(&mut team);
        if let Some(strength) = &mut team.strength {
            strength.end_run(Instant::now());
        }
        Ok(result)
    }

    /// Whether [`Threads::run`] would be refused here, without a turn.
    ///
    /// # Errors
    /// [`Error::NotRun`] in a forked process, in a run of the same threads, and on a thread with a non-default
    /// floating-point mode; [`Error::OutOfMemory`].
    pub fn check(&self) -> Result<(), Error> {
        if !self.workers.is_empty() && self.process != process::id() {
            return Err(Error::NotRun { why: NotRun::Forked });
        }
        fp_mode::check()?;
        match Works::enter(self.shared.id())? {
            Some(_works) => Ok(()),
            None => Err(Error::NotRun { why: NotRun::Nested }),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let workers = std::mem::take(&mut self.workers);
        if self.process != process::id() {
            // A forked process has none of the threads, so the handles are invalid.
            std::mem::forget(workers);
            return;
        }
        self.shared.barrier.stop();
        for worker in workers {
            // A worker catches the panics of items. A panic elsewhere has already ended it.
            let _ended = worker.join();
        }
    }
}

/// A caller that waits for its turn on one team while it works for others.
struct Waiting {
    number: u64,
    /// The teams that it works for.
    held: Vec<TeamId>,
    /// The team that it waits for.
    team: TeamId,
}

/// All such callers. Only they can be part of a deadlock: other callers hold no team while they wait.
static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());

/// The entry of a caller in [`WAITING`], until it is dropped; `None` for a caller that works for no other team.
struct Waits(Option<u64>);

impl Waits {
    /// `None` if a caller that works for the teams in `held` would wait for itself.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn begin(held: &[TeamId], team: TeamId) -> Result<Option<Waits>, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if held.is_empty() {
            return Ok(Some(Waits(None)));
        }
        // No thread panics while it holds this lock.
        let mut waiting = WAITING.lock().expect("not poisoned");
        // The teams whose runs this caller would wait for, directly or through other callers; each once.
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

/// This thread leads a team until this is dropped.
struct Works {
    stays_here: PhantomData<*const ()>,
}

impl Works {
    /// `None` if this thread already works for the team.
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

/// Runs `body` with a new team of `n_threads` threads, which end after it.
///
/// # Errors
/// [`Error::NotRun`] on a thread with a non-default floating-point mode.
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

    /// One phase: the threads run `task` for every item below `n_items`, and have finished when this returns.
    fn phase(&mut self, n_items: u32, task: Task<'_>) {
        let shared = self.shared;
        let barrier = &shared.barrier;
        let begun = Instant::now();
        let n_threads = self.strength.as_mut().map_or(1, |strength| strength.begin_phase(begun));
        if n_threads == 1 {
            (0..n_items as usize).for_each(task);
            return self.end_phase();
        }
        // SAFETY: no worker reads the slot now (see `Sync for Shared`), and this function does not return, not even by
        // a panic, before every worker has finished with the task: the longer lifetime is never used.
        unsafe { *shared.task.get() = Some(std::mem::transmute::<Task<'_>, Task<'static>>(task)) };
        barrier.begin(n_items, n_threads);
        let n_taken = Cell::new(0);
        let own = catch_unwind(AssertUnwindSafe(|| {
            while let Some(item) = barrier.take(0) {
                n_taken.set(n_taken.get() + 1);
                task(item);
            }
        }));
        if own.is_err() {
            barrier.cancel();
        }
        barrier.report(n_taken.get());
        if !barrier.is_over_soon() {
            let wait = Strength::begin_wait(begun, n_taken.get());
            barrier.wait_for_all();
            if let Some(strength) = &mut self.strength {
                strength.end_wait(wait);
            }
        }
        self.end_phase();
        // Taken in any case, so that the next phase does not find it.
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

    fn end_phase(&mut self) {
        if let Some(strength) = &mut self.strength {
            strength.end_phase(Instant::now());
        }
    }

    /// Runs `body` once for every item below `n_items`, in unspecified order. A single item runs on this thread, and
    /// wakes no worker.
    ///
    /// # Panics
    /// When `body` panics, and for 2^32 items or more.
    pub fn for_each(&mut self, n_items: usize, body: impl Fn(usize) + Sync) {
        if n_items <= 1 || self.n_threads() == 1 {
            return (0..n_items).for_each(body);
        }
        self.phase(u32::try_from(n_items).expect("fewer than 2^32 items"), &body);
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

    /// Runs `body` once for every row of a row-major matrix of width `width`, with the row's index.
    pub fn for_rows<T: Send>(&mut self, data: &mut [T], width: usize, body: impl Fn(usize, &mut [T]) + Sync) {
        let mut rows = OutputGrid::new(data, width, 1, width);
        self.for_blocks_of(&mut rows, |row, block| body(row, block.into_row()));
    }

    /// As [`Team::for_rows`] for groups of `rows` rows, of which the last may have fewer; `body` gets the index of the
    /// first row of its group.
    pub fn for_row_groups<T: Send>(
        &mut self,
        data: &mut [T],
        width: usize,
        rows: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let mut groups = OutputGrid::new(data, width, rows, width);
        self.for_blocks_of(&mut groups, |_, block| body(block.first_row(), block.into_rows()));
    }

    /// As [`Team::for_rows`] for two matrices of the same shape, row by row together.
    pub fn for_row_pairs(
        &mut self,
        a: &mut [f32],
        b: &mut [f32],
        width: usize,
        body: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        self.for_rows_of_two((a, width), (b, width), body);
    }

    /// As [`Team::for_rows`] for two matrices of one number of rows, each given with its width, row by row together.
    ///
    /// # Panics
    /// When the numbers of rows differ.
    pub fn for_rows_of_two<A: Send, B: Send>(
        &mut self,
        (a, width_a): (&mut [A], usize),
        (b, width_b): (&mut [B], usize),
        body: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (&OutputGrid::new(a, width_a, 1, width_a), &OutputGrid::new(b, width_b, 1, width_b));
        assert!(a.n_blocks() == b.n_blocks());
        self.for_each(a.n_blocks(), |row| {
            // SAFETY: `for_each` hands out each row once.
            let (a, b) = unsafe { (a.block(row), b.block(row)) };
            body(row, a.into_row(), b.into_row());
        });
    }

    /// As [`Team::for_rows`] for some ranges of rows, which ascend; `body` gets the first row of each.
    pub fn for_row_ranges<T: Send>(
        &mut self,
        data: &mut [T],
        width: usize,
        ranges: &[Range<usize>],
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let mut groups = OutputGrid::of_ranges(data, width, ranges, width);
        self.for_blocks_of(&mut groups, |_, block| body(block.first_row(), block.into_rows()));
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
mod tests;
