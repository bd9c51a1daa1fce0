//! bf16 matrices in bf12: nothing is lost, the size is as expected, and a matrix that bf12 does not shrink stays plain.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::encodings::bf12::Bf12Panels;
use olmo_infer::internals::format::tensors::{TensorSpec, tensors_of};
use olmo_infer::internals::format::{Dtype, Encoding};
use olmo_tests::{
    Random, Stored, TempDir, bf12_config, map_numbers, run, small_config, write_bf12_weights, write_weights,
};
use std::fs;
use std::path::Path;

fn pack(weights: &Path, model: &Path, flags: &[&str]) -> String {
    let mut arguments = vec![weights.to_str().expect("UTF-8"), model.to_str().expect("UTF-8"), "--force"];
    arguments.extend(flags);
    run(PACK, arguments).ok().to_string()
}

/// Asserts that the model unpacks to the `.npy` files of `weights`, byte for byte.
#[track_caller]
fn assert_restored(model: &Path, weights: &Path) {
    let folder = TempDir::new("pack-coded-back");
    run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
    run(PACK, ["unpack".as_ref(), model.as_os_str(), folder.path().as_os_str()]).ok();
    for entry in fs::read_dir(weights).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        let (found, expected) = (fs::read(folder.join(&name)), fs::read(weights.join(&name)));
        assert!(found.expect("restored") == expected.expect("a file"), "{name:?} differs");
    }
}

/// The encoding of each matrix of a file, by name.
fn encodings(model: &Path) -> Vec<(String, Encoding)> {
    let file = ModelFile::open(model).expect("a good file");
    let encoding = |index: usize| {
        let n_raw_steps = file.bf12_table(index).map(|table| table.n_raw_steps() as u32);
        assert_eq!(n_raw_steps.unwrap_or(0), file.encoding(index).codes().n_raw_steps);
        file.encoding(index)
    };
    let matrices = file.specs().iter().enumerate().filter(|(_, spec)| spec.columns.is_some());
    matrices.map(|(index, spec)| (spec.name(), encoding(index))).collect()
}

/// The numbers of each matrix of a bf16 file by name, row after row, as bits.
fn numbers(model: &Path) -> Vec<(String, Vec<u16>)> {
    let file = ModelFile::open(model).expect("a good file");
    let matrix = |(index, spec): (usize, &TensorSpec)| {
        let shape = spec.panel_shape(Dtype::Bf16)?;
        let stored = file.tensor_bytes(index);
        let plain = match file.bf12_table(index) {
            None => stored.copied().expect("memory"),
            Some(table) => {
                let coded = Bf12Panels::new(&shape, stored, table);
                let panels = (0..shape.n_panels()).map(|panel| coded.panel(panel));
                let steps = panels.flat_map(|panel| panel.steps().map(move |step| step.numbers(panel.exponents())));
                steps.flatten().flat_map(u32::to_le_bytes).collect()
            }
        };
        let places = (0..shape.rows).flat_map(|row| (0..shape.columns).map(move |column| (row, column)));
        let number = |(row, column)| u16::from_le_bytes(plain.as_chunks::<2>().0[shape.element(row, column)]);
        Some((spec.name(), places.map(number).collect()))
    };
    file.specs().iter().enumerate().filter_map(matrix).collect()
}

/// Cuts the numbers of all matrices to bf16.
fn cut_to_bf16(weights: &Path, config: &ModelConfig) {
    for spec in tensors_of(config) {
        map_numbers(weights, &spec.name(), |_, number| f32::from_bits(number.to_bits() & 0xffff_0000));
    }
}

#[test]
fn weights_of_every_kind_round_trip() {
    let folder = TempDir::new("pack-coded");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_bf12_weights(&weights);
    let raw = |name: &str| {
        let encoding = encodings(&model).into_iter().find(|(found, _)| found.contains(name)).expect("a matrix").1;
        assert_ne!(encoding, Encoding::Bf16, "{name}");
        encoding.codes().n_raw_steps
    };
    // The embedding with subnormal numbers and zeros of both signs, q_proj all zero.
    map_numbers(&weights, "model.layers.0.self_attn.q_proj.weight", |_, _| 0.0);
    map_numbers(&weights, "model.layers.0.mlp.down_proj.weight", |i, _| {
        [2f32.powi(-130), -2f32.powi(-133), 0.0, -0.0, f32::from_bits(0x3f80_0000), -1e38][i % 6]
    });
    cut_to_bf16(&weights, &bf12_config());
    let said = pack(&weights, &model, &[]);
    assert!(said.contains("  matrices    bf16 in 12.") && said.contains(" bits, nothing lost"), "{said}");
    assert_eq!((raw("embed_tokens"), raw("gate_proj"), raw("up_proj")), (2, 1, 0));
    assert_restored(&model, &weights);
    let json = run(PACK, ["inspect".as_ref(), model.as_os_str(), "--json".as_ref()]);
    let json: serde_json::Value = serde_json::from_str(json.ok()).expect("JSON");
    assert_eq!((&json["tensors"][0]["encoding"], &json["tensors"][0]["n_raw_steps"]), (&"bf12".into(), &2.into()));
    // Infinities and NaN, when they are let in.
    map_numbers(&weights, "model.layers.0.mlp.up_proj.weight", |i, number| match i {
        40 => f32::INFINITY,
        41 => f32::NEG_INFINITY,
        84 => f32::from_bits(0x7fc5_0000),
        _ => number,
    });
    run(PACK, [weights.to_str().unwrap(), model.to_str().unwrap(), "--force"]).refused(1);
    // Columns 6 and 7 of row 2, column 16 of row 4: two of nine steps are too many.
    pack(&weights, &model, &["--allow-nonfinite"]);
    assert!(encodings(&model).contains(&("model.layers.0.mlp.up_proj.weight".into(), Encoding::Bf16)));
    assert_restored(&model, &weights);
    map_numbers(&weights, "model.layers.0.mlp.up_proj.weight", |i, number| if i == 84 { 1.5 } else { number });
    pack(&weights, &model, &["--allow-nonfinite"]);
    assert_eq!(raw("up_proj"), 1);
    assert_restored(&model, &weights);
}

#[test]
fn every_source_type_round_trips() {
    let folder = TempDir::new("pack-coded-types");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    for stored in [Stored::Bf16, Stored::F32OfBf16] {
        write_weights(&weights, &small_config(), stored, 8);
        pack(&weights, &model, &[]);
        assert!(encodings(&model).iter().all(|(_, encoding)| *encoding != Encoding::Bf16), "{stored:?}");
        assert_restored(&model, &weights);
    }
    // Rounded: the numbers of the bf12 file are those of the plain one.
    for stored in [Stored::F32, Stored::F16] {
        write_weights(&weights, &small_config(), stored, 8);
        let plain = folder.join("p.olmo");
        pack(&weights, &model, &["--dtype", "bf16"]);
        pack(&weights, &plain, &["--dtype", "bf16", "--encoding", "plain"]);
        assert!(encodings(&model).iter().all(|(_, encoding)| *encoding != Encoding::Bf16), "{stored:?}");
        assert!(encodings(&plain).iter().all(|(_, encoding)| *encoding == Encoding::Bf16), "{stored:?}");
        run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
        let (of_bf12, of_plain) = (numbers(&model), numbers(&plain));
        assert_eq!((of_bf12.len(), of_plain.len()), (encodings(&model).len(), encodings(&model).len()));
        for ((name, coded), (_, plain)) in of_bf12.iter().zip(&of_plain) {
            assert!(coded == plain, "{stored:?} {name}");
            assert!(plain.iter().any(|&bits| bits != 0), "{stored:?} {name}");
        }
    }
    // In f32 files no matrix is bf12, and the option changes no byte.
    write_weights(&weights, &small_config(), Stored::F32, 8);
    pack(&weights, &model, &[]);
    let auto = fs::read(&model).expect("read");
    pack(&weights, &model, &["--encoding", "plain"]);
    assert!(fs::read(&model).expect("read") == auto);
}

/// A model in which matrices take nearly all of the file.
fn wide_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 256,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 64,
        intermediate_size: 1024,
        vocab_size: 4096,
        ..small_config()
    }
}

#[test]
fn files_have_the_predicted_size() {
    let folder = TempDir::new("pack-coded-size");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let config = wide_config();
    let matrices = || tensors_of(&config).into_iter().filter(|spec| spec.columns.is_some());
    let ratio = || {
        let sizes = ["plain", "auto"].map(|encoding| {
            pack(&weights, &model, &["--encoding", encoding]);
            fs::metadata(&model).expect("a file").len()
        });
        sizes[1] as f64 / sizes[0] as f64
    };
    write_weights(&weights, &config, Stored::F32OfBf16, 9);
    let found = ratio();
    assert!((0.74..0.76).contains(&found), "{found}");
    // Three in ten thousand weights with magnitudes over sixty powers of two.
    let mut random = Random(10);
    for spec in matrices() {
        let seed = random.bits();
        map_numbers(&weights, &spec.name(), |i, number| {
            let mut random = Random(seed ^ i as u64);
            if random.below(10_000) < 3 { number * 2f32.powi(-(random.below(60) as i32)) } else { number }
        });
    }
    let found = ratio();
    assert!((0.75..0.77).contains(&found), "{found}");
    assert_restored(&model, &weights);
    // Any exponent as often as any other: nothing to gain, and nothing lost.
    for spec in matrices() {
        let seed = random.bits();
        map_numbers(&weights, &spec.name(), |i, _| {
            let bits = Random(seed ^ i as u64).bits() as u32 & 0xffff_0000;
            f32::from_bits(if bits & 0x7f80_0000 == 0x7f80_0000 { bits & !0x4000_0000 } else { bits })
        });
    }
    let found = ratio();
    assert!(found <= 1.01, "{found}");
    assert!(encodings(&model).iter().all(|(_, encoding)| *encoding == Encoding::Bf16));
    assert_restored(&model, &weights);
}

#[test]
fn encodes_up_to_one_raw_step_in_eight() {
    let folder = TempDir::new("pack-coded-share");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_bf12_weights(&weights);
    let gate = "model.layers.0.mlp.gate_proj.weight";
    let encoding = || encodings(&model).into_iter().find(|(name, _)| name == gate).expect("gate_proj").1;
    pack(&weights, &model, &["--dtype", "bf16"]);
    assert_eq!(encoding(), Encoding::Bf12 { n_raw_steps: 1 });
    // A second of its nine steps.
    map_numbers(&weights, gate, |i, number| if i == 0 { 1e-20 } else { number });
    pack(&weights, &model, &["--dtype", "bf16"]);
    assert_eq!(encoding(), Encoding::Bf16);
    run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
}

#[test]
fn same_folder_gives_the_same_bytes() {
    let folder = TempDir::new("pack-coded-same");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &wide_config(), Stored::Bf16, 11);
    pack(&weights, &model, &["--threads", "1"]);
    let first = fs::read(&model).expect("read");
    for threads in ["2", "3", "16"] {
        pack(&weights, &model, &["--threads", threads]);
        assert!(fs::read(&model).expect("read") == first, "{threads} threads");
    }
}
