//! The folder in which all commands run.

use crate::{BENCH, INFER, PACK};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::catalogue::{Refusal, Report, command};
use olmo_tests::{Finished, Stored, TempDir, finish, small_config, write_weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A weights folder, the model made of it, and some tokens; all commands run in this folder.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new(name: &str) -> Place {
        Place::of(name, &ModelConfig { max_position_embeddings: 4096, ..small_config() })
    }

    pub(crate) fn of(name: &str, config: &ModelConfig) -> Place {
        let place = Place { folder: TempDir::new(name) };
        write_weights(&place.path("w"), config, Stored::F32, 1);
        let vocabulary: String = (0..config.vocab_size).map(|id| format!("{id}\tt{id}\n")).collect();
        fs::write(place.path("w/vocab.txt"), vocabulary).expect("written");
        fs::create_dir(place.path("out")).expect("a folder");
        fs::write(place.path("t.bin"), [5, 0, 0, 0, 17, 0, 0, 0, 3, 0, 0, 0]).expect("written");
        place.sh("$PACK w m.olmo").ok();
        place
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// A command in this folder, with nothing on standard input.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command.current_dir(self.folder.path()).env("PACK", PACK).env("INFER", INFER).env("BENCH", BENCH);
        command
    }

    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        command
    }

    pub(crate) fn sh(&self, script: &str) -> Finished {
        finish(&mut self.shell(script))
    }

    /// The script must be refused, by a program of this name, in one line that begins so and has these words, and
    /// nothing in the folder may change.
    pub(crate) fn refuse(&self, report: &mut Report, program: &'static str, script: &str, status: i32, words: &[&str]) {
        let mut refusal = Refusal::one_line(program, "", words);
        refusal.status = status;
        report.add(script, refusal.check(self.folder.path(), || self.shell(script)));
    }

    /// Names in `out`, sorted.
    pub(crate) fn out(&self) -> Vec<String> {
        names(&self.path("out"))
    }

    /// An old file at `out/` that nothing may touch, and its bytes.
    pub(crate) fn old(&self, name: &str) -> (PathBuf, Vec<u8>) {
        let path = self.path("out").join(name);
        fs::write(&path, b"the old one").expect("written");
        (path, b"the old one".to_vec())
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
