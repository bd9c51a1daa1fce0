//! Rows O26 and O27: raw steps and tables of bf12 matrices.

use super::model::Model;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_infer::internals::format::{Encoding, SectionRecord, TensorRecord, section};
use olmo_tests::bf12_config;
use olmo_tests::catalogue::Report;
use olmo_tests::crafted::{Field, claimed, write_holes_that_are_tables};
use std::fs::File;
use std::mem::offset_of;

/// Row O26: numbers of raw steps, lengths of tables.
#[test]
fn o26_refuses_wrong_raw_step_counts() {
    let model = Model::bf12();
    let mut report = Report::new("O26");
    let field = |tensor: &str, at| Field::of_tensor(model.tensor(tensor), at, 4);
    let n_raw_steps = offset_of!(TensorRecord, n_raw_steps);
    let gate = field("gate_proj", n_raw_steps);
    assert_eq!(gate.get(&model.good), 1);
    model.refuse_values(&mut report, "gate_proj", gate, &[0], &["section BF12: found "]);
    let too_many = [2, 9, 10, 1 << 16, 1 << 31, u64::MAX];
    let words = ["gate_proj.weight: found ", " raw steps, expected at most one of eight steps"];
    model.refuse_values(&mut report, "gate_proj", gate, &too_many, &words);
    let words = ["q_norm.weight: found ", " raw steps, expected none, as in every tensor that is not bf12"];
    model.refuse_values(&mut report, "q_norm", field("q_norm", n_raw_steps), &[1, u64::MAX], &words);
    let bytes = model.section_field(section::BF12, offset_of!(SectionRecord, bytes), 8);
    let right = bytes.get(&model.good);
    let values = [0, 4, right - 4, right - 1, right + 1, right + 4, 64 << 20];
    model.refuse_values(
        &mut report,
        "BF12",
        bytes,
        &values,
        &["section BF12: found ", &format!("expected {right} bytes")],
    );
    let beyond = [(64 << 20) + 1, 1 << 63, u64::MAX];
    model.refuse_values(&mut report, "BF12", bytes, &beyond, &["section BF12: found ", "expected at most 67108864"]);
}

/// An embedding with the most raw steps that a bf12 matrix can have, in a file of 19 GB.
fn claimed_tables(model: &Model, tables: &[u8]) -> (Vec<u8>, u64) {
    let config = ModelConfig { vocab_size: 1 << 24, hidden_size: 768, ..bf12_config() };
    let mut encodings = layout::uniform(&tensors_of(&config), Encoding::Bf16);
    encodings[0] = Encoding::Bf12 { n_raw_steps: (1 << 24) / 64 * 384 / 8 };
    let (mut bytes, layout) = claimed(&model.good, &config, &encodings);
    bytes.extend_from_slice(tables);
    (bytes, layout.file_bytes)
}

/// Row O26.
#[test]
fn o26_refuses_claimed_tables_cheaply() {
    let model = Model::bf12();
    let mut report = Report::new("O26");
    let exponents: Vec<u8> = (100..116).collect();
    let one_each: Vec<u8> = (0..(1 << 24) / 64).flat_map(|_| 48u32.to_le_bytes()).collect();
    for (variant, tables, says) in [
        ("nothing of them is there", vec![], "exponents [0, 0"),
        ("exponents are there", exponents.clone(), "0 raw steps, expected the raw steps of the record"),
        ("numbers of steps are there", [exponents, one_each].concat(), "raw step 0 after 0, expected ascending"),
    ] {
        let (bytes, length) = claimed_tables(&model, &tables);
        let path = model.write("claimed.olmo", &bytes);
        File::options().write(true).open(&path).expect("open").set_len(length).expect("a sparse file");
        model.refuse_path(&mut report, variant, &path, &["section BF12: model.embed_tokens.weight: found ", says]);
    }
}

/// Row O26.
///
/// Many tables, each of them valid, under a wrong digest, nearly all of them holes. A reader that keeps tables before
/// it has checked the digest would need as much memory as the file claims.
#[test]
fn o26_refuses_tables_made_of_holes() {
    let model = Model::bf12();
    let mut report = Report::new("O26");
    let path = model.write("holes.olmo", &[]);
    write_holes_that_are_tables(&path, &model.good);
    model.refuse_path(&mut report, "a wrong digest", &path, &["section BF12: digest: found "]);
}

/// Row O27: tables of raw steps.
///
/// Note on O27: A file that is modified while it is mapped cannot change a table: tables are read into memory of the
/// process.
#[test]
fn o27_refuses_wrong_raw_step_tables() {
    let model = Model::bf12();
    let mut report = Report::new("O27");
    // The embedding's table is the first: 16 exponents, the raw steps of two panels, and one step of each.
    let says = ["section BF12: model.embed_tokens.weight: found "];
    let u32_at =
        |at: usize, value: u32| move |bytes: &mut [u8]| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let mut refuse = |variant: &str, change: &dyn Fn(&mut [u8])| {
        model.refuse(&mut report, variant, &model.with_section(section::BF12, change), &says);
    };
    refuse("exponents exchanged", &|bytes| bytes.swap(3, 4));
    refuse("an exponent twice", &|bytes| bytes[4] = bytes[3]);
    refuse("exponents of zeros", &|bytes| bytes[..16].fill(0));
    for count in [0, 2, 9, 1 << 31, u32::MAX] {
        refuse(&format!("{count} raw steps in the first panel"), &u32_at(16, count));
        refuse(&format!("{count} raw steps in the second panel"), &u32_at(20, count));
    }
    for step in [9, 10, 1 << 31, u32::MAX] {
        refuse(&format!("raw step {step} in the first panel"), &u32_at(24, step));
        refuse(&format!("raw step {step} in the second panel"), &u32_at(28, step));
    }
    for (variant, steps) in [("reversed", [5, 3]), ("repeated", [5, 5])] {
        refuse(variant, &|bytes| {
            let numbers = [0, 2, steps[0], steps[1]];
            numbers.iter().enumerate().for_each(|(i, &number)| u32_at(16 + 4 * i, number)(bytes));
        });
    }
    // Not repaired.
    let mut bytes = model.good.clone();
    bytes[model.file.layout().sections[model.section(section::BF12)].offset as usize] ^= 0x40;
    model.refuse(&mut report, "a flipped bit", &bytes, &["section BF12: digest: found "]);
}
