//! `olmo-infer MODEL`: evaluates prompts and continues them.

use crate::args::generate::{GenerateArgs, Mode};
use crate::failure::Failure;
use crate::job::Job;
use crate::opened::{self, while_populating};
use crate::printer::{Printer, TextRules};
use crate::program::{PROGRAM, used_threads};
use crate::prompts::{self, Input};
use crate::rows_file::{Rows, RowsFile, RowsStream};
use crate::timing_line::Summary;
use olmo_infer::internals::error::{Error, display_path, one_line};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::{AuthorSampling, described};
use olmo_infer::internals::generate::batch_size::batch_size;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::internals::parallel::team::with_team;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What text is made of in this run, and where it ends.
fn text_rules<'a>(args: &'a GenerateArgs, file: &'a ModelFile) -> Result<TextRules<'a>, Failure> {
    let vocabulary = Vocabulary::new(file)?;
    let mut rules =
        TextRules { vocabulary, ends: file.config().eos_token_ids.clone(), stops: &args.stops, hidden: Vec::new() };
    if !args.generates() {
        return Ok(rules);
    }
    let Some(vocabulary) = &rules.vocabulary else {
        // Reading the prompt reports what it needs.
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
        // An unknown tokenizer has no special tokens; --prompt refuses it.
        Err(Error::UnusableTokenizer { .. }) => {}
        Err(damaged) => return Err(damaged.into()),
    }
    // A special token is not text, in which a stop text would be found.
    let is_stop = |id: &u32| args.stops.iter().any(|stop| vocabulary.bytes(*id) == Some(stop.as_bytes()));
    rules.ends.extend(rules.hidden.iter().copied().filter(is_stop));
    if args.prompt.as_ref().is_some_and(|prompt| prompt.chat) {
        // Special tokens have no place inside an answer.
        rules.ends.extend(&rules.hidden);
    }
    Ok(rules)
}

/// Evaluates prompts and continues them; `begun` is when the program began.
pub fn run(args: &GenerateArgs, begun: Instant) -> Result<(), Failure> {
    let file = Arc::new(opened::open(PROGRAM, &args.model, args.load, &args.tokens)?);
    opened::refuse_useless(args.compute.activations, &file)?;
    opened::refuse_no_guess(args.compute.speculate, args.compute.backend, &file)?;
    let summary = evaluate(args, &file, begun)?;
    if args.timing {
        PROGRAM.print_line(&summary);
    }
    Ok(())
}

fn evaluate(args: &GenerateArgs, file: &Arc<ModelFile>, begun: Instant) -> Result<Summary, Failure> {
    let opened = begun.elapsed();
    let config = file.config();
    // First: its errors are the most specific.
    let inputs = prompts::read(args, file)?;
    file.check_complete()?;
    let rules = text_rules(args, file)?;
    // A turn of a conversation is what the author recommends it for; everything else stays greedy.
    let is_chat = args.prompt.as_ref().is_some_and(|prompt| prompt.chat);
    let author = if is_chat { AuthorSampling::new(file)? } else { None };
    let sampling = args.sampling.resolve(author.as_ref());
    let positions: Vec<usize> = inputs.iter().map(|input| input.positions).collect();
    let options = args.compute.options(positions.iter().copied().max().unwrap_or(1));
    let network = Arc::new(Network::new(file.clone())?);
    let sequences = batch_size(args.compute.batch, file, &network, &options, &positions)?;
    let rows = |path, flag, width| rows(args, path, flag, &positions, width);
    let logits = args.logits.as_ref().map(|path| rows(path, "--logits", config.vocab_size)).transpose()?;
    let hidden = match &args.hidden {
        None => None,
        Some((layer, _)) if *layer > config.n_layers() => {
            let (path, n) = (display_path(&args.model), config.n_layers());
            return Err(Failure::Usage(format!("--layer {layer}: {path} has layers 0 to {n}")));
        }
        Some((layer, path)) => Some((*layer, rows(path, "--hidden", config.hidden_size)?)),
    };
    note_surprises(args, &inputs);
    let printer = Printer::new(args.mode, args.generates(), rules, &args.tokens);
    let n_threads = used_threads(args.compute.threads);
    let (measured, page_in) = while_populating(file, args.compute.speculate.draft && args.hidden.is_none(), || {
        with_team(n_threads, |team| {
            let batch = Batch::new(&network, options, sequences)?;
            Job { file, inputs: &inputs, args, sampling, printer, logits, hidden, begun }.run(batch, team)
        })?
    })?;
    if measured.is_cut {
        let most = config.max_position_embeddings;
        PROGRAM.note(format_args!("the text ends because the {most} positions of the model are full"));
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
        experts: network.n_experts_taken(),
        bytes_per_token: network.weights().bytes_per_token(),
        isa: options.backend.isa.name(),
        gemm: options.backend.gemm,
        suits_plain: file.has_bf12() && (options.backend.gemm || !options.backend.isa.suits_bf12()),
        threads: measured.threads,
        anonymous_bytes: measured.anonymous_bytes,
        kv: options.kv,
        sampling: format!("{} ({})", described(&sampling), args.sampling.origin(author.as_ref())),
        seed: (sampling.temperature > 0.0).then_some(sampling.seed),
    })
}

/// Where the rows of `flag` go: a file, or standard output, which takes a known number of positions.
fn rows(args: &GenerateArgs, path: &Path, flag: &str, positions: &[usize], width: usize) -> Result<Rows, Failure> {
    if path.as_os_str() != "-" {
        return Ok(Rows::File(RowsFile::create(&SystemDisk, path, flag, &args.inputs(), width)?));
    }
    if io::stdout().is_terminal() {
        let what = if flag == "--logits" { "logits" } else { "hidden states" };
        return Err(Failure::Usage(format!("{what} are not text; redirect standard output to a file or a pipe")));
    }
    if args.generates() {
        let why = format!("{flag} - begins with the number of positions, and a text may end early");
        return Err(Failure::Usage(format!("{why}; use --json with --steps, or write to a file")));
    }
    Ok(Rows::Stdout(RowsStream::create(positions.iter().sum(), width)?))
}

/// Notes what is done as asked and may not be what was meant.
fn note_surprises(args: &GenerateArgs, inputs: &[Input]) {
    let longer: Vec<&Input> = inputs.iter().filter(|input| input.positions < input.tokens.len()).collect();
    match (longer.as_slice(), inputs) {
        ([], _) => {}
        ([Input { tokens, positions }], [_]) => {
            PROGRAM.note(format_args!("--steps {positions} ends inside the prompt, which has {} tokens", tokens.len()));
        }
        ([first, ..], all) => {
            PROGRAM.note(format_args!(
                "--steps {} ends inside {} of {} prompts",
                first.positions,
                longer.len(),
                all.len()
            ));
        }
    }
    if let Some(stop) = args.stops.iter().find(|stop| stop.contains("\\n")) {
        let stop = one_line(stop);
        PROGRAM.note(format_args!("--stop {stop} has a backslash and an n; a newline is given as in --stop $'{stop}'"));
    }
}
