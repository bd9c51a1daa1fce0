//! A folder that is held open: another folder that gets its path later has no effect.

use crate::os::retry::uninterrupted;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most folders above another: a path has 4096 bytes.
const MAX_DEPTH: usize = 4096;

/// Opens a file or folder without its content, for which a folder need not be readable.
#[cfg(target_os = "linux")]
pub(super) const PLACE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
pub(super) const PLACE: OFlags = OFlags::empty();

/// The folder of a path; that of a bare name is ".".
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// The entry of a folder.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// A regular file.
    pub is_file: bool,
    /// A symbolic link.
    pub is_link: bool,
    /// A folder.
    pub is_folder: bool,
    /// Device and inode.
    pub inode: (u64, u64),
    /// Length in bytes.
    pub bytes: u64,
}

impl Entry {
    #[allow(clippy::unnecessary_cast, reason = "systems differ in the types of these numbers")]
    pub(super) fn new(stat: &Stat) -> Entry {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Entry {
            is_file: kind == FileType::RegularFile,
            is_link: kind == FileType::Symlink,
            is_folder: kind == FileType::Directory,
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            bytes: stat.st_size as u64,
        }
    }
}

/// A folder that is held open.
#[derive(Debug)]
pub struct Folder {
    pub(super) descriptor: OwnedFd,
    pub(super) path: PathBuf,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Folder {
    /// Its path when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry of a name, links not followed; `None` when there is none.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn entry(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        let stat = uninterrupted(|| Ok(rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?));
        match stat {
            Ok(stat) => Ok(Some(Entry::new(&stat))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes that the user may still write to its file system.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = uninterrupted(|| Ok(rustix::fs::fstatvfs(self)?))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether it has no entries.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_empty(&self) -> io::Result<bool> {
        listed(self.open(".", OFlags::DIRECTORY)?)?.next().transpose().map(|first| first.is_none())
    }

    /// Whether it is the folder with this device and inode, or inside it.
    ///
    /// # Errors
    /// The OS returns an error; the folders above it may not be searchable.
    pub fn is_inside(&self, inode: (u64, u64)) -> io::Result<bool> {
        let mut own = Entry::new(&stat(self)?).inode;
        let mut above = self.open("..", PLACE | OFlags::DIRECTORY)?;
        for _ in 0..MAX_DEPTH {
            let next = Entry::new(&stat(&above)?).inode;
            // Only the root is above itself.
            if own == inode || own == next {
                return Ok(own == inode);
            }
            own = next;
            above = open_at(&above, OsStr::new(".."), PLACE | OFlags::DIRECTORY)?;
        }
        Ok(false)
    }

    /// Opens the file of this name for appending and reading, or creates it; a link is not followed.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn open_to_append(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(open_at(self, name, flags)?.into())
    }

    /// Opens a name in it.
    pub(crate) fn open(&self, name: impl AsRef<OsStr>, flags: OFlags) -> io::Result<OwnedFd> {
        open_at(self, name.as_ref(), flags)
    }
}

/// The names in the folder at `path`, in no order. Unlike `std::fs::read_dir`, this does not panic where the OS fails
/// to close the folder.
///
/// # Errors
/// It cannot be opened or, each time, not be read on.
pub fn names(path: &Path) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
    listed(open_at(CWD, path.as_os_str(), OFlags::DIRECTORY)?)
}

fn listed(folder: OwnedFd) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
    let name = |entry: rustix::io::Result<rustix::fs::DirEntry>| match entry {
        Ok(entry) => match entry.file_name().to_bytes() {
            b"." | b".." => None,
            name => Some(Ok(OsStr::from_bytes(name).to_os_string())),
        },
        Err(error) => Some(Err(error.into())),
    };
    Ok(Dir::new(folder)?.filter_map(name))
}

pub(super) fn open_at(folder: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let folder = folder.as_fd();
    uninterrupted(|| Ok(rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))?))
}

pub(super) fn stat(file: impl AsFd) -> io::Result<Stat> {
    let file = file.as_fd();
    uninterrupted(|| Ok(rustix::fs::fstat(file)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::disk::SystemDisk;
    use std::fs;

    #[test]
    fn folder_of_path_is_where_the_file_is() {
        for (path, folder) in [("m", "."), ("./m", "."), ("a/m", "a"), ("../m", ".."), ("/m", "/"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    #[test]
    fn folder_is_empty_without_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let (opened, _) = Folder::make(&SystemDisk, folder.path()).expect("there");
        assert!(opened.is_empty().expect("read"));
        fs::write(folder.path().join(".hidden"), "").expect("written");
        assert!(!opened.is_empty().expect("read"));
        let found: Vec<OsString> = names(folder.path()).expect("opened").map(|name| name.expect("read")).collect();
        assert_eq!(found, [".hidden"]);
        assert!(names(&folder.path().join("absent")).is_err() && names(&folder.path().join(".hidden")).is_err());
    }

    #[test]
    fn folder_is_inside_itself_and_those_above_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("a/b")).expect("folders");
        let opened = |path: &str| Folder::make(&SystemDisk, &folder.path().join(path)).expect("there").0;
        let inode = |path: &str| Entry::new(&stat(opened(path)).expect("there")).inode;
        let b = opened("a/b");
        for (above, expected) in [("a/b", true), ("a", true), (".", true), ("..", true), ("a/b/c", false)] {
            fs::create_dir_all(folder.path().join(above)).expect("there");
            assert_eq!(b.is_inside(inode(above)).expect("known"), expected, "{above}");
        }
    }
}
