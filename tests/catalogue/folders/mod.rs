//! Everything that can be wrong with a weights folder.

mod configuration;
mod element_types;
mod headers;
mod kinds;
mod names;
mod sizes;
mod spellings;
mod tensors;
mod the_folder;
mod values;
mod vocabulary;

use crate::PACK;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::catalogue::{Refusal, measured};
use olmo_tests::{Stored, TempDir, finish, npy_header_raw, npy_path, run, small_config, write_weights};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const EMBEDDING: &str = "model.embed_tokens.weight";
const O_PROJ: &str = "model.layers.1.self_attn.o_proj.weight";
const UP_PROJ: &str = "model.layers.0.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";
/// Everything that the shapes do not determine, for a folder without `config.json`.
const FLAGS: [&str; 10] =
    ["--arch", "olmo2", "--head-dim", "6", "--rope-theta", "1e4", "--rms-norm-eps", "1e-6", "--max-positions", "64"];
/// The same for an OLMo-1.
const OLMO1_FLAGS: [&str; 10] =
    ["--arch", "olmo", "--head-dim", "6", "--rope-theta", "1e4", "--max-positions", "64", "--clip-qkv", "0.75"];

/// A good folder, and an old "model" that must survive.
struct Case {
    folder: TempDir,
    weights: PathBuf,
    model: PathBuf,
}

impl Case {
    fn new() -> Case {
        Case::of(&small_config())
    }

    fn of(config: &ModelConfig) -> Case {
        let folder = TempDir::new("folders");
        let (weights, model) = (folder.join("weights"), folder.join("out/m.olmo"));
        write_weights(&weights, config, Stored::F32, 1);
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

/// Changes keys of `config.json`; null removes one.
fn set(case: &Case, changes: serde_json::Value) {
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(case.config()).expect("read")).expect("JSON");
    let object = json.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        object.insert(key.clone(), value.clone());
    }
    fs::write(case.config(), json.to_string()).expect("written");
}

/// The refusal of one tensor's file after `spoil` made it another one.
fn spoiled(tensor: &str, words: &[&str], spoil: impl FnOnce(&Path)) -> Result<(), String> {
    let case = Case::new();
    spoil(&case.file(tensor));
    case.refused(case.file(tensor), words)
}

/// The refusal of a norm with this header text and `data` zero bytes.
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
    file.set_len(length.checked_add_signed(change).expect("a length")).expect("resized");
}

/// Replaces a file by something else.
fn replaced(path: &Path, make: impl FnOnce(&Path)) {
    fs::remove_file(path).expect("removed");
    make(path);
}
