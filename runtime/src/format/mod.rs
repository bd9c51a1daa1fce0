//! The `.olmo` file for both sides, as `format-spec.md` describes it: structs, sizes, where everything is stored, and the
//! encodings of matrices. No I/O.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

pub mod config;
mod config_block;
pub mod encodings;
mod header;
mod kinds;
pub mod layout;
pub mod mapped_bytes;
pub mod matrix;
pub mod panels;
pub mod section;
mod section_heads;
pub mod sizes;
pub mod tensors;

pub use config_block::{ConfigBlock, NONE};
pub use header::{
    BYTE_ORDER_MARK, FEATURE_BF12, FEATURE_DRAFTS, FEATURE_EXPERTS, FEATURE_LINEAR, FEATURE_QUANTIZED, HEADER_BYTES,
    Header, KNOWN_FEATURES, LARGE_DATA_ALIGNMENT, LARGE_DATA_BYTES, LARGE_GROUP_ALIGNMENT, MAGIC, MAX_SECTIONS,
    SECTION_ALIGNMENT, SECTION_RECORD_BYTES, SECTION_REQUIRED, SMALL_DATA_ALIGNMENT, SMALL_GROUP_ALIGNMENT,
    SectionRecord, TENSOR_ALIGNMENT, TENSOR_RECORD_BYTES, TensorRecord, VERSION_MAJOR, VERSION_MINOR, digest, features,
};
pub use kinds::{
    Dtype, ENCODING_BF12, ENCODING_F16_SCALES, ENCODING_PLAIN, ENCODING_ROW_SCALES_16, ENCODING_ROW_SCALES_32,
    TensorLayout,
};
pub use matrix::Encoding;
pub use panels::PANEL_ROWS;
pub use section_heads::{
    ADDED_NORMALIZED, ADDED_SPECIAL, ADDED_SPLIT, AddedToken, CHAT_BLANK, CHAT_DATES, CHAT_PIECES, CHAT_UNUSABLE,
    CHAT_WITH_SYSTEM, CHAT_WITHOUT_SYSTEM, ChatHead, ChatStyle, FILE_NAMES, FileRecord, FilesHead, GgufHead,
    MAX_TOKENS_BEYOND, Merge, SamplingBlock, SourceRecord, SpellingHead, SpellingPart, SpellingRecord,
    TOKENIZER_BYTE_PAIRS, TOKENIZER_UNKNOWN, TokenizerHead, VocabularyHead,
};

#[cfg(target_endian = "big")]
compile_error!("tensors are used in place and are little-endian; big-endian machines cannot run them");
