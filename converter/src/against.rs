//! `olmo-pack verify MODEL --against WEIGHTS`: whether a model file holds the numbers of a weights folder.

use crate::buffer::reserve;
use crate::element::{round_to_bf16, widen};
use crate::error::{Error, Problem, shown_path};
use crate::listing::Listing;
use crate::npy::shown_shape;
use crate::numbers::Numbers;
use crate::source_file::read_at_most;
use crate::sources::checked_section;
use olmo_infer::format::section;
use olmo_infer::model_file::ModelFile;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;

/// Longest `config.json` that is compared.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Everything in which `model` differs from the weights in `folder`. Numbers that were rounded when the model was
/// packed are rounded again before they are compared.
///
/// # Errors
/// The folder is none, or a file of it cannot be read.
pub fn check(model: &ModelFile, folder: &Path, pool: &ThreadPool) -> Result<Vec<Problem>, Error> {
    let listing = Listing::read(folder)?;
    let mut problems = Vec::new();
    if listing.has_config_json {
        let path = folder.join("config.json");
        let json = read_at_most(&path, MAX_CONFIG_BYTES)?;
        if checked_section(model, section::CONFIG_JSON)? != json.as_deref() {
            let problem = Problem::new(model.path(), "was not packed with this config.json");
            problems.push(problem.expected(format!("that of {}", shown_path(folder))).advice("pack the folder again"));
        }
    }
    let compare = |index: usize| tensor(model, index, &listing);
    let of_tensors: Result<Vec<Option<Problem>>, Error> =
        pool.install(|| (0..model.specs().len()).into_par_iter().map(compare).collect());
    problems.extend(of_tensors?.into_iter().flatten());
    let names: BTreeSet<String> = model.specs().iter().map(|spec| spec.name()).collect();
    let extra = listing.tensors.iter().filter(|name| !names.contains(*name));
    let extra = extra.map(|name| listing.problem(name, "is not in the model file"));
    problems.extend(extra.chain(listing.strays.iter().map(|path| listing.stray(path))));
    Ok(problems)
}

/// In what a tensor differs from the one of its name in the folder.
fn tensor(model: &ModelFile, index: usize, listing: &Listing) -> Result<Option<Problem>, Error> {
    let (spec, record) = (&model.specs()[index], &model.records()[index]);
    let name = spec.name();
    let problem = |found: String| {
        let problem = Problem::new(model.path(), found).tensor(name.clone());
        Some(problem.expected(format!("what {} has", shown_path(&listing.folder))))
    };
    if !listing.tensors.contains(&name) {
        return Ok(problem("is not in the weights folder".into()));
    }
    let source = listing.tensor(&name, true)?;
    let shape: Vec<u64> = spec.shape().iter().map(|&size| size as u64).collect();
    if source.shape != shape {
        return Ok(problem(format!("has the shape {}, not {}", shown_shape(&shape), shown_shape(&source.shape))));
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
