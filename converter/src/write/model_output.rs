//! The output of olmo-pack: which target is accepted, the free space that it needs, and its errors.

use crate::error::{Error, Problem, shown_path};
use olmo_infer::internals::os::atomic_file::{AtomicFile, FolderSync};
use olmo_infer::internals::os::directory::{Entry, Folder};
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::place::{FolderError, Place};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// In the names of temporary files.
pub(crate) const PROGRAM: &str = "olmo-pack";

/// Where a file is to go.
#[derive(Clone, Debug)]
pub struct Target {
    /// As the user gave it.
    shown: PathBuf,
    /// The folder to create it in, symbolic links followed.
    folder: Arc<Folder>,
    /// Its name there.
    name: OsString,
    /// Whether an existing file may be replaced.
    replace: bool,
    /// The file that is there now.
    existing: Option<Entry>,
}

impl Target {
    /// Looks at what is there now; changes nothing. The folder is held open from here on.
    ///
    /// # Errors
    /// A file is there and `replace` is false; something else than a file is there; there is no such folder; a link on
    /// the way is not to be trusted.
    pub fn new(shown: &Path, replace: bool) -> Result<Target, Error> {
        let problem = |found: &str| Problem::new(shown, found).expected("a file name for the model");
        let Place { folder, name, entry: existing, .. } = Place::find(shown).map_err(|error| match error {
            FolderError::Folder { folder, source } if source.kind() == io::ErrorKind::NotFound => {
                Error::io(folder, "cannot write the model there", source)
            }
            FolderError::Folder { source, .. } | FolderError::Io(source) => {
                Error::io(shown, "cannot read its metadata", source)
            }
            FolderError::IsFolder => {
                let file = shown_path(&shown.join("model.olmo"));
                problem("is a folder").advice(format!("name a file in it, as in {file}")).into()
            }
            FolderError::TooManyLinks => Problem::new(shown, error.to_string()).expected("a path for the model").into(),
            FolderError::ForeignLink { ref link } => Problem::new(link, error.to_string()).into(),
            error => problem(&error.to_string()).into(),
        })?;
        if let Some(entry) = &existing {
            if !entry.is_file {
                return Err(problem("is not a regular file").into());
            }
            if !replace {
                return Err(problem("exists").advice("pass --force to replace it").into());
            }
        }
        Ok(Target { shown: shown.to_path_buf(), folder: Arc::new(folder), name, replace, existing })
    }

    /// Rejects a target that is `input` or inside it.
    ///
    /// # Errors
    /// It does.
    pub fn refuse_inside(&self, input: &Path) -> Result<(), Problem> {
        let Ok(metadata) = fs::metadata(input) else { return Ok(()) };
        // A user who may not search the folders above cannot read weights in them either.
        if self.folder.is_inside((metadata.dev(), metadata.ino())).unwrap_or(false) {
            return Err(Problem::new(&self.shown, "is inside the weights folder")
                .expected("a path outside")
                .advice("write the model next to the folder"));
        }
        Ok(())
    }

    /// Refuses a target that is the input file with this device and inode.
    ///
    /// # Errors
    /// It is.
    pub fn refuse_same(&self, input: &Path, inode: (u64, u64)) -> Result<(), Problem> {
        if self.existing.is_some_and(|existing| existing.inode == inode) {
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
            // Then nothing is lost; its reader reports what is wrong.
            Err(_) => Ok(()),
        }
    }

    /// Bytes that the user may still write to the file system of the target.
    ///
    /// # Errors
    /// The OS returns an error.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        free_bytes(&self.folder)
    }

    /// Refuses a file of `needed` bytes for which there is no room.
    ///
    /// # Errors
    /// There is none, or the OS returns an error.
    pub fn check_free_space(&self, needed: u64) -> Result<(), Error> {
        check_free_space(&self.shown, &self.folder, needed)
    }

    /// Opens a file next to the target that is read by this process only, and is gone when it ends; it cannot be
    /// published.
    ///
    /// # Errors
    /// Those of [`Target::create`].
    pub fn create_scratch(self, disk: &dyn Disk) -> Result<Output<'_>, Error> {
        let mut output = self.create(disk)?;
        let unnamed = output.file.unname();
        unnamed.map_err(|error| Error::io(&output.target.shown, "cannot remove a temporary name next to it", error))?;
        Ok(output)
    }

    /// Opens the file that will become the target, and the folder for the fsync of its name: an error after the name
    /// exists would be too late.
    ///
    /// # Errors
    /// The folder cannot be opened, or no file can be created there.
    pub fn create(self, disk: &dyn Disk) -> Result<Output<'_>, Error> {
        let names = FolderSync::open(disk, &self.folder);
        let names =
            names.map_err(|error| Error::io(self.folder.path(), "cannot open the folder for the model", error))?;
        let file = AtomicFile::create(disk, &self.folder, PROGRAM);
        let file = file.map_err(|error| Error::io(&self.shown, "cannot create it", error))?;
        Ok(Output { target: self, names, file })
    }
}

/// Bytes that the user may still write to the file system of `folder`.
fn free_bytes(folder: &Folder) -> Result<u64, Error> {
    folder.free_bytes().map_err(|error| Error::io(folder.path(), "cannot ask for free space", error))
}

/// Refuses to write `needed` bytes to `folder` when there is no room; `shown` is for the message.
pub(crate) fn check_free_space(shown: &Path, folder: &Folder, needed: u64) -> Result<(), Error> {
    let free = free_bytes(folder)?;
    if free >= needed {
        return Ok(());
    }
    let problem = Problem::new(shown, format!("needs {needed} bytes, {free} are free")).expected("more space");
    Err(problem.advice("free some or write elsewhere").into())
}

/// A model on its way. Dropped before [`Output::publish`], it leaves nothing behind.
pub struct Output<'d> {
    target: Target,
    names: FolderSync<'d>,
    file: AtomicFile<'d>,
}

impl Output<'_> {
    /// The target as the user gave it, for messages.
    pub fn shown(&self) -> &Path {
        &self.target.shown
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// There is not enough room, or the disk fails. A file system that cannot reserve is not an error.
    pub fn allocate(&self, bytes: u64) -> Result<(), Error> {
        match self.file.allocate(bytes) {
            // Unknown to the file system or the kernel, some of which return EINVAL, or not permitted in a sandbox.
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

    /// Another handle on the file.
    ///
    /// # Errors
    /// The system's.
    pub fn handle(&self) -> Result<File, Error> {
        self.file
            .file()
            .try_clone()
            .map_err(|error| Error::io(&self.target.shown, "cannot read what was written", error))
    }

    /// Makes everything written so far durable: fsync.
    ///
    /// # Errors
    /// The system's; something that was written may be lost.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync().map_err(|error| Error::io(&self.target.shown, "cannot make it durable", error))
    }

    /// Checks the file with `check`, which gets it and its path for messages, gives it its name and makes that durable.
    ///
    /// # Errors
    /// The file is not a model or cannot be put in place, and the old file is still there; or it is in place, and only
    /// its name may get lost.
    pub fn publish(self, check: impl FnOnce(&File, &Path) -> Result<(), Error>) -> Result<(), Error> {
        check(self.file.file(), &self.target.shown)?;
        let Target { shown, name, replace, .. } = self.target;
        self.file.publish(&name, replace).map_err(|error| Error::io(&shown, "cannot put it in place", error))?;
        self.names.sync().map_err(|error| {
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
        let folder = Place::find(&std::env::temp_dir().join("m.olmo")).expect("a folder").folder;
        check_free_space(Path::new("m.olmo"), &folder, 0).expect("nothing has room everywhere");
        let line =
            check_free_space(Path::new("m.olmo"), &folder, u64::MAX).expect_err("no disk is so large").to_string();
        let free = line.strip_prefix("m.olmo: needs 18446744073709551615 bytes, ");
        let free =
            free.and_then(|rest| rest.strip_suffix(" are free, expected more space; free some or write elsewhere"));
        assert!(free.is_some_and(|free| free.parse::<u64>().is_ok()), "{line}");
    }

    #[test]
    fn a_model_goes_into_a_folder_that_is_there() {
        let place = |path: &str| Target::new(Path::new(path), false).map(|_| ()).map_err(|error| error.to_string());
        let absent = "/proc/absent: cannot write the model there: No such file or directory";
        assert_eq!(place("/proc/absent/m.olmo"), Err(absent.into()));
        // A file is not a folder.
        assert_eq!(
            place("/dev/null/m.olmo"),
            Err("/dev/null/m.olmo: cannot read its metadata: Not a directory".into())
        );
    }
}
