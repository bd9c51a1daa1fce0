//! The barrier of a team: the leader begins a phase, all workers take part in it, and the leader continues when all
//! have arrived.
//!
//! A waiting thread spins briefly, then yields, then parks. Short waits make no system call.

use super::sync::{AtomicBool, AtomicU32, AtomicUsize, Mutex, Ordering, Thread, current, fence, park, wait_a_moment};

/// A value on its own cache lines, which avoids false sharing.
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
            phase: Padded(AtomicU32::new(0)),
            pending: Padded(AtomicUsize::new(0)),
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

    /// The leader begins a phase for all workers.
    pub(crate) fn begin(&self) {
        // Relaxed: workers read it after they have seen the new phase.
        self.pending.0.store(self.sleepers.len() - 1, Ordering::Relaxed);
        self.next();
    }

    /// The leader waits until every worker has arrived.
    pub(crate) fn wait_for_all(&self) {
        self.wait(0, &|| self.pending.0.load(Ordering::Acquire) == 0);
    }

    /// The leader ends the workers.
    pub(crate) fn stop(&self) {
        // Relaxed: as `pending`.
        self.stop.store(true, Ordering::Relaxed);
        self.next();
    }

    fn next(&self) {
        self.phase.0.fetch_add(1, Ordering::Release);
        (1..self.sleepers.len()).for_each(|worker| self.wake(worker));
    }

    /// A worker waits for the phase after `seen`, and increments `seen`. Returns false if the worker must end.
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
        if sleeper.asleep.load(Ordering::Relaxed)
            && let Some(thread) = &*sleeper.thread.lock().expect("not poisoned")
        {
            thread.unpark();
        }
    }
}
