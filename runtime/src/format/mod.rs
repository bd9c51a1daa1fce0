//! The `.olmo` file for both sides: constants and the fixed little-endian structs of `format-spec.md`.
//!
//! No I/O and no arithmetic on sizes here: `layout.rs` computes where everything lies, `model_file.rs` reads and
//! checks. A test compares the tables of `format-spec.md` with the offsets and sizes of these structs.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from files that anybody can have written")]

pub mod config;
mod config_block;
pub mod encodings;
mod kinds;
pub mod layout;
pub mod mapped_bytes;
pub mod panels;
mod sections;
pub mod sizes;

pub use config_block::ConfigBlock;
pub use kinds::{Dtype, ENCODING_BF12, ENCODING_PLAIN, Encoding, TensorLayout};
pub use sections::{
    ADDED_NORMALIZED, ADDED_SPECIAL, ADDED_SPLIT, AddedToken, CHAT_BLANK, CHAT_DATES, CHAT_PIECES, CHAT_UNUSABLE,
    CHAT_WITH_SYSTEM, CHAT_WITHOUT_SYSTEM, ChatHead, ChatStyle, FILE_NAMES, FileRecord, FilesHead, MAX_TOKENS_BEYOND,
    Merge, SamplingBlock, SourceRecord, TOKENIZER_BYTE_PAIRS, TOKENIZER_UNKNOWN, TokenizerHead, VocabularyHead,
};

use std::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First eight bytes. The high bit, the line ending and the end-of-file mark show damage by text-mode transfers.
pub const MAGIC: [u8; 8] = *b"\x89OLMO\r\n\x1a";
/// Files with another major version are refused.
pub const VERSION_MAJOR: u16 = 1;
/// Files with a newer minor version are read when they need no feature that this reader lacks.
pub const VERSION_MINOR: u16 = 0;
/// Reads as this number only when the file was written in little-endian order.
pub const BYTE_ORDER_MARK: u32 = 0x0102_0304;
/// Bytes of the header page; the index follows.
pub const HEADER_BYTES: usize = 4096;
/// Bytes of one [`TensorRecord`].
pub const TENSOR_RECORD_BYTES: usize = 128;
/// Bytes of one [`SectionRecord`].
pub const SECTION_RECORD_BYTES: usize = 64;
/// Sections begin at multiples of this.
pub const SECTION_ALIGNMENT: u64 = 64;
/// Tensors begin at multiples of this: four cache lines, and any vector register.
pub const TENSOR_ALIGNMENT: u64 = 256;
/// Files with at least this much tensor data use the large alignments.
pub const LARGE_DATA_BYTES: u64 = 16 << 20;
/// Where the data of a large file begins, in multiples: one huge page, so that the page cache can hold it in huge
/// pages.
pub const LARGE_DATA_ALIGNMENT: u64 = 2 << 20;
/// Where the data of a small file begins, in multiples: one page.
pub const SMALL_DATA_ALIGNMENT: u64 = 4096;
/// Alignment of the layer groups of a large file: the largest base page of a supported system.
pub const LARGE_GROUP_ALIGNMENT: u64 = 64 << 10;
/// Alignment of the layer groups of a small file.
pub const SMALL_GROUP_ALIGNMENT: u64 = TENSOR_ALIGNMENT;
/// Rows of a panel.
pub const PANEL_ROWS: usize = 64;
/// Most sections a file can have.
pub const MAX_SECTIONS: usize = 64;
/// `layer` of a tensor that belongs to no layer; "none" of an optional token id.
pub const NONE: u32 = u32::MAX;
/// Section flag: a reader that does not know this kind must refuse the file.
pub const SECTION_REQUIRED: u32 = 1;
/// Required feature: some matrix is coded.
pub const FEATURE_BF12: u64 = 1;

/// Kinds of sections that version 1 defines.
pub mod section {
    /// Where each tensor came from: element type, `.npy` header and digest of the source file.
    pub const SOURCES: u32 = 1;
    /// The bytes of every token.
    pub const VOCABULARY: u32 = 2;
    /// `config.json` as it was found.
    pub const CONFIG_JSON: u32 = 3;
    /// How the file was made: UTF-8 lines `key=value`.
    pub const PROVENANCE: u32 = 4;
    /// What steers the decoding of coded matrices, see `coded.rs`.
    pub const BF12: u32 = 5;
    /// How text becomes ids: the kind of tokenizer, its ranks and added tokens.
    pub const TOKENIZER: u32 = 6;
    /// The texts around the turns of a conversation.
    pub const CHAT: u32 = 7;
    /// The small files of the folder, byte for byte.
    pub const FILES: u32 = 8;
    /// How the model's author recommends to choose tokens.
    pub const SAMPLING: u32 = 9;
    /// The last kind that this version knows.
    pub const LAST: u32 = SAMPLING;

    /// Most bytes that a section of `kind` can have.
    pub const fn max_bytes(kind: u32) -> u64 {
        match kind {
            // Read within 100 ms. That is one step in sixteen of a model of 32e9 numbers; of more raw steps the packer
            // leaves the matrices with the most plain.
            BF12 => 64 << 20,
            // Four bytes for each of the most ids that a model has, and as many of text.
            VOCABULARY => 128 << 20,
            SOURCES => 64 << 20,
            // A tokenizer.json of 12 MiB, and six files of at most 4 MiB.
            FILES => 64 << 20,
            // Some thirty short lines, each of which takes many times its length to show.
            PROVENANCE => 64 << 10,
            _ => 16 << 20,
        }
    }

    /// The name of a kind, for people.
    pub fn name(kind: u32) -> String {
        let name = match kind {
            SOURCES => "SOURCES",
            VOCABULARY => "VOCABULARY",
            CONFIG_JSON => "CONFIG_JSON",
            PROVENANCE => "PROVENANCE",
            BF12 => "BF12",
            TOKENIZER => "TOKENIZER",
            CHAT => "CHAT",
            FILES => "FILES",
            SAMPLING => "SAMPLING",
            other => return other.to_string(),
        };
        name.into()
    }
}

/// The first page of a file.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION_MAJOR`].
    pub version_major: U16,
    /// [`VERSION_MINOR`].
    pub version_minor: U16,
    /// [`BYTE_ORDER_MARK`].
    pub byte_order: U32,
    /// Exact length of the file.
    pub file_bytes: U64,
    /// Bits of features that a reader must know.
    pub required_features: U64,
    /// Bits of features that a reader may ignore.
    pub optional_features: U64,
    /// [`HEADER_BYTES`].
    pub header_bytes: U32,
    /// Number of tensor records.
    pub n_tensors: U32,
    /// Number of section records.
    pub n_sections: U32,
    /// Zero.
    pub reserved_a: U32,
    /// Length of the index, which begins at [`HEADER_BYTES`].
    pub index_bytes: U64,
    /// XXH3-64 of the index, seed 0.
    pub index_digest: U64,
    /// Where the tensor data begins.
    pub data_offset: U64,
    /// Length of the tensor data, up to the end of the file.
    pub data_bytes: U64,
    /// Zero.
    pub reserved_b: [u8; 40],
    /// The model's configuration.
    pub config: ConfigBlock,
    /// Zero.
    pub reserved_c: [u8; HEADER_BYTES - 128 - size_of::<ConfigBlock>() - 8],
    /// XXH3-64 of all bytes of the page before this field, seed 0.
    pub header_digest: U64,
}

/// One tensor of the index. Role and layer name it; a file carries no tensor names.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TensorRecord {
    /// Code of a [`crate::format::layout::Role`].
    pub role: U32,
    /// Layer, or [`NONE`].
    pub layer: U32,
    /// Code of the stored [`Dtype`].
    pub dtype: U32,
    /// Code of the [`TensorLayout`].
    pub layout: U32,
    /// Code of the [`Encoding`].
    pub encoding: U32,
    /// Steps stored raw by [`Encoding::Bf12`]; 0 when plain.
    pub n_raw_steps: U32,
    /// Rows; the length of a vector.
    pub rows: U64,
    /// Columns; 1 for a vector.
    pub columns: U64,
    /// Offset from the beginning of the file.
    pub offset: U64,
    /// Length.
    pub bytes: U64,
    /// XXH3-64 of those bytes, seeded with the position of this record in the index.
    pub digest: U64,
    /// Bits of the smallest magnitude among the elements that are not zero, as f32; 0 when all are zero.
    pub min_magnitude: U32,
    /// 1 when the stored numbers are not exactly those of the source.
    pub rounded: U32,
    /// Zero.
    pub reserved: [u8; 56],
}

/// One section of the index.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SectionRecord {
    /// Kind, see [`section`].
    pub kind: U32,
    /// [`SECTION_REQUIRED`] or 0.
    pub flags: U32,
    /// Offset from the beginning of the file.
    pub offset: U64,
    /// Length.
    pub bytes: U64,
    /// XXH3-64 of those bytes, seeded with `kind`.
    pub digest: U64,
    /// Zero.
    pub reserved: [u8; 32],
}

/// XXH3-64, the digest of the format. It finds accidents, not attacks.
pub fn digest(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

impl Header {
    /// The digest that belongs in [`Header::header_digest`].
    pub fn computed_digest(&self) -> u64 {
        digest(&self.as_bytes()[..HEADER_BYTES - 8], 0)
    }
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(size_of::<TensorRecord>() == TENSOR_RECORD_BYTES);
    assert!(size_of::<SectionRecord>() == SECTION_RECORD_BYTES);
    assert!(offset_of!(Header, config) == 128);
};

#[cfg(target_endian = "big")]
compile_error!("tensors are used in place and are little-endian; big-endian machines cannot run them");
