//! Everything that can be wrong with a checkpoint in safetensors files. The rows W1 to W29 about `config.json`, names,
//! links and unreadable folders apply to both kinds of folders.

mod header;
mod index;
mod ranges;
mod tensors;
mod the_folder;

use crate::PACK;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::catalogue::{Refusal, measured};
use olmo_tests::safetensors::{self, Tensor, index_path, shard_name, tensors_of, write_checkpoint};
use olmo_tests::{Stored, TempDir, finish, run, small_config, write_weights};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";
const O_PROJ: &str = "model.layers.1.self_attn.o_proj.weight";

/// A good checkpoint, and an old "model" that must survive.
struct Case {
    folder: TempDir,
    weights: PathBuf,
    model: PathBuf,
    tensors: Vec<Tensor>,
}

impl Case {
    /// A checkpoint in `n_shards` files.
    fn new(n_shards: usize) -> Case {
        Case::of(&small_config(), n_shards)
    }

    fn of(config: &ModelConfig, n_shards: usize) -> Case {
        let folder = TempDir::new("checkpoints");
        let (weights, model) = (folder.join("weights"), folder.join("out/m.olmo"));
        write_weights(&weights, config, Stored::F32, 1);
        let tensors = tensors_of(&weights);
        for tensor in &tensors {
            fs::remove_file(olmo_tests::npy_path(&weights, &tensor.name)).expect("removed");
        }
        write_checkpoint(&weights, &tensors, n_shards);
        fs::create_dir(folder.join("out")).expect("folder");
        fs::write(&model, "old").expect("written");
        Case { folder, weights, model, tensors }
    }

    /// The only file.
    fn file(&self) -> PathBuf {
        self.weights.join("model.safetensors")
    }

    fn index(&self) -> PathBuf {
        index_path(&self.weights)
    }

    /// One of two files.
    fn shard(&self, number: usize) -> PathBuf {
        self.weights.join(shard_name(number, 2))
    }

    /// Writes the only file again, with a changed header.
    fn with_header(&self, change: impl FnOnce(&mut Value)) {
        let mut header = safetensors::header(&self.tensors);
        change(&mut header);
        fs::write(self.file(), safetensors::with_header(&header, &self.tensors)).expect("written");
    }

    /// Writes the index again.
    fn with_index(&self, change: impl FnOnce(&mut Value)) {
        let mut index = serde_json::from_slice(&fs::read(self.index()).expect("read")).expect("JSON");
        change(&mut index);
        fs::write(self.index(), index.to_string()).expect("written");
    }

    /// The command that packs the checkpoint over the old model.
    fn pack(&self, flags: &[&str]) -> Command {
        let mut command = measured(PACK);
        command.arg(&self.weights).arg(&self.model).arg("--force").args(flags);
        command
    }

    /// Checks a refusal in one line about the file at `path`.
    fn refused(&self, path: impl AsRef<Path>, words: &[&str]) -> Result<(), String> {
        let refusal = Refusal::one_line("olmo-pack", format!("{}: ", path.as_ref().display()), words);
        refusal.check(self.folder.path(), || self.pack(&[]))
    }

    /// Checks that the checkpoint is packed and the new file is good.
    fn packed(&self, flags: &[&str]) -> Result<(), String> {
        let finished = finish(&mut self.pack(flags));
        let verified = run(PACK, [OsStr::new("verify"), self.model.as_os_str()]);
        match (finished.code, verified.code) {
            (Some(0), Some(0)) => Ok(()),
            _ => Err(format!("not packed: {}{}", finished.stderr, verified.stderr)),
        }
    }
}

/// The refusal of the only file of a checkpoint with these bytes in its place.
fn file_refused(bytes: &[u8], words: &[&str]) -> Result<(), String> {
    let case = Case::new(1);
    fs::write(case.file(), bytes).expect("written");
    case.refused(case.file(), words)
}

/// The refusal of the only file of a checkpoint after its header was changed.
fn header_refused(words: &[&str], change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let case = Case::new(1);
    case.with_header(change);
    case.refused(case.file(), words)
}
