//! Properties of the size arithmetic and the reader, and in `encodings` of those, on 10,000 random cases each.
//!
//! A case that fails is made as small as it gets and printed; it becomes a test of its own then.

mod encodings;

use crate::property::{check, edgy};
use olmo_infer::internals::file::index::Index;
use olmo_infer::internals::file::reader::ReadAt;
use olmo_infer::internals::format::config::{
    Architecture, AttentionKind, Experts, LAYER_NORM_EPS, LinearAttention, ModelConfig, Yarn,
};
use olmo_infer::internals::format::layout::{self, Layout};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::sizes::TooLarge;
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use olmo_infer::internals::format::{
    self, BYTE_ORDER_MARK, ConfigBlock, Dtype, Encoding, HEADER_BYTES, Header, MAGIC, SectionRecord, TensorRecord,
    VERSION_MAJOR, VERSION_MINOR, section,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::io;
use std::ops::Range;
use std::path::Path;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A possible model whose sizes are at most `max_width`.
fn model(max_width: usize, max_layers: usize) -> impl Strategy<Value = ModelConfig> {
    let sizes = (edgy(max_width), 1..=4usize, 1..=4usize, 1..=32usize, edgy(max_width), edgy(max_width));
    let layers = prop::collection::vec(any::<bool>(), 1..=max_layers);
    let architecture = prop::sample::select(Architecture::ALL.to_vec());
    let rest = (any::<bool>(), architecture, 1..=1000usize, prop::collection::vec(0..50u32, 0..=4));
    (sizes, layers, rest).prop_map(|(sizes, layers, (tied, architecture, positions, eos_token_ids))| {
        let (hidden_size, n_kv_heads, groups, half_head, intermediate_size, vocab_size) = sizes;
        let (olmo1, olmo3) = (architecture == Architecture::Olmo1, architecture == Architecture::Olmo3);
        let kind = |&other: &bool| match architecture {
            Architecture::Olmo3 if other => AttentionKind::Sliding,
            Architecture::OlmoHybrid if other => AttentionKind::Linear,
            _ => AttentionKind::Full,
        };
        let layer_types: Vec<AttentionKind> = layers.iter().map(kind).collect();
        let experts = Experts { n_experts: 1 + groups, n_per_token: groups, norm_topk_prob: tied };
        let linear = LinearAttention {
            n_key_heads: n_kv_heads,
            n_value_heads: n_kv_heads * groups,
            key_head_dim: half_head,
            value_head_dim: 2 * half_head + 1,
            conv_kernel: 1 + groups,
            allow_neg_eigval: tied,
        };
        let window = if layer_types.contains(&AttentionKind::Sliding) { 5 } else { 0 };
        ModelConfig {
            architecture,
            hidden_size,
            n_heads: n_kv_heads * groups,
            n_kv_heads,
            head_dim: 2 * half_head,
            intermediate_size,
            vocab_size,
            max_position_embeddings: positions,
            rms_norm_eps: if olmo1 { LAYER_NORM_EPS } else { 1e-6 },
            clip_qkv: (architecture.can_clip() && positions > 500).then_some(8.0),
            rope_theta: 10000.0,
            rope_theta_sliding: 10000.0,
            yarn: olmo3.then_some(Yarn {
                factor: 8.0,
                original_max_position_embeddings: positions,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.2,
                truncate: tied,
            }),
            sliding_window: window,
            experts: architecture.has_experts().then_some(experts),
            linear: layer_types.contains(&AttentionKind::Linear).then_some(linear),
            layer_types,
            tie_word_embeddings: tied,
            eos_token_ids,
            bos_token_id: None,
            pad_token_id: Some(0),
        }
    })
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16)]
}

/// The layout of a model without bf12 matrices, with sections of some lengths.
fn plain_layout(config: &ModelConfig, matrices: Dtype, sections: &[u64]) -> Option<Layout> {
    let specs = tensors_of(config);
    layout::layout(&specs, &layout::uniform(&specs, Encoding::plain(matrices).expect("f32 or bf16")), sections).ok()
}

#[test]
fn layout_is_aligned_disjoint_and_ordered() {
    let sections = prop::collection::vec(0..100_000u64, 0..5);
    check((model(1 << 20, 6), dtype(), sections), |(config, matrices, sections)| {
        prop_assert!(config.validate().is_ok(), "{:?}", config.validate());
        let layout = plain_layout(&config, matrices, &sections).expect("possible models have possible sizes");
        let parts = [layout.index].into_iter().chain(layout.sections.clone()).chain(layout.tensors.clone());
        let mut end = HEADER_BYTES as u64;
        for part in parts {
            prop_assert!(part.offset >= end && part.end() <= layout.file_bytes);
            end = part.end();
        }
        prop_assert!(layout.sections.iter().all(|section| section.offset % 64 == 0));
        prop_assert!(layout.tensors.iter().all(|tensor| tensor.offset % 256 == 0));
        prop_assert!(layout.file_bytes - end < format::LARGE_GROUP_ALIGNMENT);
        prop_assert_eq!(layout.tensors[0].offset, layout.data_offset);
        Ok(())
    });
}

#[test]
fn tensor_sizes_match_unbounded_arithmetic() {
    check((model(1 << 20, 1), dtype()), |(config, matrices)| {
        for spec in tensors_of(&config) {
            let encoding = spec.columns.map_or(Encoding::F32, |_| Encoding::plain(matrices).expect("f32 or bf16"));
            let found = layout::tensor_bytes(&spec, encoding).expect("possible");
            let rows = spec.rows as u128;
            let expected = match spec.columns {
                None => rows * 4,
                Some(columns) => {
                    let (step, bytes) = if matrices == Dtype::F32 { (1, 4) } else { (2, 2) };
                    rows.div_ceil(64) * 64 * (columns as u128).div_ceil(step) * step * bytes
                }
            };
            prop_assert_eq!(u128::from(found), expected);
        }
        Ok(())
    });
}

#[test]
fn impossible_sizes_are_errors_and_never_wrap() {
    let spec = (edgy(usize::MAX), edgy(usize::MAX), dtype());
    check(spec, |(rows, columns, matrices)| {
        let spec =
            TensorSpec { role: Role::LmHead, layer: None, expert: None, rows, columns: Some(columns), is_draft: false };
        let step = if matrices == Dtype::F32 { 1u128 } else { 2 };
        let rows = (rows as u128).div_ceil(64) * 64;
        let expected = rows.checked_mul((columns as u128).div_ceil(step) * step).and_then(|n| n.checked_mul(4 / step));
        match layout::tensor_bytes(&spec, Encoding::plain(matrices).expect("f32 or bf16")) {
            Ok(found) => prop_assert_eq!(Some(u128::from(found)), expected),
            Err(TooLarge) => prop_assert!(expected.is_none_or(|bytes| bytes > u128::from(u64::MAX))),
        }
        Ok(())
    });
}

#[test]
fn parameter_count_is_the_number_of_elements() {
    check(model(1 << 20, 6), |config| {
        let elements: u64 = tensors_of(&config).iter().map(|spec| spec.n_elements()).sum();
        prop_assert_eq!(config.n_parameters(), elements);
        Ok(())
    });
}

#[test]
fn every_matrix_element_has_its_own_offset() {
    check((1..200usize, 1..40usize, dtype()), |(rows, columns, dtype)| {
        let shape = PanelShape { rows, columns, dtype };
        let mut taken = vec![false; shape.n_panels() * shape.panel_elements()];
        for row in 0..rows {
            for column in 0..columns {
                prop_assert!(!std::mem::replace(&mut taken[shape.element(row, column)], true));
            }
        }
        Ok(())
    });
}

#[test]
fn configuration_round_trips() {
    check(model(1 << 20, 40), |config| {
        prop_assert_eq!(ConfigBlock::new(&config).to_config(), Ok(config));
        Ok(())
    });
}

#[test]
fn configuration_block_has_one_spelling() {
    // A block with a changed byte is invalid, or it is the one spelling of another configuration.
    let change = (0..size_of::<ConfigBlock>(), 1..=255u8);
    check((model(1 << 12, 4), change), |(config, (at, bits))| {
        let mut block = ConfigBlock::new(&config);
        block.as_mut_bytes()[at] ^= bits;
        if let Ok(other) = block.to_config() {
            prop_assert_ne!(&other, &config);
            prop_assert!(ConfigBlock::new(&other).as_bytes() == block.as_bytes());
        }
        Ok(())
    });
}

/// The header and the index of a model; the rest of the file reads as zeros.
#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    length: u64,
}

impl ReadAt for Head {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (byte, at) in out.iter_mut().zip(offset as usize..) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
        Ok(())
    }
}

impl Head {
    fn new(config: &ModelConfig, matrices: Dtype, sections: &[u64]) -> Option<Head> {
        let layout = plain_layout(config, matrices, sections)?;
        let mut index = Vec::new();
        let specs = tensors_of(config);
        let encodings = layout::uniform(&specs, Encoding::plain(matrices).expect("f32 or bf16"));
        for ((spec, &encoding), &extent) in specs.iter().zip(&encodings).zip(&layout.tensors) {
            index.extend_from_slice(TensorRecord::new(spec, encoding, extent).as_bytes());
        }
        // Kinds that this version does not define, and that a reader may ignore.
        for (kind, extent) in (100..).zip(&layout.sections) {
            let mut record = SectionRecord::new_zeroed();
            record.kind.set(kind);
            record.offset.set(extent.offset);
            record.bytes.set(extent.bytes);
            index.extend_from_slice(record.as_bytes());
        }
        let mut header = Header::new_zeroed();
        header.magic = MAGIC;
        header.version_major.set(VERSION_MAJOR);
        header.version_minor.set(VERSION_MINOR);
        header.byte_order.set(BYTE_ORDER_MARK);
        header.file_bytes.set(layout.file_bytes);
        header.required_features.set(format::features(specs.iter().zip(&encodings)));
        header.header_bytes.set(HEADER_BYTES as u32);
        header.n_tensors.set(layout.tensors.len() as u32);
        header.n_sections.set(layout.sections.len() as u32);
        header.index_bytes.set(index.len() as u64);
        header.data_offset.set(layout.data_offset);
        header.data_bytes.set(layout.file_bytes - layout.data_offset);
        header.config = ConfigBlock::new(config);
        let mut head = Head { bytes: [header.as_bytes(), &index].concat(), length: layout.file_bytes };
        head.repair();
        Some(head)
    }

    /// Makes both digests right.
    fn repair(&mut self) {
        let (page, index) = self.bytes.split_at_mut(HEADER_BYTES);
        let header = Header::mut_from_bytes(page).expect("a page");
        header.index_digest.set(format::digest(index, 0));
        header.header_digest.set(header.computed_digest());
    }

    fn read(&self) -> Result<Index, olmo_infer::internals::error::Error> {
        Index::read(Path::new("m.olmo"), self, self.length)
    }
}

#[test]
fn reads_every_possible_model() {
    let sections = prop::collection::vec(0..100_000u64, 0..5);
    check((model(1 << 14, 3), dtype(), sections), |(config, matrices, sections)| {
        let index = Head::new(&config, matrices, &sections).expect("possible").read();
        let index = index.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(index.config, config);
        prop_assert_eq!(
            index.encodings,
            layout::uniform(&index.specs, Encoding::plain(matrices).expect("f32 or bf16"))
        );
        prop_assert_eq!(index.sections.len(), sections.len());
        Ok(())
    });
}

/// The smallest model, with sections of these kinds, flags and lengths; and whether it is read.
fn reads_sections(records: &[(u32, u32, u64)]) -> bool {
    let bytes: Vec<u64> = records.iter().map(|record| record.2).collect();
    let config = model(1, 1).new_tree(&mut TestRunner::deterministic()).expect("no filter").current();
    let mut head = Head::new(&config, Dtype::F32, &bytes).expect("possible");
    let first = HEADER_BYTES + tensors_of(&config).len() * size_of::<TensorRecord>();
    for (record, &(kind, flags, _)) in head.bytes[first..].chunks_exact_mut(size_of::<SectionRecord>()).zip(records) {
        let record = SectionRecord::mut_from_bytes(record).expect("a record");
        record.kind.set(kind);
        record.flags.set(flags);
    }
    head.repair();
    head.read().is_ok()
}

#[test]
fn refuses_more_sections_than_a_file_can_have() {
    let read = |n: usize| reads_sections(&(0..n).map(|i| (100 + i as u32, 0, 7)).collect::<Vec<_>>());
    assert!(read(0) && read(format::MAX_SECTIONS - 1) && read(format::MAX_SECTIONS));
    assert!(!read(format::MAX_SECTIONS + 1) && !read(2 * format::MAX_SECTIONS));
}

#[test]
fn reads_sections_only_in_ascending_order() {
    let kinds = prop::collection::vec(prop_oneof![0..11u32, 100..103u32], 0..4);
    check(kinds, |mut kinds| {
        // This model does not have the tables of bf12 matrices.
        kinds.retain(|&kind| kind != section::BF12);
        let records: Vec<(u32, u32, u64)> = kinds.iter().map(|&kind| (kind, 0, 1)).collect();
        prop_assert_eq!(reads_sections(&records), kinds.is_sorted_by(|a, b| a < b) && !kinds.contains(&0));
        Ok(())
    });
}

#[test]
fn section_limits_and_required_flags_are_checked() {
    for kind in (section::SOURCES..=section::LAST + 2).filter(|&kind| kind != section::BF12) {
        let most = section::max_bytes(kind);
        assert!(reads_sections(&[(kind, 0, 0)]) && reads_sections(&[(kind, 0, most)]), "{kind}");
        assert!(!reads_sections(&[(kind, 0, most + 1)]), "{kind}");
        assert_eq!(reads_sections(&[(kind, format::SECTION_REQUIRED, 1)]), kind <= section::LAST, "{kind}");
        for flag in 0..32 {
            let is_good = 1 << flag == format::SECTION_REQUIRED && kind <= section::LAST;
            assert_eq!(reads_sections(&[(kind, 1 << flag, 1)]), is_good, "{kind} {flag}");
        }
    }
}

#[test]
fn smallest_magnitude_is_zero_or_positive() {
    let edges = [0, 1, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0x7fff_ffff, 0x8000_0000, 0xff7f_ffff, 0xff80_0000];
    let bits = prop_oneof![any::<u32>(), prop::sample::select(edges.to_vec())];
    check((model(1, 1), bits), |(config, bits)| {
        let mut head = Head::new(&config, Dtype::F32, &[]).expect("possible");
        let at = HEADER_BYTES + std::mem::offset_of!(TensorRecord, min_magnitude);
        head.bytes[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        head.repair();
        prop_assert_eq!(head.read().is_ok(), bits < f32::INFINITY.to_bits());
        Ok(())
    });
}

/// Parts of the head whose bytes may differ under matching digests: what a writer states about numbers and sections,
/// and fields for newer writers.
fn is_free(at: usize, config: &ModelConfig) -> bool {
    let n_tensors = tensors_of(config).len();
    let in_record = |field: Range<usize>| {
        let Some(at) = at.checked_sub(HEADER_BYTES).filter(|at| *at < n_tensors * 128) else { return false };
        field.contains(&(at % 128))
    };
    let in_section = |field: Range<usize>| {
        let Some(at) = at.checked_sub(HEADER_BYTES + n_tensors * 128) else { return false };
        field.contains(&(at % 64))
    };
    let digest = std::mem::offset_of!(TensorRecord, digest);
    let magnitude = std::mem::offset_of!(TensorRecord, min_magnitude);
    let rounded = std::mem::offset_of!(TensorRecord, rounded);
    let kind = std::mem::offset_of!(SectionRecord, kind);
    let section_digest = std::mem::offset_of!(SectionRecord, digest);
    // Another length that ends at the same multiple of the alignment; the digest decides.
    let section_bytes = std::mem::offset_of!(SectionRecord, bytes);
    let minor = std::mem::offset_of!(Header, version_minor);
    let optional = std::mem::offset_of!(Header, optional_features);
    in_record(digest..digest + 8)
        || in_record(magnitude..magnitude + 4)
        || in_record(rounded..rounded + 1)
        || in_section(kind..kind + 4)
        || in_section(section_digest..section_digest + 8)
        || in_section(section_bytes..section_bytes + 8)
        || (minor..minor + 2).contains(&at)
        || (optional..optional + 8).contains(&at)
}

#[test]
fn changed_bytes_are_refused_or_another_model() {
    let sections = prop::collection::vec(1..1000u64, 0..3);
    let change = (any::<prop::sample::Index>(), 1..=255u8);
    check((model(300, 2), dtype(), sections, change), |(config, matrices, sections, (at, bits))| {
        let mut head = Head::new(&config, matrices, &sections).expect("possible");
        let at = at.index(head.bytes.len());
        head.bytes[at] ^= bits;
        head.repair();
        // The digests themselves were just made right.
        let digests = std::mem::offset_of!(Header, index_digest)..std::mem::offset_of!(Header, index_digest) + 8;
        if is_free(at, &config) || digests.contains(&at) || (HEADER_BYTES - 8..HEADER_BYTES).contains(&at) {
            return Ok(());
        }
        match head.read() {
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
            // Values of the configuration that move nothing: another model of the same layout.
            Ok(index) => {
                let in_config = (128..128 + size_of::<ConfigBlock>()).contains(&at);
                prop_assert!(in_config && index.config != config, "byte {} ^ {}", at, bits);
            }
        }
        Ok(())
    });
}

/// Row O1, every length of a small model.
#[test]
fn refuses_any_other_length() {
    let change = (any::<i64>(), -5000i64..5000, any::<bool>());
    check((model(300, 2), dtype(), change), |(config, matrices, (far, near, is_near))| {
        let mut head = Head::new(&config, matrices, &[]).expect("possible");
        let good = head.length;
        head.length = good.wrapping_add_signed(if is_near { near } else { far });
        prop_assert_eq!(head.read().is_ok(), head.length == good);
        Ok(())
    });
}
