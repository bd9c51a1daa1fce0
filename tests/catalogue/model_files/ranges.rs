//! Rows O15 to O18: extents of tensors and sections, and the padding between them.

use super::header;
use super::model::Model;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::sizes::Extent;
use olmo_infer::internals::format::{HEADER_BYTES, Header, SectionRecord, TensorRecord, section};
use olmo_tests::catalogue::Report;
use olmo_tests::crafted::Field;
use std::mem::offset_of;

/// Row O15: offsets and lengths.
#[test]
fn o15_refuses_wrong_offsets_and_lengths() {
    let model = Model::plain();
    let mut report = Report::new("O15");
    let length = model.good.len() as u64;
    let places = |extent: Extent| {
        let Extent { offset, bytes } = extent;
        let far = [1 << 31, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - bytes, u64::MAX - bytes + 1, u64::MAX];
        let near = [0, 1, 4095, 4096, length - bytes + 1, length - 1, length, length + 1, offset + bytes];
        near.into_iter().chain(far).filter(|value| *value != offset).collect::<Vec<u64>>()
    };
    for tensor in ["embed_tokens", "q_norm", "lm_head"] {
        let (index, extent) = (model.tensor(tensor), model.file.layout().tensors[model.tensor(tensor)]);
        let says = [&format!("{tensor}.weight: offset: found "), &format!("expected {}", extent.offset)];
        let field = Field::of_tensor(index, offset_of!(TensorRecord, offset), 8);
        model.refuse_values(&mut report, "offset", field, &places(extent), &says.map(|says| says.as_ref()));
        let field = Field::of_tensor(index, offset_of!(TensorRecord, bytes), 8);
        let lengths = [0, 1, extent.bytes - 1, extent.bytes + 1, length, i64::MAX as u64, 1 << 63, u64::MAX];
        model.refuse_values(&mut report, "bytes", field, &lengths, &[&format!("{tensor}.weight: bytes: found ")]);
    }
    for kind in [section::SOURCES, section::PROVENANCE] {
        let extent = model.file.layout().sections[model.section(kind)];
        let field = model.section_field(kind, offset_of!(SectionRecord, offset), 8);
        let says = format!("section {}: offset: found ", section::name(kind));
        model.refuse_values(&mut report, "section", field, &places(extent), &[&says]);
        let field = model.section_field(kind, offset_of!(SectionRecord, bytes), 8);
        let too_long = [(64 << 20) + 1, 1 << 31, i64::MAX as u64, 1 << 63, u64::MAX];
        let says = format!("section {}: found ", section::name(kind));
        model.refuse_values(&mut report, "section", field, &too_long, &[&says, " bytes, expected at most "]);
        // One byte more may fit before the next section begins, or not.
        for value in [0, extent.bytes - 1, extent.bytes + 1, 16 << 20] {
            let path = model.write("bad.olmo", &model.with(&[(field, value)]));
            let words = [": found ", "the file is damaged"];
            match ModelFile::open(&path) {
                Ok(_) => {
                    model.damage_is_reported(&mut report, "section", &path, &format!("section {}", section::name(kind)))
                }
                Err(_) => model.refuse_path(&mut report, &format!("section {value}"), &path, &words),
            }
        }
    }
}

/// Row O16: alignment.
///
/// Note on O16: The alignments are constants of the format.
#[test]
fn o16_refuses_wrong_alignment() {
    let model = Model::plain();
    let mut report = Report::new("O16");
    for tensor in ["embed_tokens", "o_proj", "model.norm"] {
        let field = Field::of_tensor(model.tensor(tensor), offset_of!(TensorRecord, offset), 8);
        let right = field.get(&model.good);
        let values = [1, 2, 4, 32, 64, 128, 255].map(|off| right + off);
        model.refuse_values(&mut report, tensor, field, &values, &[&format!("{tensor}.weight: offset: found ")]);
    }
    for kind in [section::SOURCES, section::CONFIG_JSON] {
        let field = model.section_field(kind, offset_of!(SectionRecord, offset), 8);
        let values = [1, 8, 32, 63].map(|off| field.get(&model.good) + off);
        model.refuse_values(
            &mut report,
            "section",
            field,
            &values,
            &[&format!("section {}: offset: found ", section::name(kind))],
        );
    }
    let field = header(offset_of!(Header, data_offset), 8);
    let right = field.get(&model.good);
    let values = [1, 64, 256, 4095].map(|off| right + off).into_iter().chain([u64::MAX - 62]).collect::<Vec<u64>>();
    model.refuse_values(&mut report, "data_offset", field, &values, &[": data offset: found "]);
}

/// Row O17: ranges that overlap, leave gaps, or are swapped.
#[test]
fn o17_refuses_overlaps_and_gaps() {
    let model = Model::plain();
    let mut report = Report::new("O17");
    let offset = |index: usize| Field::of_tensor(index, offset_of!(TensorRecord, offset), 8);
    let bytes_of = |index: usize| Field::of_tensor(index, offset_of!(TensorRecord, bytes), 8);
    let (gate, up) = (model.tensor("gate_proj"), model.tensor("up_proj"));
    let [at_gate, at_up] = [gate, up].map(|index| offset(index).get(&model.good));
    let length = bytes_of(gate).get(&model.good);
    for (variant, changes, says) in [
        ("two on one range", vec![(offset(up), at_gate)], "up_proj.weight: offset: found "),
        ("reversed", vec![(offset(gate), at_up), (offset(up), at_gate)], "gate_proj.weight: offset: found "),
        ("overlap", vec![(offset(up), at_up - 256)], "up_proj.weight: offset: found "),
        ("hole", vec![(offset(up), at_up + 256)], "up_proj.weight: offset: found "),
        ("one over both", vec![(bytes_of(gate), at_up + length - at_gate)], "gate_proj.weight: bytes: found "),
        ("over the index", vec![(offset(gate), HEADER_BYTES as u64)], "gate_proj.weight: offset: found "),
    ] {
        model.refuse(&mut report, variant, &model.with(&changes), &[says]);
    }
    let section = |kind: u32| model.section_field(kind, offset_of!(SectionRecord, offset), 8);
    let [first, second] = [section(section::SOURCES), section(section::VOCABULARY)];
    let [at_first, at_second] = [first, second].map(|field| field.get(&model.good));
    for (variant, changes, says) in [
        ("sections on one range", vec![(second, at_first)], "section VOCABULARY: offset: found "),
        ("sections reversed", vec![(first, at_second), (second, at_first)], "section SOURCES: offset: found "),
        ("a section in the data", vec![(second, at_gate)], "section VOCABULARY: offset: found "),
        ("a hole between sections", vec![(second, at_second + 64)], "section VOCABULARY: offset: found "),
    ] {
        model.refuse(&mut report, variant, &model.with(&changes), &[says]);
    }
}

/// Row O18: padding that is not zero.
#[test]
fn o18_verify_finds_nonzero_padding() {
    let model = Model::plain();
    let mut report = Report::new("O18");
    let layout = model.file.layout();
    let parts: Vec<Extent> = layout.sections.iter().chain(&layout.tensors).copied().collect();
    let ends = parts.windows(2).map(|pair| (pair[0].end(), pair[1].offset));
    let last = parts.last().expect("tensors").end();
    let gaps: Vec<(u64, u64)> = ends.chain([(last, layout.file_bytes)]).filter(|(from, to)| from < to).collect();
    assert!(gaps.len() >= 5, "{gaps:?}");
    for (from, to) in gaps {
        for at in [from, to - 1] {
            let mut bytes = model.good.clone();
            bytes[at as usize] = 1;
            let says = format!(": byte {at}: padding that is not zero");
            model.refuse_when_checked(&mut report, &format!("byte {at}"), &bytes, &[&says]);
        }
    }
}
