//! The command line of `olmo-infer score`.

use crate::args::compute::Compute;
use crate::args::values;
use crate::program::PROGRAM;
use argh::{ArgsInfo, FromArgs};
use olmo_infer::internals::cli::command_line::{count, whole_number};
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::cli::words::Words;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::parallel::matmul::Activations;
use olmo_infer::internals::text::token_file::TokenType;
use std::path::{Path, PathBuf};

/// The name of the command.
pub const NAME: &str = "score";
/// The program with this command.
pub const COMMAND: Program = PROGRAM.command(NAME);

/// Prints how well the model predicts the tokens of files, as JSON lines.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "score",
    help_triggers("-h", "--help", "help"),
    usage = "<model> [<tokens...>] [options]",
    example = "olmo-infer score model.olmo *.bin --output scores.jsonl",
    example = "find . -name '*.bin' | olmo-infer score model.olmo > scores.jsonl",
    note = "An object has the mean negative log-likelihood, the perplexity, and the negative\n\
            log-likelihood of each token after the first.",
    note = "A run that was stopped continues with the same --output.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(super) struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// token files; without any, standard input is a list of them, a path per line
    #[argh(positional)]
    tokens: Vec<String>,
    /// append the objects to this file, and leave out the files that are in it already; "-" is standard output
    #[argh(option, short = 'o', arg_name = "file")]
    output: Option<PathBuf>,
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
    /// most tokens of a file in one forward pass (default 512); changes speed and memory, never a result
    #[argh(option, from_str_fn(count))]
    chunk: Option<usize>,
    /// most token files evaluated at a time (default 64, fewer when their KV caches do not fit the free memory next to
    /// the model); changes speed and memory, never a result
    #[argh(option, from_str_fn(count))]
    batch: Option<usize>,
}

/// The checked command line of a scoring run.
pub struct ScoreArgs {
    /// Model file.
    pub model: PathBuf,
    /// Token files, `-` for standard input; without any, standard input is a list of them.
    pub tokens: Vec<PathBuf>,
    /// Where objects are appended; `None` for standard output.
    pub output: Option<PathBuf>,
    /// The type of the ids in token files, if it was named.
    pub token_type: Option<TokenType>,
    /// How the model comes into memory.
    pub load: Load,
    /// How the run computes.
    pub compute: Compute,
}

impl ScoreArgs {
    /// The files that the run reads.
    pub fn inputs(&self) -> Vec<&Path> {
        self.tokens.iter().chain([&self.model]).map(PathBuf::as_path).collect()
    }
}

/// Parses and checks the arguments after the name of the command.
pub(super) fn parse(words: &Words) -> Result<ScoreArgs, CliExit> {
    let usage = |problem: &str| CliExit::usage(COMMAND, problem);
    let raw: Raw = words.parse()?;
    let backend = values::backend(raw.isa.as_deref(), raw.matmul.as_deref());
    Ok(ScoreArgs {
        model: values::model(&raw.model).map_err(usage)?,
        tokens: values::files(&raw.tokens).map_err(usage)?,
        output: raw.output.filter(|path| path.as_os_str() != "-"),
        token_type: raw.token_type,
        load: raw.load,
        compute: Compute {
            threads: raw.threads,
            backend: backend.map_err(|problem| CliExit::usage(COMMAND, problem))?,
            activations: raw.activations,
            kv: raw.kv,
            chunk: raw.chunk,
            batch: raw.batch,
        },
    })
}
