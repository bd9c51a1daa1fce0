//! Where the threads of a team meet: a leader begins phases, workers take part in each, and the leader goes on when all
//! have arrived.
//!
//! Whoever waits spins for a moment, then yields, then parks. No call of the system is made while everybody is quick.

use super::sync::{AtomicBool, AtomicU32, AtomicUsize, Mutex, Ordering, Thread, current, fence, park, wait_a_moment};

/// A value on cache lines of its own, so that threads do not slow each other by writing neighbours.
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// The meeting point of a leader, which is thread 0, and workers.
///
/// What the leader wrote before [`Barrier::begin`] is seen by workers after [`Barrier::next_phase`]; what they wrote
/// before [`Barrier::arrive`] is seen by the leader after [`Barrier::wait_for_all`].
pub(crate) struct Barrier {
    /// Number of the current phase; a change is the signal to begin.
    phase: Padded<AtomicU32>,
    /// Workers that have not arrived in the current phase.
    pending: Padded<AtomicUsize>,
    /// Set before the last phase change.
    stop: AtomicBool,
    /// One for each thread.
    sleepers: Vec<Padded<Sleeper>>,
    /// Whether spinning is of use: not with more threads than cores.
    spin: bool,
}

/// A thread that may sleep.
struct Sleeper {
    /// Its handle, once it has entered.
    thread: Mutex<Option<Thread>>,
    asleep: AtomicBool,
}

impl Barrier {
    /// A barrier for so many threads, the leader included.
    pub(crate) fn new(n_threads: usize, spin: bool) -> Barrier {
        let sleeper = || Sleeper { thread: Mutex::new(None), asleep: AtomicBool::new(false) };
        Barrier {
            phase: Padded(AtomicU32::new(0)),
            pending: Padded(AtomicUsize::new(0)),
            stop: AtomicBool::new(false),
            sleepers: (0..n_threads).map(|_| Padded(sleeper())).collect(),
            spin,
        }
    }

    /// Makes the calling thread the one that waits as number `me`. Comes before everything else that it does here.
    pub(crate) fn enter(&self, me: usize) {
        // Nobody panics while holding these locks.
        *self.sleepers[me].0.thread.lock().expect("not poisoned") = Some(current());
    }

    /// The leader begins a phase for all workers.
    pub(crate) fn begin(&self) {
        // Relaxed: workers look at it after they have seen the new phase.
        self.pending.0.store(self.sleepers.len() - 1, Ordering::Relaxed);
        self.next();
    }

    /// The leader waits until every worker has arrived.
    pub(crate) fn wait_for_all(&self) {
        self.wait(0, &|| self.pending.0.load(Ordering::Acquire) == 0);
    }

    /// The leader tells the workers to leave.
    pub(crate) fn stop(&self) {
        // Relaxed: as `pending`.
        self.stop.store(true, Ordering::Relaxed);
        self.next();
    }

    fn next(&self) {
        self.phase.0.fetch_add(1, Ordering::Release);
        (1..self.sleepers.len()).for_each(|worker| self.wake(worker));
    }

    /// A worker waits for the phase after `seen`, which is counted on; false when it is to leave.
    pub(crate) fn next_phase(&self, me: usize, seen: &mut u32) -> bool {
        self.wait(me, &|| self.phase.0.load(Ordering::Acquire) != *seen);
        *seen = seen.wrapping_add(1);
        !self.stop.load(Ordering::Relaxed)
    }

    /// A worker is done with the current phase.
    pub(crate) fn arrive(&self) {
        if self.pending.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake(0);
        }
    }

    /// Waits until `ready`; `me` sleeps when it takes longer than a moment.
    fn wait(&self, me: usize, ready: &dyn Fn() -> bool) {
        if wait_a_moment(self.spin, ready) {
            return;
        }
        let asleep = &self.sleepers[me].0.asleep;
        loop {
            asleep.store(true, Ordering::Relaxed);
            // With the fence in `wake`: either it sees that we sleep, or we see what it made ready.
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

    /// Wakes a thread that sleeps, after something was made ready for it.
    fn wake(&self, index: usize) {
        fence(Ordering::SeqCst);
        let sleeper = &self.sleepers[index].0;
        if sleeper.asleep.load(Ordering::Relaxed)
            && let Some(thread) = &*sleeper.thread.lock().expect("not poisoned")
        {
            thread.unpark();
        }
    }
}
