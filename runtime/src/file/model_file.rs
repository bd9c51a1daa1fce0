//! The one open model file: its checked index in owned memory, tensor data where [`Mapping`] has it.
//!
//! No value that controls the computation is read from the mapping, and no tensor data is read at open.

use crate::error::Error;
use crate::file::freshness::MappedFile;
use crate::file::index::{Index, checked_section};
use crate::file::mapping::{Load, Loaded, Mapping, Populated};
use crate::file::not_olmo::not_a_file;
use crate::file::parts::{Part, PartKind};
use crate::format::config::ModelConfig;
use crate::format::encodings::bf12::Bf12Table;
use crate::format::layout::Layout;
use crate::format::mapped_bytes::MappedBytes;
use crate::format::matrix::{Matrix, Panels};
use crate::format::sizes::Extent;
use crate::format::tensors::{Role, TensorSpec};
use crate::format::{Dtype, Encoding, Header, SectionRecord, TensorRecord, section};
use crate::os::holes::bytes_in_holes;
use crate::os::memory::Resident;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of holes that the sections of a file may have. No packer leaves any; some tools for copying make some of
/// zeros.
const MAX_SECTION_HOLES: u64 = 1 << 20;

/// An open and checked `.olmo` file.
pub struct ModelFile {
    path: PathBuf,
    index: Index,
    mapping: Mapping,
    /// Where the bytes come from, unless they were copied.
    source: Option<MappedFile>,
}

impl ModelFile {
    /// Opens, checks and maps a file. Reads the header page, the index and the tables of bf12 matrices, and no tensor
    /// data.
    ///
    /// # Errors
    /// Those of [`Index::read`], and [`Error::NotAFile`].
    pub fn open(path: &Path) -> Result<ModelFile, Error> {
        ModelFile::open_with(path, Load::Mmap)
    }

    /// Opens and checks a file, and maps it or reads it into memory: the tensors are there when this returns, or come
    /// when they are touched.
    ///
    /// # Errors
    /// Those of [`ModelFile::open`], [`Error::ModelTooLarge`] when it is to be read into memory, and
    /// [`Error::Changed`] when it changed while it was read.
    pub fn open_with(path: &Path, load: Load) -> Result<ModelFile, Error> {
        // O_NONBLOCK: opening a FIFO must not wait for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|error| match fs::metadata(path) {
            // The error of opening a socket does not name the reason.
            Ok(metadata) if metadata.file_type().is_socket() => not_a_file(path, &metadata),
            _ => Error::io(path, "open")(error),
        })?;
        ModelFile::of(file, path, load)
    }

    /// As [`ModelFile::open_with`] for a file that is open; `path` is for messages.
    ///
    /// # Errors
    /// Those of [`ModelFile::open_with`].
    pub fn of(file: File, path: &Path, load: Load) -> Result<ModelFile, Error> {
        // Before the look at the file: a change after it is no older than this.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let metadata = file.metadata().map_err(Error::io(path, "read its metadata"))?;
        if !metadata.is_file() {
            return Err(not_a_file(path, &metadata));
        }
        let index = Index::read(path, &file, metadata.len())?;
        refuse_holes_in_sections(path, &file, &index)?;
        let mapping = Mapping::new(path, &file, address_space(&index)?, load)?;
        let source = Some(MappedFile::new(path, file, &metadata, now));
        let mut model = ModelFile { path: path.to_path_buf(), index, mapping, source };
        if model.loaded().way == Load::Read {
            // From here on the copy is what counts.
            model.check_unchanged()?;
            model.source = None;
        }
        Ok(model)
    }

    /// Checks the bytes of a file in memory, and copies them to where kernels can use them; `name` is for messages.
    ///
    /// # Errors
    /// As [`ModelFile::open_with`].
    pub fn from_bytes(name: &Path, bytes: &[u8]) -> Result<ModelFile, Error> {
        let index = Index::read(name, bytes, bytes.len() as u64)?;
        let mapping = Mapping::copy_of(name, bytes)?;
        Ok(ModelFile { path: name.to_path_buf(), index, mapping, source: None })
    }

    /// Makes sure that what was read from the mapping so far is the file that was opened. To be called before the last
    /// result is handed out.
    ///
    /// A file whose length or modification time is another was written to. When only its change time is - it was
    /// renamed, replaced by another file of its name, or something hid a write - the digests of all tensors decide,
    /// which takes as long as reading them. They also do when the file was opened within two seconds of a change:
    /// that may not have been complete, and the next one may bear the same time.
    ///
    /// What another process writes through a mapping of its own may move no time, and is then not noticed.
    ///
    /// # Errors
    /// [`Error::Changed`]; [`Error::Damaged`] when a digest is wrong and nothing shows that the file changed.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        let Some(source) = &self.source else { return Ok(()) };
        source.check_unchanged(|| self.first_damaged())
    }

    /// Makes sure that a file that was changed within the last two seconds before it was opened is complete, by the
    /// digests of all tensors. To be called before anything is computed from it: a call that was still writing then may
    /// be done when [`ModelFile::check_unchanged`] looks.
    ///
    /// # Errors
    /// Those of [`ModelFile::check_unchanged`].
    pub fn check_complete(&self) -> Result<(), Error> {
        self.refuse_unfinished()?;
        let Some(source) = &self.source else { return Ok(()) };
        source.check_complete(|| self.first_damaged())
    }

    /// Refuses a file that was changed within the last two seconds before it was opened and whose tensors have holes of
    /// more than 16 MiB: a copy has set its length and not written all of it yet. Its digests would show the same, in a
    /// time that grows with the claimed length. A model that has such holes for good is accepted two seconds later.
    /// Costs a few system calls.
    ///
    /// # Errors
    /// [`Error::Unfinished`].
    pub fn refuse_unfinished(&self) -> Result<(), Error> {
        let Some(source) = &self.source else { return Ok(()) };
        let Layout { data_offset, file_bytes, .. } = self.index.layout;
        source.refuse_unfinished(data_offset..file_bytes)
    }

    /// Whether the file was changed more than two seconds after it was opened, by the clock of this machine, which is
    /// then wrong, or that of the server of the file. The times of such a file do not show whether it is complete, so
    /// that [`ModelFile::check_complete`] and [`ModelFile::check_unchanged`] read all of it each time.
    pub fn is_ahead(&self) -> bool {
        self.source.as_ref().is_some_and(MappedFile::is_ahead)
    }

    /// The first section or tensor whose bytes are not those that its digest was made of. Reads all of them.
    fn first_damaged(&self) -> Option<Error> {
        // The index was checked when it was read.
        let parts = self.index.parts().filter(|part| part.kind != PartKind::Index);
        let mut damaged = parts.filter_map(|Part { kind, extent, seed, digest }| {
            let found = self.range(extent).digest(seed);
            (found != digest).then(|| Error::Damaged {
                path: self.path.clone(),
                place: format!("{}: digest", self.index.part_name(kind)),
                found: format!("{found:016x}"),
                expected: format!("{digest:016x}"),
            })
        });
        damaged.next()
    }

    /// The checked index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether the digest of tensor `index` is that of its bytes.
    pub fn has_digest(&self, index: usize) -> bool {
        self.tensor_bytes(index).digest(index as u64) == self.records()[index].digest.get()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first page.
    pub fn header(&self) -> &Header {
        &self.index.header
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.index.config
    }

    /// The tensors, in the order of the file: those of the model, then the drafts.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.index.specs
    }

    /// The tensors of the model, in the order of the file.
    pub fn model_specs(&self) -> &[TensorSpec] {
        &self.index.specs[..self.index.n_model_tensors()]
    }

    /// How tensor `index` is stored.
    pub fn encoding(&self, index: usize) -> Encoding {
        self.index.encodings[index]
    }

    /// The index entries of [`ModelFile::specs`].
    pub fn records(&self) -> &[TensorRecord] {
        &self.index.records
    }

    /// The index entries of the sections.
    pub fn sections(&self) -> &[SectionRecord] {
        &self.index.sections
    }

    /// Offsets and lengths in the file.
    pub fn layout(&self) -> &Layout {
        &self.index.layout
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> MappedBytes<'_> {
        self.mapping.bytes()
    }

    /// How they came into memory, and why so.
    pub fn loaded(&self) -> &Loaded {
        self.mapping.loaded()
    }

    /// How much of the file is in memory now, see [`Mapping::resident`].
    pub fn resident(&self) -> Option<Resident> {
        self.mapping.resident()
    }

    /// The bytes of tensor `index`, in place.
    pub fn tensor_bytes(&self, index: usize) -> MappedBytes<'_> {
        self.range(self.index.layout.tensors[index])
    }

    /// Bytes of the drafts, which are at the end of the file.
    pub fn draft_bytes(&self) -> u64 {
        let first = self.index.layout.tensors.get(self.index.n_model_tensors());
        first.map_or(0, |draft| self.index.layout.file_bytes - draft.offset)
    }

    /// The table of tensor `index`; `None` unless it is bf12.
    pub fn bf12_table(&self, index: usize) -> Option<&Bf12Table> {
        self.index.bf12_tables[index].as_ref()
    }

    /// Type of the elements of the model's matrices, of those that can have several; `None` when they do.
    pub fn matrices(&self) -> Option<Dtype> {
        let matrices = (0..self.model_specs().len()).filter(|&index| self.specs()[index].has_choice());
        let mut types = matrices.map(|index| self.encoding(index).dtype());
        let first = types.next()?;
        types.all(|dtype| dtype == first).then_some(first)
    }

    /// Whether a tensor of the model is bf12.
    pub fn has_bf12(&self) -> bool {
        self.model_specs().iter().zip(&self.index.bf12_tables).any(|(_, table)| table.is_some())
    }

    /// Whether a matrix of the model is int8 or int4.
    pub fn has_quantized(&self) -> bool {
        (0..self.model_specs().len()).any(|index| self.encoding(index).dtype().is_quantized())
    }

    /// Tensor `index` as a matrix, in place; `None` for a vector.
    pub fn matrix(&self, index: usize) -> Option<Matrix<'_>> {
        let encoding = self.encoding(index);
        let shape = self.specs()[index].panel_shape(encoding.dtype())?;
        let panels = Panels::new(encoding, &shape, self.tensor_bytes(index), self.bf12_table(index));
        Some(Matrix { shape, panels, min_magnitude: self.records()[index].min_magnitude.get() })
    }

    /// The bytes of a section, in place; `None` when the file has no such section.
    pub fn section_bytes(&self, kind: u32) -> Option<MappedBytes<'_>> {
        let index = self.index.sections.iter().position(|record| record.kind.get() == kind)?;
        Some(self.range(self.index.layout.sections[index]))
    }

    /// A copy of the bytes of a section, the digest of which is right; `None` when the file has no such section.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the digest is wrong, and [`Error::OutOfMemory`].
    pub fn checked_section(&self, kind: u32) -> Result<Option<Vec<u8>>, Error> {
        let record = self.sections().iter().find(|record| record.kind.get() == kind);
        let (Some(record), Some(bytes)) = (record, self.section_bytes(kind)) else { return Ok(None) };
        checked_section(&self.path, record, bytes).map(Some)
    }

    fn range(&self, extent: Extent) -> MappedBytes<'_> {
        // The layout ends at the length of the file, which is a usize.
        self.bytes()
            .get(extent.offset as usize..extent.end() as usize)
            .expect("the layout ends at the length of the file")
    }

    /// Pages the tensors into this process in the order of use, so that the computation finds them mapped. Meant for a
    /// thread that runs during the first pass; `stop` ends it early.
    ///
    /// The embedding is left out when the head does not share it: a run reads a few of its rows. Experts, and drafts,
    /// come if they are asked for.
    ///
    /// # Errors
    /// [`Error::Io`] when the file was truncated or cannot be read: the kernel returns an error instead of raising
    /// SIGBUS.
    pub fn populate(&self, which: Which, stop: &(dyn Fn() -> bool + Sync)) -> Result<Populated, Error> {
        let is_wanted = |index: &usize| {
            let spec = &self.index.specs[*index];
            let is_row_source = spec.role == Role::EmbedTokens && !self.index.config.tie_word_embeddings;
            !is_row_source
                && (which.drafts || !spec.is_draft)
                && (which.experts || spec.is_draft || spec.expert.is_none())
        };
        let mut done = Populated { bytes: 0, complete: true };
        let mut wanted = (0..self.index.specs.len()).filter(is_wanted).peekable();
        while let Some(first) = wanted.next() {
            let mut last = first;
            while let Some(next) = wanted.next_if(|&next| next == last + 1) {
                last = next;
            }
            // With the padding up to the next tensor.
            let tensors = &self.index.layout.tensors;
            let end = tensors.get(last + 1).map_or(self.index.layout.file_bytes, |next| next.offset);
            let populated = self.mapping.populate(&self.path, tensors[first].offset as usize..end as usize, stop)?;
            done.bytes += populated.bytes;
            done.complete &= populated.complete;
            if !populated.complete {
                break;
            }
        }
        Ok(done)
    }

    /// Pages an expert into this process. One that cannot be brought in is read by the computation, which ends there
    /// if the file became shorter.
    ///
    /// # Panics
    /// When there is no such expert.
    pub fn populate_expert(&self, layer: usize, expert: usize) {
        // Those of a layer are the last ones in it, the three of an expert together; all layers have the same number.
        let n_layers = self.index.config.n_layers();
        let first = self.index.specs.iter().position(|spec| spec.layer == Some(0)).expect("a layer");
        let in_layer = self.index.specs[first..].iter().take_while(|spec| spec.layer == Some(0)).count();
        let n_experts = self.index.config.experts.map_or(0, |experts| experts.n_experts);
        assert!(layer < n_layers && expert < n_experts, "an expert of the model");
        let gate = first + (layer + 1) * in_layer - Role::EXPERT.len() * (n_experts - expert);
        let tensors = &self.index.layout.tensors;
        let range = tensors[gate].offset as usize..tensors[gate + Role::EXPERT.len() - 1].end() as usize;
        self.mapping.populate_at_once(range);
    }
}

/// Which tensors [`ModelFile::populate`] pages in besides those that every token needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Drafts.
    pub drafts: bool,
    /// Experts, of which a token needs some.
    pub experts: bool,
}

impl Which {
    /// All of them.
    pub const ALL: Which = Which { drafts: true, experts: true };
}

/// Refuses a file whose sections have holes. The time for their digests and the size of their texts would grow with the
/// claimed length. `BF12` is left out: opening a file reads and checks all of it.
fn refuse_holes_in_sections(path: &Path, file: &File, index: &Index) -> Result<(), Error> {
    let sections = index.sections.iter().zip(&index.layout.sections);
    let mut sections = sections.filter(|(record, _)| record.kind.get() != section::BF12);
    let with_holes = sections
        .find(|(_, extent)| bytes_in_holes(file, extent.offset..extent.end(), MAX_SECTION_HOLES) > MAX_SECTION_HOLES);
    match with_holes {
        None => Ok(()),
        Some((record, _)) => Err(Error::Damaged {
            path: path.to_path_buf(),
            place: format!("section {}", section::name(record.kind.get())),
            found: "a hole that was never written".into(),
            expected: "its bytes".into(),
        }),
    }
}

/// The length of a file, which is that of its mapping.
fn address_space(index: &Index) -> Result<usize, Error> {
    let bytes = index.layout.file_bytes;
    usize::try_from(bytes).map_err(|_| Error::AddressSpace { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn open_errors_name_kind_of_irregular_file() {
        // A socket's path has at most 107 bytes, which those of other folders for temporary files may exceed.
        let folder = tempfile::tempdir_in("/tmp").expect("a folder");
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let copy = "a model is mapped: copy it into a file first";
        for (path, found, advice) in [
            (socket.as_path(), "a socket", copy),
            (Path::new("/dev/null"), "a device", copy),
            (folder.path(), "a folder", "pack a weights folder first: olmo-pack weights/ model.olmo"),
        ] {
            let error = ModelFile::open(path).err().expect(found).to_string();
            assert_eq!(error, format!("{}: is {found}, expected a regular file; {advice}", path.display()));
        }
        fs::remove_file(&socket).expect("removed");
        let error = ModelFile::open(&socket).err().expect("no file").to_string();
        assert_eq!(error, format!("{}: cannot open: No such file or directory", socket.display()));
    }
}
