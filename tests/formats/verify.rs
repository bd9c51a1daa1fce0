//! `verify` finds what is wrong with a model file under right digests too, and names the place. `reader_exhaustive.rs`
//! has the damage that digests find.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::encodings::bf12::{CODED_STEP_BYTES, RAW_STEP_BYTES};
use olmo_infer::internals::format::layout::Layout;
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::format::{self, Dtype, HEADER_BYTES, SectionRecord, TokenizerHead, VocabularyHead, section};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::copy;
use olmo_pack::commands::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::commands::verify;
use olmo_pack::encode::pool;
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::packed::{Packed, range, tiny_config};
use olmo_tests::{Stored, TempDir, bf12_config, files, repository, write_bf12_weights, write_weights};
use std::fs;
use std::mem::offset_of;
use std::path::Path;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Packs random weights in process, plain, and returns the layout.
fn packed(folder: &TempDir, config: &ModelConfig, dtype: DtypeChoice) -> (Layout, Vec<TensorSpec>, Vec<u32>) {
    write_weights(&folder.join("w"), config, Stored::F32, 3);
    packed_as(folder, dtype, EncodingChoice::Plain)
}

/// Packs weights with bf12 matrices and raw steps.
fn packed_bf12(folder: &TempDir) -> (Layout, Vec<TensorSpec>, Vec<u32>) {
    write_bf12_weights(&folder.join("w"));
    packed_as(folder, DtypeChoice::Bf16, EncodingChoice::Auto)
}

fn packed_as(folder: &TempDir, dtype: DtypeChoice, encoding: EncodingChoice) -> (Layout, Vec<TensorSpec>, Vec<u32>) {
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    fs::write(weights.join("vocab.txt"), "0\ta\n1\tbc\n4\td\n").expect("written");
    pack_folder(&weights, &model, dtype, encoding);
    verify::run(&model).unwrap_or_else(|error| panic!("{error}"));
    let file = ModelFile::open(&model).expect("a model");
    let kinds = file.sections().iter().map(|record| record.kind.get()).collect();
    (file.layout().clone(), file.specs().to_vec(), kinds)
}

#[track_caller]
fn pack_folder(weights: &Path, model: &Path, dtype: DtypeChoice, encoding: EncodingChoice) {
    let program = Some(PACK.into());
    let (weights, model) = (weights.into(), model.into());
    let request = Request { weights, model, dtype, encoding, program, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
}

/// Row O20, swapped tensors.
#[test]
fn finds_swapped_tensors_of_one_shape() {
    let folder = TempDir::new("exchanged");
    let plain = packed(&folder, &tiny_config(), DtypeChoice::F32);
    assert_exchanged_gate_and_up_are_found(&folder, plain);
    // bf12, and of one length: neither has a raw step.
    let folder = TempDir::new("exchanged-coded");
    write_weights(&folder.join("w"), &bf12_config(), Stored::F32, 3);
    let coded = packed_as(&folder, DtypeChoice::Bf16, EncodingChoice::Auto);
    assert!(coded.2.contains(&section::BF12));
    assert_exchanged_gate_and_up_are_found(&folder, coded);
}

fn assert_exchanged_gate_and_up_are_found(folder: &TempDir, packed: (Layout, Vec<TensorSpec>, Vec<u32>)) {
    let (layout, specs, _) = packed;
    let (gate, up) = (layout.tensors[8], layout.tensors[9]);
    assert_eq!(specs[8].shape(), specs[9].shape());
    let path = folder.join("m.olmo");
    let mut bytes = fs::read(&path).expect("a model");
    let (gate_bytes, up_bytes) = (bytes[range(gate)].to_vec(), bytes[range(up)].to_vec());
    bytes[range(gate)].copy_from_slice(&up_bytes);
    bytes[range(up)].copy_from_slice(&gate_bytes);
    // Even when the digests in the index change places with them: they are seeded with the position.
    let digest = |index: usize| HEADER_BYTES + 128 * index + 56;
    for (a, b) in (digest(8)..digest(8) + 8).zip(digest(9)..) {
        bytes.swap(a, b);
    }
    repair_digests(&mut bytes);
    fs::write(&path, bytes).expect("written");
    let found = verify::run(&path).expect_err("found").to_string();
    assert_eq!(found.lines().count(), 2, "{found}");
    assert!(
        found.contains("mlp.gate_proj.weight: its digest") && found.contains("mlp.up_proj.weight: its digest"),
        "{found}"
    );
}

/// Row O18, inside panels.
#[test]
fn checks_padding_and_magnitudes_under_valid_digests() {
    let config = tiny_config();
    for (choice, dtype) in [(DtypeChoice::F32, Dtype::F32), (DtypeChoice::Bf16, Dtype::Bf16)] {
        let folder = TempDir::new("crafted");
        let (layout, specs, _) = packed(&folder, &config, choice);
        let path = folder.join("m.olmo");
        let original = fs::read(&path).expect("a model");
        let (index, spec, extent) = (1, specs[1], layout.tensors[1]);
        let columns = spec.columns.expect("q_proj is a matrix");
        let shape = PanelShape { rows: spec.rows, columns, dtype };
        let crafted = |element: usize, value: f32| {
            let mut bytes = original.clone();
            let at = extent.offset as usize + element * (dtype.bits() / 8);
            bytes[at..at + (dtype.bits() / 8)].copy_from_slice(&value.to_le_bytes()[4 - (dtype.bits() / 8)..]);
            let digest = format::digest(&bytes[extent.offset as usize..extent.end() as usize], index as u64);
            let at = HEADER_BYTES + 128 * index + 56;
            bytes[at..at + 8].copy_from_slice(&digest.to_le_bytes());
            repair_digests(&mut bytes);
            fs::write(&path, bytes).expect("written");
            verify::run(&path).map_err(|error| error.to_string())
        };
        // A row past the last, which has no element.
        let found = crafted(shape.element(spec.rows, 0), 1.0).expect_err("found");
        assert!(found.contains("q_proj.weight: padding in its panels that is not zero"), "{found}");
        if dtype == Dtype::Bf16 {
            let found = crafted(shape.element(0, columns), 1.0).expect_err("found");
            assert!(found.contains("q_proj.weight: padding in its panels that is not zero"), "{found}");
        }
        // A smaller number than the index promises, a subnormal one too; a larger one is fine.
        for small in [2f32.powi(-100), 2f32.powi(-130)] {
            let found = crafted(shape.element(1, 1), small).expect_err("found");
            assert!(
                found.contains(&format!("q_proj.weight: its smallest magnitude is {small:e}, the index states ")),
                "{found}"
            );
        }
    }
}

#[test]
fn checks_bf12_spelling_under_valid_digests() {
    let folder = TempDir::new("crafted-coded");
    let (layout, specs, _) = packed_bf12(&folder);
    let path = folder.join("m.olmo");
    let original = fs::read(&path).expect("a model");
    let crafted = |tensor: &str, changes: &[(usize, u8)]| {
        let index = specs.iter().position(|spec| spec.name().contains(tensor)).expect("a tensor");
        let extent = layout.tensors[index];
        let mut bytes = original.clone();
        for &(at, byte) in changes {
            bytes[extent.offset as usize + at] = byte;
        }
        let digest = format::digest(&bytes[extent.offset as usize..extent.end() as usize], index as u64);
        let at = HEADER_BYTES + 128 * index + 56;
        bytes[at..at + 8].copy_from_slice(&digest.to_le_bytes());
        repair_digests(&mut bytes);
        fs::write(&path, bytes).expect("written");
        verify::run(&path).map_err(|error| error.to_string())
    };
    crafted("q_proj", &[]).expect("nothing changed");
    let padding = "padding in its panels that is not zero";
    let last_step = 8 * CODED_STEP_BYTES;
    let cases = [
        // q_proj has 4 rows and 17 columns: the sign of row 4, a code of row 4 and one of row 16, of the first step.
        ("q_proj", vec![(8, 0x80)], padding),
        ("q_proj", vec![(128 + 16, 1)], padding),
        ("q_proj", vec![(128, 0xff)], padding),
        // The column that pairs the last one.
        ("q_proj", vec![(last_step + 1, 1)], padding),
        ("q_proj", vec![(last_step + 128 + 2, 1)], padding),
        // Step 2 of gate_proj is raw: a row past the last one.
        ("gate_proj", vec![(2 * CODED_STEP_BYTES + 4 * 5, 1)], padding),
        // Its outlier, row 2 of the odd column, becomes 1.
        ("gate_proj", vec![(386 + 8, 0x80), (387 + 8, 0x3f)], "a raw step whose exponents all have codes"),
        // Row 1 of the first column with the smallest exponent of all.
        ("q_proj", vec![(2, 1), (128 + 4, 0)], "its smallest magnitude is "),
    ];
    for (tensor, changes, expected) in cases {
        let found = crafted(tensor, &changes).expect_err(expected);
        assert!(found.contains(&format!("{tensor}.weight: {expected}")), "{tensor} {changes:?}: {found}");
    }
}

#[test]
fn pack_records_subnormal_and_zero_weights() {
    let config = tiny_config();
    for (dtype, encoding) in [
        (DtypeChoice::F32, EncodingChoice::Plain),
        (DtypeChoice::Bf16, EncodingChoice::Plain),
        (DtypeChoice::Bf16, EncodingChoice::Auto),
    ] {
        let folder = TempDir::new("subnormal");
        let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
        write_weights(&weights, &config, Stored::F32, 3);
        for (name, values) in [
            ("model.layers.0.self_attn.q_proj.weight", [0.5f32, -2f32.powi(-130), 0.0, -0.0]),
            ("model.layers.0.self_attn.k_proj.weight", [0.0; 4]),
        ] {
            let path = weights.join(format!("{name}.npy"));
            let mut bytes = fs::read(&path).expect("a file");
            for (i, word) in bytes[128..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = values[i % 4].to_le_bytes();
            }
            fs::write(&path, bytes).expect("written");
        }
        pack_folder(&weights, &model, dtype, encoding);
        verify::run(&model).unwrap_or_else(|error| panic!("{error}"));
        let file = ModelFile::open(&model).expect("a model");
        let magnitude = |index: usize| f32::from_bits(file.records()[index].min_magnitude.get());
        assert_eq!((magnitude(1), magnitude(2)), (2f32.powi(-130), 0.0));
    }
}

/// `file` with changes in tensor `index`, each some bytes at an offset in it; all digests are right.
fn with_tensor(file: &Packed, index: usize, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = file.bytes.clone();
    let tensor = &mut bytes[range(file.layout.tensors[index])];
    for (at, change) in changes {
        tensor[*at..*at + change.len()].copy_from_slice(change);
    }
    file.repair_all(&mut bytes);
    bytes
}

/// The output of `verify` for a file in memory, one line a problem.
fn found(bytes: &[u8]) -> Vec<String> {
    let model = ModelFile::from_bytes(Path::new("m.olmo"), bytes).expect("a good index");
    let problems = verify::check(&model, &pool::thread_pool(1).expect("a pool")).into_iter();
    problems.map(|problem| format!("{}: {}", problem.tensor.unwrap_or_default(), problem.found)).collect()
}

/// A packed bf16 model of random weights whose embedding has two panels.
fn of_two_panels(config: ModelConfig, encoding: EncodingChoice) -> Packed {
    let folder = TempDir::new("two-panels");
    write_weights(&folder.join("w"), &ModelConfig { vocab_size: 100, ..config }, Stored::F32, 3);
    let (layout, specs, kinds) = packed_as(&folder, DtypeChoice::Bf16, encoding);
    Packed { name: "two panels", bytes: fs::read(folder.join("m.olmo")).expect("a model"), layout, specs, kinds }
}

#[test]
fn finds_damage_in_two_panels_as_in_one() {
    let padding = ["model.embed_tokens.weight: padding in its panels that is not zero"];
    let plain = of_two_panels(tiny_config(), EncodingChoice::Plain);
    assert_eq!(found(&plain.bytes), [""; 0]);
    // The column that pairs the third one, in row 0 of each panel.
    let shape = PanelShape { rows: 100, columns: 3, dtype: Dtype::Bf16 };
    let places = [0, 64].map(|row| (2 * shape.element(row, 3), &[1u8][..]));
    assert_eq!(found(&with_tensor(&plain, 0, &places[..1])), padding);
    assert_eq!(found(&with_tensor(&plain, 0, &places)), padding);
    let coded = of_two_panels(bf12_config(), EncodingChoice::Auto);
    assert_eq!(found(&coded.bytes), [""; 0]);
    // The same in bf12: 17 columns are 9 steps, none of them raw.
    let panel = 9 * CODED_STEP_BYTES;
    assert_eq!(coded.layout.tensors[0].bytes, 2 * panel as u64);
    let places = [0, panel].map(|panel| (panel + 8 * CODED_STEP_BYTES + 1, &[1u8][..]));
    assert_eq!(found(&with_tensor(&coded, 0, &places[..1])), padding);
    assert_eq!(found(&with_tensor(&coded, 0, &places)), padding);
}

#[test]
fn finds_needless_raw_steps_in_two_panels_as_in_one() {
    let file = Packed::bf12();
    let raw = ["model.embed_tokens.weight: a raw step whose exponents all have codes"];
    // The outliers, row 0 of column 3 and row 5 of column 16 of the panels, become 1. Panel 0 has a raw step.
    let second = 9 * CODED_STEP_BYTES + (RAW_STEP_BYTES - CODED_STEP_BYTES);
    let one = &[0x80, 0x3f][..];
    let places = [(CODED_STEP_BYTES + 2, one), (second + 8 * CODED_STEP_BYTES + 4 * 5, one)];
    assert_eq!(found(&file.bytes), [""; 0]);
    for places in [&places[..1], &places[1..], &places] {
        assert_eq!(found(&with_tensor(&file, 0, places)), raw);
    }
}

#[test]
fn infinities_and_zeros_have_no_smallest_magnitude() {
    for (dtype, encoding) in [
        (DtypeChoice::F32, EncodingChoice::Plain),
        (DtypeChoice::Bf16, EncodingChoice::Plain),
        (DtypeChoice::Bf16, EncodingChoice::Auto),
    ] {
        let folder = TempDir::new("infinite");
        let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
        write_weights(&weights, &tiny_config(), Stored::F32, 3);
        let path = weights.join("model.layers.0.self_attn.q_proj.weight.npy");
        let mut bytes = fs::read(&path).expect("a file");
        for (i, word) in bytes[128..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = [f32::INFINITY, 0.0, f32::NEG_INFINITY][i % 3].to_le_bytes();
        }
        fs::write(&path, bytes).expect("written");
        let request =
            Request { weights, model: model.clone(), dtype, encoding, allow_nonfinite: true, ..Request::default() };
        let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
        packed.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ModelFile::open(&model).expect("a model").records()[1].min_magnitude.get(), 0);
        verify::run(&model).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn checks_sections_under_valid_digests() {
    let folder = TempDir::new("crafted-sections");
    let model = folder.join("m.olmo");
    let weights = folder.join("w");
    for (name, bytes) in files(&repository().join("demo/weights")) {
        fs::create_dir_all(&weights).expect("a folder");
        fs::write(weights.join(name), bytes).expect("copied");
    }
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";
    fs::write(weights.join("chat_template.jinja"), template).expect("written");
    fs::write(weights.join("generation_config.json"), r#"{"do_sample": true, "top_p": 0.95}"#).expect("written");
    pack_folder(&weights, &model, DtypeChoice::F32, EncodingChoice::Plain);
    let original = fs::read(&model).expect("a model");
    let file = ModelFile::from_bytes(Path::new("m.olmo"), &original).expect("a good index");
    let n_tensors = file.specs().len();
    assert_eq!(found(&original), [""; 0]);
    type Edit = dyn Fn(&mut [u8]);
    let flip = |at: usize| move |section: &mut [u8]| section[at] ^= 1;
    let of_header = "section SOURCES: header of model.embed_tokens.weight: ";
    let replace = |from: &'static [u8], to: &'static [u8]| {
        move |section: &mut [u8]| {
            let at = section.windows(from.len()).position(|window| window == from).expect("it is there");
            section[at..at + from.len()].copy_from_slice(to);
        }
    };
    let cases: [(u32, &Edit, &str); 14] = [
        (section::SOURCES, &flip(0), "section SOURCES: entry 0: unknown element type 0"),
        // Headers that unpacking would write before the numbers of another array.
        (section::SOURCES, &replace(b"\x93NUMPY", b"#!/bin"), of_header),
        (section::SOURCES, &replace(b"'<f4'", b"'|O' "), of_header),
        (section::SOURCES, &replace(b"'<f4'", b"'<u2'"), of_header),
        (section::SOURCES, &replace(b"False", b"True "), of_header),
        (section::SOURCES, &replace(b"(256, 128)", b"(128, 256)"), of_header),
        (
            section::VOCABULARY,
            &flip(size_of::<VocabularyHead>()),
            "section VOCABULARY: offsets that are not those of its text",
        ),
        // The id of the byte 0.
        (
            section::TOKENIZER,
            &flip(size_of::<TokenizerHead>()),
            "section TOKENIZER: ids, merges or flags that the vocabulary contradicts",
        ),
        (section::CHAT, &flip(0), "section CHAT: lengths, rules or texts that are not those of its head"),
        (section::FILES, &flip(0), "section FILES: no room for its files"),
        // The name of the first file, and its length.
        (section::FILES, &|section| section[8] = 200, "section FILES: names that are unknown or out of order"),
        (section::FILES, &flip(12), "section FILES: "),
        (section::SAMPLING, &|section| section[7] ^= 0x80, "section SAMPLING: values that choose no token"),
        (section::PROVENANCE, &|section| section[0] = 0xff, "section PROVENANCE: text that is not UTF-8"),
    ];
    for (kind, edit, says) in cases {
        let index = file.sections().iter().position(|record| record.kind.get() == kind).expect("a section");
        let mut bytes = original.clone();
        let section = &mut bytes[range(file.layout().sections[index])];
        edit(section);
        let digest = format::digest(section, kind.into());
        Field::of_section(n_tensors, index, offset_of!(SectionRecord, digest), 8).set(&mut bytes, digest);
        repair_digests(&mut bytes);
        let found = found(&bytes);
        assert!(found.len() == 1 && found[0].starts_with(says), "{says}: {found:?}");
        // Nor is it copied.
        let (bad, copy) = (folder.join("bad.olmo"), folder.join("copy.olmo"));
        fs::write(&bad, &bytes).expect("written");
        let error = copy::run(&bad, &copy, false, &SystemDisk, &|_, _| ()).expect_err(says).to_string();
        assert!(error.contains(says) && !copy.exists(), "{error}");
    }
}

#[test]
fn vocabulary_has_its_length_and_nothing_else() {
    let vocabulary = |reserved: u32, text_bytes: u64, text: &[u8]| {
        let head =
            VocabularyHead { n_tokens: U32::new(2), reserved: U32::new(reserved), text_bytes: U64::new(text_bytes) };
        let offsets = [0, 1, 3].map(U32::new);
        verify::vocabulary(&[head.as_bytes(), offsets.as_bytes(), text].concat(), 2)
    };
    assert_eq!(vocabulary(0, 3, b"abc"), Ok(()));
    assert_eq!(vocabulary(1, 3, b"abc"), Err("reserved fields that are not zero"));
    for text_bytes in [0, 2, 4, 3 + (1 << 32)] {
        assert_eq!(vocabulary(0, text_bytes, b"abc"), Err("a text that does not end with the section"));
    }
    assert_eq!(vocabulary(0, 4, b"abcd"), Err("offsets that are not those of its text"));
}
