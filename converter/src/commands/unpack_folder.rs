//! The folder that a model is unpacked into, and its files.

use crate::error::{Error, Problem};
use crate::write::model_output::PROGRAM;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::os::atomic_file::{AtomicFile, FolderSync};
use olmo_infer::internals::os::directory::Folder;
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::made_folders::MadeFolders;
use olmo_infer::internals::os::place::FolderError;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder that is unpacked into.
pub struct UnpackFolder<'d> {
    /// The folder.
    pub folder: Arc<Folder>,
    /// As the user gave it.
    shown: PathBuf,
    names: FolderSync<'d>,
    /// Those folders that were made: they are removed when nothing is written.
    made: MadeFolders<'d>,
    replace: bool,
    disk: &'d dyn Disk,
}

impl<'d> UnpackFolder<'d> {
    /// Makes the folder, or refuses one that has something in it; `force` takes one that has, and lets files be
    /// replaced.
    ///
    /// # Errors
    /// It is not a folder, is not empty, or cannot be made or read.
    pub fn prepare(disk: &'d dyn Disk, folder: &Path, force: bool) -> Result<UnpackFolder<'d>, Error> {
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
        Ok(UnpackFolder { folder: Arc::new(into), shown: folder.into(), names, made, replace: force, disk })
    }

    /// Rejects a name that is that of the model itself, or of anything but a file.
    ///
    /// # Errors
    /// It is, or its metadata cannot be read.
    pub fn refuse_to_replace(&self, name: &str, model: &ModelFile) -> Result<(), Error> {
        let path = self.folder.path().join(name);
        let entry = self.folder.entry(OsStr::new(name));
        let entry = entry.map_err(|source| Error::io(&path, "cannot read its metadata", source))?;
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

    /// Bytes of the file of this name that is there.
    pub fn replaced_bytes(&self, name: &str) -> u64 {
        self.folder.entry(OsStr::new(name)).ok().flatten().map_or(0, |entry| entry.bytes)
    }

    /// Begins a file.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn create(&self, name: &str) -> Result<UnpackedFile<'_>, Error> {
        let path = self.shown.join(name);
        match AtomicFile::create(self.disk, &self.folder, PROGRAM) {
            Ok(file) => Ok(UnpackedFile { file, path, name: name.into(), replace: self.replace }),
            Err(source) => Err(Error::io(path, "cannot create", source)),
        }
    }

    /// Makes the names of the files durable.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn sync(&self) -> Result<(), Error> {
        self.names.sync().map_err(|source| Error::io(&self.shown, "cannot write", source))
    }

    /// Keeps the folders that were made.
    pub fn keep(self) {
        self.made.keep();
    }
}

/// A file of the folder. Dropped before it is kept, it leaves nothing.
pub struct UnpackedFile<'d> {
    file: AtomicFile<'d>,
    /// For messages.
    pub path: PathBuf,
    name: String,
    replace: bool,
}

impl UnpackedFile<'_> {
    /// Writes `bytes` after those that were appended before.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.append(bytes).map_err(|source| Error::io(&self.path, "cannot write", source))
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_at(bytes, offset).map_err(|source| Error::io(&self.path, "cannot write", source))
    }

    /// Waits until the content is durable and gives the file its name.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn keep(self) -> Result<(), Error> {
        self.file.sync().map_err(|source| Error::io(&self.path, "cannot write", source))?;
        let published = self.file.publish(OsStr::new(&self.name), self.replace);
        published.map_err(|source| Error::io(&self.path, "cannot put it in place", source))
    }
}
