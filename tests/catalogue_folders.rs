//! The W rows of the catalogue of bad inputs: everything that can be wrong with a weights folder. `CATALOGUE.md` lists
//! them with the rows that cannot occur.

use olmo_tests::catalogue::{Refusal, Report, Run, as_ordinary_user, command, is_root, make_fifo, measured};
use olmo_tests::{
    Stored, TempDir, finish, npy_header_raw, npy_path, run, skipped, small_config, write_npy, write_weights,
};
use serde_json::json;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const EMBEDDING: &str = "model.embed_tokens.weight";
const O_PROJ: &str = "model.layers.1.self_attn.o_proj.weight";
const UP_PROJ: &str = "model.layers.0.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";
/// All that the shapes do not say, for a folder without `config.json`.
const FLAGS: [&str; 10] =
    ["--arch", "olmo2", "--head-dim", "6", "--rope-theta", "1e4", "--rms-norm-eps", "1e-6", "--max-positions", "64"];

/// A good folder beside an old "model" that must survive.
struct Case {
    folder: TempDir,
    weights: PathBuf,
    model: PathBuf,
}

impl Case {
    fn new() -> Case {
        let folder = TempDir::new("folders");
        let (weights, model) = (folder.join("weights"), folder.join("out/m.olmo"));
        write_weights(&weights, &small_config(), Stored::F32, 1);
        fs::create_dir(folder.join("out")).expect("folder");
        fs::write(&model, "old").expect("written");
        Case { folder, weights, model }
    }

    fn file(&self, tensor: &str) -> PathBuf {
        npy_path(&self.weights, tensor)
    }

    fn config(&self) -> PathBuf {
        self.weights.join("config.json")
    }

    /// The command that packs `weights` over the old model.
    fn pack(&self, weights: &Path, flags: &[&str]) -> Command {
        let mut command = measured(PACK);
        command.arg(weights).arg(&self.model).arg("--force").args(flags);
        command
    }

    /// Checks a refusal in one line that begins with `begins`.
    fn refusal(&self, begins: impl Into<String>, words: &[&str], flags: &[&str]) -> Result<(), String> {
        let refusal = Refusal::one_line("olmo-pack", begins, words);
        refusal.check(self.folder.path(), || self.pack(&self.weights, flags))
    }

    /// Checks a refusal of the file at `path`.
    fn refused(&self, path: impl AsRef<Path>, words: &[&str]) -> Result<(), String> {
        self.refusal(format!("{}: ", path.as_ref().display()), words, &[])
    }

    /// Checks a refusal of the folder at `weights`.
    fn folder_refused(&self, weights: impl AsRef<Path>, words: &[&str]) -> Result<(), String> {
        let weights = weights.as_ref();
        let refusal = Refusal::one_line("olmo-pack", format!("{}: ", weights.display()), words);
        refusal.check(self.folder.path(), || self.pack(weights, &[]))
    }

    /// Checks that the folder is packed and the new file is good.
    fn packed(&self, flags: &[&str]) -> Result<(), String> {
        let finished = finish(&mut self.pack(&self.weights, flags));
        let verified = run(PACK, [OsStr::new("verify"), self.model.as_os_str()]);
        match (finished.code, verified.code) {
            (Some(0), Some(0)) => Ok(()),
            _ => Err(format!("not packed: {}{}", finished.stderr, verified.stderr)),
        }
    }
}

/// The refusal of one tensor's file after `spoil` made it another one.
fn spoiled(tensor: &str, words: &[&str], spoil: impl FnOnce(&Path)) -> Result<(), String> {
    let case = Case::new();
    spoil(&case.file(tensor));
    case.refused(case.file(tensor), words)
}

/// The refusal of a norm with this header text and so many bytes of zeros.
fn header_refused(text: &str, data: usize, words: &[&str]) -> Result<(), String> {
    spoiled(NORM, words, |path| write_header(path, text, data))
}

fn write_header(path: &Path, text: &str, data: usize) {
    let mut bytes = npy_header_raw(text);
    bytes.resize(bytes.len() + data, 0);
    fs::write(path, bytes).expect("written");
}

/// The header of a norm with another type.
fn typed(descr: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (36,), }}")
}

/// The header of a norm with another shape.
fn shaped(shape: &str) -> String {
    format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")
}

/// Changes the length of a file.
fn resize(path: &Path, change: i64) {
    let file = File::options().write(true).open(path).expect("opened");
    let length = file.metadata().expect("metadata").len();
    file.set_len(length.strict_add_signed(change)).expect("resized");
}

/// Puts something else in the place of a file.
fn replaced(path: &Path, make: impl FnOnce(&Path)) {
    fs::remove_file(path).expect("removed");
    make(path);
}

#[test]
fn w1_the_folder_is_absent_a_file_or_empty() {
    let mut report = Report::new("W1");
    let case = Case::new();
    let path = |name: &str| case.folder.join(name);
    report.add("absent", case.folder_refused(path("none"), &["no such folder", "a folder of .npy files"]));
    report.add("a file", case.folder_refused(case.file(NORM), &["not a folder"]));
    make_fifo(&path("fifo"));
    report.add("a FIFO", case.folder_refused(path("fifo"), &["not a folder"]));
    report.add("a device", case.folder_refused("/dev/zero", &["not a folder"]));
    symlink("nowhere", path("dangling")).expect("linked");
    report.add("a dangling link", case.folder_refused(path("dangling"), &["no such folder"]));
    symlink("loop", path("loop")).expect("linked");
    report.add("a loop of links", case.folder_refused(path("loop"), &["Too many levels of symbolic links"]));
    let empty = path("empty");
    fs::create_dir(&empty).expect("folder");
    report.add("empty", case.folder_refused(&empty, &["no .npy files", "np.save"]));
    fs::copy(case.config(), empty.join("config.json")).expect("copied");
    report.add("config.json alone", case.folder_refused(&empty, &["no .npy files", "<parameter name>.npy"]));
    for name in ["pytorch_model.bin", "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"] {
        fs::write(empty.join(name), "x").expect("written");
        report.add(name, case.folder_refused(&empty, &["no .npy files, but ", name, "np.save"]));
    }
    let swapped = Refusal::one_line("olmo-pack", format!("{}: ", case.weights.display()), &["the arguments swapped?"]);
    report.add(
        "swapped arguments",
        swapped.check(case.folder.path(), || {
            let mut command = measured(PACK);
            command.args([&case.model, &case.weights]);
            command
        }),
    );
}

#[test]
fn w2_tensors_are_missing() {
    let mut report = Report::new("W2");
    let removed = |tensor: &str, words: &[&str]| spoiled(tensor, words, |path| fs::remove_file(path).expect("removed"));
    report.add("embedding", removed(EMBEDDING, &["missing, expected a tensor [101, 36]", "export the whole model"]));
    report.add("in a layer", removed(O_PROJ, &["missing (layer 1 of 2)"]));
    report.add("last norm", removed(NORM, &["missing"]));
    report.add("head", removed(HEAD, &["missing", "tie_word_embeddings"]));
    let case = Case::new();
    fs::remove_file(case.config()).expect("removed");
    fs::remove_file(case.file(EMBEDDING)).expect("removed");
    report.add(
        "embedding, without config.json",
        case.refusal(format!("{}: ", case.file(EMBEDDING).display()), &["missing", "config.json"], &FLAGS),
    );
}

/// The names of the tensors in the order of the model file.
fn tensor_names() -> Vec<String> {
    olmo_infer::layout::tensors(&small_config()).iter().map(|spec| spec.name()).collect()
}

#[test]
fn w2_many_problems_are_ten_lines_and_their_number() {
    let mut report = Report::new("W2");
    let names = tensor_names();
    for removed in [2, 9, 10, 11, 12, names.len() - 1] {
        let case = Case::new();
        for name in &names[..removed] {
            fs::remove_file(case.file(name)).expect("removed");
        }
        let line = |name: &String| vec![format!("{}: missing", case.file(name).display())];
        let lines = names[..removed.min(10)].iter().map(line).collect();
        let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: removed.saturating_sub(10) };
        report.add(removed, refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
    }
    // Different ones together, in the order of the model; what is too much comes last.
    let case = Case::new();
    fs::remove_file(case.file(EMBEDDING)).expect("removed");
    resize(&case.file(UP_PROJ), -1);
    write_npy(&case.file(O_PROJ), "<f4", &[36, 35], &[0; 36 * 35 * 4]);
    write_header(&case.file(NORM), &typed("'<f8'"), 288);
    write_npy(&case.file("more"), "<f4", &[1], &[0; 4]);
    let line = |tensor: &str, word: &str| vec![format!("{}: ", case.file(tensor).display()), word.to_string()];
    let lines = vec![
        line(EMBEDDING, "missing"),
        line(UP_PROJ, "truncated?"),
        line(O_PROJ, "shape [36, 35]"),
        line(NORM, "float64"),
        line("more", "no parameter"),
    ];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: 0 };
    report.add("five kinds", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
}

#[test]
fn w3_tensors_that_are_no_parameters() {
    let mut report = Report::new("W3");
    let names = [
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.00.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "extra",
        "",
    ];
    for name in names {
        let case = Case::new();
        write_npy(&case.file(name), "<f4", &[1], &[0; 4]);
        report.add(name, case.refused(case.file(name), &["no parameter of this model", "--allow-extra"]));
        for flags in [&["--allow-extra", "--dry-run"][..], &["--allow-extra"]] {
            let finished = finish(&mut case.pack(&case.weights, flags));
            let told = finished.code == Some(0) && finished.stdout.contains("left out ");
            report.holds(format_args!("{name} {flags:?}"), told && finished.stdout.contains(name), finished.stdout);
        }
    }
    // Files that are no .npy do not matter.
    let case = Case::new();
    for name in ["README.md", ".DS_Store", "extra.npy.txt", "npy", "extra.NPY"] {
        fs::write(case.weights.join(name), "x").expect("written");
    }
    fs::create_dir(case.weights.join("folder")).expect("folder");
    report.add("no .npy", case.packed(&[]));
}

#[test]
fn w3_a_head_beside_a_tied_model() {
    let mut report = Report::new("W3");
    let case = Case::new();
    set(&case, json!({"tie_word_embeddings": true}));
    let head = case.file(HEAD);
    report.add(
        "other numbers",
        case.refused(&head, &["the model is tied", "are not those of the embedding", "--allow-extra"]),
    );
    fs::copy(case.file(EMBEDDING), &head).expect("copied");
    report.add("same numbers", case.refused(&head, &["its numbers are those of the embedding"]));
    report.add("allowed", case.packed(&["--allow-extra"]));
    fs::write(&head, "x").expect("written");
    report.add("no array", case.refused(&head, &["present though the model is tied"]));
}

/// Changes keys of `config.json`; null removes one.
fn set(case: &Case, changes: serde_json::Value) {
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(case.config()).expect("read")).expect("JSON");
    let object = json.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        object.insert(key.clone(), value.clone());
    }
    fs::write(case.config(), json.to_string()).expect("written");
}

#[test]
fn w4_shapes_that_are_not_the_models() {
    let mut report = Report::new("W4");
    let cases: [(&str, &[usize], &[&str]); 12] = [
        (UP_PROJ, &[36, 71], &["[36, 71], expected [71, 36]", "config.json", "transposed", "np.ascontiguousarray"]),
        (UP_PROJ, &[71, 37], &["[71, 37], expected [71, 36]"]),
        (UP_PROJ, &[72, 36], &["[72, 36], expected [71, 36]"]),
        (UP_PROJ, &[71 * 36], &["[2556], expected [71, 36]"]),
        (UP_PROJ, &[1, 71, 36], &["[1, 71, 36], expected [71, 36]"]),
        (UP_PROJ, &[71, 36, 1], &["[71, 36, 1], expected [71, 36]"]),
        (NORM, &[35], &["[35], expected [36]"]),
        (NORM, &[1, 36], &["[1, 36], expected [36]"]),
        (NORM, &[36, 1], &["[36, 1], expected [36]"]),
        (EMBEDDING, &[102, 36], &["[102, 36], expected [101, 36]"]),
        (EMBEDDING, &[36, 101], &["transposed"]),
        (HEAD, &[100, 36], &["[100, 36], expected [101, 36]"]),
    ];
    for (tensor, shape, words) in cases {
        let bytes = vec![0; shape.iter().product::<usize>() * 4];
        let outcome = spoiled(tensor, words, |path| write_npy(path, "<f4", shape, &bytes));
        report.add(format_args!("{tensor} {shape:?}"), outcome);
    }
}

#[test]
fn w5_files_that_do_not_fit_each_other() {
    let mut report = Report::new("W5");
    let cases: [(&str, &[usize], &str, &[&str]); 5] = [
        (HEAD, &[99, 36], HEAD, &["shape [99, 36], expected [101, 36]", EMBEDDING]),
        (NORM, &[35], NORM, &["shape [35], expected [36]", EMBEDDING]),
        (
            "model.layers.1.self_attn.k_proj.weight",
            &[18, 36],
            "model.layers.1.self_attn.k_proj.weight",
            &["shape [18, 36], expected [12, 36]", "layers.0", "k_proj"],
        ),
        (UP_PROJ, &[70, 36], UP_PROJ, &["shape [70, 36], expected [71, 36]", "gate_proj"]),
        (
            "model.layers.0.self_attn.q_norm.weight",
            &[6],
            "model.layers.0.self_attn.q_norm.weight",
            &["shape [6] for q_proj of 36 rows", "a norm for each head"],
        ),
    ];
    for (tensor, shape, named, words) in cases {
        let case = Case::new();
        fs::remove_file(case.config()).expect("removed");
        write_npy(&case.file(tensor), "<f4", shape, &vec![0; shape.iter().product::<usize>() * 4]);
        let outcome = case.refusal(format!("{}: ", case.file(named).display()), words, &FLAGS);
        report.add(format_args!("{tensor} {shape:?}"), outcome);
    }
    // The rows of all projections of a kind together, which only the heads contradict.
    for (kind, rows, says) in [("q_proj", 35, "q_proj is 35 wide"), ("k_proj", 13, "k_proj is 13 wide")] {
        let case = Case::new();
        fs::remove_file(case.config()).expect("removed");
        for layer in 0..2 {
            let tensor = format!("model.layers.{layer}.self_attn.{kind}.weight");
            write_npy(&case.file(&tensor), "<f4", &[rows, 36], &vec![0; rows * 36 * 4]);
            let norm = format!("model.layers.{layer}.self_attn.{}_norm.weight", &kind[..1]);
            write_npy(&case.file(&norm), "<f4", &[rows], &vec![0; rows * 4]);
        }
        let begins = format!("{}: ", case.weights.display());
        report.add(kind, case.refusal(begins, &[says, "a multiple of head_dim 6", "--head-dim"], &FLAGS));
    }
}

#[test]
fn w6_no_config_json() {
    let mut report = Report::new("W6");
    let case = Case::new();
    fs::remove_file(case.config()).expect("removed");
    let mut needed = vec!["no config.json"];
    needed.extend(FLAGS.iter().step_by(2));
    report.add("no flags", case.refused(&case.weights, &needed));
    for at in (0..FLAGS.len()).step_by(2) {
        let flags: Vec<&str> = [&FLAGS[..at], &FLAGS[at + 2..]].concat();
        let begins = format!("{}: ", case.weights.display());
        report.add(format_args!("no {}", FLAGS[at]), case.refusal(begins, &["no config.json", FLAGS[at]], &flags));
    }
    report.add("all flags", case.packed(&FLAGS));
}

#[test]
fn w6_config_json_is_no_json_of_a_model() {
    let mut report = Report::new("W6");
    let texts: [(&str, Vec<u8>, &[&str]); 12] = [
        ("cut", b"{".to_vec(), &["expected JSON"]),
        ("empty", Vec::new(), &["expected JSON"]),
        ("too long", vec![b' '; (1 << 20) + 1], &["longer than 1 MiB"]),
        ("a key twice", b"{\"a\":1,\"a\":1}".to_vec(), &["key \"a\" twice"]),
        ("a key twice, escaped", b"{\"a\":1,\"\\u0061\":1}".to_vec(), &["key \"a\" twice"]),
        ("deep lists", b"[".repeat(500_000), &["recursion"]),
        ("deep objects", b"{\"a\":".repeat(100_000), &["recursion"]),
        ("a list", b"[]".to_vec(), &["JSON that is no object"]),
        ("no keys", b"{}".to_vec(), &["no model_type"]),
        ("not UTF-8", b"{\"\xff\":1}".to_vec(), &["expected JSON"]),
        ("NaN", b"{\"rope_theta\": NaN}".to_vec(), &["expected JSON"]),
        ("a terminal's escape", b"{\"model_type\": \"a\\u001b[31m\\n\"}".to_vec(), &["model_type is "]),
    ];
    for (variant, text, words) in texts {
        let case = Case::new();
        fs::write(case.config(), text).expect("written");
        report.add(variant, case.refused(case.config(), words));
    }
    let case = Case::new();
    fs::write(case.config(), "").expect("written");
    File::options().write(true).open(case.config()).and_then(|file| file.set_len(1 << 40)).expect("resized");
    report.add("sparse", case.refused(case.config(), &["longer than 1 MiB"]));
}

#[test]
fn w6_values_that_no_model_has() {
    let mut report = Report::new("W6");
    let cases = [
        (json!({"model_type": "llama"}), "model_type is \"llama\", expected olmo2 or olmo3"),
        (json!({"model_type": null}), "no model_type"),
        (json!({"hidden_size": 0}), "hidden_size is 0"),
        (json!({"hidden_size": -36}), "hidden_size is -36, expected a whole number"),
        (json!({"hidden_size": 1u64 << 60}), "hidden_size is 1152921504606846976"),
        (json!({"hidden_size": u64::MAX}), "hidden_size is 18446744073709551615"),
        (json!({"hidden_size": "36"}), "hidden_size is \"36\""),
        (json!({"hidden_size": null}), "no hidden_size"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers is 0"),
        (json!({"num_hidden_layers": 4_294_967_295u64}), "num_hidden_layers is 4294967295"),
        (json!({"num_attention_heads": 5, "head_dim": null}), "num_attention_heads is 5, expected a divisor"),
        (json!({"num_attention_heads": 0, "head_dim": null}), "num_attention_heads is 0"),
        (json!({"num_key_value_heads": 4}), "num_key_value_heads is 4"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads is 0"),
        (json!({"head_dim": 7}), "head_dim is 7"),
        (json!({"head_dim": 0}), "head_dim is 0"),
        (json!({"intermediate_size": 0}), "intermediate_size is 0"),
        (json!({"vocab_size": 0}), "vocab_size is 0"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings is 0"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps is 0"),
        (json!({"rms_norm_eps": -1e-6}), "rms_norm_eps is -"),
        (json!({"rms_norm_eps": "NaN"}), "rms_norm_eps is \"NaN\", expected a number"),
        (json!({"rope_theta": 0.0}), "rope_theta is 0"),
        (json!({"rope_theta": -5.0}), "rope_theta is -5"),
        (json!({"rope_theta": 1e300}), "rope_theta is 1"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings is 1, expected true or false"),
    ];
    for (changes, word) in cases {
        let case = Case::new();
        set(&case, changes.clone());
        report.add(changes, case.refused(case.config(), &[word]));
    }
    // Infinity by overflow: JSON has no word for it.
    let case = Case::new();
    let text = fs::read_to_string(case.config()).expect("read").replace("10000.0", "1e999");
    fs::write(case.config(), text).expect("written");
    report.add("rope_theta 1e999", case.refused(case.config(), &["number out of range"]));
    // What contradicts the shapes is told by the tensors.
    let case = Case::new();
    set(&case, json!({"vocab_size": 100}));
    let line = |tensor: &str| {
        vec![format!("{}: shape [101, 36], expected [100, 36] as config.json says", case.file(tensor).display())]
    };
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: vec![line(EMBEDDING), line(HEAD)], more: 0 };
    report.add("vocab_size 100", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
    // And a flag that contradicts the file by the flag.
    for (flag, value, key) in [
        ("--rope-theta", "5e5", "rope_theta"),
        ("--rms-norm-eps", "1e-5", "rms_norm_eps"),
        ("--head-dim", "12", "head_dim"),
    ] {
        let case = Case::new();
        let begins = format!("{}: ", case.config().display());
        report.add(flag, case.refusal(begins, &[key, flag], &[flag, value]));
    }
}

#[test]
fn w7_element_types_that_are_not_read() {
    let mut report = Report::new("W7");
    let types: [(&str, usize, &str); 27] = [
        ("'<f8'", 8, "float64 (<f8)"),
        ("'<f16'", 16, "element type <f16"),
        ("'<i1'", 1, "element type <i1"),
        ("'|i1'", 1, "element type |i1"),
        ("'|u1'", 1, "element type |u1"),
        ("'<i2'", 2, "element type <i2"),
        ("'<i4'", 4, "element type <i4"),
        ("'<u4'", 4, "element type <u4"),
        ("'<i8'", 8, "element type <i8"),
        ("'<u8'", 8, "element type <u8"),
        ("'|b1'", 1, "element type |b1"),
        ("'<c8'", 8, "element type <c8"),
        ("'<c16'", 16, "element type <c16"),
        ("'<U3'", 12, "element type <U3"),
        ("'|S3'", 3, "element type |S3"),
        ("'|V4'", 4, "element type |V4"),
        ("'|V1'", 1, "element type |V1"),
        ("'<M8[s]'", 8, "structured element type"),
        ("'<m8'", 8, "element type <m8"),
        ("'float32'", 4, "byte order not stated (float32)"),
        ("'bfloat16'", 2, "element type bfloat16"),
        ("'<f4 '", 4, "element type <f4 "),
        ("''", 4, "element type"),
        ("[('a', '<f4')]", 4, "structured element type"),
        ("[('a', '<f4'), ('b', '<f4')]", 8, "structured element type"),
        ("('<f4', 2)", 8, "a value that is no quoted text"),
        ("('<f4', (2,))", 8, "brackets nested deeper"),
    ];
    for (descr, bytes, says) in types {
        let accepted: &[&str] = if descr.starts_with('(') { &[] } else { &["expected <f4, <f2, or bfloat16 as <V2"] };
        report.add(descr, header_refused(&typed(descr), 36 * bytes, &[&[says], accepted].concat()));
    }
}

#[test]
fn w7_rounding_to_bf16_never_overflows_in_silence() {
    let mut report = Report::new("W7");
    let case = Case::new();
    olmo_tests::map_numbers(&case.weights, UP_PROJ, |i, old| if i == 36 * 3 + 5 { f32::MAX } else { old });
    let begins = format!("{}: ", case.file(UP_PROJ).display());
    report.add(
        "f32 to bf16",
        case.refusal(begins, &["the number at [3, 5] is too large for bf16", "use --dtype f32"], &["--dtype", "bf16"]),
    );
    report.add("as f32", case.packed(&["--dtype", "f32"]));
}

#[test]
fn w8_raw_16_bits() {
    let mut report = Report::new("W8");
    for descr in ["'<V2'", "'|V2'"] {
        let case = Case::new();
        write_header(&case.file(NORM), &typed(descr), 72);
        report.add(descr, case.packed(&[]));
    }
    report.add(
        "<u2 without a word",
        header_refused(
            &typed("'<u2'"),
            72,
            &["16-bit integers (<u2)", "bfloat16 as <V2", "config.json", "view('<V2')"],
        ),
    );
    for (descr, says) in [("'>V2'", "big-endian"), ("'>u2'", "big-endian")] {
        report.add(descr, header_refused(&typed(descr), 72, &[says]));
    }
    // A number type is no advice for bytes that are probably bf16.
    for descr in ["V2", "=V2"] {
        let says = format!("byte order not stated ({descr})");
        let outcome = header_refused(&typed(&format!("'{descr}'")), 72, &[&says, "if it is bfloat16", "view('<V2')"]);
        report.add(descr, outcome);
    }
    for key in ["dtype", "torch_dtype"] {
        let case = Case::new();
        write_header(&case.file(NORM), &typed("'<u2'"), 72);
        set(&case, json!({key: "float16"}));
        report.add(format_args!("<u2 and {key} float16"), case.refused(case.file(NORM), &["16-bit integers"]));
        set(&case, json!({key: "bfloat16"}));
        let finished = finish(&mut case.pack(&case.weights, &[]));
        let told = finished.code == Some(0) && finished.stdout.contains("1 bf16 files");
        report.holds(format_args!("<u2 and {key} bfloat16"), told, finished.stderr);
    }
}

#[test]
fn w9_objects_are_refused_and_never_parsed() {
    let mut report = Report::new("W9");
    // A pickle that would run a program behind the header.
    let pickle = b"cos\nsystem\n(S'touch /tmp/olmo-pickle-ran'\ntR.";
    for descr in ["'|O'", "'O'", "'<O'", "'=O'", "'|O8'", "'O8'"] {
        let outcome = spoiled(NORM, &["object array (pickle)", "could run code", "save it again as float32"], |path| {
            let bytes = [npy_header_raw(&typed(descr)), pickle.to_vec()].concat();
            fs::write(path, bytes).expect("written");
        });
        report.add(descr, outcome);
    }
    report.holds("the pickle", !Path::new("/tmp/olmo-pickle-ran").exists(), "was run");
}

#[test]
fn w10_fortran_order() {
    let mut report = Report::new("W10");
    let ordered = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}");
    let outcome = spoiled(O_PROJ, &["Fortran order", "expected C order", "np.ascontiguousarray"], |path| {
        write_header(path, &ordered("(36, 36)"), 36 * 36 * 4);
    });
    report.add("a matrix", outcome);
    report.add("one column", header_refused(&ordered("(36, 1)"), 144, &["Fortran order"]));
    // The same bytes for a vector: no matter.
    let case = Case::new();
    write_header(&case.file(NORM), &ordered("(36,)"), 144);
    report.add("a vector", case.packed(&[]));
}

#[test]
fn w11_byte_orders() {
    let mut report = Report::new("W11");
    let orders = [
        ("'>f4'", 4, "big-endian numbers (>f4)"),
        ("'>f2'", 2, "big-endian numbers (>f2)"),
        ("'>f8'", 8, "big-endian numbers (>f8)"),
        ("'=f4'", 4, "byte order not stated (=f4)"),
        ("'f4'", 4, "byte order not stated (f4)"),
        ("'|f4'", 4, "byte order not stated (|f4)"),
        ("'=f2'", 2, "byte order not stated (=f2)"),
        ("'f2'", 2, "byte order not stated (f2)"),
        ("'u2'", 2, "byte order not stated (u2)"),
    ];
    for (descr, bytes, says) in orders {
        report
            .add(descr, header_refused(&typed(descr), 36 * bytes, &[says, "expected <f4", "save array.astype('<f4')"]));
    }
}

/// A norm in a file of this version.
fn versioned(version: [u8; 2], header_bytes: u32) -> Vec<u8> {
    let mut text = shaped("(36,)").into_bytes();
    text.resize(116 - 1, b' ');
    text.push(b'\n');
    let mut bytes = [b"\x93NUMPY".as_slice(), &version].concat();
    match version {
        [1, _] => bytes.extend((header_bytes as u16).to_le_bytes()),
        _ => bytes.extend(header_bytes.to_le_bytes()),
    }
    bytes.extend(text);
    bytes.resize(bytes.len() + 144, 0);
    bytes
}

#[test]
fn w12_versions() {
    let mut report = Report::new("W12");
    for version in [[1, 0], [2, 0], [3, 0]] {
        let case = Case::new();
        fs::write(case.file(NORM), versioned(version, 116)).expect("written");
        report.add(format_args!("{version:?}"), case.packed(&[]));
    }
    for version in [[0, 0], [0, 1], [1, 1], [2, 1], [3, 1], [4, 0], [9, 3], [255, 255]] {
        let says = format!("npy version {}.{} is not supported, expected 1.0, 2.0 or 3.0", version[0], version[1]);
        let outcome = spoiled(NORM, &[&says], |path| fs::write(path, versioned(version, 116)).expect("written"));
        report.add(format_args!("{version:?}"), outcome);
    }
}

#[test]
fn w13_other_files_are_named_for_what_they_are() {
    let mut report = Report::new("W13");
    let others: [(&[u8], &str); 28] = [
        (b"", "empty file"),
        (b"\x94NUMPY\x01\x00", "unknown bytes"),
        (b"\x93numpy\x01\x00", "unknown bytes"),
        (b"\x93NUMPZ\x01\x00", "unknown bytes"),
        (b"\x13NUMPY\x01\x00", "unknown bytes"),
        (b"hello\n", "text"),
        (b"{\"weights\": []}", "text"),
        (b"1.0,2.0\r\n3.0,4.0\r\n", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 272\n", "git-lfs pointer"),
        (b"version https://git-lfs.github.com/spec/v1\r\noid sha256:0\r\n", "run git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML page"),
        (b"\n\n  <html lang=\"en\">\xc3\xa4", "HTML page"),
        (b"PK\x03\x04\x14\x00 and more", "zip archive (.npz?)"),
        (b"PK\x05\x06\0\0\0\0", "zip archive (.npz?)"),
        (b"\x1f\x8b\x08\x00", "gzip file"),
        (b"\x80\x02]q\x00.", "pickle, which could run code"),
        (b"\x80\x03cnumpy\n", "pickle, which could run code"),
        (b"\x80\x04\x95\x10\0", "pickle, which could run code"),
        (b"\x80\x05\x95\x10\0", "pickle, which could run code"),
        (b"cos\nsystem\n(S'true'\ntR.", "text"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "safetensors file"),
        (b"GGUF\x03\0\0\0", "GGUF file"),
        (b"\x89OLMO\n\x1a\n", "unknown bytes"),
        (b"\x7fELF\x02\x01\x01", "unknown bytes"),
        (b"\x89PNG\r\n\x1a\n", "unknown bytes"),
        (b"\xef\xbb\xbf\x93NUMPY\x01\x00", "unknown bytes"),
        (b"\xc2\x93NUMPY\x01\x00", "unknown bytes"),
        (&[0; 4096], "unknown bytes"),
    ];
    for (bytes, says) in others {
        let outcome =
            spoiled(O_PROJ, &[says, "expected an .npy file", "; "], |path| fs::write(path, bytes).expect("written"));
        report.add(String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).escape_debug(), outcome);
    }
    let whole = npy_header_raw(&shaped("(36,)"));
    for length in 1..12 {
        let says = format!("only {length} byte");
        let words: &[&str] = if length < 10 { &[&says, "export it again"] } else { &["export it again"] };
        let outcome = spoiled(NORM, words, |path| fs::write(path, &whole[..length]).expect("written"));
        report.add(format_args!("{length} bytes"), outcome);
    }
}

#[test]
fn w14_lengths_of_headers() {
    let mut report = Report::new("W14");
    for version in [1, 2, 3] {
        for length in [0, 10_001, 65_535, 1 << 20, 1 << 31, u32::MAX] {
            if version == 1 && length > 65_535 {
                continue;
            }
            let says = format!("header of {length} bytes, expected 1 to 10000 bytes");
            let outcome = spoiled(NORM, &[&says, "export it again"], |path| {
                fs::write(path, versioned([version, 0], length)).expect("written");
            });
            report.add(format_args!("{length} in version {version}.0"), outcome);
        }
        let says = if version == 1 { "in a file of 270 bytes" } else { "in a file of 272 bytes" };
        let outcome = spoiled(NORM, &["header of 9999 bytes", says, "export it again"], |path| {
            fs::write(path, versioned([version, 0], 9999)).expect("written");
        });
        report.add(format_args!("longer than the file in version {version}.0"), outcome);
    }
    // A length that is legal and wrong: the end of the text is no newline.
    for length in [1, 2, 60, 115, 117] {
        let outcome = spoiled(NORM, &["export it again"], |path| {
            fs::write(path, versioned([2, 0], length)).expect("written");
        });
        report.add(format_args!("{length} bytes"), outcome);
    }
}

/// Headers of a norm that numpy would not write, and what is said of them.
fn tricks() -> Vec<(String, &'static str)> {
    let good = "'descr': '<f4', 'fortran_order': False, 'shape': (36,), ";
    let numbers = "a shape with something else than plain numbers";
    let mut tricks: Vec<(String, &'static str)> = vec![
        ("".into(), "no '{'"),
        ("[1, 2]".into(), "structured"),
        ("(1, 2)".into(), "'(' where '{' belongs"),
        ("'<f4'".into(), "''' where '{' belongs"),
        ("None".into(), "'N' where '{' belongs"),
        ("36".into(), "'3' where '{' belongs"),
        ("{}".into(), "no key 'descr'"),
        ("{'descr', 'fortran_order', 'shape'}".into(), "',' where ':' belongs"),
        ("{'fortran_order': False, 'shape': (36,), }".into(), "no key 'descr'"),
        ("{'descr': '<f4', 'shape': (36,), }".into(), "no key 'fortran_order'"),
        ("{'descr': '<f4', 'fortran_order': False, }".into(), "no key 'shape'"),
        (format!("{{{good}'more': 1, }}"), "key 'more'"),
        (format!("{{{good}'Shape': (36,), }}"), "key 'Shape'"),
        (format!("{{{good}1: 2}}"), "a value that is no quoted text"),
        (format!("{{{good}'descr': '<f4', }}"), "key 'descr' twice"),
        (format!("{{{good}'shape': (36,), }}"), "key 'shape' twice"),
        (format!("{{{good}'fortran_order': True, }}"), "key 'fortran_order' twice"),
        (format!("{{{good}}} junk"), "text after the dictionary"),
        (format!("{{{good}}} # comment"), "text after the dictionary"),
        (format!("{{{good}}}{{{good}}}"), "text after the dictionary"),
        (format!("{{{good}"), "a value that is no quoted text"),
        (format!("{{{good}, }}"), "a value that is no quoted text"),
        (format!("{{{good}\t}}"), "byte 0x09 in the header"),
        (format!("{{{good}\r}}"), "byte 0x0d in the header"),
        (format!("{{{good}\n}}"), "byte 0x0a in the header"),
        (format!("{{{good}\0}}"), "byte 0x00 in the header"),
        (format!("{{{good}é}}"), "byte 0xc3 in the header"),
        (format!("{{{good}\u{feff}}}"), "byte 0xef in the header"),
        (format!("{{{good}\u{1b}[2J}}"), "byte 0x1b in the header"),
        ("{'descr': '<f4, 'fortran_order': False, 'shape': (36,), }".into(), "element type <f4, "),
        ("{'descr': '<f4', 'fortran_order': False, 'shape: (36,), }".into(), "a quote that does not end"),
        ("{'descr: '<f4', 'fortran_order': False, 'shape': (36,), }".into(), "'<' where ':' belongs"),
        ("{'descr': <f4, 'fortran_order': False, 'shape': (36,), }".into(), "a value that is no quoted text"),
        ("{'descr': b'<f4', 'fortran_order': False, 'shape': (36,), }".into(), "a value that is no quoted text"),
        ("{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (36,), }".into(), "element type \\x3cf4"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (36,), }".into(), "fortran_order is not True or False"),
        ("{'descr': '<f4', 'fortran_order': None, 'shape': (36,), }".into(), "fortran_order is not True or False"),
        ("{'descr': '<f4', 'fortran_order': 'False', 'shape': (36,), }".into(), "fortran_order is not True or False"),
        ("{'descr': '<f4', 'fortran_order': Falsely, 'shape': (36,), }".into(), "'l' where '}' belongs"),
        ("__import__('os').system('true')".into(), "'_' where '{' belongs"),
        ("{'descr': __import__('os'), 'fortran_order': False, 'shape': (36,), }".into(), "no quoted text"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os')}".into(), "'_' where '(' belongs"),
        (typed(&format!("'{}'", "(".repeat(50))), "brackets nested deeper"),
        (typed("'{({'"), "brackets nested deeper"),
    ];
    for (shape, says) in [
        ("[36]", "structured"),
        ("36", "'3' where '(' belongs"),
        ("(36)", "a shape that is no tuple"),
        ("(True,)", numbers),
        ("(36L,)", "'L' where ')' belongs"),
        ("(36L, 1L)", "'L' where ')' belongs"),
        ("(1e3,)", "'e' where"),
        ("(36.0,)", "'.' where"),
        ("(0x24,)", "'x' where"),
        ("(0b100100,)", "'b' where"),
        ("(0o44,)", "'o' where"),
        ("(3_6,)", "'_' where"),
        ("(036,)", numbers),
        ("(-36,)", numbers),
        ("(+36,)", numbers),
        ("(a,)", numbers),
        ("('36',)", numbers),
        ("(None,)", numbers),
        ("(3 6,)", "'6' where"),
        ("(,)", numbers),
        ("(36,,)", numbers),
        ("((36,),)", "brackets nested deeper"),
        ("(36", "a shape with something else than plain numbers"),
        ("(36,)))", "where '}' belongs"),
    ] {
        tricks.push((shaped(shape), says));
    }
    for number in ["9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        tricks.push((shaped(&format!("({number},)")), "is impossible"));
    }
    tricks.push((shaped("(18446744073709551616,)"), "is impossible"));
    tricks.push((shaped(&format!("({},)", "1".repeat(400))), "is impossible"));
    tricks.push((shaped(&format!("(1{},)", "0".repeat(400))), "is impossible"));
    tricks.push((shaped(&format!("(36, {})", "1, ".repeat(32))), "more than 32 dimensions"));
    tricks.push((shaped(&format!("({})", "1, ".repeat(3000))), "more than 32 dimensions"));
    for depth in [3, 4, 64, 300, 4000, 9000] {
        for (bracket, says) in [("(", "brackets nested deeper"), ("[", "structured"), ("{", "brackets nested deeper")] {
            tricks.push((bracket.repeat(depth), says));
        }
        tricks.push((
            shaped(&format!("{}36,{}", "(".repeat(depth.min(4000)), ")".repeat(depth.min(4000)))),
            "nested deeper",
        ));
    }
    tricks
}

#[test]
fn w15_headers_that_numpy_would_not_write() {
    let mut report = Report::new("W15");
    let tricks = tricks();
    for (text, says) in &tricks {
        let outcome = header_refused(text, 144, &[says, ", expected "]);
        report.add(format_args!("{} ({} bytes)", &text[..text.len().min(90)].escape_debug(), text.len()), outcome);
    }
    // Deeper than a header is long: refused by its length.
    for depth in [20_000, 100_000] {
        let outcome = spoiled(NORM, &["expected 1 to 10000 bytes"], |path| {
            let text = "(".repeat(depth);
            let bytes = [b"\x93NUMPY\x02\x00".as_slice(), &(depth as u32).to_le_bytes(), text.as_bytes()].concat();
            fs::write(path, bytes).expect("written");
        });
        report.add(format_args!("depth {depth}"), outcome);
    }
    let outcome = spoiled(NORM, &["header does not end with a newline", "; "], |path| {
        let mut bytes = npy_header_raw(&shaped("(36,)"));
        *bytes.last_mut().expect("a newline") = b' ';
        bytes.resize(bytes.len() + 144, 0);
        fs::write(path, bytes).expect("written");
    });
    report.add("no newline", outcome);
}

#[test]
fn w15_headers_that_are_written_otherwise_and_mean_the_same() {
    let mut report = Report::new("W15");
    for text in [
        "{'shape': (36,), 'fortran_order': False, 'descr': '<f4'}",
        "{\"descr\":\"<f4\",\"fortran_order\":False,\"shape\":(36,)}",
        "   {  'descr'  :  '<f4'  ,  'fortran_order'  :  False  ,  'shape'  :  (  36  ,  )  ,  }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (36,)}",
    ] {
        let case = Case::new();
        write_header(&case.file(NORM), text, 144);
        report.add(text, case.packed(&[]));
    }
}

#[test]
fn w16_data_short_by_one_byte() {
    let mut report = Report::new("W16");
    for (tensor, says) in [
        (O_PROJ, "shape [36, 36] needs 5184 bytes of data, has 5183 (truncated?)"),
        (NORM, "shape [36] needs 144 bytes of data, has 143 (truncated?)"),
    ] {
        report.add(tensor, spoiled(tensor, &[says, "export it again"], |path| resize(path, -1)));
    }
}

#[test]
fn w16_data_short_by_a_page_or_all() {
    let mut report = Report::new("W16");
    for (change, says) in
        [(-4096, "has 1088 (truncated?)"), (-4, "has 5180 (truncated?)"), (-5184, "has 0 (truncated?)")]
    {
        report.add(change, spoiled(O_PROJ, &[says, "export it again"], |path| resize(path, change)));
    }
}

#[test]
fn w16_data_long_by_one_byte_or_much() {
    let mut report = Report::new("W16");
    for (change, says) in [
        (1, "needs 5184 bytes of data, has 1 byte too many"),
        (2, "has 2 bytes too many"),
        (4096, "has 4096 bytes too many"),
        (1 << 30, "has 1073741824 bytes too many"),
        (1 << 40, "has 1099511627776 bytes too many"),
    ] {
        report.add(change, spoiled(O_PROJ, &[says, "export it again"], |path| resize(path, change)));
    }
}

#[test]
fn w17_shapes_that_overflow() {
    let mut report = Report::new("W17");
    for (variant, shape) in [
        ("product", "(4294967296, 4294967296)"),
        ("product that wraps to 36", "(36, 9223372036854775808, 2)"),
        ("product of many", "(65536, 65536, 65536, 65536, 65536)"),
        ("times the size of an element", "(4611686018427387904,)"),
        ("plus the header", "(4611686018427387903,)"),
        ("most", "(18446744073709551615, 18446744073709551615)"),
    ] {
        report.add(variant, header_refused(&shaped(shape), 144, &["shape [", "is impossible", "export it again"]));
    }
    // Possible, but not in this file.
    report.add(
        "one below",
        header_refused(&shaped("(4611686018427387871,)"), 144, &["needs 18446744073709551484 bytes of data, has 144"]),
    );
}

#[test]
fn w18_shapes_without_elements_or_dimensions() {
    let mut report = Report::new("W18");
    for (shape, data, says) in [
        ("(0,)", 0, "shape [0] has no elements"),
        ("(0,)", 144, "shape [0] has no elements"),
        ("(36, 0)", 0, "shape [36, 0] has no elements"),
        ("(0, 18446744073709551615)", 0, "has no elements"),
        ("(18446744073709551615, 18446744073709551615, 0)", 0, "has no elements"),
        ("()", 4, "shape () has no dimension"),
        ("()", 0, "shape () has no dimension"),
    ] {
        report.add(
            format_args!("{shape} with {data} bytes"),
            header_refused(&shaped(shape), data, &[says, ", expected "]),
        );
    }
}

/// Writes these bits at an index of a tensor, whose elements have 2 or 4 bytes.
fn poke(path: &Path, index: usize, bits: &[u8]) {
    let mut bytes = fs::read(path).expect("read");
    bytes[128 + index * bits.len()..][..bits.len()].copy_from_slice(bits);
    fs::write(path, bytes).expect("written");
}

#[test]
fn w19_numbers_that_are_not_finite() {
    let mut report = Report::new("W19");
    let f32s = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)];
    let all = f32s.map(|number| (Stored::F32, number.to_le_bytes().to_vec()));
    let halves = [0x7c00u16, 0xfc00, 0x7c01, 0x7e00].map(|bits| (Stored::F16, bits.to_le_bytes().to_vec()));
    let bf16s = [0x7f80u16, 0xff80, 0x7f81, 0xffc0].map(|bits| (Stored::Bf16, bits.to_le_bytes().to_vec()));
    for (stored, bits) in all.into_iter().chain(halves).chain(bf16s) {
        let case = Case::new();
        write_weights(&case.weights, &small_config(), stored, 1);
        poke(&case.file(UP_PROJ), 36 * 70 + 35, &bits);
        let words = ["1 of its numbers are NaN or infinite, the first at [70, 35]", "--allow-nonfinite"];
        report.add(format_args!("{stored:?} {bits:02x?}"), case.refused(case.file(UP_PROJ), &words));
        report.add(format_args!("{stored:?} {bits:02x?} allowed"), case.packed(&["--allow-nonfinite"]));
    }
    let nan = f32::NAN.to_le_bytes();
    for (tensor, index, place) in
        [(NORM, 0, "[0]"), (NORM, 35, "[35]"), (EMBEDDING, 0, "[0, 0]"), (HEAD, 3635, "[100, 35]")]
    {
        let outcome = spoiled(tensor, &[&format!("the first at {place}"), "expected finite numbers"], |path| {
            poke(path, index, &nan)
        });
        report.add(format_args!("{tensor} {place}"), outcome);
    }
    let case = Case::new();
    fs::write(case.file(NORM), [npy_header_raw(&shaped("(36,)")), nan.repeat(36)].concat()).expect("written");
    report.add("all of them", case.refused(case.file(NORM), &["36 of its numbers", "the first at [0]"]));
}

#[test]
fn w20_twins_of_names() {
    let mut report = Report::new("W20");
    // On a file system that tells cases and normal forms apart these are names of nothing.
    let twins = [
        "MODEL.NORM.WEIGHT",
        "model.norm.Weight",
        "model.norm.weight ",
        "mod\u{e8}l.norm.weight",
        "mode\u{300}l.norm.weight",
        "\u{ff4d}odel.norm.weight",
        "model.norm\u{200b}.weight",
    ];
    for twin in twins {
        let case = Case::new();
        if case.file(twin).exists() {
            skipped(format_args!("{twin:?} is the same file here"));
            continue;
        }
        fs::copy(case.file(NORM), case.file(twin)).expect("copied");
        report.add(twin, case.refused(case.file(twin), &["no parameter of this model", "--allow-extra"]));
    }
    let case = Case::new();
    for twin in ["e\u{301}", "\u{e9}"] {
        fs::copy(case.file(NORM), case.file(twin)).expect("copied");
    }
    let line = |twin: &str| vec![format!("{}: no parameter", case.file(twin).display())];
    let lines = vec![line("e\u{301}"), line("\u{e9}")];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: 0 };
    report.add("both normal forms", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
}

#[test]
fn w21_names_of_files() {
    let mut report = Report::new("W21");
    let long = [b"x".repeat(251).as_slice(), b".npy"].concat();
    let names: [(&[u8], &str); 8] = [
        (b"a b.npy", "a b.npy"),
        (b"a\nb.npy", "a\\nb.npy"),
        (b"a\x1b[31mb.npy", "a\\u{1b}[31mb.npy"),
        (b"\xff.npy", "\\xff.npy"),
        (b"a\xffb\xc3.npy", "a\\xffb\\xc3.npy"),
        (b"-rf.npy", "-rf.npy"),
        ("\u{85}\u{7f}.npy".as_bytes(), "\\u{85}\\u{7f}.npy"),
        (&long, "xxx.npy"),
    ];
    for (name, shown) in names {
        let case = Case::new();
        fs::write(case.weights.join(OsStr::from_bytes(name)), "x").expect("written");
        let begins = format!("{}/{}", case.weights.display(), &shown[..shown.len().min(3)]);
        report.add(shown, case.refusal(begins, &[shown, "no parameter of this model", "--allow-extra"], &[]));
        report.add(format_args!("{shown} allowed"), case.packed(&["--allow-extra"]));
    }
}

#[test]
fn w21_names_of_folders() {
    let mut report = Report::new("W21");
    let long = "x".repeat(255);
    for name in ["a b", "a\nb", "\u{1b}[31m", "-rf", "--force", "\u{e9}", "'\"$(true)", &long] {
        let case = Case::new();
        let weights = case.folder.join(name);
        fs::rename(&case.weights, &weights).expect("renamed");
        let finished = finish(&mut case.pack(&weights, &[]));
        report.holds(format_args!("{name:?}"), finished.code == Some(0), finished.stderr);
        if name.starts_with('-') {
            let mut behind = command(PACK);
            behind.current_dir(case.folder.path()).args(["--force", "--", name, "out/m.olmo"]);
            let finished = finish(&mut behind);
            report.holds(format_args!("{name:?} behind --"), finished.code == Some(0), finished.stderr);
        }
        fs::write(&case.model, "old").expect("written");
        fs::remove_file(weights.join("lm_head.weight.npy")).expect("removed");
        let shown = weights.display().to_string().replace('\n', "\\n").replace('\u{1b}', "\\u{1b}");
        let refusal = Refusal::one_line("olmo-pack", format!("{shown}/lm_head.weight.npy: missing"), &[]);
        report.add(
            format_args!("{name:?} without a head"),
            refusal.check(case.folder.path(), || case.pack(&weights, &[])),
        );
    }
    let case = Case::new();
    let weights = case.folder.join(OsStr::from_bytes(b"\xff"));
    fs::rename(&case.weights, &weights).expect("renamed");
    let line = vec!["an argument is not UTF-8".to_string(), "rename the file or give another path to it".to_string()];
    let refusal = Refusal { program: "olmo-pack", status: 2, lines: vec![line], more: 0 };
    report.add("not UTF-8", refusal.check(case.folder.path(), || case.pack(&weights, &[])));
}

/// Something that is no regular file.
type Kind = (&'static str, fn(&Path), &'static str);

const KINDS: [Kind; 9] = [
    ("dangling link", |path| symlink("nowhere", path).expect("linked"), "cannot open: No such file or directory"),
    ("loop of links", |path| symlink(path, path).expect("linked"), "cannot open: Too many levels of symbolic links"),
    ("link to a folder", |path| symlink("/", path).expect("linked"), "is a folder, expected a file"),
    ("folder", |path| fs::create_dir(path).expect("a folder"), "is a folder, expected a file"),
    ("FIFO", make_fifo, "is not a regular file, expected a file"),
    ("link to /dev/zero", |path| symlink("/dev/zero", path).expect("linked"), "is not a regular file"),
    ("link to /dev/null", |path| symlink("/dev/null", path).expect("linked"), "is not a regular file"),
    ("socket", |path| drop(UnixListener::bind(path).expect("bound")), "cannot open: No such device or address"),
    ("link through a file", |path| symlink("config.json/x", path).expect("linked"), "cannot open: Not a directory"),
];

#[test]
fn w22_kinds_of_files() {
    let mut report = Report::new("W22");
    for (kind, make, says) in KINDS {
        report.add(kind, spoiled(NORM, &[says], |path| replaced(path, make)));
        for name in ["config.json", "vocab.txt"] {
            let case = Case::new();
            let path = case.weights.join(name);
            if kind == "link through a file" {
                continue;
            }
            fs::write(&path, "").expect("written");
            replaced(&path, make);
            report.add(format_args!("{kind} as {name}"), case.refused(&path, &[says]));
        }
    }
    match fs::read_dir("/dev").expect("devices").flatten().find(is_block_device) {
        None => skipped("W22: no block device in /dev"),
        Some(device) => {
            let outcome =
                spoiled(NORM, &[NORM], |path| replaced(path, |path| symlink(device.path(), path).expect("linked")));
            report.add("link to a block device", outcome);
        }
    }
    // Links to good files are as good: caches of downloads are made of them.
    let case = Case::new();
    for (i, path) in [case.file(NORM), case.config()].iter().enumerate() {
        fs::rename(path, case.folder.join(format!("blob{i}"))).expect("moved");
        symlink(format!("../blob{i}"), path).expect("linked");
    }
    let linked = case.folder.join("linked");
    symlink(&case.weights, &linked).expect("linked");
    report.add("links to files", case.packed(&[]));
    let finished = finish(&mut case.pack(&linked, &[]));
    report.holds("a link to the folder", finished.code == Some(0), finished.stderr);
}

fn is_block_device(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_block_device())
}

/// Whether an ordinary user can run the program and see a temporary folder; says so loudly if not.
fn ordinary_user_can_pack(case: &Case) -> bool {
    let mut command = case.pack(&case.weights, &["--dry-run"]);
    as_ordinary_user(&mut command);
    let can = Run::new(&mut command).is_ok_and(|run| run.status.success());
    if !can {
        skipped(format_args!("W23: an ordinary user cannot run {PACK}"));
    }
    can
}

#[test]
fn w23_files_and_folders_that_may_not_be_read() {
    let case = Case::new();
    if !ordinary_user_can_pack(&case) {
        return;
    }
    let mut report = Report::new("W23");
    let refused = |case: &Case, path: &Path, words: &[&str]| {
        let refusal = Refusal::one_line("olmo-pack", format!("{}: ", path.display()), words);
        refusal.check(case.folder.path(), || {
            let mut command = case.pack(&case.weights, &[]);
            as_ordinary_user(&mut command);
            command
        })
    };
    let with_mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
    if is_root() {
        // Where nothing may be written that is found out first.
        with_mode(&case.folder.join("out"), 0o777);
    }
    fs::write(case.weights.join("vocab.txt"), "0\ta\n").expect("written");
    let files = [case.file(NORM), case.file(EMBEDDING), case.config(), case.weights.join("vocab.txt")];
    for path in &files {
        with_mode(path, 0o000);
        report.add(path.display(), refused(&case, path, &["cannot open: Permission denied"]));
        with_mode(path, 0o644);
    }
    with_mode(&case.weights, 0o311);
    report.add(
        "a folder that may not be listed",
        refused(&case, &case.weights, &["cannot list the folder: Permission denied"]),
    );
    with_mode(&case.weights, 0o644);
    report.add("a folder that may not be entered", refused(&case, &case.config(), &["cannot open: Permission denied"]));
    with_mode(&case.weights, 0o755);
    let inner = case.folder.join("inner");
    fs::create_dir(&inner).expect("a folder");
    let moved = Case { weights: inner.join("weights"), ..case };
    fs::rename(moved.folder.join("weights"), &moved.weights).expect("moved");
    with_mode(&inner, 0o600);
    report.add(
        "a parent that may not be entered",
        refused(&moved, &moved.weights, &["cannot look at it: Permission denied"]),
    );
    with_mode(&inner, 0o755);
}

#[test]
fn w23_the_system_cannot_read_a_file() {
    let mut report = Report::new("W23");
    // A regular file whose every read fails: the memory of the process, which has none at address 0.
    for name in ["config.json", "vocab.txt"] {
        let case = Case::new();
        let path = case.weights.join(name);
        fs::write(&path, "").expect("written");
        replaced(&path, |path| symlink("/proc/self/mem", path).expect("linked"));
        report.add(name, case.refused(&path, &["cannot read: Input/output error"]));
    }
    // One that ends before its length.
    let short = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if fs::metadata(short).is_ok_and(|metadata| metadata.len() == 4096) {
        let outcome = spoiled(NORM, &["cannot read: the file ends before its length"], |path| {
            replaced(path, |path| symlink(short, path).expect("linked"));
        });
        report.add("shorter than its length", outcome);
    } else {
        skipped(format_args!("W23: no {}", short.display()));
    }
}

#[test]
fn w25_a_hundred_thousand_files() {
    let mut report = Report::new("W25");
    let case = Case::new();
    for i in 0..100_000 {
        File::create(case.weights.join(format!("{i:06}.txt"))).expect("written");
    }
    let finished = Run::new(&mut case.pack(&case.weights, &[])).expect("ends");
    report.holds("no .npy", finished.status.success(), finished.stderr);
    for i in 0..100_000 {
        fs::rename(case.weights.join(format!("{i:06}.txt")), case.weights.join(format!("{i:06}.npy")))
            .expect("renamed");
    }
    fs::write(&case.model, "old").expect("written");
    let line = |i: usize| vec![format!("{}: no parameter", case.file(&format!("{i:06}")).display())];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: (0..10).map(line).collect(), more: 99_990 };
    report.add("no parameters", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
    let finished = Run::new(&mut case.pack(&case.weights, &["--allow-extra"])).expect("ends");
    report.holds("left out", finished.stdout.contains("more"), finished.stderr);
}

#[test]
fn w25_deep_paths() {
    let mut report = Report::new("W25");
    let mut case = Case::new();
    let mut deep = case.folder.path().to_path_buf();
    deep.extend(std::iter::repeat_n("folder", 300));
    fs::create_dir_all(&deep).expect("folders");
    let weights = deep.join("weights");
    fs::rename(&case.weights, &weights).expect("moved");
    case.weights = weights;
    report.add("300 folders deep", case.packed(&[]));
    fs::write(&case.model, "old").expect("written");
    resize(&case.file(NORM), 1);
    report.add("a bad file there", case.refused(case.file(NORM), &["1 byte too many"]));
    let longer = Path::new("/").join("x/".repeat(3000));
    report.add("longer than a path may be", case.folder_refused(longer.join("y"), &["File name too long"]));
    let name = Path::new("/").join("x".repeat(256));
    report.add("a name longer than it may be", case.folder_refused(name, &["File name too long"]));
}

#[test]
fn w25_few_descriptors() {
    let mut report = Report::new("W25");
    let case = Case::new();
    let limited = |limit: u32| {
        let mut limited = command("prlimit");
        limited.arg(format!("--nofile={limit}")).arg(PACK).args([&case.weights, &case.model]).args([
            "--force",
            "--threads",
            "2",
        ]);
        limited
    };
    for limit in 3..20 {
        let run = Run::new(&mut limited(limit)).expect("ends");
        match run.status.code() {
            // Too few for the system to start it.
            Some(127) => continue,
            Some(0) => fs::write(&case.model, "old").expect("written"),
            _ => {
                let refusal = Refusal::one_line("olmo-pack", "", &["Too many open files"]);
                // Whether the threads have their files open at the same time is chance: this run is judged, not another.
                report.add(limit, refusal.judge(&run));
                report.holds(limit, fs::read(&case.model).is_ok_and(|old| old == b"old"), "the old model is gone");
            }
        }
        report.holds(format_args!("{limit} is enough"), run.status.success() || limit < 12, run.stderr);
    }
}

#[test]
fn w26_a_terabyte_that_is_not_there() {
    let mut report = Report::new("W26");
    let sparse = |path: &Path, shape: &[usize]| {
        write_npy(path, "<f4", shape, &[]);
        resize(path, shape.iter().product::<usize>() as i64 * 4);
    };
    for (tensor, shape, expected) in [
        (NORM, &[1usize << 38][..], "[36]"),
        (EMBEDDING, &[1 << 30, 256], "[101, 36]"),
        (EMBEDDING, &[101, 36, 1 << 26], "[101, 36]"),
    ] {
        let says = format!(", expected {expected} as config.json says");
        report
            .add(format_args!("{tensor} {shape:?}"), spoiled(tensor, &["shape [", &says], |path| sparse(path, shape)));
    }
    // A terabyte that is none of the model's.
    let case = Case::new();
    sparse(&case.file("extra"), &[1 << 38]);
    report.add("extra", case.refused(case.file("extra"), &["no parameter of this model"]));
    let case = Case::new();
    let vocab = File::create(case.weights.join("vocab.txt")).expect("a file");
    vocab.set_len(1 << 40).expect("resized");
    report.add("vocab.txt", case.refused(case.weights.join("vocab.txt"), &["longer than 16 MiB"]));
    vocab.set_len(16 << 20).expect("resized");
    report.add("vocab.txt of 16 MiB", case.refused(case.weights.join("vocab.txt"), &["line 1: "]));
}

#[test]
fn w27_hard_links_give_the_same_bytes() {
    let mut report = Report::new("W27");
    let case = Case::new();
    let linked = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight", O_PROJ];
    for tensor in &linked[1..] {
        fs::copy(case.file(linked[0]), case.file(tensor)).expect("copied");
    }
    fs::copy(case.file(EMBEDDING), case.file(HEAD)).expect("copied");
    report.add("copies", case.packed(&[]));
    let copies = fs::read(&case.model).expect("a model");
    for tensor in &linked[1..] {
        replaced(&case.file(tensor), |path| fs::hard_link(case.file(linked[0]), path).expect("linked"));
    }
    replaced(&case.file(HEAD), |path| fs::hard_link(case.file(EMBEDDING), path).expect("linked"));
    report.add("hard links", case.packed(&[]));
    report.holds("bytes", fs::read(&case.model).expect("a model") == copies, "differ");
    let outside = Refusal::one_line("olmo-pack", format!("{}: ", case.model.display()), &[]);
    // The old model as one of the inputs must survive.
    replaced(&case.model, |path| fs::hard_link(case.file(NORM), path).expect("linked"));
    report.add("the model itself", outside.check(case.folder.path(), || case.pack(&case.weights, &[])));
}

#[test]
fn a_bad_vocabulary_is_refused_by_line() {
    let mut report = Report::new("vocab.txt");
    let texts: [(&[u8], &[&str]); 8] = [
        (b"0\ta\n1\n", &["line 2: no tab"]),
        (b"101\ta\n", &["line 1: id 101", "101 rows"]),
        (b"5\ta\n5\tb\n", &["line 2: id 5 again"]),
        (b"-1\ta\n", &["line 1: no token id"]),
        (b"99999999999999999999\ta\n", &["line 1: no token id"]),
        (b"0\t\xff\n", &["line 1: bytes that are not UTF-8"]),
        (b"0\t\\q\n", &["line 1: unknown escape"]),
        (b"", &["no tokens"]),
    ];
    for (text, words) in texts {
        let case = Case::new();
        let path = case.weights.join("vocab.txt");
        fs::write(&path, text).expect("written");
        report.add(text.escape_ascii(), case.refused(path, words));
    }
    let case = Case::new();
    let outcome =
        case.refusal("/nowhere/vocab.txt: cannot open: No such file", &[], &["--vocab", "/nowhere/vocab.txt"]);
    report.add("--vocab", outcome);
}
