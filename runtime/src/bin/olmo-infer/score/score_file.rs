//! The lines of scores: on standard output, or in a file with those of earlier runs.

use crate::args::score::ScoreArgs;
use crate::failure::Failure;
use crate::output_path::output_path;
use crate::score::inputs::Entry;
use olmo_infer::internals::cli::json::json_string;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::os::disk::check_written;
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of a line up to the end of its name. An argument has at most 128 KiB on Linux, which are up to six times as
/// many in JSON.
const MAX_HEAD_BYTES: u64 = 1 << 20;
/// Longest line. One with a score for each token of the longest text, 64 MiB, has up to 49 bytes for each.
const MAX_LINE_BYTES: u64 = 4 << 30;
/// How every object begins.
pub const BEGINNING: &[u8] = b"{\"file\":";
/// How it continues for a file that could not be scored.
pub const ERROR: &[u8] = b",\"error\":";
/// And for one that was, in this order.
pub const TOKENS: &[u8] = b",\"tokens\":";
pub const SCORED: &[u8] = b",\"scored\":";
pub const SUM: &[u8] = b",\"sum_nll\":";
/// Before the number of a line.
const LINE: &[u8] = b",\"line\":";
/// Before the digest of the item, in quotation marks.
pub const DIGEST: &[u8] = b",\"digest\":";

/// What the line of an item has after [`BEGINNING`]: its file, and its line there.
pub fn head(file: &Path, line: Option<u64>) -> Vec<u8> {
    let mut head = Vec::new();
    json_string(&mut head, &file.to_string_lossy()).expect("memory takes it");
    if let Some(line) = line {
        head.extend(LINE);
        head.extend(line.to_string().as_bytes());
    }
    head
}

/// The scores of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// Tokens that were scored.
    pub n_scored: u64,
    /// Sum of their negative log-likelihoods, in nats.
    pub sum_nll: f64,
}

/// What is known of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It has scores.
    Scored(Total),
    /// It could not be scored.
    Failed,
}

/// Where the lines go.
pub struct ScoreFile {
    target: Target,
    /// The digests and outcomes of the items that have lines from earlier runs, by [`head`].
    items: HashMap<Vec<u8>, (Option<u64>, Outcome)>,
}

enum Target {
    StandardOutput,
    /// A summary is wanted instead.
    Nowhere,
    /// A file with lines of earlier runs.
    File(PathBuf, File),
}

impl ScoreFile {
    /// The output of a run over some files.
    ///
    /// # Errors
    /// It cannot be written, is one of the files, or is not such an output.
    pub fn new(args: &ScoreArgs, files: &[PathBuf]) -> Result<ScoreFile, Failure> {
        let mut items = HashMap::new();
        let Some(path) = &args.output else {
            let target = if args.tasks { Target::Nowhere } else { Target::StandardOutput };
            return Ok(ScoreFile { target, items });
        };
        let path = path.clone();
        let inputs: Vec<&Path> = files.iter().chain([&args.model]).map(PathBuf::as_path).collect();
        let place = output_path(&path, "--output", "open for writing", &inputs)?;
        let refused = |problem: String| {
            Err(Failure::Refused(format!("{}: {problem}; give --output another file", display_path(&path))))
        };
        let file = place.folder.open_to_append(&place.name).map_err(Error::io(&path, "open for writing"))?;
        // Two runs would each take the unfinished line of the other for one that was left behind. Where files cannot be
        // locked, other runs are not excluded.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return refused("another run writes to it".into());
        }
        let mut reader = BufReader::new(&file);
        let mut end = 0u64;
        for number in 1.. {
            match Line::read(&mut reader).map_err(Error::io(&path, "read"))? {
                Line::None => break,
                Line::Score { head, digest, outcome, bytes } => {
                    items.insert(head, (digest, outcome));
                    end += bytes;
                }
                // What a run that was stopped has left of a line, behind others of its own. Nothing else is cut off.
                Line::Unfinished if end > 0 => {
                    file.set_len(end).map_err(Error::io(&path, "cut off its unfinished last line"))?;
                    break;
                }
                Line::Unfinished | Line::Other => {
                    return refused(format!("line {number} is not a score, expected the output of olmo-infer score"));
                }
            }
        }
        Ok(ScoreFile { target: Target::File(path, file), items })
    }

    /// The outcome of an item that has a line already; `None` without one.
    ///
    /// # Errors
    /// The line is of another item, or of another model or other options.
    pub fn outcome(&self, entry: &Entry) -> Result<Option<Outcome>, Failure> {
        let Target::File(path, _) = &self.target else { return Ok(None) };
        let Some(&(digest, outcome)) = self.items.get(&head(&entry.file, entry.line)) else { return Ok(None) };
        // Without a digest the file could not be read, then or now.
        if digest == entry.digest || digest.is_none() {
            return Ok(Some(outcome));
        }
        let (path, file) = (display_path(path), display_path(&entry.file));
        let item = entry.line.map_or(file.to_string(), |line| format!("line {line} of {file}"));
        let advice = "give --output another file, or remove the line";
        Err(Failure::Refused(format!("{path}: {item} had another content, model or options before; {advice}")))
    }

    /// Asks whether all lines have arrived.
    pub fn finish(self) -> Result<(), Failure> {
        let Target::File(path, file) = self.target else { return Ok(()) };
        Ok(check_written(file).map_err(Error::io(&path, "write"))?)
    }

    /// Writes a line, all of it at once.
    pub fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        match &mut self.target {
            Target::StandardOutput => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                Ok(stdout.flush()?)
            }
            Target::Nowhere => Ok(()),
            Target::File(path, file) => Ok(file.write_all(line).map_err(Error::io(path, "write"))?),
        }
    }
}

/// A line of an output.
#[derive(Debug, PartialEq)]
enum Line {
    /// Nothing: it ends there.
    None,
    /// A whole line.
    Score {
        /// As [`head`] makes it.
        head: Vec<u8>,
        digest: Option<u64>,
        outcome: Outcome,
        /// Length of the line.
        bytes: u64,
    },
    /// The beginning of such a line.
    Unfinished,
    /// Something else.
    Other,
}

impl Line {
    /// Reads a line. No more of it is kept than its head takes, and no more is read than a line of this program can
    /// have.
    fn read(reader: &mut impl BufRead) -> io::Result<Line> {
        let mut begin = Vec::new();
        let mut bytes = reader.by_ref().take(MAX_HEAD_BYTES).read_until(b'\n', &mut begin)? as u64;
        let mut is_whole = begin.last() == Some(&b'\n');
        let mut is_cut = !is_whole && bytes < MAX_HEAD_BYTES;
        if begin.is_empty() {
            return Ok(Line::None);
        }
        let (head, digest, outcome) = match parsed(&begin) {
            Ok(parsed) => parsed,
            Err(Unparsed::Ended) if is_cut => return Ok(Line::Unfinished),
            Err(_) => return Ok(Line::Other),
        };
        let mut piece = Vec::new();
        while !is_whole && !is_cut && bytes < MAX_LINE_BYTES {
            piece.clear();
            let n = reader.by_ref().take(MAX_HEAD_BYTES).read_until(b'\n', &mut piece)?;
            bytes += n as u64;
            is_whole = piece.last() == Some(&b'\n');
            is_cut = n == 0;
        }
        Ok(match (is_whole, is_cut) {
            (true, _) => Line::Score { head: head.to_vec(), digest, outcome, bytes },
            (_, true) => Line::Unfinished,
            _ => Line::Other,
        })
    }
}

/// Why the beginning of a line has no meaning.
#[derive(Debug, PartialEq)]
enum Unparsed {
    /// It ends early.
    Ended,
    /// It is not a score.
    Other,
}

/// The head of a line, the digest and the outcome of the item.
fn parsed(line: &[u8]) -> Result<(&[u8], Option<u64>, Outcome), Unparsed> {
    let mut rest = line;
    take(&mut rest, &[BEGINNING])?;
    let from = rest;
    rest = &rest[name_in(rest)?..];
    let mut head = &from[..from.len() - rest.len()];
    let mut digest = None;
    let mut key = take(&mut rest, &[LINE, DIGEST, ERROR, TOKENS])?;
    if key == LINE {
        number(&mut rest)?;
        head = &from[..from.len() - rest.len()];
        key = take(&mut rest, &[DIGEST, ERROR, TOKENS])?;
    }
    if key == DIGEST {
        let text = number(&mut rest)?.trim_matches('"');
        digest = Some(u64::from_str_radix(text, 16).map_err(|_| Unparsed::Other)?);
        key = take(&mut rest, &[ERROR, TOKENS])?;
    }
    if key == ERROR {
        return Ok((head, digest, Outcome::Failed));
    }
    number(&mut rest)?;
    take(&mut rest, &[SCORED])?;
    let n_scored = number(&mut rest)?.parse().map_err(|_| Unparsed::Other)?;
    take(&mut rest, &[SUM])?;
    let sum_nll = match number(&mut rest)? {
        "null" => f64::NAN,
        sum => sum.parse().map_err(|_| Unparsed::Other)?,
    };
    Ok((head, digest, Outcome::Scored(Total { n_scored, sum_nll })))
}

/// Takes one of `expected` from the beginning of `rest`.
fn take<'k>(rest: &mut &[u8], expected: &[&'k [u8]]) -> Result<&'k [u8], Unparsed> {
    if let Some((key, after)) = expected.iter().find_map(|key| Some((*key, rest.strip_prefix(*key)?))) {
        *rest = after;
        return Ok(key);
    }
    let is_begun = expected.iter().any(|key| key.starts_with(rest));
    Err(if is_begun { Unparsed::Ended } else { Unparsed::Other })
}

/// Takes a number, or null, up to what follows it.
fn number<'l>(rest: &mut &'l [u8]) -> Result<&'l str, Unparsed> {
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}')).ok_or(Unparsed::Ended)?;
    let (number, after) = rest.split_at(end);
    *rest = after;
    str::from_utf8(number).map_err(|_| Unparsed::Other)
}

/// The length of a name, in its quotation marks.
fn name_in(text: &[u8]) -> Result<usize, Unparsed> {
    match text.first() {
        None => return Err(Unparsed::Ended),
        Some(b'"') => {}
        Some(_) => return Err(Unparsed::Other),
    }
    let mut bytes = text.iter().enumerate().skip(1);
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return Ok(i + 1),
            _ => {}
        }
    }
    Err(Unparsed::Ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] =
        b"{\"file\":\"a\",\"digest\":\"000000000000002a\",\"tokens\":3,\"scored\":2,\"sum_nll\":1.5,\"mean_nll\":0.75}\n";

    fn read(mut bytes: &[u8]) -> Line {
        Line::read(&mut bytes).expect("memory can be read")
    }

    fn score(head: &[u8], digest: Option<u64>, outcome: Outcome, bytes: u64) -> Line {
        Line::Score { head: head.to_vec(), digest, outcome, bytes }
    }

    #[test]
    fn lines_hold_the_outcome_of_their_items() {
        let total = |n_scored, sum_nll| Outcome::Scored(Total { n_scored, sum_nll });
        assert_eq!(read(WHOLE), score(b"\"a\"", Some(0x2a), total(2, 1.5), WHOLE.len() as u64));
        assert_eq!(read(b"{\"file\":\"a\",\"error\":\"\"}\n{"), score(b"\"a\"", None, Outcome::Failed, 24));
        let of_line = b"{\"file\":\"a\\\"\",\"line\":7,\"digest\":\"8000000000000000\",\"error\":\"\"}\n";
        let expected = head(Path::new("a\""), Some(7));
        assert_eq!(read(of_line), score(&expected, Some(1 << 63), Outcome::Failed, of_line.len() as u64));
        assert_eq!(read(b""), Line::None);
        for n in 1..WHOLE.len() {
            assert_eq!(read(&WHOLE[..n]), Line::Unfinished, "{n} bytes");
        }
        for n in 1..of_line.len() {
            assert_eq!(read(&of_line[..n]), Line::Unfinished, "{n} bytes");
        }
    }

    #[test]
    fn other_lines_are_not_scores() {
        for other in [
            &b"\n"[..],
            b"notes",
            b"{\"file\":\"a\",\"pos\"",
            b"{\"file\":\"a\",\"pos\":1}\n",
            b"{\"file\":\"a\n",
            b"{\"file\":null,\"tokens\":1}\n",
            b"{\"tokens\":1}\n",
            b"{\"file\":\"a\",\"digest\":\"0g\",\"error\":\"\"}\n",
            // Of an earlier version.
            b"{\"file\":\"a\",\"tokens\":3,\"mean_nll\":0.75}\n",
            b"{\"file\":\"a\",\"tokens\":3,\"scored\":x,\"sum_nll\":1.5}\n",
            b"{\"file\":\"a\",\"tokens\":3,\"scored\":2,\"sum_nll\":y}\n",
        ] {
            assert_eq!(read(other), Line::Other, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn long_lines_are_read_to_their_end() {
        let begin = &WHOLE[..WHOLE.len() - 2];
        let long = begin.chain(io::repeat(b'0').take(3 * MAX_HEAD_BYTES)).chain(&b"}\n"[..]);
        let found = Line::read(&mut BufReader::new(long)).expect("memory can be read");
        assert!(matches!(found, Line::Score { bytes, .. } if bytes == 3 * MAX_HEAD_BYTES + WHOLE.len() as u64));
        // A name that does not end is given up.
        let mut endless = BufReader::new((&WHOLE[..9]).chain(io::repeat(b'a')));
        assert_eq!(Line::read(&mut endless).expect("a name"), Line::Other);
        let mut endless = BufReader::new(io::repeat(0));
        assert_eq!(Line::read(&mut endless).expect("zeros"), Line::Other);
    }
}
