//! The way of a file to its name: an unnamed or temporary file in the target's folder, and the name last.
//!
//! Until the name is there nothing of the new file can be taken for a model, and the old file is untouched; an existing
//! inode is never written to, so a process that has the old model mapped goes on undisturbed. `Pending` is a file on
//! this way, whatever it is for; [`Target`] and [`Output`] are the way of a model, and what may stand in it.

use crate::disk::{Disk, uninterrupted, write_all_at};
use crate::error::{Error, Problem, shown_path};
use crate::read_back;
use olmo_infer::folder::folder_of;
use olmo_infer::signals;
use rustix::io::Errno;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;
/// How many names are tried for a temporary file.
const MAX_NAMES: u32 = 1000;

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
                let file = shown_path(&shown.join("model.olmo"));
                return Err(problem("is a folder").advice(format!("name a file in it, as in {file}")).into());
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
        // That it is a folder the look at the file in it has shown.
        fs::metadata(&folder).map_err(|error| Error::io(&folder, "cannot write the model there", error))?;
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

    /// Refuses a target that is the file at `input`, links followed, if there is one.
    ///
    /// # Errors
    /// It is.
    pub fn refuse_replacing(&self, input: &Path) -> Result<(), Problem> {
        match fs::metadata(input) {
            Ok(metadata) => self.refuse_same(input, (metadata.dev(), metadata.ino())),
            // Then there is nothing to lose; whoever reads it says what is wrong.
            Err(_) => Ok(()),
        }
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
        let folder = uninterrupted(|| disk.open_folder(&self.folder));
        let folder = folder.map_err(|error| Error::io(&self.folder, "cannot open the folder for the model", error))?;
        let file = Pending::create(disk, &self.folder);
        let file = file.map_err(|error| Error::io(&self.shown, "cannot create it", error))?;
        Ok(Output { disk, target: self, folder, file })
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

/// A name that a file has before its own; it goes when the value does.
struct Temporary<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    /// Lets a signal that stops the program remove it.
    named: signals::Temporary,
}

impl Temporary<'_> {
    /// Tries names in `folder` until `make` finds one free; it must refuse one that is taken, and thus never meets a
    /// file or a link that someone put there. Nor does a signal that comes before the file is there remove the one of
    /// another process, in a container with the same process ids say: names are drawn by lot.
    fn make<'d, T>(
        disk: &'d dyn Disk,
        folder: &Path,
        make: impl Fn(&Path) -> io::Result<T>,
    ) -> io::Result<(T, Temporary<'d>)> {
        let mut number = 0;
        loop {
            let lot = RandomState::new().hash_one(number);
            let path = folder.join(format!(".olmo-pack-{lot:016x}.tmp"));
            let named = signals::Temporary::new(&path);
            match uninterrupted(|| make(&path)) {
                Ok(made) => {
                    named.park_if_stopping();
                    return Ok((made, Temporary { disk, path, named }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Renames the file to its own name. The temporary one goes in any case.
    fn rename(mut self, to: &Path, replace: bool) -> io::Result<()> {
        let renamed = uninterrupted(|| self.disk.rename(&self.path, to, replace));
        if renamed.is_err() {
            self.named.park_if_stopping();
        }
        renamed?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nobody is left to tell; an error before this one is the one to report.
            let _ = uninterrupted(|| self.disk.remove(&self.path));
        }
    }
}

/// A file without its name. Dropped before [`Pending::publish`], it leaves nothing behind.
pub(crate) struct Pending<'d> {
    disk: &'d dyn Disk,
    folder: PathBuf,
    file: File,
    temporary: Option<Temporary<'d>>,
}

impl<'d> Pending<'d> {
    /// Opens a new file in `folder`: without a name, or where the system knows no such files with a temporary one.
    pub(crate) fn create(disk: &'d dyn Disk, folder: &Path) -> io::Result<Pending<'d>> {
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
                let (file, temporary) = Temporary::make(disk, folder, |path| disk.create_named(path))?;
                (file, Some(temporary))
            }
        };
        Ok(Pending { disk, folder: folder.to_path_buf(), file, temporary })
    }

    /// Reserves `bytes`.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        uninterrupted(|| self.disk.allocate(&self.file, bytes))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(self.disk, &self.file, bytes, offset)
    }

    /// Brings everything written so far to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        uninterrupted(|| self.disk.sync(&self.file))
    }

    /// Gives the file its name, which must be free unless `replace` says otherwise. A link there is replaced, not
    /// followed. The folder has still to be brought to the disk.
    pub(crate) fn publish(self, path: &Path, replace: bool) -> io::Result<()> {
        let link = |path: &Path| self.disk.link(&self.file, path);
        match self.temporary {
            Some(temporary) => temporary.rename(path, replace),
            None if replace => {
                let ((), temporary) = Temporary::make(self.disk, &self.folder, link)?;
                temporary.rename(path, true)
            }
            None => uninterrupted(|| link(path)),
        }
    }
}

/// A model on its way. Dropped before [`Output::publish`], it leaves nothing behind.
pub struct Output<'d> {
    disk: &'d dyn Disk,
    target: Target,
    folder: File,
    file: Pending<'d>,
}

impl Output<'_> {
    /// The target as the user gave it, for messages.
    pub fn shown(&self) -> &Path {
        &self.target.shown
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// There is not enough room, or the disk fails. File systems that cannot reserve are no error.
    pub fn allocate(&self, bytes: u64) -> Result<(), Error> {
        match self.file.allocate(bytes) {
            // Not known to the file system or the kernel, which some say with EINVAL, or not permitted in a sandbox.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM)
                ) =>
            {
                Ok(())
            }
            result => result.map_err(|error| self.cannot_write(error, bytes)),
        }
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_at(bytes, offset).map_err(|error| self.cannot_write(error, bytes.len() as u64))
    }

    /// Brings everything written so far to the disk.
    ///
    /// # Errors
    /// The system's; something that was written may be lost.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync().map_err(|error| Error::io(&self.target.shown, "cannot bring it to the disk", error))
    }

    /// Reads the file as its readers will, gives it its name and brings the name to the disk.
    ///
    /// # Errors
    /// The file is no model or cannot be put in place, and what was there is still there; or it is in place, and only the name may get
    /// lost.
    pub fn publish(self) -> Result<(), Error> {
        read_back::check(&self.file.file, &self.target.shown)?;
        let Target { shown, path, replace, .. } = self.target;
        self.file.publish(&path, replace).map_err(|error| Error::io(&shown, "cannot put it in place", error))?;
        uninterrupted(|| self.disk.sync_folder(&self.folder)).map_err(|error| {
            Error::io(&shown, "is in place, but its name may not survive a power cut: cannot sync its folder", error)
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_finds_no_room_is_refused_with_both_sizes() {
        let folder = std::env::temp_dir();
        check_free_space(Path::new("m.olmo"), &folder, 0).expect("nothing has room everywhere");
        let line =
            check_free_space(Path::new("m.olmo"), &folder, u64::MAX).expect_err("no disk is so large").to_string();
        let free = line.strip_prefix("m.olmo: needs 18446744073709551615 bytes, ");
        let free =
            free.and_then(|rest| rest.strip_suffix(" are free, expected more space; free some or write elsewhere"));
        assert!(free.is_some_and(|free| free.parse::<u64>().is_ok()), "{line}");
        let absent = check_free_space(Path::new("m.olmo"), Path::new("/absent"), 0).expect_err("no folder").to_string();
        assert_eq!(absent, "/absent: cannot ask for free space: No such file or directory");
    }

    #[test]
    fn a_model_goes_into_a_folder_that_is_there() {
        let place = |path: &str| Target::new(Path::new(path), false).map(|_| ()).map_err(|error| error.to_string());
        let absent = "/proc/absent: cannot write the model there: No such file or directory";
        assert_eq!(place("/proc/absent/m.olmo"), Err(absent.into()));
        // A file is none.
        assert_eq!(place("/dev/null/m.olmo"), Err("/dev/null/m.olmo: cannot look at it: Not a directory".into()));
    }
}
