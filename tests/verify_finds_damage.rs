//! `verify` finds what is wrong with a model file under right digests too, and names the place. `reader_exhaustive.rs`
//! has the damage that digests find.

use olmo_infer::coded::CODED_STEP_BYTES;
use olmo_infer::config::ModelConfig;
use olmo_infer::format::{self, Dtype, HEADER_BYTES, section};
use olmo_infer::layout::{Layout, TensorSpec};
use olmo_infer::model_file::ModelFile;
use olmo_infer::panels::PanelShape;
use olmo_pack::disk::SystemDisk;
use olmo_pack::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::verify;
use olmo_tests::crafted::repair_digests;
use olmo_tests::packed::{range, tiny_config};
use olmo_tests::{Stored, TempDir, coded_config, write_coded_weights, write_weights};
use std::fs;
use std::path::Path;

/// Packs random weights in process, plain, and returns where everything lies.
fn packed(folder: &TempDir, config: &ModelConfig, dtype: DtypeChoice) -> (Layout, Vec<TensorSpec>, Vec<u32>) {
    write_weights(&folder.join("w"), config, Stored::F32, 3);
    packed_as(folder, dtype, EncodingChoice::Plain)
}

/// Packs weights with coded matrices and raw steps.
fn packed_coded(folder: &TempDir) -> (Layout, Vec<TensorSpec>, Vec<u32>) {
    write_coded_weights(&folder.join("w"));
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
    let request = Request { weights: weights.into(), model: model.into(), dtype, encoding, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn exchanged_tensors_of_one_shape_are_found() {
    let folder = TempDir::new("exchanged");
    let plain = packed(&folder, &tiny_config(), DtypeChoice::F32);
    assert_exchanged_gate_and_up_are_found(&folder, plain);
    // Coded, and of one length: neither has a raw step.
    let folder = TempDir::new("exchanged-coded");
    write_weights(&folder.join("w"), &coded_config(), Stored::F32, 3);
    let coded = packed_as(&folder, DtypeChoice::Bf16, EncodingChoice::Auto);
    assert!(coded.2.contains(&section::CODED));
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

#[test]
fn padding_inside_panels_and_smallest_magnitudes_are_checked_even_under_a_right_digest() {
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
            let at = extent.offset as usize + element * dtype.bytes();
            bytes[at..at + dtype.bytes()].copy_from_slice(&value.to_le_bytes()[4 - dtype.bytes()..]);
            let digest = format::digest(&bytes[extent.offset as usize..extent.end() as usize], index as u64);
            let at = HEADER_BYTES + 128 * index + 56;
            bytes[at..at + 8].copy_from_slice(&digest.to_le_bytes());
            repair_digests(&mut bytes);
            fs::write(&path, bytes).expect("written");
            verify::run(&path).map_err(|error| error.to_string())
        };
        // A row past the last: no element lies there.
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
                found.contains(&format!("q_proj.weight: its smallest magnitude is {small:e}, the index says ")),
                "{found}"
            );
        }
    }
}

#[test]
fn what_a_coded_file_can_say_in_one_way_only_is_checked_even_under_a_right_digest() {
    let folder = TempDir::new("crafted-coded");
    let (layout, specs, _) = packed_coded(&folder);
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
fn the_writer_records_subnormal_and_zero_weights_as_the_format_says() {
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
