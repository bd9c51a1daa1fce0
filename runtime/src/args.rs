//! The command line of `olmo-infer`.

use crate::exit::{self, Exit};
use crate::output::Failure;
use argh::FromArgs;
use olmo_infer::mapping::Load;
use olmo_infer::matmul::{Activations, Products};
use olmo_infer::model::Options;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;

const PROGRAM: &str = "olmo-infer";
/// Positions that are evaluated when nothing else is asked for, as the program this one replaces did.
const DEFAULT_STEPS: usize = 20;
/// Generated tokens of `--text` when nothing else is asked for.
const DEFAULT_MAX_TOKENS: usize = 256;
/// More threads than this are capped: they would only wait for each other.
const MAX_THREADS: usize = 1024;
/// Stands for `-` while argh parses, which takes it for an option. No argument can hold a NUL.
const STANDARD_INPUT: &str = "\0stdin";

/// The options that take no value.
const SWITCHES: [&str; 3] = ["--text", "--json", "--timing"];

/// Runs an OLMo model: evaluates the prompt and goes on greedily. Prints a line per position with the most likely next
/// tokens. Several token files are evaluated together, and their results printed in the order of the files.
#[derive(FromArgs)]
#[argh(
    example = "olmo-infer model.olmo tokens.bin",
    example = "olmo-infer model.olmo --text --max-tokens 100 < tokens.bin",
    example = "olmo-infer model.olmo a.bin b.bin c.bin",
    note = "TOKENS holds little-endian u32 ids. Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: String,
    /// token files; "-" or nothing is standard input
    #[argh(positional)]
    tokens: Vec<String>,
    /// number of positions to evaluate (default: the prompt, at least 20)
    #[argh(option)]
    steps: Option<usize>,
    /// how many next tokens to list (default 5)
    #[argh(option, default = "5")]
    top: usize,
    /// print only the continuation, as plain text, up to the model's end-of-text id
    #[argh(switch)]
    text: bool,
    /// most tokens to generate with --text (default 256)
    #[argh(option)]
    max_tokens: Option<usize>,
    /// print a JSON object per position
    #[argh(switch)]
    json: bool,
    /// write the f32 logits of every evaluated position to this .npy file
    #[argh(option)]
    logits: Option<PathBuf>,
    /// number of threads (default and 0: all cores this process may use)
    #[argh(option, default = "0")]
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
    #[argh(option)]
    chunk: Option<usize>,
    /// most token files evaluated at a time (default 16, fewer when their KV caches do not fit the free memory beside
    /// the model); changes speed and memory, never a result
    #[argh(option)]
    batch: Option<usize>,
    /// say on stderr where the time went
    #[argh(switch)]
    timing: bool,
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

/// The checked command line.
pub struct Args {
    /// Model file.
    pub model: PathBuf,
    /// Token files, `-` for standard input; at least one.
    pub tokens: Vec<PathBuf>,
    /// What to print.
    pub mode: Mode,
    /// Where to write the logits.
    pub logits: Option<PathBuf>,
    /// Whether to say where the time went.
    pub timing: bool,
    /// How the model comes into memory.
    pub load: Load,
    raw: Raw,
    products: Products,
    activations: Activations,
}

/// Parses and checks the arguments after the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Args, Exit> {
    let args = exit::words(PROGRAM, args)?;
    let is_value = |i: usize| i > 0 && args[i - 1].starts_with("--") && !SWITCHES.contains(&args[i - 1].as_str());
    let words = args.iter().enumerate();
    let args: Vec<&str> =
        words.map(|(i, arg)| if arg == "-" && !is_value(i) { STANDARD_INPUT } else { arg.as_str() }).collect();
    check(exit::parse(PROGRAM, &args)?)
}

fn usage(problem: impl Display) -> Exit {
    Exit::usage(PROGRAM, problem)
}

fn check(raw: Raw) -> Result<Args, Exit> {
    let mode = match (raw.text, raw.json) {
        (true, true) => return Err(usage("--text and --json exclude each other")),
        (true, false) => Mode::Text,
        (false, true) => Mode::Json,
        (false, false) => Mode::Lines,
    };
    if raw.text && raw.steps.is_some() {
        return Err(usage("--steps counts positions; with --text use --max-tokens"));
    }
    if !raw.text && raw.max_tokens.is_some() {
        return Err(usage("--max-tokens belongs to --text; use --steps"));
    }
    let counts = [
        ("--steps", raw.steps),
        ("--chunk", raw.chunk),
        ("--batch", raw.batch),
        ("--max-tokens", raw.max_tokens),
        ("--top", Some(raw.top)),
    ];
    for (flag, value) in counts {
        if value == Some(0) {
            return Err(usage(format_args!("{flag} must be at least 1")));
        }
    }
    let products = Products::named(raw.isa.as_deref(), raw.matmul.as_deref()).map_err(usage)?;
    let activations = match raw.activations.as_deref() {
        None | Some("bf16") => Activations::Bf16,
        Some("f32") => Activations::F32,
        Some(other) => return Err(usage(format_args!("--activations {other}: expected bf16 or f32"))),
    };
    let named = raw.tokens.iter().map(|tokens| if tokens == STANDARD_INPUT { "-" } else { tokens });
    let mut tokens: Vec<PathBuf> = named.map(PathBuf::from).collect();
    if tokens.is_empty() {
        tokens.push("-".into());
    }
    if tokens.iter().filter(|tokens| tokens.as_os_str() == "-").count() > 1 {
        return Err(usage("standard input can be read only once"));
    }
    if raw.logits.is_some() && tokens.len() > 1 {
        return Err(usage("--logits takes one token file; run it once for each"));
    }
    let load = exit::load(PROGRAM, raw.load.as_deref())?;
    if raw.model == STANDARD_INPUT {
        return Err(usage("the model is mapped and cannot come from standard input"));
    }
    Ok(Args {
        model: PathBuf::from(&raw.model),
        tokens,
        mode,
        logits: raw.logits.clone(),
        timing: raw.timing,
        load,
        products,
        activations,
        raw,
    })
}

impl Args {
    /// How many next tokens to list.
    pub fn top(&self) -> usize {
        self.raw.top
    }

    /// Number of threads to ask for.
    pub fn threads(&self) -> usize {
        match self.raw.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads.min(MAX_THREADS),
        }
    }

    /// Number of positions to evaluate for a prompt of so many tokens. What nobody asked for ends where the model does.
    pub fn positions(&self, prompt: usize, max_positions: usize) -> Result<usize, Failure> {
        let positions = match self.mode {
            // The last generated token is printed and not evaluated.
            Mode::Text => match self.raw.max_tokens {
                Some(max_tokens) => prompt.saturating_add(max_tokens - 1),
                None => (prompt + DEFAULT_MAX_TOKENS - 1).min(max_positions),
            },
            _ => self.raw.steps.unwrap_or(prompt.max(DEFAULT_STEPS.min(max_positions))),
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
            products: self.products,
            activations: self.activations,
            ..default
        }
    }
}
