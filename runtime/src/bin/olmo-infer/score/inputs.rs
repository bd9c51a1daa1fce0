//! The items of the files of a run, one after the other.

use crate::advice::Advised;
use crate::args::score::{Kind, ScoreArgs};
use crate::failure::Failure;
use crate::score::request::{Content, Request};
use flate2::read::MultiGzDecoder;
use olmo_infer::internals::error::{Error, TokenRemedy, display_path, reason};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::digest;
use olmo_infer::internals::text::token_file::read_ids_to_score;
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::iter::Enumerate;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::vec;
use zerocopy::IntoBytes;

/// Longest text, and longest line.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// How gzip files begin.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The mark with which some editors begin a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// An item, before it is tokenized.
pub struct Entry {
    /// The file.
    pub file: Rc<PathBuf>,
    /// The line, from 1, where a file has an item on each.
    pub line: Option<u64>,
    /// Of its bytes and of what scores depend on besides; `None` where the bytes cannot be read.
    pub digest: Option<u64>,
    /// What is scored, or why it cannot be.
    pub request: Result<Request, String>,
    /// Bytes of the files that are read.
    pub n_read: u64,
}

/// The items of some files that belong to a shard: those whose number is its own modulo the number of shards. The
/// number of an item is that of its file plus that in the file, both from 0, so that a file that cannot be read moves
/// no item of another one. That it cannot be read concerns all shards.
pub struct Inputs<'a> {
    args: &'a ScoreArgs,
    config: &'a ModelConfig,
    /// Of what scores depend on besides the items.
    seed: u64,
    files: Enumerate<vec::IntoIter<PathBuf>>,
    lines: Option<Lines>,
    /// Bytes of the files before the present one.
    n_before: u64,
    /// Bytes of all files; `None` if that is unknown.
    pub n_bytes: Option<u64>,
    /// Number of files.
    pub n_files: usize,
    /// Files that were named again.
    pub n_repeated: usize,
}

impl<'a> Inputs<'a> {
    /// Those of `files`, each of them once. `seed` is a digest of what scores depend on besides the items.
    pub fn new(args: &'a ScoreArgs, config: &'a ModelConfig, files: Vec<PathBuf>, seed: u64) -> Inputs<'a> {
        let n_named = files.len();
        let mut seen = HashSet::new();
        let files: Vec<PathBuf> = files.into_iter().filter(|path| seen.insert(path.clone())).collect();
        let length = |path: &PathBuf| match path.as_os_str() == "-" {
            true => None,
            // A file that cannot be read has no length, and an error later.
            false => Some(std::fs::metadata(path).map_or(0, |metadata| metadata.len())),
        };
        let n_bytes = files.iter().map(length).sum();
        let (n_files, n_repeated) = (files.len(), n_named - files.len());
        let files = files.into_iter().enumerate();
        Inputs { args, config, seed, files, lines: None, n_before: 0, n_bytes, n_files, n_repeated }
    }

    /// The next item.
    pub fn next(&mut self) -> Option<Entry> {
        loop {
            match self.next_line() {
                Some(Found { is_fault: false, number, .. }) if !self.has(number) => continue,
                Some(Found { entry, .. }) => return Some(entry),
                None => {}
            }
            let (number, path) = self.files.next()?;
            let path = Rc::new(path);
            let n_bytes = std::fs::metadata(&*path).map_or(0, |metadata| metadata.len());
            let content = match self.args.kind.unwrap_or_else(|| Kind::of(&path)) {
                Kind::Jsonl => match Lines::open(&path, number as u64) {
                    Ok(lines) => {
                        self.lines = Some(lines);
                        continue;
                    }
                    Err(problem) => Err(problem),
                },
                _ if !self.has(number as u64) => {
                    self.n_before += n_bytes;
                    continue;
                }
                Kind::Text => text(&path).map(Content::Text),
                Kind::Tokens => self.ids(&path),
            };
            self.n_before += n_bytes;
            let digest = content.as_ref().ok().map(|content| match content {
                Content::Ids(ids) => digest(ids.as_bytes(), self.seed),
                Content::Text(text) => digest(text.as_bytes(), self.seed),
                Content::Pair { .. } => unreachable!("pairs are lines"),
            });
            let request = content.map(|content| Request { content, labels: String::new(), choice: None });
            return Some(Entry { file: path, line: None, digest, request, n_read: self.n_before });
        }
    }

    /// Whether the item with this number belongs to the shard.
    fn has(&self, number: u64) -> bool {
        let (shard, n_shards) = self.args.shard;
        number % n_shards == shard
    }

    /// The next item of the file of JSON lines that is open, if one is.
    fn next_line(&mut self) -> Option<Found> {
        let lines = self.lines.as_mut()?;
        let found = lines.next(self.seed, self.n_before);
        if found.is_none() {
            self.n_before += lines.opened.n_read.get();
            self.lines = None;
        }
        found
    }

    fn ids(&self, path: &Path) -> Result<Content, String> {
        let ids = read_ids_to_score(path, self.args.token_type, self.config.vocab_size);
        ids.map(Content::Ids).map_err(|error| match &error {
            Error::Tokens { path, problem, remedy: TokenRemedy::Encode } => {
                let path = display_path(path);
                format!("{path}: {problem}; name it .txt, or add --format text or --format jsonl")
            }
            error => Advised::for_ids(error).to_string(),
        })
    }
}

/// The text of a file.
fn text(path: &Path) -> Result<String, String> {
    let mut reader = open(path)?.reader;
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

/// An open file.
struct Opened {
    reader: Box<dyn BufRead>,
    /// Bytes of the file that are read.
    n_read: Rc<Cell<u64>>,
}

/// Opens a file, or standard input for `-`, and decompresses it if it is gzip.
fn open(path: &Path) -> Result<Opened, String> {
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
    let mut source = Counted { reader: source, n_read: n_read.clone() };
    // A pipe may bring a single byte at a time.
    let mut begin = Vec::new();
    source.by_ref().take(2).read_to_end(&mut begin).map_err(|error| cannot_read(path, &error))?;
    let is_gzip = begin == GZIP;
    if begin.is_empty() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz")) {
        return Err("0 bytes, expected a gzip file; fetch it again".into());
    }
    let reader = io::Cursor::new(begin).chain(source);
    let reader: Box<dyn BufRead> = match is_gzip {
        true => Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(reader)))),
        false => Box::new(BufReader::new(reader)),
    };
    Ok(Opened { reader, n_read })
}

/// An item of a file of JSON lines, or a fault of the file.
struct Found {
    entry: Entry,
    /// Whether it is a fault: the file has no more items.
    is_fault: bool,
    /// For shards.
    number: u64,
}

/// The items of a file of JSON lines.
struct Lines {
    path: Rc<PathBuf>,
    opened: Opened,
    /// The last line.
    line: u64,
    /// The next item, for shards.
    number: u64,
    has_ended: bool,
}

impl Lines {
    /// The file number `number`.
    fn open(path: &Rc<PathBuf>, number: u64) -> Result<Lines, String> {
        Ok(Lines { path: path.clone(), opened: open(path)?, line: 0, number, has_ended: false })
    }

    /// The next line that is not blank. `n_before` bytes precede the file.
    fn next(&mut self, seed: u64, n_before: u64) -> Option<Found> {
        while !self.has_ended {
            let mut bytes = Vec::new();
            let read = self.opened.reader.by_ref().take(MAX_TEXT_BYTES + 1).read_until(b'\n', &mut bytes);
            self.line += 1;
            let fault = match read {
                Err(error) => Some(cannot_read(&self.path, &error)),
                Ok(n) if n as u64 > MAX_TEXT_BYTES => {
                    Some("a line of more than 64 MiB; the lines after it are not read; split it".into())
                }
                Ok(_) => None,
            };
            let n_read = n_before + self.opened.n_read.get();
            let entry =
                |digest, request| Entry { file: self.path.clone(), line: Some(self.line), digest, request, n_read };
            if let Some(problem) = fault {
                self.has_ended = true;
                return Some(Found { entry: entry(None, Err(problem)), is_fault: true, number: 0 });
            }
            self.has_ended = bytes.is_empty();
            // The mark of an editor.
            let line = bytes.strip_prefix(MARK).filter(|_| self.line == 1).unwrap_or(&bytes);
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let request = match str::from_utf8(line) {
                Ok(text) => Request::parse(text),
                Err(error) => {
                    let at = error.valid_up_to();
                    Err(format!("byte {at} of the line is not UTF-8; convert the file with iconv"))
                }
            };
            let number = self.number;
            let entry = entry(Some(digest(line, seed)), request);
            self.number += 1;
            return Some(Found { entry, is_fault: false, number });
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
