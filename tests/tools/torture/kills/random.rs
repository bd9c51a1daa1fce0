//! A larger run, killed at random moments.

use super::Stage;
use crate::Effort;
use crate::figure::Figure;
use olmo_infer::config::ModelConfig;
use olmo_tests::runs::{Runs, Work};
use olmo_tests::{Random, small_config};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// Kills of packing, and of each of the others.
const KILLS: [(Work, u64); 3] = [(Work::Pack, 400), (Work::Copy, 300), (Work::Unpack, 300)];

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    // 144 MB of numbers.
    let runs = Runs::of(&ModelConfig { vocab_size: 250_000, hidden_size: 72, head_dim: 12, ..small_config() });
    let mut random = Random(effort.seed);
    KILLS.map(|(work, kills)| kill(&Stage::new(&runs, work, true), effort.times(kills), &mut random)).into()
}

fn kill(stage: &Stage, kills: u64, random: &mut Random) -> Figure {
    let mut figure = Figure::new(format!("kills at random moments: {}", stage.name()), kills);
    let (mut killed, mut runs) = (0, 0);
    let mut longest = whole_run(stage);
    // The moments reach a little past the end; those that come too late are not counted.
    while killed < kills && runs < 4 * kills + 20 {
        runs += 1;
        let signal = [SIGINT, SIGKILL, SIGTERM][random.below(3)];
        let after = longest.mul_f64(random.below(1000) as f64 / 950.0);
        let arguments = stage.arguments();
        let begun = Instant::now();
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
            // Unpacking has a file in each thread, of which none may be removed.
            let most_left = if signal == SIGKILL { threads(stage.work) } else { 0 };
            figure.add(stage.judge(most_left, false).map_err(context));
        } else if !status.success() {
            figure.add(Err(context(format!("it ended with {status}"))));
        } else if let Err(failure) = stage.judge(0, true) {
            figure.add(Err(context(failure)));
        } else {
            // How long it takes changes with what else the machine does.
            longest = (longest + begun.elapsed()) / 2;
        }
    }
    figure.note(format!("{runs} runs of about {:.2} s", longest.as_secs_f64()));
    figure
}

/// How long it takes undisturbed.
fn whole_run(stage: &Stage) -> Duration {
    let arguments = stage.arguments();
    let begun = Instant::now();
    let status = Command::new(&arguments[0]).args(&arguments[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("it starts").success());
    begun.elapsed()
}

fn threads(work: Work) -> usize {
    match work {
        Work::Unpack => std::thread::available_parallelism().map_or(1, usize::from),
        _ => 1,
    }
}
