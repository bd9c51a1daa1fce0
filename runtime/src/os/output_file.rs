//! A file that a run writes whole or not at all, with the errors of its steps.

use crate::error::Error;
use crate::os::atomic_file::{AtomicFile, FolderSync};
use crate::os::disk::Disk;
use crate::os::place::Place;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file on its way. Dropped before [`OutputFile::publish`], it leaves nothing.
pub struct OutputFile<'d> {
    path: PathBuf,
    name: OsString,
    names: FolderSync<'d>,
    file: AtomicFile<'d>,
}

impl<'d> OutputFile<'d> {
    /// Begins the file that will be at `place`; `path` is for messages, and `program` is part of a temporary name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(
        disk: &'d dyn Disk,
        place: Place,
        path: &Path,
        program: &'static str,
    ) -> Result<OutputFile<'d>, Error> {
        let Place { folder, name, .. } = place;
        let names = FolderSync::open_if_readable(disk, &folder).map_err(Error::io(path, "create"))?;
        let file = AtomicFile::create(disk, &Arc::new(folder), program).map_err(Error::io(path, "create"))?;
        Ok(OutputFile { path: path.to_path_buf(), name, names, file })
    }

    /// Writes after what was appended before.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.append(bytes).map_err(Error::io(&self.path, "write"))
    }

    /// Writes over the beginning.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_beginning(&self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_at(bytes, 0).map_err(Error::io(&self.path, "write"))
    }

    /// Gives the file its name, which must be free without `replace`; content and name are durable afterwards.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(self, replace: bool) -> Result<(), Error> {
        self.file.sync().map_err(Error::io(&self.path, "write"))?;
        self.file.publish(&self.name, replace).map_err(Error::io(&self.path, "create"))?;
        let in_place = "make its name survive a power cut, though it is in place";
        self.names.sync().map_err(Error::io(&self.path, in_place))
    }
}
