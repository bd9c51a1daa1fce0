//! The barrier of a team: the leader begins a phase of items, and continues when all of them are done.
//!
//! It waits for items, not for threads. A worker takes part by taking an item, and only while it has items that it has
//! not reported does the phase depend on it. A worker that comes late, because another program has its core, finds no
//! item and waits for the next phase; the leader has not waited for it.
//!
//! A waiting thread spins briefly, then yields, then parks. Short waits make no system call.

use super::padded::Padded;
use super::sync::{
    AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, Thread, current, fence, park, spin_briefly, wait_a_moment,
};
use super::work_ranges::WorkRanges;
use std::cell::Cell;

/// The meeting point of a leader, which is thread 0, and workers.
///
/// What the leader wrote before [`Barrier::begin`] is seen by a thread after [`Barrier::take`] has given it an item,
/// until it reports that item. What it wrote before [`Barrier::report`] is seen by the leader after
/// [`Barrier::wait_for_all`].
pub(crate) struct Barrier {
    /// The items of the current phase that no thread has taken. An item that is taken belongs to the current phase
    /// even if the thread has not seen it begin: between two phases there is none.
    items: WorkRanges,
    /// Items of the current phase that are not reported as done.
    left: Padded<AtomicU32>,
    /// Number of the current phase in the high half, number of threads that it is for in the low half. A change is the
    /// signal to look for items.
    phase: Padded<AtomicU64>,
    /// Set before the last phase change.
    stop: AtomicBool,
    /// One for each thread.
    sleepers: Vec<Padded<Sleeper>>,
    /// Whether waiting threads spin. With more threads than cores, spinning only takes time from the others.
    spin: bool,
}

/// A thread that may sleep.
struct Sleeper {
    /// Its handle, once it has entered.
    thread: Mutex<Option<Thread>>,
    asleep: AtomicBool,
}

impl Barrier {
    /// A barrier for `n_threads` threads, the leader included.
    pub(crate) fn new(n_threads: usize, spin: bool) -> Barrier {
        let sleeper = || Sleeper { thread: Mutex::new(None), asleep: AtomicBool::new(false) };
        Barrier {
            items: WorkRanges::new(n_threads),
            left: Padded(AtomicU32::new(0)),
            phase: Padded(AtomicU64::new(0)),
            stop: AtomicBool::new(false),
            sleepers: (0..n_threads).map(|_| Padded(sleeper())).collect(),
            spin,
        }
    }

    /// Registers the calling thread as number `me`, before any other call that it makes here.
    pub(crate) fn enter(&self, me: usize) {
        // No thread panics while it holds one of these locks.
        *self.sleepers[me].0.thread.lock().expect("not poisoned") = Some(current());
    }

    /// Number of threads, the leader included.
    pub(crate) fn n_threads(&self) -> usize {
        self.sleepers.len()
    }

    /// The leader begins a phase of `n_items` items for the threads below `n_threads`, after all items of the last phase
    /// are done.
    pub(crate) fn begin(&self, n_items: u32, n_threads: usize) {
        // Relaxed: a thread that takes an item sees it. It is set before the first of them can be taken.
        self.left.0.store(n_items, Ordering::Relaxed);
        self.items.assign(n_items, n_threads);
        self.next(n_threads);
    }

    /// Thread `me` takes an item of the current phase, which does not end before it is reported.
    pub(crate) fn take(&self, me: usize) -> Option<usize> {
        self.items.take(me)
    }

    /// `n_items` items that the calling thread has taken are done. It uses nothing of the phase afterwards.
    pub(crate) fn report(&self, n_items: u32) {
        if self.left.0.fetch_sub(n_items, Ordering::AcqRel) == n_items {
            self.wake(0);
        }
    }

    /// The leader gives up the items that no thread has taken. They count as done.
    pub(crate) fn cancel(&self) {
        self.report(self.items.clear());
    }

    /// Whether every item is done, at once or within microseconds.
    pub(crate) fn is_over_soon(&self) -> bool {
        spin_briefly(&|| self.is_over())
    }

    /// The leader waits until every item is done.
    pub(crate) fn wait_for_all(&self) {
        self.wait(0, &|| self.is_over());
    }

    fn is_over(&self) -> bool {
        self.left.0.load(Ordering::Acquire) == 0
    }

    /// The leader ends the workers.
    pub(crate) fn stop(&self) {
        // Relaxed: workers read it after they have seen the new phase.
        self.stop.store(true, Ordering::Relaxed);
        self.next(self.n_threads());
    }

    /// The next phase, for the threads below `n_threads`.
    fn next(&self, n_threads: usize) {
        // Only leaders change it, by turns.
        let number = (self.phase.0.load(Ordering::Relaxed) >> 32) as u32;
        let phase = u64::from(number.wrapping_add(1)) << 32 | n_threads as u64;
        self.phase.0.store(phase, Ordering::Release);
        (1..n_threads).for_each(|worker| self.wake(worker));
    }

    /// A worker waits for a phase other than `seen` that is for it, and sets `seen` to its number. Returns false if the
    /// worker must end. The phase may be over already.
    pub(crate) fn next_phase(&self, me: usize, seen: &mut u32) -> bool {
        let number = Cell::new(*seen);
        self.wait(me, &|| {
            let phase = self.phase.0.load(Ordering::Acquire);
            number.set((phase >> 32) as u32);
            number.get() != *seen && me < phase as u32 as usize
        });
        *seen = number.get();
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits until `ready`; thread `me` parks if that takes longer than a moment.
    fn wait(&self, me: usize, ready: &dyn Fn() -> bool) {
        if wait_a_moment(self.spin, ready) {
            return;
        }
        let asleep = &self.sleepers[me].0.asleep;
        loop {
            asleep.store(true, Ordering::Relaxed);
            // Pairs with the fence in `wake`: either `wake` sees that this thread sleeps, or this thread sees the
            // condition that `wake` announces.
            fence(Ordering::SeqCst);
            let is_ready = ready();
            if !is_ready {
                park();
            }
            asleep.store(false, Ordering::Relaxed);
            if is_ready || ready() {
                return;
            }
        }
    }

    /// Wakes thread `index` if it sleeps. Called after its condition became true.
    fn wake(&self, index: usize) {
        fence(Ordering::SeqCst);
        let sleeper = &self.sleepers[index].0;
        if sleeper.asleep.load(Ordering::Relaxed) {
            // The thread would wait for the lock if it were still held when it wakes and leads another run.
            let thread = sleeper.thread.lock().expect("not poisoned").clone();
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
    }
}
