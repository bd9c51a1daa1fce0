//! The tokenizer section of a model file, checked: pre-tokenizer, merges and added tokens.
//!
//! This module needs no text-processing crate; `encoder.rs` does the work.

use crate::error::{Error, one_line};
use crate::file::model_file::ModelFile;
use crate::format::{
    ADDED_NORMALIZED, ADDED_SPECIAL, ADDED_SPLIT, AddedToken, MAX_TOKENS_BEYOND, Merge, NONE, TOKENIZER_BYTE_PAIRS,
    TOKENIZER_UNKNOWN, TokenizerHead, section,
};
use crate::text::vocabulary::Vocabulary;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// The split of text into words before pairs are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreTokenizer {
    /// That of cl100k and dolma2: letters with one preceding character, digits in groups of three.
    Dolma2,
    /// That of GPT-2: letters and digits with a preceding space.
    Gpt2,
}

impl PreTokenizer {
    /// All pre-tokenizers.
    pub const ALL: [PreTokenizer; 2] = [PreTokenizer::Dolma2, PreTokenizer::Gpt2];

    /// The code in a [`TokenizerHead`].
    pub fn code(self) -> u32 {
        match self {
            PreTokenizer::Dolma2 => 1,
            PreTokenizer::Gpt2 => 2,
        }
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            PreTokenizer::Dolma2 => "dolma2",
            PreTokenizer::Gpt2 => "GPT-2",
        }
    }

    /// The pattern of a word in the syntax of `tokenizer.json`.
    pub fn pattern(self) -> &'static str {
        match self {
            PreTokenizer::Dolma2 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
            PreTokenizer::Gpt2 => r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        }
    }
}

/// All defined flags of added tokens.
const KNOWN_FLAGS: u32 = ADDED_NORMALIZED | ADDED_SPECIAL | ADDED_SPLIT;
/// Most added tokens; published models have a few dozen.
const MAX_ADDED: usize = 1 << 16;
/// Largest total size of the added tokens.
const MAX_ADDED_BYTES: usize = 1 << 20;
/// Largest total size of the tokens that merges make; those of dolma2 have 1.3 MB.
const MAX_MERGED_BYTES: usize = 64 << 20;

/// A copy of the tokenizer section.
#[derive(Clone)]
pub struct Tokenizer {
    /// Pattern of words.
    pub pre_tokenizer: PreTokenizer,
    /// Whether text is normalized to NFC first.
    pub nfc: bool,
    /// Whether a space is put before a piece of text between added tokens that does not begin with one.
    pub prefix_space: bool,
    /// Number of rows of the embedding. Text with a token beyond them is rejected.
    pub n_rows: usize,
    /// The ids of single bytes; [`NONE`] for a byte without one.
    pub bytes: [U32; 256],
    /// Merges in the order of their ranks.
    pub merges: Vec<Merge>,
    /// Tokens that are matched as a whole.
    pub added: Vec<AddedToken>,
    /// The bytes of all ids.
    pub vocabulary: Vocabulary,
}

/// Why a section has no usable tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub enum NoTokenizer {
    /// `olmo-pack` did not support it, for this reason.
    Unknown(String),
    /// A kind that this version does not support, by its code.
    UnknownKind(u32),
    /// The section violates the format.
    Damaged(String),
}

impl Tokenizer {
    /// The tokenizer of `file`, which has this vocabulary; `None` without one. Checks the digest.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the section violates the format, [`Error::UnusableTokenizer`] for a kind of tokenizer
    /// that this version does not support.
    pub fn new(file: &ModelFile, vocabulary: &Vocabulary) -> Result<Option<Tokenizer>, Error> {
        let Some(bytes) = file.checked_section(section::TOKENIZER)? else { return Ok(None) };
        let n_rows = file.config().vocab_size;
        let damaged = |found: String| NoTokenizer::Damaged(found);
        let read = match vocabulary.n_tokens() {
            n_tokens if n_tokens > n_rows + MAX_TOKENS_BEYOND => {
                Err(damaged(format!("a vocabulary of {n_tokens} tokens for {n_rows} rows")))
            }
            _ => Tokenizer::in_section(&bytes, vocabulary),
        };
        read.map(|tokenizer| Some(Tokenizer { n_rows, ..tokenizer })).map_err(|problem| match problem {
            NoTokenizer::Unknown(why) => Error::UnusableTokenizer {
                problem: format!("olmo-pack does not support its tokenizer: {}", one_line(&why)),
            },
            NoTokenizer::UnknownKind(kind) => Error::UnusableTokenizer {
                problem: format!("its tokenizer is of kind {kind}, which this version of olmo-infer does not support"),
            },
            NoTokenizer::Damaged(found) => Error::Damaged {
                path: file.path().to_path_buf(),
                place: "tokenizer".into(),
                found,
                expected: "what format-spec.md describes".into(),
            },
        })
    }

    /// Parses a section, for a model with a row for every id of the vocabulary.
    ///
    /// # Errors
    /// The defect, or why the tokenizer is not supported.
    pub fn in_section(bytes: &[u8], vocabulary: &Vocabulary) -> Result<Tokenizer, NoTokenizer> {
        let damaged = |found: String| NoTokenizer::Damaged(found);
        let (head, rest) =
            TokenizerHead::ref_from_prefix(bytes).map_err(|_| damaged(format!("{} bytes", bytes.len())))?;
        match head.kind.get() {
            TOKENIZER_BYTE_PAIRS => {}
            TOKENIZER_UNKNOWN => {
                let why = str::from_utf8(rest).ok();
                let why =
                    why.filter(|_| bytes[size_of_val(&head.kind)..size_of::<TokenizerHead>()].iter().all(|&b| b == 0));
                let unknown = |why: &str| NoTokenizer::Unknown(why.into());
                return Err(why.map_or_else(|| damaged("an invalid reason".into()), unknown));
            }
            kind => return Err(NoTokenizer::UnknownKind(kind)),
        }
        let code = head.pre_tokenizer.get();
        let pre_tokenizer = PreTokenizer::ALL.into_iter().find(|kind| kind.code() == code);
        let pre_tokenizer = pre_tokenizer.ok_or_else(|| damaged(format!("pre-tokenizer {code}")))?;
        let nfc = match head.normalizer.get() {
            0 => false,
            1 => true,
            other => return Err(damaged(format!("normalizer {other}"))),
        };
        let prefix_space = match head.prefix_space.get() {
            0 => false,
            1 => true,
            other => return Err(damaged(format!("prefix space {other}"))),
        };
        if head.reserved != [0; 8] {
            return Err(damaged("reserved fields that are not zero".into()));
        }
        let too_short = || damaged(format!("{} bytes, not the length of its lists", bytes.len()));
        let (single, rest) = <[U32; 256]>::ref_from_prefix(rest).map_err(|_| too_short())?;
        let (merges, rest) =
            <[Merge]>::ref_from_prefix_with_elems(rest, head.n_merges.get() as usize).map_err(|_| too_short())?;
        let added =
            <[AddedToken]>::ref_from_bytes_with_elems(rest, head.n_added.get() as usize).map_err(|_| too_short())?;
        let n_rows = vocabulary.n_tokens();
        let tokenizer = Tokenizer {
            pre_tokenizer,
            nfc,
            prefix_space,
            n_rows,
            bytes: *single,
            merges: merges.to_vec(),
            added: added.to_vec(),
            vocabulary: vocabulary.clone(),
        };
        tokenizer.check().map_err(damaged)?;
        Ok(tokenizer)
    }

    /// Checks ids and flags; [`BytePairs`](crate::text::bpe::BytePairs) rejects duplicate pairs. Merges may repeat ids
    /// of long tokens in the file, so the number of compared bytes is limited.
    fn check(&self) -> Result<(), String> {
        let bytes_of = |id: U32| {
            let bytes = self.vocabulary.bytes(id.get());
            bytes.ok_or_else(|| format!("id {id}, which the vocabulary does not have"))
        };
        for (byte, &id) in (0..=255u8).zip(&self.bytes) {
            if id.get() == NONE {
                if in_utf8(byte) {
                    return Err(format!("no id for the byte {byte:02x}"));
                }
            } else if bytes_of(id)? != [byte] {
                return Err(format!("id {id} for the byte {byte:02x}, which is another token"));
            }
        }
        let mut n_merged_bytes = 0usize;
        for (rank, merge) in self.merges.iter().enumerate() {
            let (left, right, merged) = (bytes_of(merge.left)?, bytes_of(merge.right)?, bytes_of(merge.id)?);
            n_merged_bytes = n_merged_bytes.saturating_add(merged.len());
            if n_merged_bytes > MAX_MERGED_BYTES {
                return Err(format!("merges of more than {MAX_MERGED_BYTES} bytes"));
            }
            if merged.strip_prefix(left) != Some(right) {
                return Err(format!("merge {rank}, which does not concatenate its pieces"));
            }
        }
        let unknown = |added: &&AddedToken| added.flags.get() & !KNOWN_FLAGS != 0;
        if let Some(added) = self.added.iter().find(unknown) {
            return Err(format!("flags {:#x} of id {}", added.flags, added.id));
        }
        let lengths = self.added.iter().map(|added| bytes_of(added.id).map(<[u8]>::len));
        let n_bytes = lengths.sum::<Result<usize, String>>()?;
        if self.added.len() > MAX_ADDED || n_bytes > MAX_ADDED_BYTES {
            return Err(format!("{} added tokens of {n_bytes} bytes", self.added.len()));
        }
        let is_not_text = |added: &&AddedToken| str::from_utf8(self.text(added)).is_err();
        if let Some(added) = self.added.iter().find(is_not_text) {
            return Err(format!("the added token {}, which is not UTF-8", added.id));
        }
        Ok(())
    }

    /// The bytes of an added token.
    pub fn text(&self, added: &AddedToken) -> &[u8] {
        self.vocabulary.bytes(added.id.get()).unwrap_or_default()
    }

    /// The ids of special tokens.
    pub fn special(&self) -> impl Iterator<Item = u32> {
        self.added.iter().filter(|added| added.flags.get() & ADDED_SPECIAL != 0).map(|added| added.id.get())
    }
}

/// Whether a byte can occur in UTF-8.
pub fn in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xc0 | 0xc1 | 0xf5..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VocabularyHead;
    use zerocopy::IntoBytes;
    use zerocopy::little_endian::U64;

    /// A vocabulary section with these tokens.
    fn vocabulary(tokens: &[&[u8]]) -> Vec<u8> {
        let text = tokens.concat();
        let head = VocabularyHead {
            n_tokens: U32::new(tokens.len() as u32),
            reserved: U32::new(0),
            text_bytes: U64::new(text.len() as u64),
        };
        let mut end = 0;
        let ends = tokens.iter().map(|token| {
            end += token.len() as u32;
            U32::new(end)
        });
        let offsets: Vec<U32> = [U32::new(0)].into_iter().chain(ends).collect();
        [head.as_bytes(), offsets.as_bytes(), &text].concat()
    }

    #[test]
    fn pre_tokenizers_have_codes_and_names() {
        let kinds = PreTokenizer::ALL.map(|kind| (kind.code(), kind.name()));
        assert_eq!(kinds, [(1, "dolma2"), (2, "GPT-2")]);
    }

    #[test]
    fn rejects_merges_of_too_many_bytes() {
        const HALF: usize = 512 << 10;
        let (left, right) = (vec![b'l'; HALF], vec![b'r'; HALF]);
        let whole = [left.as_slice(), &right].concat();
        let bytes: Vec<u8> = (0..=255).collect();
        let mut tokens: Vec<&[u8]> = bytes.chunks(1).collect();
        tokens.extend([left.as_slice(), &right, &whole]);
        let section = vocabulary(&tokens);
        let vocabulary = Vocabulary::in_section(&section).expect("a vocabulary");
        let single: [U32; 256] = std::array::from_fn(|byte| U32::new(byte as u32));
        let merge = Merge { left: U32::new(256), right: U32::new(257), id: U32::new(258) };
        let with_merges = |n: usize| {
            let head = TokenizerHead {
                kind: U32::new(TOKENIZER_BYTE_PAIRS),
                pre_tokenizer: U32::new(PreTokenizer::Gpt2.code()),
                normalizer: U32::new(0),
                n_merges: U32::new(n as u32),
                n_added: U32::new(0),
                prefix_space: U32::new(0),
                reserved: [0; 8],
            };
            let section = [head.as_bytes(), single.as_bytes(), vec![merge; n].as_bytes()].concat();
            Tokenizer::in_section(&section, &vocabulary).map(|tokenizer| tokenizer.merges.len())
        };
        let most = MAX_MERGED_BYTES / whole.len();
        assert_eq!(with_merges(most), Ok(most));
        let problem = NoTokenizer::Damaged("merges of more than 67108864 bytes".into());
        assert_eq!(with_merges(most + 1), Err(problem));
    }
}
