//! Crafted model files: any field changed, with digests that match again.

use crate::bf12_config;
use crate::packed::range;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::layout::{self, Layout};
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use olmo_infer::internals::format::{
    self, ConfigBlock, Encoding, HEADER_BYTES, Header, SECTION_REQUIRED, SectionRecord, TensorRecord, VocabularyHead,
    section,
};
use std::fs::{self, File};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::Path;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

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

    /// A field of the record of section number `index` in a file with `n_tensors` tensors.
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
pub const CONFIG_INTEGERS: [(&str, usize); 28] = [
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
    ("n_experts", offset_of!(ConfigBlock, n_experts)),
    ("n_experts_per_tok", offset_of!(ConfigBlock, n_experts_per_tok)),
    ("norm_topk_prob", offset_of!(ConfigBlock, norm_topk_prob)),
    ("linear_num_key_heads", offset_of!(ConfigBlock, linear_num_key_heads)),
    ("linear_num_value_heads", offset_of!(ConfigBlock, linear_num_value_heads)),
    ("linear_key_head_dim", offset_of!(ConfigBlock, linear_key_head_dim)),
    ("linear_value_head_dim", offset_of!(ConfigBlock, linear_value_head_dim)),
    ("linear_conv_kernel_dim", offset_of!(ConfigBlock, linear_conv_kernel_dim)),
    ("linear_allow_neg_eigval", offset_of!(ConfigBlock, linear_allow_neg_eigval)),
    ("reserved_2", offset_of!(ConfigBlock, reserved_2)),
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

/// The beginning of a file of this configuration and these encodings, and its layout: header, index, and zeros up to
/// the tables of bf12 matrices, if there are any. It is consistent for any length that it claims. `good` is the header of a
/// good file.
pub fn claimed(good: &[u8], config: &ModelConfig, encodings: &[Encoding]) -> (Vec<u8>, Layout) {
    let specs = tensors_of(config);
    let of_tables =
        specs.iter().zip(encodings).map(|(spec, &encoding)| layout::table_bytes(spec, encoding).expect("a size"));
    let tables: Vec<u64> = Some(of_tables.sum()).filter(|&bytes| bytes > 0).into_iter().collect();
    let layout = layout::layout(&specs, encodings, &tables).expect("a layout");
    let mut bytes = good[..HEADER_BYTES].to_vec();
    for ((spec, &encoding), &extent) in specs.iter().zip(encodings).zip(&layout.tensors) {
        bytes.extend_from_slice(TensorRecord::new(spec, encoding, extent).as_bytes());
    }
    for (&n_bytes, extent) in tables.iter().zip(&layout.sections) {
        let at = bytes.len();
        bytes.resize(at + size_of::<SectionRecord>(), 0);
        let mut set = |field: usize, n: usize, value: u64| Field { at: at + field, bytes: n }.set(&mut bytes, value);
        set(offset_of!(SectionRecord, kind), 4, section::BF12.into());
        set(offset_of!(SectionRecord, flags), 4, SECTION_REQUIRED.into());
        set(offset_of!(SectionRecord, offset), 8, extent.offset);
        set(offset_of!(SectionRecord, bytes), 8, n_bytes);
    }
    let features = format::features(specs.iter().zip(encodings));
    let block = ConfigBlock::new(config);
    bytes[offset_of!(Header, config)..][..size_of_val(&block)].copy_from_slice(block.as_bytes());
    for (at, n, value) in [
        (offset_of!(Header, file_bytes), 8, layout.file_bytes),
        (offset_of!(Header, required_features), 8, features),
        (offset_of!(Header, index_bytes), 8, layout.index.bytes),
        (offset_of!(Header, data_offset), 8, layout.data_offset),
        (offset_of!(Header, data_bytes), 8, layout.file_bytes - layout.data_offset),
        (offset_of!(Header, n_tensors), 4, specs.len() as u64),
        (offset_of!(Header, n_sections), 4, tables.len() as u64),
    ] {
        Field::of_header(at, n).set(&mut bytes, value);
    }
    repair_digests(&mut bytes);
    if let Some(section) = layout.sections.first() {
        bytes.resize(section.offset as usize, 0);
    }
    (bytes, layout)
}

/// The bytes of a plain model with these sections, in the order of their kinds, instead of its own.
///
/// # Panics
/// When `good` is not a plain model.
pub fn with_sections(good: &[u8], sections: &[(u32, &[u8])]) -> Vec<u8> {
    let model = ModelFile::from_bytes(Path::new("good.olmo"), good).expect("a model");
    let encodings: Vec<Encoding> = (0..model.specs().len()).map(|index| model.encoding(index)).collect();
    let lengths: Vec<u64> = sections.iter().map(|(_, bytes)| bytes.len() as u64).collect();
    let layout = layout::layout(model.specs(), &encodings, &lengths).expect("a layout");
    let mut bytes = vec![0; layout.file_bytes as usize];
    bytes[..HEADER_BYTES].copy_from_slice(&good[..HEADER_BYTES]);
    let mut at = HEADER_BYTES;
    for ((spec, record), (index, extent)) in
        model.specs().iter().zip(model.records()).zip(layout.tensors.iter().enumerate())
    {
        let TensorRecord { digest, min_magnitude, rounded, .. } = *record;
        let record = TensorRecord::new(spec, encodings[index], *extent);
        let record = TensorRecord { digest, min_magnitude, rounded, ..record };
        bytes[at..at + size_of::<TensorRecord>()].copy_from_slice(record.as_bytes());
        model.tensor_bytes(index).copy_to(&mut bytes[range(*extent)]);
        at += size_of::<TensorRecord>();
    }
    for (&(kind, section), extent) in sections.iter().zip(&layout.sections) {
        let mut set = |field: usize, n: usize, value: u64| Field { at: at + field, bytes: n }.set(&mut bytes, value);
        set(offset_of!(SectionRecord, kind), 4, kind.into());
        set(offset_of!(SectionRecord, offset), 8, extent.offset);
        set(offset_of!(SectionRecord, bytes), 8, section.len() as u64);
        set(offset_of!(SectionRecord, digest), 8, format::digest(section, kind.into()));
        bytes[range(*extent)].copy_from_slice(section);
        at += size_of::<SectionRecord>();
    }
    for (at, n, value) in [
        (offset_of!(Header, file_bytes), 8, layout.file_bytes),
        (offset_of!(Header, index_bytes), 8, layout.index.bytes),
        (offset_of!(Header, data_offset), 8, layout.data_offset),
        (offset_of!(Header, data_bytes), 8, layout.file_bytes - layout.data_offset),
        (offset_of!(Header, n_sections), 4, sections.len() as u64),
    ] {
        Field::of_header(at, n).set(&mut bytes, value);
    }
    repair_digests(&mut bytes);
    bytes
}

/// The section of a vocabulary of these tokens, by their ids.
pub fn vocabulary(tokens: &[&[u8]]) -> Vec<u8> {
    let n_bytes: usize = tokens.iter().map(|token| token.len()).sum();
    let head = VocabularyHead {
        n_tokens: U32::new(tokens.len() as u32),
        reserved: U32::new(0),
        text_bytes: U64::new(n_bytes as u64),
    };
    let mut section = head.as_bytes().to_vec();
    let mut end = 0u32;
    section.extend(end.to_le_bytes());
    for token in tokens {
        end += token.len() as u32;
        section.extend(end.to_le_bytes());
    }
    tokens.iter().for_each(|token| section.extend(*token));
    section
}

/// Writes a file in which zeros are holes.
///
/// # Panics
/// When it cannot be written.
pub fn write_with_holes(path: &Path, bytes: &[u8]) {
    const BLOCK: usize = 4096;
    let file = File::create(path).expect("a file");
    file.set_len(bytes.len() as u64).expect("a sparse file");
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (index * BLOCK) as u64).expect("written");
        }
    }
}

/// Writes a file with many tables of bf12 matrices, each of them good and all but its exponents a hole of the file,
/// under a digest that is not theirs. `good` is the header of a good file.
pub fn write_holes_that_are_tables(path: &Path, good: &[u8]) {
    let layer_types = vec![bf12_config().layer_types[0]; 480];
    let config = ModelConfig { layer_types, intermediate_size: 1 << 20, ..bf12_config() };
    let specs = tensors_of(&config);
    let encoding = |spec: &TensorSpec| match spec.role {
        Role::GateProj | Role::UpProj => Encoding::Bf12 { n_raw_steps: 0 },
        _ if spec.columns.is_none() => Encoding::F32,
        _ => Encoding::Bf16,
    };
    let encodings: Vec<Encoding> = specs.iter().map(encoding).collect();
    let (bytes, layout) = claimed(good, &config, &encodings);
    fs::write(path, &bytes).expect("written");
    let file = File::options().write(true).open(path).expect("open");
    file.set_len(layout.file_bytes).expect("a sparse file");
    let exponents: Vec<u8> = (100..116).collect();
    let mut at = layout.sections[0].offset;
    for (spec, &encoding) in specs.iter().zip(&encodings) {
        let n_bytes = layout::table_bytes(spec, encoding).expect("a size");
        if n_bytes > 0 {
            file.write_all_at(&exponents, at).expect("written");
        }
        at += n_bytes;
    }
}
