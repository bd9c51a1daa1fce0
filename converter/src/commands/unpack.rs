//! `olmo-pack unpack MODEL DIR`: the weights folder or the GGUF file that a model file was packed from, byte for byte.
//!
//! Every `.npy` file is its kept header and the tensor's numbers, taken out of the panels and converted back to the
//! source type; their digest must be that of the source. Rounding to bf16 cannot be undone: those tensors are written
//! as they are stored, and the summary names them. A model whose quantized matrices lost something is refused. Tensors
//! of safetensors files become `.npy` files too, with the headers that npyz writes, and so do those of a GGUF file
//! whose blocks are stored in another encoding; any other GGUF file comes back as it was, or is refused. The small
//! files next to them, `config.json` and those of the tokenizer and of conversations, come back byte for byte. Of a
//! model file that did not keep them, `generation_config.json` is written with the part that belongs to the model, the
//! EOS ids.

use crate::commands::facts::provenance;
use crate::commands::kept_gguf::KeptGguf;
use crate::commands::sources::{Source, checked_section, section_name, sources};
use crate::commands::spellings::spellings;
use crate::commands::unpack_folder::{UnpackFolder, UnpackedFile};
use crate::commands::unpack_gguf;
use crate::encode::buffer::reserve;
use crate::encode::numbers::Numbers;
use crate::encode::pool::thread_pool;
use crate::error::{Error, Problem, escaped, shown_path};
use crate::folder::element::narrow;
use crate::folder::listing::Container;
use crate::folder::npy::header_of;
use crate::model::settings::Origin;
use crate::model::spelling::{Part, Respelled};
use crate::text::kept_files;
use crate::write::model_output::check_free_space;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::section;
use olmo_infer::internals::format::sizes::{TooLarge, product, sum};
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::os::disk::Disk;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// How many rounded tensors the summary names.
const SHOWN_TENSORS: usize = 3;

/// Restores the folder or the GGUF file that `model` was packed from and returns a summary.
///
/// `folder` must be new or empty, unless `force` lets files of the same names be replaced. Each file appears whole or
/// not at all.
///
/// # Errors
/// The model cannot be opened, has no section `SOURCES` or lost something that cannot be restored, the folder has files
/// or no room, a file cannot be written, or a tensor's numbers are not those that were packed.
pub fn run(model: &Path, folder: &Path, force: bool, disk: &dyn Disk) -> Result<String, Error> {
    let model = ModelFile::open(model)?;
    let Some(sources) = sources(&model)? else {
        let problem = Problem::new(model.path(), "has no section SOURCES, which names what it was packed from");
        return Err(problem.advice("it cannot be unpacked").into());
    };
    let weights = Weights::of(&model)?;
    let config = checked_section(&model, section::CONFIG_JSON)?.map(|bytes| ("config.json", bytes));
    let mut texts: Vec<Text> = config.into_iter().chain(kept_files(&model)?).collect();
    if texts.iter().all(|(name, _)| *name != "generation_config.json")
        && let Some(text) = generation_config(&model)?
    {
        texts.push(("generation_config.json", text.into_bytes()));
    }
    let tensors = folder_tensors(model.model_specs(), &sources, spellings(&model, &sources)?);
    let into = UnpackFolder::prepare(disk, folder, force)?;
    let unpacking = Unpacking {
        model: &model,
        sources: &sources,
        tensors: &tensors,
        texts: &texts,
        weights: &weights,
        into: &into,
    };
    for name in unpacking.names() {
        into.refuse_to_replace(&name, &model)?;
    }
    check_free_space(folder, &into.folder, unpacking.needed_bytes())?;
    let n_written = AtomicUsize::new(0);
    let written = unpacking.write_all(&n_written);
    let written = written.and_then(|()| Ok(model.check_unchanged()?));
    written.map_err(|error| with_count(error, n_written.into_inner()))?;
    let summary = unpacking.summary(folder);
    into.keep();
    Ok(summary)
}

/// The files that the tensors are written to.
enum Weights {
    /// One `.npy` file for each.
    Npy {
        /// Why they are not in the file that was packed, if it was another kind of file.
        note: Option<String>,
    },
    /// The GGUF file.
    Gguf(KeptGguf),
}

impl Weights {
    /// Those of `model`.
    ///
    /// # Errors
    /// Numbers of the model or tensors of its GGUF file were lost.
    fn of(model: &ModelFile) -> Result<Weights, Error> {
        let Some(gguf) = KeptGguf::of(model)? else {
            refuse_lossy(model)?;
            let container = |(key, value): &(String, String)| key == "weights" && value == Container::Gguf.name();
            let note = provenance(model)?.iter().any(container).then(|| "its header was not kept".into());
            return Ok(Weights::Npy { note });
        };
        Ok(match unpack_gguf::why_not(model, &gguf)? {
            None => Weights::Gguf(gguf),
            why => Weights::Npy { note: why },
        })
    }
}

/// Refuses a model whose quantized matrices lost something.
fn refuse_lossy(model: &ModelFile) -> Result<(), Error> {
    let is_lossy =
        |index: &usize| model.encoding(*index).dtype().is_quantized() && model.records()[*index].rounded.get() != 0;
    let Some(index) = (0..model.model_specs().len()).find(is_lossy) else { return Ok(()) };
    let found = format!("is {}: the file does not have the numbers that it was made of", model.encoding(index).name());
    let problem = Problem::new(model.path(), found).tensor(model.specs()[index].name());
    Err(problem.advice("it cannot be unpacked").into())
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

/// The tensors that the folder had: those of the model, and the respelled ones in place of what they are made of.
fn folder_tensors(specs: &[TensorSpec], sources: &[Source], respelled: Vec<Respelled>) -> Vec<Respelled> {
    let in_others: BTreeSet<usize> = respelled.iter().flat_map(|of| &of.parts).map(|part| part.tensor).collect();
    let own = specs.iter().zip(sources).enumerate().filter(|(tensor, _)| !in_others.contains(tensor));
    let own = own.map(|(tensor, (spec, source))| Respelled {
        name: spec.name(),
        shape: spec.shape().iter().map(|&size| size as u64).collect(),
        npy_header: source.header.clone(),
        parts: vec![Part { tensor, first: 0, n: spec.n_elements() }],
    });
    own.chain(respelled).collect()
}

/// The bytes before the elements of a tensor: the header that was kept, or a new one.
fn header(tensor: &Respelled, sources: &[Source]) -> Vec<u8> {
    let shape: Vec<usize> = tensor.shape.iter().map(|&size| size as usize).collect();
    match tensor.npy_header.is_empty() {
        true => header_of(sources[tensor.parts[0].tensor].dtype, &shape),
        false => tensor.npy_header.clone(),
    }
}

/// The name of the `.npy` file of a tensor.
fn file_name(tensor: &Respelled) -> String {
    format!("{}.npy", tensor.name)
}

/// Adds how far it got to an error: what is written stays, and the folder is no longer empty.
fn with_count(error: Error, n_written: usize) -> Error {
    match n_written {
        0 => error,
        n_written => Error::Partly { source: Box::new(error), n_written },
    }
}

/// What is unpacked, and whereto.
struct Unpacking<'a> {
    model: &'a ModelFile,
    sources: &'a [Source],
    tensors: &'a [Respelled],
    texts: &'a [Text],
    weights: &'a Weights,
    into: &'a UnpackFolder<'a>,
}

impl Unpacking<'_> {
    /// The names of the files.
    fn names(&self) -> Vec<String> {
        let texts = self.texts.iter().map(|(name, _)| name.to_string());
        match self.weights {
            Weights::Npy { .. } => texts.chain(self.tensors.iter().map(file_name)).collect(),
            Weights::Gguf(_) => texts.chain([unpack_gguf::NAME.into()]).collect(),
        }
    }

    /// Bytes that the files take, less those of the files that they replace; the largest number where none holds them.
    fn needed_bytes(&self) -> u64 {
        let without_replaced = |bytes: u64, name: &str| bytes.saturating_sub(self.into.replaced_bytes(name));
        let of_npy = |tensor: &Respelled| {
            let n = sum(tensor.parts.iter().map(|part| part.n))?;
            let numbers = product([n, self.sources[tensor.parts[0].tensor].dtype.bytes() as u64])?;
            let bytes = sum([header(tensor, self.sources).len() as u64, numbers])?;
            Ok(without_replaced(bytes, &file_name(tensor)))
        };
        let of_tensors: Vec<Result<u64, TooLarge>> = match self.weights {
            Weights::Npy { .. } => self.tensors.iter().map(of_npy).collect(),
            Weights::Gguf(gguf) => vec![Ok(without_replaced(gguf.file_bytes, unpack_gguf::NAME))],
        };
        let of_texts = self.texts.iter().map(|(name, bytes)| Ok(without_replaced(bytes.len() as u64, name)));
        let all = of_tensors.into_iter().chain(of_texts).try_fold(0, |so_far, part| sum([so_far, part?]));
        all.unwrap_or(u64::MAX)
    }

    /// Writes the files, counting them in `n_written`, and makes their names durable.
    fn write_all(&self, n_written: &AtomicUsize) -> Result<(), Error> {
        let count = || {
            n_written.fetch_add(1, Ordering::Relaxed);
        };
        for (name, bytes) in self.texts {
            let mut file = self.into.create(name)?;
            file.append(bytes)?;
            file.keep()?;
            count();
        }
        match self.weights {
            // Not rayon's own pool, which panics when a thread cannot be started.
            Weights::Npy { .. } => thread_pool(0)?.install(|| {
                self.tensors.par_iter().try_for_each(|tensor| self.restore(tensor).inspect(|()| count()))
            })?,
            Weights::Gguf(gguf) => {
                unpack_gguf::write(self.model, gguf, self.sources, self.into)?;
                count();
            }
        }
        self.into.sync()
    }

    /// What was written to `folder`, for the user.
    fn summary(&self, folder: &Path) -> String {
        let model = self.model;
        let names: Vec<&str> = self.texts.iter().map(|(name, _)| *name).collect();
        let files = |first: String| match names.split_last() {
            None => first,
            Some((last, [])) => format!("{first} and {last}"),
            Some((last, others)) => format!("{first}, {} and {last}", others.join(", ")),
        };
        let folder = escaped(&shown_path(folder));
        let note = match self.weights {
            Weights::Gguf(_) => return format!("{folder}: {}, restored exactly", files(unpack_gguf::NAME.into())),
            Weights::Npy { note } => note,
        };
        let text = format!("{folder}: {} {}", self.tensors.len(), files(".npy files".into()));
        let is_rounded = |index: &usize| model.records()[*index].rounded.get() != 0;
        let rounded: Vec<String> =
            (0..self.sources.len()).filter(is_rounded).map(|index| model.specs()[index].name()).collect();
        let kept = self.tensors.iter().all(|tensor| !tensor.npy_header.is_empty());
        match (rounded.is_empty(), kept, note) {
            (true, true, _) => return text + ", restored exactly",
            (true, false, None) => {
                return text + ", the numbers restored exactly; the source was not a folder of .npy files";
            }
            (true, false, Some(why)) => {
                return format!("{text}, the numbers restored exactly; the GGUF file cannot be restored: {why}");
            }
            (false, ..) => {}
        }
        let more = match rounded.len().saturating_sub(SHOWN_TENSORS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{text}\nnot restored exactly: {} of them were rounded to bf16 when packed, and the rounded values were \
             written: {}{more}",
            rounded.len(),
            rounded[..rounded.len().min(SHOWN_TENSORS)].join(", "),
        )
    }

    /// Writes the file of a tensor.
    fn restore(&self, tensor: &Respelled) -> Result<(), Error> {
        let mut file = self.into.create(&file_name(tensor))?;
        file.append(&header(tensor, self.sources))?;
        tensor.parts.iter().try_for_each(|part| self.append(part, &mut file))?;
        file.keep()
    }

    /// Appends a part of a tensor. All of the tensor is read, and must have the digest of what was packed.
    fn append(&self, part: &Part, file: &mut UnpackedFile<'_>) -> Result<(), Error> {
        let (model, source, index) = (self.model, &self.sources[part.tensor], part.tensor);
        let (spec, record) = (&model.specs()[index], &model.records()[index]);
        let mut of_model = Numbers::new(model, index);
        let (mut bits, mut numbers) = (of_model.memory(&file.path)?, Vec::new());
        reserve(&mut numbers, of_model.piece_elements() * source.dtype.bytes(), &file.path)?;
        let mut digest = Xxh3::with_seed(0);
        let (mut exact, mut begin) = (true, 0);
        for piece in 0..of_model.n_pieces() {
            bits.clear();
            numbers.clear();
            of_model.piece(piece, &mut bits);
            exact &= narrow(source.dtype, &bits, &mut numbers);
            digest.update(&numbers);
            let end = begin + bits.len() as u64;
            let wanted = part.first.max(begin)..(part.first + part.n).min(end);
            if !wanted.is_empty() {
                let at = |element: u64| (element - begin) as usize * source.dtype.bytes();
                file.append(&numbers[at(wanted.start)..at(wanted.end)])?;
            }
            begin = end;
        }
        let not_restored = |found: &str| {
            let problem = Problem::new(model.path(), found).tensor(spec.name());
            Error::from(problem.advice("the file is damaged, copy or pack it again"))
        };
        if !exact {
            return Err(not_restored(&format!("has values that are not {} numbers", source.dtype.name())));
        }
        // Rounded weights differ from the source: only their own digest can be compared.
        if record.rounded.get() != 0 && !model.has_digest(index) {
            return Err(not_restored("its digest is wrong"));
        }
        if record.rounded.get() == 0 && digest.digest() != source.digest {
            return Err(not_restored("the restored numbers are not those that were packed"));
        }
        Ok(())
    }
}
