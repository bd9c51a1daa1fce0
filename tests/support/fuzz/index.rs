//! Targets for the index of a model file, which is read and checked before anything else.

use super::edit::Edit;
use crate::crafted::repair_header_digest;
use crate::packed::{Packed, get_u64, put_u64, repair_index};
use olmo_infer::internals::file::index::Index;
use olmo_infer::internals::file::reader::ReadAt;
use olmo_infer::internals::format::config::{Architecture, AttentionKind, ModelConfig};
use olmo_infer::internals::format::encodings::bf12::Bf12Table;
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization, Scales};
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::sizes::Extent;
use olmo_infer::internals::format::tensors::{TensorSpec, tensors_of};
use olmo_infer::internals::format::{
    self, ConfigBlock, Dtype, Encoding, HEADER_BYTES, Header, PANEL_ROWS, SECTION_RECORD_BYTES, SectionRecord,
    TENSOR_RECORD_BYTES, TensorLayout, TensorRecord, section,
};
use olmo_pack::encode::levels::LEVELS;
use std::io;
use std::mem::offset_of;
use std::path::Path;
use std::sync::OnceLock;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// The name in messages.
const NAME: &str = "fuzz";
/// Bytes of the header that edits reach directly: all fields, and some of what is reserved behind them.
const EDITED_HEADER_BYTES: usize = 512;
/// Longest tables of bf12 matrices that are tried: the reader allocates memory for them, a small part of the file's
/// length.
const MAX_TABLE_BYTES: u64 = 64 << 10;
/// Most layers of an index that a target rebuilds, for speed.
const MAX_LAYERS: usize = 32;

/// Bytes at the beginning of a file that claims a length; the rest are zeros that take no memory.
struct Pretended<'a> {
    head: &'a [u8],
    length: u64,
}

impl ReadAt for Pretended<'_> {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|&end| end <= self.length);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| self.head.get(offset..)).unwrap_or_default();
        let there = rest.len().min(out.len());
        out[..there].copy_from_slice(&rest[..there]);
        out[there..].fill(0);
        Ok(())
    }
}

/// Reads the input as the beginning of a model file: once as the whole file, once as a file of the length in its
/// header.
///
/// # Panics
/// When an accepted index has not the properties of a layout.
pub fn index_raw(input: &[u8]) {
    let length = input.len() as u64;
    if let Ok(index) = Index::read(Path::new(NAME), input, length) {
        assert_sound(&index, length);
    }
    if input.len() < HEADER_BYTES || has_long_tables(input) {
        return;
    }
    let length = get_u64(input, offset_of!(Header, file_bytes)).max(length);
    if let Ok(index) = Index::read(Path::new(NAME), &Pretended { head: input, length }, length) {
        assert_sound(&index, length);
    }
}

/// Edits a valid file and repairs its digests. The first byte chooses the file, and whether the index is rebuilt for
/// the configuration that the edits leave; late edits come after that.
///
/// # Panics
/// When an accepted index does not have the properties of a layout, or a rebuilt index is refused.
pub fn index_repaired(input: &[u8]) {
    let Some((&choice, edits)) = input.split_first() else { return };
    let base = &bases()[usize::from(choice) % bases().len()];
    let mut head = base.bytes[..base.layout.data_offset as usize].to_vec();
    let edits = Edit::all(edits);
    edits.clone().filter(|edit| !edit.is_late()).for_each(|edit| edit.apply(&mut head, place));
    let mut must_be_good = false;
    if choice & 0x80 != 0 {
        let Some(anew) = index_for(&head, base, choice & 0x40 != 0) else { return };
        head = anew;
        must_be_good = !edits.clone().any(|edit| edit.is_late());
    }
    edits.filter(Edit::is_late).for_each(|edit| edit.apply(&mut head, place));
    if has_long_tables(&head) {
        return;
    }
    repair(&mut head);
    let length = get_u64(&head, offset_of!(Header, file_bytes));
    match Index::read(Path::new(NAME), &Pretended { head: &head, length }, length) {
        Ok(index) => assert_sound(&index, length),
        Err(error) => assert!(!must_be_good, "an index made for its configuration: {error}"),
    }
}

/// The files that are edited.
fn bases() -> &'static [Packed; 7] {
    static BASES: OnceLock<[Packed; 7]> = OnceLock::new();
    BASES.get_or_init(Packed::all)
}

/// The position of an edit's offset: in the fields of the header, or behind the header page.
fn place(offset: usize) -> usize {
    if offset < EDITED_HEADER_BYTES { offset } else { offset - EDITED_HEADER_BYTES + HEADER_BYTES }
}

/// The section records that are complete in `head`, each with its offset.
fn section_records(head: &[u8]) -> impl Iterator<Item = (usize, SectionRecord)> {
    let header = Header::ref_from_prefix(head).map(|(header, _)| header).ok();
    let (n_tensors, n_sections) = header.map_or((0, 0), |header| (header.n_tensors.get(), header.n_sections.get()));
    let first = HEADER_BYTES + n_tensors as usize * TENSOR_RECORD_BYTES;
    let offsets = (0..(n_sections as usize).min(format::MAX_SECTIONS)).map(move |i| first + i * SECTION_RECORD_BYTES);
    offsets.filter_map(|at| Some((at, SectionRecord::read_from_prefix(head.get(at..)?).ok()?.0)))
}

/// Whether the tables of bf12 matrices are too long to be tried.
fn has_long_tables(head: &[u8]) -> bool {
    let is_long = |record: SectionRecord| record.kind.get() == section::BF12 && record.bytes.get() > MAX_TABLE_BYTES;
    section_records(head).any(|(_, record)| is_long(record))
}

/// Makes the digests of the tables, the index and the header right, as far as all of their bytes are there.
fn repair(head: &mut [u8]) {
    let records: Vec<(usize, SectionRecord)> = section_records(head).collect();
    for (at, record) in records.iter().filter(|(_, record)| record.kind.get() == section::BF12) {
        let begin = usize::try_from(record.offset.get()).unwrap_or(usize::MAX);
        let tables = begin.checked_add(record.bytes.get() as usize).and_then(|end| head.get(begin..end));
        if let Some(digest) = tables.map(|tables| format::digest(tables, section::BF12.into())) {
            put_u64(head, at + offset_of!(SectionRecord, digest), digest);
        }
    }
    let index_bytes = usize::try_from(get_u64(head, offset_of!(Header, index_bytes))).unwrap_or(usize::MAX);
    match HEADER_BYTES.checked_add(index_bytes).filter(|&end| end <= head.len()) {
        Some(end) => repair_index(head, HEADER_BYTES..end),
        None => repair_header_digest(head),
    }
}

/// The beginning of a file for the configuration in the header of `head`, with the sections of `base`; matrices are
/// bf12 if `coded` and possible. `None` when there is no such model or it has many layers.
fn index_for(head: &[u8], base: &Packed, coded: bool) -> Option<Vec<u8>> {
    let (edited, _) = Header::ref_from_prefix(head).ok()?;
    let config = edited.config.to_config().ok().filter(|config| config.validate().is_ok())?;
    if config.n_layers() > MAX_LAYERS {
        return None;
    }
    let specs = tensors_of(&config);
    let matrices = if base.name.contains("f32") { Dtype::F32 } else { Dtype::Bf16 };
    let tables = tables(&specs, matrices, coded)?;
    let plain = match base.name == "quantized" {
        true => specs.iter().enumerate().map(|(index, spec)| quantized(index, spec)).collect(),
        false => layout::uniform(&specs, if matrices == Dtype::F32 { Encoding::F32 } else { Encoding::Bf16 }),
    };
    let encodings: Vec<Encoding> =
        tables.iter().zip(plain).map(|(table, plain)| encoding(table.as_ref(), plain)).collect();
    let mut sections = base_sections(base);
    if tables.iter().any(Option::is_some) {
        let mut bytes = Vec::new();
        tables.iter().flatten().for_each(|table| table.write(&mut bytes));
        sections.push((section::BF12, bytes));
        sections.sort_unstable_by_key(|(kind, _)| *kind);
    }
    let section_bytes: Vec<u64> = sections.iter().map(|section| section.1.len() as u64).collect();
    let layout = layout::layout(&specs, &encodings, &section_bytes).ok()?;

    let mut header = Header::read_from_prefix(&base.bytes).ok()?.0;
    header.config = ConfigBlock::new(&config);
    header.file_bytes = U64::new(layout.file_bytes);
    header.required_features = U64::new(format::features(specs.iter().zip(&encodings)));
    header.n_tensors = U32::new(specs.len() as u32);
    header.n_sections = U32::new(sections.len() as u32);
    header.index_bytes = U64::new(layout.index.bytes);
    header.data_offset = U64::new(layout.data_offset);
    header.data_bytes = U64::new(layout.file_bytes - layout.data_offset);
    let mut out = header.as_bytes().to_vec();
    for ((spec, &encoding), &extent) in specs.iter().zip(&encodings).zip(&layout.tensors) {
        out.extend(TensorRecord::new(spec, encoding, extent).as_bytes());
    }
    for ((kind, _), extent) in sections.iter().zip(&layout.sections) {
        out.extend(section_record(*kind, *extent).as_bytes());
    }
    for ((_, bytes), extent) in sections.iter().zip(&layout.sections) {
        out.resize(extent.offset as usize, 0);
        out.extend(bytes);
    }
    Some(out)
}

/// The sections of `base` but its tables.
fn base_sections(base: &Packed) -> Vec<(u32, Vec<u8>)> {
    let sections = base.kinds.iter().zip(&base.layout.sections).filter(|(kind, _)| **kind != section::BF12);
    sections.map(|(&kind, &extent)| (kind, base.bytes[crate::packed::range(extent)].to_vec())).collect()
}

/// The record of a section; its digest is looked at by `verify` alone, or made right afterwards.
fn section_record(kind: u32, extent: Extent) -> SectionRecord {
    let flags = if kind == section::BF12 { format::SECTION_REQUIRED } else { 0 };
    SectionRecord {
        kind: U32::new(kind),
        flags: U32::new(flags),
        offset: U64::new(extent.offset),
        bytes: U64::new(extent.bytes),
        digest: U64::new(0),
        reserved: [0; 32],
    }
}

/// A table without raw steps for each bf12 matrix; `None` when they are too long.
fn tables(specs: &[TensorSpec], matrices: Dtype, coded: bool) -> Option<Vec<Option<Bf12Table>>> {
    let exponents = olmo_infer::internals::format::encodings::bf12::Exponents::commonest(&[0; 256]);
    let panels = |spec: &TensorSpec| spec.columns.map(|_| spec.rows.div_ceil(PANEL_ROWS)).unwrap_or_default();
    if !coded || matrices == Dtype::F32 {
        return Some(vec![None; specs.len()]);
    }
    if specs.iter().map(|spec| 16 + 4 * panels(spec) as u64).sum::<u64>() > MAX_TABLE_BYTES {
        return None;
    }
    let table = |spec: &TensorSpec| {
        spec.has_choice().then(|| Bf12Table::new(exponents, std::iter::repeat_n(Vec::new(), panels(spec))))
    };
    Some(specs.iter().map(table).collect())
}

/// An encoding with scales for a matrix, another one for its neighbour.
fn quantized(index: usize, spec: &TensorSpec) -> Encoding {
    if !spec.has_choice() {
        return Encoding::F32;
    }
    let elements = if index.is_multiple_of(2) { Elements::Int8 } else { Elements::Int4(LEVELS) };
    let scales = [Scales::F16, Scales::Row32, Scales::Row16][index % 3];
    Encoding::Quantized(Quantization { elements, scales })
}

/// The encoding of a tensor with this table, or without one.
fn encoding(table: Option<&Bf12Table>, plain: Encoding) -> Encoding {
    table.map_or(plain, |table| Encoding::Bf12 { n_raw_steps: table.n_raw_steps() as u32 })
}

/// Asserts the properties of an accepted index that the program relies on.
fn assert_sound(index: &Index, length: u64) {
    let Index { header, config, specs, encodings, records, sections, layout, bf12_tables } = index;
    config.validate().expect("a possible configuration");
    assert_eq!(ConfigBlock::new(config).as_bytes(), header.config.as_bytes());
    assert_eq!(layout.file_bytes, length);
    assert!(
        records.len() == specs.len()
            && encodings.len() == specs.len()
            && layout.tensors.len() == specs.len()
            && bf12_tables.len() == specs.len()
    );
    assert!(index.n_model_tensors() == expected_tensors(config) && layout.sections.len() == sections.len());
    // Ascending, disjoint, aligned, inside the file: in exact arithmetic.
    let mut end = u128::from(layout.index.offset) + u128::from(layout.index.bytes);
    assert_eq!(layout.index.offset, HEADER_BYTES as u64);
    let mut follows = |extent: &Extent, alignment: u64| {
        assert!(extent.offset.is_multiple_of(alignment) && u128::from(extent.offset) >= end, "{extent:?} after {end}");
        end = u128::from(extent.offset) + u128::from(extent.bytes);
    };
    layout.sections.iter().for_each(|extent| follows(extent, format::SECTION_ALIGNMENT));
    follows(&Extent { offset: layout.data_offset, bytes: 0 }, format::SMALL_DATA_ALIGNMENT);
    layout.tensors.iter().for_each(|extent| follows(extent, format::TENSOR_ALIGNMENT));
    assert!(end <= u128::from(length));
    for (i, (record, spec)) in records.iter().zip(specs).enumerate() {
        assert_eq!((record.offset.get(), record.bytes.get()), (layout.tensors[i].offset, layout.tensors[i].bytes));
        assert_eq!(u128::from(record.bytes.get()), stored_bytes(spec, encodings[i], bf12_tables[i].as_ref()));
        let smallest = f32::from_bits(record.min_magnitude.get());
        assert!(smallest.is_finite() && smallest.is_sign_positive());
    }
}

/// Number of tensors of a model: seven matrices and four norms a layer, the embedding, the last norm, and the head if
/// there is one. OLMo-1 stores no norms. Experts have three matrices each and a router in place of three; linear
/// attention has eleven tensors, two norms and three matrices.
fn expected_tensors(config: &ModelConfig) -> usize {
    let (norms, last_norm) = if config.architecture == Architecture::Olmo1 { (0, 0) } else { (4, 1) };
    let mlp = config.experts.map_or(3, |experts| 1 + 3 * experts.n_experts);
    let layer = |kind: &AttentionKind| if *kind == AttentionKind::Linear { 16 } else { 4 + norms + mlp };
    let layers: usize = config.layer_types.iter().map(layer).sum();
    layers + 1 + last_norm + usize::from(!config.tie_word_embeddings)
}

/// Bytes of a tensor in exact arithmetic.
fn stored_bytes(spec: &TensorSpec, encoding: Encoding, table: Option<&Bf12Table>) -> u128 {
    let dtype = encoding.dtype();
    let (rows, element) = (spec.rows as u128, (dtype.bits() / 8) as u128);
    if spec.layout() == TensorLayout::Vector {
        return rows * element;
    }
    let steps = spec.columns.expect("a matrix").div_ceil(dtype.columns_per_step()) as u128;
    let panels = rows.div_ceil(PANEL_ROWS as u128);
    if let Encoding::Quantized(Quantization { elements, scales }) = encoding {
        let elements = if elements == Elements::Int8 { 2048 } else { 1024 };
        let (factors, scales) = match scales {
            Scales::F16 => (0, 128),
            Scales::Row32 => (256, 64),
            Scales::Row16 => (256, 128),
        };
        return panels * (factors + steps * (scales + elements));
    }
    match table {
        None => panels * steps * dtype.columns_per_step() as u128 * PANEL_ROWS as u128 * element,
        Some(table) => panels * steps * 192 + table.n_raw_steps() as u128 * 64,
    }
}
