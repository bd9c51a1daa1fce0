//! How many threads of a team take part in a phase: fewer while other programs have the cores.
//!
//! A thread that loses its core in the middle of an item delays the end of the phase by a slice of the scheduler, often
//! longer than the phase. While that recurs, fewer threads are faster, because each of them has a core. The leader
//! sums up the time that the team loses in this way. If it is more than a thread is worth, it tries fewer threads and
//! keeps the best number for a while, then all threads again. A disturbance that ends is forgotten in less than a
//! second, and one that lasts costs a short trial now and then. The number changes no result.

use crate::os::cpu_clock;
use std::time::{Duration, Instant};

/// How long losses are summed up before they are judged.
const WINDOW: Duration = Duration::from_millis(25);
/// The same for a trial of all threads.
const TRIAL: Duration = Duration::from_millis(12);
/// How long the best number is kept at first. It doubles each time that all threads are tried in vain.
const SHORTEST_HOLD: Duration = Duration::from_millis(50);
const LONGEST_HOLD: Duration = Duration::from_millis(500);
/// The same where fewer threads lose time as well, so that each search costs several windows.
const LONGEST_LOSSY_HOLD: Duration = Duration::from_secs(5);
/// A wait that is this much longer than the items explain is one for a thread without a core.
const LONG_WAIT: Duration = Duration::from_micros(300);
/// A pause between two phases that is not counted: the leader may wait for a reader of its output.
const PAUSE: Duration = Duration::from_millis(1);
/// The least share of lost time that matters, for any number of threads.
const LEAST_LOSS: f64 = 0.1;
/// n threads with a core each are at least n^0.5 times as fast as one: they share the memory.
const SCALING: f64 = 0.5;
/// The share of the usual limit of losses that a trial may reach. It is short, and may be lucky.
const TRIAL_LIMIT: f64 = 0.5;

/// The number of threads that take part, and why.
pub(crate) struct Strength {
    most: usize,
    now: usize,
    state: State,
    hold: Duration,
    /// None until the next phase begins.
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// All threads, as long as they do not lose time in two windows in a row.
    Full { lost_before: bool },
    /// Fewer and fewer threads, until they lose no time; with the fastest number of threads so far.
    Search { step: usize, fastest: usize, speed: f64 },
    /// The fastest number, until a time. `lossy`: it loses time, too.
    Hold { until: Instant, lossy: bool },
    /// All threads for a moment.
    Trial { before: usize },
}

/// A stretch of time with the same number of threads.
struct Window {
    begun: Instant,
    /// The time that the leader had run when it began.
    ran: Option<Duration>,
    /// When the last phase ended.
    ended: Instant,
    /// The leader's waits for others, and how long it ran in them.
    waited: Duration,
    ran_waiting: Duration,
    /// The part of the waits that items do not explain.
    stalled: Duration,
}

/// A wait of the leader for the items of others.
pub(crate) struct Wait {
    begun: Instant,
    ran: Option<Duration>,
    /// The longest that it can take if the others have cores.
    expected: Duration,
}

impl Strength {
    pub(crate) fn new(most: usize) -> Strength {
        Strength { most, now: most, state: State::Full { lost_before: false }, hold: SHORTEST_HOLD, window: None }
    }

    /// Another thread may lead from now on.
    pub(crate) fn begin_run(&mut self) {
        self.window = None;
    }

    /// The number of threads for a phase that begins now, the leader included.
    pub(crate) fn begin_phase(&mut self, now: Instant) -> usize {
        let length = self.window_length();
        match &self.window {
            Some(window) if now.saturating_duration_since(window.ended) > PAUSE => self.window = None,
            Some(window) if now.saturating_duration_since(window.begun) >= length => {
                let loss = window.loss(now);
                self.judge(now, loss);
                self.window = None;
            }
            _ => (),
        }
        self.window.get_or_insert_with(|| Window::new(now));
        self.now
    }

    fn window_length(&self) -> Duration {
        if matches!(self.state, State::Trial { .. }) { TRIAL } else { WINDOW }
    }

    pub(crate) fn end_phase(&mut self, now: Instant) {
        if let Some(window) = &mut self.window {
            window.ended = now;
        }
    }

    /// The leader waits for the items of others, after it has done `n_items` itself in a phase that began at `begun`.
    pub(crate) fn begin_wait(begun: Instant, n_items: u32) -> Wait {
        let now = Instant::now();
        // Other cores may be half as fast.
        let expected = 2 * now.saturating_duration_since(begun) / n_items.max(1);
        Wait { begun: now, ran: cpu_clock::of_this_thread(), expected }
    }

    pub(crate) fn end_wait(&mut self, wait: Wait) {
        let Some(window) = &mut self.window else { return };
        let waited = wait.begun.elapsed();
        window.waited += waited;
        window.ran_waiting += ran_since(wait.ran).unwrap_or_default();
        let stalled = waited.saturating_sub(wait.expected);
        if stalled >= LONG_WAIT {
            window.stalled += stalled;
        }
    }

    /// Changes the number of threads after a window in which the share `loss` of the time was lost.
    fn judge(&mut self, now: Instant, loss: f64) {
        let limit = LEAST_LOSS.max(1.0 - speed(self.now - 1) / speed(self.now));
        let is_lossy = self.now > 1 && loss > limit;
        let real_speed = speed(self.now) * (1.0 - loss);
        self.state = match self.state {
            State::Full { lost_before: true } if is_lossy => self.search(1, self.most, real_speed),
            State::Full { .. } => {
                if !is_lossy {
                    self.hold = SHORTEST_HOLD.max(self.hold / 2);
                }
                State::Full { lost_before: is_lossy }
            }
            State::Search { step, fastest, speed } => {
                // Where it makes no difference, the other programs can have the core.
                let (fastest, speed) =
                    if real_speed > 0.95 * speed { (self.now, real_speed) } else { (fastest, speed) };
                if is_lossy {
                    self.search(2 * step, fastest, speed)
                } else {
                    let lossy = fastest > self.now;
                    self.now = fastest;
                    self.keep(now, lossy)
                }
            }
            State::Hold { until, .. } if now < until => return,
            State::Hold { lossy: true, .. } => {
                self.now = self.most;
                State::Full { lost_before: true }
            }
            State::Hold { .. } => {
                let before = self.now;
                self.now = self.most;
                State::Trial { before }
            }
            State::Trial { before } if loss > TRIAL_LIMIT * limit => {
                self.now = before;
                self.keep(now, false)
            }
            State::Trial { .. } => State::Full { lost_before: false },
        };
    }

    /// Tries `step` threads less, but not less than half.
    fn search(&mut self, step: usize, fastest: usize, speed: f64) -> State {
        self.now = self.now.saturating_sub(step).max(self.now.div_ceil(2)).min(self.now - 1);
        State::Search { step, fastest, speed }
    }

    /// Keeps the number, each time for longer.
    fn keep(&mut self, now: Instant, lossy: bool) -> State {
        let hold = self.hold.min(if lossy { LONGEST_LOSSY_HOLD } else { LONGEST_HOLD });
        self.hold = 2 * hold;
        State::Hold { until: now + hold, lossy }
    }
}

impl Window {
    fn new(now: Instant) -> Window {
        let zero = Duration::ZERO;
        let ran = cpu_clock::of_this_thread();
        Window { begun: now, ran, ended: now, waited: zero, ran_waiting: zero, stalled: zero }
    }

    /// The share of the time until `now` that was lost: by waiting for threads without a core, or because the leader
    /// had none itself.
    fn loss(&self, now: Instant) -> f64 {
        let time = now.saturating_duration_since(self.begun);
        let working = time.saturating_sub(self.waited);
        let ran = ran_since(self.ran).map_or(working, |ran| ran.saturating_sub(self.ran_waiting));
        (self.stalled + working.saturating_sub(ran)).as_secs_f64() / time.as_secs_f64().max(1e-9)
    }
}

/// How long this thread has run since its clock was `before`.
fn ran_since(before: Option<Duration>) -> Option<Duration> {
    Some(cpu_clock::of_this_thread()?.saturating_sub(before?))
}

/// The speed of `n_threads` threads with a core each, in that of one.
fn speed(n_threads: usize) -> f64 {
    (n_threads as f64).powf(SCALING)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds that `strength` spends with each number of threads, in `time` from now on; index 0 is not used.
    /// `loss` is the share of the time that is lost with a number of threads.
    fn spend(strength: &mut Strength, time: Duration, loss: impl Fn(usize) -> f64) -> Vec<u128> {
        let mut spent = vec![0; strength.most + 1];
        let begun = Instant::now();
        let mut now = begun;
        while now < begun + time {
            let length = strength.window_length();
            now += length;
            spent[strength.now] += length.as_millis();
            strength.judge(now, loss(strength.now));
        }
        // The next disturbance begins now.
        if let State::Hold { until, .. } = &mut strength.state {
            *until -= time;
        }
        spent
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn all_threads_take_part_while_little_is_lost() {
        for most in [2, 3, 16, 100] {
            let spent = spend(&mut Strength::new(most), 10 * SECOND, |_| 0.09);
            assert_eq!(spent[..most].iter().sum::<u128>(), 0, "{most} {spent:?}");
        }
        // Every other window loses much.
        let strength = &mut Strength::new(2);
        let windows = std::cell::Cell::new(0);
        let every_other = |_: usize| {
            windows.set(windows.get() + 1);
            if windows.get() % 2 == 0 { 0.9 } else { 0.0 }
        };
        assert_eq!(spend(strength, 10 * SECOND, every_other)[1], 0);
    }

    #[test]
    fn one_thread_less_takes_part_next_to_one_busy_loop() {
        for most in [2, 3, 16, 100] {
            let strength = &mut Strength::new(most);
            let busy = |n_threads| if n_threads == most { 0.5 } else { 0.01 };
            let spent = spend(strength, 10 * SECOND, busy);
            assert!(spent[most] < 400, "{most} {spent:?}");
            assert!(spent[most - 1] > 9500, "{most} {spent:?}");
            // The loop has ended.
            let spent = spend(strength, SECOND, |_| 0.0);
            assert!(spent[most] > 450, "{most} {spent:?}");
            assert_eq!(strength.now, most);
        }
    }

    #[test]
    fn many_threads_that_lose_time_are_kept_if_fewer_lose_as_much() {
        let spent = spend(&mut Strength::new(16), 60 * SECOND, |n_threads| if n_threads == 1 { 0.3 } else { 0.6 });
        assert!(spent[15] + spent[16] > 54_000, "{spent:?}");
    }

    #[test]
    fn about_half_of_the_threads_take_part_if_those_have_cores() {
        let spent = spend(&mut Strength::new(16), 10 * SECOND, |n_threads| if n_threads > 8 { 0.8 } else { 0.0 });
        assert!(spent[5..=8].iter().sum::<u128>() > 9000, "{spent:?}");
    }
}
