//! The `.olmo` file for both sides: constants and the fixed little-endian structs of `format-spec.md`.
//!
//! No I/O and no arithmetic on sizes here: `layout.rs` computes where everything lies, `model_file.rs` reads and
//! checks. A test compares the tables of `format-spec.md` with the offsets and sizes of these structs.

use crate::config::{Architecture, AttentionKind, ConfigError, MAX_EOS_TOKENS, MAX_LAYERS, ModelConfig, Yarn};
use std::mem::offset_of;
use zerocopy::little_endian::{F64, U16, U32, U64};
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
pub const FEATURE_CODED: u64 = 1;

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
    pub const CODED: u32 = 5;
    /// How text becomes ids: the kind of tokenizer, its ranks and added tokens.
    pub const TOKENIZER: u32 = 6;
    /// The texts around the turns of a conversation.
    pub const CHAT: u32 = 7;

    /// Most bytes that a section of `kind` can have.
    pub fn max_bytes(kind: u32) -> u64 {
        match kind {
            CODED => 1 << 30,
            // Four bytes for each of the most ids that a model has, and as many of text.
            VOCABULARY => 128 << 20,
            SOURCES => 64 << 20,
            _ => 16 << 20,
        }
    }
}

/// Element type of stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// The upper half of a binary32.
    Bf16,
}

impl Dtype {
    /// The code in a [`TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
        }
    }

    /// The type with this code.
    pub fn from_code(code: u32) -> Option<Dtype> {
        [Dtype::F32, Dtype::Bf16].into_iter().find(|dtype| dtype.code() == code)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }

    /// Consecutive columns that lie side by side in a panel: what one step of the product consumes.
    pub fn columns_per_step(self) -> usize {
        match self {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
        }
    }

    /// Name for people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// How the elements of a tensor lie in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorLayout {
    /// Consecutive elements: the norm vectors.
    Vector,
    /// Panels of [`PANEL_ROWS`] rows, see `panels.rs`: every matrix.
    Panels64,
}

impl TensorLayout {
    /// The code in a [`TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            TensorLayout::Vector => 1,
            TensorLayout::Panels64 => 2,
        }
    }
}

/// Encoding of a tensor: the elements as they are.
pub const ENCODING_PLAIN: u32 = 0;
/// Encoding of a bf16 matrix: 12 bits an element, see `coded.rs`. It comes with [`FEATURE_CODED`].
pub const ENCODING_CODED: u32 = 1;

/// How the bits of a tensor's elements are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// In 12 bits each, see `coded.rs`.
    Coded {
        /// Steps that are stored as they are.
        n_raw_steps: u32,
    },
}

impl Encoding {
    /// The code in a [`TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            Encoding::Plain => ENCODING_PLAIN,
            Encoding::Coded { .. } => ENCODING_CODED,
        }
    }

    /// Steps stored raw; 0 when plain.
    pub fn n_raw_steps(self) -> u32 {
        match self {
            Encoding::Plain => 0,
            Encoding::Coded { n_raw_steps } => n_raw_steps,
        }
    }
}

/// The fixed block of configuration values in the header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConfigBlock {
    /// 1 OLMo-2, 2 Olmo-3, 3 OLMo-1.
    pub architecture: U32,
    /// Number of transformer layers.
    pub n_layers: U32,
    /// Width of the residual stream.
    pub hidden_size: U32,
    /// Query heads.
    pub n_heads: U32,
    /// Key/value heads.
    pub n_kv_heads: U32,
    /// Width of a head.
    pub head_dim: U32,
    /// Width of the MLP.
    pub intermediate_size: U32,
    /// Rows of the embedding.
    pub vocab_size: U32,
    /// Positions.
    pub max_position_embeddings: U32,
    /// Window of sliding layers, 0 without any.
    pub sliding_window: U32,
    /// 1 when the head uses the embedding.
    pub tie_word_embeddings: U32,
    /// 0 default, 1 YaRN on full-attention layers.
    pub rope_type: U32,
    /// Epsilon of every norm.
    pub rms_norm_eps: F64,
    /// RoPE base of full-attention layers.
    pub rope_theta: F64,
    /// RoPE base of sliding layers.
    pub rope_theta_sliding: F64,
    /// YaRN: ratio of the context lengths. This and the next five are 0 without YaRN.
    pub yarn_factor: F64,
    /// YaRN: rotations above which a frequency is kept.
    pub yarn_beta_fast: F64,
    /// YaRN: rotations below which a frequency is divided.
    pub yarn_beta_slow: F64,
    /// YaRN: factor on cos and sin.
    pub yarn_attention_factor: F64,
    /// YaRN: original context length.
    pub yarn_original_max_position_embeddings: U32,
    /// YaRN: 1 when the ramp's bounds are rounded.
    pub yarn_truncate: U32,
    /// Id that begins a text, or [`NONE`].
    pub bos_token_id: U32,
    /// Id of padding, or [`NONE`].
    pub pad_token_id: U32,
    /// How many of `eos_token_ids` are used.
    pub n_eos_token_ids: U32,
    /// Zero.
    pub reserved: U32,
    /// Ids that end a text; unused ones are [`NONE`].
    pub eos_token_ids: [U32; MAX_EOS_TOKENS],
    /// Bit `l % 8` of byte `l / 8` is 1 when layer `l` has sliding-window attention.
    pub sliding_layers: [u8; MAX_LAYERS / 8],
    /// Largest magnitude of an element of queries, keys and values, 0 when they are not clipped.
    pub clip_qkv: F64,
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
    /// Code of a [`crate::layout::Role`].
    pub role: U32,
    /// Layer, or [`NONE`].
    pub layer: U32,
    /// Code of the stored [`Dtype`].
    pub dtype: U32,
    /// Code of the [`TensorLayout`].
    pub layout: U32,
    /// Code of the [`Encoding`].
    pub encoding: U32,
    /// Steps stored raw by [`Encoding::Coded`]; 0 when plain.
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

/// Head of the [`section::VOCABULARY`] section: `n_tokens + 1` u32 offsets follow, then the text they point into.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VocabularyHead {
    /// Number of ids with an entry or a gap.
    pub n_tokens: U32,
    /// Zero.
    pub reserved: U32,
    /// Length of the text.
    pub text_bytes: U64,
}

/// One entry of the [`section::SOURCES`] section, in the order of the tensor records; the header bytes of all entries
/// follow the last one.
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

/// Kind of tokenizer: one that the packer did not know. A sentence why follows the head, in UTF-8; all else is 0.
pub const TOKENIZER_UNKNOWN: u32 = 0;
/// Kind of tokenizer: byte-level byte pair encoding.
pub const TOKENIZER_BYTE_PAIRS: u32 = 1;
/// Flag of an added token: it is looked for in normalized text, not in the text as it is given.
pub const ADDED_NORMALIZED: u32 = 1;
/// Flag of an added token: it steers the model and is no text, like the one that ends a text.
pub const ADDED_SPECIAL: u32 = 2;

/// Head of the [`section::TOKENIZER`] section: 256 u32 ids of single bytes follow, or [`NONE`], then `n_merges`
/// [`Merge`]s in the order of their ranks, then `n_added` [`AddedToken`]s.
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
    /// Zero.
    pub reserved: [u8; 12],
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
    /// [`ADDED_NORMALIZED`] and [`ADDED_SPECIAL`].
    pub flags: U32,
}

/// Head of the [`section::CHAT`] section: five texts follow, of these lengths.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChatHead {
    /// What stands before a user's turn when nobody gives a system's text.
    pub before_user: U32,
    /// What stands between that turn and the answer.
    pub after_user: U32,
    /// What stands before a system's text. This and the next two are 0 where the model takes none.
    pub before_system: U32,
    /// What stands between it and the user's turn.
    pub after_system: U32,
    /// What stands between that turn and the answer.
    pub after_user_of_system: U32,
    /// Zero.
    pub reserved: U32,
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

impl ConfigBlock {
    /// The block for `config`, which must have passed [`ModelConfig::validate`].
    pub fn new(config: &ModelConfig) -> ConfigBlock {
        // validate() keeps every count below 2^24.
        let count = |n: usize| U32::new(u32::try_from(n).expect("validated counts fit u32"));
        let mut block = ConfigBlock {
            architecture: U32::new(match config.architecture {
                Architecture::Olmo2 => 1,
                Architecture::Olmo3 => 2,
                Architecture::Olmo1 => 3,
            }),
            n_layers: count(config.n_layers()),
            hidden_size: count(config.hidden_size),
            n_heads: count(config.n_heads),
            n_kv_heads: count(config.n_kv_heads),
            head_dim: count(config.head_dim),
            intermediate_size: count(config.intermediate_size),
            vocab_size: count(config.vocab_size),
            max_position_embeddings: count(config.max_position_embeddings),
            sliding_window: count(config.sliding_window),
            tie_word_embeddings: U32::new(u32::from(config.tie_word_embeddings)),
            rope_type: U32::new(u32::from(config.yarn.is_some())),
            rms_norm_eps: F64::new(config.rms_norm_eps),
            rope_theta: F64::new(config.rope_theta),
            rope_theta_sliding: F64::new(config.rope_theta_sliding),
            yarn_factor: F64::new(0.0),
            yarn_beta_fast: F64::new(0.0),
            yarn_beta_slow: F64::new(0.0),
            yarn_attention_factor: F64::new(0.0),
            yarn_original_max_position_embeddings: U32::new(0),
            yarn_truncate: U32::new(0),
            bos_token_id: U32::new(config.bos_token_id.unwrap_or(NONE)),
            pad_token_id: U32::new(config.pad_token_id.unwrap_or(NONE)),
            n_eos_token_ids: count(config.eos_token_ids.len()),
            reserved: U32::new(0),
            eos_token_ids: [U32::new(NONE); MAX_EOS_TOKENS],
            sliding_layers: [0; MAX_LAYERS / 8],
            clip_qkv: F64::new(config.clip_qkv.unwrap_or(0.0)),
        };
        if let Some(yarn) = &config.yarn {
            block.yarn_factor = F64::new(yarn.factor);
            block.yarn_beta_fast = F64::new(yarn.beta_fast);
            block.yarn_beta_slow = F64::new(yarn.beta_slow);
            block.yarn_attention_factor = F64::new(yarn.attention_factor);
            block.yarn_original_max_position_embeddings = count(yarn.original_max_position_embeddings);
            block.yarn_truncate = U32::new(u32::from(yarn.truncate));
        }
        for (slot, &id) in block.eos_token_ids.iter_mut().zip(&config.eos_token_ids) {
            *slot = U32::new(id);
        }
        for (layer, kind) in config.layer_types.iter().enumerate() {
            if *kind == AttentionKind::Sliding {
                block.sliding_layers[layer / 8] |= 1 << (layer % 8);
            }
        }
        block
    }

    /// The configuration in this block. Whether the values make a possible model is [`ModelConfig::validate`]'s to say.
    ///
    /// # Errors
    /// The first field with a code, a flag or a value without a use that the format does not allow.
    pub fn to_config(&self) -> Result<ModelConfig, ConfigError> {
        let wrong = |key, found: u32, expected: String| ConfigError { key, found: found.to_string(), expected };
        let flag = |key, value: U32| match value.get() {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(wrong(key, other, "0 or 1".into())),
        };
        let id = |value: U32| Some(value.get()).filter(|&id| id != NONE);
        let n_layers = self.n_layers.get() as usize;
        if n_layers > MAX_LAYERS {
            return Err(wrong("num_hidden_layers", self.n_layers.get(), format!("1 to {MAX_LAYERS}")));
        }
        let n_eos = self.n_eos_token_ids.get() as usize;
        if n_eos > MAX_EOS_TOKENS {
            return Err(wrong("n_eos_token_ids", self.n_eos_token_ids.get(), format!("at most {MAX_EOS_TOKENS}")));
        }
        let kind = |layer: usize| match self.sliding_layers[layer / 8] >> (layer % 8) & 1 {
            0 => AttentionKind::Full,
            _ => AttentionKind::Sliding,
        };
        let config = ModelConfig {
            architecture: match self.architecture.get() {
                1 => Architecture::Olmo2,
                2 => Architecture::Olmo3,
                3 => Architecture::Olmo1,
                other => return Err(wrong("architecture", other, "1 (olmo2), 2 (olmo3) or 3 (olmo)".into())),
            },
            hidden_size: self.hidden_size.get() as usize,
            n_heads: self.n_heads.get() as usize,
            n_kv_heads: self.n_kv_heads.get() as usize,
            head_dim: self.head_dim.get() as usize,
            intermediate_size: self.intermediate_size.get() as usize,
            vocab_size: self.vocab_size.get() as usize,
            max_position_embeddings: self.max_position_embeddings.get() as usize,
            rms_norm_eps: self.rms_norm_eps.get(),
            // Only +0 stands for none; validate() has a word for -0.
            clip_qkv: Some(self.clip_qkv.get()).filter(|clip| clip.to_bits() != 0),
            rope_theta: self.rope_theta.get(),
            rope_theta_sliding: self.rope_theta_sliding.get(),
            yarn: match flag("rope_type", self.rope_type)? {
                false => None,
                true => Some(Yarn {
                    factor: self.yarn_factor.get(),
                    original_max_position_embeddings: self.yarn_original_max_position_embeddings.get() as usize,
                    beta_fast: self.yarn_beta_fast.get(),
                    beta_slow: self.yarn_beta_slow.get(),
                    attention_factor: self.yarn_attention_factor.get(),
                    truncate: flag("yarn_truncate", self.yarn_truncate)?,
                }),
            },
            sliding_window: self.sliding_window.get() as usize,
            layer_types: (0..n_layers).map(kind).collect(),
            tie_word_embeddings: flag("tie_word_embeddings", self.tie_word_embeddings)?,
            eos_token_ids: self.eos_token_ids[..n_eos].iter().map(|id| id.get()).collect(),
            bos_token_id: id(self.bos_token_id),
            pad_token_id: id(self.pad_token_id),
        };
        self.check_unused(&config)?;
        Ok(config)
    }

    /// There is one way to write a configuration: everything without a use must be as [`ConfigBlock::new`] leaves it.
    fn check_unused(&self, config: &ModelConfig) -> Result<(), ConfigError> {
        // The counts were u32 in the block, so they fit again.
        let canonical = ConfigBlock::new(config);
        let differs = self.as_bytes().iter().zip(canonical.as_bytes()).position(|(found, expected)| found != expected);
        let Some(at) = differs else { return Ok(()) };
        // The last field that begins at or before the byte.
        let field = FIELDS_WITHOUT_USE.iter().rev().find(|field| field.0 <= at);
        let key = field.map_or("configuration", |field| field.1);
        Err(ConfigError { key, found: "set".into(), expected: "nothing where it has no use".into() })
    }
}

/// The fields of [`ConfigBlock`] that can be without a use, by their offsets.
const FIELDS_WITHOUT_USE: [(usize, &str); 9] = [
    (offset_of!(ConfigBlock, yarn_factor), "yarn_factor"),
    (offset_of!(ConfigBlock, yarn_beta_fast), "yarn_beta_fast"),
    (offset_of!(ConfigBlock, yarn_beta_slow), "yarn_beta_slow"),
    (offset_of!(ConfigBlock, yarn_attention_factor), "yarn_attention_factor"),
    (offset_of!(ConfigBlock, yarn_original_max_position_embeddings), "yarn_original_max_position_embeddings"),
    (offset_of!(ConfigBlock, yarn_truncate), "yarn_truncate"),
    (offset_of!(ConfigBlock, reserved), "reserved"),
    (offset_of!(ConfigBlock, eos_token_ids), "eos_token_ids"),
    (offset_of!(ConfigBlock, sliding_layers), "sliding_layers"),
];

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(size_of::<TensorRecord>() == TENSOR_RECORD_BYTES);
    assert!(size_of::<SectionRecord>() == SECTION_RECORD_BYTES);
    assert!(offset_of!(Header, config) == 128);
};

#[cfg(target_endian = "big")]
compile_error!("tensors are used in place and are little-endian; big-endian machines cannot run them");
