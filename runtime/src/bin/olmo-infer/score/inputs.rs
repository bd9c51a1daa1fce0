//! The items of the files of a run, one after the other.

use crate::advice::Advised;
use crate::args::score::{Kind, ScoreArgs};
use crate::failure::Failure;
use crate::score::request::{Content, Request};
use flate2::read::MultiGzDecoder;
use olmo_infer::internals::error::{Error, reason};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::text::token_file::read_ids_to_score;
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::vec;

/// Longest text, and longest line.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// How gzip files begin.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// An item, before it is tokenized.
pub struct Entry {
    /// The file.
    pub file: Rc<PathBuf>,
    /// The line, from 1, where a file has an item on each.
    pub line: Option<u64>,
    /// What is scored, or why it cannot be.
    pub request: Result<Request, String>,
    /// Bytes of the files that are read.
    pub n_read: u64,
}

/// The items of some files.
pub struct Inputs<'a> {
    args: &'a ScoreArgs,
    config: &'a ModelConfig,
    files: vec::IntoIter<PathBuf>,
    lines: Option<Lines>,
    /// Bytes of the files before the present one.
    n_before: u64,
    /// Items so far.
    n_items: u64,
    /// Bytes of all files; `None` if that is unknown.
    pub n_bytes: Option<u64>,
    /// Number of files.
    pub n_files: usize,
    /// Files that were named again.
    pub n_repeated: usize,
}

impl<'a> Inputs<'a> {
    /// Those of `files`, each of them once.
    pub fn new(args: &'a ScoreArgs, config: &'a ModelConfig, files: Vec<PathBuf>) -> Inputs<'a> {
        let n_named = files.len();
        let mut seen = HashSet::new();
        let files: Vec<PathBuf> = files.into_iter().filter(|path| seen.insert(path.clone())).collect();
        let length = |path: &PathBuf| match path.as_os_str() == "-" {
            true => None,
            // A file that cannot be read has no length, and an error later.
            false => Some(std::fs::metadata(path).map_or(0, |metadata| metadata.len())),
        };
        let n_bytes = files.iter().map(length).sum();
        let n_repeated = n_named - files.len();
        let (n_files, files) = (files.len(), files.into_iter());
        Inputs { args, config, files, lines: None, n_before: 0, n_items: 0, n_bytes, n_files, n_repeated }
    }

    /// The next item of the shard.
    pub fn next(&mut self) -> Option<Entry> {
        loop {
            let entry = self.next_of_all()?;
            let number = self.n_items;
            self.n_items += 1;
            let (shard, n_shards) = self.args.shard;
            if number % n_shards == shard {
                return Some(entry);
            }
        }
    }

    fn next_of_all(&mut self) -> Option<Entry> {
        loop {
            if let Some(lines) = &mut self.lines {
                match lines.next() {
                    Some((line, request)) => {
                        let n_read = self.n_before + lines.n_read.get();
                        return Some(Entry { file: lines.path.clone(), line, request, n_read });
                    }
                    None => self.n_before += lines.n_read.get(),
                }
                self.lines = None;
            }
            let path = Rc::new(self.files.next()?);
            let kind = self.args.kind.unwrap_or_else(|| Kind::of(&path));
            if kind == Kind::Jsonl {
                match Lines::open(&path) {
                    Ok(lines) => self.lines = Some(lines),
                    Err(problem) => {
                        return Some(Entry { file: path, line: None, request: Err(problem), n_read: self.n_before });
                    }
                }
                continue;
            }
            let content = if kind == Kind::Text { text(&path).map(Content::Text) } else { self.ids(&path) };
            self.n_before += std::fs::metadata(&*path).map_or(0, |metadata| metadata.len());
            let request = content.map(|content| Request { content, labels: String::new(), choice: None });
            return Some(Entry { file: path, line: None, request, n_read: self.n_before });
        }
    }

    fn ids(&self, path: &Path) -> Result<Content, String> {
        let ids = read_ids_to_score(path, self.args.token_type, self.config.vocab_size);
        ids.map(Content::Ids).map_err(|error| Advised::for_ids(&error).to_string())
    }
}

/// The text of a file.
fn text(path: &Path) -> Result<String, String> {
    let (mut reader, _) = open(path)?;
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| cannot_read(path, &error))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err("more than 64 MiB of text, expected less; split it".into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("not text: byte {at} is not UTF-8; expected text in UTF-8, convert it with iconv")
    })
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            format!("cannot be decompressed: {}; fetch it again", reason(error))
        }
        _ => Error::io(path, "read")(io::Error::new(error.kind(), reason(error))).to_string(),
    }
}

/// Counts the bytes that are read of a file.
struct Counted<R> {
    reader: R,
    n_read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.n_read.set(self.n_read.get() + n as u64);
        Ok(n)
    }
}

/// Opens a file, or standard input for `-`, and decompresses it if it is gzip. Yields the number of its bytes that are
/// read, too.
fn open(path: &Path) -> Result<(Box<dyn BufRead>, Rc<Cell<u64>>), String> {
    let failed = |error| Error::io(path, "open")(error).to_string();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => {
            let metadata = std::fs::metadata(path).map_err(failed)?;
            if metadata.is_dir() {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            Box::new(File::open(path).map_err(failed)?)
        }
    };
    let n_read = Rc::new(Cell::new(0));
    let mut reader = BufReader::new(Counted { reader: source, n_read: n_read.clone() });
    let begin = reader.fill_buf().map_err(|error| cannot_read(path, &error))?;
    let is_gzip = begin.starts_with(GZIP);
    let reader: Box<dyn BufRead> =
        if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(reader))) } else { Box::new(reader) };
    Ok((reader, n_read))
}

/// The items of a file of JSON lines.
struct Lines {
    path: Rc<PathBuf>,
    reader: Box<dyn BufRead>,
    n_read: Rc<Cell<u64>>,
    /// Number of the last line.
    number: u64,
    has_ended: bool,
}

impl Lines {
    fn open(path: &Rc<PathBuf>) -> Result<Lines, String> {
        let (reader, n_read) = open(path)?;
        Ok(Lines { path: path.clone(), reader, n_read, number: 0, has_ended: false })
    }

    /// The next line that is not blank. One that cannot be read is the last.
    fn next(&mut self) -> Option<(Option<u64>, Result<Request, String>)> {
        while !self.has_ended {
            let mut bytes = Vec::new();
            let read = self.reader.by_ref().take(MAX_TEXT_BYTES + 1).read_until(b'\n', &mut bytes);
            self.number += 1;
            if let Err(error) = read {
                self.has_ended = true;
                return Some((Some(self.number), Err(cannot_read(&self.path, &error))));
            }
            if bytes.is_empty() {
                self.has_ended = true;
                return None;
            }
            if bytes.len() as u64 > MAX_TEXT_BYTES {
                self.has_ended = true;
                let problem = "a line of more than 64 MiB; the lines after it are not read; split it";
                return Some((Some(self.number), Err(problem.into())));
            }
            let request = match str::from_utf8(&bytes) {
                Ok(line) => {
                    // The mark of an editor.
                    let line = if self.number == 1 { line.trim_start_matches('\u{feff}') } else { line };
                    match line.trim_matches([' ', '\t', '\r', '\n']) {
                        "" => continue,
                        line => Request::parse(line),
                    }
                }
                Err(error) => {
                    Err(format!("byte {} of the line is not UTF-8; convert the file with iconv", error.valid_up_to()))
                }
            };
            return Some((Some(self.number), request));
        }
        None
    }
}

/// The files that standard input names.
pub fn list() -> Result<Vec<PathBuf>, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(Error::io(Path::new("-"), "read the list of files"))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
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
        if line.starts_with('{') && line.ends_with('}') {
            let problem = "standard input has JSON lines, expected a path per line; name it, as - with --format jsonl";
            return Err(Failure::Usage(problem.into()));
        }
        if line.contains('\0') {
            return bad(i + 1, "holds a NUL byte, as after find -print0");
        }
        if line.len() > MAX_PATH_BYTES {
            return bad(i + 1, "is longer than 4096 bytes");
        }
    }
    let files: Vec<PathBuf> = text.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect();
    if files.is_empty() {
        let problem = "no files to score: standard input is empty, expected a path per line; or name files";
        return Err(Failure::Usage(problem.into()));
    }
    Ok(files)
}

/// Longest path in a list: the system takes none that is longer.
const MAX_PATH_BYTES: usize = 4096;
