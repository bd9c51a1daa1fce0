//! Text becomes ids, as `format-spec.md` describes under `TOKENIZER`: added tokens, normalization, words, byte pairs.

use crate::byte_pairs::{BytePairs, Word};
use crate::format::{ADDED_NORMALIZED, AddedToken};
use crate::tokenizer::{PreTokenizer, Tokenizer};
use aho_corasick::{AhoCorasick, MatchKind};
use regex::Regex;
use std::borrow::Cow;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Encodes text with the tokenizer of a model, whose merges it has in tables of its own.
pub struct Encoder {
    nfc: bool,
    as_given: Finder,
    normalized: Finder,
    words: Words,
    pairs: BytePairs,
}

impl Encoder {
    /// Prepares a tokenizer, which takes some milliseconds for a hundred thousand ids.
    ///
    /// # Errors
    /// What the tokenizer has that no encoder can work with.
    pub fn new(tokenizer: &Tokenizer) -> Result<Encoder, String> {
        let pairs = BytePairs::new(tokenizer.bytes, tokenizer.merges);
        let pairs = pairs.ok_or("its tokenizer merges a pair in two ways")?;
        let is_normalized = |added: &&AddedToken| added.flags.get() & ADDED_NORMALIZED != 0;
        Ok(Encoder {
            nfc: tokenizer.nfc,
            as_given: Finder::new(tokenizer, |added| !is_normalized(added), false)?,
            normalized: Finder::new(tokenizer, is_normalized, tokenizer.nfc)?,
            words: Words::new(tokenizer.pre_tokenizer),
            pairs,
        })
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let (mut ids, mut word) = (Vec::new(), Word::default());
        self.as_given.split(text, &mut ids, |piece, ids| {
            let piece =
                if self.nfc && !is_nfc(piece) { Cow::Owned(piece.nfc().collect()) } else { Cow::Borrowed(piece) };
            self.normalized.split(&piece, ids, |piece, ids| {
                for bytes in self.words.of(piece) {
                    self.pairs.encode(bytes.as_bytes(), &mut word, ids);
                }
            });
        });
        ids
    }
}

/// Finds added tokens: the leftmost first, the longest of those that begin at one place.
struct Finder {
    /// `None` when there are none to find.
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Finder {
    fn new(tokenizer: &Tokenizer, wanted: impl FnMut(&&AddedToken) -> bool, nfc: bool) -> Result<Finder, String> {
        let added: Vec<&AddedToken> = tokenizer.added.iter().filter(wanted).collect();
        // What is looked for in normalized text is normalized, too.
        let normalized = |text: &[u8]| String::from_utf8_lossy(text).nfc().collect::<String>().into_bytes();
        let text = |added: &&AddedToken| tokenizer.text(added);
        let texts = added.iter().map(text).map(|text| if nfc { normalized(text) } else { text.to_vec() });
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        let automaton = automaton.map_err(|error| format!("its added tokens cannot be searched for: {error}"))?;
        let ids: Vec<u32> = added.iter().map(|added| added.id.get()).collect();
        Ok(Finder { automaton: (!ids.is_empty()).then_some(automaton), ids })
    }

    /// Appends the ids of the tokens that it finds, and lets `other` append those of what lies between them.
    fn split(&self, text: &str, ids: &mut Vec<u32>, mut other: impl FnMut(&str, &mut Vec<u32>)) {
        let mut end = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            other(&text[end..found.start()], ids);
            ids.push(self.ids[found.pattern().as_usize()]);
            end = found.end();
        }
        other(&text[end..], ids);
    }
}

/// Splits text into words.
struct Words {
    pattern: Regex,
    /// Whether a run of white space that ends with a newline is a word whatever follows.
    newlines_end: bool,
}

impl Words {
    fn new(kind: PreTokenizer) -> Words {
        // The crate knows no look-ahead: `of` does what `\s+(?!\S)` would.
        let pattern = kind.pattern().replace(r"\s+(?!\S)|", "");
        Words {
            pattern: Regex::new(&pattern).expect("the patterns of all kinds are patterns"),
            newlines_end: kind == PreTokenizer::Dolma2,
        }
    }

    /// The words of a text, which they cover without a gap.
    fn of<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            // No pattern looks back: what stands before does not matter.
            let mut end = self.pattern.find(rest)?.end();
            let last = rest[..end].chars().next_back()?;
            let ends_here = self.newlines_end && matches!(last, '\r' | '\n');
            if end < rest.len() && last.is_whitespace() && !ends_here {
                // A run of white space leaves its last character to the word that follows, unless it is the only one.
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

    #[test]
    fn words_are_those_of_the_patterns() {
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
        // Only a plain space belongs to the word of GPT-2 that follows.
        let wide = "\u{3000}\u{3000}é\u{0}\u{301}";
        assert_eq!(split(PreTokenizer::Dolma2, wide), ["\u{3000}", "\u{3000}é", "\u{0}\u{301}"]);
        assert_eq!(split(PreTokenizer::Gpt2, wide), ["\u{3000}", "\u{3000}", "é", "\u{0}\u{301}"]);
        assert!(PreTokenizer::ALL.into_iter().all(|kind| split(kind, "").is_empty()));
    }
}
