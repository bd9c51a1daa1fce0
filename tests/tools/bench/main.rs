//! `bench`, what `make bench` and `make bench-peers` run: makes a model of random weights in a published shape and
//! measures all of its way, from the folder to the last token, and the same without the model file; or, with `--peers`,
//! compares with other programs.
//!
//! Things that are compared are measured by turns in the same run. Results go into `results.json`; the report and its
//! charts are made from that alone, so that both commands add to the same report.

mod bars;
mod charts;
mod cold;
mod kind;
mod machine;
mod numbers;
mod ours;
mod own;
mod own_table;
mod packing;
mod peer;
mod peers;
mod peers_table;
mod programs;
mod report;
mod results;
mod sequences;
mod summary;
mod work;

use argh::FromArgs;
use kind::{KINDS, Kind};
use machine::Machine;
use own::Effort;
use peer::Python;
use peers::Rounds;
use results::Results;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use work::{Model, Work};

/// Folders of weights that are on the disk at once: the weights, a copy of them or another program's model, a model
/// file.
const FOLDERS: f64 = 3.0;

/// Generate a model of random weights, pack it, and measure packing, start-up, decode and prefill.
#[derive(FromArgs)]
struct Args {
    /// shape of the model (default olmo2-1b), see random-weights --help
    #[argh(option, default = "String::from(\"olmo2-1b\")")]
    shape: String,
    /// another number of layers than the shape has
    #[argh(option)]
    layers: Option<usize>,
    /// type of the folder of weights: f32 (default), or bf16, which is half as large
    #[argh(option, default = "String::from(\"f32\")")]
    weights: String,
    /// kinds of model files to measure (default f32,bf16-plain,bf16; the last in 12 bits a weight)
    #[argh(option)]
    types: Option<String>,
    /// folder of the report (default target/bench); what another run of the same shape found on this
    /// machine stays in it
    #[argh(option, default = "PathBuf::from(\"target/bench\")")]
    report: PathBuf,
    /// compare with other programs instead, in this virtual environment of Python
    #[argh(option)]
    peers: Option<PathBuf>,
    /// most rounds of each comparison with another program
    #[argh(option, default = "usize::MAX")]
    rounds: usize,
    /// few rounds, one packing, one run of each program
    #[argh(switch)]
    quick: bool,
    /// all contexts and prompt lengths of olmo-bench: many minutes
    #[argh(switch)]
    full: bool,
    /// measure nothing: make the report again from the results in its folder
    #[argh(switch)]
    render: bool,
    /// leave the folder of weights where it is, for the next run
    #[argh(switch)]
    keep: bool,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let kinds = kinds(args.types.as_deref())?;
    fs::create_dir_all(&args.report).map_err(|error| format!("{}: {error}", args.report.display()))?;
    if args.render {
        return write_report(&Results::read(&args.report)?, &args.report);
    }
    let model = Model { shape: args.shape.clone(), layers: args.layers, dtype: args.weights.clone() };
    let work = Work::new(model, &PathBuf::from("target/bench"))?;
    let measured = measure(args, &kinds, &work).and_then(|results| write_report(&results, &args.report));
    match (measured, work.remove_all(args.keep)) {
        (Err(problem), Err(left)) => Err(format!("{problem}; {left}")),
        (measured, removed) => measured.and(removed),
    }
}

/// Writes the report, and prints it.
fn write_report(results: &Results, folder: &Path) -> Result<(), String> {
    results.write(folder)?;
    let (path, text) = report::write(results, folder)?;
    print!("{text}");
    eprintln!("bench: written to {}", path.display());
    Ok(())
}

/// The kinds that were asked for, in the order of the report.
fn kinds(names: Option<&str>) -> Result<Vec<Kind>, String> {
    let Some(names) = names else { return Ok(KINDS.into()) };
    let names: Vec<&str> = names.split(',').collect();
    match names.iter().find(|name| kind::named(name).is_none()) {
        Some(unknown) => Err(format!("--types {unknown}: expected f32, bf16-plain or bf16, with commas between them")),
        None => Ok(KINDS.into_iter().filter(|kind| names.contains(&kind.name)).collect()),
    }
}

/// The results of an earlier run in the folder of the report. It is an error when they cannot be read, or belong to
/// another machine or shape, since the new results would replace them.
fn earlier(args: &Args, shape: &str, machine: &Machine) -> Result<Option<Results>, String> {
    let elsewhere = |problem: String| format!("{problem}; give another folder with --report");
    let Some(earlier) = Results::earlier(&args.report).map_err(elsewhere)? else { return Ok(None) };
    let folder = args.report.display();
    if earlier.shape != shape {
        return Err(elsewhere(format!("{folder}: holds results of {}, not of {}", earlier.shape, shape)));
    }
    if !earlier.machine.is_like(machine) {
        let Machine { cpu, cores, kernel, .. } = &earlier.machine;
        let gib = earlier.machine.memory_gib();
        return Err(elsewhere(format!(
            "{folder}: holds results of another machine ({cpu}, {cores} cores, {gib} GiB, Linux {kernel})"
        )));
    }
    Ok(Some(earlier))
}

/// Measures one part of the results and keeps the other part, if there is one.
fn measure(args: &Args, kinds: &[Kind], work: &Work) -> Result<Results, String> {
    let machine = Machine::read();
    let earlier = earlier(args, &work.model.name(), &machine)?;
    let weights_bytes = work.generate(FOLDERS)?;
    if machine.memory_bytes < 5 * weights_bytes / 2 {
        eprintln!("bench: this memory does not hold folder, heap and model together: some figures will be the disk's");
    }
    let (own, comparisons) = earlier.map_or((None, Vec::new()), |results| (results.own, results.comparisons));
    let mut results = Results { machine, shape: work.model.name(), weights_bytes, own, comparisons };
    match &args.peers {
        Some(environment) => {
            let at_most = if args.quick { 2 } else { args.rounds };
            let rounds = Rounds { at_most, threads: results.machine.cores };
            let python = Python::new(environment)?;
            peers::measure(work, kinds, rounds, &python, &mut results, &args.report)?;
        }
        None => {
            let effort = match (args.quick, args.full) {
                (true, _) => Effort::Quick,
                (false, true) => Effort::Full,
                (false, false) => Effort::Usual,
            };
            own::measure(work, kinds, effort, &mut results, &args.report)?;
        }
    }
    Ok(results)
}
