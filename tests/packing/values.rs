//! Packed files hold exactly the numbers of their folders, for every type, number of threads and order of the
//! directory.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::encodings::bf12::Bf12Panels;
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::{Dtype, section};
use olmo_tests::{
    Stored, TempDir, npy_path, reference_cases, repository, run, skipped, small_config, small_olmo3, source_of,
    write_npy, write_weights,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The golden folders of this repository and, if they exist, those in `../shared`.
fn golden_folders() -> Vec<PathBuf> {
    reference_cases().into_iter().map(|case| case.join("weights")).collect()
}

/// The elements of a `.npy` file of f32, f16 or raw bf16 as f32 bits: a reader of its own, for little more than numpy's
/// own output.
fn elements(path: &Path) -> Vec<u32> {
    let bytes = fs::read(path).expect("readable");
    let length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8_lossy(&bytes[10..10 + length]).into_owned();
    let data = &bytes[10 + length..];
    let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if header.contains("'<f4'") {
        data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    } else if header.contains("'<f2'") {
        let value = |half: u16| {
            let sign = if half & 0x8000 == 0 { 1.0f32 } else { -1.0 };
            let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
            let magnitude = match exponent {
                0 => fraction * 2f32.powi(-24),
                _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
            };
            (sign * magnitude).to_bits()
        };
        halves().map(value).collect()
    } else {
        halves().map(|half| u32::from(half) << 16).collect()
    }
}

fn nearest_bf16(bits: u32) -> u32 {
    // Among the two neighbours the nearer one, on a tie the even one, decided in f64.
    let (low, high) = (bits & 0xffff_0000, (bits & 0xffff_0000).wrapping_add(0x1_0000));
    let value = |bits: u32| f64::from(f32::from_bits(bits));
    let (below, above) = ((value(bits) - value(low)).abs(), (value(high) - value(bits)).abs());
    if below < above || (below == above && low & 0x1_0000 == 0) { low } else { high }
}

/// Asserts that every number of the folder is where `panels.rs` puts it.
fn assert_holds(model: &Path, weights: &Path, dtype: Dtype) {
    let file = ModelFile::open(model).expect("a valid file");
    assert_eq!(file.matrices(), Some(dtype), "{}", weights.display());
    for (i, spec) in file.specs().iter().enumerate() {
        let (name, mut stored) = (spec.name(), file.tensor_bytes(i).copied().expect("memory"));
        if let (Some(table), Some(shape)) = (file.bf12_table(i), spec.panel_shape(dtype)) {
            let panels = Bf12Panels::new(&shape, file.tensor_bytes(i), table);
            let steps = (0..shape.n_panels()).flat_map(|panel| panels.panel(panel).steps());
            let steps = steps.flat_map(|step| step.numbers(table.exponents()));
            stored = steps.flat_map(u32::to_le_bytes).collect();
        }
        let source = source_of(weights, spec, elements);
        let dtype = if spec.role.is_always_f32() { Dtype::F32 } else { dtype };
        let word = |at: usize, size: usize| match size {
            4 => u32::from_le_bytes(stored[at * 4..at * 4 + 4].try_into().expect("4 bytes")),
            _ => u32::from(u16::from_le_bytes(stored[at * 2..at * 2 + 2].try_into().expect("2 bytes"))) << 16,
        };
        let mut rounded = 0;
        let mut smallest = u32::MAX;
        for (at, &bits) in source.iter().enumerate() {
            let (found, expected) = match spec.columns {
                None => (word(at, 4), bits),
                Some(columns) => {
                    let shape = PanelShape { rows: spec.rows, columns, dtype };
                    let at = shape.element(at / columns, at % columns);
                    (word(at, dtype.bits() / 8), if dtype == Dtype::Bf16 { nearest_bf16(bits) } else { bits })
                }
            };
            assert_eq!(found, expected, "{name} element {at}");
            rounded |= u32::from(expected != bits);
            if f32::from_bits(found).is_finite() && found & 0x7fff_ffff != 0 {
                smallest = smallest.min(found & 0x7fff_ffff);
            }
        }
        let record = &file.records()[i];
        assert_eq!(record.rounded.get(), rounded, "{name}");
        assert_eq!(record.min_magnitude.get(), if smallest == u32::MAX { 0 } else { smallest }, "{name}");
    }
}

#[test]
fn golden_folders_are_packed_exactly() {
    let folder = TempDir::new("golden");
    let weights = golden_folders();
    assert!(!weights.is_empty(), "no golden cases in tests/golden");
    for weights in weights {
        let model = folder.join("m.olmo");
        for dtype in ["f32", "bf16"] {
            run(PACK, [weights.as_os_str(), model.as_os_str(), "--force".as_ref(), "--dtype".as_ref(), dtype.as_ref()])
                .ok();
            assert_holds(&model, &weights, if dtype == "f32" { Dtype::F32 } else { Dtype::Bf16 });
            run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
        }
        let file = ModelFile::open(&model).expect("valid");
        assert_eq!(
            file.checked_section(section::CONFIG_JSON).expect("a good one"),
            Some(fs::read(weights.join("config.json")).expect("read"))
        );
    }
}

fn pack(weights: &Path, model: &Path, flags: &[&str]) -> String {
    let mut arguments = vec![weights.to_str().expect("UTF-8"), model.to_str().expect("UTF-8")];
    arguments.extend(flags);
    run(PACK, arguments).ok().to_string()
}

#[test]
fn auto_takes_bf16_exactly_when_lossless() {
    let folder = TempDir::new("auto");
    let cases = [
        (Stored::F32, Dtype::F32),
        (Stored::F32OfBf16, Dtype::Bf16),
        (Stored::F16, Dtype::F32),
        (Stored::Bf16, Dtype::Bf16),
    ];
    for (i, (stored, dtype)) in cases.into_iter().enumerate() {
        let (weights, model) = (folder.join(format!("w{i}")), folder.join(format!("{i}.olmo")));
        write_weights(&weights, &small_config(), stored, 3);
        let summary = pack(&weights, &model, &[]);
        assert!(summary.contains("nothing lost"), "{summary}");
        assert_holds(&model, &weights, dtype);
    }
}

#[test]
fn one_f32_weight_makes_auto_take_f32() {
    let folder = TempDir::new("auto-one");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32OfBf16, 3);
    // The last number of the last matrix.
    let head = npy_path(&weights, "lm_head.weight");
    let mut bytes = fs::read(&head).expect("read");
    let at = bytes.len() - 4;
    bytes[at] |= 1;
    fs::write(&head, bytes).expect("written");
    pack(&weights, &model, &[]);
    assert_holds(&model, &weights, Dtype::F32);
    // A norm with numbers that are not bf16 does not count: norms are f32 in every file.
    write_weights(&weights, &small_config(), Stored::F32OfBf16, 3);
    let norm = npy_path(&weights, "model.norm.weight");
    let mut bytes = fs::read(&norm).expect("read");
    let at = bytes.len() - 4;
    bytes[at] |= 1;
    fs::write(&norm, bytes).expect("written");
    pack(&weights, &model, &["--force"]);
    assert_holds(&model, &weights, Dtype::Bf16);
}

#[test]
fn rounding_reports_its_loss() {
    let folder = TempDir::new("rounding");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 9);
    let json: serde_json::Value =
        serde_json::from_str(&pack(&weights, &model, &["--dtype", "bf16", "--json"])).expect("JSON");
    assert_holds(&model, &weights, Dtype::Bf16);
    // The same statistics, from the files.
    let (mut n, mut changed, mut sum, mut max) = (0u64, 0u64, 0.0f64, 0.0f64);
    let file = ModelFile::open(&model).expect("valid");
    for spec in file.specs().iter().filter(|spec| spec.columns.is_some()) {
        for bits in elements(&npy_path(&weights, &spec.name())) {
            let (exact, stored) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(nearest_bf16(bits))));
            n += 1;
            if exact != stored {
                changed += 1;
                sum += ((stored - exact) / exact).abs();
                max = max.max(((stored - exact) / exact).abs());
            }
        }
    }
    assert_eq!(json["n_rounded"], changed);
    assert_eq!(json["max_relative_error"], max);
    assert!((json["mean_relative_error"].as_f64().expect("number") / (sum / n as f64) - 1.0).abs() < 1e-12);
    assert!(max <= 1.0 / 256.0 && max > 1.0 / 512.0, "{max}");
    let text = pack(&weights, &model, &["--dtype", "bf16", "--force"]);
    assert!(text.contains("largest relative error"), "{text}");
}

/// Row W19, what is kept.
#[test]
fn special_values_are_kept_bit_for_bit() {
    let folder = TempDir::new("special");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let config = small_config();
    write_weights(&weights, &config, Stored::F32, 9);
    let path = npy_path(&weights, "model.embed_tokens.weight");
    let mut bytes = fs::read(&path).expect("read");
    let specials = [0x8000_0000u32, 1, 0x807f_ffff, 0x7f7f_ffff, 0xff7f_ffff, 0x0080_0000];
    let start = bytes.len() - specials.len() * 4;
    for (slot, bits) in bytes[start..].chunks_mut(4).zip(specials) {
        slot.copy_from_slice(&bits.to_le_bytes());
    }
    fs::write(&path, &bytes).expect("written");
    pack(&weights, &model, &[]);
    assert_holds(&model, &weights, Dtype::F32);
    // Rounding the largest number to bf16 would make it infinite.
    let line = run(PACK, [weights.to_str().unwrap(), model.to_str().unwrap(), "--dtype", "bf16", "--force"]);
    let line = line.refused(1).to_string();
    assert!(
        line.contains("embed_tokens") && line.contains("[100, 33]") && line.contains("too large for bf16"),
        "{line}"
    );
}

#[test]
fn nan_is_refused_by_index_unless_allowed() {
    let folder = TempDir::new("nan");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 9);
    let path = npy_path(&weights, "model.layers.1.mlp.up_proj.weight");
    let mut bytes = fs::read(&path).expect("read");
    for (element, value) in [(36 * 65 + 7, f32::NAN), (36 * 70, f32::INFINITY)] {
        bytes[128 + element * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    fs::write(&path, bytes).expect("written");
    let arguments = [weights.to_str().unwrap(), model.to_str().unwrap(), "--threads", "2"];
    let line = run(PACK, arguments).refused(1).to_string();
    assert!(line.contains("model.layers.1.mlp.up_proj.weight.npy: 2 of its numbers"), "{line}");
    assert!(line.contains("the first at [65, 7]") && line.contains("--allow-nonfinite"), "{line}");
    assert!(!model.exists());
    let text = pack(&weights, &model, &["--allow-nonfinite"]);
    assert!(text.contains("NaN or infinity in model.layers.1.mlp.up_proj.weight (2)"), "{text}");
    // NaN is unequal to itself, but not bit for bit.
    assert_holds(&model, &weights, Dtype::F32);
}

/// Row W19.
#[test]
fn warns_of_all_zero_tensor() {
    let folder = TempDir::new("zero");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 9);
    let path = npy_path(&weights, "model.layers.0.self_attn.o_proj.weight");
    write_npy(&path, "<f4", &[36, 36], &[0; 36 * 36 * 4]);
    let text = pack(&weights, &model, &[]);
    assert!(text.contains("all numbers are zero in model.layers.0.self_attn.o_proj.weight"), "{text}");
    assert_holds(&model, &weights, Dtype::F32);
}

/// A model whose file takes several windows of 8 MiB and the large alignments.
fn several_windows() -> ModelConfig {
    ModelConfig {
        hidden_size: 516,
        n_heads: 6,
        head_dim: 86,
        intermediate_size: 3001,
        vocab_size: 1031,
        ..small_config()
    }
}

#[test]
fn same_folder_gives_the_same_bytes() {
    let folder = TempDir::new("same");
    for (i, config) in [several_windows(), small_olmo3()].into_iter().enumerate() {
        let (weights, model) = (folder.join(format!("w{i}")), folder.join("m.olmo"));
        write_weights(&weights, &config, Stored::F32, 5);
        fs::write(weights.join("vocab.txt"), "0\ta\n7\tĠb\n").expect("written");
        pack(&weights, &model, &["--force"]);
        let first = fs::read(&model).expect("read");
        assert_holds(&model, &weights, Dtype::F32);
        for threads in ["1", "2", "3", "16", "1000"] {
            pack(&weights, &model, &["--force", "--threads", threads]);
            assert!(fs::read(&model).expect("read") == first, "{threads} threads");
        }
        // A folder with the same files made in the opposite order, under another name.
        let other = folder.join(format!("other{i}"));
        fs::create_dir(&other).expect("folder");
        let mut names: Vec<_> =
            fs::read_dir(&weights).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        for name in names.iter().rev() {
            fs::copy(weights.join(name), other.join(name)).expect("copied");
        }
        pack(&other, &model, &["--force"]);
        assert!(fs::read(&model).expect("read") == first, "another folder");
    }
}

#[test]
fn small_and_large_files_verify() {
    let folder = TempDir::new("verify");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    for stored in [Stored::F32, Stored::Bf16] {
        write_weights(&weights, &several_windows(), stored, 5);
        pack(&weights, &model, &["--force"]);
        run(PACK, ["verify", model.to_str().unwrap()]).ok();
        let file = ModelFile::open(&model).expect("valid");
        assert_eq!(file.layout().data_offset, 2 << 20);
    }
}

#[test]
fn vocabulary_is_in_the_file() {
    let folder = TempDir::new("vocab");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 5);
    let vocab = folder.join("other.txt");
    fs::write(&vocab, "0\tĠthe\n2\t\\\\\n3\tâĢ\n4\t<|end here|>\n").expect("written");
    let text = pack(&weights, &model, &["--vocab", vocab.to_str().unwrap()]);
    assert!(text.contains("vocabulary  4 tokens"), "{text}");
    let file = ModelFile::open(&model).expect("valid");
    let section = file.checked_section(section::VOCABULARY).expect("a good one").expect("a vocabulary");
    let text = b" the\\\xe2\x80<|end here|>";
    let mut expected: Vec<u8> = [5u32, 0, text.len() as u32, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    expected.extend([0u32, 4, 4, 5, 7, 19].iter().flat_map(|n| n.to_le_bytes()));
    expected.extend(text);
    assert_eq!(section, expected);
}

#[test]
fn real_vocabulary_is_decoded_to_bytes() {
    let path = repository().join("../shared/data/vocab.txt");
    let Ok(bytes) = fs::read(&path) else {
        skipped(format_args!("no {}", path.display()));
        return;
    };
    let vocabulary = olmo_pack::text::vocab::parse(&path, &bytes, 100_352).expect("a vocabulary");
    assert_eq!(vocabulary.n_entries(), 100_278);
    let section = vocabulary.section();
    let word = |at: usize| u32::from_le_bytes(section[at..at + 4].try_into().unwrap()) as usize;
    let text = 16 + 4 * 100_279;
    let token = |id: usize| &section[text + word(16 + 4 * id)..text + word(20 + 4 * id)];
    let fourscore: Vec<u8> = [28070, 5573, 323, 8254].into_iter().flat_map(|id| token(id).to_vec()).collect();
    assert_eq!(fourscore, b"Four score and seven");
    // Counted once with another program: the bytes of the ids below 100256, and the longest token.
    assert_eq!(word(16 + 4 * 100_256), 643_830);
    assert_eq!((0..100_278).map(|id| token(id).len()).max(), Some(128));
    assert_eq!(token(100_257), b"<|endoftext|>");
}

#[test]
fn unknown_word_is_wrong_usage() {
    for arguments in
        [vec![], vec!["a"], vec!["a", "b", "c"], vec!["a", "b", "--dtype", "f64"], vec!["a", "b", "--what"]]
    {
        let finished = run(PACK, arguments.clone());
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert_eq!(finished.stdout, "");
        assert!(!finished.stderr.is_empty());
    }
    for arguments in [["a", "b", "--threads", "-1"], ["a", "b", "--threads", "x"], ["a", "b", "--arch", "llama"]] {
        assert_eq!(run(PACK, arguments).code, Some(2), "{arguments:?}");
    }
    assert!(run(PACK, ["--help"]).ok().contains("Usage:"));
    assert!(run(PACK, ["verify", "--help"]).ok().contains("Usage:"));
    assert!(run(PACK, ["--version"]).ok().starts_with("olmo-pack 0."));
    use std::os::unix::ffi::OsStrExt;
    run(PACK, [std::ffi::OsStr::from_bytes(b"\xff"), "m".as_ref()]).refused(2);
}
