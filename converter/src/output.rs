//! The way of a file to its name: an unnamed or temporary file in the target's folder, and the name last.
//!
//! Until the name is there nothing of the new file can be taken for a model, and the old file is untouched; an existing
//! inode is never written to, so a process that has the old model mapped goes on undisturbed. Every call that changes
//! the disk goes through [`Disk`], so that tests can make each of them fail.

use crate::error::{Error, Problem};
use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;
/// How many names are tried for a temporary file.
const MAX_NAMES: u32 = 1000;

/// The operations that change the disk, and the one that must come before them.
pub trait Disk: Sync {
    /// Opens `folder` for [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The system's.
    fn open_folder(&self, folder: &Path) -> io::Result<File>;
    /// Opens a new file without a name in `folder`; it goes when it is closed.
    ///
    /// # Errors
    /// The system's, also when it knows no such files.
    fn create_unnamed(&self, folder: &Path) -> io::Result<File>;
    /// Creates a file that must not exist yet.
    ///
    /// # Errors
    /// The system's, also when it exists.
    fn create_named(&self, path: &Path) -> io::Result<File>;
    /// Reserves space, so that a full disk is found out before anything is written.
    ///
    /// # Errors
    /// The system's, also when it cannot reserve.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Brings the file to the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives an unnamed file a name that must not exist yet.
    ///
    /// # Errors
    /// The system's, also when the name exists.
    fn link(&self, file: &File, path: &Path) -> io::Result<()>;
    /// Renames; without `replace` the new name must not exist yet.
    ///
    /// # Errors
    /// The system's, also when the name exists.
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()>;
    /// Removes a temporary file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Brings the names of an open folder to the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, folder: &File) -> io::Result<()>;
}

/// The disk of this machine.
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open_folder(&self, folder: &Path) -> io::Result<File> {
        File::open(folder)
    }

    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        let flags = (OFlags::TMPFILE | OFlags::CLOEXEC).bits() as i32;
        let file = OpenOptions::new().write(true).custom_flags(flags).mode(0o666).open(folder)?;
        // It gets its name through /proc; without that it would be lost at the end.
        fs::metadata(descriptor_path(&file))?;
        Ok(file)
    }

    fn create_named(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o666).open(path)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn link(&self, file: &File, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::linkat(CWD, descriptor_path(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        if replace {
            return fs::rename(from, to);
        }
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system cannot do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if fs::symlink_metadata(to).is_err() => {
                fs::rename(from, to)
            }
            result => Ok(result?),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        match folder.sync_all() {
            // File systems without names to sync say so with EINVAL.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
            result => result,
        }
    }
}

/// The name by which an unnamed file can be linked.
fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Where a file is to go.
#[derive(Clone, Debug)]
pub struct Target {
    /// As the user gave it.
    shown: PathBuf,
    /// The name to create, symbolic links followed.
    path: PathBuf,
    /// Its folder.
    folder: PathBuf,
    /// Whether an existing file may be replaced.
    replace: bool,
    /// Device and inode of the file that is there now.
    existing: Option<(u64, u64)>,
}

impl Target {
    /// Looks at what is there now; changes nothing.
    ///
    /// # Errors
    /// A file is there and `replace` is false; something else than a file is there; there is no such folder.
    pub fn new(shown: &Path, replace: bool) -> Result<Target, Error> {
        let mut path = shown.to_path_buf();
        let mut links = 0;
        let existing = loop {
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Problem::new(shown, "too many symbolic links")
                            .expected("a path for the model")
                            .into());
                    }
                    let to = fs::read_link(&path).map_err(|error| Error::io(shown, "cannot follow the link", error))?;
                    path = folder_of(&path).join(to);
                }
                Ok(metadata) => break Some(metadata),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break None,
                Err(error) => return Err(Error::io(shown, "cannot look at it", error)),
            }
        };
        if let Some(metadata) = &existing {
            let problem = |found| Problem::new(shown, found).expected("a file name for the model");
            if metadata.is_dir() {
                return Err(problem("is a folder").advice("give the weights folder first, then the model file").into());
            }
            if !metadata.is_file() {
                return Err(problem("is not a regular file").into());
            }
            if !replace {
                return Err(problem("exists").advice("pass --force to replace it").into());
            }
        }
        // "m/" and "m/." name a folder, though Path::file_name() takes both for "m".
        let bytes = path.as_os_str().as_bytes();
        if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
            return Err(Problem::new(shown, "no file name at its end").expected("a file name for the model").into());
        }
        let folder = folder_of(&path).to_path_buf();
        match fs::metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Problem::new(&folder, "not a folder").expected("the folder for the model").into()),
            Err(error) => return Err(Error::io(&folder, "cannot write the model there", error)),
        }
        let existing = existing.map(|metadata| (metadata.dev(), metadata.ino()));
        Ok(Target { shown: shown.to_path_buf(), path, folder, replace, existing })
    }

    /// Refuses a target that is, or lies in, `input`.
    ///
    /// # Errors
    /// It does.
    pub fn refuse_inside(&self, input: &Path) -> Result<(), Problem> {
        let (Ok(folder), Ok(input)) = (fs::canonicalize(&self.folder), fs::canonicalize(input)) else { return Ok(()) };
        if folder.starts_with(&input) {
            return Err(Problem::new(&self.shown, "lies in the weights folder")
                .expected("a path outside")
                .advice("write the model beside the folder"));
        }
        Ok(())
    }

    /// Refuses a target that is the input file with this device and inode.
    ///
    /// # Errors
    /// It is.
    pub fn refuse_same(&self, input: &Path, inode: (u64, u64)) -> Result<(), Problem> {
        if self.existing == Some(inode) {
            let found = format!("is the same file as {}", crate::error::shown_path(input));
            return Err(Problem::new(&self.shown, found).expected("another file").advice("give another output"));
        }
        Ok(())
    }

    /// Bytes that the user may still write to the file system of the target.
    ///
    /// # Errors
    /// The system does not say.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        free_bytes(&self.folder)
    }

    /// Refuses a file of `needed` bytes for which there is no room.
    ///
    /// # Errors
    /// There is none, or the system does not say.
    pub fn check_free_space(&self, needed: u64) -> Result<(), Error> {
        check_free_space(&self.shown, &self.folder, needed)
    }

    /// Opens the file that will become the target, and the folder that will have its name: what would fail after the
    /// name is there must fail before.
    ///
    /// # Errors
    /// The folder cannot be opened, or no file can be created there.
    pub fn create(self, disk: &dyn Disk) -> Result<Output<'_>, Error> {
        let cannot = |error| Error::io(&self.shown, "cannot create it", error);
        let folder = disk.open_folder(&self.folder);
        let folder = folder.map_err(|error| Error::io(&self.folder, "cannot open the folder for the model", error))?;
        match disk.create_unnamed(&self.folder) {
            Ok(file) => return Ok(Output { disk, target: self, folder, file, temporary: None }),
            // These a named file would meet too. Anything else may only say that unnamed ones are not known here.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull
                ) =>
            {
                return Err(cannot(error));
            }
            Err(_) => {}
        }
        let (file, path) = fresh_name(&self.folder, |path| disk.create_named(path)).map_err(cannot)?;
        Ok(Output { disk, target: self, folder, file, temporary: Some(path) })
    }
}

/// The folder of a path; that of a bare name is ".".
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Bytes that the user may still write to the file system of `folder`.
fn free_bytes(folder: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| Error::io(folder, "cannot ask for free space", error))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses to write `needed` bytes to `folder` when there is no room; `shown` is for the message.
pub(crate) fn check_free_space(shown: &Path, folder: &Path, needed: u64) -> Result<(), Error> {
    let free = free_bytes(folder)?;
    if free >= needed {
        return Ok(());
    }
    let problem = Problem::new(shown, format!("needs {needed} bytes, {free} are free")).expected("more space");
    Err(problem.advice("free some or write elsewhere").into())
}

/// Tries names in `folder` until `make` finds one free; it must refuse one that is taken.
pub(crate) fn fresh_name<T>(folder: &Path, mut make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    let mut number = 0;
    loop {
        let path = folder.join(format!(".olmo-pack-{}-{number}.tmp", std::process::id()));
        match make(&path) {
            Ok(made) => return Ok((made, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A file on its way. Dropped before [`Output::publish`], it leaves nothing behind.
pub struct Output<'a> {
    disk: &'a dyn Disk,
    target: Target,
    folder: File,
    file: File,
    temporary: Option<PathBuf>,
}

impl Output<'_> {
    /// The target as the user gave it, for messages.
    pub fn shown(&self) -> &Path {
        &self.target.shown
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// There is not enough room. File systems that cannot reserve are no error.
    pub fn allocate(&self, bytes: u64) -> Result<(), Error> {
        match self.disk.allocate(&self.file, bytes) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                ) =>
            {
                Err(self.cannot_write(error, bytes))
            }
            _ => Ok(()),
        }
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.disk.write_at(&self.file, bytes, offset).map_err(|error| self.cannot_write(error, bytes.len() as u64))
    }

    /// Brings everything written so far to the disk.
    ///
    /// # Errors
    /// The system's; something that was written may be lost.
    pub fn sync(&self) -> Result<(), Error> {
        self.disk.sync(&self.file).map_err(|error| Error::io(&self.target.shown, "cannot bring it to the disk", error))
    }

    /// Gives the file its name and brings the name to the disk.
    ///
    /// # Errors
    /// The file cannot be put in place, and what was there is still there; or it is in place, and only the name may get
    /// lost.
    pub fn publish(mut self) -> Result<(), Error> {
        let temporary = self.temporary.take();
        let target = &self.target;
        let result = match (temporary, target.replace) {
            (None, false) => self.disk.link(&self.file, &target.path),
            (None, true) => fresh_name(&target.folder, |path| self.disk.link(&self.file, path))
                .and_then(|((), path)| self.rename(&path)),
            (Some(path), _) => self.rename(&path),
        };
        result.map_err(|error| Error::io(&target.shown, "cannot put it in place", error))?;
        self.disk.sync_folder(&self.folder).map_err(|error| {
            Error::io(
                &target.shown,
                "is in place, but its name may not survive a power cut: cannot sync its folder",
                error,
            )
        })
    }

    /// Renames the temporary file to the target, or removes it.
    fn rename(&self, from: &Path) -> io::Result<()> {
        let renamed = self.disk.rename(from, &self.target.path, self.target.replace);
        if renamed.is_err() {
            // The first error is the one to report.
            let _ = self.disk.remove(from);
        }
        renamed
    }

    fn cannot_write(&self, error: io::Error, needed: u64) -> Error {
        if error.kind() == io::ErrorKind::StorageFull
            && let Ok(free) = self.target.free_bytes()
        {
            let found = format!("no space left: {free} bytes are free");
            return Problem::new(&self.target.shown, found).expected(format!("{needed} for the next step")).into();
        }
        Error::io(&self.target.shown, "cannot write", error)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take() {
            // Nobody is left to tell.
            let _ = self.disk.remove(&path);
        }
    }
}
