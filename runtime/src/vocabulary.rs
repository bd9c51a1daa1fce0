//! The bytes of every token, used in place from the model file.

use crate::error::Error;
use crate::format::{VocabularyHead, section};
use crate::model_file::ModelFile;
use crate::shown::steers;
use std::fmt::Write;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// A view of the vocabulary section.
#[derive(Clone, Copy)]
pub struct Vocabulary<'a> {
    /// `[n_tokens + 1]`
    offsets: &'a [U32],
    text: &'a [u8],
}

impl<'a> Vocabulary<'a> {
    /// The vocabulary in `file`, `None` when it has none. Checks the digest, so that no wrong text is printed (about
    /// a megabyte); offsets are checked when a token is looked up.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the digest is wrong or the section's length does not follow from its head.
    pub fn new(file: &'a ModelFile) -> Result<Option<Vocabulary<'a>>, Error> {
        let Some(bytes) = file.checked_section(section::VOCABULARY)? else { return Ok(None) };
        let damaged = || Error::Damaged {
            path: file.path().to_path_buf(),
            place: "vocabulary".into(),
            found: format!("{} bytes", bytes.len()),
            expected: "the length that its head says".into(),
        };
        Vocabulary::in_section(bytes).ok_or_else(damaged).map(Some)
    }

    /// The vocabulary in the bytes of a section; `None` when their length does not follow from its head.
    pub fn in_section(bytes: &'a [u8]) -> Option<Vocabulary<'a>> {
        let (head, rest) = VocabularyHead::ref_from_prefix(bytes).ok()?;
        let n_offsets = (head.n_tokens.get() as usize).checked_add(1)?;
        let (offsets, text) = <[U32]>::ref_from_prefix_with_elems(rest, n_offsets).ok()?;
        (text.len() as u64 == head.text_bytes.get() && head.reserved.get() == 0).then_some(Vocabulary { offsets, text })
    }

    /// Number of ids, those without an entry included.
    pub fn n_tokens(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The bytes of a token; `None` for an id without an entry.
    pub fn bytes(&self, token: u32) -> Option<&'a [u8]> {
        let begin = self.offsets.get(token as usize)?.get() as usize;
        let end = self.offsets.get(token as usize + 1)?.get() as usize;
        self.text.get(begin..end).filter(|bytes| !bytes.is_empty())
    }
}

/// Bytes for a line of output between double quotes: `"` and `\` with a backslash, what [`steers`] as `\n`, `\t`, `\r`
/// or `\xHH`, bytes that are not UTF-8 as `\xHH`.
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                _ if steers(c) => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8).bytes().for_each(|byte| push_hex(&mut out, byte));
                }
                _ => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_hex(&mut out, byte));
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02X}").expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_would_break_the_line() {
        for (bytes, expected) in [
            (&b" of"[..], " of"),
            (b"\"", "\\\""),
            (b"a\\b", "a\\\\b"),
            (b"\n\t\r\0\x7f", "\\n\\t\\r\\x00\\x7F"),
            ("é\u{85}".as_bytes(), "é\\xC2\\x85"),
            ("a\u{202e}b".as_bytes(), "a\\xE2\\x80\\xAEb"),
            (b"\xe4\xbd x", "\\xE4\\xBD x"),
            (b"\xff", "\\xFF"),
        ] {
            assert_eq!(quoted(bytes), expected);
        }
    }
}
