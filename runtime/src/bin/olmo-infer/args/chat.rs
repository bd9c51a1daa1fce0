//! The command line of `olmo-infer chat`, and of a bare `olmo-infer MODEL` in a terminal.

use crate::args::values;
use crate::program::PROGRAM;
use crate::sampling_flags::SamplingFlags;
use argh::{ArgsInfo, FromArgs};
use olmo_infer::internals::cli::command_line::{count, number, whole_number};
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::cli::words::Words;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::sampling::SamplingWishes;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::speculate::Speculate;
use std::fmt::Display;
use std::path::PathBuf;

/// The name of the command.
pub const NAME: &str = "chat";
const COMMAND: Program = PROGRAM.command(NAME);

/// Talks with a model in its own chat format: type a line, and it answers. Commands begin with a slash; /help lists
/// them.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "chat",
    help_triggers("-h", "--help", "help"),
    usage = "<model> [options]",
    example = "olmo-infer chat model.olmo",
    example = "olmo-infer chat model.olmo --system \"Be brief.\" --temperature 0.7 --top-p 0.95",
    example = "printf '%s\\n' 'Hi!' 'And now?' | olmo-infer chat model.olmo",
    note = "In a terminal, lines are edited, Ctrl-C ends an answer, Ctrl-D the program.",
    note = "Otherwise each line of standard input is a turn, answers are on standard output,",
    note = "and the first failure ends the program.",
    note = "A line that ends in a backslash continues in the next one.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(super) struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// system message, first in the conversation
    #[argh(option)]
    system: Option<String>,
    /// end answers before this text; can be given several times
    #[argh(option)]
    stop: Vec<String>,
    /// most tokens of an answer (default: up to the end of the context)
    #[argh(option, short = 'n', from_str_fn(count))]
    max_tokens: Option<usize>,
    /// sampling temperature; 0 is greedy (default: what the model's author recommends)
    #[argh(option, from_str_fn(number))]
    temperature: Option<f64>,
    /// sample from the K most likely tokens
    #[argh(option, arg_name = "k", from_str_fn(count))]
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
    /// seed of the first answer, each further one takes the next (default: random, printed by --timing)
    #[argh(option, from_str_fn(whole_number))]
    seed: Option<u64>,
    /// size of the context, conversation and answer together (default: that of the model, or what fits the free memory)
    #[argh(option, from_str_fn(count))]
    positions: Option<usize>,
    /// number of threads (default and 0: all cores this process may use, which are the most)
    #[argh(option, short = 't', default = "0", from_str_fn(whole_number))]
    threads: usize,
    /// how the model comes into memory: "mmap" maps the file, "read" reads all of it, "auto" (default) reads on network
    /// and FUSE file systems
    #[argh(option, default = "Load::Auto", from_str_fn(values::load))]
    load: Load,
    /// instruction set: amx, avx512-bf16, avx512, avx2, portable, or scalar, the slow oracle of the tests (default: the fastest)
    #[argh(option)]
    isa: Option<String>,
    /// keys and values are kept as "f32" (default) or rounded to "bf16", which halves their memory
    #[argh(option, default = "KvType::F32", from_str_fn(values::kv))]
    kv: KvType,
    /// how the next tokens are guessed, which changes speed and never a result: by the text so far ("lookup"), by the
    /// draft in the file ("draft"), by both where they pay ("auto", the default), or "off"
    #[argh(option, default = "Speculate::AUTO", from_str_fn(values::speculate))]
    speculate: Speculate,
    /// print on stderr what each answer took
    #[argh(switch)]
    timing: bool,
}

/// The checked command line of a conversation.
pub struct ChatArgs {
    /// Model file.
    pub model: PathBuf,
    /// The system message.
    pub system: Option<String>,
    /// The options of sampling.
    pub sampling: SamplingFlags,
    /// Texts that end an answer; none is empty.
    pub stops: Vec<String>,
    /// Most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// Positions of the context.
    pub positions: Option<usize>,
    /// Number of threads that are asked for, 0 for all processors.
    pub threads: usize,
    /// How the model comes into memory.
    pub load: Load,
    /// Which code computes the products.
    pub backend: Backend,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// How the next tokens are guessed.
    pub speculate: Speculate,
    /// Whether to print what each answer took.
    pub timing: bool,
}

fn usage(problem: impl Display) -> CliExit {
    CliExit::usage(COMMAND, problem)
}

/// Parses and checks the arguments after the name of the command.
pub(super) fn parse(words: &Words) -> Result<ChatArgs, CliExit> {
    let raw: Raw = words.parse()?;
    if raw.stop.iter().any(String::is_empty) {
        return Err(usage("--stop is empty, expected a text"));
    }
    if raw.model.is_empty() {
        return Err(usage("the model is empty, expected a path"));
    }
    if raw.system.as_ref().is_some_and(String::is_empty) {
        return Err(usage("--system is empty, expected a text; leave it out"));
    }
    let sampling = SamplingFlags(SamplingWishes {
        temperature: raw.temperature,
        top_k: raw.top_k,
        top_p: raw.top_p,
        min_p: raw.min_p,
        repetition_penalty: raw.repetition_penalty,
        seed: raw.seed,
    });
    sampling.check().map_err(usage)?;
    Ok(ChatArgs {
        backend: values::backend(raw.isa.as_deref(), None).map_err(usage)?,
        kv: raw.kv,
        speculate: raw.speculate,
        load: raw.load,
        sampling,
        stops: raw.stop,
        max_tokens: raw.max_tokens,
        model: values::model(&raw.model).map_err(usage)?,
        system: raw.system,
        positions: raw.positions,
        threads: raw.threads,
        timing: raw.timing,
    })
}
