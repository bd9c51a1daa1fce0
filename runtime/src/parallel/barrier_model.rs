//! Model checks of the barrier, the work ranges and the turns. Loom runs two and three threads in every order with a
//! few preemptions, and with every value that the memory model allows a load to return.

#![allow(unsafe_code, reason = "cells whose every access loom checks")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Loom's primitives in place of those of std.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex};
    pub(crate) use loom::thread::{Thread, current, park};

    /// Checks once and does not spin, so that every wait reaches the park.
    pub(crate) fn wait_a_moment(_spin: bool, ready: &dyn Fn() -> bool) -> bool {
        ready()
    }
}

mod barrier;
mod turns;
mod work_ranges;

use barrier::Barrier;
use turns::Turns;
use work_ranges::WorkRanges;

/// A team as in `team.rs`, with numbers instead of tasks.
struct Team {
    barrier: Barrier,
    ranges: WorkRanges,
    turns: Turns,
    /// Phases so far, and runs that have not ended; protected by the turn.
    led: UnsafeCell<(u32, u32)>,
    /// Written by the leader between phases, read by the workers in them.
    task: UnsafeCell<u32>,
    /// One result for each item, written by the thread that takes the item, read by the leader between phases.
    results: Vec<UnsafeCell<u32>>,
}

// SAFETY: loom's cells report every access that the barrier does not order; that is what is tested here.
unsafe impl Sync for Team {}
// SAFETY: as above.
unsafe impl Send for Team {}

impl Team {
    fn new(n_threads: usize, n_items: usize, n_runs: u32) -> Team {
        Team {
            barrier: Barrier::new(n_threads, false),
            ranges: WorkRanges::new(n_threads),
            turns: Turns::new(),
            led: UnsafeCell::new((0, n_runs)),
            task: UnsafeCell::new(0),
            results: (0..n_items).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    /// Adds `task` to the result of every item that thread `me` takes; the sum shows an item that is taken twice.
    fn do_items(&self, me: usize, task: u32) {
        while let Some(item) = self.ranges.take(me) {
            // SAFETY: loom reports a concurrent access.
            self.results[item].with_mut(|result| unsafe { *result += task });
        }
    }

    fn work(&self, me: usize) {
        self.barrier.enter(me);
        let mut seen = 0;
        while self.barrier.next_phase(me, &mut seen) {
            // SAFETY: as above.
            let task = self.task.with(|task| unsafe { *task });
            assert_eq!(task, seen, "the task of the phase that was begun");
            self.do_items(me, task);
            self.barrier.arrive();
        }
    }

    /// One run. The last run ends the workers, as dropping `Team` does.
    fn lead(&self, n_phases: u32) {
        assert!(self.ranges.n_threads() > 1);
        let turn = self.turns.wait();
        self.barrier.enter(0);
        // SAFETY: as above.
        let before = self.led.with(|led| unsafe { (*led).0 });
        for phase in before + 1..=before + n_phases {
            // SAFETY: as above.
            self.task.with_mut(|task| unsafe { *task = phase });
            self.ranges.assign(self.results.len() as u32);
            self.barrier.begin();
            self.do_items(0, phase);
            self.barrier.wait_for_all();
            for result in &self.results {
                // SAFETY: as above.
                let result = result.with(|result| unsafe { *result });
                assert_eq!(result, (1..=phase).sum::<u32>(), "every item once in every phase");
            }
        }
        // SAFETY: as above.
        let runs_left = self.led.with_mut(|led| unsafe {
            *led = ((*led).0 + n_phases, (*led).1 - 1);
            (*led).1
        });
        drop(turn);
        if runs_left == 0 {
            self.barrier.stop();
        }
    }
}

/// Checks a team in every order with at most `preemptions` preemptions; without a bound the check would take days. Each
/// leader has one run of `n_phases` phases.
fn model(n_threads: usize, n_leaders: usize, n_phases: u32, n_items: usize, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let team = Arc::new(Team::new(n_threads, n_items, n_leaders as u32));
        // No leader joins threads: loom would take an unpark for the end of the joined thread.
        let lead = (0..n_leaders).map(|_| 0);
        let threads: Vec<_> = lead
            .chain(1..n_threads)
            .map(|me| {
                let team = team.clone();
                thread::spawn(move || if me == 0 { team.lead(n_phases) } else { team.work(me) })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn two_threads_meet_with_two_preemptions() {
    model(2, 1, 2, 2, 2);
}

#[test]
fn three_threads_meet_with_one_preemption() {
    model(3, 1, 1, 2, 1);
}

#[test]
fn two_leaders_take_turns_with_one_preemption() {
    model(2, 2, 1, 2, 1);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn two_threads_meet_with_four_preemptions() {
    model(2, 1, 2, 2, 4);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn three_threads_meet_with_two_preemptions() {
    model(3, 1, 1, 2, 2);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn two_leaders_take_turns_with_three_preemptions() {
    model(2, 2, 1, 2, 3);
}
