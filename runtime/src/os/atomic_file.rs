//! Atomic replacement of files: data goes to an unnamed or temporary file in a folder that is held open, and the file
//! gets its name last. The file appears whole or not at all.
//!
//! Until then the old file is unchanged. No existing inode is written to, so a process that has mapped the old file is
//! not affected.

use crate::os::directory::Folder;
use crate::os::disk::{Disk, uninterrupted, write_all_at};
use crate::os::signals;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Most names that are tried for a temporary file.
const MAX_NAMES: u32 = 1000;

/// A temporary name; removed on drop.
struct Temporary<'d> {
    disk: &'d dyn Disk,
    /// Lets a signal that stops the program remove the name. Dropped before the folder is closed.
    named: signals::Temporary,
    folder: Arc<Folder>,
    /// Empty after the file was renamed.
    name: OsString,
}

impl Temporary<'_> {
    /// Tries random names in `folder` until `make` succeeds. `make` must fail if the name exists, so that it never
    /// opens an existing file or link. Names are random because a signal before `make` removes the name: it must not be
    /// that of another process, which may have the same process id in another container.
    fn make<'d, T>(
        disk: &'d dyn Disk,
        folder: &Arc<Folder>,
        program: &str,
        make: impl Fn(&OsStr) -> io::Result<T>,
    ) -> io::Result<(T, Temporary<'d>)> {
        let mut number = 0;
        loop {
            let random = RandomState::new().hash_one(number);
            let name = OsString::from(format!(".{program}-{random:016x}.tmp"));
            let named = signals::Temporary::new(folder.as_fd(), &name);
            match uninterrupted(|| make(&name)) {
                Ok(made) => {
                    named.park_if_stopping();
                    return Ok((made, Temporary { disk, named, folder: folder.clone(), name }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Renames the file to its final name. If that fails, removes the temporary name.
    fn rename(mut self, to: &OsStr, replace: bool) -> io::Result<()> {
        let renamed = uninterrupted(|| self.disk.rename(&self.folder, &self.name, to, replace));
        if renamed.is_err() {
            self.named.park_if_stopping();
        }
        renamed?;
        self.name.clear();
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // A drop cannot return an error, and an earlier error is already reported.
            let _ = uninterrupted(|| self.disk.remove(&self.folder, &self.name));
        }
    }
}

/// A file without its final name. If dropped before [`Pending::publish`], it is removed.
pub struct Pending<'d> {
    disk: &'d dyn Disk,
    folder: Arc<Folder>,
    program: &'static str,
    file: File,
    temporary: Option<Temporary<'d>>,
}

impl<'d> Pending<'d> {
    /// Creates a file in `folder`: without a name, or with a temporary one that contains `program` if the file system
    /// does not support unnamed files.
    ///
    /// # Errors
    /// Those of the OS.
    pub fn create(disk: &'d dyn Disk, folder: &Arc<Folder>, program: &'static str) -> io::Result<Pending<'d>> {
        let (file, temporary) = match uninterrupted(|| disk.create_unnamed(folder)) {
            Ok(file) => (file, None),
            // A named file would fail in the same way. Other errors may mean that unnamed files are not supported.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull
                ) =>
            {
                return Err(error);
            }
            Err(_) => {
                let create = |name: &OsStr| disk.create_named(folder, name);
                let (file, temporary) = Temporary::make(disk, folder, program, create)?;
                (file, Some(temporary))
            }
        };
        Ok(Pending { disk, folder: folder.clone(), program, file, temporary })
    }

    /// The file, for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// Those of [`Disk::allocate`].
    pub fn allocate(&self, bytes: u64) -> io::Result<()> {
        uninterrupted(|| self.disk.allocate(&self.file, bytes))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Those of the OS.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(self.disk, &self.file, bytes, offset)
    }

    /// Makes everything written so far durable (fsync).
    ///
    /// # Errors
    /// Those of the OS; written data may be lost.
    pub fn sync(&self) -> io::Result<()> {
        uninterrupted(|| self.disk.sync(&self.file))
    }

    /// Gives the file its final name, which must be free unless `replace` is true. A link of that name is replaced, not
    /// followed. The caller must still sync the folder.
    ///
    /// # Errors
    /// Those of the OS; an existing file is then unchanged.
    pub fn publish(self, name: &OsStr, replace: bool) -> io::Result<()> {
        let link = |name: &OsStr| self.disk.link(&self.file, &self.folder, name);
        match self.temporary {
            Some(temporary) => temporary.rename(name, replace),
            // A free name is linked directly, without a temporary name that a crash could leave behind.
            None if replace && self.folder.entry(name)?.is_some() => {
                let ((), temporary) = Temporary::make(self.disk, &self.folder, self.program, link)?;
                temporary.rename(name, true)
            }
            None => uninterrupted(|| link(name)),
        }
    }
}
