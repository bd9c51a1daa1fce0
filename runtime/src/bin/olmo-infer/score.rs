//! `--score`: how well the model predicts each token of token files, a JSON object for each file.

use crate::args::Args;
use crate::output_path::target;
use crate::printer::{Failure, json_string, note};
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::MAX_POSITIONS;
use olmo_infer::internals::generate::batch_size::batch_size;
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::os::disk::check_written;
use olmo_infer::internals::parallel::team::Team;
use olmo_infer::internals::text::token_file::read_tokens_as;
use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Files that are read and evaluated before the next ones are: more do not make the passes fuller.
const GROUP: usize = 512;
/// Longest list of files.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// Longest path in it: the system takes none that is longer.
const MAX_PATH_BYTES: usize = 4096;
/// Bytes of a line up to the end of its name. An argument has at most 128 KiB on Linux, of which JSON makes six times
/// as many.
const MAX_HEAD_BYTES: u64 = 1 << 20;
/// Longest line: one with all positions that a model can have. A number of them has at most 48 digits and a comma, and
/// there is room for the name in an error.
const MAX_LINE_BYTES: u64 = 64 * MAX_POSITIONS as u64 + 4 * MAX_HEAD_BYTES;
/// How every object begins.
const BEGINNING: &[u8] = b"{\"file\":";
/// How it goes on for a file that could not be scored.
const ERROR: &[u8] = b",\"error\":";
/// And for one that was.
const TOKENS: &[u8] = b",\"tokens\":";

/// Scores all files that have no score yet, and yields how many could not be scored. Files come in the order of the
/// arguments, or of the list on standard input.
///
/// # Errors
/// What keeps the run from going on. A file that cannot be scored does not: its object says why.
pub fn run(args: &Args, file: &Arc<ModelFile>, team: &mut Team) -> Result<usize, Failure> {
    let mut out = Destination::new(args)?;
    let files = if args.tokens.is_empty() { list()? } else { args.tokens.clone() };
    let n_named = files.len();
    let mut seen = HashSet::new();
    let files = files.into_iter().filter(|path| seen.insert(path.clone()));
    let (before, files): (Vec<PathBuf>, Vec<PathBuf>) = files.partition(|path| out.has_failed(path).is_some());
    let mut n_failed = before.iter().filter(|path| out.has_failed(path) == Some(true)).count();
    let n_repeated = n_named - before.len() - files.len();
    if n_repeated > 0 {
        note(&format!("{n_repeated} of {n_named} names are of files named before, which are scored once"));
    }
    if let (false, Some(path)) = (before.is_empty(), &args.output) {
        let (n, all, path) = (before.len(), before.len() + files.len(), display_path(path));
        note(&format!("{n} of {all} files are in {path} already and are left out"));
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
    args: &'a Args,
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
            // The logits are f32: more digits would say nothing.
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
        args: &'a Args,
        file: &'a ModelFile,
        network: &'a Arc<Network>,
        paths: &'a [PathBuf],
    ) -> Result<Group<'a>, Failure> {
        let config = file.config();
        let read = |path: &'a PathBuf| {
            let tokens = read_tokens_as(path, args.token_type, config.vocab_size, config.max_position_embeddings);
            Scored { path, tokens: tokens.map_err(|error| error.to_string()), nll: Vec::new() }
        };
        Ok(Group { args, file, network, files: paths.iter().map(read).collect() })
    }

    /// Evaluates them, writes their lines, and yields how many have none but an error.
    fn run(mut self, team: &mut Team, out: &mut Destination, progress: &mut Progress) -> Result<usize, Failure> {
        let mut n_written = 0;
        self.write_done(&mut n_written, out, progress)?;
        // Again for those that were evaluated together with one whose logits are no numbers.
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

    /// Evaluates the files that are not done, together. Fails with the index of the file whose logits are no numbers.
    fn evaluate(
        &mut self,
        n_written: &mut usize,
        team: &mut Team,
        out: &mut Destination,
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
            let options = self.args.options(positions.iter().copied().max().unwrap_or(1));
            let places = batch_size(self.args.batch(), self.file, self.network, &options, &positions)?;
            let mut batch = Batch::new(self.network, options, places)?;
            generate(&mut batch, team, &runs, |evaluated| {
                let file = &mut self.files[wanted[evaluated.run]];
                file.nll.extend(evaluated.nll);
                progress.n_tokens += 1;
                if evaluated.is_last {
                    // The results of a model that was written to meanwhile are worth nothing.
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

    /// Writes the lines of files that are done and stand before all that are not.
    fn write_done(&self, n_written: &mut usize, out: &mut Destination, progress: &mut Progress) -> Result<(), Failure> {
        while let Some(file) = self.files.get(*n_written).filter(|file| file.is_done()) {
            out.write(&file.line()?)?;
            *n_written += 1;
            progress.n_files += 1;
        }
        progress.show();
        Ok(())
    }
}

/// Where the lines go.
struct Destination {
    /// A file with lines of earlier runs; `None` for standard output.
    file: Option<(PathBuf, File)>,
    /// The files that it has lines of, as JSON has them, and whether the line is an error.
    names: HashMap<Vec<u8>, bool>,
}

impl Destination {
    fn new(args: &Args) -> Result<Destination, Failure> {
        let mut out = Destination { file: None, names: HashMap::new() };
        let Some(path) = &args.output else { return Ok(out) };
        let path = path.clone();
        let place = target(&path, "--output", "open for writing", &args.inputs())?;
        let refused = |problem: String| {
            Err(Failure::Refused(format!("{}: {problem}; give --output another file", display_path(&path))))
        };
        let file = place.folder.open_to_append(&place.name).map_err(Error::io(&path, "open for writing"))?;
        // Two runs would each take the unfinished line of the other for one that was left behind. Where files cannot be
        // locked nobody is kept out.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return refused("another run writes to it".into());
        }
        let mut reader = BufReader::new(&file);
        let mut end = 0u64;
        for number in 1.. {
            match Line::read(&mut reader).map_err(Error::io(&path, "read"))? {
                Line::None => break,
                Line::Score { name, has_failed, bytes } => {
                    out.names.insert(name, has_failed);
                    end += bytes;
                }
                // What a run that was stopped has left of a line, behind others of its own. Nothing else is cut off.
                Line::Unfinished if end > 0 => {
                    file.set_len(end).map_err(Error::io(&path, "cut off its unfinished last line"))?;
                    break;
                }
                Line::Unfinished | Line::Other => {
                    return refused(format!("line {number} is no score, expected the output of --score"));
                }
            }
        }
        out.file = Some((path, file));
        Ok(out)
    }

    /// Whether the line that is there already of the file is an error; `None` when there is none. Standard input is
    /// another file each time.
    fn has_failed(&self, path: &Path) -> Option<bool> {
        let mut name = Vec::new();
        // Writing into a vector does not fail.
        json_string(&mut name, &path.to_string_lossy()).ok()?;
        self.names.get(&name).copied().filter(|_| path.as_os_str() != "-")
    }

    /// Asks whether all lines have arrived.
    fn finish(self) -> Result<(), Failure> {
        let Some((path, file)) = self.file else { return Ok(()) };
        Ok(check_written(file).map_err(Error::io(&path, "write"))?)
    }

    /// Writes a line, all of it at once.
    fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        match &mut self.file {
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                Ok(stdout.flush()?)
            }
            Some((path, file)) => Ok(file.write_all(line).map_err(Error::io(path, "write"))?),
        }
    }
}

/// What stands at some place of an output.
#[derive(Debug, PartialEq)]
enum Line {
    /// Nothing: it ends there.
    None,
    /// A whole line of --score.
    Score {
        /// The file, as JSON has it.
        name: Vec<u8>,
        /// Whether the line is an error.
        has_failed: bool,
        /// Length of the line.
        bytes: u64,
    },
    /// The beginning of such a line.
    Unfinished,
    /// Something else.
    Other,
}

impl Line {
    /// Reads a line. No more of it is kept than its name takes, and no more read than a line of ours can have.
    fn read(reader: &mut impl BufRead) -> io::Result<Line> {
        let mut head = Vec::new();
        let mut bytes = reader.by_ref().take(MAX_HEAD_BYTES).read_until(b'\n', &mut head)? as u64;
        let mut is_whole = head.last() == Some(&b'\n');
        let mut is_cut = !is_whole && bytes < MAX_HEAD_BYTES;
        let Some(name) = name_in(&head) else {
            return Ok(match is_cut && (head.starts_with(BEGINNING) || BEGINNING.starts_with(&head)) {
                _ if head.is_empty() => Line::None,
                true => Line::Unfinished,
                false => Line::Other,
            });
        };
        let mut piece = Vec::new();
        while !is_whole && !is_cut && bytes < MAX_LINE_BYTES {
            piece.clear();
            let n = reader.by_ref().take(MAX_HEAD_BYTES).read_until(b'\n', &mut piece)?;
            bytes += n as u64;
            is_whole = piece.last() == Some(&b'\n');
            is_cut = n == 0;
        }
        let rest = &head[BEGINNING.len() + name.len()..];
        Ok(match [TOKENS, ERROR].iter().any(|key| rest.starts_with(key) || is_cut && key.starts_with(rest)) {
            true if is_whole => Line::Score { name: name.to_vec(), has_failed: rest.starts_with(ERROR), bytes },
            true if is_cut => Line::Unfinished,
            _ => Line::Other,
        })
    }
}

/// The name of the file of a line, in its quotation marks.
fn name_in(line: &[u8]) -> Option<&[u8]> {
    let name = line.strip_prefix(BEGINNING)?;
    let mut bytes = name.iter().enumerate().skip(1);
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' if name[0] == b'"' => return Some(&name[..=i]),
            _ => {}
        }
    }
    None
}

/// What is told on a terminal meanwhile.
struct Progress {
    begun: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
    n_files: usize,
    of_files: usize,
    n_tokens: usize,
}

impl Progress {
    fn new(of_files: usize) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        Progress { begun: Instant::now(), shown: None, is_terminal, n_files: 0, of_files, n_tokens: 0 }
    }

    fn show(&mut self) {
        if !self.is_terminal || self.shown.is_some_and(|shown| shown.elapsed().as_millis() < 200) {
            return;
        }
        self.shown = Some(Instant::now());
        let rate = self.n_tokens as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        let line = format!("{} of {} files, {rate:.0} tokens/s", self.n_files, self.of_files);
        // Where it does not take the line, nobody is left to tell.
        let _nobody_to_tell = write!(io::stderr(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    /// Clears the line, so that what follows begins at its beginning.
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _nobody_to_tell = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_a_line_is_read_than_one_of_ours_can_have() {
        let whole = b"{\"file\":\"a\",\"tokens\":1}\n";
        let read = |bytes: &[u8]| Line::read(&mut &*bytes).expect("memory can be read");
        let score = |has_failed, bytes| Line::Score { name: b"\"a\"".to_vec(), has_failed, bytes };
        assert_eq!(read(whole), score(false, whole.len() as u64));
        assert_eq!(read(b"{\"file\":\"a\",\"error\":\"\"}\n{"), score(true, 24));
        assert_eq!(read(b""), Line::None);
        for n in 1..whole.len() {
            assert_eq!(read(&whole[..n]), Line::Unfinished, "{n} bytes");
        }
        assert_eq!(read(b"{\"file\":\"a\",\"pos\""), Line::Other);
        for other in [&b"\n"[..], b"notes", b"{\"file\":\"a\",\"pos\":1}\n", b"{\"file\":\"a\n"] {
            assert_eq!(read(other), Line::Other);
        }
        // A long line is read to its end, one that does not end is given up.
        let long = |n| (&whole[..whole.len() - 1]).chain(io::repeat(b'0').take(n)).chain(&b"\n"[..]);
        let found = Line::read(&mut BufReader::new(long(3 * MAX_HEAD_BYTES))).expect("memory can be read");
        assert_eq!(found, score(false, 3 * MAX_HEAD_BYTES + whole.len() as u64));
        let mut endless = BufReader::new(io::repeat(0));
        assert_eq!(Line::read(&mut endless).expect("zeros"), Line::Other);
        let mut endless = BufReader::new((&whole[..9]).chain(io::repeat(b'a')));
        assert_eq!(Line::read(&mut endless).expect("a name"), Line::Other);
        let mut endless = BufReader::new((&whole[..whole.len() - 1]).chain(io::repeat(0)));
        assert_eq!(Line::read(&mut endless).expect("zeros"), Line::Other);
    }

    #[test]
    fn names_end_at_their_quotation_mark() {
        assert_eq!(name_in(br#"{"file":"a.bin","tokens":1}"#), Some(&br#""a.bin""#[..]));
        assert_eq!(name_in(br#"{"file":"a\"\\","error":""}"#), Some(&br#""a\"\\""#[..]));
        for bad in [&br#"{"file":"a.bin"#[..], br#"{"file":null}"#, b"", br#"{"tokens":1}"#, br#"{"file":"a\""#] {
            assert_eq!(name_in(bad), None);
        }
    }
}
