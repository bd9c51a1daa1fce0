//! The command lines of `olmo-infer tokenize` and `olmo-infer detokenize`.

use crate::args::prompt::{Prompt, PromptOptions};
use crate::args::values;
use crate::program::PROGRAM;
use argh::{ArgsInfo, FromArgs};
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::cli::words::Words;
use olmo_infer::internals::error::display_path;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::text::token_file::TokenType;
use std::path::{Path, PathBuf};

/// The command that prints ids.
pub const TOKENIZE: &str = "tokenize";
/// The command that prints text.
pub const DETOKENIZE: &str = "detokenize";
/// The program with the command that prints ids.
pub const TOKENIZE_COMMAND: Program = PROGRAM.command(TOKENIZE);
/// The program with the command that prints text.
pub const DETOKENIZE_COMMAND: Program = PROGRAM.command(DETOKENIZE);

/// Prints the token ids of a text as little-endian u32.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "tokenize",
    help_triggers("-h", "--help", "help"),
    usage = "<model> [<text>] [options]",
    example = "olmo-infer tokenize model.olmo text.txt > tokens.bin",
    example = "olmo-infer tokenize model.olmo --chat --prompt \"Why is the sky blue?\" > tokens.bin",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(super) struct Tokenize {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// file of text in UTF-8; "-" or nothing is standard input
    #[argh(positional)]
    text: Vec<String>,
    /// the text; "-" reads it from standard input
    #[argh(option, short = 'p')]
    prompt: Option<String>,
    /// as --prompt, the text of a file
    #[argh(option, arg_name = "file")]
    prompt_file: Option<String>,
    /// the text is the message of a user, in the model's chat format
    #[argh(switch)]
    chat: bool,
    /// with --chat: system message, before the text
    #[argh(option)]
    system: Option<String>,
    /// a conversation: a JSON file, a list of objects with "role" and "content"
    #[argh(option, arg_name = "file")]
    messages: Option<String>,
    /// how the model comes into memory: auto (default), mmap or read
    #[argh(option, default = "Load::Auto", from_str_fn(values::load))]
    load: Load,
}

/// The checked command line of `tokenize`.
pub struct TokenizeArgs {
    /// Model file.
    pub model: PathBuf,
    /// The text.
    pub text: Source,
    /// How the model comes into memory.
    pub load: Load,
}

/// Where a text comes from.
pub enum Source {
    /// A file, or standard input for `-`.
    File(PathBuf),
    /// The options of prompts.
    Prompt(Prompt),
}

impl TokenizeArgs {
    /// The file on the command line.
    pub fn file(&self) -> Option<&Path> {
        match &self.text {
            Source::File(path) => Some(path),
            Source::Prompt(_) => None,
        }
    }
}

/// Parses and checks the arguments after `tokenize`.
pub(super) fn parse_tokenize(words: &Words) -> Result<TokenizeArgs, CliExit> {
    let usage = |problem: &str| CliExit::usage(TOKENIZE_COMMAND, problem);
    let Tokenize { model, text, prompt, prompt_file, chat, system, messages, load } = words.parse()?;
    if chat && prompt.is_none() && prompt_file.is_none() && messages.is_none() {
        return Err(usage("--chat takes the text from --prompt; use --prompt - for standard input"));
    }
    let prompt = PromptOptions { prompt, prompt_file, chat, system, messages }.prompt().map_err(usage)?;
    let text = match (prompt, text.first()) {
        (Some(prompt), None) => Source::Prompt(prompt),
        (Some(_), Some(_)) => {
            let path = display_path(&only_file(TOKENIZE_COMMAND, &text)?).to_string();
            return Err(usage(&format!("--prompt, --messages and a file exclude each other; {path} is a file")));
        }
        (None, _) => Source::File(only_file(TOKENIZE_COMMAND, &text)?),
    };
    Ok(TokenizeArgs { model: values::model(&model).map_err(usage)?, text, load })
}

/// Prints the text of token ids.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "detokenize",
    help_triggers("-h", "--help", "help"),
    usage = "<model> [<tokens>] [options]",
    example = "olmo-infer detokenize model.olmo tokens.bin",
    note = "In a terminal, invalid UTF-8 and control characters are shown as U+FFFD.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(super) struct Detokenize {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// token file; "-" or nothing is standard input
    #[argh(positional)]
    tokens: Vec<String>,
    /// type of the ids: u16, u32, i32, u64 or i64, little-endian (default: u32, and files that look like another type
    /// are refused)
    #[argh(option, arg_name = "type", from_str_fn(values::token_type))]
    token_type: Option<TokenType>,
    /// how the model comes into memory: auto (default), mmap or read
    #[argh(option, default = "Load::Auto", from_str_fn(values::load))]
    load: Load,
}

/// The checked command line of `detokenize`.
pub struct DetokenizeArgs {
    /// Model file.
    pub model: PathBuf,
    /// Token file, `-` for standard input.
    pub tokens: PathBuf,
    /// The type of the ids, if it was named.
    pub token_type: Option<TokenType>,
    /// How the model comes into memory.
    pub load: Load,
}

/// Parses and checks the arguments after `detokenize`.
pub(super) fn parse_detokenize(words: &Words) -> Result<DetokenizeArgs, CliExit> {
    let Detokenize { model, tokens, token_type, load } = words.parse()?;
    let model = values::model(&model).map_err(|problem| CliExit::usage(DETOKENIZE_COMMAND, problem))?;
    Ok(DetokenizeArgs { model, tokens: only_file(DETOKENIZE_COMMAND, &tokens)?, token_type, load })
}

/// The one file of a command, standard input without any.
fn only_file(command: Program, words: &[String]) -> Result<PathBuf, CliExit> {
    let mut files = values::files(words).map_err(|problem| CliExit::usage(command, problem))?;
    match files.len() {
        0 => Ok("-".into()),
        1 => Ok(files.remove(0)),
        _ => Err(CliExit::usage(command, "one file at a time becomes text or ids; run it once for each")),
    }
}
