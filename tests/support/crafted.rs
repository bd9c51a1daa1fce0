//! Model files that somebody crafted: any field changed, under digests that are right again.

use olmo_infer::format::{self, ConfigBlock, HEADER_BYTES, Header, SectionRecord, TensorRecord};
use std::mem::offset_of;

/// Some bytes of a file that mean one thing.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// From the beginning of the file.
    pub at: usize,
    /// Length.
    pub bytes: usize,
}

impl Field {
    /// A field of the header; offset and length as `format.rs` has them.
    pub fn of_header(at: usize, bytes: usize) -> Field {
        Field { at, bytes }
    }

    /// A field of the configuration.
    pub fn of_config(at: usize, bytes: usize) -> Field {
        Field { at: offset_of!(Header, config) + at, bytes }
    }

    /// A field of the record of tensor `index`.
    pub fn of_tensor(index: usize, at: usize, bytes: usize) -> Field {
        Field { at: HEADER_BYTES + index * size_of::<TensorRecord>() + at, bytes }
    }

    /// A field of the record of section number `index` of a file with so many tensors.
    pub fn of_section(n_tensors: usize, index: usize, at: usize, bytes: usize) -> Field {
        let first = HEADER_BYTES + n_tensors * size_of::<TensorRecord>();
        Field { at: first + index * size_of::<SectionRecord>() + at, bytes }
    }

    /// Its value, of at most 8 bytes.
    pub fn get(self, file: &[u8]) -> u64 {
        let mut value = [0; 8];
        value[..self.bytes].copy_from_slice(&file[self.at..self.at + self.bytes]);
        u64::from_le_bytes(value)
    }

    /// Sets it to a value, of which it takes the lower bytes.
    pub fn set(self, file: &mut [u8], value: u64) {
        let n = self.bytes.min(8);
        file[self.at..self.at + n].copy_from_slice(&value.to_le_bytes()[..n]);
    }
}

/// The fields of the configuration that hold an integer, by name.
pub const CONFIG_INTEGERS: [(&str, usize); 18] = [
    ("architecture", offset_of!(ConfigBlock, architecture)),
    ("n_layers", offset_of!(ConfigBlock, n_layers)),
    ("hidden_size", offset_of!(ConfigBlock, hidden_size)),
    ("n_heads", offset_of!(ConfigBlock, n_heads)),
    ("n_kv_heads", offset_of!(ConfigBlock, n_kv_heads)),
    ("head_dim", offset_of!(ConfigBlock, head_dim)),
    ("intermediate_size", offset_of!(ConfigBlock, intermediate_size)),
    ("vocab_size", offset_of!(ConfigBlock, vocab_size)),
    ("max_position_embeddings", offset_of!(ConfigBlock, max_position_embeddings)),
    ("sliding_window", offset_of!(ConfigBlock, sliding_window)),
    ("tie_word_embeddings", offset_of!(ConfigBlock, tie_word_embeddings)),
    ("rope_type", offset_of!(ConfigBlock, rope_type)),
    ("yarn_original_max_position_embeddings", offset_of!(ConfigBlock, yarn_original_max_position_embeddings)),
    ("yarn_truncate", offset_of!(ConfigBlock, yarn_truncate)),
    ("bos_token_id", offset_of!(ConfigBlock, bos_token_id)),
    ("pad_token_id", offset_of!(ConfigBlock, pad_token_id)),
    ("n_eos_token_ids", offset_of!(ConfigBlock, n_eos_token_ids)),
    ("reserved", offset_of!(ConfigBlock, reserved)),
];

/// The fields of the configuration that hold a real number, by name.
pub const CONFIG_REALS: [(&str, usize); 8] = [
    ("rms_norm_eps", offset_of!(ConfigBlock, rms_norm_eps)),
    ("rope_theta", offset_of!(ConfigBlock, rope_theta)),
    ("rope_theta_sliding", offset_of!(ConfigBlock, rope_theta_sliding)),
    ("yarn_factor", offset_of!(ConfigBlock, yarn_factor)),
    ("yarn_beta_fast", offset_of!(ConfigBlock, yarn_beta_fast)),
    ("yarn_beta_slow", offset_of!(ConfigBlock, yarn_beta_slow)),
    ("yarn_attention_factor", offset_of!(ConfigBlock, yarn_attention_factor)),
    ("clip_qkv", offset_of!(ConfigBlock, clip_qkv)),
];

/// The field of the configuration with this name.
///
/// # Panics
/// When there is none.
pub fn config_field(name: &str) -> Field {
    let find = |fields: &[(&str, usize)]| fields.iter().find(|field| field.0 == name).map(|field| field.1);
    match (find(&CONFIG_INTEGERS), find(&CONFIG_REALS)) {
        (Some(at), _) => Field::of_config(at, 4),
        (None, Some(at)) => Field::of_config(at, 8),
        (None, None) => panic!("no field {name}"),
    }
}

/// Makes the digests of index and header right again. An index that the file does not have is left alone.
pub fn repair_digests(file: &mut [u8]) {
    let index_bytes = Field::of_header(offset_of!(Header, index_bytes), 8).get(file);
    let end = usize::try_from(index_bytes).ok().and_then(|bytes| HEADER_BYTES.checked_add(bytes));
    if let Some(index) = end.and_then(|end| file.get(HEADER_BYTES..end)) {
        let digest = format::digest(index, 0);
        Field::of_header(offset_of!(Header, index_digest), 8).set(file, digest);
    }
    repair_header_digest(file);
}

/// Makes the digest of the header right again.
pub fn repair_header_digest(file: &mut [u8]) {
    let at = offset_of!(Header, header_digest);
    let digest = format::digest(&file[..at], 0);
    Field::of_header(at, 8).set(file, digest);
}
