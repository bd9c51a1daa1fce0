//! The command line of `olmo-bench`.

use argh::{EarlyExit, FromArgs};
use olmo_infer::kernels::Isa;
use olmo_infer::matmul::Products;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// Rounds of a measurement when nothing else is asked for.
const ROUNDS: usize = 15;
/// The same with `--quick`.
const QUICK_ROUNDS: usize = 5;

/// Measures a model against the machine: memory and arithmetic ceilings, start-up, decode and prefill.
#[derive(FromArgs)]
#[argh(
    example = "olmo-bench model.olmo",
    note = "Shares are medians over rounds of result / mean of the ceilings right before and after. Exit status: 0 done, \
            1 failed, 2 wrong usage."
)]
struct Raw {
    /// model file, made by olmo-pack
    #[argh(positional)]
    model: PathBuf,
    /// number of threads (default and 0: all cores this process may use)
    #[argh(option, default = "0")]
    threads: usize,
    /// instruction set: avx512, avx2, portable or scalar (default: the best)
    #[argh(option)]
    isa: Option<String>,
    /// products by "own" kernels or by the "gemm" crate (default: own where there are any)
    #[argh(option)]
    matmul: Option<String>,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
    /// rounds of each measurement (default 15)
    #[argh(option)]
    rounds: Option<usize>,
    /// a first impression: few rounds, short ceilings, few sizes
    #[argh(switch)]
    quick: bool,
    /// contexts of decode (default 16,1024,4000), or none
    #[argh(option)]
    contexts: Option<List>,
    /// tokens of prefill (default 2,4,8,16,32,128,512,2048), or none
    #[argh(option)]
    prefill: Option<List>,
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
            _ => Err(format!("{part:?} in {text:?} is not a number above 0")),
        };
        let mut numbers = text.split(',').map(number).collect::<Result<Vec<usize>, String>>()?;
        numbers.sort_unstable();
        Ok(List(numbers))
    }
}

/// The checked command line.
pub struct Args {
    /// Model file.
    pub model: PathBuf,
    /// Number of threads to ask for.
    pub threads: usize,
    /// How products are computed.
    pub products: Products,
    /// Whether to print JSON.
    pub json: bool,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Contexts of decode, ascending.
    pub contexts: Vec<usize>,
    /// Tokens of prefill, ascending.
    pub prefill: Vec<usize>,
    quick: bool,
}

impl Args {
    /// How long one look at a ceiling takes.
    pub fn ceiling_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 300 })
    }
}

/// An end before the beginning: help, the version, or wrong usage.
pub struct Exit {
    text: String,
    success: bool,
}

impl Exit {
    fn usage(problem: impl std::fmt::Display) -> Exit {
        Exit { text: format!("olmo-bench: error: {problem}; see olmo-bench --help"), success: false }
    }

    /// Prints and says how to exit.
    pub fn print(&self) -> ExitCode {
        // There is nobody left to tell when neither stream takes the text.
        if self.success {
            let _nobody_to_tell = writeln!(std::io::stdout(), "{}", self.text.trim_end());
            return ExitCode::SUCCESS;
        }
        let _nobody_to_tell = writeln!(std::io::stderr(), "{}", self.text.trim_end());
        ExitCode::from(2)
    }
}

/// Parses and checks the arguments after the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Args, Exit> {
    let args: Result<Vec<String>, OsString> = args.map(OsString::into_string).collect();
    let args = args.map_err(|arg| Exit::usage(format_args!("{arg:?} is not UTF-8")))?;
    if args.first().is_some_and(|arg| arg == "--version") {
        return Err(Exit { text: format!("olmo-bench {}", env!("CARGO_PKG_VERSION")), success: true });
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let raw = Raw::from_args(&["olmo-bench"], &args).map_err(|EarlyExit { output, status }| match status {
        Ok(()) => Exit { text: output, success: true },
        Err(()) => Exit::usage(output.split_whitespace().collect::<Vec<_>>().join(" ")),
    })?;
    let isa = match raw.isa.as_deref() {
        None => Isa::best(),
        Some(name) => Isa::named(name).ok_or_else(|| {
            let names: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
            Exit::usage(format_args!("--isa {name}: this machine has {}", names.join(", ")))
        })?,
    };
    let gemm = match raw.matmul.as_deref() {
        None => !isa.has_products(),
        Some("gemm") => true,
        Some("own") if isa.has_products() => false,
        Some("own") => return Err(Exit::usage("--matmul own: there are no own kernels for --isa portable")),
        Some(other) => return Err(Exit::usage(format_args!("--matmul {other}: expected own or gemm"))),
    };
    if raw.rounds == Some(0) {
        return Err(Exit::usage("--rounds must be at least 1"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let list = |asked: Option<List>, usual: &[usize], quick: &[usize]| match asked {
        Some(List(numbers)) => numbers,
        None => if raw.quick { quick } else { usual }.to_vec(),
    };
    Ok(Args {
        model: raw.model,
        threads: if raw.threads == 0 { cores } else { raw.threads.min(1024) },
        products: Products { isa, gemm },
        json: raw.json,
        rounds: raw.rounds.unwrap_or(if raw.quick { QUICK_ROUNDS } else { ROUNDS }),
        contexts: list(raw.contexts, &[16, 1024, 4000], &[16, 1024]),
        prefill: list(raw.prefill, &[2, 4, 8, 16, 32, 128, 512, 2048], &[8, 128, 512]),
        quick: raw.quick,
    })
}
