//! Rows O9, O12 to O14 and O28: the records of tensors and sections.

use super::header;
use super::model::Model;
use olmo_infer::internals::format::{Header, SectionRecord, TensorRecord, section};
use olmo_tests::catalogue::Report;
use olmo_tests::crafted::{Field, repair_digests};
use std::mem::offset_of;

/// Row O9: element types.
#[test]
fn o9_refuses_unknown_element_types() {
    let mut report = Report::new("O9");
    for model in [Model::plain(), Model::bf12()] {
        let dtype = |tensor: &str| Field::of_tensor(model.tensor(tensor), offset_of!(TensorRecord, dtype), 4);
        let wrong = [0, 5, 1 << 31, u64::MAX];
        let expected = "expected 1 (f32), 2 (bf16), 3 (int8) or 4 (int4)";
        let first = ["model.embed_tokens.weight: found element type ", expected];
        model.refuse_values(&mut report, "first", dtype("embed_tokens"), &wrong, &first);
        let is_f32 = dtype("embed_tokens").get(&model.good) == 1;
        for tensor in ["q_proj", "down_proj", "lm_head"] {
            let says = format!("{tensor}.weight: found element type ");
            model.refuse_values(&mut report, tensor, dtype(tensor), &[0, 5, u64::MAX], &[&says, expected]);
            // Quantized matrices have scales.
            let says = format!("{tensor}.weight: found encoding ");
            let scales = "expected 2, 3 or 4 (scales), as in int8 and int4 tensors";
            model.refuse_values(&mut report, tensor, dtype(tensor), &[3, 4], &[&says, scales]);
            // The other type has other sizes, and f32 matrices are not bf12.
            let contradicted = format!("{tensor}.weight: found encoding 1 (bf12), expected 0 (plain)");
            let (other, says) = if is_f32 { (2, "file bytes: found ") } else { (1, contradicted.as_str()) };
            model.refuse_values(&mut report, tensor, dtype(tensor), &[other], &[says]);
        }
        for tensor in ["q_norm", "model.norm"] {
            let says = format!("{tensor}.weight: found element type ");
            model.refuse_values(&mut report, tensor, dtype(tensor), &[0, 2, 3, u64::MAX], &[&says, "expected 1"]);
        }
    }
}

/// Row O12: record counts.
#[test]
fn o12_refuses_wrong_record_counts() {
    let model = Model::plain();
    let mut report = Report::new("O12");
    let (n_tensors, n_sections) = (model.n_tensors() as u64, model.file.sections().len() as u64);
    let [tensors, sections] = [header(offset_of!(Header, n_tensors), 4), header(offset_of!(Header, n_sections), 4)];
    let index_bytes = header(offset_of!(Header, index_bytes), 8);
    let says = ": number of tensors: found ";
    let expected = format!(", expected {n_tensors}");
    for value in [0, 1, n_tensors - 1, n_tensors + 1, 1 << 16, 1 << 31, u32::MAX.into()] {
        let fits = value * size_of::<TensorRecord>() as u64 + n_sections * size_of::<SectionRecord>() as u64;
        for (variant, changes) in
            [("", &[(tensors, value)][..]), (" and bytes", &[(tensors, value), (index_bytes, fits)])]
        {
            let variant = format!("{value} tensors{variant}");
            model.refuse(&mut report, variant, &model.with(changes), &[says, &expected]);
        }
    }
    for value in [65, 1 << 16, 1 << 31, u32::MAX.into()] {
        let bytes = model.with(&[(sections, value)]);
        let words = [": number of sections: found ", "expected at most 64"];
        model.refuse(&mut report, format!("{value} sections"), &bytes, &words);
    }
    for value in [0, 1, n_sections - 1, n_sections + 1, 64] {
        let bytes = model.with(&[(sections, value)]);
        model.refuse(&mut report, format!("{value} sections"), &bytes, &[": index bytes: found "]);
        let fits = n_tensors * size_of::<TensorRecord>() as u64 + value * size_of::<SectionRecord>() as u64;
        let bytes = model.with(&[(sections, value), (index_bytes, fits)]);
        // Fewer sections are another layout; more of them are zeros or the bytes of the first section.
        let says = if value < n_sections { ": found " } else { ": section " };
        model.refuse(&mut report, format!("{value} sections and bytes"), &bytes, &[says]);
    }
}

/// Row O13: roles, layers and kinds: unknown, twice, in another order.
#[test]
fn o13_refuses_wrong_record_names() {
    let model = Model::plain();
    let mut report = Report::new("O13");
    let [role, layer] = [offset_of!(TensorRecord, role), offset_of!(TensorRecord, layer)];
    let q_proj = model.tensor("q_proj");
    let says = "q_proj.weight: role: found ";
    model.refuse_values(&mut report, "role", Field::of_tensor(q_proj, role, 4), &[0, 1, 3, 14, 15, u64::MAX], &[says]);
    let says = "q_proj.weight: layer: found ";
    let layers = [1, 1023, 1 << 31, u64::MAX];
    model.refuse_values(&mut report, "layer", Field::of_tensor(q_proj, layer, 4), &layers, &[says, "expected 0"]);
    let norm = Field::of_tensor(model.tensor("model.norm"), layer, 4);
    model.refuse_values(&mut report, "layer", norm, &[0, 1], &["model.norm.weight: layer: found "]);
    // Whole records: two of one shape exchanged, one of them twice, all of them moved.
    let record = |index: usize| {
        let at = Field::of_tensor(index, 0, 1).at;
        at..at + size_of::<TensorRecord>()
    };
    let (gate, up) = (model.tensor("gate_proj"), model.tensor("up_proj"));
    for (variant, from, to) in [("gate_proj twice", gate, up), ("up_proj twice", up, gate)] {
        let mut bytes = model.good.clone();
        bytes.copy_within(record(from), record(to).start);
        repair_digests(&mut bytes);
        model.refuse(&mut report, variant, &bytes, &[": role: found "]);
    }
    let mut exchanged = model.good.clone();
    exchanged[record(gate)].copy_from_slice(&model.good[record(up)]);
    exchanged[record(up)].copy_from_slice(&model.good[record(gate)]);
    repair_digests(&mut exchanged);
    model.refuse(&mut report, "exchanged", &exchanged, &["gate_proj.weight: role: found 10, expected 9"]);
    let mut moved = model.good.clone();
    moved[record(0).start..record(model.n_tensors()).start].rotate_left(size_of::<TensorRecord>());
    repair_digests(&mut moved);
    model.refuse(&mut report, "moved", &moved, &["model.embed_tokens.weight: role: found "]);
    // Kinds of sections: ascending, each once, not 0.
    let kind = |of: u32| model.section_field(of, offset_of!(SectionRecord, kind), 4);
    let out_of_order = ["found a kind out of order, expected ascending kinds"];
    model.refuse_values(&mut report, "kind", kind(section::SOURCES), &[0, 2, 3, 99], &out_of_order);
    model.refuse_values(&mut report, "kind", kind(section::VOCABULARY), &[0, 1, 3], &out_of_order);
    model.refuse_values(&mut report, "kind", kind(section::PROVENANCE), &[0, 1, 2, 3], &out_of_order);
}

/// Row O14: shapes.
#[test]
fn o14_refuses_wrong_shapes() {
    let model = Model::plain();
    let mut report = Report::new("O14");
    for tensor in ["embed_tokens", "down_proj", "q_norm"] {
        for (field, at) in [("rows", offset_of!(TensorRecord, rows)), ("columns", offset_of!(TensorRecord, columns))] {
            let place = Field::of_tensor(model.tensor(tensor), at, 8);
            let right = place.get(&model.good);
            // Some of these times some of the others wrap to the right product.
            let values = [0, right + 1, right + (1 << 32), right + (1 << 63), 1 << 31, 1 << 32, 1 << 63, u64::MAX];
            let says = [&format!("{tensor}.weight: {field}: found "), &format!("expected {right}")];
            model.refuse_values(&mut report, field, place, &values, &says.map(|says| says.as_ref()));
        }
        let at = [offset_of!(TensorRecord, rows), offset_of!(TensorRecord, columns)];
        let both = at.map(|at| Field::of_tensor(model.tensor(tensor), at, 8));
        let exchanged = [(both[0], both[1].get(&model.good)), (both[1], both[0].get(&model.good))];
        model.refuse(&mut report, "transposed", &model.with(&exchanged), &[&format!("{tensor}.weight: rows: found ")]);
        let overflows = [(both[0], 1 << 33), (both[1], 1 << 33)];
        model.refuse(&mut report, "overflow", &model.with(&overflows), &[&format!("{tensor}.weight: rows: found ")]);
    }
}

/// Row O28: unknown encodings, layouts and required sections.
#[test]
fn o28_refuses_unknown_codes() {
    let mut report = Report::new("O28");
    let coded = Model::bf12();
    let plain = Model::plain();
    let [layout, encoding] = [offset_of!(TensorRecord, layout), offset_of!(TensorRecord, encoding)];
    for model in [&coded, &plain] {
        for tensor in ["embed_tokens", "down_proj", "q_norm"] {
            let field = |at| Field::of_tensor(model.tensor(tensor), at, 4);
            let record = model.file.records()[model.tensor(tensor)];
            let says = match (record.n_raw_steps.get(), record.dtype.get()) {
                (0, 1) => "expected 0 (plain), as every f32 tensor has",
                (0, _) => "expected 0 (plain) or 1 (bf12)",
                _ => "raw steps, expected none, as in every tensor that is not bf12",
            };
            let says = [&format!("{tensor}.weight: found "), says];
            model.refuse_values(&mut report, "encoding", field(encoding), &[2, 3, 1 << 31, u64::MAX], &says);
            let wrong = if tensor == "q_norm" { 2 } else { 1 };
            let says = format!("{tensor}.weight: layout: found ");
            model.refuse_values(&mut report, "layout", field(layout), &[0, wrong, 3, u64::MAX], &[&says]);
        }
        let norm = Field::of_tensor(model.tensor("q_norm"), encoding, 4);
        let says = ["q_norm.weight: found encoding 1 (bf12), expected 0 (plain), as every f32 tensor has"];
        model.refuse_values(&mut report, "a bf12 vector", norm, &[1], &says);
        // A kind that this reader does not know: passed over, or refused when it must be known.
        let kind = model.section_field(model.file.sections().last().expect("one").kind.get(), 0, 4);
        let flags = Field { at: kind.at + offset_of!(SectionRecord, flags), bytes: 4 };
        let bytes = model.with(&[(kind, 60), (flags, 1)]);
        let says = ["needs section 60, this program reads format 1.0"];
        model.refuse(&mut report, "a required section", &bytes, &says);
    }
    let q_proj = Field::of_tensor(plain.tensor("q_proj"), encoding, 4);
    let says = ["q_proj.weight: found encoding 1 (bf12), expected 0 (plain), as every f32 tensor has"];
    plain.refuse_values(&mut report, "bf12 in an f32 file", q_proj, &[1], &says);
    let q_proj = Field::of_tensor(coded.tensor("q_proj"), encoding, 4);
    coded.refuse_values(&mut report, "one plain matrix among bf12", q_proj, &[0], &["section BF12: found "]);
    let features = header(offset_of!(Header, required_features), 8);
    coded.refuse_values(&mut report, "no feature", features, &[0], &["required features: found 0, expected 1"]);
    let flags = coded.section_field(section::BF12, offset_of!(SectionRecord, flags), 4);
    coded.refuse_values(&mut report, "BF12 not required", flags, &[0], &["section BF12: found unknown flags"]);
}
