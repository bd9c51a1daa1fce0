//! `olmo-pack unpack MODEL DIR`: the weights folder that a model file was packed from, byte for byte.
//!
//! Every `.npy` file is its kept header and the tensor's numbers, taken out of the panels and converted back to the source
//! type; their digest must be that of the source. Only rounding to bf16 cannot be undone: those tensors are written
//! as they are stored, and the summary names them. `config.json` comes back verbatim. The vocabulary is not written.

use crate::element::narrow;
use crate::error::{Error, Problem, escaped, shown_path};
use crate::fill::{extract_rows, extract_vector};
use crate::sources::{Source, checked_section, sources};
use crate::verify::panel_shape;
use olmo_infer::format::section;
use olmo_infer::model_file::ModelFile;
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a vector that are converted at a time.
const VECTOR_PIECE_BYTES: usize = 1 << 20;
/// How many rounded tensors the summary names.
const SHOWN_TENSORS: usize = 3;

/// Restores the folder that `model` was packed from and returns a summary.
///
/// `folder` must be new or empty, unless `force` lets files of the same names be replaced. Each file appears whole or not at
/// all.
///
/// # Errors
/// The model cannot be opened or does not say where it came from, the folder has files, a file cannot be written, or a
/// tensor's numbers are not those that were packed.
pub fn run(model: &Path, folder: &Path, force: bool) -> Result<String, Error> {
    let model = ModelFile::open(model)?;
    let Some(sources) = sources(&model)? else {
        let problem = Problem::new(model.path(), "does not say what it was packed from (no section SOURCES)");
        return Err(problem.advice("it cannot be unpacked").into());
    };
    let config = checked_section(&model, section::CONFIG_JSON)?;
    prepare(folder, force)?;
    if let Some(config) = config {
        write_whole(&folder.join("config.json"), |out| out.write_all(config))?;
    }
    (0..sources.len()).into_par_iter().try_for_each(|index| restore(&model, index, &sources[index], folder))?;
    // Makes the new names last.
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| Error::io(folder, "cannot write", source))?;
    Ok(summary(&model, folder, config.is_some()))
}

/// Makes the folder, or refuses one that has something in it.
fn prepare(folder: &Path, force: bool) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|source| Error::io(folder, "cannot make the folder", source))?;
    let mut entries = fs::read_dir(folder).map_err(|source| Error::io(folder, "cannot read the folder", source))?;
    if !force && entries.next().is_some() {
        let problem = Problem::new(folder, "not an empty folder").expected("a new or an empty one");
        return Err(problem.advice("--force replaces the files of the same names").into());
    }
    Ok(())
}

fn summary(model: &ModelFile, folder: &Path, has_config: bool) -> String {
    let is_rounded = |index: &usize| model.records()[*index].rounded.get() != 0;
    let rounded: Vec<String> =
        (0..model.specs().len()).filter(is_rounded).map(|index| model.specs()[index].name()).collect();
    let files = if has_config { ".npy files and config.json" } else { ".npy files" };
    let mut text = format!("{}: {} {files}", escaped(&shown_path(folder)), model.specs().len());
    if rounded.is_empty() {
        return text + ", restored exactly";
    }
    let more = match rounded.len().saturating_sub(SHOWN_TENSORS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    text += &format!(
        "\nnot restored exactly: {} of them were rounded to bf16 when packed, and the rounded values were written: {}{more}",
        rounded.len(),
        rounded[..rounded.len().min(SHOWN_TENSORS)].join(", "),
    );
    text
}

/// Writes the source file of tensor `index`.
fn restore(model: &ModelFile, index: usize, source: &Source, folder: &Path) -> Result<(), Error> {
    let (spec, record) = (&model.specs()[index], &model.records()[index]);
    let shape = panel_shape(spec, model.matrices());
    let path = folder.join(format!("{}.npy", spec.name()));
    let mut digest = Xxh3::with_seed(0);
    let mut exact = true;
    let not_restored = |found: &str| {
        let problem = Problem::new(model.path(), found).tensor(spec.name());
        Error::from(problem.advice("the file is damaged: see olmo-pack verify"))
    };
    let temporary = Temporary::create(&path)?;
    let write = |out: &mut dyn Write| -> io::Result<()> {
        out.write_all(source.header)?;
        let pieces = model.tensor_bytes(index).chunks(shape.map_or(VECTOR_PIECE_BYTES, |shape| shape.panel_bytes()));
        let (mut bits, mut numbers) = (Vec::new(), Vec::new());
        for (panel, piece) in pieces.enumerate() {
            bits.clear();
            numbers.clear();
            match &shape {
                Some(shape) => extract_rows(shape, piece, panel, &mut bits),
                None => extract_vector(piece, &mut bits),
            }
            exact &= narrow(source.dtype, &bits, &mut numbers);
            digest.update(&numbers);
            out.write_all(&numbers)?;
        }
        Ok(())
    };
    temporary.fill(write)?;
    if !exact {
        return Err(not_restored(&format!("has values that are no {} numbers", source.dtype.name())));
    }
    if record.rounded.get() == 0 && digest.digest() != source.digest {
        return Err(not_restored("the restored numbers are not those that were packed"));
    }
    temporary.keep()
}

/// Writes a file under a temporary name and renames it.
fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let temporary = Temporary::create(path)?;
    temporary.fill(write)?;
    temporary.keep()
}

/// A file beside its final name; removed when it is dropped before it is kept.
struct Temporary {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Temporary {
    fn create(target: &Path) -> Result<Temporary, Error> {
        let mut name = target.file_name().expect("the files of a folder have names").to_os_string();
        name.push(format!(".{}.tmp", process::id()));
        let path = target.with_file_name(name);
        let file = File::create(&path).map_err(|source| Error::io(&path, "cannot create", source))?;
        Ok(Temporary { file, path, target: target.to_path_buf() })
    }

    /// Writes the content and waits until it is on the disk.
    fn fill(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
        let written = write(&mut &self.file).and_then(|()| self.file.sync_all());
        written.map_err(|source| Error::io(&self.path, "cannot write", source))
    }

    /// Gives the file its final name.
    fn keep(mut self) -> Result<(), Error> {
        let renamed = fs::rename(&self.path, &self.target);
        renamed.map_err(|source| Error::io(&self.target, "cannot rename to", source))?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nothing to be done about a file that cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}
