//! Reads the numbers and texts of a header one after the other, never past what is there.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use std::ops::Range;

/// Longest accepted header. Those of the published models have 4 to 7 MB, nearly all of it tokens and merges.
pub(crate) const MAX_HEADER_BYTES: usize = 16 << 20;

/// Why a header was not read.
#[derive(Debug, PartialEq)]
pub(crate) enum Stop {
    /// It is longer than the bytes that are there.
    More,
    /// It is invalid.
    Bad(Bad),
}

/// What is wrong with a header.
#[derive(Debug, PartialEq)]
pub(crate) struct Bad {
    /// The key or the tensor.
    pub(crate) name: Option<String>,
    pub(crate) found: String,
    pub(crate) expected: String,
}

impl Stop {
    /// A defect that is not one of a key or a tensor yet.
    pub(crate) fn bad(found: impl Into<String>, expected: impl Into<String>) -> Stop {
        Stop::Bad(Bad { name: None, found: found.into(), expected: expected.into() })
    }

    /// The same, about this key or tensor unless it is about one already.
    pub(crate) fn of(self, name: &str) -> Stop {
        match self {
            Stop::Bad(Bad { name: None, found, expected }) => {
                Stop::Bad(Bad { name: Some(name.into()), found, expected })
            }
            other => other,
        }
    }
}

/// A place in the first bytes of a file.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    file_bytes: u64,
}

impl<'a> Cursor<'a> {
    /// The beginning of `bytes`, which a file of `file_bytes` begins with.
    pub(crate) fn new(bytes: &'a [u8], file_bytes: u64) -> Cursor<'a> {
        Cursor { bytes, at: 0, file_bytes }
    }

    /// The place of `range` in a header that was read.
    pub(crate) fn inside(header: &'a [u8], range: &Range<usize>) -> Cursor<'a> {
        let bytes = header.get(..range.end).unwrap_or_default();
        Cursor { bytes, at: range.start, file_bytes: bytes.len() as u64 }
    }

    /// Bytes before this place.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The range of the next `length` bytes, which are all there.
    pub(crate) fn skip(&mut self, length: u64) -> Result<Range<usize>, Stop> {
        let end = (self.at as u64).saturating_add(length);
        if end > self.file_bytes {
            let found = format!("{length} bytes of the header at {} of {} bytes", self.at, self.file_bytes);
            return Err(Stop::bad(found, "a whole file"));
        }
        if end > MAX_HEADER_BYTES as u64 {
            return Err(Stop::bad(
                format!("{length} bytes at {}", self.at),
                format!("a header of at most {MAX_HEADER_BYTES} bytes"),
            ));
        }
        // At most MAX_HEADER_BYTES.
        let range = self.at..end as usize;
        if range.end > self.bytes.len() {
            return Err(Stop::More);
        }
        self.at = range.end;
        Ok(range)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let range = self.skip(N as u64)?;
        self.bytes.get(range).and_then(|bytes| bytes.first_chunk()).copied().ok_or(Stop::More)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Stop> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The range of a text, which has its length before it.
    pub(crate) fn text(&mut self, most: u64) -> Result<Range<usize>, Stop> {
        let length = self.u64()?;
        if length > most {
            return Err(Stop::bad(format!("a text of {length} bytes"), format!("at most {most}")));
        }
        self.skip(length)
    }

    /// A name: short UTF-8, at least a byte.
    pub(crate) fn name(&mut self, most: u64) -> Result<&'a str, Stop> {
        let range = self.text(most)?;
        let bytes = self.bytes.get(range).unwrap_or_default();
        match str::from_utf8(bytes) {
            Ok("") => Err(Stop::bad("an empty name", "a name")),
            Ok(name) => Ok(name),
            Err(_) => Err(Stop::bad("a name that is not UTF-8", "UTF-8")),
        }
    }
}
