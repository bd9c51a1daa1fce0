//! Encodes text to ids, as specified in `format-spec.md` under `TOKENIZER`: added tokens, normalization, words, byte
//! pairs.
//!
//! A text of n bytes takes at most 16 n bytes and 64 MiB in addition: normalization makes at most three bytes of one,
//! each of which becomes at most one id, and one word is merged at a time. The time is O(n log n). A failed allocation
//! is an error, and so is a text that would exceed these bounds.

use crate::error::Error;
use crate::error::shown::quoted;
use crate::format::{ADDED_NORMALIZED, ADDED_SPLIT, AddedToken, Merge};
use crate::os::memory;
use crate::text::bpe::{BytePairs, MAX_WORD_BYTES, NoIds, NoPairs, Word};
use crate::text::tokenizer::{PreTokenizer, Tokenizer};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::Regex;
use std::borrow::Cow;
use std::collections::{BTreeMap, TryReserveError};
use std::fmt;
use unicode_normalization_alignments::UnicodeNormalization;
use unicode_normalization_alignments::char::canonical_combining_class;

/// Most bytes of a token in an error message.
const SHOWN_BYTES: usize = 60;
/// Most characters of a word in an error message.
const SHOWN_CHARS: usize = 20;
/// Most bytes of combining marks after a character. Scripts have a few; normalization collects all of them.
const MAX_MARKS_BYTES: usize = 128 << 10;
/// Limit on the bytes scanned beyond the matched tokens while searching for longer ones: a number per byte of the text,
/// and a constant. Added tokens that exceed it were made to cost time.
const LOOK_AHEAD: (u64, u64) = (64, 1 << 28);

/// Encodes text with the tokenizer of a model. Holds its own tables of the merges.
pub struct Encoder {
    nfc: bool,
    prefix_space: bool,
    n_rows: usize,
    /// The ids from `n_rows` on with an entry in the vocabulary, and their escaped bytes for messages.
    beyond: BTreeMap<u32, String>,
    unnormalized: Finder,
    normalized: Finder,
    words: Words,
    pairs: BytePairs,
}

impl Encoder {
    /// Builds the tables, which takes some milliseconds for a hundred thousand ids.
    ///
    /// # Errors
    /// [`Error::UnusableTokenizer`], [`Error::OutOfMemory`].
    pub fn new(tokenizer: &Tokenizer) -> Result<Encoder, Error> {
        let pairs = BytePairs::new(&tokenizer.bytes, &tokenizer.merges).map_err(|no_pairs| match no_pairs {
            NoPairs::Twice { left, right } => Error::UnusableTokenizer {
                problem: format!("its tokenizer merges the pair of {left} and {right} in two ways; pack it again"),
            },
            NoPairs::NoMemory => memory::too_little_for::<Merge>(tokenizer.merges.len(), "the merges of the tokenizer"),
        })?;
        let is_normalized = |added: &&AddedToken| added.flags.get() & ADDED_NORMALIZED != 0;
        let vocabulary = &tokenizer.vocabulary;
        let beyond = (tokenizer.n_rows..vocabulary.n_tokens()).filter_map(|id| {
            let bytes = vocabulary.bytes(id as u32)?;
            Some((id as u32, quoted(&bytes[..bytes.len().min(SHOWN_BYTES)])))
        });
        Ok(Encoder {
            nfc: tokenizer.nfc,
            prefix_space: tokenizer.prefix_space,
            n_rows: tokenizer.n_rows,
            beyond: beyond.collect(),
            unnormalized: Finder::new(tokenizer, |added| !is_normalized(added), false)?,
            normalized: Finder::new(tokenizer, is_normalized, tokenizer.nfc)?,
            words: Words::new(tokenizer.pre_tokenizer),
            pairs,
        })
    }

    /// Encodes a text.
    ///
    /// # Errors
    /// [`Error::NoEmbedding`] when the text has a token beyond the rows of the embedding; [`Error::Unencodable`] for a
    /// word of more than [`MAX_WORD_BYTES`], and when searching for the added tokens is too costly;
    /// [`Error::OutOfMemory`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let ids = self.ids(text).map_err(|refused| match refused {
            Refused::NoMemory => memory::too_little_for::<[u8; 16]>(text.len(), "the ids of the text"),
            refused => Error::Unencodable { problem: refused.to_string() },
        })?;
        match ids.iter().find(|&&id| id as usize >= self.n_rows) {
            None => Ok(ids),
            Some(id) => Err(Error::NoEmbedding {
                text: self.beyond.get(id).cloned().unwrap_or_default(),
                token: *id,
                n_rows: self.n_rows,
            }),
        }
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, Refused> {
        let (mut ids, mut word) = (Vec::new(), Word::default());
        self.unnormalized.split(text, &mut ids, |piece, ids| {
            let piece = if self.nfc { nfc(piece)? } else { Cow::Borrowed(piece) };
            self.normalized.split(&piece, ids, |piece, ids| self.words_of(piece, &mut word, ids))
        })?;
        Ok(ids)
    }

    /// Appends the ids of a text without added tokens.
    fn words_of(&self, text: &str, word: &mut Word, ids: &mut Vec<u32>) -> Result<(), Refused> {
        let mut append =
            |bytes: &str| self.pairs.encode(bytes.as_bytes(), word, ids).map_err(|no| Refused::of(no, bytes));
        let mut rest = text;
        if self.prefix_space && !text.is_empty() && !text.starts_with(' ') {
            // Only the first word has the space, and text far after it does not affect it.
            let mut end = text.len().min(MAX_WORD_BYTES + 8);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let mut spaced = String::new();
            memory::asking(|| spaced.try_reserve_exact(1 + end))?;
            spaced.push(' ');
            spaced.push_str(&text[..end]);
            let first = self.words.of(&spaced).next().unwrap_or_default();
            if first.len() == spaced.len() && end < text.len() {
                return Err(Refused::of(NoIds::LongWord, first));
            }
            append(first)?;
            rest = &text[first.len() - 1..];
        }
        self.words.of(rest).try_for_each(append)
    }
}

/// Why a text is rejected.
#[derive(Debug)]
enum Refused {
    /// A word is too long; it begins with this text.
    LongWord(String),
    /// A character is followed by more marks than [`MAX_MARKS_BYTES`].
    Marks,
    /// Searching for the added tokens takes too long.
    Costly,
    /// Out of memory.
    NoMemory,
}

impl Refused {
    fn of(no_ids: NoIds, word: &str) -> Refused {
        match no_ids {
            NoIds::LongWord => Refused::LongWord(word.chars().take(SHOWN_CHARS).collect()),
            NoIds::NoMemory => Refused::NoMemory,
        }
    }
}

impl From<TryReserveError> for Refused {
    fn from(_: TryReserveError) -> Refused {
        Refused::NoMemory
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::LongWord(begin) => write!(
                f,
                "the text has a word, or a run of spaces or symbols, of more than {MAX_WORD_BYTES} bytes, which begins \
                 \"{}\"; break it up with spaces and newlines",
                quoted(begin.as_bytes())
            ),
            Refused::Marks => write!(
                f,
                "the text has more than {MAX_MARKS_BYTES} bytes of combining marks after one character, expected a \
                 few; leave them out"
            ),
            Refused::Costly => f.write_str(
                "the added tokens of the model take too long to find in this text; use a shorter one, and check where \
                 the model comes from",
            ),
            Refused::NoMemory => f.write_str("out of memory"),
        }
    }
}

/// Normalization form C of Unicode 9, as in the crate `tokenizers`.
fn nfc(text: &str) -> Result<Cow<'_, str>, Refused> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    let mut marks = 0;
    for c in text.chars() {
        marks = if starts_sequence(c) { 0 } else { marks + c.len_utf8() };
        if marks > MAX_MARKS_BYTES {
            return Err(Refused::Marks);
        }
    }
    let mut normalized = String::new();
    memory::asking(|| normalized.try_reserve(text.len()))?;
    for (c, _) in text.nfc() {
        memory::asking(|| normalized.try_reserve(c.len_utf8()))?;
        normalized.push(c);
    }
    Ok(Cow::Owned(normalized))
}

/// Whether a character starts a new sequence of combining marks. Three characters of class 0 decompose to marks only.
fn starts_sequence(c: char) -> bool {
    canonical_combining_class(c) == 0 && !matches!(c, '\u{f73}' | '\u{f75}' | '\u{f81}')
}

/// Finds added tokens: leftmost first, the longest of those that begin at one position.
struct Finder {
    /// `None` without tokens.
    automaton: Option<AhoCorasick>,
    /// The id of each; `None` for a token that is encoded as plain text.
    ids: Vec<Option<u32>>,
    /// Length of the longest token in bytes.
    longest: usize,
}

impl Finder {
    fn new(tokenizer: &Tokenizer, wanted: impl FnMut(&&AddedToken) -> bool, normalizes: bool) -> Result<Finder, Error> {
        let added: Vec<&AddedToken> = tokenizer.added.iter().filter(wanted).collect();
        // Tokens that are searched in normalized text are normalized too.
        let normalized = |text: &[u8]| nfc(&String::from_utf8_lossy(text)).map(|text| text.into_owned().into_bytes());
        let text = |added: &&AddedToken| tokenizer.text(added);
        let texts = added.iter().map(text).map(|text| if normalizes { normalized(text) } else { Ok(text.to_vec()) });
        let texts: Result<Vec<Vec<u8>>, Refused> = texts.collect();
        let unsearchable = |why: &dyn fmt::Display| Error::UnusableTokenizer {
            problem: format!("its added tokens cannot be searched for: {why}; pack it again"),
        };
        let texts = texts.map_err(|refused| match refused {
            Refused::NoMemory => memory::too_little_for::<AddedToken>(added.len(), "the added tokens of the tokenizer"),
            refused => unsearchable(&refused),
        })?;
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        // A DFA, the default for few patterns, takes up to 1 KiB per byte of the patterns.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).kind(kind).build(texts);
        let automaton = automaton.map_err(|error| unsearchable(&error))?;
        let id = |added: &&AddedToken| (added.flags.get() & ADDED_SPLIT == 0).then_some(added.id.get());
        let ids: Vec<Option<u32>> = added.iter().map(id).collect();
        Ok(Finder { automaton: (!ids.is_empty()).then_some(automaton), ids, longest })
    }

    /// Appends the ids of the tokens found, and calls `other` for the text between them.
    fn split(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
        mut other: impl FnMut(&str, &mut Vec<u32>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let (per_byte, at_least) = LOOK_AHEAD;
        let mut look_ahead = per_byte * text.len() as u64 + at_least;
        let mut end = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            // The search continues until no longer token can match, and restarts at the end of this one.
            let beyond = (self.longest - found.len()) as u64;
            look_ahead = look_ahead.checked_sub(beyond).ok_or(Refused::Costly)?;
            let Some(id) = self.ids[found.pattern().as_usize()] else { continue };
            other(&text[end..found.start()], ids)?;
            memory::asking(|| ids.try_reserve(1))?;
            ids.push(id);
            end = found.end();
        }
        other(&text[end..], ids)
    }
}

/// Splits text into words.
struct Words {
    pattern: Regex,
    /// Whether a run of white space ending with a newline is a word regardless of the following text.
    newlines_end: bool,
}

impl Words {
    fn new(kind: PreTokenizer) -> Words {
        // The crate has no look-ahead: `of` implements `\s+(?!\S)`.
        let pattern = kind.pattern().replace(r"\s+(?!\S)|", "");
        Words {
            pattern: Regex::new(&pattern).expect("the patterns of all kinds are patterns"),
            newlines_end: kind == PreTokenizer::Dolma2,
        }
    }

    /// The words of a text, which cover it without a gap.
    fn of<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            // The patterns have no look-behind, so the preceding text does not matter.
            let mut end = self.pattern.find(rest)?.end();
            let last = rest[..end].chars().next_back()?;
            let ends_here = self.newlines_end && matches!(last, '\r' | '\n');
            if end < rest.len() && last.is_whitespace() && !ends_here {
                // A run of white space leaves its last character to the next word, unless it is the only one.
                let shorter = end - last.len_utf8();
                end = if shorter == 0 { end } else { shorter };
            }
            let (word, others) = rest.split_at(end);
            rest = others;
            Some(word)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::vocabulary::Vocabulary;
    use zerocopy::little_endian::U32;

    fn crc32(bytes: impl IntoIterator<Item = u8>) -> u32 {
        !bytes.into_iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
        })
    }

    /// Every code point, in the contexts and the order of `scripts/make_tokenizer_goldens.py`.
    #[test]
    fn normalizes_and_classifies_code_points_like_tokenizers() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tokenizers/unicode.txt");
        let blocks = std::fs::read_to_string(path).expect("read");
        assert_eq!((blocks.lines().count(), crc32(*b"123456789")), (272, 0xcbf4_3926));
        let classes = [r"\p{L}", r"\p{N}", r"\s"].map(|class| Regex::new(class).expect("a class"));
        for (begin, line) in (0u32..).step_by(4096).zip(blocks.lines()) {
            let points: Vec<char> = (begin..begin + 4096).filter_map(char::from_u32).collect();
            let mut forms: Vec<String> = Vec::new();
            for c in &points {
                let texts = ["", "\u{301}", "\u{301}\u{327}"].map(|after| format!("{c}{after}"));
                forms.extend(texts.iter().map(|text| nfc(text).expect("short").into_owned()));
            }
            for c in &points {
                for before in ["A", "A\u{301}", "\u{1100}", "\u{ac00}", "\u{327}", "q\u{307}"] {
                    let texts = ["", "\u{301}"].map(|after| format!("{before}{c}{after}"));
                    forms.extend(texts.iter().map(|text| nfc(text).expect("short").into_owned()));
                }
            }
            let bits = points.iter().map(|c| {
                let text = c.to_string();
                (0..).zip(&classes).map(|(bit, class)| u8::from(class.is_match(&text)) << bit).sum()
            });
            let found = format!("{begin:06x} {:08x} {:08x}", crc32(forms.join("\n").bytes()), crc32(bits));
            assert_eq!(found, line);
        }
    }

    #[test]
    fn marks_are_counted_as_collected_by_normalizer() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            // The normalizer collects up to the next character of class 0 in the decomposition.
            let collected = c.to_string().nfd().all(|(c, _)| canonical_combining_class(c) != 0);
            assert_eq!(starts_sequence(c), !collected, "U+{:04X}", u32::from(c));
        }
        let text = format!("a{}", "\u{f73}".repeat(MAX_MARKS_BYTES / 3 + 1));
        assert!(matches!(nfc(&text), Err(Refused::Marks)));
    }

    #[test]
    fn normalizes_by_unicode_9() {
        // U+08D3 was added in Unicode 11, with a combining class that U+0301 is reordered past.
        assert_eq!(nfc("A\u{8d3}\u{301}").expect("short"), "A\u{8d3}\u{301}");
        assert_eq!(nfc("A\u{301}\u{323}").expect("short"), "\u{1ea0}\u{301}");
    }

    #[test]
    fn search_for_long_added_tokens_takes_bounded_memory() {
        // 64 tokens of 16 KiB: a DFA takes 135 MB for these.
        let single: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let token = |i: usize| (0..16 << 10).map(|at| b'a' + (((at * (i + 7)) >> 3) % 26) as u8).collect::<Vec<u8>>();
        let texts: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).chain((0..64).map(token)).collect();
        let mut end = 0;
        let ends = texts.iter().map(|text| {
            end += text.len() as u32;
            end
        });
        let ends: Vec<u32> = std::iter::once(0).chain(ends).collect();
        let head = [texts.len() as u32, 0, *ends.last().expect("tokens"), 0];
        let words = head.into_iter().chain(ends.iter().copied());
        let section = [words.flat_map(u32::to_le_bytes).collect(), texts.concat()].concat();
        let vocabulary = Vocabulary::in_section(&section).expect("a vocabulary");
        let added: Vec<AddedToken> = (256..320).map(|id| AddedToken { id: U32::new(id), flags: U32::new(0) }).collect();
        let tokenizer = Tokenizer {
            pre_tokenizer: PreTokenizer::Gpt2,
            nfc: false,
            prefix_space: false,
            bytes: single,
            merges: vec![],
            added,
            vocabulary,
            n_rows: 320,
        };
        let encoder = Encoder::new(&tokenizer).expect("an encoder");
        let bytes = encoder.unnormalized.automaton.as_ref().expect("tokens to find").memory_usage();
        assert!(bytes < 96 << 20, "{bytes} bytes");
        assert_eq!(encoder.encode(str::from_utf8(&texts[300]).expect("text")).expect("ids"), [300]);
    }

    #[test]
    fn rejects_texts_that_cost_too_much() {
        let single: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        // The second token is searched at each match of the first.
        let long = format!("{}!", "x".repeat(500 << 10));
        let bytes = [(0..=255).collect(), b"x".to_vec(), long.into_bytes()].concat();
        let head = [258, 0, bytes.len() as u32, 0];
        let words = head.into_iter().chain(0..=257).chain([bytes.len() as u32]);
        let section = [words.flat_map(u32::to_le_bytes).collect(), bytes].concat();
        let added = [256, 257].map(|id| AddedToken { id: U32::new(id), flags: U32::new(0) });
        let tokenizer = Tokenizer {
            pre_tokenizer: PreTokenizer::Gpt2,
            nfc: true,
            prefix_space: true,
            n_rows: 258,
            bytes: single,
            merges: vec![],
            added: added.to_vec(),
            vocabulary: Vocabulary::in_section(&section).expect("a vocabulary"),
        };
        let encoder = Encoder::new(&tokenizer).expect("an encoder");
        assert_eq!(encoder.encode(&"x".repeat(500)).expect("short"), [256; 500]);
        let refused = |text: String| encoder.encode(&text).map(|ids| ids.len()).map_err(|error| error.to_string());
        let costly = refused("x".repeat(20_000)).expect_err("refused");
        assert!(costly.starts_with("the added tokens of the model take too long to find in this text"), "{costly}");
        for begin in ["a", " a", "", "\n", " "] {
            let word = |length: usize| format!("{begin}{}", "a".repeat(length));
            assert!(refused(word(MAX_WORD_BYTES - 2)).is_ok(), "{begin:?}");
            let long = refused(word(MAX_WORD_BYTES + 1)).expect_err("refused");
            let says =
                "the text has a word, or a run of spaces or symbols, of more than 1048576 bytes, which begins \"";
            assert!(long.starts_with(says), "{begin:?}: {long}");
        }
        let marks = |bytes: usize| format!("a{}b", "\u{301}".repeat(bytes / 2));
        assert_eq!(refused(marks(MAX_MARKS_BYTES)), Ok(1 + MAX_MARKS_BYTES - 2 + 2 + 1));
        let many = refused(marks(MAX_MARKS_BYTES + 2)).expect_err("refused");
        assert!(many.starts_with("the text has more than 131072 bytes of combining marks"), "{many}");
    }

    #[test]
    fn prefix_space_precedes_pieces_without_one() {
        let single: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let bytes: Vec<u8> = (0..=255).chain(*b"<x><y>").collect();
        let head = [258, 0, bytes.len() as u32, 0];
        let words = head.into_iter().chain(0..=256).chain([259, 262]);
        let section = [words.flat_map(u32::to_le_bytes).collect(), bytes].concat();
        let vocabulary = Vocabulary::in_section(&section).expect("a vocabulary");
        let added = [(256, 0), (257, ADDED_SPLIT)];
        let added = added.map(|(id, flags)| AddedToken { id: U32::new(id), flags: U32::new(flags) });
        let tokenizer = Tokenizer {
            pre_tokenizer: PreTokenizer::Gpt2,
            nfc: false,
            prefix_space: true,
            n_rows: 258,
            bytes: single,
            merges: vec![],
            added: added.to_vec(),
            vocabulary,
        };
        let encoder = Encoder::new(&tokenizer).expect("an encoder");
        let ids = |text: &str| encoder.encode(text).expect("ids with rows");
        let of = |text: &[u8]| text.iter().map(|&byte| u32::from(byte)).collect::<Vec<_>>();
        assert_eq!(ids("a<x> b<x><x>c"), [&of(b" a")[..], &[256], &of(b" b"), &[256, 256], &of(b" c")].concat());
        // The text of a split token is part of the surrounding piece.
        assert_eq!(ids("a<y>b<x>"), [&of(b" a<y>b")[..], &[256]].concat());
        assert_eq!([ids(""), ids("\n")], [vec![], of(b" \n")]);
        // A token without a row.
        let encoder = Encoder::new(&Tokenizer { n_rows: 256, ..tokenizer }).expect("an encoder");
        let refused = encoder.encode("a<x>").expect_err("no row").to_string();
        assert!(refused.contains("the token \"<x>\" with id 256, beyond the 256 rows"), "{refused}");
        assert_eq!(encoder.encode("<y>").expect("ids with rows"), of(b" <y>"));
    }

    #[test]
    fn words_match_patterns() {
        let split = |kind: PreTokenizer, text| Words::new(kind).of(text).collect::<Vec<_>>();
        let text = "Hello,  world's 12345 tests\r\n\n  end  ";
        assert_eq!(
            split(PreTokenizer::Dolma2, text),
            ["Hello", ",", " ", " world", "'s", " ", "123", "45", " tests", "\r\n\n", " ", " end", "  "]
        );
        assert_eq!(
            split(PreTokenizer::Gpt2, text),
            ["Hello", ",", " ", " world", "'s", " 12345", " tests", "\r\n\n ", " end", "  "]
        );
        assert_eq!(split(PreTokenizer::Gpt2, "a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(split(PreTokenizer::Dolma2, "I'M \u{a0}x"), ["I", "'M", " ", "\u{a0}x"]);
        // In GPT-2 only a plain space belongs to the following word.
        let wide = "\u{3000}\u{3000}é\u{0}\u{301}";
        assert_eq!(split(PreTokenizer::Dolma2, wide), ["\u{3000}", "\u{3000}é", "\u{0}\u{301}"]);
        assert_eq!(split(PreTokenizer::Gpt2, wide), ["\u{3000}", "\u{3000}", "é", "\u{0}\u{301}"]);
        assert!(PreTokenizer::ALL.into_iter().all(|kind| split(kind, "").is_empty()));
    }
}
