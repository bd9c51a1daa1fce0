//! Power cuts at every moment of small runs: what `tests/durability/power_cuts.rs` checks, for many more states.

use crate::Effort;
use crate::figure::Figure;
use olmo_tests::Random;
use olmo_tests::power::Judge;
use olmo_tests::recording::Recording;
use olmo_tests::runs::{Runs, all_recordings};

/// Different states of each of the twelve runs.
const STATES: u64 = 12_500;
/// Random states at each moment, before they are counted again.
const TRIES: u64 = 500;
/// How often they are counted: runs of few operations have few different states in a round.
const MAX_ROUNDS: u64 = 100;

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let runs = Runs::new();
    let mut random = Random(effort.seed);
    let recordings = all_recordings(&runs);
    recordings.iter().map(|(name, recording)| states(name, recording, effort, &mut random)).collect()
}

fn states(name: &str, recording: &Recording, effort: &Effort, random: &mut Random) -> Figure {
    let wanted = effort.times(STATES);
    let mut judge = Judge::default();
    for _ in 0..MAX_ROUNDS {
        judge.look_at(recording, TRIES, random);
        if judge.n_states() >= wanted {
            break;
        }
    }
    let mut figure = Figure::new(format!("states after a power cut: {name}"), wanted);
    judge.failures().iter().for_each(|failure| figure.add(Err(failure.clone())));
    (judge.failures().len() as u64..judge.n_states()).for_each(|_| figure.add(Ok(())));
    figure.note(match judge.n_opened() {
        0 => String::new(),
        n => format!("{n} contents that are not whole, none opened as a model"),
    });
    figure
}
