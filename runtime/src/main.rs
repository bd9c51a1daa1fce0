//! `olmo-infer MODEL.olmo [TOKENS.bin]`: evaluates a prompt and goes on greedily.

mod args;
mod exit;
mod logits_file;
mod memory;
mod output;
mod summary;

use args::{Args, Mode};
use logits_file::LogitsFile;
use olmo_infer::error::display_path;
use olmo_infer::greedy::{Run, Timing, greedy};
use olmo_infer::model::{Model, Session};
use olmo_infer::model_file::{ModelFile, Populated};
use olmo_infer::threads::{Team, with_team};
use olmo_infer::tokens::read_tokens;
use olmo_infer::vocabulary::Vocabulary;
use output::{Failure, Printer};
use std::fmt::Display;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use summary::Summary;

fn main() -> ExitCode {
    let begun = Instant::now();
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(exit) => return exit.print(),
    };
    match run(&args, begun) {
        Ok(summary) => {
            if args.timing {
                tell(&summary);
            }
            ExitCode::SUCCESS
        }
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => {
            tell(format_args!("error: {problem}"));
            ExitCode::from(2)
        }
        Err(failure) => {
            tell(format_args!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error.
fn tell(line: impl Display) {
    // Where it does not take the line, nobody is left to tell.
    let _nobody_to_tell = writeln!(io::stderr(), "olmo-infer: {line}");
}

fn run(args: &Args, begun: Instant) -> Result<Summary, Failure> {
    let file = ModelFile::open(&args.model)?;
    let opened = begun.elapsed();
    let config = file.config();
    let vocabulary = Vocabulary::new(&file)?;
    if args.mode == Mode::Text && vocabulary.is_none() {
        return Err(Failure::Usage(format!(
            "{}: has no vocabulary, so --text cannot be printed; pack it with --vocab vocab.txt, or leave out --text",
            display_path(&args.model)
        )));
    }
    let tokens = read_tokens(&args.tokens, config.vocab_size, config.max_position_embeddings)?;
    let positions = args.positions(tokens.len(), config.max_position_embeddings)?;
    let options = args.options(positions);
    memory::check(Session::bytes(config, &options), positions)?;
    let logits_file = match &args.logits {
        Some(path) => Some(LogitsFile::create(path, [&args.model, &args.tokens], config.vocab_size)?),
        None => None,
    };
    let printer = Printer::new(args.mode, vocabulary, &config.eos_token_ids);

    let model = Model::new(&file);
    let (measured, page_in) = beside_populating(&file, || {
        with_team(args.threads(), |team| {
            let session = Session::new(&model, options)?;
            Job { tokens: &tokens, positions, args, printer, logits_file, begun }.run(session, team)
        })
    })?;
    Ok(Summary {
        opened,
        page_in,
        first_token: measured.first_token,
        timing: measured.timing,
        bytes_per_token: model.weights().bytes_per_token(),
        isa: options.products.isa.name(),
        gemm: options.products.gemm,
        threads: measured.threads,
        anonymous_bytes: measured.anonymous_bytes,
    })
}

/// Runs `work` while another thread brings the file's pages in, ahead of the first pass; yields its time too.
fn beside_populating<T>(
    file: &ModelFile,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, Option<(Duration, Populated)>), Failure> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let populate = || {
            let begun = Instant::now();
            file.populate(&|| stop.load(Ordering::Relaxed)).map(|populated| (begun.elapsed(), populated))
        };
        // When the system gives no thread, the first pass brings the pages in itself.
        let thread = std::thread::Builder::new().name("olmo-page-in".into()).spawn_scoped(scope, populate).ok();
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let page_in = thread.map(|thread| thread.join().expect("populating does not panic"));
        // An error of the work comes first. One of the pages spoils a finished run too: it read from a damaged file.
        let value = result?;
        Ok((value, page_in.transpose()?))
    })
}

/// The evaluation of one token file.
struct Job<'a> {
    tokens: &'a [u32],
    positions: usize,
    args: &'a Args,
    printer: Printer<'a>,
    logits_file: Option<LogitsFile>,
    begun: Instant,
}

/// What a job took.
struct Measured {
    timing: Timing,
    /// From the start of the program to the first predicted token after the prompt.
    first_token: Duration,
    threads: usize,
    anonymous_bytes: Option<u64>,
}

impl Job<'_> {
    fn run(mut self, mut session: Session, team: &mut Team) -> Result<Measured, Failure> {
        let run = Run {
            prompt: self.tokens,
            positions: self.positions,
            top: self.args.top(),
            visit_prompt: self.args.mode != Mode::Text || self.logits_file.is_some(),
        };
        let mut first_token = None;
        let timing = greedy(&mut session, team, run, |evaluated| {
            if evaluated.position + 1 >= self.tokens.len().min(self.positions) {
                first_token.get_or_insert_with(|| self.begun.elapsed());
            }
            if let Some(file) = &mut self.logits_file {
                file.write(evaluated.logits)?;
            }
            let is_prompt = evaluated.position + 1 < self.tokens.len();
            match self.printer.print(&evaluated, is_prompt) {
                // The logits are still wanted.
                Err(Failure::ReaderGone) if self.logits_file.is_some() => {
                    self.printer.mute();
                    Ok(ControlFlow::Continue(()))
                }
                result => result,
            }
        })?;
        self.printer.finish()?;
        if let Some(file) = self.logits_file {
            file.finish()?;
        }
        Ok(Measured {
            timing,
            first_token: first_token.unwrap_or_default(),
            threads: team.n_threads(),
            // While the session still has its buffers.
            anonymous_bytes: memory::anonymous_bytes(),
        })
    }
}
