//! The sections of a model file, and of them `SOURCES` read back: where each tensor came from.

use crate::error::{Error, Problem};
use crate::folder::element::SourceType;
use crate::folder::npy::{self, Descr};
use olmo_infer::internals::file::index;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::mapped_bytes::MappedBytes;
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::format::{SectionRecord, SourceRecord, section};
use std::path::Path;
use zerocopy::FromBytes;

/// What a tensor was read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its element type.
    pub dtype: SourceType,
    /// Everything before its numbers, if it was an `.npy` file; else nothing.
    pub header: Vec<u8>,
    /// XXH3-64 of its numbers, seed 0.
    pub digest: u64,
}

/// A file with sections, its index checked.
pub trait Sections {
    /// For messages.
    fn path(&self) -> &Path;
    /// The model's configuration.
    fn config(&self) -> &ModelConfig;
    /// The tensors of the model, in the order of the file.
    fn model_specs(&self) -> &[TensorSpec];
    /// The entries of the sections.
    fn sections(&self) -> &[SectionRecord];
    /// The bytes of a section; `None` when the file has no such section.
    fn section_bytes(&self, kind: u32) -> Option<MappedBytes<'_>>;
}

impl Sections for ModelFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn model_specs(&self) -> &[TensorSpec] {
        self.model_specs()
    }

    fn sections(&self) -> &[SectionRecord] {
        self.sections()
    }

    fn section_bytes(&self, kind: u32) -> Option<MappedBytes<'_>> {
        self.section_bytes(kind)
    }
}

/// A copy of a section of `model`, its digest checked; `None` when the file has no such section.
///
/// # Errors
/// The section's bytes are not those that its record describes.
pub fn checked_section(model: &impl Sections, kind: u32) -> Result<Option<Vec<u8>>, Error> {
    let record = model.sections().iter().find(|record| record.kind.get() == kind);
    let (Some(bytes), Some(record)) = (model.section_bytes(kind), record) else { return Ok(None) };
    match index::checked_section(model.path(), record, bytes) {
        Ok(copy) => Ok(Some(copy)),
        // In the words for tensors.
        Err(olmo_infer::Error::Damaged { .. }) => {
            let problem = Problem::new(model.path(), "its digest is wrong").tensor(section_name(kind));
            Err(problem.advice("the file is damaged, copy or pack it again").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A section's name in messages, in place of the name of a tensor.
pub fn section_name(kind: u32) -> String {
    format!("section {}", section::name(kind))
}

/// Where the tensors of `model` came from, in the order of the file, without drafts; `None` when the file has no
/// section `SOURCES`.
///
/// # Errors
/// The section is damaged, or is not what `format-spec.md` describes.
pub fn sources(model: &impl Sections) -> Result<Option<Vec<Source>>, Error> {
    let Some(bytes) = checked_section(model, section::SOURCES)? else { return Ok(None) };
    let parsed = parse(&bytes, model.model_specs().len()).and_then(|sources| {
        sources
            .iter()
            .zip(model.model_specs())
            .try_for_each(|(source, spec)| check_header(model.path(), source, spec))?;
        Ok(sources)
    });
    parsed.map(Some).map_err(|found| {
        let problem = Problem::new(model.path(), found).tensor(section_name(section::SOURCES));
        problem.advice("the file is damaged, copy or pack it again").into()
    })
}

/// The entries of a SOURCES section, or what is wrong with it.
fn parse(bytes: &[u8], n_tensors: usize) -> Result<Vec<Source>, String> {
    let (records, mut headers) = <[SourceRecord]>::ref_from_prefix_with_elems(bytes, n_tensors)
        .map_err(|_| format!("{} bytes, too short for {n_tensors} tensors", bytes.len()))?;
    let mut sources = Vec::with_capacity(n_tensors);
    for (i, record) in records.iter().enumerate() {
        let code = record.dtype.get();
        let dtype = SourceType::from_code(code).ok_or_else(|| format!("entry {i}: unknown element type {code}"))?;
        let header_bytes = record.header_bytes.get() as usize;
        let (header, rest) = headers
            .split_at_checked(header_bytes)
            .ok_or_else(|| format!("entry {i}: a header of {header_bytes} bytes where {} are left", headers.len()))?;
        headers = rest;
        sources.push(Source { dtype, header: header.to_vec(), digest: record.digest.get() });
    }
    if !headers.is_empty() {
        return Err(format!("{} bytes after the last header", headers.len()));
    }
    Ok(sources)
}

/// A header that was kept must be one that packing accepts, of this tensor: unpacking writes it before the numbers.
fn check_header(path: &Path, source: &Source, spec: &TensorSpec) -> Result<(), String> {
    if source.header.is_empty() {
        return Ok(());
    }
    let data_bytes = spec.n_elements().saturating_mul(source.dtype.bytes() as u64);
    let checked = npy::check(path, &source.header, data_bytes.saturating_add(source.header.len() as u64));
    let checked = checked.map_err(|problem| format!("header of {}: {}", spec.name(), problem.found))?;
    let is_dtype = match checked.descr {
        Descr::F32 => source.dtype == SourceType::F32,
        Descr::F16 => source.dtype == SourceType::F16,
        Descr::Raw16 | Descr::U16 => source.dtype == SourceType::Bf16,
    };
    let is_shape = checked.shape.iter().copied().eq(spec.shape().iter().map(|&size| size as u64));
    if !is_dtype || !is_shape || checked.preamble_bytes != source.header.len() {
        return Err(format!("header of {}: that of other numbers", spec.name()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;
    use zerocopy::little_endian::{U32, U64};

    /// A section of records (type code, header length) and this many header bytes.
    fn section(records: &[(u32, u32)], n_header_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(dtype, header_bytes) in records {
            let record =
                SourceRecord { dtype: U32::new(dtype), header_bytes: U32::new(header_bytes), digest: U64::new(7) };
            bytes.extend_from_slice(record.as_bytes());
        }
        bytes.extend((0..n_header_bytes).map(|i| i as u8));
        bytes
    }

    #[test]
    fn headers_follow_each_other() {
        let bytes = section(&[(1, 3), (2, 0), (3, 2)], 5);
        let sources = parse(&bytes, 3).expect("a section");
        let headers: Vec<&[u8]> = sources.iter().map(|source| source.header.as_slice()).collect();
        assert_eq!(headers, [&[0, 1, 2][..], &[], &[3, 4]]);
        assert_eq!(sources[2].dtype, SourceType::Bf16);
        assert_eq!(sources[2].digest, 7);
    }

    #[test]
    fn invalid_sections_are_refused() {
        let cases = [
            (section(&[(1, 3)], 2), 1, "entry 0: a header of 3 bytes where 2 are left"),
            (section(&[(1, u32::MAX)], 2), 1, "entry 0: a header of 4294967295 bytes where 2 are left"),
            (section(&[(1, 3)], 4), 1, "1 bytes after the last header"),
            (section(&[(4, 0)], 0), 1, "entry 0: unknown element type 4"),
            (section(&[(1, 0)], 0), 2, "16 bytes, too short for 2 tensors"),
            (section(&[(1, 0)], 0), usize::MAX, "16 bytes, too short for 18446744073709551615 tensors"),
        ];
        for (bytes, n_tensors, expected) in cases {
            assert_eq!(parse(&bytes, n_tensors).err().as_deref(), Some(expected));
        }
    }
}
