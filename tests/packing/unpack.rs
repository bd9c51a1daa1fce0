//! Packing loses nothing: `unpack` restores the folder byte for byte, for every element type, spelling of the headers
//! and stored type. Only rounding to bf16 cannot be undone, which `unpack` then reports.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{Architecture, ModelConfig};
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_infer::internals::format::{Dtype, SectionRecord, section};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::pack::{self, DtypeChoice, Request};
use olmo_pack::commands::unpack;
use olmo_pack::model::settings::Flags;
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::{
    Stored, TempDir, config_json, files, map_numbers, npy_path, repository, run, skipped, small_config,
    small_flex_olmo, small_hybrid, small_olmo1, small_olmo3, small_olmoe, write_weights,
};
use std::fs;
use std::mem::offset_of;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Packs in process.
#[track_caller]
fn pack(weights: &Path, model: &Path, dtype: DtypeChoice) {
    let program = Some(PACK.into());
    let request = Request { weights: weights.into(), model: model.into(), dtype, program, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
}

/// Asserts that two folders have the same files, naming the first that differs.
#[track_caller]
fn assert_same_files(found: &Path, expected: &Path) {
    let (found, expected) = (files(found), files(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
}

/// Packs `weights`, unpacks it and compares; returns the output of `unpack`.
#[track_caller]
fn assert_restored(weights: &Path, dtype: DtypeChoice, stored: Dtype) {
    let folder = TempDir::new("unpack");
    let (model, back) = (folder.join("m.olmo"), folder.join("back"));
    pack(weights, &model, dtype);
    assert_eq!(ModelFile::open(&model).expect("a model").matrices(), Some(stored));
    let said = unpack::run(&model, &back, false, &SystemDisk).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.ends_with("restored exactly"), "{said}");
    assert_same_files(&back, weights);
}

/// A weights folder whose headers and numbers are replaced by `change(name, header text, data)`.
fn rewrite(weights: &Path, config: &ModelConfig, change: impl Fn(&str, &str, &[u8]) -> Vec<u8>) {
    for spec in tensors_of(config) {
        let path = npy_path(weights, &spec.name());
        let bytes = fs::read(&path).expect("a file");
        let text_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let text = std::str::from_utf8(&bytes[10..text_end]).expect("a header").trim_end();
        fs::write(&path, change(&spec.name(), text, &bytes[text_end..])).expect("written");
    }
}

/// An `.npy` file of version 1.0 with exactly this header text.
fn npy_1(text: &str, data: &[u8]) -> Vec<u8> {
    let length = (text.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00".as_slice(), &length, text.as_bytes(), data].concat()
}

#[test]
fn every_source_type_round_trips() {
    let cases = [
        (Stored::F32, DtypeChoice::Auto, Dtype::F32),
        (Stored::F32, DtypeChoice::F32, Dtype::F32),
        (Stored::F16, DtypeChoice::Auto, Dtype::F32),
        (Stored::Bf16, DtypeChoice::Auto, Dtype::Bf16),
        (Stored::Bf16, DtypeChoice::F32, Dtype::F32),
        (Stored::F32OfBf16, DtypeChoice::Auto, Dtype::Bf16),
        (Stored::F32OfBf16, DtypeChoice::Bf16, Dtype::Bf16),
    ];
    let tied = |config| ModelConfig { tie_word_embeddings: true, ..config };
    let configs = [small_config(), small_olmo1(), small_olmo3(), tied(small_config()), tied(small_olmo1())];
    let configs = configs.into_iter().chain([small_olmoe(), small_flex_olmo(), small_hybrid()]);
    for config in configs {
        for (stored, choice, expected) in cases {
            let folder = TempDir::new("sources");
            write_weights(folder.path(), &config, stored, 5);
            assert_restored(folder.path(), choice, expected);
        }
    }
}

#[test]
fn raw_16_bit_files_round_trip() {
    let config = small_config();
    for descr in ["<V2", "|V2", "<u2"] {
        let folder = TempDir::new("raw16");
        write_weights(folder.path(), &config, Stored::Bf16, 6);
        let mut json = config_json(&config);
        json["dtype"] = "bfloat16".into();
        fs::write(folder.join("config.json"), json.to_string()).expect("written");
        rewrite(folder.path(), &config, |_, text, data| npy_1(&format!("{}\n", text.replace("<V2", descr)), data));
        assert_restored(folder.path(), DtypeChoice::Auto, Dtype::Bf16);
    }
}

#[test]
fn every_16_bit_pattern_round_trips() {
    // Zeros of both signs, subnormal and normal numbers; infinity and NaN are invalid weights.
    let config = ModelConfig { vocab_size: 2048, hidden_size: 32, n_heads: 4, head_dim: 8, ..small_config() };
    for (stored, exponent_bits) in [(Stored::F16, 0x7c00u16), (Stored::Bf16, 0x7f80)] {
        let folder = TempDir::new("patterns");
        write_weights(folder.path(), &config, stored, 7);
        rewrite(folder.path(), &config, |name, text, data| {
            let finite = |bits: u16| if bits & exponent_bits == exponent_bits { bits & 0x8000 } else { bits };
            let patterns: Vec<u8> = (0..=u16::MAX).flat_map(|bits| finite(bits).to_le_bytes()).collect();
            npy_1(&format!("{text}\n"), if name.contains("embed") { &patterns } else { data })
        });
        let expected = if stored == Stored::F16 { Dtype::F32 } else { Dtype::Bf16 };
        assert_restored(folder.path(), DtypeChoice::Auto, expected);
    }
}

#[test]
fn headers_round_trip() {
    let config = small_config();
    let folder = TempDir::new("headers");
    write_weights(folder.path(), &config, Stored::F32, 8);
    rewrite(folder.path(), &config, |name, text, data| match name.len() % 4 {
        // Version 2.0 has four bytes of length.
        0 => {
            let text = format!("{text}{:100}\n", "");
            let length = (text.len() as u32).to_le_bytes();
            [b"\x93NUMPY\x02\x00".as_slice(), &length, text.as_bytes(), data].concat()
        }
        // No alignment and no room for a longer shape.
        1 => npy_1(&format!("{text}\n"), data),
        // Another order, other spaces, no trailing comma.
        2 => {
            let shape = &text[text.find('(').expect("a shape")..=text.find(')').expect("a shape")];
            npy_1(&format!("{{'shape':{shape} ,  'descr' :'<f4','fortran_order': False}}   \n"), data)
        }
        _ => npy_1(&format!("{text}{:50}\n", ""), data),
    });
    assert_restored(folder.path(), DtypeChoice::Auto, Dtype::F32);
}

#[test]
fn folder_without_config_json_round_trips() {
    let folder = TempDir::new("bare");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &small_config(), Stored::F32, 9);
    fs::remove_file(weights.join("config.json")).expect("removed");
    let flags = Flags {
        architecture: Some(Architecture::Olmo2),
        head_dim: Some(6),
        rope_theta: Some(10000.0),
        rms_norm_eps: Some(1e-6),
        max_positions: Some(64),
        eos_token_ids: Some(vec![1]),
        ..Flags::default()
    };
    let request = Request { weights: weights.clone(), model: model.clone(), flags, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
    unpack::run(&model, &back, false, &SystemDisk).expect("unpacked");
    assert_same_files(&back, &weights);
}

#[test]
fn reports_rounded_tensors() {
    let config = small_config();
    let folder = TempDir::new("rounded");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &config, Stored::F32, 10);
    pack(&weights, &model, DtypeChoice::Bf16);
    let said = unpack::run(&model, &back, false, &SystemDisk).expect("unpacked");
    let n_matrices = tensors_of(&config).iter().filter(|spec| spec.columns.is_some()).count();
    let expected = format!(
        "not restored exactly: {n_matrices} of them were rounded to bf16 when packed, and the rounded values were written: \
         model.embed_tokens.weight, "
    );
    assert!(said.contains(&expected) && said.ends_with(&format!(" and {} more", n_matrices - 3)), "{said}");
    let (found, source) = (files(&back), files(&weights));
    for spec in tensors_of(&config) {
        let name = format!("{}.npy", spec.name());
        let numbers = |bytes: &[u8]| -> Vec<u32> {
            bytes[128..].as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        let rounded =
            |bits: u32| if spec.columns.is_some() { (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000 } else { bits };
        let expected: Vec<u32> = numbers(&source[&name]).into_iter().map(rounded).collect();
        assert_eq!(found[&name][..128], source[&name][..128], "{name}");
        assert!(numbers(&found[&name]) == expected, "{name}");
    }
}

#[test]
fn names_all_of_a_few_rounded_tensors() {
    let folder = TempDir::new("few-rounded");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &small_config(), Stored::F32OfBf16, 10);
    map_numbers(&weights, "lm_head.weight", |_, number| number * 1.001);
    pack(&weights, &model, DtypeChoice::Bf16);
    let said = unpack::run(&model, &back, false, &SystemDisk).expect("unpacked");
    let says = "not restored exactly: 1 of them were rounded to bf16 when packed, and the rounded values were written: \
        lm_head.weight";
    assert!(said.ends_with(says), "{said}");
}

/// Packs numbers of this type, flips the lowest bit of the first one of tensor 3, and unpacks: the tensor is not
/// restored, for a reason that begins with `says`, and no incomplete file is left.
#[track_caller]
fn assert_damage_is_reported(stored: Stored, dtype: DtypeChoice, says: &str) {
    let folder = TempDir::new("damaged");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &small_config(), stored, 12);
    pack(&weights, &model, dtype);
    let mut bytes = fs::read(&model).expect("a model");
    let tensor = ModelFile::open(&model).expect("a model").layout().tensors[3];
    bytes[tensor.offset as usize] ^= 1;
    fs::write(&model, bytes).expect("written");
    let refused = unpack::run(&model, &back, false, &SystemDisk).expect_err("refused").to_string();
    let name = tensors_of(&small_config())[3].name();
    assert!(refused.contains(&format!("m.olmo: {name}: {says}; the file is damaged")), "{refused}");
    let left = files(&back);
    // Which files were first depends on the threads.
    let before = match left.len() {
        0 => String::new(),
        1 => "; 1 file was already written and is kept".into(),
        n => format!("; {n} files were already written and are kept"),
    };
    assert!(refused.lines().count() == 1 && refused.ends_with(&before), "{refused}\nwants {before}");
    assert!(
        !left.contains_key(&format!("{name}.npy")) && left.keys().all(|name| !name.ends_with(".tmp")),
        "{:?}",
        left.keys()
    );
}

#[test]
fn damaged_tensor_is_an_error() {
    let says = "the restored numbers are not those that were packed";
    assert_damage_is_reported(Stored::F32, DtypeChoice::Auto, says);
}

#[test]
fn damaged_rounded_tensor_is_an_error() {
    assert_damage_is_reported(Stored::F32, DtypeChoice::Bf16, "its digest is wrong");
}

#[test]
fn refuses_values_outside_the_element_type() {
    assert_damage_is_reported(Stored::F16, DtypeChoice::Auto, "has values that are not f16 numbers");
}

#[test]
fn folder_with_files_is_kept_without_force() {
    let config = small_config();
    let folder = TempDir::new("occupied");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &config, Stored::F32, 11);
    pack(&weights, &model, DtypeChoice::Auto);
    fs::create_dir(&back).expect("folder");
    fs::write(back.join("model.norm.weight.npy"), "mine").expect("written");
    let refused = unpack::run(&model, &back, false, &SystemDisk).expect_err("refused").to_string();
    assert!(
        refused.ends_with(
            "not an empty folder, expected a new or an empty one; --force replaces the files of the same names"
        ),
        "{refused}"
    );
    assert_eq!(files(&back).len(), 1);
    assert_eq!(fs::read(back.join("model.norm.weight.npy")).expect("read"), b"mine");
    fs::write(back.join("notes.txt"), "mine").expect("written");
    unpack::run(&model, &back, true, &SystemDisk).expect("unpacked");
    assert_eq!(fs::read(back.join("notes.txt")).expect("read"), b"mine");
    fs::remove_file(back.join("notes.txt")).expect("removed");
    assert_same_files(&back, &weights);
    let refused = unpack::run(&model, &model, false, &SystemDisk).expect_err("refused").to_string();
    assert!(refused.contains("m.olmo"), "{refused}");
}

#[test]
fn refuses_model_without_provenance() {
    let folder = TempDir::new("no-sources");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &small_config(), Stored::F32, 12);
    pack(&weights, &model, DtypeChoice::Auto);
    let mut bytes = fs::read(&model).expect("a model");
    let (n_tensors, n_sections) = {
        let model = ModelFile::open(&model).expect("a model");
        (model.specs().len(), model.sections().len())
    };
    // Unknown sections that are not required.
    for index in 0..n_sections {
        let kind = Field::of_section(n_tensors, index, offset_of!(SectionRecord, kind), 4);
        assert_eq!(index == 0, kind.get(&bytes) == u64::from(section::SOURCES));
        kind.set(&mut bytes, 1000 + index as u64);
    }
    repair_digests(&mut bytes);
    fs::write(&model, bytes).expect("written");
    let refused = unpack::run(&model, &back, false, &SystemDisk).expect_err("refused").to_string();
    let says = "m.olmo: has no section SOURCES, which names what it was packed from; it cannot be unpacked";
    assert!(refused.ends_with(says), "{refused}");
    assert!(!back.exists());
}

#[test]
fn writes_through_no_existing_name() {
    let config = small_config();
    let folder = TempDir::new("planted");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &config, Stored::F32, 13);
    pack(&weights, &model, DtypeChoice::Auto);
    let mine = folder.join("mine");
    fs::write(&mine, "mine").expect("written");
    fs::create_dir(&back).expect("folder");
    // Temporary names are random, so only the last one can be planted; any_fault_of_the_disk covers a temporary name
    // that is taken.
    symlink(&mine, back.join("config.json")).expect("linked");
    unpack::run(&model, &back, true, &SystemDisk).expect("unpacked");
    assert_eq!(fs::read(&mine).expect("read"), b"mine");
    assert!(fs::symlink_metadata(back.join("config.json")).expect("a file").is_file());
    assert_same_files(&back, &weights);
}

#[test]
fn refuses_full_disk_before_writing() {
    let folder = TempDir::new("full");
    let (weights, model, small) = (folder.join("w"), folder.join("m.olmo"), folder.join("small"));
    write_weights(&weights, &small_config(), Stored::F32, 14);
    pack(&weights, &model, DtypeChoice::Auto);
    fs::create_dir(&small).expect("folder");
    // A disk of 64 KiB that only this shell sees. Status 77: not possible here.
    let finished = {
        let (small, model) = (small.display(), model.display());
        let script = format!(
            "mount -t tmpfs -o size=64k none {small} || exit 77; {PACK} unpack {model} {small}/back; \
             status=$?; ls {small}; exit $status"
        );
        run("unshare", ["-rm", "sh", "-c", &script])
    };
    if finished.code != Some(1) && !finished.stderr.starts_with("olmo-pack") {
        skipped(format_args!("no small disk can be mounted here: {}", finished.stderr));
        return;
    }
    let bytes: usize = files(&weights).values().map(Vec::len).sum();
    let says = format!("small/back: needs {bytes} bytes, 65536 are free, expected more space");
    assert!(finished.refused(1).contains(&says), "{}\nwants {says}", finished.stderr);
}

#[test]
fn error_names_the_final_file() {
    let folder = TempDir::new("too-large");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &small_config(), Stored::F32, 15);
    pack(&weights, &model, DtypeChoice::Auto);
    // config.json fits into the limit, a matrix does not; without the trap a signal would end the program.
    let script = format!("trap '' XFSZ; ulimit -f 4; exec {PACK} unpack {} {}", model.display(), back.display());
    let finished = run("sh", ["-c", &script]);
    let line = finished.refused(1);
    assert!(line.contains(".npy: cannot write: File too large; ") && line.contains(" already written and "), "{line}");
    assert!(!line.contains(".tmp") && files(&back).keys().all(|name| !name.ends_with(".tmp")), "{line}");
}

/// Files of a folder, in addition to its weights, as transformers writes them.
fn small_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        // Line ends and spaces that no parser keeps, and no line end at last.
        ("vocab.txt", b"0\tFour\r\n1\t\xc4\xa0score\n3\t\xc4\x8a".to_vec()),
        ("tokenizer_config.json", b"{ \"bos_token\":null ,\r\n\t\"model_max_length\": 1e30}".to_vec()),
        ("special_tokens_map.json", b"{}\n\n".to_vec()),
        ("added_tokens.json", b"{\"<|end|>\": 3}".to_vec()),
        ("chat_template.jinja", b"{% for m in messages %}[{{ m.content }}]{% endfor %}\r\n".to_vec()),
        ("generation_config.json", b"{\"do_sample\": true,\n \"temperature\": 0.60}".to_vec()),
    ]
}

#[test]
fn small_files_round_trip() {
    let folder = TempDir::new("small-files");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 16);
    assert_restored(&weights, DtypeChoice::Auto, Dtype::F32);
    let files = small_files();
    // Each alone, and with those before it.
    for together in [false, true] {
        for (name, bytes) in &files {
            fs::write(weights.join(name), bytes).expect("written");
            assert_restored(&weights, DtypeChoice::Auto, Dtype::F32);
            if !together {
                fs::remove_file(weights.join(name)).expect("removed");
            }
        }
    }
    pack(&weights, &model, DtypeChoice::Auto);
    let said = unpack::run(&model, &folder.join("back"), false, &SystemDisk).expect("unpacked");
    let says = ".npy files, config.json, vocab.txt, tokenizer_config.json, special_tokens_map.json, added_tokens.json, \
        chat_template.jinja and generation_config.json, restored exactly";
    assert!(said.ends_with(says), "{said}");
}

#[test]
fn tokenizer_json_round_trips() {
    let folder = TempDir::new("tokenizer-back");
    let weights = folder.join("w");
    fs::create_dir(&weights).expect("a folder");
    for (name, bytes) in files(&repository().join("demo/weights")) {
        fs::write(weights.join(name), bytes).expect("copied");
    }
    let source = repository().join("tests/tokenizers");
    let tokenizers = fs::read_dir(source).expect("tokenizers").map(|entry| entry.expect("an entry").path());
    let tokenizer = tokenizers.map(|path| path.join("tokenizer.json")).find(|path| path.is_file()).expect("one");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(tokenizer).expect("read")).expect("JSON");
    // The demo has few rows: a vocabulary of its first tokens.
    let vocab = json["model"]["vocab"].as_object().expect("a vocabulary");
    let rows = 40;
    let small: serde_json::Map<_, _> = vocab
        .iter()
        .filter(|(_, id)| id.as_u64() < Some(rows))
        .map(|(token, id)| (token.clone(), id.clone()))
        .collect();
    json["model"]["vocab"] = small.into();
    json["model"]["merges"] = serde_json::json!([]);
    json["added_tokens"] = serde_json::json!([]);
    fs::remove_file(weights.join("vocab.txt")).ok();
    fs::write(weights.join("tokenizer.json"), format!("{json:#}\n ")).expect("written");
    let (model, back) = (folder.join("m.olmo"), folder.join("back"));
    pack(&weights, &model, DtypeChoice::F32);
    unpack::run(&model, &back, false, &SystemDisk).unwrap_or_else(|error| panic!("{error}"));
    assert_same_files(&back, &weights);
}

#[test]
fn vocabulary_from_elsewhere_keeps_its_name() {
    let folder = TempDir::new("vocab-elsewhere");
    let (weights, model, back) = (folder.join("w"), folder.join("m.olmo"), folder.join("back"));
    write_weights(&weights, &small_config(), Stored::F32, 17);
    let vocab = folder.join("words");
    fs::write(&vocab, "0\ta\n").expect("written");
    let request = Request { weights: weights.clone(), model: model.clone(), vocab: Some(vocab), ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
    unpack::run(&model, &back, false, &SystemDisk).expect("unpacked");
    fs::write(weights.join("vocab.txt"), "0\ta\n").expect("written");
    assert_same_files(&back, &weights);
}

#[test]
fn refuses_small_file_beyond_its_limit() {
    let folder = TempDir::new("long-files");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 18);
    for name in ["special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "tokenizer_config.json"] {
        fs::write(weights.join(name), vec![b' '; (4 << 20) + 1]).expect("written");
        let request = Request { weights: weights.clone(), model: folder.join("m.olmo"), ..Request::default() };
        let error = pack::prepare(&request).err().expect("refused").to_string();
        assert!(error.ends_with(&format!("{name}: longer than 4 MiB, expected a file of a few KiB")), "{error}");
        fs::remove_file(weights.join(name)).expect("removed");
    }
}
