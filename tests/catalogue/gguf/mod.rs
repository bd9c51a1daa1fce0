//! Everything that can be wrong with a GGUF file.

mod configuration;
mod header;
mod places;
mod tensors;
mod tokens;

use crate::PACK;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_tests::catalogue::{Refusal, measured};
use olmo_tests::gguf::{Gguf, of_folder};
use olmo_tests::{Stored, TempDir, finish, run, small_config, write_weights};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A good file, and an old "model" that must survive.
struct Case {
    folder: TempDir,
    file: PathBuf,
    model: PathBuf,
    gguf: Gguf,
}

impl Case {
    fn new() -> Case {
        Case::of(&small_config())
    }

    /// One with rows of whole blocks of 32.
    fn of_blocks() -> Case {
        Case::of(&ModelConfig {
            hidden_size: 64,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            intermediate_size: 32,
            layer_types: vec![AttentionKind::Full],
            ..small_config()
        })
    }

    fn of(config: &ModelConfig) -> Case {
        let folder = TempDir::new("gguf-files");
        let (weights, model) = (folder.join("weights"), folder.join("out/m.olmo"));
        write_weights(&weights, config, Stored::F32, 1);
        let gguf = of_folder(&weights, config);
        fs::remove_dir_all(&weights).expect("removed");
        fs::create_dir(folder.join("out")).expect("folder");
        fs::write(&model, "old").expect("written");
        let case = Case { file: folder.join("m.gguf"), folder, model, gguf };
        fs::write(&case.file, case.gguf.bytes()).expect("written");
        case
    }

    /// The command that packs the file over the old model.
    fn pack(&self) -> Command {
        let mut command = measured(PACK);
        command.arg(&self.file).arg(&self.model).arg("--force");
        command
    }

    /// Checks the refusal of the file, in one line.
    fn refused(&self, words: &[&str]) -> Result<(), String> {
        let refusal = Refusal::one_line("olmo-pack", format!("{}: ", self.file.display()), words);
        refusal.check(self.folder.path(), || self.pack())
    }

    /// Checks the refusal of these bytes.
    fn bytes_refused(&self, bytes: &[u8], words: &[&str]) -> Result<(), String> {
        fs::write(&self.file, bytes).expect("written");
        self.refused(words)
    }

    /// Checks that the file is packed and the new model is good; returns what is on standard error.
    fn packed(&self) -> Result<String, String> {
        let finished = finish(&mut self.pack());
        let verified = run(PACK, [OsStr::new("verify"), self.model.as_os_str()]);
        match (finished.code, verified.code) {
            (Some(0), Some(0)) => Ok(finished.stderr),
            _ => Err(format!("not packed: {}{}", finished.stderr, verified.stderr)),
        }
    }

    /// Checks that the file is packed with this warning.
    fn warned(&self, words: &str) -> Result<(), String> {
        let stderr = self.packed()?;
        if stderr.contains(words) { Ok(()) } else { Err(format!("no {words:?} in {stderr:?}")) }
    }
}

/// The refusal of a good file after a change.
fn refused(words: &[&str], change: impl FnOnce(&mut Gguf)) -> Result<(), String> {
    let mut case = Case::new();
    change(&mut case.gguf);
    case.bytes_refused(&case.gguf.bytes(), words)
}

/// Packs a good file after a change.
fn changed(change: impl FnOnce(&mut Gguf)) -> Case {
    let mut case = Case::new();
    change(&mut case.gguf);
    fs::write(&case.file, case.gguf.bytes()).expect("written");
    case
}
