//! The fixed little-endian structs of the index and their constants. A test compares the tables of `format-spec.md` with
//! the offsets and sizes of these structs.

use crate::format::config_block::ConfigBlock;
use crate::format::encodings::quantized::N_LEVELS;
use crate::format::matrix::{Codes, Encoding};
use crate::format::sizes::Extent;
use crate::format::tensors::{Role, TensorSpec};
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
/// Most sections a file can have.
pub const MAX_SECTIONS: usize = 64;
/// Section flag: a reader that does not know this kind must refuse the file.
pub const SECTION_REQUIRED: u32 = 1;
/// Required feature: a matrix has the encoding bf12.
pub const FEATURE_BF12: u64 = 1;
/// Required feature: a matrix has a draft.
pub const FEATURE_DRAFTS: u64 = 2;
/// Required feature: a matrix is int8 or int4.
pub const FEATURE_QUANTIZED: u64 = 4;
/// Required feature: the layers have experts.
pub const FEATURE_EXPERTS: u64 = 8;
/// Required feature: a layer has linear attention.
pub const FEATURE_LINEAR: u64 = 16;
/// All required features that this reader knows.
pub const KNOWN_FEATURES: u64 = FEATURE_BF12 | FEATURE_DRAFTS | FEATURE_QUANTIZED | FEATURE_EXPERTS | FEATURE_LINEAR;

/// The required features of a file with these tensors in these encodings.
pub fn features<'a>(tensors: impl IntoIterator<Item = (&'a TensorSpec, &'a Encoding)>) -> u64 {
    tensors.into_iter().fold(0, |features, (spec, encoding)| {
        let of_encoding = match encoding {
            Encoding::Bf12 { .. } => FEATURE_BF12,
            Encoding::Quantized(_) => FEATURE_QUANTIZED,
            Encoding::F32 | Encoding::Bf16 => 0,
        };
        let of_role = match spec.role {
            Role::Router => FEATURE_EXPERTS,
            Role::LinearALog => FEATURE_LINEAR,
            _ => 0,
        };
        features | of_encoding | of_role | if spec.is_draft { FEATURE_DRAFTS } else { 0 }
    })
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
    /// [`TensorSpec::role_code`].
    pub role: U32,
    /// Layer, or [`crate::format::config_block::NONE`].
    pub layer: U32,
    /// Code of the stored [`crate::format::kinds::Dtype`].
    pub dtype: U32,
    /// Code of the [`crate::format::kinds::TensorLayout`].
    pub layout: U32,
    /// Code of the [`Encoding`].
    pub encoding: U32,
    /// Steps of a bf12 matrix that are stored raw.
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
    /// The levels of an int4 matrix, [`crate::format::encodings::quantized::Levels`]; zeros of every other tensor.
    pub levels: [i8; N_LEVELS],
    /// The expert; 0 of every tensor that is not of an expert.
    pub expert: U32,
    /// Zero.
    pub reserved: [u8; 36],
}

/// One section of the index.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SectionRecord {
    /// Kind, see [`crate::format::section`].
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

impl TensorRecord {
    /// The record of a tensor; digest, smallest magnitude and `rounded` are the writer's to fill in.
    pub fn new(spec: &TensorSpec, encoding: Encoding, extent: Extent) -> TensorRecord {
        let codes = encoding.codes();
        TensorRecord {
            role: U32::new(spec.role_code()),
            layer: U32::new(spec.layer_code()),
            dtype: U32::new(codes.dtype),
            layout: U32::new(spec.layout().code()),
            encoding: U32::new(codes.encoding),
            n_raw_steps: U32::new(codes.n_raw_steps),
            rows: U64::new(spec.rows as u64),
            columns: U64::new(spec.columns.unwrap_or(1) as u64),
            offset: U64::new(extent.offset),
            bytes: U64::new(extent.bytes),
            digest: U64::new(0),
            min_magnitude: U32::new(0),
            rounded: U32::new(0),
            levels: codes.levels,
            expert: U32::new(spec.expert_code()),
            reserved: [0; _],
        }
    }

    /// What it states about the encoding of its tensor.
    pub fn codes(&self) -> Codes {
        let (dtype, encoding, n_raw_steps) = (self.dtype.get(), self.encoding.get(), self.n_raw_steps.get());
        Codes { dtype, encoding, n_raw_steps, levels: self.levels }
    }
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
