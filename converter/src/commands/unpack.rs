//! `olmo-pack unpack MODEL DIR`: the weights folder that a model file was packed from, byte for byte.
//!
//! Every `.npy` file is its kept header and the tensor's numbers, taken out of the panels and converted back to the
//! source type; their digest must be that of the source. Rounding to bf16 cannot be undone: those tensors are written as
//! they are stored, and the summary names them. A model whose quantized matrices lost something is refused. Tensors of safetensors files become `.npy` files too, with
//! the headers that npyz writes. The small files next to them, `config.json` and those of the tokenizer and of
//! conversations, come back byte for byte. Of a model file that did not keep them, `generation_config.json` is written
//! with the part that belongs to the model, the EOS ids.

use crate::commands::facts::provenance;
use crate::commands::sources::{Source, checked_section, section_name, sources};
use crate::encode::buffer::reserve;
use crate::encode::numbers::Numbers;
use crate::encode::pool::thread_pool;
use crate::error::{Error, Problem, escaped, shown_path};
use crate::folder::element::narrow;
use crate::folder::npy::header_of;
use crate::model::settings::Origin;
use crate::text::kept_files;
use crate::write::model_output::{PROGRAM, check_free_space};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::section;
use olmo_infer::internals::format::sizes::{TooLarge, product, sum};
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::os::atomic_file::{AtomicFile, FolderSync};
use olmo_infer::internals::os::directory::Folder;
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::made_folders::MadeFolders;
use olmo_infer::internals::os::place::FolderError;
use rayon::prelude::*;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// How many rounded tensors the summary names.
const SHOWN_TENSORS: usize = 3;

/// Restores the folder that `model` was packed from and returns a summary.
///
/// `folder` must be new or empty, unless `force` lets files of the same names be replaced. Each file appears whole or
/// not at all.
///
/// # Errors
/// The model cannot be opened, has no section `SOURCES` or is quantized with losses, the folder has files or no room, a file cannot be
/// written, or a tensor's numbers are not those that were packed.
pub fn run(model: &Path, folder: &Path, force: bool, disk: &dyn Disk) -> Result<String, Error> {
    let model = ModelFile::open(model)?;
    let Some(sources) = sources(&model)? else {
        let problem = Problem::new(model.path(), "has no section SOURCES, which names what it was packed from");
        return Err(problem.advice("it cannot be unpacked").into());
    };
    let is_lossy =
        |index: &usize| model.encoding(*index).dtype().is_quantized() && model.records()[*index].rounded.get() != 0;
    if let Some(index) = (0..model.model_specs().len()).find(is_lossy) {
        let found =
            format!("is {}: the file does not have the numbers that it was made of", model.encoding(index).name());
        let problem = Problem::new(model.path(), found).tensor(model.specs()[index].name());
        return Err(problem.advice("it cannot be unpacked").into());
    }
    let config = checked_section(&model, section::CONFIG_JSON)?.map(|bytes| ("config.json", bytes));
    let mut texts: Vec<Text> = config.into_iter().chain(kept_files(&model)?).collect();
    if texts.iter().all(|(name, _)| *name != "generation_config.json")
        && let Some(text) = generation_config(&model)?
    {
        texts.push(("generation_config.json", text.into_bytes()));
    }
    let Prepared { folder: into, names, made } = prepare(disk, folder, force)?;
    for name in texts.iter().map(|(name, _)| name.to_string()).chain(model.model_specs().iter().map(source_name)) {
        refuse_to_replace(&into, &name, &model)?;
    }
    check_free_space(folder, &into, needed_bytes(&model, &sources, &texts, &into))?;
    let into = Arc::new(into);
    let unpacking = Unpacking { model: &model, sources: &sources, texts: &texts, folder, into, force, disk };
    let n_written = AtomicUsize::new(0);
    let written = unpacking.write_all(&names, &n_written);
    let written = written.and_then(|()| Ok(model.check_unchanged()?));
    written.map_err(|error| with_count(error, n_written.into_inner()))?;
    made.keep();
    Ok(summary(&model, &sources, &texts, folder))
}

/// A file next to the tensors: its name and its bytes.
type Text = (&'static str, Vec<u8>);

/// The small files that the section `FILES` keeps, each under one of the names of the format.
fn kept_files(model: &ModelFile) -> Result<Vec<Text>, Error> {
    let Some(bytes) = checked_section(model, section::FILES)? else { return Ok(Vec::new()) };
    let files = kept_files::in_section(&bytes).map_err(|found| {
        let problem = Problem::new(model.path(), found).tensor(section_name(section::FILES));
        problem.advice("the file is damaged, copy or pack it again")
    })?;
    Ok(files.into_iter().map(|(name, bytes)| (name, bytes.to_vec())).collect())
}

/// The `generation_config.json` that is needed when the EOS ids are not those of `config.json`: without it the folder
/// would be packed into another model.
fn generation_config(model: &ModelFile) -> Result<Option<String>, Error> {
    let is_from_there =
        |(key, origin): &(String, String)| key == "eos_token_id" && origin == Origin::GenerationConfigJson.name();
    let is_from_there = provenance(model)?.iter().any(is_from_there);
    Ok(is_from_there.then(|| format!("{{\"eos_token_id\": {:?}}}\n", model.config().eos_token_ids)))
}

/// Bytes that the files take, less those of the files that they replace. What no number holds, no disk has room for.
fn needed_bytes(model: &ModelFile, sources: &[Source], texts: &[Text], folder: &Folder) -> u64 {
    let replaced = |name: &str| folder.entry(OsStr::new(name)).ok().flatten().map_or(0, |entry| entry.bytes);
    let of_tensors = model.model_specs().iter().zip(sources).map(|(spec, source)| {
        let numbers = product([spec.n_elements(), source.dtype.bytes() as u64])?;
        let bytes = sum([header(source, spec).len() as u64, numbers])?;
        Ok(bytes.saturating_sub(replaced(&source_name(spec))))
    });
    let of_text = |(name, bytes): &Text| (bytes.len() as u64).saturating_sub(replaced(name));
    let mut parts = of_tensors.chain(texts.iter().map(|text| Ok(of_text(text))));
    let all = parts.try_fold(0, |so_far, part: Result<u64, TooLarge>| sum([so_far, part?]));
    all.unwrap_or(u64::MAX)
}

/// The bytes before the elements of a tensor: the header that was kept, or a new one.
fn header(source: &Source, spec: &TensorSpec) -> Vec<u8> {
    match source.header.is_empty() {
        true => header_of(source.dtype, &spec.shape()),
        false => source.header.clone(),
    }
}

/// The name of the `.npy` file of a tensor.
fn source_name(spec: &TensorSpec) -> String {
    format!("{}.npy", spec.name())
}

/// Adds how far it got to an error: what is written stays, and the folder is no longer empty.
fn with_count(error: Error, n_written: usize) -> Error {
    match n_written {
        0 => error,
        n_written => Error::Partly { source: Box::new(error), n_written },
    }
}

/// Rejects names of the model itself, and of anything but files.
fn refuse_to_replace(folder: &Folder, name: &str, model: &ModelFile) -> Result<(), Error> {
    let path = folder.path().join(name);
    let entry =
        folder.entry(OsStr::new(name)).map_err(|source| Error::io(&path, "cannot read its metadata", source))?;
    let Some(there) = entry else { return Ok(()) };
    let advice = "unpack into another folder";
    if fs::metadata(model.path()).is_ok_and(|of_model| (of_model.dev(), of_model.ino()) == there.inode) {
        let problem = Problem::new(path, "is the model that is unpacked").expected("another file");
        return Err(problem.advice(advice).into());
    }
    if !there.is_file && !there.is_link {
        let problem = Problem::new(path, "is not a regular file").expected("a file or nothing");
        return Err(problem.advice(advice).into());
    }
    Ok(())
}

/// The folder that is unpacked into.
struct Prepared<'d> {
    folder: Folder,
    names: FolderSync<'d>,
    /// Those folders that were made: they go again when nothing is written.
    made: MadeFolders<'d>,
}

/// Makes the folder, or refuses one that has something in it.
fn prepare<'d>(disk: &'d dyn Disk, folder: &Path, force: bool) -> Result<Prepared<'d>, Error> {
    if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(Problem::new(folder, "is not a folder")
            .expected("a new or an empty one")
            .advice("give another folder")
            .into());
    }
    let cannot_make = |source| Error::io(folder, "cannot make the folder", source);
    let (into, made) = Folder::make(disk, folder).map_err(|error| match error {
        FolderError::Folder { source, .. } | FolderError::Io(source) => cannot_make(source),
        FolderError::ForeignLink { ref link } => Problem::new(link, error.to_string()).into(),
        error => cannot_make(io::Error::other(error)),
    })?;
    let is_empty = into.is_empty().map_err(|source| Error::io(folder, "cannot read the folder", source))?;
    if !force && !is_empty {
        let problem = Problem::new(folder, "not an empty folder").expected("a new or an empty one");
        return Err(problem.advice("--force replaces the files of the same names").into());
    }
    let names = FolderSync::open(disk, &into);
    let names = names.map_err(|source| Error::io(folder, "cannot open the folder", source))?;
    Ok(Prepared { folder: into, names, made })
}

fn summary(model: &ModelFile, sources: &[Source], texts: &[Text], folder: &Path) -> String {
    let is_rounded = |index: &usize| model.records()[*index].rounded.get() != 0;
    let rounded: Vec<String> = (0..sources.len()).filter(is_rounded).map(|index| model.specs()[index].name()).collect();
    let mut files = ".npy files".to_string();
    for (i, (name, _)) in texts.iter().enumerate() {
        files += if i + 1 == texts.len() { " and " } else { ", " };
        files += name;
    }
    let mut text = format!("{}: {} {files}", escaped(&shown_path(folder)), sources.len());
    let kept = sources.iter().all(|source| !source.header.is_empty());
    match (rounded.is_empty(), kept) {
        (true, true) => return text + ", restored exactly",
        (true, false) => return text + ", the numbers restored exactly; the source was not a folder of .npy files",
        (false, _) => {}
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

/// What is unpacked, and whereto.
struct Unpacking<'a> {
    model: &'a ModelFile,
    sources: &'a [Source],
    texts: &'a [Text],
    /// As the user gave it.
    folder: &'a Path,
    into: Arc<Folder>,
    force: bool,
    disk: &'a dyn Disk,
}

impl Unpacking<'_> {
    /// Writes the files, counting them in `n_written`, and makes their `names` durable.
    fn write_all(&self, names: &FolderSync, n_written: &AtomicUsize) -> Result<(), Error> {
        for (name, bytes) in self.texts {
            let mut file = self.create(name.to_string())?;
            file.append(bytes)?;
            file.keep()?;
            n_written.fetch_add(1, Ordering::Relaxed);
        }
        let write = |index: usize| {
            self.restore(index).inspect(|()| {
                n_written.fetch_add(1, Ordering::Relaxed);
            })
        };
        // Not rayon's own pool, which panics when a thread cannot be started.
        thread_pool(0)?.install(|| (0..self.sources.len()).into_par_iter().try_for_each(write))?;
        names.sync().map_err(|source| Error::io(self.folder, "cannot write", source))
    }

    /// Begins a file of the folder.
    fn create(&self, name: String) -> Result<Growing<'_>, Error> {
        let path = self.folder.join(&name);
        match AtomicFile::create(self.disk, &self.into, PROGRAM) {
            Ok(file) => Ok(Growing { file, path, name, replace: self.force }),
            Err(source) => Err(Error::io(path, "cannot create", source)),
        }
    }

    /// Writes the source file of tensor `index`.
    fn restore(&self, index: usize) -> Result<(), Error> {
        let (spec, record) = (&self.model.specs()[index], &self.model.records()[index]);
        let source = &self.sources[index];
        let (file, exact, digest) = self.restored(index)?;
        let not_restored = |found: &str| {
            let problem = Problem::new(self.model.path(), found).tensor(spec.name());
            Error::from(problem.advice("the file is damaged, copy or pack it again"))
        };
        if !exact {
            return Err(not_restored(&format!("has values that are not {} numbers", source.dtype.name())));
        }
        // Rounded weights differ from the source: only their own digest can be compared.
        if record.rounded.get() != 0 && !self.model.has_digest(index) {
            return Err(not_restored("its digest is wrong"));
        }
        if record.rounded.get() == 0 && digest != source.digest {
            return Err(not_restored("the restored numbers are not those that were packed"));
        }
        file.keep()
    }

    /// The source file of tensor `index` without its name, whether all its numbers are of the source type, and their
    /// digest.
    fn restored(&self, index: usize) -> Result<(Growing<'_>, bool, u64), Error> {
        let (model, source) = (self.model, &self.sources[index]);
        let spec = &model.specs()[index];
        let name = source_name(spec);
        let path = self.folder.join(&name);
        let mut of_model = Numbers::new(model, index);
        let (mut bits, mut numbers) = (of_model.memory(&path)?, Vec::new());
        reserve(&mut numbers, of_model.piece_elements() * source.dtype.bytes(), &path)?;
        let mut file = self.create(name)?;
        file.append(&header(source, spec))?;
        let mut digest = Xxh3::with_seed(0);
        let mut exact = true;
        for piece in 0..of_model.n_pieces() {
            bits.clear();
            numbers.clear();
            of_model.piece(piece, &mut bits);
            exact &= narrow(source.dtype, &bits, &mut numbers);
            digest.update(&numbers);
            file.append(&numbers)?;
        }
        Ok((file, exact, digest.digest()))
    }
}

/// A file of the folder that is written from its beginning to its end. Dropped before it is kept, it leaves nothing.
struct Growing<'d> {
    file: AtomicFile<'d>,
    path: PathBuf,
    name: String,
    replace: bool,
}

impl Growing<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.append(bytes).map_err(|source| Error::io(&self.path, "cannot write", source))
    }

    /// Waits until the content is on the disk and gives the file its name.
    fn keep(self) -> Result<(), Error> {
        self.file.sync().map_err(|source| Error::io(&self.path, "cannot write", source))?;
        let published = self.file.publish(OsStr::new(&self.name), self.replace);
        published.map_err(|source| Error::io(&self.path, "cannot put it in place", source))
    }
}
