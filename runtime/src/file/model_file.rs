//! The one open model file: its checked index in owned memory, tensor data where [`Mapping`] has it.
//!
//! Nothing that steers the computation is read from the mapping, and no tensor data is read at open.

use crate::error::Error;
use crate::file::index::{Index, checked_section};
use crate::file::mapping::{Load, Loaded, Mapping, Populated};
use crate::format::config::ModelConfig;
use crate::format::encodings::bf12::Bf12Table;
use crate::format::layout::Layout;
use crate::format::mapped_bytes::MappedBytes;
use crate::format::matrix::{Matrix, Panels};
use crate::format::sizes::Extent;
use crate::format::tensors::TensorSpec;
use crate::format::{self, Dtype, Encoding, Header, SectionRecord, TensorRecord, section};
use crate::os::holes::bytes_in_holes;
use crate::os::memory::Resident;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A change that is older than this when the file is opened is complete. It is more than a tick of the clocks by which
/// file systems note changes (1 to 10 ms, whole or even seconds on some), and leaves time to a call that writes many
/// megabytes on a busy machine: it bears the time of its beginning.
const COMPLETE_AFTER: Duration = Duration::from_secs(2);

/// Bytes of holes that the sections of a file may have. No packer leaves any; some tools for copying make some of
/// zeros.
const MAX_SECTION_HOLES: u64 = 1 << 20;
/// Bytes of holes for which a file that was just changed is still read.
const MAX_FRESH_HOLES: u64 = 16 << 20;

/// An open and checked `.olmo` file.
pub struct ModelFile {
    path: PathBuf,
    index: Index,
    mapping: Mapping,
    /// Where the bytes come from, unless they were copied.
    source: Option<Source>,
}

/// The file behind a mapping.
struct Source {
    file: File,
    opened: State,
    /// Whether it was changed in the future, by the clock of this machine.
    is_ahead: bool,
    /// The last state in which its bytes are known to be those that were opened.
    good: Mutex<Option<State>>,
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
            // Which the system refuses to open, in words that do not say so.
            Ok(metadata) if metadata.file_type().is_socket() => not_a_file(path, &metadata),
            _ => Error::io(path, "open")(error),
        })?;
        // Before the look at the file: a change after it is no older than this.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let metadata = file.metadata().map_err(Error::io(path, "read its metadata"))?;
        if !metadata.is_file() {
            return Err(not_a_file(path, &metadata));
        }
        let index = Index::read(path, &file, metadata.len())?;
        refuse_holes_in_sections(path, &file, &index)?;
        let mapping = Mapping::new(path, &file, address_space(&index)?, load)?;
        let opened = State::of(&metadata);
        // One that was changed within the last moments is not known to be good: its next change may bear the same time.
        let good = Mutex::new((!opened.is_fresh(now)).then_some(opened));
        let source = Some(Source { file, opened, is_ahead: opened.is_ahead(now), good });
        let mut model = ModelFile { path: path.to_path_buf(), index, mapping, source };
        if model.loaded().way == Load::Read {
            // From here on the copy is what counts.
            model.check_unchanged()?;
            model.source = None;
        }
        Ok(model)
    }

    /// Checks the bytes of a file that lies in memory, and copies them to where kernels can use them; `name` is for
    /// messages.
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
    /// [`Error::Changed`]; [`Error::Damaged`] when a digest is wrong and nothing says that this was not always so.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        let Some(source) = &self.source else { return Ok(()) };
        let good = self.compared(source)?;
        // Nobody panics while holding this lock.
        *source.good.lock().expect("not poisoned") = Some(good);
        Ok(())
    }

    /// The state of the file now, when that is still the one that was opened.
    fn compared(&self, source: &Source) -> Result<State, Error> {
        let metadata = source.file.metadata().map_err(Error::io(&self.path, "read its metadata"))?;
        let now = State::of(&metadata);
        let changed = || Err(Error::Changed { path: self.path.clone() });
        if now.written != source.opened.written {
            return changed();
        }
        if *source.good.lock().expect("not poisoned") == Some(now) {
            return Ok(now);
        }
        match self.first_damaged() {
            None => Ok(now),
            // Not a trace of a change: it may have been so when it was opened.
            Some(damage) if now == source.opened => Err(damage),
            Some(_) => changed(),
        }
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
        let is_good = source.good.lock().expect("not poisoned").is_some();
        // What is found is not kept: the next look must be a new one.
        if is_good { Ok(()) } else { self.compared(source).map(|_| ()) }
    }

    /// Refuses a file that was changed within the last two seconds before it was opened and whose tensors have holes of
    /// more than 16 MiB: it is one of which a copy has set the length and not written all yet, and its digests, which
    /// would be computed for as long as it claims to be, would say the same. A model that has such holes for good is
    /// taken two seconds later. Costs a few calls of the system.
    ///
    /// # Errors
    /// [`Error::Unfinished`].
    pub fn refuse_unfinished(&self) -> Result<(), Error> {
        let Some(source) = &self.source else { return Ok(()) };
        // By a clock that is behind a file would be a new one for ever.
        if source.is_ahead || source.good.lock().expect("not poisoned").is_some() {
            return Ok(());
        }
        let Layout { data_offset, file_bytes, .. } = self.index.layout;
        match bytes_in_holes(&source.file, data_offset..file_bytes, MAX_FRESH_HOLES) > MAX_FRESH_HOLES {
            true => Err(Error::Unfinished { path: self.path.clone() }),
            false => Ok(()),
        }
    }

    /// Whether the file was changed more than two seconds after it was opened, by the clock of this machine, which is
    /// then wrong, or that of the server of the file. Whether such a file is complete its times cannot tell, so that
    /// [`ModelFile::check_complete`] and [`ModelFile::check_unchanged`] read all of it each time.
    pub fn is_ahead(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_ahead)
    }

    /// The first section or tensor whose bytes are not those that its digest was made of. Reads all of them.
    fn first_damaged(&self) -> Option<Error> {
        let sections = self.sections().iter().zip(&self.index.layout.sections);
        let sections = sections.map(|(record, &extent)| {
            let kind = record.kind.get();
            (
                format!("section {}", format::section::name(kind)),
                self.range(extent),
                u64::from(kind),
                record.digest.get(),
            )
        });
        let tensors = self.records().iter().zip(self.specs()).enumerate();
        let tensors = tensors
            .map(|(index, (record, spec))| (spec.name(), self.tensor_bytes(index), index as u64, record.digest.get()));
        let mut damaged = sections.chain(tensors).filter_map(|(name, bytes, seed, expected)| {
            let found = bytes.digest(seed);
            (found != expected).then(|| Error::Damaged {
                path: self.path.clone(),
                place: format!("{name}: digest"),
                found: format!("{found:016x}"),
                expected: format!("{expected:016x}"),
            })
        });
        damaged.next()
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

    /// Where everything lies.
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

    /// The table of tensor `index`; `None` unless it is bf12.
    pub fn bf12_table(&self, index: usize) -> Option<&Bf12Table> {
        self.index.bf12_tables[index].as_ref()
    }

    /// Type of the elements of the model's matrices; `None` when they have several.
    pub fn matrices(&self) -> Option<Dtype> {
        let matrices = (0..self.model_specs().len()).filter(|&index| self.specs()[index].columns.is_some());
        let mut types = matrices.map(|index| self.encoding(index).dtype());
        let first = types.next()?;
        types.all(|dtype| dtype == first).then_some(first)
    }

    /// Whether a tensor of the model is bf12.
    pub fn has_bf12(&self) -> bool {
        self.model_specs().iter().zip(&self.index.bf12_tables).any(|(_, table)| table.is_some())
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
        self.bytes().get(extent.offset as usize..extent.end() as usize).expect("the layout lies in the file")
    }

    /// Brings the tensors into this process in the order of use, so that the computation finds them mapped. Meant for a
    /// thread beside the first pass; `stop` ends it early.
    ///
    /// The embedding is left out when the head does not share it: a run reads a few of its rows.
    ///
    /// # Errors
    /// [`Error::Io`] when the file was truncated or cannot be read: the kernel says so here instead of with SIGBUS.
    pub fn populate(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<Populated, Error> {
        let first = match self.index.layout.tensors.get(1) {
            Some(first_layer) if !self.index.config.tie_word_embeddings => first_layer.offset,
            _ => self.index.layout.data_offset,
        };
        self.mapping.populate(&self.path, first as usize, stop)
    }
}

/// Refuses a file whose sections were not written. Their digests would be computed, and their texts be taken for as
/// long as they claim to be. Those of the codes are read when the file is opened, whatever they are.
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
            found: "a hole that nobody has written".into(),
            expected: "its bytes".into(),
        }),
    }
}

/// The error for something else than a regular file.
fn not_a_file(path: &Path, metadata: &Metadata) -> Error {
    let (found, advice) = kind_of(metadata);
    Error::NotAFile { path: path.to_path_buf(), found, advice }
}

/// A kind of file for an error line, and what to do about it.
fn kind_of(metadata: &Metadata) -> (&'static str, &'static str) {
    let kind = metadata.file_type();
    const COPY: &str = "a model is mapped: copy it into a file first";
    match () {
        _ if kind.is_dir() => ("a folder", "pack a weights folder first: olmo-pack weights/ model.olmo"),
        _ if kind.is_fifo() => ("a pipe", COPY),
        _ if kind.is_socket() => ("a socket", COPY),
        // Of characters or of blocks: Unix knows no other kinds.
        _ => ("a device", COPY),
    }
}

/// The length of a file, which is that of its mapping.
fn address_space(index: &Index) -> Result<usize, Error> {
    let bytes = index.layout.file_bytes;
    usize::try_from(bytes).map_err(|_| Error::AddressSpace { bytes })
}

/// What tells that a file was changed.
#[derive(Clone, Copy, PartialEq)]
struct State {
    written: Written,
    /// Seconds and nanoseconds of the last change of the file or of what the system keeps about it, its names among
    /// them. No call sets it to a time of one's choice.
    changed: (i64, i64),
}

/// What writing to a file changes.
#[derive(Clone, Copy, PartialEq)]
struct Written {
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> State {
        let written = Written { bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) };
        State { written, changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    /// Whether the last change before `now` is so recent that it may not be complete, or that another one could bear
    /// the same time. One in the future, by another clock, is.
    fn is_fresh(&self, now: Duration) -> bool {
        now < self.changed_at() + COMPLETE_AFTER
    }

    /// Whether the last change lies further ahead of `now` than clocks of one machine are apart.
    fn is_ahead(&self, now: Duration) -> bool {
        now + COMPLETE_AFTER < self.changed_at()
    }

    /// Since 1970.
    fn changed_at(&self) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_change_is_fresh_for_two_seconds_and_ahead_of_a_clock_that_is_behind() {
        let state = State { written: Written { bytes: 1, modified: (0, 0) }, changed: (1000, 500) };
        for (milliseconds, is_fresh, is_ahead) in [
            (0, true, true),
            (997_999, true, true),
            (998_001, true, false),
            (1_001_999, true, false),
            (1_002_001, false, false),
            (2_000_000, false, false),
        ] {
            let now = Duration::from_millis(milliseconds);
            assert_eq!((state.is_fresh(now), state.is_ahead(now)), (is_fresh, is_ahead), "{milliseconds}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_its_kind() {
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
