//! The lines of scores: on standard output, or in a file with those of earlier runs.

use crate::args::score::ScoreArgs;
use crate::failure::Failure;
use crate::output_path::output_path;
use olmo_infer::internals::cli::json::json_string;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::format::config::MAX_POSITIONS;
use olmo_infer::internals::os::disk::check_written;
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes of a line up to the end of its name. An argument has at most 128 KiB on Linux, which are up to six times as
/// many in JSON.
const MAX_HEAD_BYTES: u64 = 1 << 20;
/// Longest line: one with all positions that a model can have. A number of them has at most 48 digits and a comma, and
/// there is room for the name in an error.
const MAX_LINE_BYTES: u64 = 64 * MAX_POSITIONS as u64 + 4 * MAX_HEAD_BYTES;
/// How every object begins.
pub const BEGINNING: &[u8] = b"{\"file\":";
/// How it continues for a file that could not be scored.
pub const ERROR: &[u8] = b",\"error\":";
/// And for one that was.
pub const TOKENS: &[u8] = b",\"tokens\":";

/// Where the lines go.
pub struct ScoreFile {
    /// A file with lines of earlier runs; `None` for standard output.
    file: Option<(PathBuf, File)>,
    /// The files that it has lines of, in JSON, and whether the line is an error.
    names: HashMap<Vec<u8>, bool>,
}

impl ScoreFile {
    pub fn new(args: &ScoreArgs) -> Result<ScoreFile, Failure> {
        let mut out = ScoreFile { file: None, names: HashMap::new() };
        let Some(path) = &args.output else { return Ok(out) };
        let path = path.clone();
        let place = output_path(&path, "--output", "open for writing", &args.inputs())?;
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
                    return refused(format!("line {number} is not a score, expected the output of olmo-infer score"));
                }
            }
        }
        out.file = Some((path, file));
        Ok(out)
    }

    /// Whether the line that is there already of the file is an error; `None` when there is none. Standard input is
    /// another file each time.
    pub fn has_failed(&self, path: &Path) -> Option<bool> {
        let mut name = Vec::new();
        // Writing into a vector does not fail.
        json_string(&mut name, &path.to_string_lossy()).ok()?;
        self.names.get(&name).copied().filter(|_| path.as_os_str() != "-")
    }

    /// Asks whether all lines have arrived.
    pub fn finish(self) -> Result<(), Failure> {
        let Some((path, file)) = self.file else { return Ok(()) };
        Ok(check_written(file).map_err(Error::io(&path, "write"))?)
    }

    /// Writes a line, all of it at once.
    pub fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
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

/// A line of an output.
#[derive(Debug, PartialEq)]
enum Line {
    /// Nothing: it ends there.
    None,
    /// A whole line.
    Score {
        /// The file, in JSON.
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
    /// Reads a line. No more of it is kept than its name takes, and no more is read than a line of this program can
    /// have.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_up_to_the_longest_possible() {
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
