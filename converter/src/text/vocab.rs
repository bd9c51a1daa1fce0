//! Parses `vocab.txt`, one `id<TAB>token` per line, to the bytes of every token.
//!
//! Tokens are spelled as in GPT-2: every byte has a printable character, so that a line can hold any bytes. A token
//! with a character outside that table is an added one (for example `<|endoftext|>` with a space in it), and means its
//! own UTF-8.

use crate::error::{Error, Problem};
use crate::folder::source_file;
use olmo_infer::internals::format::{MAX_TOKENS_BEYOND, VocabularyHead};
use std::ops::Range;
use std::path::Path;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Longest `vocab.txt`; that of the published models has 1.4 MB. It is read whole, so this also limits the cost of a
/// wrong file.
pub(crate) const MAX_VOCAB_BYTES: u64 = 4 << 20;

/// A vocabulary: ascending ids and the bytes of their tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    ids: Vec<u32>,
    /// End of the bytes of each token.
    ends: Vec<u32>,
    /// The bytes of all tokens.
    text: Vec<u8>,
}

/// Reads the vocabulary at `path` for a model with `vocab_size` rows.
///
/// # Errors
/// The file cannot be read, or a line is not `id<TAB>token` with a new and valid id.
pub fn read(path: &Path, vocab_size: usize) -> Result<Vocabulary, Error> {
    let bytes = source_file::read_at_most(path, MAX_VOCAB_BYTES)?.ok_or_else(|| too_long(path))?;
    Ok(parse(path, &bytes, vocab_size)?)
}

/// The error for a file of more than [`MAX_VOCAB_BYTES`].
pub(crate) fn too_long(path: &Path) -> Problem {
    Problem::new(path, "longer than 4 MiB").expected("lines of id<TAB>token")
}

/// Parses a vocabulary; `path` is for messages.
///
/// # Errors
/// A line is not an id, a tab and a token, an id is far beyond `vocab_size` or a duplicate, or there are no tokens.
pub fn parse(path: &Path, bytes: &[u8], vocab_size: usize) -> Result<Vocabulary, Problem> {
    let table = byte_table();
    // A bit per id: compact, because one line with a high id makes it as long as the embedding.
    let mut seen: Vec<u64> = Vec::new();
    let mut text = Vec::new();
    // Each id, and the range of its bytes in the text.
    let mut entries: Vec<(u32, Range<u32>)> = Vec::new();
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = if body.is_empty() { None } else { Some(body.split(|&byte| byte == b'\n')) };
    for (number, line) in (1..).zip(lines.into_iter().flatten()) {
        // A carriage return inside a token is written \r: a bare one belongs to the line ending.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let bad =
            |found: String, expected: &str| Problem::new(path, format!("line {number}: {found}")).expected(expected);
        let line = str::from_utf8(line).map_err(|_| bad("bytes that are not UTF-8".into(), "UTF-8"))?;
        let (id, token) = line.split_once('\t').ok_or_else(|| bad("no tab".into(), "id<TAB>token"))?;
        let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        let id = plain.then(|| id.parse::<usize>().ok()).flatten();
        let id = id.ok_or_else(|| bad("no token id before the tab".into(), "id<TAB>token"))?;
        if id >= vocab_size + MAX_TOKENS_BEYOND {
            let expected =
                format!("less than the {vocab_size} rows of the embedding, or at most {MAX_TOKENS_BEYOND} more");
            return Err(bad(format!("id {id}"), &expected).advice("is it the vocabulary of this model?"));
        }
        let token = unescape(token).ok_or_else(|| bad("unknown escape".into(), "only \\\\, \\n, \\r and \\t"))?;
        if token.is_empty() {
            return Err(bad(format!("id {id} without a token"), "id<TAB>token"));
        }
        if seen.len() <= id / 64 {
            seen.resize(id / 64 + 1, 0);
        }
        if seen[id / 64] >> (id % 64) & 1 != 0 {
            return Err(bad(format!("id {id} again"), "each id once"));
        }
        seen[id / 64] |= 1 << (id % 64);
        // A model has fewer than 2^32 rows, and the file is shorter than 4 GiB.
        let begin = text.len() as u32;
        text.extend(token_bytes(&token, &table));
        entries.push((id as u32, begin..text.len() as u32));
    }
    if entries.is_empty() {
        return Err(Problem::new(path, "no tokens").expected("lines of id<TAB>token"));
    }
    entries.sort_unstable_by_key(|entry| entry.0);
    let bytes = |range: Range<u32>| &text[range.start as usize..range.end as usize];
    Ok(Vocabulary::new(entries.into_iter().map(|(id, range)| (id, bytes(range)))))
}

impl Vocabulary {
    /// The vocabulary with these ids and bytes, in ascending order.
    ///
    /// # Panics
    /// If the bytes are 4 GiB or more, which the size limits of the files exclude.
    pub fn new<'a>(entries: impl IntoIterator<Item = (u32, &'a [u8])>) -> Vocabulary {
        let mut vocabulary = Vocabulary { ids: Vec::new(), ends: Vec::new(), text: Vec::new() };
        for (id, token) in entries {
            vocabulary.text.extend_from_slice(token);
            vocabulary.ids.push(id);
            vocabulary.ends.push(vocabulary.text.len().try_into().expect("files of tokens are shorter than 4 GiB"));
        }
        vocabulary
    }

    /// Number of ids with an entry.
    pub fn n_entries(&self) -> usize {
        self.ids.len()
    }

    /// The ids and their bytes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = begins.zip(&self.ends).map(|(begin, &end)| begin as usize..end as usize);
        self.ids.iter().copied().zip(ranges.map(|range| &self.text[range]))
    }

    /// The bytes of the section, with an offset for every id up to the last. Built only for writing, as a file may have
    /// few tokens and high ids.
    pub fn section(&self) -> Vec<u8> {
        let n_tokens = self.ids.last().map_or(0, |last| last + 1);
        let head = VocabularyHead {
            n_tokens: U32::new(n_tokens),
            reserved: U32::new(0),
            text_bytes: U64::new(self.text.len() as u64),
        };
        let n_words = n_tokens as usize + 1;
        let mut section = Vec::with_capacity(size_of_val(&head) + size_of::<U32>() * n_words + self.text.len());
        section.extend(head.as_bytes());
        let mut begin = 0u32;
        let mut id = 0;
        for (&next, &end) in self.ids.iter().zip(&self.ends) {
            // Ids without an entry have the same offset.
            section.extend(std::iter::repeat_n(begin.to_le_bytes(), (next + 1 - id) as usize).flatten());
            id = next + 1;
            begin = end;
        }
        section.extend(begin.to_le_bytes());
        section.extend(&self.text);
        section
    }
}

/// Decodes `\\`, `\n`, `\r` and `\t`; `None` for any other escape.
fn unescape(token: &str) -> Option<String> {
    let mut text = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                _ => return None,
            },
            c => c,
        });
    }
    Some(text)
}

/// The bytes of a spelled token.
pub(crate) fn token_bytes(text: &str, table: &[Option<u8>]) -> Vec<u8> {
    let byte = |c: char| table.get(c as usize).copied().flatten();
    text.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

/// The inverse of GPT-2's byte-to-character table: printable Latin-1 maps to itself, the other 68 bytes in order to the
/// characters from U+0100 on.
pub(crate) fn byte_table() -> Vec<Option<u8>> {
    let mut table = vec![None; 256];
    for byte in 0..=255u8 {
        match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => table[byte as usize] = Some(byte),
            _ => table.push(Some(byte)),
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(section: &[u8]) -> Vec<Vec<u8>> {
        let word = |at: usize| u32::from_le_bytes(section[at..at + 4].try_into().unwrap()) as usize;
        let n = word(0);
        let text = &section[16 + 4 * (n + 1)..];
        (0..n).map(|i| text[word(16 + 4 * i)..word(20 + 4 * i)].to_vec()).collect()
    }

    #[test]
    fn parse_decodes_spelled_tokens() {
        let file = "0\t!\n1\tĠof\n3\t\\\\\n5\tâĢ\n4\t<|end of text|>\n6\tĊ\n7\t\\n\n8\ta\\r\\t\\\\n\n";
        let vocabulary = parse(Path::new("v"), file.as_bytes(), 10).unwrap();
        assert_eq!(vocabulary.n_entries(), 8);
        let expected: [&[u8]; 9] =
            [b"!", b" of", b"", b"\\", b"<|end of text|>", b"\xe2\x80", b"\n", b"\n", b"a\r\t\\n"];
        assert_eq!(entries(&vocabulary.section()), expected);
    }

    #[test]
    fn byte_table_covers_all_bytes() {
        let mut seen: Vec<u8> = byte_table().into_iter().flatten().collect();
        seen.sort();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn parse_errors_name_the_line() {
        let cases = [
            ("0\ta\n1 b\n", "line 2: no tab"),
            ("0\ta\n\n2\tc\n", "line 2: no tab"),
            ("0\ta\n0\tb\n", "line 2: id 0 again"),
            (
                "0\ta\n1033\tb\n",
                "line 2: id 1033, expected less than the 9 rows of the embedding, or at most 1024 more",
            ),
            ("x\ta\n", "line 1: no token id"),
            ("-1\ta\n", "line 1: no token id"),
            ("+1\ta\n", "line 1: no token id"),
            ("99999999999999999999\ta\n", "line 1: no token id"),
            ("0\t\\x\n", "line 1: unknown escape"),
            ("0\ta\\\n", "line 1: unknown escape"),
            ("0\t\n", "line 1: id 0 without a token"),
            ("", "no tokens"),
        ];
        for (text, says) in cases {
            let problem = parse(Path::new("v"), text.as_bytes(), 9).unwrap_err().to_string();
            assert!(problem.starts_with(&format!("v: {says}")), "{problem}");
        }
        let problem = parse(Path::new("v"), b"0\t\xff\n", 9).unwrap_err().to_string();
        assert!(problem.contains("line 1: bytes that are not UTF-8"), "{problem}");
    }
}
