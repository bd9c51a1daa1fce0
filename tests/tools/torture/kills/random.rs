//! A larger run, killed at random moments.

use super::Stage;
use crate::Effort;
use crate::figure::Figure;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::runs::{Runs, Work};
use olmo_tests::{Random, small_config};
use std::collections::VecDeque;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// The runs that are killed, the signals in turn, and how often.
const KILLS: [(Work, &[i32], u64); 4] = [
    (Work::Pack, &[SIGKILL], 1000),
    (Work::Pack, &[SIGINT, SIGTERM], 300),
    (Work::Copy, &[SIGKILL, SIGINT, SIGTERM], 300),
    (Work::Unpack, &[SIGKILL, SIGINT, SIGTERM], 300),
];
/// After this many kills an undisturbed run is timed again, because the load of the machine changes.
const KILLS_PER_LOOK: u64 = 20;
/// The run is taken to be as long as the median of the last `N_TIMED` that were timed.
const N_TIMED: usize = 5;
/// With fewer kills than this a part of the run may get none by chance.
const FEW: u64 = 100;

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    // 36 MB of numbers.
    let runs = Runs::of(&ModelConfig { vocab_size: 62_500, hidden_size: 72, head_dim: 12, ..small_config() });
    let mut random = Random(effort.seed);
    KILLS
        .map(|(work, signals, kills)| kill(&Stage::new(&runs, work, true), signals, effort.times(kills), &mut random))
        .into()
}

fn kill(stage: &Stage, signals: &[i32], kills: u64, random: &mut Random) -> Figure {
    let names: Vec<&str> = signals.iter().map(|signal| name(*signal)).collect();
    let what = format!("kills at random moments: {}, {}", stage.name(), names.join(", "));
    let mut figure = Figure::new(what, kills);
    if let Some(ignored) = signals.iter().find(|signal| is_ignored(**signal)) {
        figure.add(Err(format!("{} is ignored here, as by what a shell starts with &", name(*ignored))));
        return figure;
    }
    let mut quarters = [0u64; 4];
    let (mut killed, mut runs) = (0, 0);
    let mut timed: VecDeque<Duration> = (0..N_TIMED).map(|_| whole_run(stage)).collect();
    // The moments reach a little past the end; those that come too late are not counted.
    while killed < kills && runs < 4 * kills + 20 {
        runs += 1;
        let signal = signals[killed as usize % signals.len()];
        // Of the whole run.
        let part = random.below(1000) as f64 / 950.0;
        let after = middle(&timed).mul_f64(part);
        let arguments = stage.arguments();
        let mut child = Command::new(&arguments[0])
            .args(&arguments[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        sleep(after);
        let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        let status = child.wait().expect("it ends");
        // It had not been waited for, so there was something to take the signal.
        assert!(sent.expect("kill runs").success());
        let context = |failure| format!("signal {signal} after {after:.3?}: {failure}");
        if status.signal() == Some(signal) {
            killed += 1;
            quarters[((part * 4.0) as usize).min(3)] += 1;
            // Unpacking has a file in each thread, of which none may be removed.
            let most_left = if signal == SIGKILL { threads(stage.work) } else { 0 };
            figure.add(stage.judge(most_left, false).map_err(context));
            if killed % KILLS_PER_LOOK == 0 {
                timed.pop_front();
                timed.push_back(whole_run(stage));
            }
        } else if !status.success() {
            figure.add(Err(context(format!("it ended with {status}"))));
        } else if let Err(failure) = stage.judge(0, true) {
            figure.add(Err(context(failure)));
        }
    }
    if killed >= FEW && quarters.iter().any(|kills| kills * 10 < killed) {
        figure.add(Err(format!("not at all moments of the run: {quarters:?} kills in its quarters")));
    }
    let [first, second, third, last] = quarters;
    let length = middle(&timed).as_secs_f64() * 1e3;
    figure.note(format!("in the quarters of a run of {length:.0} ms: {first}, {second}, {third}, {last}; {runs} runs"));
    figure
}

/// The usual name of a signal.
fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        _ => "SIGKILL",
    }
}

/// Whether this process ignores a signal: those that it starts then do so too.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// How long it takes undisturbed.
fn whole_run(stage: &Stage) -> Duration {
    let arguments = stage.arguments();
    let begun = Instant::now();
    let status = Command::new(&arguments[0]).args(&arguments[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("it starts").success());
    begun.elapsed()
}

/// The median.
fn middle(timed: &VecDeque<Duration>) -> Duration {
    let mut sorted: Vec<Duration> = timed.iter().copied().collect();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn threads(work: Work) -> usize {
    match work {
        Work::Unpack => std::thread::available_parallelism().map_or(1, usize::from),
        _ => 1,
    }
}
