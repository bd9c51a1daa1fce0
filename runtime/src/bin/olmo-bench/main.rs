//! `olmo-bench MODEL.olmo`: how close a model comes to what the machine can do.
//!
//! Everything is measured in one process over one mapping: first the start-up, then the ceilings (`ceiling`: reading
//! memory, `peak`: arithmetic), then decode and prefill as shares of the ceiling next to them in time (`rounds`),
//! because the speed of a machine that is not alone drifts by more than what there is to measure. With `--sweep` it is
//! every way to compute (`ways`, `sweep`) in place of one.

mod args;
mod ceiling;
mod decode;
mod facts;
mod guessing;
mod host;
mod json;
mod peak;
mod prefill;
mod report;
mod rounds;
mod scoring;
mod startup;
mod sweep;
mod sweep_report;
mod ways;
mod work;

use args::{Args, Mode, PROGRAM};
use ceiling::{Ceiling, OneThread};
use facts::ModelFacts;
use host::{Host, progress};
use olmo_infer::internals::cli::advice::of_load;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::{ModelFile, Which};
use olmo_infer::internals::network::Network;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::memory;
use olmo_infer::internals::os::signals;
use olmo_infer::internals::parallel::team::with_team;
use report::Report;
use startup::{Phase, Startup};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use sweep::Sweep;
use sweep_report::SweepReport;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new("olmo-bench");

fn main() -> ExitCode {
    signals::install("olmo-bench", "copy or pack it again, or use --load read");
    let begun = Instant::now();
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(exit) => return exit.print(),
    };
    match run(&args, begun) {
        Ok(text) => PROGRAM.print(&text, ExitCode::SUCCESS),
        Err(error) => {
            match of_load(&error) {
                Some(advice) => PROGRAM.error(format_args!("{error}; {advice}")),
                None => PROGRAM.error(error),
            }
            ExitCode::FAILURE
        }
    }
}

/// Measures; yields what there is to print.
fn run(args: &Args, begun: Instant) -> Result<String, Error> {
    let (file, opened) = startup::open(&args.model, args.load, begun)?;
    if let Some(line) = &args.fewer_threads {
        PROGRAM.note(line);
    }
    let file = Arc::new(file);
    let network = Arc::new(Network::new(file.clone())?);
    match args.mode {
        Mode::Report => {
            let report = report(args, &file, &network, opened)?;
            Ok(if args.json { report.json() } else { report.table() })
        }
        Mode::Sweep => {
            let report = sweep(args, &file, &network)?;
            Ok(if args.json { report.json() } else { report.table() })
        }
    }
}

fn sweep(args: &Args, file: &ModelFile, network: &Arc<Network>) -> Result<SweepReport, Error> {
    file.populate(Which { drafts: false, experts: true }, &|| false)?;
    with_team(args.threads, |team| {
        progress("memory");
        let mut ceiling = Ceiling::tune(work::weights_read_by_decode(file), args.ceiling_time(), team);
        let sweep = Sweep::measure(network, args, &mut ceiling, team)?;
        Ok(SweepReport {
            host: Host::read(args, team.n_threads()),
            model: ModelFacts::new(file, network),
            read_gb_s: ceiling.best_gb_s(),
            pattern: ceiling.pattern(),
            sweep,
        })
    })?
}

fn report(args: &Args, file: &Arc<ModelFile>, network: &Arc<Network>, opened: Phase) -> Result<Report, Error> {
    let startup = with_team(args.threads, |team| Startup::measure(file, network, args, opened, team))??;
    progress("memory, one thread");
    let data = work::weights_read_by_decode(file);
    let one_thread = with_team(1, |team| OneThread::measure(data, args.ceiling_time(), team))?;
    with_team(args.threads, |team| {
        progress("memory, all threads");
        let mut ceiling = Ceiling::tune(data, args.ceiling_time(), team);
        let read_gb_s = ceiling.best_gb_s();
        progress("arithmetic");
        let peaks = peak::all(args.ceiling_time(), team);
        let decode = decode::measure(network, args, &mut ceiling, team)?;
        let prefill = prefill::measure(network, args, team)?;
        let scoring = scoring::measure(network, args, team)?;
        let guessing = guessing::measure(network, args, team)?;
        Ok(Report {
            host: Host::read(args, team.n_threads()),
            model: ModelFacts::new(file, network),
            startup,
            read_gb_s,
            pattern: ceiling.pattern(),
            one_thread,
            peaks,
            decode,
            prefill,
            scoring,
            guessing,
            anonymous_bytes: memory::anonymous_bytes(),
        })
    })?
}
