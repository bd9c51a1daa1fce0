//! `olmo-pack`: arguments in, one summary out. Status 0 done, 1 bad data or I/O, 2 wrong usage.

mod args;

use args::{Command, Named, PROGRAM};
use olmo_infer::internals::cli::command_line;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::internals::os::signals;
use olmo_pack::commands::copy;
use olmo_pack::commands::diff;
use olmo_pack::commands::inspect;
use olmo_pack::commands::inspect::Form;
use olmo_pack::commands::pack::{self, Request};
use olmo_pack::commands::pack_summary::{self, Facts};
use olmo_pack::commands::progress::Progress;
use olmo_pack::commands::unpack;
use olmo_pack::commands::verify;
use olmo_pack::error::Error;
use olmo_pack::text::chat_child;
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new("olmo-pack");

fn main() -> ExitCode {
    // First: a template of an untrusted folder could make use of anything that was set up.
    if std::env::args_os().skip(1).eq([chat_child::ARGUMENT]) {
        return chat_child::serve().map_or_else(fail, |()| ExitCode::SUCCESS);
    }
    signals::install("olmo-pack", "copy or pack it again");
    match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Pack(arguments)) => match arguments.request() {
            Ok(request) => answer(pack(&arguments, request).map(Answer::from)),
            Err(exit) => exit.print(),
        },
        Ok(Command::Named(command)) => answer(run(command)),
        Err(exit) => exit.print(),
    }
}

/// Prints an answer or what is wrong.
fn answer(answer: Result<Answer, Error>) -> ExitCode {
    match answer {
        Ok(Answer { text, status }) => PROGRAM.print(&text, ExitCode::from(status)),
        Err(error) => fail(error),
    }
}

fn fail(error: Error) -> ExitCode {
    PROGRAM.error(&error);
    ExitCode::from(error.exit_code())
}

/// What standard output is to show, and the exit status.
struct Answer {
    text: String,
    status: u8,
}

impl From<String> for Answer {
    fn from(text: String) -> Answer {
        Answer { text, status: 0 }
    }
}

/// Runs a command.
fn run(command: Named) -> Result<Answer, Error> {
    let text = match command {
        Named::Inspect(arguments) => {
            let form = match (arguments.json, arguments.tensors) {
                (true, _) => Form::Json,
                (false, true) => Form::EveryTensor,
                (false, false) => Form::Table,
            };
            inspect::run(&arguments.model, form)?
        }
        Named::Verify(arguments) => match &arguments.against {
            Some(weights) => verify::run_against(&arguments.model, weights)?,
            None => verify::run(&arguments.model)?,
        },
        Named::Diff(arguments) => {
            let (same, text) = diff::run(&arguments.a, &arguments.b, arguments.json)?;
            return Ok(Answer { text, status: u8::from(!same) });
        }
        Named::Copy(arguments) => {
            let progress = Progress::new(true);
            let tell = |done, total| progress.set(done, total);
            copy::run(&arguments.model, &arguments.copy, arguments.force, &SystemDisk, &tell)?
        }
        Named::Unpack(arguments) => unpack::run(&arguments.model, &arguments.folder, arguments.force, &SystemDisk)?,
    };
    Ok(text.into())
}

fn pack(arguments: &args::Pack, mut request: Request) -> Result<String, Error> {
    let start = Instant::now();
    let (threads, fewer_threads) = command_line::threads(request.threads);
    request.threads = threads;
    let prepared = pack::prepare(&request)?;
    // Where standard error is closed, --json has them.
    PROGRAM.warn(&prepared.warnings());
    if let Some(line) = fewer_threads {
        PROGRAM.note(line);
    }
    if arguments.dry_run {
        return pack_summary::dry_run(&prepared, arguments.json);
    }
    let facts = Facts::new(&prepared.checkpoint, &prepared.text);
    let progress = Progress::new(!arguments.json);
    let packed = prepared.write(&SystemDisk, &|done, total| progress.set(done, total))?;
    drop(progress);
    let tell = if arguments.json { pack_summary::json } else { pack_summary::text };
    Ok(tell(&request, &facts, &packed, start.elapsed()))
}
