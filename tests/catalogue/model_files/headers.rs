//! Rows O4 to O8: the header, its digests, and the digest of the index.

use super::header;
use super::model::Model;
use olmo_infer::internals::format::{ConfigBlock, HEADER_BYTES, Header, SectionRecord, TensorRecord, section};
use olmo_tests::catalogue::{Report, Run};
use olmo_tests::crafted::{Field, config_field, repair_header_digest};
use std::mem::offset_of;

/// Row O4: versions.
///
/// Note on O4: A newer minor version is read.
#[test]
fn o4_refuses_other_versions() {
    let model = Model::plain();
    let mut report = Report::new("O4");
    let [major, minor] = [header(offset_of!(Header, version_major), 2), header(offset_of!(Header, version_minor), 2)];
    for value in [0, 2, 3, 0x100, 0x7fff, 0xffff] {
        let advice =
            if value == 0 { "pack the weights again with olmo-pack" } else { "use the olmo-infer that came with" };
        let says = format!("needs format {value}.0, this program reads format 1.0; {advice}");
        model.refuse(&mut report, format!("major {value}"), &model.with(&[(major, value)]), &[&says]);
        // In a version with another layout only this field is known.
        let mut bytes = model.good.clone();
        bytes[HEADER_BYTES..].fill(0x5a);
        major.set(&mut bytes, value);
        model.refuse(&mut report, format!("major {value}, another layout"), &bytes, &[&says]);
    }
    let both = model.with(&[(major, 0xffff), (minor, 0xffff)]);
    model.refuse(&mut report, "all ones", &both, &["needs format 65535.65535"]);
    for value in [1, 0xffff] {
        let newer = model.write("newer.olmo", &model.with(&[(minor, value)]));
        for opener in ["olmo-infer", "verify", "inspect"] {
            let run = Run::new(&mut model.opener(opener, &newer)).expect("ends");
            report.holds(format_args!("minor {value}, {opener}"), run.status.success(), run.stderr);
        }
    }
}

/// Row O5: byte order.
#[test]
fn o5_refuses_other_byte_order() {
    let model = Model::plain();
    let mut report = Report::new("O5");
    let mark = header(offset_of!(Header, byte_order), 4);
    let swapped = model.with(&[(mark, 0x0403_0201)]);
    model.refuse(&mut report, "swapped", &swapped, &["byte order: found big-endian, expected little-endian"]);
    let values = [0, 1, 0x0201_0403, 0x0102_0305, 0xffff_ffff];
    model.refuse_values(&mut report, "byte_order", mark, &values, &["byte order mark: found ", "expected 16909060"]);
    // All of it written by a machine of the other kind.
    let mut bytes = model.with(&[(mark, 0x0403_0201), (header(offset_of!(Header, version_major), 2), 0x0100)]);
    bytes[16..24].reverse();
    model.refuse(&mut report, "all fields swapped", &bytes, &["big-endian"]);
}

/// Row O6: lengths in the header.
#[test]
fn o6_refuses_wrong_header_lengths() {
    let model = Model::plain();
    let mut report = Report::new("O6");
    let length = model.good.len() as u64;
    let mut values = |name: &str, at: usize, bytes: usize, right: u64, place: &str| {
        let field = header(at, bytes);
        assert_eq!(field.get(&model.good), right, "{name}");
        let all = [0, 1, right - 1, right + 1, length + 1, 1 << 31, u64::MAX >> 1, 1 << 63, u64::MAX];
        let all: Vec<u64> = all.into_iter().filter(|value| bytes == 8 || *value <= u32::MAX.into()).collect();
        model.refuse_values(&mut report, name, field, &all, &[place]);
    };
    values("header_bytes", offset_of!(Header, header_bytes), 4, HEADER_BYTES as u64, ": header bytes: found ");
    values("file_bytes", offset_of!(Header, file_bytes), 8, length, " bytes, expected ");
    let layout = model.file.layout();
    values("index_bytes", offset_of!(Header, index_bytes), 8, layout.index.bytes, ": index bytes: found ");
    values("data_offset", offset_of!(Header, data_offset), 8, layout.data_offset, ": data offset: found ");
    values("data_bytes", offset_of!(Header, data_bytes), 8, length - layout.data_offset, ": data bytes: found ");
    let all = [
        (header(offset_of!(Header, header_bytes), 4), u64::MAX),
        (header(offset_of!(Header, file_bytes), 8), u64::MAX),
        (header(offset_of!(Header, index_bytes), 8), u64::MAX),
    ];
    model.refuse(&mut report, "all huge", &model.with(&all), &["truncated"]);
}

/// Row O7: digests of header and index.
#[test]
fn o7_refuses_wrong_digests() {
    let model = Model::bf12();
    let mut report = Report::new("O7");
    let mut flip = |variant: &str, at: usize, place: &str| {
        let mut bytes = model.good.clone();
        bytes[at] ^= 1;
        model.refuse(&mut report, variant, &bytes, &[place, "the file is damaged, copy or pack it again"]);
    };
    for (name, at) in [
        ("version_minor", offset_of!(Header, version_minor)),
        ("file_bytes", offset_of!(Header, file_bytes)),
        ("optional_features", offset_of!(Header, optional_features)),
        ("n_tensors", offset_of!(Header, n_tensors)),
        ("index_digest", offset_of!(Header, index_digest)),
        ("reserved_b", offset_of!(Header, reserved_b)),
        ("config", offset_of!(Header, config)),
        ("bos_token_id", offset_of!(Header, config) + offset_of!(ConfigBlock, bos_token_id)),
        ("the last reserved byte", offset_of!(Header, header_digest) - 1),
        ("header_digest", offset_of!(Header, header_digest)),
        ("the last byte of header_digest", HEADER_BYTES - 1),
    ] {
        flip(name, at, ": header digest: found ");
    }
    let last = model.n_tensors() - 1;
    for (name, field) in [
        ("role", Field::of_tensor(0, offset_of!(TensorRecord, role), 4)),
        ("digest", Field::of_tensor(3, offset_of!(TensorRecord, digest), 8)),
        ("min_magnitude", Field::of_tensor(last, offset_of!(TensorRecord, min_magnitude), 4)),
        ("reserved", Field::of_tensor(last, size_of::<TensorRecord>() - 1, 1)),
        ("kind", model.section_field(section::SOURCES, offset_of!(SectionRecord, kind), 4)),
        ("reserved of a section", model.section_field(section::BF12, size_of::<SectionRecord>() - 1, 1)),
    ] {
        flip(name, field.at, ": index digest: found ");
    }
    // Right for the header, wrong for the index.
    let mut bytes = model.good.clone();
    header(offset_of!(Header, index_digest), 8).set(&mut bytes, 0);
    repair_header_digest(&mut bytes);
    model.refuse(&mut report, "index_digest 0", &bytes, &[": index digest: found ", "expected 0000000000000000"]);
}

/// Row O8: reserved fields, flags, features, vocabularies.
#[test]
fn o8_refuses_reserved_fields_and_unknown_flags() {
    let model = Model::plain();
    let mut report = Report::new("O8");
    let reserved_c = offset_of!(Header, reserved_c);
    let places = [
        offset_of!(Header, reserved_a),
        offset_of!(Header, reserved_a) + 3,
        offset_of!(Header, reserved_b),
        offset_of!(Header, reserved_b) + 39,
        reserved_c,
        offset_of!(Header, header_digest) - 1,
    ];
    for at in places {
        let bytes = model.with(&[(header(at, 1), 0x80)]);
        model.refuse(
            &mut report,
            format!("byte {at}"),
            &bytes,
            &[": reserved header fields: found ", "expected zeros"],
        );
    }
    model.refuse_values(
        &mut report,
        "config.reserved",
        config_field("reserved"),
        &[1, u64::MAX],
        &[": reserved is set"],
    );
    for at in [offset_of!(TensorRecord, reserved), size_of::<TensorRecord>() - 1] {
        let (index, words) = (model.tensor("q_proj"), ["q_proj.weight: reserved fields: found ", "expected zeros"]);
        model.refuse_values(&mut report, "record", Field::of_tensor(index, at, 1), &[1, 0x80], &words);
    }
    for at in [offset_of!(SectionRecord, reserved), size_of::<SectionRecord>() - 1] {
        let field = model.section_field(section::PROVENANCE, at, 1);
        model.refuse_values(
            &mut report,
            "section",
            field,
            &[1, 0x80],
            &["section PROVENANCE: reserved fields: found "],
        );
    }
    let flags = model.section_field(section::PROVENANCE, offset_of!(SectionRecord, flags), 4);
    model.refuse_values(
        &mut report,
        "flags",
        flags,
        &[2, 3, 1 << 31, u64::MAX],
        &["section PROVENANCE: found unknown flags"],
    );
    let features = header(offset_of!(Header, required_features), 8);
    let newer = ["needs feature bits 0x", "this program reads format 1.0"];
    model.refuse_values(&mut report, "required_features", features, &[32, 33, 1 << 32, 1 << 63, u64::MAX], &newer);
    let no_drafts = ["number of tensors: found 14, expected 14 and 1 to 9 drafts"];
    model.refuse_values(&mut report, "required_features", features, &[2, 3], &no_drafts);
    for value in [1, 4, 5, 8, 16, 25] {
        let says = format!("required features: found {value}, expected 0");
        model.refuse_values(&mut report, "required_features", features, &[value], &[&says]);
    }
    let optional = header(offset_of!(Header, optional_features), 8);
    let newer = model.write("newer.olmo", &model.with(&[(optional, u64::MAX)]));
    for opener in ["olmo-infer", "verify"] {
        let run = Run::new(&mut model.opener(opener, &newer)).expect("ends");
        report.holds(format_args!("optional_features, {opener}"), run.status.success(), run.stderr);
    }
}
