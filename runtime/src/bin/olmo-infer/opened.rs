//! The model of a run: opened with advice for a wrong first argument, and read ahead while the run computes.

use crate::args;
use crate::failure::Failure;
use crate::program::PROGRAM;
use olmo_infer::internals::cli::command_line::nearest;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::file::mapping::{Load, Populated};
use olmo_infer::internals::file::model_file::{ModelFile, Which};
use olmo_infer::internals::format::MAGIC;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::os::spawn::spawn_scoped;
use olmo_infer::internals::parallel::matmul::Activations;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Opens the model at `path` for `program`; `others` are the other files of the command line, of which one may be
/// meant.
pub fn open(program: Program, path: &Path, load: Load, others: &[PathBuf]) -> Result<ModelFile, Failure> {
    let file = ModelFile::open_with(path, load).map_err(|error| explain(program, others, error))?;
    file.refuse_unfinished()?;
    note_clock(&file);
    Ok(file)
}

/// Refuses integers as activations where no weights are multiplied with them.
pub fn refuse_useless(activations: Activations, file: &ModelFile) -> Result<(), Failure> {
    let name = match activations {
        Activations::Int16 => "int16",
        Activations::Int8 => "int8",
        Activations::Auto | Activations::F32 => return Ok(()),
    };
    if file.has_quantized() {
        return Ok(());
    }
    let path = display_path(file.path());
    Err(Failure::Usage(format!("--activations {name}: {path} has no int8 or int4 matrices; leave the option out")))
}

/// Refuses guesses that were asked for where none are made.
pub fn refuse_no_guess(speculate: Speculate, backend: Backend, file: &ModelFile) -> Result<(), Failure> {
    if backend.gemm && !matches!(speculate, Speculate::AUTO | Speculate::OFF) {
        let why = "products by gemm have other bits for several tokens than for one, so nothing is guessed";
        return Err(Failure::Usage(format!("--speculate: {why}; leave it out")));
    }
    if file.config().linear.is_some() && !matches!(speculate, Speculate::AUTO | Speculate::OFF) {
        let why = "the states of linear attention cannot take a wrong guess back, so nothing is guessed";
        return Err(Failure::Usage(format!("--speculate: {why}; leave it out")));
    }
    if speculate != Speculate::DRAFT || file.model_specs().len() < file.specs().len() {
        return Ok(());
    }
    let path = display_path(file.path());
    let advice = "pack it with olmo-pack --draft int4, or use --speculate lookup";
    Err(Failure::Usage(format!("--speculate draft: {path} has no draft; {advice}")))
}

/// Notes that the clock makes every run read all of a model.
pub fn note_clock(file: &ModelFile) {
    if file.is_ahead() {
        let path = display_path(file.path());
        PROGRAM.note(format_args!(
            "{path}: was changed in the future, by the clock of this machine, so that each run reads all of it; set \
             the clock, or touch the file"
        ));
    }
}

/// A better error when the first argument is not a model and another one is.
fn explain(program: Program, others: &[PathBuf], error: Error) -> Failure {
    let is_model = |path: &&PathBuf| {
        let mut magic = [0; MAGIC.len()];
        // A file that cannot be read is not a model. O_NONBLOCK: do not wait for a FIFO that may be there by now.
        let mut options = File::options();
        let open = options.read(true).custom_flags(libc::O_NONBLOCK);
        path.is_file() && open.open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == MAGIC
    };
    match (&error, others.iter().find(is_model)) {
        (Error::Io { path, source, .. }, Some(model)) if source.kind() == io::ErrorKind::NotFound => {
            let (word, model) = (display_path(path).to_string(), display_path(model));
            let meant = match word.as_str() {
                _ if program != PROGRAM => format!("{program} {model}"),
                // The first word is perhaps a command.
                "inspect" | "verify" | "diff" | "copy" | "unpack" => format!("olmo-pack {word} {model}"),
                // A misspelt command.
                word => match nearest(word, args::COMMANDS) {
                    Some(command) => format!("{} {model}", PROGRAM.command(command)),
                    None => format!("{program} {model}"),
                },
            };
            Failure::Refused(format!("{word}: no such file, and {model} is a model; did you mean {meant}?"))
        }
        (Error::NotOlmo { path, .. } | Error::NotAFile { path, .. }, Some(model)) => {
            let (path, model) = (display_path(path), display_path(model));
            Failure::Refused(format!(
                "{path}: not an .olmo file, and {model} is one; are the arguments swapped? {program} {model} {path}"
            ))
        }
        _ => error.into(),
    }
}

/// Runs `work` while another thread brings the file's pages in, ahead of the first pass, with `drafts` those too; yields
/// its time too.
pub fn while_populating<T>(
    file: &ModelFile,
    drafts: bool,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, Option<(Duration, Populated)>), Failure> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let populate = || {
            let begun = Instant::now();
            file.populate(Which { drafts, experts: false }, &|| stop.load(Ordering::Relaxed))
                .map(|populated| (begun.elapsed(), populated))
        };
        // Without another thread, the first pass brings the pages in itself.
        let thread = spawn_scoped(scope, "olmo-page-in", populate).ok();
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let page_in = thread.and_then(|thread| thread.join().expect("populating does not panic").ok());
        // What could not be brought in ahead the work has brought in itself, or has ended there: it reads every page
        // that this thread does, and looks at the file before its last result.
        Ok((result?, page_in))
    })
}
