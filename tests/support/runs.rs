//! Small runs of `pack`, `copy` and `unpack` for tests of what they do to the disk.

use crate::disks::Plan;
use crate::recording::Recording;
use crate::{Stored, TempDir, on_one_processor, repository, small_config, write_weights};
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::os::disk::Disk;
use olmo_pack::commands::copy;
use olmo_pack::commands::pack::{self, DtypeChoice, Request};
use olmo_pack::commands::unpack;
use olmo_pack::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Weights to a model.
    Pack,
    /// Weights to a model in int4, with the help of a text.
    Calibrate,
    /// A model to another.
    Copy,
    /// A model to weights.
    Unpack,
}

/// A weights folder, a model made of it, and a place for what is written next.
pub struct Runs {
    folder: TempDir,
}

impl Default for Runs {
    fn default() -> Runs {
        Runs::new()
    }
}

impl Runs {
    /// With [`Runs::config`].
    pub fn new() -> Runs {
        Runs::of(&Runs::config())
    }

    /// As few and as small tensors as there can be.
    pub fn config() -> ModelConfig {
        ModelConfig {
            vocab_size: 20,
            hidden_size: 8,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 4,
            intermediate_size: 9,
            layer_types: vec![AttentionKind::Full],
            experts: None,
            linear: None,
            tie_word_embeddings: true,
            ..small_config()
        }
    }

    /// With this model, in memory, of which there need not be much.
    pub fn of(config: &ModelConfig) -> Runs {
        Runs::within(TempDir::in_memory("runs"), config)
    }

    /// With this model in a folder.
    pub fn within(folder: TempDir, config: &ModelConfig) -> Runs {
        let runs = Runs { folder };
        write_weights(&runs.weights(), config, Stored::F32, 1);
        fs::create_dir(runs.folder.join("above")).expect("a folder");
        let for_text = ModelConfig { vocab_size: 256, ..config.clone() };
        write_weights(&runs.weights_for_text(), &for_text, Stored::F32, 1);
        for name in ["tokenizer.json", "vocab.txt"] {
            let from = repository().join("demo/weights").join(name);
            fs::copy(from, runs.weights_for_text().join(name)).expect("copied");
        }
        let (packed, _) = Plan::sound().run(|disk| runs.pack_to(&runs.model(), false, disk));
        packed.expect("packed");
        runs
    }

    /// The weights.
    pub fn weights(&self) -> PathBuf {
        self.folder.join("weights")
    }

    /// The model.
    pub fn model(&self) -> PathBuf {
        self.folder.join("m.olmo")
    }

    /// Weights with a tokenizer whose ids are bytes.
    fn weights_for_text(&self) -> PathBuf {
        self.folder.join("above/text")
    }

    /// Where [`Runs::run`] writes: into this folder, which only [`Work::Unpack`] makes.
    pub fn out(&self) -> PathBuf {
        self.folder.join("above/out")
    }

    /// The arguments of the program for the work of [`Runs::run`].
    pub fn arguments(&self, work: Work, force: bool) -> Vec<OsString> {
        let (from, to) = match work {
            Work::Pack => (self.weights(), self.out().join("m.olmo")),
            Work::Calibrate => (self.weights_for_text(), self.out().join("m.olmo")),
            Work::Copy => (self.model(), self.out().join("m.olmo")),
            Work::Unpack => (self.model(), self.out()),
        };
        let mut arguments: Vec<OsString> = vec![from.into(), to.into()];
        arguments.extend(force.then(|| "--force".into()));
        match work {
            Work::Pack => arguments.extend(["--threads".into(), "1".into()]),
            Work::Calibrate => {
                arguments.extend(["--threads", "1", "--dtype", "int4", "--calibrate"].map(OsString::from));
                arguments.push(text().into());
            }
            Work::Copy => arguments.insert(0, "copy".into()),
            Work::Unpack => arguments.insert(0, "unpack".into()),
        }
        arguments
    }

    /// Runs it.
    ///
    /// # Errors
    /// The program's.
    pub fn run(&self, work: Work, force: bool, disk: &dyn Disk) -> Result<(), Error> {
        match work {
            Work::Pack => self.pack_to(&self.out().join("m.olmo"), force, disk),
            Work::Calibrate => {
                let (weights, model) = (self.weights_for_text(), self.out().join("m.olmo"));
                let (dtype, calibrate) = (DtypeChoice::Int4, Some(text()));
                let request = Request { weights, model, force, dtype, calibrate, threads: 1, ..Request::default() };
                pack::prepare(&request)?.write(disk, &|_, _| {}).map(|_| ())
            }
            Work::Copy => copy::run(&self.model(), &self.out().join("m.olmo"), force, disk, &|_, _| {}).map(|_| ()),
            Work::Unpack => unpack::run(&self.model(), &self.out(), force, disk).map(|_| ()),
        }
    }

    fn pack_to(&self, model: &Path, force: bool, disk: &dyn Disk) -> Result<(), Error> {
        let request =
            Request { weights: self.weights(), model: model.to_path_buf(), force, threads: 1, ..Request::default() };
        pack::prepare(&request)?.write(disk, &|_, _| {}).map(|_| ())
    }

    /// The folder as it is before a run: with old files of the same names when they are to be replaced.
    pub fn prepare(&self, work: Work, force: bool) {
        let _ = fs::remove_dir_all(self.out());
        if force || work != Work::Unpack {
            fs::create_dir(self.out()).expect("a folder");
        }
        let like = if work == Work::Unpack { self.weights() } else { self.folder.path().to_path_buf() };
        let entries = fs::read_dir(like).expect("a folder").map(|entry| entry.expect("an entry"));
        let names = entries.filter(|entry| entry.path().is_file());
        for name in names.filter(|_| force) {
            fs::write(self.out().join(name.file_name()), "old").expect("written");
        }
    }
}

/// A text that the model can be run over.
fn text() -> PathBuf {
    repository().join("demo/speech.txt")
}

/// The disk operations of all kinds of runs, by name.
pub fn all_recordings(runs: &Runs) -> Vec<(String, Recording)> {
    let record_all = || {
        // Operations of two threads at once would have no order.
        on_one_processor();
        [(Work::Pack, "pack"), (Work::Copy, "copy"), (Work::Unpack, "unpack")]
            .into_iter()
            .flat_map(|(work, name)| recordings(runs, work, name))
            .collect()
    };
    thread::scope(|scope| scope.spawn(record_all).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn recordings(runs: &Runs, work: Work, name: &str) -> Vec<(String, Recording)> {
    let mut recordings = Vec::new();
    for (unnamed, kind) in [(true, "unnamed"), (false, "named")] {
        for (force, place) in [(true, "old files"), (false, "no files")] {
            runs.prepare(work, force);
            let record = |disk: &dyn Disk| runs.run(work, force, disk).expect("no fault");
            let recording = Recording::of(&runs.out(), unnamed, record);
            recordings.push((format!("{name}, {kind}, {place}"), recording));
        }
    }
    recordings
}
