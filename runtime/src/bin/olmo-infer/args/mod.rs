//! The command line: which command the first word names, and the options of each.

pub mod chat;
pub mod compute;
pub mod generate;
pub mod prompt;
pub mod score;
pub mod text;
mod values;

use crate::program::PROGRAM;
use argh::{ArgsInfo, CommandInfoWithArgs, SubCommandInfo};
use chat::ChatArgs;
use generate::GenerateArgs;
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::words::Words;
use score::ScoreArgs;
use std::ffi::OsString;
use text::{DetokenizeArgs, TokenizeArgs};

/// The names of the commands.
pub const COMMANDS: [&str; 4] = [chat::NAME, score::NAME, text::TOKENIZE, text::DETOKENIZE];

/// What to do.
pub enum Command {
    /// Evaluate prompts and continue them: without the name of a command.
    Generate(GenerateArgs),
    /// Talk with a model.
    Chat(ChatArgs),
    /// Print the ids of a text.
    Tokenize(TokenizeArgs),
    /// Print the text of ids.
    Detokenize(DetokenizeArgs),
    /// Print how well the model predicts the tokens of files.
    Score(ScoreArgs),
}

/// Parses and checks the arguments after the program's name. In a terminal, a model without token files, a prompt and
/// options of other purposes starts a conversation too.
///
/// # Errors
/// Wrong usage, or what needs no model, such as `--help`.
pub fn parse(args: &[OsString], in_terminal: bool) -> Result<Command, CliExit> {
    let info = info();
    let mut words = Words::new(PROGRAM, &info, args.iter().cloned())?;
    words.mark_standard_input();
    match words.command() {
        Some(chat::NAME) => chat::parse(&words).map(Command::Chat),
        Some(text::TOKENIZE) => text::parse_tokenize(&words).map(Command::Tokenize),
        Some(text::DETOKENIZE) => text::parse_detokenize(&words).map(Command::Detokenize),
        Some(score::NAME) => score::parse(&words).map(Command::Score),
        _ => {
            let as_chat = || {
                let args = [OsString::from(chat::NAME)].into_iter().chain(args.iter().cloned());
                Words::new(PROGRAM, &info, args).and_then(|words| chat::parse(&words)).ok()
            };
            match as_chat().filter(|_| in_terminal) {
                Some(args) => Ok(Command::Chat(args)),
                None => generate::parse(&words, &info).map(Command::Generate),
            }
        }
    }
}

/// The definitions of the program and its commands.
fn info() -> CommandInfoWithArgs {
    let commands = [
        chat::Raw::get_args_info(),
        score::Raw::get_args_info(),
        text::Tokenize::get_args_info(),
        text::Detokenize::get_args_info(),
    ];
    let named = COMMANDS.into_iter().zip(commands);
    let commands = named.map(|(name, command)| SubCommandInfo { name, command }).collect();
    CommandInfoWithArgs { name: PROGRAM.name(), commands, ..generate::Raw::get_args_info() }
}
