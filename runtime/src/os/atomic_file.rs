//! The way of a file to its name: an unnamed or temporary file in a folder that is held open, and the name last. The
//! file appears whole or not at all.
//!
//! Until the name is there nothing of the new file can be taken for it, and the old file is untouched; an existing
//! inode is never written to, so a process that has the old file mapped goes on undisturbed.

use crate::os::directory::Folder;
use crate::os::disk::{Disk, uninterrupted, write_all_at};
use crate::os::signals;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// How many names are tried for a temporary file.
const MAX_NAMES: u32 = 1000;

/// A name that a file has before its own; it goes when the value does.
struct Temporary<'d> {
    disk: &'d dyn Disk,
    /// Lets a signal that stops the program remove it. Goes before the folder is closed.
    named: signals::Temporary,
    folder: Arc<Folder>,
    /// Empty when the name is gone.
    name: OsString,
}

impl Temporary<'_> {
    /// Tries names in `folder` until `make` finds one free; it must refuse one that is taken, and thus never meets a
    /// file or a link that someone put there. Nor does a signal that comes before the file is there remove the one of
    /// another process, in a container with the same process ids say: names are drawn by lot.
    fn make<'d, T>(
        disk: &'d dyn Disk,
        folder: &Arc<Folder>,
        program: &str,
        make: impl Fn(&OsStr) -> io::Result<T>,
    ) -> io::Result<(T, Temporary<'d>)> {
        let mut number = 0;
        loop {
            let lot = RandomState::new().hash_one(number);
            let name = OsString::from(format!(".{program}-{lot:016x}.tmp"));
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

    /// Renames the file to its own name. The temporary one goes in any case.
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
            // Nobody is left to tell; an error before this one is the one to report.
            let _ = uninterrupted(|| self.disk.remove(&self.folder, &self.name));
        }
    }
}

/// A file without its name. Dropped before [`Pending::publish`], it leaves nothing behind.
pub struct Pending<'d> {
    disk: &'d dyn Disk,
    folder: Arc<Folder>,
    program: &'static str,
    file: File,
    temporary: Option<Temporary<'d>>,
}

impl<'d> Pending<'d> {
    /// Opens a new file in `folder`: without a name, or where the system knows no such files with a temporary one, in
    /// which `program` shows.
    ///
    /// # Errors
    /// The system's.
    pub fn create(disk: &'d dyn Disk, folder: &Arc<Folder>, program: &'static str) -> io::Result<Pending<'d>> {
        let (file, temporary) = match uninterrupted(|| disk.create_unnamed(folder)) {
            Ok(file) => (file, None),
            // These a named file would meet too. Anything else may only say that unnamed ones are not known here.
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

    /// The file, to be read back.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// The system's, also when it cannot reserve.
    pub fn allocate(&self, bytes: u64) -> io::Result<()> {
        uninterrupted(|| self.disk.allocate(&self.file, bytes))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(self.disk, &self.file, bytes, offset)
    }

    /// Brings everything written so far to the disk.
    ///
    /// # Errors
    /// The system's; something that was written may be lost.
    pub fn sync(&self) -> io::Result<()> {
        uninterrupted(|| self.disk.sync(&self.file))
    }

    /// Gives the file its name, which must be free unless `replace` says otherwise. A link there is replaced, not
    /// followed. The folder has still to be brought to the disk.
    ///
    /// # Errors
    /// The system's; what was there is then still there.
    pub fn publish(self, name: &OsStr, replace: bool) -> io::Result<()> {
        let link = |name: &OsStr| self.disk.link(&self.file, &self.folder, name);
        match self.temporary {
            Some(temporary) => temporary.rename(name, replace),
            // Where nothing is to be replaced there is never a second name that could be left behind.
            None if replace && self.folder.entry(name)?.is_some() => {
                let ((), temporary) = Temporary::make(self.disk, &self.folder, self.program, link)?;
                temporary.rename(name, true)
            }
            None => uninterrupted(|| link(name)),
        }
    }
}
