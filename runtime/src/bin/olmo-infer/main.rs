//! `olmo-infer MODEL.olmo`: evaluates prompts and goes on from there, scores token files, turns text into ids and back.

mod advice;
mod args;
mod chat_args;
#[cfg(test)]
mod hooked;
mod job;
mod lines;
mod logits_file;
mod messages;
mod output_path;
mod printer;
mod prompts;
mod score;
mod talk;
mod timing_line;
mod transcript;

use args::{Action, Args, Mode};
use job::Job;
use logits_file::{Logits, LogitsFile, LogitsStream};
use olmo_infer::internals::cli::command_line::{self, nearest};
use olmo_infer::internals::error::{Error, display_path, one_line};
use olmo_infer::internals::file::mapping::Populated;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::{AuthorSampling, described};
use olmo_infer::internals::format::MAGIC;
use olmo_infer::internals::generate::batch_size::batch_size;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::os::allocator::Allocator;
use olmo_infer::internals::os::disk::{SystemDisk, check_written};
use olmo_infer::internals::os::signals;
use olmo_infer::internals::os::spawn::spawn_scoped;
use olmo_infer::internals::parallel::team::with_team;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use printer::{Failure, Printer, TextRules, note};
use prompts::Input;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use timing_line::Summary;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new("olmo-infer");

fn main() -> ExitCode {
    signals::install("olmo-infer");
    let begun = Instant::now();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let ended = match chat_args::parse(&words, talk::is_terminal()) {
        Ok(Some(args)) => talk::run(&args),
        Ok(None) => match args::parse(words.into_iter()) {
            Ok(args) => run(&args, begun).map(|summary| summary.filter(|_| args.timing).iter().for_each(tell)),
            Err(exit) => return exit.print(),
        },
        Err(exit) => return exit.print(),
    };
    match ended.and_then(|()| Ok(check_written(io::stdout())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => {
            tell(format_args!("error: {problem}"));
            ExitCode::from(2)
        }
        Err(failure) => {
            failure.to_string().lines().for_each(|line| tell(format_args!("error: {line}")));
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error, in one write. What steers in it is escaped where it comes from, and here in any case.
fn tell(line: impl Display) {
    let line = one_line(&format!("olmo-infer: {line}")) + "\n";
    // Where it does not take the line, nobody is left to tell.
    let _nobody_to_tell = io::stderr().write_all(line.as_bytes());
}

fn run(args: &Args, begun: Instant) -> Result<Option<Summary>, Failure> {
    let file = ModelFile::open_with(&args.model, args.load).map_err(|error| explain(args, error))?;
    let file = Arc::new(file);
    file.refuse_unfinished()?;
    note_clock(&file);
    match args.action {
        Action::Generate => generate(args, &file, begun).map(Some),
        Action::Tokenize => prompts::tokenize(args, &file).map(|()| None),
        Action::Detokenize => prompts::detokenize(args, &file).map(|()| None),
        Action::Score => score(args, &file).map(|()| None),
    }
}

/// Notes that the clock makes every run read all of a model.
fn note_clock(file: &ModelFile) {
    if file.is_ahead() {
        let path = display_path(file.path());
        note(&format!(
            "{path}: was changed in the future, by the clock of this machine, so that each run reads all of it; set \
             the clock, or touch the file"
        ));
    }
}

/// A better error when the first argument is no model and another one is.
fn explain(args: &Args, error: Error) -> Failure {
    let is_model = |path: &&PathBuf| {
        let mut magic = [0; MAGIC.len()];
        // What cannot be read is no model.
        // O_NONBLOCK: a FIFO, which it may be by now, must not be waited for.
        let mut options = File::options();
        let open = options.read(true).custom_flags(libc::O_NONBLOCK);
        path.is_file() && open.open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == MAGIC
    };
    match (&error, args.tokens.iter().find(is_model)) {
        // The first word is perhaps a command.
        (Error::Io { path, source, .. }, Some(model)) if source.kind() == io::ErrorKind::NotFound => {
            let (word, model) = (display_path(path).to_string(), display_path(model));
            let program = match word.as_str() {
                "inspect" | "verify" | "diff" | "copy" | "unpack" => format!("olmo-pack {word} {model}"),
                // Misspelt, or not the first word.
                word if nearest(word, ["chat"]).is_some() => format!("olmo-infer chat {model}"),
                _ => format!("olmo-infer {model}"),
            };
            Failure::Refused(format!("{word}: no such file, and {model} is a model; did you mean {program}?"))
        }
        (Error::NotOlmo { path, .. } | Error::NotAFile { path, .. }, Some(model)) => {
            let (path, model) = (display_path(path), display_path(model));
            Failure::Refused(format!(
                "{path}: not an .olmo file, and {model} is one; are the arguments swapped? olmo-infer {model} {path}"
            ))
        }
        _ => error.into(),
    }
}

/// The number of threads to use where so many are asked for, 0 standing for all; says when they are fewer.
fn used_threads(asked: usize) -> usize {
    let (threads, said) = command_line::threads(asked);
    said.iter().for_each(|line| note(line));
    threads
}

/// Scores token files.
fn score(args: &Args, file: &Arc<ModelFile>) -> Result<(), Failure> {
    file.check_complete()?;
    let n_threads = used_threads(args.threads());
    let score = || with_team(n_threads, |team| score::run(args, file, team))?;
    match beside_populating(file, score)?.0 {
        0 => Ok(()),
        1 => Err(Failure::Refused("one file could not be scored; its line says why".into())),
        n => Err(Failure::Refused(format!("{n} files could not be scored; their lines say why"))),
    }
}

/// What text is made of in this run, and where it ends.
fn text_rules<'a>(args: &'a Args, file: &'a ModelFile) -> Result<TextRules<'a>, Failure> {
    let vocabulary = Vocabulary::new(file)?;
    let mut rules =
        TextRules { vocabulary, ends: file.config().eos_token_ids.clone(), stops: &args.stops, hidden: Vec::new() };
    if !args.generates() {
        return Ok(rules);
    }
    let Some(vocabulary) = &rules.vocabulary else {
        // Reading the prompt says what it needs.
        if args.prompt.is_some() || args.mode == Mode::Json && args.stops.is_empty() {
            return Ok(rules);
        }
        let what = match args.mode {
            Mode::Json => "--stop cannot be found; pack it with --vocab vocab.txt, or leave out --stop",
            _ => "--text cannot be printed; pack it with --vocab vocab.txt, or leave out --text",
        };
        let model = display_path(&args.model);
        return Err(Failure::Usage(format!("{model}: has no vocabulary, so {what}")));
    };
    match Tokenizer::new(file, vocabulary) {
        Ok(tokenizer) => rules.hidden = tokenizer.iter().flat_map(Tokenizer::special).collect(),
        // A tokenizer that is not known says nothing about what is text; --prompt refuses it.
        Err(Error::UnusableTokenizer { .. }) => {}
        Err(damaged) => return Err(damaged.into()),
    }
    if args.prompt.as_ref().is_some_and(|prompt| prompt.chat) {
        // Whatever steers the model has no place inside an answer.
        rules.ends.extend(&rules.hidden);
    }
    Ok(rules)
}

/// Evaluates prompts and goes on from there.
fn generate(args: &Args, file: &Arc<ModelFile>, begun: Instant) -> Result<Summary, Failure> {
    let opened = begun.elapsed();
    let config = file.config();
    // First: it says best what a prompt lacks.
    let inputs = prompts::read(args, file)?;
    file.check_complete()?;
    let rules = text_rules(args, file)?;
    // A turn of a conversation is what the author recommends it for; everything else stays greedy.
    let is_chat = args.prompt.as_ref().is_some_and(|prompt| prompt.chat);
    let author = if is_chat { AuthorSampling::new(file)? } else { None };
    let sampling = args.sampling.resolve(author.as_ref());
    let positions: Vec<usize> = inputs.iter().map(|input| input.positions).collect();
    let options = args.options(positions.iter().copied().max().unwrap_or(1));
    let network = Arc::new(Network::new(file.clone())?);
    let sequences = batch_size(args.batch(), file, &network, &options, &positions)?;
    let logits = match &args.logits {
        Some(path) if path.as_os_str() == "-" => {
            Some(Logits::Stdout(stdout_logits(args, &positions, config.vocab_size)?))
        }
        Some(path) => {
            let inputs = args.inputs();
            Some(Logits::File(LogitsFile::create(&SystemDisk, path, &inputs, config.vocab_size)?))
        }
        None => None,
    };
    tell_surprises(args, &inputs);
    let printer = Printer::new(args.mode, args.generates(), rules, &args.tokens);
    let n_threads = used_threads(args.threads());
    let (measured, page_in) = beside_populating(file, || {
        with_team(n_threads, |team| {
            let batch = Batch::new(&network, options, sequences)?;
            Job { file, inputs: &inputs, args, sampling, printer, logits, begun }.run(batch, team)
        })?
    })?;
    if measured.is_cut {
        let most = config.max_position_embeddings;
        note(&format!("the text ends because the {most} positions of the model are full"));
    }
    Ok(Summary {
        opened,
        loaded: *file.loaded(),
        file_bytes: file.layout().file_bytes,
        // After the results: it takes its time.
        resident: if args.timing { file.resident() } else { None },
        page_in,
        first_token: measured.first_token,
        sequences: inputs.len(),
        timing: measured.timing,
        bytes_per_token: network.weights().bytes_per_token(),
        isa: options.backend.isa.name(),
        gemm: options.backend.gemm,
        suits_plain: file.has_bf12() && (options.backend.gemm || !options.backend.isa.suits_bf12()),
        threads: measured.threads,
        anonymous_bytes: measured.anonymous_bytes,
        sampling: format!("{} ({})", described(&sampling), args.sampling.origin(author.as_ref())),
        seed: (sampling.temperature > 0.0).then_some(sampling.seed),
    })
}

/// The logits on standard output, of a known number of positions.
fn stdout_logits(args: &Args, positions: &[usize], vocab_size: usize) -> Result<LogitsStream, Failure> {
    if io::stdout().is_terminal() {
        return Err(Failure::Usage("logits are no text; redirect standard output to a file or a pipe".into()));
    }
    if args.generates() {
        let why = "--logits - begins with the number of positions, and a text may end early";
        return Err(Failure::Usage(format!("{why}; use --json with --steps, or write to a file")));
    }
    LogitsStream::create(positions.iter().sum(), vocab_size)
}

/// Says what is done as asked and may not be what was meant.
fn tell_surprises(args: &Args, inputs: &[Input]) {
    let longer: Vec<&Input> = inputs.iter().filter(|input| input.positions < input.tokens.len()).collect();
    match (longer.as_slice(), inputs) {
        ([], _) => {}
        ([Input { tokens, positions }], [_]) => {
            note(&format!("--steps {positions} ends inside the prompt, which has {} tokens", tokens.len()));
        }
        ([first, ..], all) => {
            note(&format!("--steps {} ends inside {} of {} prompts", first.positions, longer.len(), all.len()));
        }
    }
    if let Some(stop) = args.stops.iter().find(|stop| stop.contains("\\n")) {
        let stop = one_line(stop);
        note(&format!("--stop {stop} has a backslash and an n; a newline is given as in --stop $'{stop}'"));
    }
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
        let thread = spawn_scoped(scope, "olmo-page-in", populate).ok();
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let page_in = thread.and_then(|thread| thread.join().expect("populating does not panic").ok());
        // What could not be brought in ahead the work has brought in itself, or has ended there: it reads every page
        // that this thread does, and looks at the file before its last result.
        Ok((result?, page_in))
    })
}
