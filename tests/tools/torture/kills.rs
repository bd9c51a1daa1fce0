//! The programs as they are shipped, killed and hindered: a name is always absent, old, or whole and new, and after an
//! error or a signal that asks to end, nothing else is left.

mod crowds;
mod every_call;
mod faults;
mod random;

use crate::Effort;
use crate::figure::Figure;
use crate::programs::program;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_tests::files;
use olmo_tests::runs::{Runs, Work};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let missing = ["olmo-pack", "olmo-infer"].into_iter().find(|name| !program(name).is_file());
    if let Some(name) = missing {
        return vec![cannot(format!("there is no {}; make torture builds it", program(name).display()))];
    }
    let mut figures = random::run(effort);
    figures.extend(crowds::run(effort));
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        figures.push(cannot("strace is not installed, so nothing was tried at every system call".into()));
        return figures;
    }
    figures.extend(every_call::run(effort));
    figures.extend(faults::run(effort));
    figures
}

/// A figure for what could not be tried.
fn cannot(why: String) -> Figure {
    let mut figure = Figure::new("programs killed and hindered", 1);
    figure.add(Err(why));
    figure
}

/// Something that `olmo-pack` does again and again.
struct Stage<'r> {
    runs: &'r Runs,
    work: Work,
    /// Whether it replaces old files.
    force: bool,
    /// The files of an undisturbed run.
    new: BTreeMap<String, Vec<u8>>,
}

impl<'r> Stage<'r> {
    /// Runs it once, undisturbed.
    fn new(runs: &'r Runs, work: Work, force: bool) -> Stage<'r> {
        runs.prepare(work, force);
        let status =
            Command::new(program("olmo-pack")).args(runs.arguments(work, force)).stdout(Stdio::null()).status();
        assert!(status.expect("it starts").success(), "{work:?} without a fault");
        Stage { runs, work, force, new: files(&runs.out()) }
    }

    /// Its description for people.
    fn name(&self) -> String {
        let place = if self.force { "old files" } else { "no files" };
        format!("{}, {place}", format!("{:?}", self.work).to_lowercase())
    }

    /// The program with its arguments, and the folder ready for it.
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        self.runs.prepare(self.work, self.force);
        let program = program("olmo-pack").into_os_string();
        [program].into_iter().chain(self.runs.arguments(self.work, self.force)).collect()
    }

    /// Checks what was left: old or whole new files, and at most `most_left` temporary ones, which pass for a model
    /// only when they are whole. With `done`, all must be new.
    fn judge(&self, most_left: usize, done: bool) -> Result<(), String> {
        let found = files(&self.runs.out());
        let (temporary, named): (Vec<_>, Vec<_>) = found.iter().partition(|(name, _)| name.ends_with(".tmp"));
        if temporary.len() > most_left {
            return Err(format!("{} temporary files are left", temporary.len()));
        }
        for (name, bytes) in temporary {
            let is_whole = self.new.values().any(|new| new == bytes);
            if !is_whole && ModelFile::open(&self.runs.out().join(name)).is_ok() {
                return Err(format!("{name}: passes for a model and is not whole"));
            }
        }
        for (name, bytes) in &named {
            let is_old = self.force && !done && *bytes == b"old";
            if self.new.get(*name) != Some(bytes) && !(is_old && self.new.contains_key(*name)) {
                return Err(format!("{name}: {} bytes, neither old nor new", bytes.len()));
            }
        }
        match (self.force || done) && named.len() != self.new.len() {
            true => Err(format!("{} files of {} are there", named.len(), self.new.len())),
            false => Ok(()),
        }
    }
}
