//! The command line of `olmo-bench`.

use crate::ways;
use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};
use olmo_infer::internals::cli::command_line::{self, count, named, whole_number};
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::cli::words::Words;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::kernels::backend::{Backend, BackendError};
use olmo_infer::internals::kernels::streaming::Streaming;
use olmo_infer::internals::network::kv_type::KvType;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// This program.
pub const PROGRAM: Program = Program::new("olmo-bench");
/// Rounds of a measurement by default.
const ROUNDS: usize = 15;
/// The same with `--quick`.
const QUICK_ROUNDS: usize = 5;
/// Rounds of a sweep, whose variants are many.
const SWEEP_ROUNDS: usize = 7;
/// The same with `--quick`.
const QUICK_SWEEP_ROUNDS: usize = 3;

/// Measures a model against the machine: memory and arithmetic ceilings, start-up, decode and prefill.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    help_triggers("-h", "--help", "help"),
    usage = "<model> [options]",
    example = "olmo-bench model.olmo",
    example = "olmo-bench model.olmo --quick --threads 4",
    example = "olmo-bench model.olmo --contexts 16 --prefill none --score none --json",
    example = "olmo-bench model.olmo --contexts none --prefill none --score none --speculate 128",
    example = "olmo-bench model.olmo --sweep --quick",
    note = "--sweep measures every instruction set of this machine. Decode of one token is measured\n\
            with 1, 2, 4 and 8 panels of weights read by turns and 0 to 16384 bytes fetched\n\
            ahead, as a share of the read ceiling; with the panels and bytes that the program\n\
            takes by itself: a pass over 2, 4, 8 and 16 tokens in passes over one, and prefill\n\
            of 512 tokens as a share of the arithmetic peak of the instruction set. A 1B model\n\
            takes about two minutes with --quick.",
    note = "Shares are medians over rounds of result / mean of the ceilings right before\n\
            and after.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: PathBuf,
    /// number of threads (default and 0: all cores this process may use, which are the most)
    #[argh(option, short = 't', default = "0", from_str_fn(whole_number))]
    threads: usize,
    /// instruction set: amx, avx512-bf16, avx512, avx2, portable or scalar (default: the fastest)
    #[argh(option)]
    isa: Option<String>,
    /// products by "own" kernels or by the "gemm" crate (default: own where there are any)
    #[argh(option)]
    matmul: Option<String>,
    /// how kernels read weights that they need once, as PANELS:BYTES: panels read by turns, 1 to 8,
    /// and bytes fetched ahead (default: by the kind of processor); changes speed, never a result
    #[argh(option, from_str_fn(streaming))]
    streaming: Option<Streaming>,
    /// keys and values are kept as "f32" (default) or rounded to "bf16", which halves their memory
    #[argh(option, from_str_fn(kv))]
    kv: Option<KvType>,
    /// compare all instruction sets, or that of --isa, and ways to read weights; see below
    #[argh(switch)]
    sweep: bool,
    /// how the model comes into memory: auto (default), mmap or read
    #[argh(option, default = "Load::Auto", from_str_fn(load))]
    load: Load,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
    /// rounds of each measurement (default 15, with --sweep 7)
    #[argh(option, from_str_fn(count))]
    rounds: Option<usize>,
    /// a quick run: few rounds, short ceilings, few sizes
    #[argh(switch)]
    quick: bool,
    /// contexts of decode (default 16,1024,4000), or none
    #[argh(option)]
    contexts: Option<List>,
    /// tokens of prefill (default 2,4,8,16,32,128,512,2048), or none
    #[argh(option)]
    prefill: Option<List>,
    /// tokens of texts that are scored (default 512, with --quick none), or none
    #[argh(option)]
    score: Option<List>,
    /// tokens of texts that are generated with and without guesses, by turns (default none)
    #[argh(option)]
    speculate: Option<List>,
    /// print the version
    #[argh(switch, short = 'V')]
    #[expect(dead_code, reason = "Words::new answers it; defined for the help")]
    version: bool,
    /// print the manual page
    #[argh(switch)]
    #[expect(dead_code, reason = "Words::new answers it; defined for the help")]
    man: bool,
    /// print completions for a shell: bash, zsh or fish
    #[argh(option, arg_name = "shell")]
    #[expect(dead_code, reason = "Words::new answers it; defined for the help")]
    completions: Option<String>,
}

/// `--streaming`.
fn streaming(text: &str) -> Result<Streaming, String> {
    let way = text
        .split_once(':')
        .and_then(|(panels, bytes)| Some(Streaming { panels: panels.parse().ok()?, ahead_bytes: bytes.parse().ok()? }));
    let is_possible = |way: &Streaming| (1..=Streaming::MAX_PANELS).contains(&way.panels);
    let expected = || format!("expected panels, 1 to {}, and bytes, as 1:2048", Streaming::MAX_PANELS);
    way.filter(is_possible).ok_or_else(expected)
}

/// `--kv`.
fn kv(text: &str) -> Result<KvType, String> {
    named(KvType::named(text), "f32 or bf16")
}

/// `--load`.
fn load(text: &str) -> Result<Load, String> {
    named(Load::named(text), "auto, mmap or read")
}

/// Numbers with commas between them.
struct List(Vec<usize>);

impl FromStr for List {
    type Err = String;
    fn from_str(text: &str) -> Result<List, String> {
        if text == "none" {
            return Ok(List(Vec::new()));
        }
        let number = |part: &str| match part.trim().parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("expected whole numbers from 1 with commas between them, or none; {part:?} is not one")),
        };
        let mut numbers = text.split(',').map(number).collect::<Result<Vec<usize>, String>>()?;
        numbers.sort_unstable();
        Ok(List(numbers))
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One way to compute, by contexts and lengths.
    Report,
    /// All ways.
    Sweep,
}

/// The checked command line.
pub struct Args {
    /// Model file.
    pub model: PathBuf,
    /// Number of threads to ask for.
    pub threads: usize,
    /// The note for fewer threads than requested.
    pub fewer_threads: Option<String>,
    /// What is measured.
    pub mode: Mode,
    /// Whether an instruction set was named: the only one of a sweep.
    pub one_isa: bool,
    /// How products are computed.
    pub backend: Backend,
    /// What keys and values are stored as.
    pub kv: KvType,
    /// How the model comes into memory.
    pub load: Load,
    /// Whether to print JSON.
    pub json: bool,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Contexts of decode, ascending.
    pub contexts: Vec<usize>,
    /// Tokens of prefill, ascending.
    pub prefill: Vec<usize>,
    /// Tokens of texts that are scored, ascending.
    pub score: Vec<usize>,
    /// Tokens of texts with guesses, ascending.
    pub speculate: Vec<usize>,
    quick: bool,
}

impl Args {
    /// How long one measurement of a ceiling takes.
    pub fn ceiling_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 300 })
    }
}

/// Parses and checks the arguments after the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Args, CliExit> {
    let info = CommandInfoWithArgs { name: PROGRAM.name(), ..Raw::get_args_info() };
    let raw: Raw = Words::new(PROGRAM, &info, args)?.parse()?;
    let mut backend = Backend::named(raw.isa.as_deref(), raw.matmul.as_deref()).map_err(|error| {
        let option = match error {
            BackendError::UnknownIsa { .. } => "--isa",
            BackendError::UnknownProducts { .. } | BackendError::NoKernels { .. } => "--matmul",
        };
        CliExit::usage(PROGRAM, format_args!("{option} {error}"))
    })?;
    let usage = |problem| Err(CliExit::usage(PROGRAM, problem));
    if raw.sweep {
        let own = [
            ("--matmul", raw.matmul.is_some()),
            ("--streaming", raw.streaming.is_some()),
            ("--kv", raw.kv.is_some()),
            ("--contexts", raw.contexts.is_some()),
            ("--prefill", raw.prefill.is_some()),
            ("--score", raw.score.is_some()),
            ("--speculate", raw.speculate.is_some()),
        ];
        if let Some((option, _)) = own.into_iter().find(|(_, is_given)| *is_given) {
            return usage(format!("{option} does not go with --sweep, which has its own"));
        }
        if !ways::paths().any(|isa| isa == backend.isa) {
            return usage(format!("--sweep: {} reads weights in one way only", backend.isa.name()));
        }
    }
    if let Some(streaming) = raw.streaming {
        if backend.gemm {
            return usage(String::from("--streaming does not go with gemm, which reads weights in its own way"));
        }
        (backend.isa, backend.few) = (backend.isa.with_streaming(streaming), backend.few.with_streaming(streaming));
    }
    let rounds = match (raw.sweep, raw.quick) {
        (true, true) => QUICK_SWEEP_ROUNDS,
        (true, false) => SWEEP_ROUNDS,
        (false, true) => QUICK_ROUNDS,
        (false, false) => ROUNDS,
    };
    let (threads, fewer_threads) = command_line::threads(raw.threads);
    let list = |asked: Option<List>, usual: &[usize], quick: &[usize]| match asked {
        Some(List(numbers)) => numbers,
        None => if raw.quick { quick } else { usual }.to_vec(),
    };
    Ok(Args {
        model: raw.model,
        threads,
        fewer_threads,
        mode: if raw.sweep { Mode::Sweep } else { Mode::Report },
        one_isa: raw.isa.is_some(),
        backend,
        kv: raw.kv.unwrap_or_default(),
        load: raw.load,
        json: raw.json,
        rounds: raw.rounds.unwrap_or(rounds),
        contexts: list(raw.contexts, &[16, 1024, 4000], &[16, 1024]),
        prefill: list(raw.prefill, &[2, 4, 8, 16, 32, 128, 512, 2048], &[8, 128, 512]),
        score: list(raw.score, &[512], &[]),
        speculate: list(raw.speculate, &[], &[]),
        quick: raw.quick,
    })
}
