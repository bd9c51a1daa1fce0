//! Files that packing reads: opened without waiting, and known to be the same ones at every read.

use crate::error::{Error, Problem};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What tells whether a file is still the one that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Length.
    pub bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(path: &Path, file: &File) -> Result<Identity, Error> {
        let metadata = file.metadata().map_err(|error| Error::io(path, "cannot look at it", error))?;
        Ok(Identity {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// A file that was looked at. It is opened anew for each read, so that a model of many files needs few descriptors; the
/// identity says that it is still the same one. It is read and not mapped: a mapped file that is cut short ends the
/// program.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it was when it was looked at.
    pub identity: Identity,
}

impl SourceFile {
    /// Looks at the file at `path`.
    ///
    /// # Errors
    /// The system's, or that it is no regular file.
    pub fn look_at(path: &Path) -> Result<SourceFile, Error> {
        let file = open(path)?;
        Ok(SourceFile { path: path.to_path_buf(), identity: Identity::of(path, &file)? })
    }

    /// The first `limit` bytes, or all of a shorter file.
    ///
    /// # Errors
    /// As those of [`SourceFile::read`].
    pub fn start(&self, limit: u64) -> Result<Vec<u8>, Error> {
        let mut start = vec![0; self.identity.bytes.min(limit) as usize];
        self.read(0, &mut start)?;
        Ok(start)
    }

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// The system's, or that the file is no longer the one that was looked at.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let file = open(&self.path)?;
        let unchanged = || match Identity::of(&self.path, &file)? {
            identity if identity == self.identity => Ok(()),
            _ => Err(Error::from(self.changed())),
        };
        unchanged()?;
        let read = file.read_exact_at(out, offset);
        // First whether it changed: that explains a read past the end better than the read's own error.
        unchanged()?;
        read.map_err(|error| Error::io(&self.path, "cannot read", error))
    }

    /// That the file is no longer the one that was looked at.
    pub fn changed(&self) -> Problem {
        Problem::new(&self.path, "changed while being packed").advice("pack again when nothing writes to it")
    }
}

/// Opens a regular file for reading; a FIFO is refused instead of waited for.
///
/// # Errors
/// The system's, or that it is no regular file.
pub fn open(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| Error::io(path, "cannot open", error))?;
    let metadata = file.metadata().map_err(|error| Error::io(path, "cannot look at it", error))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "is a folder" } else { "is not a regular file" };
        return Err(Problem::new(path, found).expected("a file").into());
    }
    Ok(file)
}

/// All bytes of a regular file; `None` when they are more than `limit`, which costs no more than that many.
///
/// # Errors
/// The system's, or that it is no regular file.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = open(path)?;
    let length = file.metadata().map_err(|error| Error::io(path, "cannot look at it", error))?.len();
    if length > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // A file may be longer than it says: it grows, or it is one of /proc.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path, "cannot read", error))?;
    if (bytes.len() as u64) < length {
        return Err(Error::io(path, "cannot read", io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
