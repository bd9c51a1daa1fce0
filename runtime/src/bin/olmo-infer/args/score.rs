//! The command line of `olmo-infer score`.

use crate::args::compute::Compute;
use crate::args::values;
use crate::program::PROGRAM;
use crate::score::sequence::Start;
use argh::{ArgsInfo, FromArgs};
use olmo_infer::internals::cli::command_line::{count, named, whole_number};
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::cli::words::Words;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::parallel::matmul::Activations;
use olmo_infer::internals::text::token_file::TokenType;
use std::path::{Path, PathBuf};

/// The name of the command.
pub const NAME: &str = "score";
/// The program with this command.
pub const COMMAND: Program = PROGRAM.command(NAME);

/// Prints how well the model predicts texts, as JSON lines.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "score",
    help_triggers("-h", "--help", "help"),
    usage = "<model> [<files...>] [options]",
    example = "olmo-infer score model.olmo book.txt requests.jsonl.gz --output scores.jsonl",
    example = "olmo-infer score model.olmo hellaswag/*.jsonl.gz --tasks",
    example = "find . -name '*.bin' | olmo-infer score model.olmo > scores.jsonl",
    note = "Files are texts (.txt), JSON lines (.jsonl, .json), both also as .gz, or token ids (other\n\
            names). A line of JSON has \"text\", \"tokens\", or \"context\" and \"continuation\", perhaps\n\
            with an \"id\", or is a request of Ai2's evaluation.",
    note = "An object has the sum and the mean of the negative log-likelihoods of the tokens, in nats, and\n\
            perplexities by token, byte and word.",
    note = "A run that was stopped continues with the same --output.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(super) struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// files to score; without any, standard input is a list of them, a path per line
    #[argh(positional)]
    files: Vec<String>,
    /// append the objects to this file, and leave out the items that are in it already; "-" is standard output
    #[argh(option, short = 'o', arg_name = "file")]
    output: Option<PathBuf>,
    /// what the files are: text, jsonl or tokens (default: by their names)
    #[argh(option, arg_name = "kind", from_str_fn(kind))]
    format: Option<Kind>,
    /// with the negative log-likelihood of each token
    #[argh(switch)]
    per_token: bool,
    /// print a summary of each task of multiple choice instead: accuracies with their standard errors
    #[argh(switch)]
    tasks: bool,
    /// the summary as JSON lines
    #[argh(switch)]
    json: bool,
    /// score only every N-th item, those whose number is K modulo N: "0/4" to "3/4" are all of them
    #[argh(option, arg_name = "k/n", default = "(0, 1)", from_str_fn(shard))]
    shard: (u64, u64),
    /// most tokens that a prediction can see (default: the positions of the model); longer texts go in windows
    #[argh(option, from_str_fn(count))]
    context: Option<usize>,
    /// tokens that a window scores after those of the window before it (default: all that it has)
    #[argh(option, from_str_fn(count))]
    stride: Option<usize>,
    /// the token before a text: an id, or "none" to leave the first token of a text without a score (default: <|endoftext|>)
    #[argh(option, arg_name = "id", default = "Start::Default", from_str_fn(start))]
    start: Start,
    /// type of the ids in token files: u16, u32, i32, u64 or i64, little-endian (default: u32, and files that look like
    /// another type are refused)
    #[argh(option, arg_name = "type", from_str_fn(values::token_type))]
    token_type: Option<TokenType>,
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
    /// products by "own" kernels or by the "gemm" crate (default: own where there are any)
    #[argh(option)]
    matmul: Option<String>,
    /// what weights are multiplied with: "auto" (default: bf16 for bf16 weights, int16 for int8, int8 for int4), "int16" or "int8" for int8 and int4 weights, or "f32"
    #[argh(option, default = "Activations::Auto", from_str_fn(values::activations))]
    activations: Activations,
    /// keys and values are kept as "f32" (default) or rounded to "bf16", which halves their memory
    #[argh(option, default = "KvType::F32", from_str_fn(values::kv))]
    kv: KvType,
    /// most tokens in one forward pass (default 512); changes speed and memory, never a result
    #[argh(option, from_str_fn(count))]
    chunk: Option<usize>,
    /// most texts evaluated at a time (default 64, fewer when their KV caches do not fit the free memory next to
    /// the model); changes speed and memory, never a result
    #[argh(option, from_str_fn(count))]
    batch: Option<usize>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A text.
    Text,
    /// An item on each line, in JSON.
    Jsonl,
    /// Token ids.
    Tokens,
}

impl Kind {
    /// That of a file with this name.
    pub fn of(path: &Path) -> Kind {
        let name = path.as_os_str().as_encoded_bytes().to_ascii_lowercase();
        let name = name.strip_suffix(b".gz").unwrap_or(&name);
        let ends_with = |ends: &[&[u8]]| ends.iter().any(|end| name.ends_with(end));
        match () {
            () if ends_with(&[b".txt"]) => Kind::Text,
            () if ends_with(&[b".jsonl", b".json", b".ndjson"]) => Kind::Jsonl,
            () => Kind::Tokens,
        }
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    let kind = match text {
        "text" => Some(Kind::Text),
        "jsonl" => Some(Kind::Jsonl),
        "tokens" => Some(Kind::Tokens),
        _ => None,
    };
    named(kind, "text, jsonl or tokens")
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let numbers = text.split_once('/').and_then(|(shard, n)| Some((shard.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(shard, n)| shard < n).ok_or_else(|| "expected K/N with K from 0 to N - 1, as 0/4".into())
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "none" => Ok(Start::Nothing),
        id => id.parse().map(Start::Token).map_err(|_| "expected a token id, or none".into()),
    }
}

/// The checked command line of a scoring run.
pub struct ScoreArgs {
    /// Model file.
    pub model: PathBuf,
    /// Files, `-` for standard input; without any, standard input is a list of them.
    pub files: Vec<PathBuf>,
    /// What they are; `None`: by their names.
    pub kind: Option<Kind>,
    /// Whether each token gets its score printed.
    pub per_token: bool,
    /// Whether a summary is printed instead of the items.
    pub tasks: bool,
    /// Whether it is JSON.
    pub json: bool,
    /// Which items are scored: those with this number modulo the second one.
    pub shard: (u64, u64),
    /// Most positions of a window, if they were named.
    pub context: Option<usize>,
    /// How many tokens a window scores, if it was named.
    pub stride: Option<usize>,
    /// The token before a text.
    pub start: Start,
    /// Where objects are appended; `None` for standard output.
    pub output: Option<PathBuf>,
    /// The type of the ids in token files, if it was named.
    pub token_type: Option<TokenType>,
    /// How the model comes into memory.
    pub load: Load,
    /// How the run computes.
    pub compute: Compute,
}

/// Parses and checks the arguments after the name of the command.
pub(super) fn parse(words: &Words) -> Result<ScoreArgs, CliExit> {
    let usage = |problem: &str| CliExit::usage(COMMAND, problem);
    let raw: Raw = words.parse()?;
    if raw.json && !raw.tasks {
        return Err(usage("--json is of the summary, with --tasks; without it all output is JSON"));
    }
    if raw.tasks && raw.shard.1 > 1 {
        return Err(usage(
            "--tasks is of all items; score the shards with --output, join them, and name the result there",
        ));
    }
    if raw.tasks && raw.per_token && raw.output.is_none() {
        return Err(usage("--per-token is of the items, which --tasks prints with --output only"));
    }
    let backend = values::backend(raw.isa.as_deref(), raw.matmul.as_deref());
    Ok(ScoreArgs {
        model: values::model(&raw.model).map_err(usage)?,
        files: values::files(&raw.files).map_err(usage)?,
        kind: raw.format,
        per_token: raw.per_token,
        tasks: raw.tasks,
        json: raw.json,
        shard: raw.shard,
        context: raw.context,
        stride: raw.stride,
        start: raw.start,
        output: raw.output.filter(|path| path.as_os_str() != "-"),
        token_type: raw.token_type,
        load: raw.load,
        compute: Compute {
            threads: raw.threads,
            backend: backend.map_err(|problem| CliExit::usage(COMMAND, problem))?,
            activations: raw.activations,
            kv: raw.kv,
            // Nothing is chosen.
            speculate: Speculate::OFF,
            chunk: raw.chunk,
            batch: raw.batch,
        },
    })
}
