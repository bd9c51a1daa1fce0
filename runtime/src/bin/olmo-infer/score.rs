//! `olmo-infer score`: how well the model predicts each token of token files, a JSON object for each file.

use crate::advice::Advised;
use crate::args::score::{COMMAND, ScoreArgs};
use crate::failure::Failure;
use crate::opened::{self, while_populating};
use crate::program::{PROGRAM, used_threads};
use crate::progress::Progress;
use crate::score_file::{BEGINNING, ERROR, ScoreFile, TOKENS};
use olmo_infer::internals::cli::json::json_string;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::generate::batch_size::batch_size_up_to;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_infer::internals::score::{Event, Item, MOST_SEQUENCES, TokenScore, cache_positions, score};
use olmo_infer::internals::text::token_file::read_tokens_as;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are read and evaluated before the next ones are: more do not make the passes fuller.
const GROUP: usize = 512;
/// Longest list of files.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// Longest path in it: the system takes none that is longer.
const MAX_PATH_BYTES: usize = 4096;

/// Scores token files.
pub fn run(args: &ScoreArgs) -> Result<(), Failure> {
    let file = Arc::new(opened::open(COMMAND, &args.model, args.load, &args.tokens)?);
    opened::refuse_useless(args.compute.activations, &file)?;
    file.check_complete()?;
    let n_threads = used_threads(args.compute.threads);
    let score_them = || with_team(n_threads, |team| score_all(args, &file, team))?;
    match while_populating(&file, score_them)?.0 {
        0 => Ok(()),
        1 => Err(Failure::Refused("one file could not be scored; see its line".into())),
        n => Err(Failure::Refused(format!("{n} files could not be scored; see their lines"))),
    }
}

/// Scores all files that have no score yet, and yields how many could not be scored. Files come in the order of the
/// arguments, or of the list on standard input.
///
/// # Errors
/// Errors that end the run. A file that cannot be scored is not one: its object has the reason.
fn score_all(args: &ScoreArgs, file: &Arc<ModelFile>, team: &mut Team) -> Result<usize, Failure> {
    let mut out = ScoreFile::new(args)?;
    let files = if args.tokens.is_empty() { list()? } else { args.tokens.clone() };
    let n_named = files.len();
    let mut seen = HashSet::new();
    let files = files.into_iter().filter(|path| seen.insert(path.clone()));
    let (before, files): (Vec<PathBuf>, Vec<PathBuf>) = files.partition(|path| out.has_failed(path).is_some());
    let mut n_failed = before.iter().filter(|path| out.has_failed(path) == Some(true)).count();
    let n_repeated = n_named - before.len() - files.len();
    if n_repeated > 0 {
        PROGRAM.note(format_args!("{n_repeated} of {n_named} names are of files named before, which are scored once"));
    }
    if let (false, Some(path)) = (before.is_empty(), &args.output) {
        let (n, all, path) = (before.len(), before.len() + files.len(), display_path(path));
        PROGRAM.note(format_args!("{n} of {all} files are in {path} already and are left out"));
    }
    let network = Arc::new(Network::new(file.clone())?);
    let mut progress = Progress::new(files.len());
    for group in files.chunks(GROUP) {
        n_failed += Group::read(args, file, &network, group)?.run(team, &mut out, &mut progress)?;
    }
    drop(progress);
    out.finish()?;
    Ok(n_failed)
}

/// The files that standard input names.
fn list() -> Result<Vec<PathBuf>, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(Error::io(Path::new("-"), "read the list of files"))?;
    if bytes.len() as u64 > MAX_LIST_BYTES {
        return Err(Failure::Refused("the list of files has more than 64 MiB; score it in parts".into()));
    }
    let bad = |number: usize, found: &str| {
        Err(Failure::Refused(format!(
            "line {number} of the list of files {found}, expected a path per line; correct the list"
        )))
    };
    let text = match str::from_utf8(&bytes) {
        // The mark of an editor, and no part of a name.
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            return bad(before + 1, "is not UTF-8");
        }
    };
    for (i, line) in text.lines().enumerate() {
        if line.contains('\0') {
            return bad(i + 1, "holds a NUL byte, as after find -print0");
        }
        if line.len() > MAX_PATH_BYTES {
            return bad(i + 1, "is longer than 4096 bytes");
        }
    }
    let files: Vec<PathBuf> = text.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect();
    if files.is_empty() {
        let problem = "no files to score: standard input is empty, expected a path per line; or name token files";
        return Err(Failure::Usage(problem.into()));
    }
    Ok(files)
}

/// Files that are evaluated together.
struct Group<'a> {
    args: &'a ScoreArgs,
    file: &'a ModelFile,
    network: &'a Arc<Network>,
    files: Vec<Scored<'a>>,
}

/// One file and what is known of it.
struct Scored<'a> {
    path: &'a Path,
    tokens: Result<Vec<u32>, String>,
    /// Of every token but the first; `None` until they are known.
    scores: Option<Vec<TokenScore>>,
}

impl Scored<'_> {
    /// Whether its line can be written.
    fn is_done(&self) -> bool {
        self.tokens.is_err() || self.scores.is_some()
    }

    /// The line of the file.
    fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = BEGINNING.to_vec();
        json_string(&mut line, &self.path.to_string_lossy())?;
        let tokens = match &self.tokens {
            Ok(tokens) => tokens,
            Err(problem) => {
                line.extend(ERROR);
                json_string(&mut line, problem)?;
                line.extend(b"}\n");
                return Ok(line);
            }
        };
        line.extend(TOKENS);
        write!(line, "{}", tokens.len())?;
        let scores = self.scores.as_deref().unwrap_or_default();
        let mean = scores.iter().map(|score| score.nll).sum::<f64>() / scores.len() as f64;
        // JSON has no infinity, and a file of one token no mean.
        let number = |number: f64| if number.is_finite() { number.to_string() } else { "null".into() };
        write!(line, ",\"mean_nll\":{},\"perplexity\":{},\"nll\":[", number(mean), number(mean.exp()))?;
        for (i, score) in scores.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // The logits are f32: more digits would be noise.
            let nll = score.nll as f32;
            let nll = if nll.is_finite() { nll.to_string() } else { "null".into() };
            write!(line, "{comma}{nll}")?;
        }
        line.extend(b"]}\n");
        Ok(line)
    }
}

impl<'a> Group<'a> {
    /// Reads the token files.
    fn read(
        args: &'a ScoreArgs,
        file: &'a ModelFile,
        network: &'a Arc<Network>,
        paths: &'a [PathBuf],
    ) -> Result<Group<'a>, Failure> {
        let config = file.config();
        let read = |path: &'a PathBuf| {
            let tokens = read_tokens_as(path, args.token_type, config.vocab_size, config.max_position_embeddings);
            Scored { path, tokens: tokens.map_err(|error| Advised::for_ids(&error).to_string()), scores: None }
        };
        Ok(Group { args, file, network, files: paths.iter().map(read).collect() })
    }

    /// Evaluates them, writes their lines, and yields how many have none but an error.
    fn run(mut self, team: &mut Team, out: &mut ScoreFile, progress: &mut Progress) -> Result<usize, Failure> {
        let mut n_written = 0;
        self.write_done(&mut n_written, out, progress)?;
        let wanted: Vec<usize> = (0..self.files.len()).filter(|&i| !self.files[i].is_done()).collect();
        let tokens: Vec<Vec<u32>> = wanted.iter().map(|&i| self.files[i].tokens.clone().unwrap_or_default()).collect();
        let items: Vec<Item> = tokens.iter().map(|tokens| Item::whole(tokens)).collect();
        let positions = cache_positions(&items, self.file.config())?;
        if let Some(&most) = positions.iter().max() {
            let options = self.args.compute.options(most);
            let asked = self.args.compute.batch;
            let places = batch_size_up_to(MOST_SEQUENCES, asked, self.file, self.network, &options, &positions)?;
            let mut batch = Batch::new(self.network, options, places)?;
            score(&mut batch, team, &items, |event| {
                match event {
                    Event::Pass(n) => progress.n_tokens += n,
                    Event::Scored(index, scores) => {
                        // If the model was written to meanwhile, that is where numbers that are not finite come from,
                        // and the results are discarded.
                        self.file.check_unchanged()?;
                        let file = &mut self.files[wanted[index]];
                        match scores {
                            Ok(scores) => file.scores = Some(scores),
                            Err(error) => file.tokens = Err(error.to_string()),
                        }
                        self.write_done(&mut n_written, out, progress)?;
                    }
                }
                Ok::<_, Failure>(())
            })?;
        }
        Ok(self.files.iter().filter(|file| file.tokens.is_err()).count())
    }

    /// Writes the lines of files that are done and precede all that are not.
    fn write_done(&self, n_written: &mut usize, out: &mut ScoreFile, progress: &mut Progress) -> Result<(), Failure> {
        while let Some(file) = self.files.get(*n_written).filter(|file| file.is_done()) {
            out.write(&file.line()?)?;
            *n_written += 1;
            progress.n_files += 1;
        }
        progress.show();
        Ok(())
    }
}
