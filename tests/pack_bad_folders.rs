//! Everything that can be wrong with a weights folder: status 1, one line that names the file, nothing written, the old
//! model untouched. The W numbers are those of the project's catalogue of bad inputs.

use olmo_tests::{Finished, Stored, TempDir, npy_header_raw, npy_path, run, small_config, write_npy, write_weights};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const O_PROJ: &str = "model.layers.1.self_attn.o_proj.weight";
const NORM: &str = "model.norm.weight";

/// A good folder beside an old "model" that must survive.
struct Case {
    folder: TempDir,
    weights: PathBuf,
    model: PathBuf,
}

impl Case {
    fn new() -> Case {
        let folder = TempDir::new("bad");
        let (weights, model) = (folder.join("weights"), folder.join("out/m.olmo"));
        write_weights(&weights, &small_config(), Stored::F32, 1);
        fs::create_dir(folder.join("out")).expect("folder");
        fs::write(&model, "old").expect("written");
        Case { folder, weights, model }
    }

    fn file(&self, tensor: &str) -> PathBuf {
        npy_path(&self.weights, tensor)
    }

    fn pack(&self, flags: &[&str]) -> Finished {
        let paths = [self.weights.to_str().expect("UTF-8"), self.model.to_str().expect("UTF-8"), "--force"];
        run(PACK, paths.iter().chain(flags))
    }

    /// Asserts a refusal in one line and that nothing was written.
    #[track_caller]
    fn refused(&self, says: &[&str]) {
        let finished = self.pack(&[]);
        let line = finished.refused(1);
        assert!(line.starts_with("olmo-pack: error: "), "{line}");
        for says in says {
            assert!(line.contains(says), "{line}\nwants {says}");
        }
        self.untouched();
    }

    #[track_caller]
    fn untouched(&self) {
        assert_eq!(fs::read(&self.model).expect("old model"), b"old");
        assert_eq!(fs::read_dir(self.folder.join("out")).expect("list").count(), 1, "something was left behind");
    }
}

/// Refuses the folder after `spoil`.
#[track_caller]
fn refused(spoil: impl FnOnce(&Case), says: &[&str]) {
    let case = Case::new();
    spoil(&case);
    case.refused(says);
}

fn header(case: &Case, text: &str, data: usize) {
    let mut bytes = npy_header_raw(text);
    bytes.resize(bytes.len() + data, 0);
    fs::write(case.file(NORM), bytes).expect("written");
}

fn remake(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

#[test]
fn w1_the_folder_itself() {
    let case = Case::new();
    let run = |weights: &Path| run(PACK, [weights, &case.model]);
    assert!(run(&case.folder.join("none")).refused(1).contains("none: no such folder"));
    assert!(run(&case.file(NORM)).refused(1).contains("not a folder"));
    fs::create_dir(case.folder.join("empty")).expect("folder");
    assert!(run(&case.folder.join("empty")).refused(1).contains("no .npy files"));
    fs::write(case.folder.join("empty/model-00001-of-00002.safetensors"), "x").expect("written");
    let finished = run(&case.folder.join("empty"));
    assert!(finished.refused(1).contains("model-00001-of-00002.safetensors"), "{}", finished.stderr);
    // Swapped arguments.
    let swapped = olmo_tests::run(PACK, [&case.model, &case.weights]);
    assert!(swapped.refused(1).contains("are the arguments swapped?"), "{}", swapped.stderr);
    case.untouched();
}

#[test]
fn w2_missing_tensors() {
    refused(|case| fs::remove_file(case.file(O_PROJ)).unwrap(), &[O_PROJ, "missing (layer 1 of 2)"]);
    refused(|case| fs::remove_file(case.file("lm_head.weight")).unwrap(), &["lm_head.weight.npy: missing", "tie_word"]);
    // Many at once: ten lines and the rest counted.
    let case = Case::new();
    for entry in fs::read_dir(&case.weights).expect("list") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "npy") && !path.ends_with("lm_head.weight.npy") {
            fs::remove_file(path).expect("removed");
        }
    }
    let finished = case.pack(&[]);
    assert_eq!((finished.code, finished.stderr.lines().count()), (Some(1), 11), "{}", finished.stderr);
    assert!(finished.stderr.ends_with("and 14 more\n"), "{}", finished.stderr);
    case.untouched();
}

#[test]
fn w3_extra_tensors() {
    for name in ["model.layers.2.mlp.up_proj.weight", "extra", "model.layers.0.self_attn.q_proj.bias"] {
        let case = Case::new();
        write_npy(&case.file(name), "<f4", &[1], &[0; 4]);
        case.refused(&[name, "no parameter of this model", "--allow-extra"]);
        for flags in [&["--allow-extra", "--dry-run"][..], &["--allow-extra"]] {
            let finished = case.pack(flags);
            assert!(finished.ok().contains("left out ") && finished.stdout.contains(name), "{}", finished.stdout);
        }
    }
    // Files that are no .npy do not matter.
    let case = Case::new();
    fs::write(case.weights.join("README.md"), "x").expect("written");
    case.pack(&[]).ok();
}

#[test]
fn w3_a_head_beside_a_tied_model() {
    let case = Case::new();
    let path = case.weights.join("config.json");
    let text = fs::read_to_string(&path).expect("read");
    fs::write(&path, text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true")).expect("written");
    case.refused(&["lm_head.weight.npy", "the model is tied", "are not those of the embedding", "--allow-extra"]);
    fs::copy(case.file("model.embed_tokens.weight"), case.file("lm_head.weight")).expect("copied");
    case.refused(&["its numbers are those of the embedding"]);
    assert!(case.pack(&["--allow-extra"]).ok().contains("tied"));
}

#[test]
fn w4_shapes() {
    let cases: [(&str, &[usize], &[&str]); 6] = [
        ("model.layers.0.mlp.up_proj.weight", &[36, 71], &["[36, 71]", "[71, 36]", "transposed"]),
        ("model.layers.0.mlp.up_proj.weight", &[71, 37], &["[71, 37]", "[71, 36]"]),
        ("model.layers.0.mlp.up_proj.weight", &[71 * 36], &["[2556]", "[71, 36]"]),
        ("model.layers.0.mlp.up_proj.weight", &[1, 71, 36], &["[1, 71, 36]"]),
        (NORM, &[35], &["[35]", "[36]"]),
        ("model.embed_tokens.weight", &[102, 36], &["[102, 36]", "[101, 36]", "config.json"]),
    ];
    for (tensor, shape, says) in cases {
        let bytes = vec![0; shape.iter().product::<usize>() * 4];
        refused(|case| write_npy(&case.file(tensor), "<f4", shape, &bytes), &[&[tensor], says].concat());
    }
}

#[test]
fn w5_files_that_do_not_fit_each_other() {
    let case = Case::new();
    fs::remove_file(case.weights.join("config.json")).expect("removed");
    write_npy(&case.file("lm_head.weight"), "<f4", &[99, 36], &[0; 99 * 36 * 4]);
    let flags = "--arch olmo2 --head-dim 6 --rope-theta 1e4 --rms-norm-eps 1e-6 --max-positions 64";
    let finished = case.pack(&flags.split(' ').collect::<Vec<_>>());
    assert!(
        finished.refused(1).contains("lm_head.weight.npy: shape [99, 36], expected [101, 36]"),
        "{}",
        finished.stderr
    );
    case.untouched();
}

#[test]
fn w7_to_w11_element_types_and_orders() {
    let cases: [(&str, usize, &str); 16] = [
        ("<f8", 8, "float64"),
        ("<i4", 4, "element type <i4"),
        ("|b1", 1, "element type |b1"),
        ("<c8", 8, "element type <c8"),
        ("<U3", 12, "element type <U3"),
        ("|S3", 3, "element type |S3"),
        ("<M8[s]", 8, "structured"),
        ("<u2", 2, "if they are bfloat16"),
        ("<u4", 4, "element type <u4"),
        ("|O", 8, "could run code"),
        ("O", 8, "could run code"),
        (">f4", 4, "big-endian"),
        ("=f4", 4, "byte order not stated"),
        ("f4", 4, "byte order not stated"),
        ("|f4", 4, "byte order not stated"),
        (">V2", 2, "big-endian"),
    ];
    for (descr, bytes, says) in cases {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (36,), }}");
        refused(|case| header(case, &text, 36 * bytes), &[NORM, says, "expected <f4, <f2"]);
    }
    refused(
        |case| header(case, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (36,), }", 144),
        &["structured"],
    );
    let fortran = |case: &Case| {
        let mut bytes = npy_header_raw("{'descr': '<f4', 'fortran_order': True, 'shape': (36, 36), }");
        bytes.resize(bytes.len() + 36 * 36 * 4, 0);
        fs::write(case.file(O_PROJ), bytes).expect("written");
    };
    refused(fortran, &[O_PROJ, "Fortran order", "np.ascontiguousarray"]);
    // A number type is no advice for bytes that are probably bf16.
    let text = "{'descr': 'V2', 'fortran_order': False, 'shape': (36,), }";
    refused(
        |case| header(case, text, 72),
        &["byte order not stated (V2)", "if it is bfloat16, save array.view('<V2')"],
    );
    // The same bytes for a vector: no matter.
    let case = Case::new();
    header(&case, "{'descr': '<f4', 'fortran_order': True, 'shape': (36,), }", 144);
    case.pack(&[]).ok();
}

#[test]
fn w8_raw_16_bits_are_bf16_when_config_json_says_so() {
    let case = Case::new();
    header(&case, "{'descr': '<u2', 'fortran_order': False, 'shape': (36,), }", 72);
    let path = case.weights.join("config.json");
    for key in ["dtype", "torch_dtype"] {
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        json[key] = "bfloat16".into();
        fs::write(&path, json.to_string()).expect("written");
        assert!(case.pack(&[]).ok().contains("1 bf16 files"));
        json[key] = "float16".into();
        fs::write(&path, json.to_string()).expect("written");
        assert!(case.pack(&[]).refused(1).contains("16-bit integers"));
        json.as_object_mut().expect("object").shift_remove(key);
        fs::write(&path, json.to_string()).expect("written");
    }
}

#[test]
fn w12_to_w15_headers() {
    let spoil = |at: usize, value: Vec<u8>| {
        move |case: &Case| {
            let mut bytes = fs::read(case.file(NORM)).expect("read");
            bytes[at..at + value.len()].copy_from_slice(&value);
            fs::write(case.file(NORM), bytes).expect("written");
        }
    };
    for (version, shown) in [([4, 0], "4.0"), ([0, 1], "0.1"), ([1, 1], "1.1"), ([255, 255], "255.255")] {
        refused(spoil(6, version.to_vec()), &[NORM, &format!("npy version {shown} is not supported")]);
    }
    refused(spoil(8, vec![0, 0]), &["header of 0 bytes"]);
    refused(spoil(8, vec![0xff, 0xff]), &["header of 65535 bytes"]);
    refused(spoil(0, b"\x94".to_vec()), &[NORM, "expected an .npy file"]);
    let others: [(&[u8], &str); 6] = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 272\n", "run git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML page"),
        (b"PK\x03\x04 and more", "zip archive"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"", "empty file"),
        (b"\x93NUMPY\x01\x00\x76\x00{", "header of 118 bytes"),
    ];
    for (bytes, says) in others {
        refused(|case| fs::write(case.file(O_PROJ), bytes).unwrap(), &[O_PROJ, says]);
    }
    let texts = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (36L,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-36,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (36,), 'x': 1}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (36,), }",
        "((((((((((((((((((((",
    ];
    for text in texts {
        refused(|case| header(case, text, 144), &[NORM]);
    }
}

#[test]
fn w16_to_w18_lengths() {
    let resize = |tensor: &'static str, change: i64| {
        move |case: &Case| {
            let file = fs::OpenOptions::new().write(true).open(case.file(tensor)).expect("opened");
            let length = file.metadata().expect("metadata").len();
            file.set_len(length.strict_add_signed(change)).expect("resized");
        }
    };
    refused(resize(O_PROJ, -1), &[O_PROJ, "needs 5184 bytes of data, has 5183 (truncated?)"]);
    refused(resize(O_PROJ, -5184), &["has 0 (truncated?)"]);
    refused(resize(O_PROJ, 1), &["has 1 byte too many"]);
    refused(resize(O_PROJ, 4096), &["has 4096 bytes too many"]);
    // 26: a terabyte that is not there.
    refused(resize(O_PROJ, 1 << 40), &["1099511627776 bytes too many"]);
    let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }";
    refused(|case| header(case, huge, 144), &[NORM, "is impossible"]);
    refused(|case| header(case, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }", 0), &["no elements"]);
    refused(|case| header(case, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4), &["no dimension"]);
}

#[test]
fn w21_and_w22_names_and_kinds_of_files() {
    use std::os::unix::ffi::OsStrExt;
    refused(|case| fs::write(case.weights.join("a\nb.npy"), "x").unwrap(), &["a\\nb.npy"]);
    refused(
        |case| fs::write(case.weights.join(std::ffi::OsStr::from_bytes(b"\xff.npy")), "x").unwrap(),
        &["\\xff.npy"],
    );
    let replace = |make: fn(&Path)| {
        move |case: &Case| {
            fs::remove_file(case.file(NORM)).expect("removed");
            make(&case.file(NORM));
        }
    };
    refused(replace(|path| symlink("nowhere", path).unwrap()), &[NORM, "No such file"]);
    refused(replace(|path| symlink(path, path).unwrap()), &[NORM, "Too many levels of symbolic links"]);
    refused(replace(|path| symlink("/", path).unwrap()), &[NORM, "is a folder"]);
    refused(replace(|path| symlink("/dev/zero", path).unwrap()), &[NORM, "not a regular file"]);
    refused(replace(|path| drop(UnixListener::bind(path).unwrap())), &[NORM]);
    let case = Case::new();
    fs::remove_file(case.file(NORM)).expect("removed");
    make_fifo(&case.file(NORM));
    case.refused(&[NORM, "not a regular file"]);
    // A link to a good file is as good.
    let case = Case::new();
    fs::rename(case.file(NORM), case.folder.join("blob")).expect("moved");
    symlink("../blob", case.file(NORM)).expect("linked");
    case.pack(&[]).ok();
}

/// A FIFO by the program of that name: std has no call for it.
fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
}

#[test]
fn w6_config_json_itself() {
    let write = |bytes: Vec<u8>| move |case: &Case| fs::write(case.weights.join("config.json"), bytes).unwrap();
    refused(write(b"{".to_vec()), &["config.json", "expected JSON"]);
    refused(write(b"".to_vec()), &["config.json"]);
    refused(write(vec![b' '; (1 << 20) + 1]), &["config.json", "longer than 1 MiB"]);
    refused(write(b"{\"a\":1,\"a\":1}".to_vec()), &["config.json", "twice"]);
    refused(write(b"[[".repeat(60_000)), &["config.json", "recursion"]);
    let case = Case::new();
    remake(&case.weights.join("config.json"), b"{}");
    case.refused(&["config.json: no model_type"]);
}

#[test]
fn a_bad_vocabulary_is_refused_by_line() {
    let vocab = |text: &'static str| move |case: &Case| fs::write(case.weights.join("vocab.txt"), text).unwrap();
    refused(vocab("0\ta\n1\n"), &["vocab.txt", "line 2"]);
    refused(vocab("101\ta\n"), &["vocab.txt", "line 1: id 101", "101 rows"]);
    refused(vocab("5\ta\n5\tb\n"), &["vocab.txt", "line 2: id 5 again"]);
    let case = Case::new();
    let finished = case.pack(&["--vocab", "/nowhere/vocab.txt"]);
    assert!(finished.refused(1).contains("/nowhere/vocab.txt"));
    case.untouched();
}
