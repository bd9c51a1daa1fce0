//! `olmo-infer score`: how well the model predicts texts, a JSON object for each.

mod inputs;
mod item;
mod progress;
mod request;
mod score_file;
pub mod sequence;
mod tasks;

use crate::args::score::{COMMAND, Kind, ScoreArgs};
use crate::failure::Failure;
use crate::opened::{self, while_populating};
use crate::program::{PROGRAM, used_threads};
use inputs::Inputs;
use item::{ScoredItem, Scores};
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::digest;
use olmo_infer::internals::generate::batch_size::batch_size_up_to;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_infer::internals::score::{Event, MOST_SEQUENCES, cache_positions, score};
use progress::Progress;
use score_file::{Outcome, ScoreFile, Total};
use sequence::{Sequence, Start, Tokenizing};
use std::path::PathBuf;
use std::sync::Arc;
use tasks::{Answer, Tasks};

/// Items that are read and evaluated before the next ones are, in any order: more share few beginnings.
const GROUP_ITEMS: usize = 4096;
/// Most tokens of a group, unless a single item has more.
const GROUP_TOKENS: usize = 1 << 20;
/// Most bytes of ids and messages of a group.
const GROUP_BYTES: usize = 64 << 20;

/// Scores files.
pub fn run(args: &ScoreArgs) -> Result<(), Failure> {
    let file = Arc::new(opened::open(COMMAND, &args.model, args.load, &args.files)?);
    opened::refuse_useless(args.compute.activations, &file)?;
    let (positions, stride) = window(args, &file)?;
    file.check_complete()?;
    let n_threads = used_threads(args.compute.threads);
    let score_them = || {
        with_team(n_threads, |team| {
            let files = if args.files.is_empty() { inputs::list()? } else { args.files.clone() };
            refuse_unread_type(args, &files)?;
            let out = ScoreFile::new(args, &files)?;
            let inputs = Inputs::new(args, file.config(), files, seed(args, &file, positions, stride));
            let network = Arc::new(Network::new(file.clone())?);
            let tokenizing = Tokenizing::new(&file, args.start, positions, stride);
            let progress = Progress::new(inputs.n_bytes);
            let counts = Counts::default();
            Run { args, file: &file, network, tokenizing, out, progress, tasks: Tasks::default(), counts }
                .all(inputs, team)
        })?
    };
    match while_populating(&file, false, score_them)?.0 {
        0 => Ok(()),
        1 => Err(Failure::Refused("one item could not be scored; see its line".into())),
        n => Err(Failure::Refused(format!("{n} items could not be scored; see their lines"))),
    }
}

/// Positions of a window, and how many more each scores.
fn window(args: &ScoreArgs, file: &ModelFile) -> Result<(usize, usize), Failure> {
    let (config, usage) = (file.config(), |problem| Err(Failure::Usage(problem)));
    let most = config.max_position_embeddings;
    let positions = args.context.unwrap_or(most);
    if positions > most {
        return usage(format!("--context {positions}: expected at most {most}, the positions of the model"));
    }
    let stride = args.stride.unwrap_or(positions);
    if stride > positions {
        return usage(format!("--stride {stride}: expected at most {positions}, what a window has"));
    }
    if let Start::Token(id) = args.start
        && id as usize >= config.vocab_size
    {
        return usage(format!("--start {id}: the vocabulary has ids 0 to {}", config.vocab_size - 1));
    }
    Ok((positions, stride))
}

/// A digest of what scores depend on besides the items.
fn seed(args: &ScoreArgs, file: &ModelFile, positions: usize, stride: usize) -> u64 {
    let numbers = (args.compute.activations, args.compute.kv, args.compute.backend.gemm);
    let text = format!("{:?} {positions} {stride} {numbers:?}", args.start);
    digest(text.as_bytes(), file.header().header_digest.get())
}

/// Refuses a type of ids where no file has ids.
fn refuse_unread_type(args: &ScoreArgs, files: &[PathBuf]) -> Result<(), Failure> {
    let is_read = |path: &PathBuf| args.kind.unwrap_or_else(|| Kind::of(path)) == Kind::Tokens;
    if args.token_type.is_none() || files.iter().any(is_read) {
        return Ok(());
    }
    Err(Failure::Usage(
        "--token-type is of token files, and none is named; leave it out, or add --format tokens".into(),
    ))
}

/// A run over all items that have no score yet. Their lines come in the order of the files.
struct Run<'a> {
    args: &'a ScoreArgs,
    file: &'a ModelFile,
    network: Arc<Network>,
    tokenizing: Tokenizing<'a>,
    out: ScoreFile,
    progress: Progress,
    tasks: Tasks,
    counts: Counts,
}

/// Numbers of items.
#[derive(Default)]
struct Counts {
    all: usize,
    /// Those with a line of an earlier run.
    before: usize,
    failed: usize,
}

impl Run<'_> {
    /// Scores all, and yields how many could not be scored.
    ///
    /// # Errors
    /// Errors that end the run. An item that cannot be scored is not one: its object has the reason.
    fn all(mut self, mut inputs: Inputs, team: &mut Team) -> Result<usize, Failure> {
        if inputs.n_repeated > 0 {
            let (n, all) = (inputs.n_repeated, inputs.n_files + inputs.n_repeated);
            PROGRAM.note(format_args!("{n} of {all} names are of files named before, which are scored once"));
        }
        loop {
            let group = self.next_group(&mut inputs)?;
            if group.is_empty() {
                break;
            }
            self.score(&group, team)?;
        }
        drop(self.progress);
        self.out.finish()?;
        if let (Counts { all, before: n @ 1.., .. }, Some(path)) = (&self.counts, &self.args.output) {
            let path = display_path(path);
            PROGRAM.note(format_args!("{n} of {all} items were in {path} already and were left out"));
        }
        if self.args.tasks {
            self.tasks.print(self.args.json)?;
        }
        Ok(self.counts.failed)
    }

    /// The next items that have no score yet.
    fn next_group(&mut self, inputs: &mut Inputs) -> Result<Vec<ScoredItem>, Failure> {
        let (mut group, mut n_tokens, mut n_bytes) = (Vec::new(), 0, 0);
        while group.len() < GROUP_ITEMS && n_tokens < GROUP_TOKENS && n_bytes < GROUP_BYTES {
            let Some(entry) = inputs.next() else { break };
            self.counts.all += 1;
            if let Some(outcome) = self.out.outcome(&entry)? {
                self.counts.before += 1;
                let total = match outcome {
                    Outcome::Scored(total) => Some(total),
                    Outcome::Failed => None,
                };
                self.end_item(Answer::of(&entry), total, entry.n_read)?;
                continue;
            }
            let item = ScoredItem::new(entry, &self.tokenizing);
            n_tokens += item.n_evaluated();
            n_bytes += item.n_bytes();
            group.push(item);
        }
        Ok(group)
    }

    /// Evaluates items and writes their lines.
    fn score(&mut self, group: &[ScoredItem], team: &mut Team) -> Result<(), Failure> {
        let mut scores: Vec<Scores> = group.iter().map(Scores::of).collect();
        let mut n_written = 0;
        self.write_done(group, &mut scores, &mut n_written)?;
        let (mut items, mut places) = (Vec::new(), Vec::new());
        for (index, item) in group.iter().enumerate() {
            let windows = item.sequence.iter().flat_map(Sequence::items).enumerate();
            for (window, item) in windows {
                items.push(item);
                places.push((index, window));
            }
        }
        let positions = cache_positions(&items, self.file.config())?;
        let Some(&most) = positions.iter().max() else { return Ok(()) };
        let options = self.args.compute.options(most);
        let asked = self.args.compute.batch;
        let n_slots = batch_size_up_to(MOST_SEQUENCES, asked, self.file, &self.network, &options, &positions);
        let n_slots = n_slots.map_err(|error| match error {
            Error::ContextTooLarge { sequences: 1, .. } => {
                Failure::Refused(format!("{error}; give --context a smaller number"))
            }
            error => error.into(),
        })?;
        let mut batch = Batch::new(&self.network, options, n_slots)?;
        score(&mut batch, team, &items, |event| {
            match event {
                Event::Pass(n) => self.progress.add_tokens(n),
                Event::Scored(index, found) => {
                    // If the model was written to meanwhile, that is where numbers that are not finite come from, and
                    // the results are discarded.
                    self.file.check_unchanged()?;
                    let (item, window) = places[index];
                    scores[item].note(window, found.map_err(|error| error.to_string()));
                    self.write_done(group, &mut scores, &mut n_written)?;
                }
            }
            Ok::<_, Failure>(())
        })
    }

    /// Writes the lines of items that are done and precede all that are not.
    fn write_done(&mut self, group: &[ScoredItem], scores: &mut [Scores], next: &mut usize) -> Result<(), Failure> {
        while let Some(item) = group.get(*next).filter(|_| scores[*next].is_done()) {
            let scores = std::mem::take(&mut scores[*next]);
            self.out.write(&item.line(&scores, self.args.per_token)?)?;
            self.end_item(item.answer.clone(), scores.total().ok(), item.n_read)?;
            *next += 1;
        }
        Ok(())
    }

    /// Counts an item that has its line.
    fn end_item(&mut self, answer: Option<Answer>, total: Option<Total>, n_read: u64) -> Result<(), Failure> {
        self.counts.failed += usize::from(total.is_none());
        self.progress.end_item(n_read);
        if self.args.tasks { self.tasks.add(answer, total) } else { Ok(()) }
    }
}
