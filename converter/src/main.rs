//! `olmo-pack`: arguments in, one summary out. Status 0 done, 1 bad data or I/O, 2 wrong usage.

mod args;

use args::{Command, Named};
use olmo_infer::internals::cli::command_line;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::disk::{SystemDisk, check_written};
use olmo_infer::internals::os::signals;
use olmo_pack::commands::copy;
use olmo_pack::commands::diff;
use olmo_pack::commands::inspect;
use olmo_pack::commands::inspect::Form;
use olmo_pack::commands::pack;
use olmo_pack::commands::pack_summary::{self, Facts};
use olmo_pack::commands::progress::Progress;
use olmo_pack::commands::unpack;
use olmo_pack::commands::verify;
use olmo_pack::error::{Error, escaped};
use olmo_pack::text::chat_child;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new("olmo-pack");

fn main() -> ExitCode {
    // Before anything that a stranger's template could make use of.
    if std::env::args_os().skip(1).eq([chat_child::ARGUMENT]) {
        return chat_child::serve()
            .map_or_else(|error| fail(error.exit_code(), &error.to_string()), |()| ExitCode::SUCCESS);
    }
    signals::install("olmo-pack");
    let arguments: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(|argument| argument.into_string()).collect();
    let Ok(arguments) = arguments else {
        return fail(2, "an argument is not UTF-8, expected text; rename the file or give another path to it");
    };
    let command = match args::parse(arguments) {
        Ok(command) => command,
        Err(usage) => return fail(2, &usage),
    };
    match run(command) {
        Ok(answer) => say(&answer),
        Err(error) => fail(error.exit_code(), &error.to_string()),
    }
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

/// Does what was asked.
fn run(command: Command) -> Result<Answer, Error> {
    let text = match command {
        Command::Pack(arguments) => run_pack(&arguments)?,
        Command::Named(Named::Inspect(arguments)) => {
            let form = match (arguments.json, arguments.tensors) {
                (true, _) => Form::Json,
                (false, true) => Form::EveryTensor,
                (false, false) => Form::Table,
            };
            inspect::run(&arguments.model, form)?
        }
        Command::Named(Named::Verify(arguments)) => match &arguments.against {
            Some(weights) => verify::run_against(&arguments.model, weights)?,
            None => verify::run(&arguments.model)?,
        },
        Command::Named(Named::Diff(arguments)) => {
            let (same, text) = diff::run(&arguments.a, &arguments.b, arguments.json)?;
            return Ok(Answer { text, status: u8::from(!same) });
        }
        Command::Named(Named::Copy(arguments)) => {
            let progress = Progress::new(true);
            let tell = |done, total| progress.set(done, total);
            copy::run(&arguments.model, &arguments.copy, arguments.force, &SystemDisk, &tell)?
        }
        Command::Named(Named::Unpack(arguments)) => {
            unpack::run(&arguments.model, &arguments.folder, arguments.force, &SystemDisk)?
        }
        Command::Say(text) => text,
    };
    Ok(text.into())
}

fn run_pack(arguments: &args::Pack) -> Result<String, Error> {
    let start = Instant::now();
    let mut request = arguments.request().map_err(Error::Usage)?;
    let (threads, fewer_threads) = command_line::threads(request.threads);
    request.threads = threads;
    let prepared = pack::prepare(&request)?;
    warn(&prepared.warnings());
    if let Some(line) = &fewer_threads {
        // Where standard error is closed, nothing is lost: no result depends on it.
        let _ = writeln!(io::stderr(), "olmo-pack: note: {line}");
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

/// Writes the result. A reader that has seen enough is no error.
fn say(answer: &Answer) -> ExitCode {
    let text = &answer.text;
    let line_end = if text.ends_with('\n') { "" } else { "\n" };
    let mut stdout = io::stdout().lock();
    let written = write!(stdout, "{text}{line_end}").and_then(|()| stdout.flush());
    match written.and_then(|()| check_written(&stdout)) {
        Ok(()) => ExitCode::from(answer.status),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(answer.status),
        Err(error) => fail(1, &Error::io("standard output", "cannot write", error).to_string()),
    }
}

/// Writes warnings to standard error, a line each.
fn warn(warnings: &[String]) {
    let lines: String = warnings.iter().map(|line| format!("olmo-pack: warning: {}\n", escaped(line))).collect();
    // Where standard error is closed, the warnings in --json say it all.
    let _ = io::stderr().lock().write_all(lines.as_bytes());
}

/// Ends with `status` and every line of `message` marked as ours.
fn fail(status: u8, message: &str) -> ExitCode {
    let mut lines = String::new();
    for line in message.lines() {
        lines += &format!("olmo-pack: error: {}\n", escaped(line));
    }
    // Where standard error is closed, the status says it all.
    let _ = io::stderr().lock().write_all(lines.as_bytes());
    ExitCode::from(status)
}
