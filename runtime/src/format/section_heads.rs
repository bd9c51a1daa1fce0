//! The structs at the beginning of sections, and those that follow them.

use zerocopy::little_endian::{F64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Head of the [`crate::format::section::VOCABULARY`] section: `n_tokens + 1` u32 offsets follow, then the text they point
/// into.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VocabularyHead {
    /// Number of ids with an entry or a gap, at most [`MAX_TOKENS_BEYOND`] more than the rows of the embedding.
    pub n_tokens: U32,
    /// Zero.
    pub reserved: U32,
    /// Length of the text.
    pub text_bytes: U64,
}

/// One entry of the [`crate::format::section::SOURCES`] section, in the order of the tensor records; the header bytes of all
/// entries follow the last one.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SourceRecord {
    /// Code of the element type in the `.npy` file: 1 f32, 2 f16, 3 bf16 as raw 16 bits.
    pub dtype: U32,
    /// Length of everything before the numbers in the `.npy` file.
    pub header_bytes: U32,
    /// XXH3-64 of the numbers in the `.npy` file, seed 0.
    pub digest: U64,
}

/// Head of the [`crate::format::section::SPELLING`] section: `n_tensors` [`SpellingRecord`]s follow, then the
/// [`SpellingPart`]s of all of them, then their names, then their headers, each in the order of the records.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SpellingHead {
    /// Number of tensors; not 0.
    pub n_tensors: U32,
    /// Zero.
    pub reserved: U32,
}

/// A tensor that the model was packed from, which is not a tensor of the model.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SpellingRecord {
    /// Length of its name.
    pub name_bytes: U32,
    /// Length of everything before the numbers in its `.npy` file; 0 of other files.
    pub header_bytes: U32,
    /// Number of its dimensions, 1 to 3.
    pub rank: U32,
    /// Number of its parts.
    pub n_parts: U32,
    /// Its shape, row-major; zeros beyond `rank`.
    pub shape: [U64; 3],
}

/// Elements of a tensor of the model, in the order in which a [`SpellingRecord`] has them.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SpellingPart {
    /// Position of the tensor.
    pub tensor: U32,
    /// Zero.
    pub reserved: U32,
    /// The first element.
    pub first: U64,
    /// Number of elements; not 0.
    pub n: U64,
}

/// Kind of tokenizer: one that the packer did not know. A sentence why follows the head, in UTF-8; all else is 0.
pub const TOKENIZER_UNKNOWN: u32 = 0;
/// Kind of tokenizer: byte-level byte pair encoding.
pub const TOKENIZER_BYTE_PAIRS: u32 = 1;
/// Flag of an added token: it is looked for in normalized text, not in the text as it is given.
pub const ADDED_NORMALIZED: u32 = 1;
/// Flag of an added token: it is a special (control) token and not text, like the EOS token.
pub const ADDED_SPECIAL: u32 = 2;
/// Flag of an added token: where it is found, its text is encoded like any other text.
pub const ADDED_SPLIT: u32 = 4;
/// Most ids that the vocabulary may have beyond the rows of the embedding.
pub const MAX_TOKENS_BEYOND: usize = 1024;

/// Head of the [`crate::format::section::TOKENIZER`] section: 256 u32 ids of single bytes follow, or [`crate::format::config_block::NONE`], then
/// `n_merges` [`Merge`]s in the order of their ranks, then `n_added` [`AddedToken`]s.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TokenizerHead {
    /// [`TOKENIZER_BYTE_PAIRS`] or [`TOKENIZER_UNKNOWN`].
    pub kind: U32,
    /// How text is split before pairs are merged: 1 as cl100k and dolma2, 2 as GPT-2.
    pub pre_tokenizer: U32,
    /// What is done to text first: 0 nothing, 1 Unicode normalization form C.
    pub normalizer: U32,
    /// Number of merges.
    pub n_merges: U32,
    /// Number of added tokens.
    pub n_added: U32,
    /// 1: a piece of text between added tokens that does not begin with a space gets one; else 0.
    pub prefix_space: U32,
    /// Zero.
    pub reserved: [u8; 8],
}

/// Two neighbours that become one.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Merge {
    /// Id of the left piece.
    pub left: U32,
    /// Id of the right piece.
    pub right: U32,
    /// What they become.
    pub id: U32,
}

/// A token that is found as a whole in a text, before anything is split.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AddedToken {
    /// Its id; the vocabulary has its text.
    pub id: U32,
    /// [`ADDED_NORMALIZED`], [`ADDED_SPECIAL`] and [`ADDED_SPLIT`].
    pub flags: U32,
}

/// [`ChatHead::kind`]: the template could not be used, and a sentence gives the reason.
pub const CHAT_UNUSABLE: u32 = 0;
/// [`ChatHead::kind`]: conversations can be rendered.
pub const CHAT_PIECES: u32 = 1;

/// Flag of a [`ChatHead`]: a [`ChatStyle`] for conversations without a system message follows.
pub const CHAT_WITHOUT_SYSTEM: u32 = 1;
/// Flag of a [`ChatHead`]: a [`ChatStyle`] for conversations with one follows.
pub const CHAT_WITH_SYSTEM: u32 = 2;
/// Flag of a [`ChatHead`]: messages may be blank.
pub const CHAT_BLANK: u32 = 4;
/// Flag of a [`ChatHead`]: texts contain formats of dates between NULs.
pub const CHAT_DATES: u32 = 8;

/// Head of the [`crate::format::section::CHAT`] section.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChatHead {
    /// [`CHAT_UNUSABLE`] or [`CHAT_PIECES`].
    pub kind: U32,
    /// [`CHAT_WITHOUT_SYSTEM`] and the others.
    pub flags: U32,
    /// Number of texts that no message may contain.
    pub n_reserved_texts: U32,
    /// Length of the sentence why the template could not be used.
    pub reason_bytes: U32,
    /// Length of the text that ends thinking.
    pub think_end_bytes: U32,
    /// Zero.
    pub reserved: U32,
}

/// Rules and lengths of texts for conversations with a system message, or for those without.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChatStyle {
    /// What is written of each content.
    pub rules: [U16; 12],
    /// Lengths of the texts around the contents.
    pub text_bytes: [U32; 14],
    /// Length of the sentence why only one turn can be rendered; 0 when conversations can.
    pub one_turn_bytes: U32,
}

/// Head of the [`crate::format::section::FILES`] section: `n_files` [`FileRecord`]s follow, then the bytes of the files.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FilesHead {
    /// Number of files.
    pub n_files: U32,
    /// Zero.
    pub reserved: U32,
}

/// A file of the folder that was packed.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileRecord {
    /// Its name: an index of [`FILE_NAMES`], counted from 1.
    pub name: U32,
    /// Its length.
    pub bytes: U32,
}

/// The only names that files of the [`crate::format::section::FILES`] section have, in the order of their codes. A file has a
/// code and no name, so that no path can be made of it.
pub const FILE_NAMES: [&str; 7] = [
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// The [`crate::format::section::SAMPLING`] section: how the model's author recommends to choose tokens.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SamplingBlock {
    /// What logits are divided by; 0 takes the most likely token.
    pub temperature: F64,
    /// Only the most likely tokens that together have this probability.
    pub top_p: F64,
    /// Only tokens with at least this share of the probability of the most likely one.
    pub min_p: F64,
    /// What the logits of tokens that have occurred are divided by.
    pub repetition_penalty: F64,
    /// Number of the most likely tokens to sample from; 0 for no limit.
    pub top_k: U32,
    /// Zero.
    pub reserved: U32,
}

/// Head of the [`crate::format::section::GGUF`] section: the bytes of the GGUF file before the data of its tensors
/// follow.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GgufHead {
    /// Length of the whole GGUF file.
    pub file_bytes: U64,
}
