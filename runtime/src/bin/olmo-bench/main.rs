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

use args::Args;
use ceiling::{Ceiling, OneThread};
use host::Host;
use olmo_infer::internals::error::{Error, one_line};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::mapped_bytes::MappedBytes;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::disk::check_written;
use olmo_infer::internals::os::memory;
use olmo_infer::internals::os::signals;
use olmo_infer::internals::parallel::team::with_team;
use report::Report;
use startup::Startup;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use zerocopy::IntoBytes;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new("olmo-bench");

fn main() -> ExitCode {
    signals::install("olmo-bench");
    let begun = Instant::now();
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(exit) => return exit.print(),
    };
    let report = match run(&args, begun) {
        Ok(report) => report,
        Err(error) => return fail(error),
    };
    let text = if args.json { report.json() } else { report.table() };
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written.and_then(|()| check_written(&stdout)) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(format_args!("cannot write the results to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Says what is wrong and how to exit.
fn fail(problem: impl Display) -> ExitCode {
    let line = one_line(&format!("olmo-bench: error: {problem}")) + "\n";
    // In one write. Where standard error does not take the line, nobody is left to tell.
    let _nobody_to_tell = std::io::stderr().write_all(line.as_bytes());
    ExitCode::FAILURE
}

fn run(args: &Args, begun: Instant) -> Result<Report, Error> {
    let file = startup::open(&args.model, args.load, begun)?;
    if let Some(line) = &args.fewer_threads {
        // The results do not depend on whether standard error takes it.
        let _nobody_to_tell = writeln!(std::io::stderr(), "olmo-bench: note: {line}");
    }
    let (file, opened) = file;
    let file = Arc::new(file);
    let network = Arc::new(Network::new(file.clone())?);
    let startup = with_team(args.threads, |team| Startup::measure(&file, &network, args, opened, team))??;
    say("memory, one thread");
    let data = weights_read_by_decode(&file);
    let one_thread = with_team(1, |team| OneThread::measure(data, args.ceiling_time(), team))?;
    with_team(args.threads, |team| {
        say("memory, all threads");
        let mut ceiling = Ceiling::tune(data, args.ceiling_time(), team);
        let read_gb_s = ceiling.best_gb_s();
        say("arithmetic");
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

/// The part of the mapping that every token reads: all but an embedding that is not also the head.
fn weights_read_by_decode(file: &ModelFile) -> &[u8] {
    let first = if file.config().tie_word_embeddings { 0 } else { 1 };
    let bytes = file.bytes();
    let data = bytes.get(file.layout().tensors[first].offset as usize..bytes.len());
    // Only read, and nothing follows from it.
    data.and_then(MappedBytes::u32s).expect("the layout aligns and sizes tensors").as_bytes()
}

/// Says what is measured now, to people only.
fn say(what: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let _nobody_to_tell = writeln!(terminal, "olmo-bench: {what}");
    }
}
