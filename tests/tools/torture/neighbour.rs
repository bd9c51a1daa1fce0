//! A neighbour rewrites, cuts and grows the model file through a mapping of its own while every command runs: no
//! command ends by a signal.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::program;
use olmo_tests::TempDir;
use olmo_tests::chats::{MARKED, demo_chat};
use olmo_tests::commands::{Places, READING};
use olmo_tests::neighbour::{HABITS, Neighbour};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

/// See the top.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let folder = TempDir::in_memory("torture-neighbour");
    let programs = ["olmo-pack", "olmo-infer"].map(|name| program(name).to_str().expect("UTF-8").to_string());
    let programs = [programs[0].as_str(), programs[1].as_str()];
    let model = demo_chat(programs[0], &folder, MARKED);
    let places = Places::new(programs, &folder, &model);
    let neighbour = Neighbour::new(&model);
    let figures = HABITS.map(|habit| {
        // From then on the file's times no longer count as recent.
        sleep(Duration::from_millis(2100));
        let rounds = effort.times(100);
        let mut figure = Figure::new(format!("a neighbour, {habit:?}"), rounds * READING.len() as u64);
        let before = neighbour.n_changes.load(Ordering::Relaxed);
        for round in 0..rounds {
            neighbour.disturb(habit, effort.seed.wrapping_add(round), || {
                for command in READING {
                    let ended = command.run(&places, &[]);
                    places.clear();
                    figure.add(ended.in_a_line().map_err(|failure| format!("{}: {failure}", command.name)));
                }
            });
        }
        figure.note(format!("{} changes", neighbour.n_changes.load(Ordering::Relaxed) - before));
        figure
    });
    figures.into()
}
