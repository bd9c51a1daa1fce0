//! How many threads of a team take part in a phase: fewer while other programs have the cores.
//!
//! A thread that loses its core in the middle of an item delays the end of the phase by a slice of the scheduler, often
//! longer than the phase. While that recurs, fewer threads are faster, because each of them has a core. The leader
//! sums up the time that the team loses in this way. If it is more than a thread is worth, it tries fewer threads and
//! keeps the best number for a while, then all threads again. A disturbance that ends is forgotten after half a second,
//! or after five where fewer threads lost time as well; one that lasts costs a short trial now and then. The number
//! changes no result.

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
    window: Window,
    /// None until the next phase begins.
    piece: Option<Piece>,
    /// The time that the calling thread has run.
    clock: fn() -> Option<Duration>,
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

/// What is known about the present number of threads: sums over pieces of time. Runs may be shorter than a window.
#[derive(Default)]
struct Window {
    time: Duration,
    /// The time that the leader had work, but no core.
    without_core: Duration,
    /// The part of the leader's waits for others that items do not explain.
    stalled: Duration,
}

/// A stretch of time of one leader without pauses.
struct Piece {
    begun: Instant,
    /// The time that the leader had run when it began.
    ran: Option<Duration>,
    /// When the last phase ended.
    ended: Instant,
    /// The leader's waits for others, and how long it ran in them.
    waited: Duration,
    ran_waiting: Duration,
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
        Strength {
            most,
            now: most,
            state: State::Full { lost_before: false },
            hold: SHORTEST_HOLD,
            window: Window::default(),
            piece: None,
            clock: cpu_clock::of_this_thread,
        }
    }

    /// Another thread may lead from now on.
    pub(crate) fn begin_run(&mut self) {
        // That of a run that panicked.
        self.piece = None;
    }

    /// The leader that began the run has ended it.
    pub(crate) fn end_run(&mut self, now: Instant) {
        self.end_piece(now);
    }

    /// The number of threads for a phase that begins now, the leader included.
    pub(crate) fn begin_phase(&mut self, now: Instant) -> usize {
        if self.end_hold(now) {
            (self.window, self.piece) = (Window::default(), None);
        }
        if self.piece.as_ref().is_some_and(|piece| now.saturating_duration_since(piece.ended) > PAUSE) {
            self.end_piece(now);
        }
        let length = self.piece.as_ref().map_or(Duration::ZERO, |piece| now.saturating_duration_since(piece.begun));
        if self.window.time + length >= self.window_length() {
            self.end_piece(now);
            let loss = self.window.loss();
            self.window = Window::default();
            self.judge(now, loss);
        }
        self.piece.get_or_insert_with(|| Piece::new(now, (self.clock)()));
        self.now
    }

    /// Adds the piece to the window.
    fn end_piece(&mut self, now: Instant) {
        let Some(piece) = self.piece.take() else { return };
        let is_after_pause = now.saturating_duration_since(piece.ended) > PAUSE;
        let time = if is_after_pause { piece.ended } else { now }.saturating_duration_since(piece.begun);
        let working = time.saturating_sub(piece.waited);
        // If the leader ran in the pause, this is too much, and a loss is overlooked.
        let ran = ran_since(piece.ran, (self.clock)()).map_or(working, |ran| ran.saturating_sub(piece.ran_waiting));
        self.window.time += time;
        self.window.without_core += working.saturating_sub(ran);
        self.window.stalled += piece.stalled;
    }

    fn window_length(&self) -> Duration {
        if matches!(self.state, State::Trial { .. }) { TRIAL } else { WINDOW }
    }

    pub(crate) fn end_phase(&mut self, now: Instant) {
        if let Some(piece) = &mut self.piece {
            piece.ended = now;
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
        let Some(piece) = &mut self.piece else { return };
        let waited = wait.begun.elapsed();
        piece.waited += waited;
        piece.ran_waiting += ran_since(wait.ran, (self.clock)()).unwrap_or_default();
        let stalled = waited.saturating_sub(wait.expected);
        if stalled >= LONG_WAIT {
            piece.stalled += stalled;
        }
    }

    /// Tries all threads if the best number has been kept for long enough; returns whether that is so.
    fn end_hold(&mut self, now: Instant) -> bool {
        let State::Hold { until, lossy } = self.state else { return false };
        if now < until {
            return false;
        }
        self.state = if lossy { State::Full { lost_before: true } } else { State::Trial { before: self.now } };
        self.now = self.most;
        true
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
            State::Hold { .. } => return,
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

impl Piece {
    fn new(now: Instant, ran: Option<Duration>) -> Piece {
        let zero = Duration::ZERO;
        Piece { begun: now, ran, ended: now, waited: zero, ran_waiting: zero, stalled: zero }
    }
}

impl Window {
    /// The share of the time that was lost: by waiting for threads without a core, or because the leader had none
    /// itself.
    fn loss(&self) -> f64 {
        (self.stalled + self.without_core).as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }
}

/// How long a thread has run between two looks at its clock.
fn ran_since(before: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    Some(now?.saturating_sub(before?))
}

/// The speed of `n_threads` threads with a core each, in that of one.
fn speed(n_threads: usize) -> f64 {
    (n_threads as f64).powf(SCALING)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A team of `most` threads whose leader always has a core.
    fn strength(most: usize) -> Strength {
        Strength { clock: || None, ..Strength::new(most) }
    }

    /// Milliseconds that `strength` spends with each number of threads, in `time` from now on; index 0 is not used. Each
    /// phase takes one millisecond. `loss` is the share of it that is lost with a number of threads, at a millisecond.
    fn spend(strength: &mut Strength, time: Duration, loss: impl Fn(usize, usize) -> f64) -> Vec<usize> {
        spend_in_runs(strength, time, usize::MAX, loss)
    }

    /// As [`spend`] in runs of `phases` phases, with pauses between them that do not count.
    fn spend_in_runs(
        strength: &mut Strength,
        time: Duration,
        phases: usize,
        loss: impl Fn(usize, usize) -> f64,
    ) -> Vec<usize> {
        const PHASE: Duration = Duration::from_millis(1);
        let mut spent = vec![0; strength.most + 1];
        // The next disturbance begins now.
        let begun = Instant::now();
        let mut now = begun;
        strength.begin_run();
        for at in 0..time.as_millis() as usize {
            if at > 0 && at % phases == 0 {
                strength.end_run(now);
                now += 2 * PAUSE;
                strength.begin_run();
            }
            let n_threads = strength.begin_phase(now);
            strength.window.stalled += PHASE.mul_f64(loss(n_threads, at));
            spent[n_threads] += 1;
            now += PHASE;
            strength.end_phase(now);
        }
        strength.end_run(now);
        if let State::Hold { until, .. } = &mut strength.state {
            *until -= now - begun;
        }
        spent
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn all_threads_take_part_while_little_is_lost() {
        for most in [2, 3, 16, 100] {
            let spent = spend(&mut strength(most), 10 * SECOND, |_, _| 0.09);
            assert_eq!(spent[..most].iter().sum::<usize>(), 0, "{most} {spent:?}");
        }
        // Every other window loses much.
        let every_other = |_, at: usize| if (at / 25).is_multiple_of(2) { 0.9 } else { 0.0 };
        assert_eq!(spend(&mut strength(2), 10 * SECOND, every_other)[1], 0);
    }

    #[test]
    fn one_thread_less_takes_part_next_to_one_busy_loop() {
        for most in [2, 3, 16, 100] {
            let strength = &mut strength(most);
            let busy = |n_threads, _| if n_threads == most { 0.5 } else { 0.01 };
            let spent = spend(strength, 10 * SECOND, busy);
            assert!(spent[most] < 400, "{most} {spent:?}");
            assert!(spent[most - 1] > 9500, "{most} {spent:?}");
            // The loop has ended.
            let spent = spend(strength, SECOND, |_, _| 0.0);
            assert!(spent[most] > 450, "{most} {spent:?}");
            assert_eq!(strength.now, most);
        }
    }

    #[test]
    fn runs_that_are_shorter_than_a_window_are_judged_together() {
        for most in [2, 16] {
            let strength = &mut strength(most);
            let busy = |n_threads, _| if n_threads == most { 0.5 } else { 0.01 };
            let spent = spend_in_runs(strength, SECOND, 5, busy);
            assert!(spent[most - 1] > 500, "{most} {spent:?}");
            let spent = spend_in_runs(strength, SECOND, 5, |_, _| 0.0);
            assert!(spent[most] > 900, "{most} {spent:?}");
            assert_eq!(strength.now, most);
        }
    }

    #[test]
    fn many_threads_that_lose_time_are_kept_if_fewer_lose_as_much() {
        let spent = spend(&mut strength(16), 60 * SECOND, |n_threads, _| if n_threads == 1 { 0.3 } else { 0.6 });
        assert!(spent[15] + spent[16] > 54_000, "{spent:?}");
    }

    #[test]
    fn about_half_of_the_threads_take_part_if_those_have_cores() {
        let spent = spend(&mut strength(16), 10 * SECOND, |n_threads, _| if n_threads > 8 { 0.8 } else { 0.0 });
        assert!(spent[5..=8].iter().sum::<usize>() > 9000, "{spent:?}");
    }
}
