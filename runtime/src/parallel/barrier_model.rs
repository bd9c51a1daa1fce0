//! Model checks of the barrier, the work ranges and the turns. Loom runs two and three threads in every order with a
//! few preemptions, and with every value that the memory model allows a load to return.

#![allow(unsafe_code, reason = "cells whose every access loom checks")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Loom's primitives in place of those of std.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex};
    pub(crate) use loom::thread::{Thread, current, park};

    pub(crate) fn spin_briefly(ready: &dyn Fn() -> bool) -> bool {
        ready()
    }

    /// Checks once and does not spin, so that every wait reaches the park.
    pub(crate) fn wait_a_moment(_spin: bool, ready: &dyn Fn() -> bool) -> bool {
        ready()
    }
}

mod barrier;
mod padded;
mod turns;
mod work_ranges;

use barrier::Barrier;
use turns::Turns;

/// A team as in `team.rs`, with numbers instead of tasks.
struct Team {
    barrier: Barrier,
    turns: Turns,
    /// Phases so far, and runs that have not ended; protected by the turn.
    led: UnsafeCell<(u32, u32)>,
    /// The number of the phase. Written by the leader between phases, read by the workers that have an item.
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
            turns: Turns::new(),
            led: UnsafeCell::new((0, n_runs)),
            task: UnsafeCell::new(0),
            results: (0..n_items).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    /// Adds `task` to the result of `first` and of every other item that thread `me` takes; the sum shows an item that
    /// is taken twice. Returns how many there were.
    fn do_items(&self, me: usize, first: usize, task: u32) -> u32 {
        let (mut item, mut n_items) = (first, 0);
        loop {
            // SAFETY: loom reports a concurrent access.
            self.results[item].with_mut(|result| unsafe { *result += task });
            n_items += 1;
            match self.barrier.take(me) {
                Some(next) => item = next,
                None => return n_items,
            }
        }
    }

    fn work(&self, me: usize) {
        self.barrier.enter(me);
        let mut seen = 0;
        while self.barrier.next_phase(me, &mut seen) {
            let Some(first) = self.barrier.take(me) else { continue };
            // SAFETY: as above.
            let task = self.task.with(|task| unsafe { *task });
            // The phase may be a later one than the one that was seen to begin.
            assert!(task >= seen, "the task of the current phase");
            let n_items = self.do_items(me, first, task);
            self.barrier.report(n_items);
        }
    }

    /// The leader's part of a phase. If it `panics`, it takes one item, does not do it, and gives up those that are
    /// left; returns whether that is so.
    fn lead_phase(&self, phase: u32, panics: bool) {
        match self.barrier.take(0) {
            Some(_) if panics => {
                self.barrier.cancel();
                self.barrier.report(1);
            }
            Some(first) => self.barrier.report(self.do_items(0, first, phase)),
            None => (),
        }
        if !self.barrier.is_over_soon() {
            self.barrier.wait_for_all();
        }
    }

    /// One run. The last run ends the workers, as dropping `Team` does.
    fn lead(&self, case: Case) {
        let turn = self.turns.wait();
        self.barrier.enter(0);
        // SAFETY: as above.
        let before = self.led.with(|led| unsafe { (*led).0 });
        for phase in before + 1..=before + case.n_phases {
            let n_threads = case.n_threads - usize::from(case.fewer && phase % 2 == 0);
            // SAFETY: as above.
            self.task.with_mut(|task| unsafe { *task = phase });
            self.barrier.begin(self.results.len() as u32, n_threads);
            self.lead_phase(phase, case.panics && phase == 1);
            for result in &self.results {
                // SAFETY: as above.
                let result = result.with(|result| unsafe { *result });
                let sum = (1..=phase).sum::<u32>();
                // An item that was given up was not done in the first phase.
                assert!(result == sum || case.panics && result == sum - 1, "every item once in every phase");
            }
        }
        // SAFETY: as above.
        let runs_left = self.led.with_mut(|led| unsafe {
            *led = ((*led).0 + case.n_phases, (*led).1 - 1);
            (*led).1
        });
        drop(turn);
        if runs_left == 0 {
            self.barrier.stop();
        }
    }
}

/// A team to check.
#[derive(Clone, Copy)]
struct Case {
    n_threads: usize,
    /// Each has one run.
    n_leaders: usize,
    /// In each run.
    n_phases: u32,
    n_items: usize,
    /// Whether leaders panic in their first phase.
    panics: bool,
    /// Whether every second phase is for all threads but one.
    fewer: bool,
}

const TWO_THREADS: Case = Case { n_threads: 2, n_leaders: 1, n_phases: 2, n_items: 2, panics: false, fewer: false };
const THREE_THREADS: Case = Case { n_threads: 3, n_phases: 1, ..TWO_THREADS };
const TWO_LEADERS: Case = Case { n_leaders: 2, n_phases: 1, ..TWO_THREADS };
/// Three phases: a worker that was late for the first may come in any of the others.
const LATE: Case = Case { n_phases: 3, ..TWO_THREADS };
const FEWER: Case = Case { fewer: true, ..LATE };
const PANIC: Case = Case { panics: true, n_items: 3, ..TWO_THREADS };

impl Case {
    /// Checks the team in every order with at most `preemptions` preemptions; without a bound the check would take days.
    fn check(self, preemptions: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            let team = Arc::new(Team::new(self.n_threads, self.n_items, self.n_leaders as u32));
            // No leader joins threads: loom would take an unpark for the end of the joined thread.
            let lead = (0..self.n_leaders).map(|_| 0);
            let threads: Vec<_> = lead
                .chain(1..self.n_threads)
                .map(|me| {
                    let team = team.clone();
                    thread::spawn(move || match me {
                        0 => team.lead(self),
                        me => team.work(me),
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        });
    }
}

#[test]
fn two_threads_meet_with_two_preemptions() {
    TWO_THREADS.check(2);
}

#[test]
fn three_threads_meet_with_one_preemption() {
    THREE_THREADS.check(1);
}

#[test]
fn two_leaders_take_turns_with_one_preemption() {
    TWO_LEADERS.check(1);
}

#[test]
fn late_worker_takes_part_in_a_later_phase_with_one_preemption() {
    LATE.check(1);
}

#[test]
fn phases_for_fewer_threads_end_with_one_preemption() {
    FEWER.check(1);
}

#[test]
fn panic_of_the_leader_ends_the_phase_with_one_preemption() {
    PANIC.check(1);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn two_threads_meet_with_four_preemptions() {
    TWO_THREADS.check(4);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn three_threads_meet_with_two_preemptions() {
    THREE_THREADS.check(2);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn two_leaders_take_turns_with_three_preemptions() {
    TWO_LEADERS.check(3);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn late_worker_takes_part_in_a_later_phase_with_two_preemptions() {
    LATE.check(2);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn phases_for_fewer_threads_end_with_two_preemptions() {
    FEWER.check(2);
}

#[test]
#[ignore = "takes minutes: make torture runs it"]
fn panic_of_the_leader_ends_the_phase_with_three_preemptions() {
    PANIC.check(3);
}
