//! A model that was written, read as its readers will read it, before it gets its name.
//!
//! Everything but the numbers of the tensors, which would be read twice: their digests were taken of what was written.

use crate::commands::sources::Sections;
use crate::commands::verify;
use crate::encode::buffer::grow;
use crate::error::{Error, shown_path};
use olmo_infer::internals::file::index::Index;
use olmo_infer::internals::format::SectionRecord;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::mapped_bytes::MappedBytes;
use olmo_infer::internals::format::tensors::TensorSpec;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The index of a file, and the bytes before its tensors.
struct Head<'a> {
    path: &'a Path,
    index: Index,
    bytes: Vec<u8>,
}

impl Sections for Head<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn config(&self) -> &ModelConfig {
        &self.index.config
    }

    fn model_specs(&self) -> &[TensorSpec] {
        &self.index.specs[..self.index.n_model_tensors()]
    }

    fn sections(&self) -> &[SectionRecord] {
        &self.index.sections
    }

    fn section_bytes(&self, kind: u32) -> Option<MappedBytes<'_>> {
        let at = self.index.sections.iter().position(|record| record.kind.get() == kind)?;
        let extent = self.index.layout.sections[at];
        // The layout has all sections before the tensors.
        MappedBytes::from(self.bytes.as_slice()).get(extent.offset as usize..extent.end() as usize)
    }
}

/// Refuses a file that readers refuse; `shown` is for messages.
///
/// # Errors
/// [`Error::Unreadable`], or it cannot be read, or there is not enough memory.
pub(crate) fn check(file: &File, shown: &Path) -> Result<(), Error> {
    let unreadable = |problem: String| {
        // Without the name, which is printed once, and the advice, which is for other users of the file.
        let found = problem.strip_prefix(&format!("{}: ", shown_path(shown))).unwrap_or(&problem);
        let found = found.rsplit_once("; ").map_or(found, |(found, _)| found);
        Error::Unreadable { path: shown.to_path_buf(), found: found.into() }
    };
    let failed = |error| Error::io(shown, "cannot read what was written", error);
    let length = file.metadata().map_err(failed)?.len();
    let index = Index::read(shown, file, length).map_err(|error| match error {
        olmo_infer::Error::OutOfMemory { .. } | olmo_infer::Error::Io { .. } => error.into(),
        error => unreadable(error.to_string()),
    })?;
    let mut bytes = Vec::new();
    grow(&mut bytes, index.layout.data_offset as usize, shown)?;
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    match verify::section_errors(&Head { path: shown, index, bytes }).into_iter().next() {
        None => Ok(()),
        Some(Error::Model(error)) => Err(error.into()),
        Some(error) => Err(unreadable(error.to_string())),
    }
}
