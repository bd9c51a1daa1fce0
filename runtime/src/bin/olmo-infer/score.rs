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
use olmo_infer::internals::generate::batch_size::batch_size;
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_infer::internals::text::token_file::read_tokens_as;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
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
    let score = || with_team(n_threads, |team| score_all(args, &file, team))?;
    match while_populating(&file, score)?.0 {
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
    nll: Vec<f64>,
}

impl Scored<'_> {
    /// Predictions that it has when it is done.
    fn n_predictions(&self) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| tokens.len() - 1)
    }

    /// Whether there is nothing more to evaluate.
    fn is_done(&self) -> bool {
        self.nll.len() == self.n_predictions()
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
        let mean = self.nll.iter().sum::<f64>() / self.nll.len() as f64;
        // JSON has no infinity, and a file of one token no mean.
        let number = |number: f64| if number.is_finite() { number.to_string() } else { "null".into() };
        write!(line, ",\"mean_nll\":{},\"perplexity\":{},\"nll\":[", number(mean), number(mean.exp()))?;
        for (i, &nll) in self.nll.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // The logits are f32: more digits would be noise.
            let nll = nll as f32;
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
            Scored { path, tokens: tokens.map_err(|error| Advised::for_ids(&error).to_string()), nll: Vec::new() }
        };
        Ok(Group { args, file, network, files: paths.iter().map(read).collect() })
    }

    /// Evaluates them, writes their lines, and yields how many have none but an error.
    fn run(mut self, team: &mut Team, out: &mut ScoreFile, progress: &mut Progress) -> Result<usize, Failure> {
        let mut n_written = 0;
        self.write_done(&mut n_written, out, progress)?;
        // Again for those that were evaluated together with one whose logits are not numbers.
        while n_written < self.files.len() {
            match self.evaluate(&mut n_written, team, out, progress) {
                Err((i, Failure::Runtime(error @ Error::NotFinite { .. }))) => {
                    // When the model was written to meanwhile, that is where they come from.
                    self.file.check_unchanged()?;
                    self.files[i].tokens = Err(error.to_string());
                    self.files[i].nll.clear();
                    self.write_done(&mut n_written, out, progress)?;
                }
                Err((_, failure)) => return Err(failure),
                Ok(()) => {}
            }
        }
        Ok(self.files.iter().filter(|file| file.tokens.is_err()).count())
    }

    /// Evaluates the files that are not done, together. Fails with the index of the file whose logits are not numbers.
    fn evaluate(
        &mut self,
        n_written: &mut usize,
        team: &mut Team,
        out: &mut ScoreFile,
        progress: &mut Progress,
    ) -> Result<(), (usize, Failure)> {
        let wanted: Vec<usize> = (0..self.files.len()).filter(|&i| !self.files[i].is_done()).collect();
        wanted.iter().for_each(|&i| self.files[i].nll.clear());
        let tokens: Vec<Vec<u32>> = wanted.iter().map(|&i| self.files[i].tokens.clone().unwrap_or_default()).collect();
        // The last token predicts nothing that is known.
        let run = |tokens| Run { visit_prompt: true, score: true, ..Run::new(tokens, tokens.len() - 1) };
        let runs: Vec<Run> = tokens.iter().map(|tokens| run(tokens.as_slice())).collect();
        let mut evaluate = || {
            let positions: Vec<usize> = runs.iter().map(|run| run.positions).collect();
            let options = self.args.compute.options(positions.iter().copied().max().unwrap_or(1));
            let places = batch_size(self.args.compute.batch, self.file, self.network, &options, &positions)?;
            let mut batch = Batch::new(self.network, options, places)?;
            generate(&mut batch, team, &runs, |evaluated| {
                let file = &mut self.files[wanted[evaluated.run]];
                file.nll.extend(evaluated.nll);
                progress.n_tokens += 1;
                if evaluated.is_last {
                    // If the model was written to meanwhile, the results are discarded.
                    self.file.check_unchanged()?;
                    self.write_done(n_written, out, progress)?;
                }
                Ok::<_, Failure>(ControlFlow::Continue(()))
            })
        };
        evaluate().map(|_| ()).map_err(|failure| match failure {
            Failure::Runtime(Error::NotFinite { sequence, .. }) => (wanted[sequence], failure),
            failure => (0, failure),
        })
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
