//! A file that appears whole or not at all: written without a name, or with a temporary one, in a folder that is held
//! open; named last.
//!
//! Until then the old file is untouched. Its inode is never written to, so a process that has mapped it is not
//! disturbed.

use crate::os::directory::Folder;
use crate::os::disk::{Disk, write_all_at};
use crate::os::retry::uninterrupted;
use crate::os::temporary_names;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// How many names are tried for a temporary file.
const MAX_NAMES: u32 = 1000;

/// A temporary name of a file, removed when the value is dropped.
struct Temporary<'d> {
    disk: &'d dyn Disk,
    /// Lets a signal that stops the program remove it. Dropped before the folder is closed.
    named: temporary_names::Temporary,
    folder: Arc<Folder>,
    /// Empty when the name is gone.
    name: OsString,
}

impl Temporary<'_> {
    /// Tries names in `folder` until `make` finds a free one. `make` must refuse a name that exists, and thus never
    /// meets a file or a link of another user. Names are random: a signal that comes before the file exists cannot
    /// remove the file of another process, even one with the same process id in another container.
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
            let named = temporary_names::Temporary::new(folder.as_fd(), &name);
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

    /// Renames the file to its own name. The temporary name is removed in any case.
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
            // An earlier error is the one to report.
            let _ = uninterrupted(|| self.disk.remove(&self.folder, &self.name));
        }
    }
}

/// A file without its name. Dropped before [`AtomicFile::publish`], it leaves nothing.
pub struct AtomicFile<'d> {
    disk: &'d dyn Disk,
    folder: Arc<Folder>,
    program: &'static str,
    file: File,
    temporary: Option<Temporary<'d>>,
    /// Bytes that were appended.
    bytes: u64,
}

impl<'d> AtomicFile<'d> {
    /// Opens a new file in `folder`: without a name, or where the OS has no such files with a temporary name that
    /// contains `program`.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn create(disk: &'d dyn Disk, folder: &Arc<Folder>, program: &'static str) -> io::Result<AtomicFile<'d>> {
        let (file, temporary) = match uninterrupted(|| disk.create_unnamed(folder)) {
            Ok(file) => (file, None),
            // A named file would meet these too. Anything else may mean that there are no unnamed files here.
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
        Ok(AtomicFile { disk, folder: folder.clone(), program, file, temporary, bytes: 0 })
    }

    /// Removes the temporary name, if there is one: the file is gone when its last handle is, even where the program is
    /// killed. It can get no name any more.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn unname(&mut self) -> io::Result<()> {
        if let Some(temporary) = &mut self.temporary {
            uninterrupted(|| self.disk.remove(&self.folder, &temporary.name))?;
            temporary.name.clear();
        }
        Ok(())
    }

    /// The file, for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// The OS returns an error, also when it cannot reserve.
    pub fn allocate(&self, bytes: u64) -> io::Result<()> {
        uninterrupted(|| self.disk.allocate(&self.file, bytes))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(self.disk, &self.file, bytes, offset)
    }

    /// Writes all of `bytes` after those that were appended before.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes the content durable: fsync.
    ///
    /// # Errors
    /// The OS returns an error; parts of the content may be lost.
    pub fn sync(&self) -> io::Result<()> {
        uninterrupted(|| self.disk.sync(&self.file))
    }

    /// Gives the file its name, which must be free without `replace`. A link is replaced, not followed. The name is
    /// durable only after [`FolderSync::sync`].
    ///
    /// # Errors
    /// The OS returns an error; the old file is then still there.
    pub fn publish(self, name: &OsStr, replace: bool) -> io::Result<()> {
        let link = |name: &OsStr| self.disk.link(&self.file, &self.folder, name);
        match self.temporary {
            Some(temporary) => temporary.rename(name, replace),
            // Where nothing is replaced there is never a second name that could be left behind.
            None if replace && self.folder.entry(name)?.is_some() => {
                let ((), temporary) = Temporary::make(self.disk, &self.folder, self.program, link)?;
                temporary.rename(name, true)
            }
            None => uninterrupted(|| link(name)),
        }
    }
}

/// A folder that is open for fsync of its names. It is opened before a file gets its name: an error afterwards would be
/// too late.
pub struct FolderSync<'d> {
    disk: &'d dyn Disk,
    folder: Option<File>,
}

impl<'d> FolderSync<'d> {
    /// Opens `folder`.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn open(disk: &'d dyn Disk, folder: &Folder) -> io::Result<FolderSync<'d>> {
        let folder = uninterrupted(|| disk.open_folder(folder))?;
        Ok(FolderSync { disk, folder: Some(folder) })
    }

    /// Opens `folder`, or does nothing where it may be written to but not read.
    ///
    /// # Errors
    /// The OS returns another error.
    pub fn open_if_readable(disk: &'d dyn Disk, folder: &Folder) -> io::Result<FolderSync<'d>> {
        match FolderSync::open(disk, folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(FolderSync { disk, folder: None }),
            opened => opened,
        }
    }

    /// Makes the names durable.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn sync(&self) -> io::Result<()> {
        self.folder.as_ref().map_or(Ok(()), |folder| uninterrupted(|| self.disk.sync_folder(folder)))
    }
}
