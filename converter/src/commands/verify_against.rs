//! `olmo-pack verify MODEL --against WEIGHTS`: whether a model file holds the numbers of a weights folder.

use crate::commands::facts::config_object;
use crate::commands::sources::{Source, checked_section, sources};
use crate::encode::buffer::{grow, reserve};
use crate::encode::numbers::Numbers;
use crate::error::{Error, Problem, shown_path};
use crate::folder::element::{round_to_bf16, widen};
use crate::folder::listing::Listing;
use crate::folder::npy::shown_shape;
use crate::folder::source_file::read_at_most;
use crate::folder::stored_tensor::StoredTensor;
use crate::model::checkpoint;
use crate::model::settings::Flags;
use crate::model::spelling::{EMBEDDING, HEAD, Spelling};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::section;
use olmo_infer::internals::format::tensors::TensorSpec;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Longest `config.json` that is compared.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Bytes of a tensor that are read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// What the comparison of a model with a folder gave.
#[derive(Debug, Default)]
pub struct Compared {
    /// Everything in which they differ.
    pub problems: Vec<Problem>,
    /// That the texts of their configurations differ and mean the same.
    pub note: Option<&'static str>,
}

/// Compares `model` with the weights in `folder`. Numbers that were rounded to bf16 when the model was packed are
/// rounded again before they are compared; those that were quantized are compared by the digest of what they were made
/// of.
///
/// # Errors
/// `folder` is not a folder, or a file of it cannot be read.
pub fn check(model: &ModelFile, folder: &Path, pool: &ThreadPool) -> Result<Compared, Error> {
    let listing = Listing::read(folder)?;
    let sources = sources(model)?.unwrap_or_default();
    let compare = |index: usize| tensor(model, index, &listing, &sources);
    let of_tensors: Result<Vec<Option<Problem>>, Error> =
        pool.install(|| (0..model.specs().len()).into_par_iter().map(compare).collect());
    let mut problems: Vec<Problem> = of_tensors?.into_iter().flatten().collect();
    let is_tied = model.config().tie_word_embeddings;
    let mut names = BTreeSet::new();
    for spec in model.model_specs() {
        match Spelling::of(&listing, spec, model.config()) {
            Ok(spelling) => names.extend(spelling.names().into_iter().map(String::from)),
            Err(problem) => {
                names.extend(Spelling::all_names(spec, model.config()));
                problems.push(problem);
            }
        }
    }
    if is_tied && names.contains(EMBEDDING) && [EMBEDDING, HEAD].iter().all(|&name| listing.tensors.contains(name)) {
        // The embedding again, as packing lets it pass.
        let [embedding, head] = [EMBEDDING, HEAD].map(|name| listing.tensor(name, true));
        if head?.same_numbers(&embedding?)? {
            names.insert(HEAD.into());
        }
    }
    let extra = listing.tensors.iter().filter(|name| !names.contains(*name));
    let extra = extra.map(|name| listing.problem(name, "is not in the model file"));
    problems.extend(extra.chain(listing.strays.iter().map(|path| listing.stray(path))));
    let mut compared = Compared { problems, note: None };
    if listing.has_config_json || listing.gguf().is_some() {
        configuration(model, &listing, &mut compared)?;
    }
    Ok(compared)
}

/// Compares the configuration. What counts is what it means: the text can differ in spaces, or be that of another
/// version of transformers.
fn configuration(model: &ModelFile, listing: &Listing, compared: &mut Compared) -> Result<(), Error> {
    let json = match listing.gguf() {
        Some(_) => None,
        None => read_at_most(&listing.folder.join("config.json"), MAX_CONFIG_BYTES)?,
    };
    if json.is_some() && checked_section(model, section::CONFIG_JSON)? == json {
        return Ok(());
    }
    let numbers = if compared.problems.is_empty() { "has the numbers of this folder, but " } else { "" };
    let problem = |found: String| Problem::new(model.path(), format!("{numbers}{found}"));
    let settings = checkpoint::generation(listing)
        .and_then(|generation| checkpoint::settings(listing, &Flags::default(), &generation));
    match settings {
        Ok((settings, _)) => {
            let (ours, theirs) = (config_object(model.config()), config_object(&settings.config));
            let differs = ours.as_object().into_iter().flatten().find(|(key, value)| theirs.get(key) != Some(value));
            match differs {
                None if listing.gguf().is_some() => {}
                None => compared.note = Some("; the text of config.json differs and means the same"),
                Some((key, value)) => {
                    let theirs = theirs.get(key).cloned().unwrap_or_default();
                    let file = match listing.gguf() {
                        Some(gguf) => gguf.path().to_path_buf(),
                        None => listing.folder.join("config.json"),
                    };
                    let expected = format!("{theirs} as in {}", shown_path(&file));
                    let problem = problem(format!("was packed with another configuration: {key} is {value}"));
                    compared.problems.push(problem.expected(expected).advice("pack it again, with the same options"));
                }
            }
        }
        Err(error) => {
            let what = if listing.gguf().is_some() { "other metadata" } else { "another config.json" };
            let found = format!("was packed with {what}, and not with what is there: {error}");
            compared.problems.push(problem(found.lines().next().unwrap_or_default().to_string()));
        }
    }
    Ok(())
}

/// In what a tensor differs from the one of its name in the folder.
fn tensor(model: &ModelFile, index: usize, listing: &Listing, sources: &[Source]) -> Result<Option<Problem>, Error> {
    let (spec, record) = (&model.specs()[index], &model.records()[index]);
    let name = spec.name();
    let problem = |found: String| {
        let problem = Problem::new(model.path(), found).tensor(name.clone());
        Some(problem.expected(format!("what {} has", shown_path(&listing.folder))))
    };
    // A draft holds the numbers of its matrix.
    let of_folder = TensorSpec { is_draft: false, ..*spec };
    // `check` reports one that is there twice.
    let Ok(spelling) = Spelling::of(listing, &of_folder, model.config()) else { return Ok(None) };
    if !spelling.names().iter().all(|name| listing.tensors.contains(*name)) {
        return Ok(problem("is not in the weights folder".into()));
    }
    let open = |name: &str| listing.tensor(name, true);
    let source = match spelling.tensor(&of_folder, &mut BTreeMap::new(), open) {
        // Of another shape: a difference like others.
        Err(Error::Problem(problem)) => return Ok(Some(*problem)),
        source => source?,
    };
    let shape: Vec<u64> = spec.shape().iter().map(|&size| size as u64).collect();
    if source.shape != shape {
        return Ok(problem(format!("has the shape {}, not {}", shown_shape(&shape), shown_shape(&source.shape))));
    }
    if record.rounded.get() != 0 && model.encoding(index).dtype().is_quantized() {
        // The sources are those of the tensors of the model; a draft has that of its matrix.
        let at = model.model_specs().iter().position(|spec| *spec == of_folder);
        let differs = digest_differs(&source, at.and_then(|at| sources.get(at)))?;
        return Ok(if differs { problem("was made of other numbers".into()) } else { None });
    }
    let mut numbers = Numbers::new(model, index);
    let (mut found, mut expected, mut bytes) = (numbers.memory(model.path())?, Vec::new(), Vec::new());
    reserve(&mut expected, numbers.piece_elements(), model.path())?;
    reserve(&mut bytes, numbers.piece_elements() * source.element.bytes(), model.path())?;
    let (mut n_different, mut n_elements) = (0u64, 0u64);
    for piece in 0..numbers.n_pieces() {
        found.clear();
        expected.clear();
        numbers.piece(piece, &mut found);
        bytes.resize(found.len() * source.element.bytes(), 0);
        source.read(n_elements * source.element.bytes() as u64, &mut bytes)?;
        widen(source.element, &bytes, &mut expected);
        if record.rounded.get() != 0 {
            expected.iter_mut().for_each(|bits| *bits = u32::from(round_to_bf16(*bits)) << 16);
        }
        n_elements += found.len() as u64;
        n_different += found.iter().zip(&expected).filter(|(found, expected)| found != expected).count() as u64;
    }
    Ok((n_different > 0).then(|| problem(format!("{n_different} of its {n_elements} numbers are others"))).flatten())
}

/// Whether the numbers of a tensor in the folder are not those that a tensor was packed from, as far as the file states
/// what these were.
fn digest_differs(tensor: &StoredTensor, source: Option<&Source>) -> Result<bool, Error> {
    let Some(source) = source else { return Ok(true) };
    let mut digest = Xxh3::with_seed(0);
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < tensor.all_bytes() {
        let length = (tensor.all_bytes() - at).min(PIECE_BYTES);
        grow(&mut bytes, length as usize, &tensor.file.path)?;
        tensor.read(at, &mut bytes[..length as usize])?;
        digest.update(&bytes[..length as usize]);
        at += length;
    }
    Ok(tensor.element != source.dtype || digest.digest() != source.digest)
}
