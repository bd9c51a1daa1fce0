//! `scripts/read_olmo.py`, written from `format-spec.md` alone, reads what `olmo-pack` writes: every array is the
//! source's, bit for bit.
//!
//! Needs a Python with numpy: `.venv/bin/python`, or the one in `OLMO_PYTHON`. Without it the tests report that they
//! were skipped.

use crate::PACK;
use olmo_infer::internals::error::shown;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use olmo_infer::internals::format::{self, Encoding, SectionRecord, section};
use olmo_pack::folder::element::{f16_to_f32, round_to_bf16};
use olmo_tests::crafted::{self, Field, claimed};
use olmo_tests::packed::range;
use olmo_tests::readers::{self, Readers};
use olmo_tests::{
    Finished, Stored, TempDir, bf12_config, finish, npy_path, python, reference_cases, repository, run, small_config,
    source_of, write_bf12_weights, write_weights,
};
use std::fs;
use std::io::Write;
use std::mem::offset_of;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compares what a `Model` of the script gives in parts with the whole arrays.
const PARTS: &str = r#"
import sys
sys.path.insert(0, "scripts")
import numpy as np
import read_olmo


def refused(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise SystemExit("not refused")


model, whole = read_olmo.Model(sys.argv[1]), read_olmo.read(sys.argv[1])
refused(KeyError, lambda: model.matrix("none"))
views = 0
for position, (name, _, _, rows, columns) in enumerate(model.shapes):
    if columns is None:
        for call in (model.panels, model.matrix):
            assert "is a vector" in refused(ValueError, lambda: call(name))
        continue
    bits = whole[name].view("u4")
    matrix = model.matrix(name)
    assert matrix.shape == (rows, columns) and np.array_equal(matrix.view("u4"), bits)
    for start in {0, 1, min(rows, 63), min(rows, 64), rows // 2, rows - 1, rows}:
        for stop in {start, min(rows, start + 1), min(rows, start + 65), rows}:
            some = model.rows(name, start, stop)
            assert some.dtype == np.float32 and np.array_equal(some.view("u4"), bits[start:stop]), (name, start, stop)
    for start, stop in ((-1, 1), (2, 1), (0, rows + 1)):
        assert f"it has {rows}" in refused(IndexError, lambda: model.rows(name, start, stop))
    if model.tables[position] is not None:
        assert "is bf12" in refused(ValueError, lambda: model.panels(name))
        continue
    views += 1
    panels = model.panels(name)
    assert isinstance(panels, np.memmap) and np.shares_memory(panels, model.bytes) and not panels.flags.writeable
    r, c = np.indices((rows, columns))
    if panels.ndim == 3:
        assert panels.shape == (-(-rows // 64), columns, 64)
        assert np.array_equal(panels[r // 64, c, r % 64].view("u4"), bits)
    else:
        assert panels.shape == (-(-rows // 64), (columns + 1) // 2, 64, 2) and panels.dtype == np.uint16
        assert np.array_equal(panels[r // 64, c // 2, r % 64, c % 2].astype("u4") << 16, bits)
print(views, "views of", len([shape for shape in model.shapes if shape[4] is not None]))
"#;

/// Runs the script.
fn script(python: &Path, arguments: &[&Path]) -> Finished {
    finish(Command::new(python).arg("-B").arg(repository().join("scripts/read_olmo.py")).args(arguments))
}

/// The weights of the reference cases.
fn cases() -> Vec<PathBuf> {
    reference_cases().into_iter().map(|case| case.join("weights")).collect()
}

/// The numbers of an `.npy` file of 2 or 4 bytes an element as f32 bits.
fn source_bits(path: &Path) -> Vec<u32> {
    let bytes = fs::read(path).expect("an .npy file");
    let text_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, data) = (String::from_utf8_lossy(&bytes[..text_end]), &bytes[text_end..]);
    let halves = data.as_chunks::<2>().0.iter().map(|&half| u16::from_le_bytes(half));
    if header.contains("<f4") {
        data.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
    } else if header.contains("<f2") {
        halves.map(f16_to_f32).collect()
    } else {
        halves.map(|half| u32::from(half) << 16).collect()
    }
}

/// Packs `weights`, reads the file with the script and compares every array.
fn assert_read_back(python: &Path, weights: &Path, dtype: &str) {
    let folder = TempDir::new("reader");
    let (model, exported) = (folder.join("m.olmo"), folder.join("arrays"));
    run(PACK, [weights.as_os_str(), model.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
    let said = script(python, &[&model, Path::new("--export"), &exported]);
    let file = ModelFile::open(&model).expect("a model");
    assert!(said.ok().ends_with(&format!(": {} tensors\n", file.specs().len())), "{}", said.stdout);
    for spec in file.specs() {
        let name = spec.name();
        let (shape, numbers) = olmo_tests::read_f32_npy(&npy_path(&exported, &name));
        assert_eq!(shape, spec.shape(), "{}: {name}", weights.display());
        let stored = |bits: u32| match dtype {
            "bf16" if spec.has_choice() => u32::from(round_to_bf16(bits)) << 16,
            _ => bits,
        };
        let expected = source_of(weights, spec, source_bits).into_iter().map(stored);
        assert!(numbers.into_iter().map(f32::to_bits).eq(expected), "{} as {dtype}: {name}", weights.display());
    }
}

#[test]
fn reads_every_reference_case_bit_for_bit() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    for weights in cases() {
        for dtype in ["auto", "f32", "bf16"] {
            assert_read_back(&python, &weights, dtype);
        }
    }
}

#[test]
fn reads_odd_sizes_and_every_source_type() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    for stored in [Stored::F32, Stored::F16, Stored::Bf16, Stored::F32OfBf16] {
        let folder = TempDir::new("reader-odd");
        write_weights(folder.path(), &small_config(), stored, 21);
        for dtype in ["auto", "bf16"] {
            assert_read_back(&python, folder.path(), dtype);
        }
    }
}

#[test]
fn reads_bf12_matrices_with_raw_steps() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    let folder = TempDir::new("reader-coded");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_bf12_weights(&weights);
    assert_read_back(&python, &weights, "bf16");
    run(PACK, [weights.as_os_str(), model.as_os_str(), "--dtype".as_ref(), "bf16".as_ref()]).ok();
    let listing = script(&python, &[&model]);
    let listing = listing.ok();
    for line in ["gate_proj.weight [5, 17] bf16 at ", " bytes, bf12, 1 raw steps\n", "  section BF12 at "] {
        assert!(listing.contains(line), "no {line:?} in {listing}");
    }
    // Plain bf16 is read as well.
    let arguments = [weights.as_os_str(), model.as_os_str(), "--force".as_ref(), "--dtype".as_ref(), "bf16".as_ref()];
    run(PACK, arguments.iter().chain(&["--encoding".as_ref(), "plain".as_ref()])).ok();
    assert!(!script(&python, &[&model]).ok().contains("bf12"));
}

#[test]
fn rows_matrices_and_panels_match_the_whole() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    let folder = TempDir::new("reader-parts");
    let (odd, coded, model) = (folder.join("odd"), folder.join("coded"), folder.join("m.olmo"));
    write_weights(&odd, &small_config(), Stored::F32, 24);
    write_bf12_weights(&coded);
    let demo = repository().join("demo/weights");
    for (weights, flags, expected) in [
        (&demo, "--dtype f32", "23 views of 23\n"),
        (&demo, "--dtype bf16 --encoding plain", "23 views of 23\n"),
        (&demo, "--dtype bf16", "0 views of 23\n"),
        (&odd, "--dtype f32", "16 views of 16\n"),
        (&odd, "--dtype bf16 --encoding plain", "16 views of 16\n"),
        (&coded, "--dtype bf16", "0 views of 9\n"),
    ] {
        let arguments = [weights.as_os_str(), model.as_os_str(), "--force".as_ref()];
        run(PACK, arguments.into_iter().chain(flags.split(' ').map(str::as_ref))).ok();
        let checked = finish(Command::new(&python).args(["-B", "-c", PARTS]).arg(&model).current_dir(repository()));
        assert_eq!(checked.ok(), expected, "{} {flags}", weights.display());
    }
}

#[test]
fn reads_listing_and_vocabulary() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    let folder = TempDir::new("reader-vocab");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 22);
    fs::write(weights.join("vocab.txt"), "0\tFour\n1\tĠscore\n3\tĊ\n").expect("written");
    fs::write(weights.join("generation_config.json"), r#"{"do_sample": true, "min_p": 0.5}"#).expect("written");
    run(PACK, [&weights, &model]).ok();
    let listing = script(&python, &[&model]);
    let listing = listing.ok();
    for line in [
        "  hidden_size 36",
        "  model.layers.1.mlp.down_proj.weight [36, 71] f32 at ",
        "  dtype=auto",
        "  file vocab.txt, ",
        "  sampling top_k 50",
    ] {
        assert!(listing.contains(line), "no {line:?} in {listing}");
    }
    let program = "import sys; sys.path.insert(0, 'scripts'); import read_olmo; \
                   print(read_olmo.Model(sys.argv[1]).vocabulary()[:4])";
    let printed = finish(Command::new(&python).args(["-B", "-c", program]).arg(&model).current_dir(repository()));
    assert_eq!(printed.ok(), "[b'Four', b' score', b'', b'\\n']\n");
    let program = "import sys; sys.path.insert(0, 'scripts'); import read_olmo; \
                   model = read_olmo.Model(sys.argv[1]); print(list(model.files().items())[1:], model.sampling())";
    let printed = finish(Command::new(&python).args(["-B", "-c", program]).arg(&model).current_dir(repository()));
    let files = r#"[('generation_config.json', b'{"do_sample": true, "min_p": 0.5}')]"#;
    let sampling = "{'temperature': 1.0, 'top_p': 1.0, 'min_p': 0.5, 'repetition_penalty': 1.0, 'top_k': 50}";
    assert_eq!(printed.ok(), format!("{files} {sampling}\n"));
}

/// Changed files that both readers are given.
const CHANGED: u64 = 3000;

#[test]
fn both_readers_accept_the_same_files() {
    let Some(python) = python("scripts/read_olmo.py", "numpy, xxhash") else { return };
    let bases = readers::bases();
    assert_eq!(readers::kinds_of_all(&bases), (section::SOURCES..=section::LAST).collect::<Vec<_>>());
    let has = |text: &[u8]| bases.iter().any(|base| base.bytes.windows(text.len()).any(|some| some == text));
    assert!(has(b"\0%d %b %Y\0") && has(b"'fortran_order'"));
    let mut both = Readers::new(&python).expect("the script starts");
    for base in &bases {
        assert_eq!(both.compare(&base.bytes), Ok(true), "{}", base.name);
    }
    let (mut n_accepted, mut wrong) = (0, Vec::new());
    let report = &mut |result| match result {
        Ok(accepted) => n_accepted += u64::from(accepted),
        Err(found) => wrong.push(found),
    };
    readers::compare_changed(&python, 1, CHANGED, &bases, report).expect("the script starts");
    assert!(wrong.is_empty(), "{} of {CHANGED}:\n{}", wrong.len(), wrong.join("\n"));
    // Enough of either kind to mean something.
    println!("{n_accepted} accepted");
    assert!((CHANGED / 10..CHANGED / 2).contains(&n_accepted), "{n_accepted} accepted");
}

#[test]
fn refuses_invalid_files_in_one_line() {
    // The digests need the module.
    let Some(python) = python("scripts/read_olmo.py", "numpy, xxhash") else { return };
    let folder = TempDir::new("reader-bad");
    let (weights, model, bad) = (folder.join("w"), folder.join("m.olmo"), folder.join("bad.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 23);
    run(PACK, [&weights, &model]).ok();
    let file = ModelFile::open(&model).expect("a model");
    let good = fs::read(&model).expect("read");
    let flipped = |offset: usize| {
        let mut bytes = good.clone();
        bytes[offset] ^= 1;
        bytes
    };
    let longer = [good.as_slice(), &[0]].concat();
    let cases = [
        (Vec::new(), "not an .olmo file"),
        (b"GGUF and something".to_vec(), "not an .olmo file"),
        (good[..100].to_vec(), "truncated: 100 bytes, less than the header"),
        (good[..good.len() - 1].to_vec(), "file length: found "),
        (longer, "file length: found "),
        (flipped(8), "format version 0.0, this reads 1.0"),
        (flipped(12), "byte order mark: found 0x01020305, expected 0x01020304"),
        (flipped(140), "header: digest: found "),
        (flipped(4096), "index: digest: found "),
        (flipped(file.layout().tensors[2].offset as usize), "model.layers.0.self_attn.k_proj.weight: digest: found "),
        (flipped(file.layout().sections[2].offset as usize), "section 4: digest: found "),
    ];
    for (bytes, expected) in cases {
        fs::write(&bad, &bytes).expect("written");
        let section = expected.starts_with("section");
        let arguments: &[&Path] =
            if section { &[&bad] } else { &[&bad, Path::new("--export"), &folder.join("arrays")] };
        let line = script(&python, arguments);
        let line = line.refused(1);
        assert!(line.starts_with(&format!("read_olmo.py: {}: {expected}", bad.display())), "{expected}: {line}");
    }
    // The tables of bf12 matrices.
    let weights = folder.join("coded");
    write_bf12_weights(&weights);
    run(PACK, [weights.as_os_str(), model.as_os_str(), "--force".as_ref(), "--dtype".as_ref(), "bf16".as_ref()]).ok();
    let file = ModelFile::open(&model).expect("a model");
    let mut bytes = fs::read(&model).expect("read");
    let tables = file.layout().sections.last().expect("BF12");
    bytes[tables.offset as usize] ^= 1;
    fs::write(&bad, &bytes).expect("written");
    let line = script(&python, &[&bad]);
    let expected = format!("read_olmo.py: {}: section 5: digest: found ", bad.display());
    assert!(line.refused(1).starts_with(&expected), "{}", line.stderr);
    // Tables beyond their limit, of a file whose length matches its header.
    let layer_types = vec![bf12_config().layer_types[0]; 1024];
    let config = ModelConfig { layer_types, intermediate_size: 1 << 20, ..bf12_config() };
    let encoding = |spec: &TensorSpec| match spec.role {
        Role::GateProj | Role::UpProj => Encoding::Bf12 { n_raw_steps: 0 },
        _ => spec.columns.map_or(Encoding::F32, |_| Encoding::Bf16),
    };
    let encodings: Vec<Encoding> = tensors_of(&config).iter().map(encoding).collect();
    let (head, layout) = claimed(&fs::read(&model).expect("read"), &config, &encodings);
    fs::write(&bad, head).expect("written");
    fs::File::options().write(true).open(&bad).and_then(|file| file.set_len(layout.file_bytes)).expect("a sparse file");
    let n_bytes = layout.sections[0].bytes;
    let line = script(&python, &[&bad]);
    let expected = format!("read_olmo.py: {}: section 5: {n_bytes} bytes are too many", bad.display());
    assert_eq!(line.refused(1), expected);
    let ours = ModelFile::open(&bad).err().expect("refused").to_string();
    assert!(n_bytes > 64 << 20 && ours.contains(&format!("section BF12: found {n_bytes} bytes")), "{ours}");
    let missing = script(&python, &[&folder.join("missing.olmo")]);
    assert!(missing.refused(1).ends_with("missing.olmo: No such file or directory"), "{}", missing.stderr);
}

#[test]
fn refuses_long_kept_header_quickly() {
    let Some(python) = python("scripts/read_olmo.py", "numpy, xxhash") else { return };
    // Digits that an expression for all words would cut in every way there is.
    let header = "b\"\\x93NUMPY\\x01\\x00\" + (202).to_bytes(2, \"little\") + b\"1\" * 200 + b\"!\\n\"";
    let program = format!(
        "import read_olmo\ntry:\n read_olmo.npy_header({header})\nexcept read_olmo.FormatError as e:\n print(e)"
    );
    let mut command = std::process::Command::new("timeout");
    command.arg("20").arg(python).args(["-c", &program]).env("PYTHONPATH", repository().join("scripts"));
    assert_eq!(finish(&mut command).ok(), "sources: the dictionary of a header\n");
}

#[test]
fn listing_escapes_control_characters() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    let folder = TempDir::new("reader-steers");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 25);
    run(PACK, [&weights, &model]).ok();
    let file = ModelFile::open(&model).expect("a model");
    let index = file.sections().iter().position(|record| record.kind.get() == section::PROVENANCE).expect("a section");
    let provenance = range(file.layout().sections[index]);
    // Every display control, except the one that ends a line, and some characters that text needs.
    let steering: String = (char::MIN..=char::MAX).filter(|&c| c != '\n' && shown::is_display_control(c)).collect();
    let (key, mut value) = ("\u{1b}]0;k\u{7}", format!("{steering}é\u{200d}\u{ad}\\"));
    let n_left = provenance.len() - key.len() - 1;
    value.extend(std::iter::repeat_n('x', n_left.checked_sub(value.len()).expect("room for the text")));
    let mut bytes = fs::read(&model).expect("read");
    bytes[provenance.clone()].copy_from_slice(format!("{key}={value}").as_bytes());
    let digest = format::digest(&bytes[provenance], section::PROVENANCE.into());
    Field::of_section(file.specs().len(), index, offset_of!(SectionRecord, digest), 8).set(&mut bytes, digest);
    crafted::repair_digests(&mut bytes);
    let crafted = folder.join("crafted.olmo");
    fs::write(&crafted, bytes).expect("written");
    let listing = script(&python, &[&crafted]);
    let listing = listing.ok();
    let line = format!("\n  {}={}\n", shown::one_line(key), shown::one_line(&value));
    assert!(listing.ends_with(&line), "no {line:?} in {listing:?}");
    assert!(!listing.contains(|c: char| c != '\n' && shown::is_display_control(c)), "{listing:?}");
}

#[test]
fn unreadable_path_does_not_stop_the_next() {
    let Some(python) = python("scripts/read_olmo.py", "numpy, xxhash") else { return };
    let folder = TempDir::new("reader-paths");
    let (weights, model, pipe) = (folder.join("w"), folder.join("m.olmo"), folder.join("pipe"));
    write_weights(&weights, &small_config(), Stored::F32, 26);
    run(PACK, [&weights, &model]).ok();
    finish(Command::new("mkfifo").arg(&pipe)).ok();
    let no_file = "is a pipe, a socket or a device, expected a regular file";
    let cases = [
        (folder.join("missing.olmo"), "No such file or directory"),
        (folder.path().to_owned(), "Is a directory"),
        (pipe, no_file),
        (PathBuf::from("/dev/zero"), no_file),
        (PathBuf::from("a\0b"), "no path has a zero byte"),
    ];
    let mut paths: Vec<u8> = Vec::new();
    for path in cases.iter().map(|(path, _)| path).chain([&model]) {
        paths.extend(path.as_os_str().as_encoded_bytes());
        paths.push(b'\n');
    }
    // The pipe has no writer: a reader that waits for one never ends.
    let mut judge = Command::new("timeout");
    judge.arg("60").arg(&python).arg("-B").arg(repository().join("scripts/read_olmo.py")).arg("--judge");
    let mut judge = judge.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the script starts");
    judge.stdin.take().expect("a pipe").write_all(&paths).expect("written");
    let output = judge.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "{}", output.status);
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), cases.len() + 1);
    for ((path, refused), line) in cases.iter().zip(&lines) {
        assert_eq!(*line, serde_json::json!({ "refused": refused }), "{}", path.display());
    }
    assert_eq!(lines[cases.len()]["format"], "1.0");
    // As the only one, each that can be an argument is one line.
    for (path, refused) in &cases[..4] {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&python).arg("-B").arg(repository().join("scripts/read_olmo.py")).arg(path);
        let line = format!("read_olmo.py: {}: {refused}", path.display());
        assert_eq!(finish(&mut command).refused(1), line);
    }
}

#[test]
fn export_follows_no_link() {
    let Some(python) = python("scripts/read_olmo.py", "numpy") else { return };
    let folder = TempDir::new("reader-links");
    let (weights, model, exported) = (folder.join("w"), folder.join("m.olmo"), folder.join("arrays"));
    write_weights(&weights, &small_config(), Stored::F32, 27);
    run(PACK, [&weights, &model]).ok();
    let names: Vec<String> = ModelFile::open(&model).expect("a model").specs().iter().map(TensorSpec::name).collect();
    fs::write(folder.join("precious.txt"), "precious").expect("written");
    fs::create_dir(&exported).expect("a folder");
    symlink("../precious.txt", npy_path(&exported, &names[0])).expect("linked");
    symlink("../none", npy_path(&exported, &names[1])).expect("linked");
    finish(Command::new("mkfifo").arg(npy_path(&exported, &names[2]))).ok();
    let export = || {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&python).arg("-B").arg(repository().join("scripts/read_olmo.py"));
        finish(command.arg(&model).arg("--export").arg(&exported))
    };
    export().ok();
    assert_eq!(fs::read_to_string(folder.join("precious.txt")).expect("read"), "precious");
    assert!(!folder.join("none").exists());
    let written = || fs::read_dir(&exported).expect("a folder").map(|entry| entry.expect("an entry").path());
    assert_eq!(written().count(), names.len());
    for name in &names {
        let path = npy_path(&exported, name);
        assert!(fs::symlink_metadata(&path).expect("written").is_file(), "{name}");
        assert_eq!(source_bits(&path), source_bits(&npy_path(&weights, name)), "{name}");
    }
    // A name that cannot be replaced gives one line, and no part is left.
    let folder_there = npy_path(&exported, &names[0]);
    fs::remove_file(&folder_there).and_then(|()| fs::create_dir(&folder_there)).expect("a folder");
    assert_eq!(export().refused(1), format!("read_olmo.py: {}: Is a directory", folder_there.display()));
    assert_eq!(written().count(), names.len());
}
