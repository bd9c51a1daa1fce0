//! Every allocation of every command fails once: alone, and with all that follow. One line and exit status 1, or what
//! the command gives with all memory; never a signal, nor a file that is left.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::program;
use olmo_tests::TempDir;
use olmo_tests::chats::{MARKED, demo_chat};
use olmo_tests::commands::{PACKING, Places, READING};
use olmo_tests::no_memory::{WithoutMemory, library};

/// See the top.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let folder = TempDir::in_memory("torture-memory");
    let Some(library) = library(&folder) else {
        let mut missing = Figure::new("allocations that fail", 1);
        missing.note("another malloc than that of glibc");
        return vec![missing];
    };
    let programs = ["olmo-pack", "olmo-infer"].map(|name| program(name).to_str().expect("UTF-8").to_string());
    let programs = [programs[0].as_str(), programs[1].as_str()];
    let model = demo_chat(programs[0], &folder, MARKED);
    let places = Places::new(programs, &folder, &model);
    let commands = READING.into_iter().chain([PACKING]);
    let figures = commands.flat_map(|command| {
        let without = WithoutMemory::new(command, &places, library.to_str().expect("UTF-8"));
        [false, true].map(|goes_on| {
            let tries = effort.times(without.n_allocations);
            let all = if goes_on { "allocations that fail, and all after" } else { "allocations that fail" };
            let mut figure = Figure::new(format!("{all}: {}", command.name), tries);
            for i in 1..=tries {
                figure.add(without.fails_at(without.n_allocations * i / tries, goes_on));
            }
            figure
        })
    });
    figures.collect()
}
