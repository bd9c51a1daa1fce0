//! `olmo-bench MODEL.olmo`: how close a model comes to what the machine can do.
//!
//! Everything is measured in one process over one mapping: first the start-up, then the ceilings (`ceiling`: reading
//! memory, `peak`: arithmetic), then decode and prefill as shares of the ceiling next to them in time (`rounds`),
//! because the speed of a machine that is not alone drifts by more than what there is to measure.

mod args;
mod ceiling;
mod decode;
mod host;
mod json;
mod peak;
mod prefill;
mod report;
mod rounds;
mod startup;
mod work;

use args::{Args, PROGRAM};
use ceiling::{Ceiling, OneThread};
use host::{Host, progress};
use olmo_infer::internals::cli::advice::of_load;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::memory;
use olmo_infer::internals::os::signals;
use olmo_infer::internals::parallel::team::with_team;
use report::Report;
use startup::Startup;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

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
        Ok(report) => {
            let text = if args.json { report.json() } else { report.table() };
            PROGRAM.print(&text, ExitCode::SUCCESS)
        }
        Err(error) => {
            match of_load(&error) {
                Some(advice) => PROGRAM.error(format_args!("{error}; {advice}")),
                None => PROGRAM.error(error),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, begun: Instant) -> Result<Report, Error> {
    let file = startup::open(&args.model, args.load, begun)?;
    if let Some(line) = &args.fewer_threads {
        PROGRAM.note(line);
    }
    let (file, opened) = file;
    let file = Arc::new(file);
    let network = Arc::new(Network::new(file.clone())?);
    let startup = with_team(args.threads, |team| Startup::measure(&file, &network, args, opened, team))??;
    progress("memory, one thread");
    let data = work::weights_read_by_decode(&file);
    let one_thread = with_team(1, |team| OneThread::measure(data, args.ceiling_time(), team))?;
    with_team(args.threads, |team| {
        progress("memory, all threads");
        let mut ceiling = Ceiling::tune(data, args.ceiling_time(), team);
        let read_gb_s = ceiling.best_gb_s();
        progress("arithmetic");
        let peaks = peak::all(args.ceiling_time(), team);
        let decode = decode::measure(&network, args, &mut ceiling, team)?;
        let prefill = prefill::measure(&network, args, team)?;
        Ok(Report {
            host: Host::read(args, team.n_threads()),
            model: report::ModelFacts::new(&file, &network),
            startup,
            read_gb_s,
            pattern: ceiling.pattern(),
            one_thread,
            peaks,
            decode,
            prefill,
            anonymous_bytes: memory::anonymous_bytes(),
        })
    })?
}
