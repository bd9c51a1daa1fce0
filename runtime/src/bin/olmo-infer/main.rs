//! `olmo-infer`: evaluates prompts and continues them, chats, scores token files, turns text into ids and back.

mod advice;
mod args;
mod failure;
mod generate;
mod job;
mod json_object;
mod lines;
mod messages;
mod opened;
mod output_path;
mod printer;
mod program;
mod prompts;
mod rows_file;
mod sampling_flags;
mod score;
mod talk;
mod timing_line;
mod tokenize;
mod transcript;
#[cfg(test)]
mod whole_file;

use args::Command;
use failure::Failure;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::disk::check_written;
use olmo_infer::internals::os::signals;
use program::PROGRAM;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new("olmo-infer");

fn main() -> ExitCode {
    signals::install("olmo-infer", "copy or pack it again, or use --load read");
    let begun = Instant::now();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let command = match args::parse(&words, talk::is_terminal()) {
        Ok(command) => command,
        Err(exit) => return exit.print(),
    };
    let ended = match &command {
        Command::Generate(args) => generate::run(args, begun),
        Command::Chat(args) => talk::run(args),
        Command::Tokenize(args) => tokenize::tokenize(args),
        Command::Detokenize(args) => tokenize::detokenize(args),
        Command::Score(args) => score::run(args),
    };
    match ended.and_then(|()| Ok(check_written(io::stdout())?)) {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            PROGRAM.error(&failure);
            if let Failure::Usage(_) = failure { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
