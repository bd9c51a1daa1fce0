//! `torture`, what `make torture` runs: the tests that take too long for `make test`, and their figures in one table.
//!
//! Every part returns [`Figure`]s: how often something was tried, how often it was to be tried, and what went wrong.
//! The table goes to standard output and into the folder of the report; one failure makes the exit status 1.

mod bits;
mod calls;
mod costs;
mod figure;
mod kills;
mod mapping;
mod memory;
mod neighbour;
mod power;
mod programs;
mod reader;
mod readers;

use argh::FromArgs;
use figure::Figure;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Run the long tests and print a table of their figures.
#[derive(FromArgs)]
struct Args {
    /// only the parts with these names, separated by commas (default all)
    #[argh(option)]
    only: Option<String>,
    /// seed of everything that is random (default 1)
    #[argh(option, default = "1")]
    seed: u64,
    /// divide the number of random tries by this, for a quick look (default 1)
    #[argh(option, default = "1")]
    divide: u64,
    /// folder for the table (default target/torture)
    #[argh(option, default = "PathBuf::from(\"target/torture\")")]
    report: PathBuf,
}

/// The settings of a part.
pub struct Effort {
    /// Seed of everything that is random.
    pub seed: u64,
    divide: u64,
}

impl Effort {
    /// How often to try something that is to be tried `n` times.
    pub fn times(&self, n: u64) -> u64 {
        n.div_ceil(self.divide)
    }
}

/// A part: its name and what runs it.
type Part = (&'static str, fn(&Effort) -> Vec<Figure>);

/// All parts, in the order in which they run.
const PARTS: &[Part] = &[
    ("bits", bits::run),
    ("mapping", mapping::run),
    ("power", power::run),
    ("kills", kills::run),
    ("calls", calls::run),
    ("reader", reader::run),
    ("readers", readers::run),
    ("flips", reader::flips_in_a_large_file),
    ("costs", costs::run),
    ("memory", memory::run),
    ("neighbour", neighbour::run),
];

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let effort = Effort { seed: args.seed, divide: args.divide.max(1) };
    let wanted: Option<Vec<&str>> = args.only.as_deref().map(|names| names.split(',').collect());
    if let Some(unknown) = wanted.iter().flatten().find(|name| PARTS.iter().all(|part| part.0 != **name)) {
        let names: Vec<&str> = PARTS.iter().map(|part| part.0).collect();
        eprintln!("torture: error: no part {unknown}, expected some of {}", names.join(","));
        return ExitCode::from(2);
    }
    let path = args.report.join("torture.md");
    let mut figures = Vec::new();
    let mut table = String::new();
    for (name, run) in PARTS.iter().filter(|part| wanted.as_ref().is_none_or(|wanted| wanted.contains(&part.0))) {
        eprintln!("torture: {name} ...");
        let begun = Instant::now();
        figures.extend(run(&effort));
        eprintln!("torture: {name}: {:.0} s", begun.elapsed().as_secs_f64());
        // After each part, so that a user who ends the next one early keeps the figures of those before.
        table = figure::table(&figures, &effort_line(&args));
        if let Err(error) = fs::create_dir_all(&args.report).and_then(|()| fs::write(&path, &table)) {
            eprintln!("torture: error: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    println!("{table}");
    if figures.iter().all(Figure::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn effort_line(args: &Args) -> String {
    let part = if args.divide > 1 { format!(", 1/{} of the random tries", args.divide) } else { String::new() };
    format!("seed {}{part}", args.seed)
}
