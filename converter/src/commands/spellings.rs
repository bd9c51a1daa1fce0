//! The section `SPELLING` read back: the tensors of the folder that were not tensors of the model.

use crate::commands::sources::{Sections, Source, checked_section, section_name};
use crate::error::{Error, Problem};
use crate::folder::element::SourceType;
use crate::folder::npy::{self, Descr};
use crate::model::spelling::{Part, Respelled};
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::format::{SpellingHead, SpellingPart, SpellingRecord, section};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use zerocopy::FromBytes;

/// Longest name: a file system's, less `.npy`.
const MAX_NAME_BYTES: usize = 251;

/// The respelled tensors of `model`, whose sources these are; none without the section.
///
/// # Errors
/// The section is damaged, or is not what `format-spec.md` describes.
pub fn spellings(model: &impl Sections, sources: &[Source]) -> Result<Vec<Respelled>, Error> {
    let Some(bytes) = checked_section(model, section::SPELLING)? else { return Ok(Vec::new()) };
    let parsed = parse(&bytes).and_then(|respelled| {
        check(model.path(), &respelled, model.model_specs(), sources)?;
        Ok(respelled)
    });
    parsed.map_err(|found| {
        let problem = Problem::new(model.path(), found).tensor(section_name(section::SPELLING));
        problem.advice("the file is damaged, copy or pack it again").into()
    })
}

/// The entries of a section, or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Vec<Respelled>, String> {
    let (head, rest) = SpellingHead::ref_from_prefix(bytes).map_err(|_| "no room for its head")?;
    let n = head.n_tensors.get() as usize;
    if n == 0 || head.reserved.get() != 0 {
        return Err(format!("{n} tensors, or a reserved field that is not zero"));
    }
    let (records, rest) = <[SpellingRecord]>::ref_from_prefix_with_elems(rest, n)
        .map_err(|_| format!("{} bytes, too short for {n} tensors", bytes.len()))?;
    let n_parts = records.iter().fold(0usize, |sum, record| sum.saturating_add(record.n_parts.get() as usize));
    let (parts, mut rest) = <[SpellingPart]>::ref_from_prefix_with_elems(rest, n_parts)
        .map_err(|_| format!("{} bytes, too short for {n_parts} parts", bytes.len()))?;
    let mut take = |n: usize, what: &str, entry: usize| {
        let (taken, others) = rest.split_at_checked(n).ok_or(format!("entry {entry}: no room for its {what}"))?;
        rest = others;
        Ok::<_, String>(taken)
    };
    let mut names = Vec::with_capacity(n);
    for (entry, record) in records.iter().enumerate() {
        let name = take(record.name_bytes.get() as usize, "name", entry)?;
        let is_possible = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) || name[0] == b'.' || !name.iter().all(is_possible) {
            return Err(format!("entry {entry}: a name that no tensor has"));
        }
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    let mut parts = parts.iter();
    let mut respelled = Vec::with_capacity(n);
    for (entry, (record, name)) in records.iter().zip(names).enumerate() {
        let rank = record.rank.get() as usize;
        let shape: Vec<u64> = record.shape.iter().map(|size| size.get()).collect();
        if !(1..=shape.len()).contains(&rank) || shape[..rank].contains(&0) || shape[rank..].iter().any(|&n| n != 0) {
            return Err(format!("entry {entry}: a shape that is not possible"));
        }
        let npy_header = take(record.header_bytes.get() as usize, "header", entry)?.to_vec();
        let of_entry: Vec<&SpellingPart> = parts.by_ref().take(record.n_parts.get() as usize).collect();
        if of_entry.iter().any(|part| part.reserved.get() != 0 || part.n.get() == 0) {
            return Err(format!("entry {entry}: a part without elements, or a reserved field that is not zero"));
        }
        let part =
            |part: &SpellingPart| Part { tensor: part.tensor.get() as usize, first: part.first.get(), n: part.n.get() };
        let parts = of_entry.into_iter().map(part).collect();
        respelled.push(Respelled { name, shape: shape[..rank].to_vec(), npy_header, parts });
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes after the last header", rest.len()));
    }
    Ok(respelled)
}

/// Checks the entries against the tensors: each that is named is there once and whole.
fn check(path: &Path, respelled: &[Respelled], specs: &[TensorSpec], sources: &[Source]) -> Result<(), String> {
    let mut of_tensor: BTreeMap<usize, Vec<Part>> = BTreeMap::new();
    for entry in respelled {
        let name = &entry.name;
        let n = entry.parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.n));
        if entry.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size)) != Some(n) {
            return Err(format!("{name}: a shape of another number of elements than its parts"));
        }
        for part in &entry.parts {
            of_tensor.entry(part.tensor).or_default().push(*part);
        }
        let types: BTreeSet<u32> =
            entry.parts.iter().filter_map(|part| sources.get(part.tensor)).map(|source| source.dtype.code()).collect();
        let dtype = match types.first().and_then(|&code| SourceType::from_code(code)) {
            Some(dtype) if types.len() == 1 => dtype,
            _ => return Err(format!("{name}: parts of several types, or of no tensor of the model")),
        };
        if entry.npy_header.is_empty() {
            continue;
        }
        let bytes = n.saturating_mul(dtype.bytes() as u64).saturating_add(entry.npy_header.len() as u64);
        let checked = npy::check(path, &entry.npy_header, bytes);
        let checked = checked.map_err(|problem| format!("header of {name}: {}", problem.found))?;
        let is_dtype = match checked.descr {
            Descr::F32 => dtype == SourceType::F32,
            Descr::F16 => dtype == SourceType::F16,
            Descr::Raw16 | Descr::U16 => dtype == SourceType::Bf16,
        };
        if !is_dtype || checked.shape != entry.shape || checked.preamble_bytes != entry.npy_header.len() {
            return Err(format!("header of {name}: that of other numbers"));
        }
    }
    for (tensor, parts) in &mut of_tensor {
        let Some((spec, source)) = specs.get(*tensor).zip(sources.get(*tensor)) else {
            return Err(format!("a part of tensor {tensor}, which the model does not have"));
        };
        parts.sort_unstable_by_key(|part| part.first);
        let end =
            parts.iter().try_fold(0u64, |end, part| if part.first == end { end.checked_add(part.n) } else { None });
        if end != Some(spec.n_elements()) || !source.header.is_empty() {
            return Err(format!("{}: not there once and whole", spec.name()));
        }
    }
    let own = specs.iter().enumerate().filter(|(tensor, _)| !of_tensor.contains_key(tensor));
    let mut names: BTreeSet<String> = own.map(|(_, spec)| spec.name()).collect();
    match respelled.iter().find(|entry| !names.insert(entry.name.clone())) {
        Some(entry) => Err(format!("{}: twice", entry.name)),
        None => Ok(()),
    }
}
