//! The command line of `olmo-infer`.

use crate::printer::Failure;
use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};
use olmo_infer::internals::cli::command_line::{self, count, number, whole_number};
use olmo_infer::internals::cli::exit::{self, Exit, Place};
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::sampling::SamplingFlags;
use olmo_infer::internals::kernels::backend::{Backend, BackendError};
use olmo_infer::internals::network::Options;
use olmo_infer::internals::parallel::matmul::Activations;
use olmo_infer::internals::text::token_file::TokenType;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

pub const PROGRAM: &str = "olmo-infer";
/// Positions that are evaluated when nothing else is asked for, as the program this one replaces did.
const DEFAULT_STEPS: usize = 20;
/// Generated tokens of `--text` when nothing else is asked for.
pub const DEFAULT_MAX_TOKENS: usize = 256;
/// Next tokens that are listed when nothing else is asked for.
const DEFAULT_TOP: usize = 5;
/// Stands for `-` while argh parses, which takes it for an option. No argument can hold a NUL.
const STANDARD_INPUT: &str = "\0stdin";

/// Runs an OLMo model: evaluates a prompt, token ids or text, and goes on from there. Text becomes text; of token
/// files, a line per position is printed with the most likely next tokens. Several token files are evaluated together,
/// and their results printed in the order of the files.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    help_triggers("-h", "--help", "help"),
    usage = "<model> [<tokens...>] [options]\n       olmo-infer chat <model> [options]",
    example = "olmo-infer chat model.olmo",
    example = "olmo-infer model.olmo --prompt \"Four score and\"",
    example = "olmo-infer model.olmo --chat --prompt \"Why is the sky blue?\" --temperature 0.7 --top-p 0.95",
    example = "olmo-infer model.olmo tokens.bin",
    example = "olmo-infer model.olmo --text --max-tokens 100 < tokens.bin",
    example = "olmo-infer model.olmo a.bin b.bin c.bin",
    example = "olmo-infer model.olmo --tokenize < text.txt > tokens.bin",
    example = "olmo-infer model.olmo --score *.bin --output scores.jsonl",
    example = "olmo-infer model.olmo -p \"Four score and\" -n 100 --json",
    note = "TOKENS holds little-endian u32 ids, or those of --token-type.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// token files; "-" or nothing is standard input
    #[argh(positional)]
    tokens: Vec<String>,
    /// text to go on from; "-" reads it from standard input
    #[argh(option, short = 'p')]
    prompt: Option<String>,
    /// as --prompt, the text of a file: every byte of it, a newline at its end included
    #[argh(option, arg_name = "file")]
    prompt_file: Option<String>,
    /// the prompt is what a user says to the model, in the model's own format; prints the answer
    #[argh(switch)]
    chat: bool,
    /// with --chat: what the system says to the model first
    #[argh(option)]
    system: Option<String>,
    /// a conversation that the model answers: a JSON file, a list of objects with "role" and "content"
    #[argh(option, arg_name = "file")]
    messages: Option<String>,
    /// end before this text; can be given several times
    #[argh(option)]
    stop: Vec<String>,
    /// sampling temperature; 0 is greedy (default, but with --chat what the model's author recommends, as for the next
    /// four)
    #[argh(option, from_str_fn(number))]
    temperature: Option<f64>,
    /// sample from the K most likely tokens
    #[argh(option, from_str_fn(count))]
    top_k: Option<usize>,
    /// sample from the most likely tokens that together have this probability
    #[argh(option, from_str_fn(number))]
    top_p: Option<f64>,
    /// sample from tokens with at least this share of the probability of the most likely one
    #[argh(option, from_str_fn(number))]
    min_p: Option<f64>,
    /// make tokens that have occurred less likely; 1 (default) does nothing, 1.1 is mild
    #[argh(option, from_str_fn(number))]
    repetition_penalty: Option<f64>,
    /// seed for sampling (default: random, printed by --timing)
    #[argh(option, from_str_fn(whole_number))]
    seed: Option<u64>,
    /// print the token ids of a text (a file, standard input, or --prompt) as little-endian u32, and do no more
    #[argh(switch)]
    tokenize: bool,
    /// print the text of token ids, and do no more
    #[argh(switch)]
    detokenize: bool,
    /// print a JSON object for each token file: how well the model predicts each of its tokens. Without files, standard
    /// input is a list of them, a path per line
    #[argh(switch)]
    score: bool,
    /// with --score: append the objects to this file, and leave out the files that are in it already; "-" is standard
    /// output
    #[argh(option, short = 'o')]
    output: Option<PathBuf>,
    /// type of the ids in token files: u16, u32, i32, u64 or i64, little-endian (default: u32, and files that look like
    /// another type are refused)
    #[argh(option, arg_name = "type")]
    token_type: Option<String>,
    /// number of positions to evaluate (default: the prompt, at least 20)
    #[argh(option, from_str_fn(count))]
    steps: Option<usize>,
    /// how many next tokens to list (default 5)
    #[argh(option, from_str_fn(count))]
    top: Option<usize>,
    /// print only the continuation, as plain text, up to the model's end-of-text id
    #[argh(switch)]
    text: bool,
    /// most tokens to generate with --text or --prompt (default 256), or with --json
    #[argh(option, short = 'n', from_str_fn(count))]
    max_tokens: Option<usize>,
    /// print a JSON object per position; with --max-tokens, --stop, --chat or --messages, generate as --text does, and
    /// end with an object of what was generated
    #[argh(switch)]
    json: bool,
    /// write the f32 logits of every evaluated position to this .npy file; "-" is standard output, which gets nothing
    /// else then
    #[argh(option)]
    logits: Option<PathBuf>,
    /// number of threads (default and 0: all cores this process may use, which are the most)
    #[argh(option, short = 't', default = "0", from_str_fn(whole_number))]
    threads: usize,
    /// how the model comes into memory: "mmap" maps the file, "read" reads all of it, "auto" (default) reads on network
    /// and FUSE file systems
    #[argh(option)]
    load: Option<String>,
    /// instruction set: avx512, avx2, portable, or scalar, the slow oracle of the tests (default: the best)
    #[argh(option)]
    isa: Option<String>,
    /// products by "own" kernels or by the "gemm" crate (default: own where there are any)
    #[argh(option)]
    matmul: Option<String>,
    /// bf16 weights are multiplied with activations rounded to "bf16" (default) or with "f32" ones
    #[argh(option)]
    activations: Option<String>,
    /// most prompt tokens in one forward pass (default 512); changes speed and memory, never a result
    #[argh(option, from_str_fn(count))]
    chunk: Option<usize>,
    /// most token files evaluated at a time (default 16, fewer when their KV caches do not fit the free memory beside
    /// the model); changes speed and memory, never a result
    #[argh(option, from_str_fn(count))]
    batch: Option<usize>,
    /// say on stderr where the time went
    #[argh(switch)]
    timing: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    #[expect(dead_code, reason = "answered before, see exit::words; defined for the help")]
    version: bool,
    /// print a manual page (man), or completions for a shell (bash, zsh, fish), and do no more
    #[argh(option, arg_name = "what")]
    generate: Option<String>,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A line per position.
    Lines,
    /// The continuation as plain text.
    Text,
    /// A JSON object per position.
    Json,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Evaluate prompts and go on from there.
    Generate,
    /// Text becomes ids.
    Tokenize,
    /// Ids become text.
    Detokenize,
    /// Say how well the model predicts the tokens of files.
    Score,
}

/// Where the text of a prompt is.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptText {
    /// On the command line.
    Given(String),
    /// In a file, or on standard input for `-`.
    File(PathBuf),
    /// The text of a conversation, whose messages are in a file, or on standard input for `-`.
    Messages(PathBuf),
}

/// A prompt that is text.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The text.
    pub text: PromptText,
    /// Whether it is a turn of a conversation.
    pub chat: bool,
    /// What the system says first.
    pub system: Option<String>,
}

/// The checked command line.
pub struct Args {
    /// What to do.
    pub action: Action,
    /// Model file.
    pub model: PathBuf,
    /// Token files, `-` for standard input; at least one, but with a prompt none. For [`Action::Score`] none stands for
    /// a list of them on standard input, for [`Action::Tokenize`] they are files of text.
    pub tokens: Vec<PathBuf>,
    /// The text to go on from.
    pub prompt: Option<Prompt>,
    /// Texts that end the output; none is empty.
    pub stops: Vec<String>,
    /// What the command line says about the choice of tokens.
    pub sampling: SamplingFlags,
    /// Where scores are appended; `None` for standard output.
    pub output: Option<PathBuf>,
    /// The type of the ids in token files, if it was named.
    pub token_type: Option<TokenType>,
    /// What to print.
    pub mode: Mode,
    /// Where to write the logits; `-` for standard output.
    pub logits: Option<PathBuf>,
    /// Whether to say where the time went.
    pub timing: bool,
    /// How the model comes into memory.
    pub load: Load,
    raw: Raw,
    backend: Backend,
    activations: Activations,
}

/// Parses and checks the arguments after the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Args, Exit> {
    let args = exit::words::<Raw>(PROGRAM, args)?;
    let words = args.iter().map(|(word, place)| match word.as_str() {
        "-" if *place != Place::Value => STANDARD_INPUT,
        word => word,
    });
    let args: Vec<&str> = words.collect();
    check(exit::parse(PROGRAM, &args)?)
}

/// What argh knows of the command line.
pub fn info() -> CommandInfoWithArgs {
    CommandInfoWithArgs { name: PROGRAM, ..Raw::get_args_info() }
}

fn usage(problem: impl Display) -> Exit {
    Exit::usage(PROGRAM, problem)
}

fn unknown_backend(error: BackendError) -> Exit {
    match error {
        BackendError::UnknownIsa { .. } => usage(format_args!("--isa {error}")),
        BackendError::UnknownProducts { .. } | BackendError::NoKernels { .. } => {
            usage(format_args!("--matmul {error}"))
        }
    }
}

fn check(raw: Raw) -> Result<Args, Exit> {
    if raw.generate.is_some() {
        return Err(usage("--generate stands alone, as in olmo-infer --generate man"));
    }
    let action = action(&raw)?;
    let prompt = prompt(&raw)?;
    let is_text = raw.text || prompt.is_some();
    let mode = match (is_text, raw.json) {
        (_, true) if raw.text => return Err(usage("--text and --json exclude each other")),
        (_, true) => Mode::Json,
        (true, false) => Mode::Text,
        (false, false) => Mode::Lines,
    };
    if mode == Mode::Text && raw.steps.is_some() {
        return Err(usage("--steps counts positions; with --text or --prompt use --max-tokens"));
    }
    if mode == Mode::Text && raw.top.is_some() {
        return Err(usage("--top lists next tokens, which text has no place for; use it with --json"));
    }
    for (flag, given) in [("--max-tokens", raw.max_tokens.is_some()), ("--stop", !raw.stop.is_empty())] {
        if given && mode == Mode::Lines {
            return Err(usage(format_args!("{flag} belongs to --text and --prompt, or to --json; use --steps")));
        }
        if given && raw.steps.is_some() {
            return Err(usage(format_args!("--steps and {flag} exclude each other")));
        }
    }
    if raw.stop.iter().any(String::is_empty) {
        return Err(usage("--stop is empty, expected a text"));
    }
    let sampling = sampling(&raw)?;
    let backend = Backend::named(raw.isa.as_deref(), raw.matmul.as_deref()).map_err(unknown_backend)?;
    let activations = match raw.activations.as_deref() {
        None | Some("bf16") => Activations::Bf16,
        Some("f32") => Activations::F32,
        Some(other) => return Err(usage(format_args!("--activations {other}: expected bf16 or f32"))),
    };
    let token_type = token_type(&raw)?;
    let named = raw.tokens.iter().map(|tokens| if tokens == STANDARD_INPUT { "-" } else { tokens });
    let mut tokens: Vec<PathBuf> = named.map(PathBuf::from).collect();
    if let Some(word) = tokens.iter().find_map(|path| meant_option(path)) {
        return Err(usage(word));
    }
    match &prompt {
        Some(_) if !tokens.is_empty() => return Err(text_and_tokens(&raw, &tokens[0])),
        None if tokens.is_empty() && action != Action::Score => tokens.push("-".into()),
        _ => {}
    }
    if tokens.iter().filter(|tokens| tokens.as_os_str() == "-").count() > 1 {
        return Err(usage("standard input can be read only once"));
    }
    if matches!(action, Action::Tokenize | Action::Detokenize) && tokens.len() > 1 {
        return Err(usage("one file at a time becomes text or ids; run it once for each"));
    }
    if raw.logits.is_some() && tokens.len() > 1 {
        return Err(usage("--logits takes one token file; run it once for each"));
    }
    let load =
        exit::choice(PROGRAM, "--load", raw.load.as_deref(), "auto, mmap or read", Load::named)?.unwrap_or(Load::Auto);
    if raw.model == STANDARD_INPUT {
        return Err(usage("the model is mapped and cannot come from standard input"));
    }
    Ok(Args {
        action,
        model: PathBuf::from(&raw.model),
        tokens,
        prompt,
        stops: raw.stop.clone(),
        sampling,
        output: raw.output.clone().filter(|path| path.as_os_str() != "-"),
        token_type,
        mode,
        logits: raw.logits.clone(),
        timing: raw.timing,
        load,
        backend,
        activations,
        raw,
    })
}

/// What to do, and that no flag is of another action.
fn action(raw: &Raw) -> Result<Action, Exit> {
    let actions = [(Action::Tokenize, raw.tokenize), (Action::Detokenize, raw.detokenize), (Action::Score, raw.score)];
    let mut wanted = actions.into_iter().filter(|(_, wanted)| *wanted).map(|(action, _)| action);
    let action = wanted.next().unwrap_or(Action::Generate);
    if wanted.next().is_some() {
        return Err(usage("--tokenize, --detokenize and --score exclude each other"));
    }
    let generates = [
        ("--text", raw.text),
        ("--json", raw.json),
        ("--logits", raw.logits.is_some()),
        ("--steps", raw.steps.is_some()),
        ("--top", raw.top.is_some()),
        ("--max-tokens", raw.max_tokens.is_some()),
        ("--stop", !raw.stop.is_empty()),
        ("--temperature", raw.temperature.is_some()),
        ("--top-k", raw.top_k.is_some()),
        ("--top-p", raw.top_p.is_some()),
        ("--min-p", raw.min_p.is_some()),
        ("--repetition-penalty", raw.repetition_penalty.is_some()),
        ("--seed", raw.seed.is_some()),
        ("--timing", raw.timing),
    ];
    match generates.iter().find(|(_, given)| *given) {
        Some((flag, _)) if action != Action::Generate => {
            Err(usage(format_args!("{flag} has no use with --tokenize, --detokenize or --score")))
        }
        _ if raw.output.is_some() && action != Action::Score => {
            Err(usage("--output belongs to --score; to keep other results, redirect standard output: > FILE"))
        }
        _ => Ok(action),
    }
}

/// The prompt that is text, when there is one.
fn prompt(raw: &Raw) -> Result<Option<Prompt>, Exit> {
    if raw.system.is_some() && !raw.chat {
        return Err(usage("--system belongs to --chat"));
    }
    if raw.system.as_ref().is_some_and(String::is_empty) {
        return Err(usage("--system is empty, expected a text; leave it out"));
    }
    if let Some(path) = &raw.messages {
        if raw.prompt.is_some() || raw.prompt_file.is_some() || raw.chat {
            return Err(usage("--messages is the whole conversation; leave out --prompt, --prompt-file and --chat"));
        }
        if raw.detokenize || raw.score {
            return Err(usage("--messages has no use with --detokenize or --score"));
        }
        return Ok(Some(Prompt { text: PromptText::Messages(path.into()), chat: true, system: None }));
    }
    let text = match (&raw.prompt, &raw.prompt_file) {
        (Some(_), Some(_)) => return Err(usage("--prompt and --prompt-file exclude each other")),
        (Some(text), None) if text == "-" => Some(PromptText::File("-".into())),
        (Some(text), None) => Some(PromptText::Given(text.clone())),
        (None, Some(path)) => Some(PromptText::File(path.into())),
        (None, None) if raw.chat => None,
        (None, None) => return Ok(None),
    };
    if raw.detokenize || raw.score {
        return Err(usage("--prompt, --prompt-file and --chat have no use with --detokenize or --score"));
    }
    if raw.tokenize && text.is_none() {
        return Err(usage("--chat with --tokenize takes the text from --prompt; use --prompt - for standard input"));
    }
    let text = text.unwrap_or_else(|| PromptText::File("-".into()));
    Ok(Some(Prompt { text, chat: raw.chat, system: raw.system.clone() }))
}

/// What `--token-type` names.
fn token_type(raw: &Raw) -> Result<Option<TokenType>, Exit> {
    let Some(name) = &raw.token_type else { return Ok(None) };
    if raw.tokenize || raw.prompt.is_some() || raw.prompt_file.is_some() || raw.messages.is_some() || raw.chat {
        return Err(usage("--token-type is of token files, and the input is text"));
    }
    match TokenType::named(name) {
        Some(token_type) => Ok(Some(token_type)),
        None => Err(usage(format_args!("--token-type {name}: expected u16, u32, i32, u64 or i64"))),
    }
}

/// What to say about a token file that is not there and has the name of an option.
fn meant_option(path: &Path) -> Option<String> {
    // After `--` it may begin with a dash.
    let is_word = |word: &&str| {
        !word.starts_with('-') && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let word = path.to_str().filter(is_word).filter(|_| !path.exists())?;
    let flag = Raw::get_args_info().flags.iter().find(|flag| command_line::is_name_of(word, flag.long))?;
    Some(format!("{word}: no such file (did you mean {}?)", flag.long))
}

/// The error about a prompt and a token file, of which one may be meant for the other.
fn text_and_tokens(raw: &Raw, tokens: &Path) -> Exit {
    if raw.messages.is_some() {
        return usage(format_args!("--messages and token files exclude each other; {} is one", tokens.display()));
    }
    if raw.prompt.is_some() || raw.prompt_file.is_some() {
        return usage(format_args!("--prompt and token files exclude each other; {} is one", tokens.display()));
    }
    let typed = tokens.to_string_lossy();
    let long = typed.chars().count() > 60;
    let shown = if long { "TEXT".into() } else { format!("'{}'", typed.replace('\'', "'\\''")) };
    usage(format_args!("--chat takes no value; use --chat --prompt {shown}"))
}

/// What is said about the choice of tokens, checked.
fn sampling(raw: &Raw) -> Result<SamplingFlags, Exit> {
    let flags = SamplingFlags {
        temperature: raw.temperature,
        top_k: raw.top_k,
        top_p: raw.top_p,
        min_p: raw.min_p,
        repetition_penalty: raw.repetition_penalty,
        seed: raw.seed,
    };
    flags.check().map_err(usage)?;
    Ok(flags)
}

impl Args {
    /// The files that the run reads.
    pub fn inputs(&self) -> Vec<&Path> {
        let prompt = self.prompt.as_ref().and_then(|prompt| match &prompt.text {
            PromptText::File(path) | PromptText::Messages(path) => Some(path),
            PromptText::Given(_) => None,
        });
        self.tokens.iter().chain(prompt).chain([&self.model]).map(PathBuf::as_path).collect()
    }

    /// How many next tokens to list.
    pub fn top(&self) -> usize {
        self.raw.top.unwrap_or(DEFAULT_TOP)
    }

    /// Whether text is generated, which may end before the last position.
    pub fn generates(&self) -> bool {
        let is_turn = self.prompt.as_ref().is_some_and(|prompt| prompt.chat) && self.raw.steps.is_none();
        let ends = self.raw.max_tokens.is_some() || !self.stops.is_empty() || is_turn;
        self.mode == Mode::Text || self.mode == Mode::Json && ends
    }

    /// Whether the number of tokens to generate was asked for.
    pub fn has_max_tokens(&self) -> bool {
        self.raw.max_tokens.is_some()
    }

    /// Number of threads that are asked for, 0 for all processors.
    pub fn threads(&self) -> usize {
        self.raw.threads
    }

    /// Number of positions to evaluate for a prompt of so many tokens. What nobody asked for ends where the model does.
    pub fn positions(&self, prompt: usize, max_positions: usize) -> Result<usize, Failure> {
        let positions = match self.raw.max_tokens {
            // The last generated token is printed and not evaluated.
            Some(max_tokens) => prompt.saturating_add(max_tokens - 1),
            None if self.generates() => (prompt + DEFAULT_MAX_TOKENS - 1).min(max_positions),
            None => self.raw.steps.unwrap_or(prompt.max(DEFAULT_STEPS.min(max_positions))),
        };
        if positions > max_positions {
            return Err(Failure::Refused(format!(
                "{positions} positions were asked for (the prompt has {prompt}), the model has {max_positions}; ask for \
                 fewer with --steps or --max-tokens"
            )));
        }
        Ok(positions)
    }

    /// Most token files to evaluate at a time, when that was asked for.
    pub fn batch(&self) -> Option<usize> {
        self.raw.batch
    }

    /// How the batch computes, for sequences of at most so many positions.
    pub fn options(&self, positions: usize) -> Options {
        let default = Options::new(positions);
        Options {
            chunk: self.raw.chunk.unwrap_or(default.chunk),
            backend: self.backend,
            activations: self.activations,
            ..default
        }
    }
}
