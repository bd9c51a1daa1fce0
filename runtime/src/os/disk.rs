//! The one layer through which files are written, so that tests can make every call of it fail.

use crate::os::directory::Folder;
use crate::os::retry::uninterrupted;
use rustix::fs::{AtFlags, Mode, OFlags};
#[cfg(target_os = "linux")]
use rustix::fs::{CWD, FallocateFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

/// The calls that change a disk, and the one that must precede them. Names are those of a folder that is held open.
pub trait Disk: Sync {
    /// Creates a folder in another.
    ///
    /// # Errors
    /// The OS returns an error, also when the name exists.
    fn make_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Removes a folder that is empty from another.
    ///
    /// # Errors
    /// The OS returns an error, also when it is not empty.
    fn remove_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Opens `folder` for [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The OS returns an error.
    fn open_folder(&self, folder: &Folder) -> io::Result<File>;
    /// Opens a new file without a name in `folder`, for writing and reading; closed, it is gone.
    ///
    /// # Errors
    /// The OS returns an error, also when it has no such files.
    fn create_unnamed(&self, folder: &Folder) -> io::Result<File>;
    /// Creates a file that must not exist yet, for writing and reading.
    ///
    /// # Errors
    /// The OS returns an error, also when it exists.
    fn create_named(&self, folder: &Folder, name: &OsStr) -> io::Result<File>;
    /// Reserves space, so that a full disk is an error before anything is written.
    ///
    /// # Errors
    /// The OS returns an error, also when it cannot reserve.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// Writes `bytes`, or fewer of them from their beginning on, and returns how many.
    ///
    /// # Errors
    /// The OS returns an error.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the content durable: fsync.
    ///
    /// # Errors
    /// The OS returns an error.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives an unnamed file a name that must not exist yet.
    ///
    /// # Errors
    /// The OS returns an error, also when the name exists.
    fn link(&self, file: &File, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Renames; without `replace` the new name must not exist yet.
    ///
    /// # Errors
    /// The OS returns an error, also when the name exists.
    fn rename(&self, folder: &Folder, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()>;
    /// Removes a temporary file.
    ///
    /// # Errors
    /// The OS returns an error.
    fn remove(&self, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Makes the names of an open folder durable: fsync.
    ///
    /// # Errors
    /// The OS returns one. EINVAL (a file system without directory sync) is ignored.
    fn sync_folder(&self, folder: &File) -> io::Result<()>;
}

/// The disk of this machine.
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn make_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o777))?)
    }

    fn remove_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    fn open_folder(&self, folder: &Folder) -> io::Result<File> {
        Ok(folder.open(".", OFlags::DIRECTORY)?.into())
    }

    #[cfg(target_os = "linux")]
    fn create_unnamed(&self, folder: &Folder) -> io::Result<File> {
        let file: File = folder.open(".", OFlags::TMPFILE | OFlags::RDWR)?.into();
        // It gets its name through /proc; without that it would be lost at the end.
        std::fs::metadata(descriptor_path(&file))?;
        Ok(file)
    }

    #[cfg(not(target_os = "linux"))]
    fn create_unnamed(&self, _: &Folder) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_named(&self, folder: &Folder, name: &OsStr) -> io::Result<File> {
        Ok(folder.open(name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR)?.into())
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _: &File, _: u64) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    #[cfg(target_os = "linux")]
    fn link(&self, file: &File, folder: &Folder, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(CWD, descriptor_path(file), folder, name, AtFlags::SYMLINK_FOLLOW)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn link(&self, _: &File, _: &Folder, _: &OsStr) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, folder: &Folder, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
        if replace {
            return Ok(rustix::fs::renameat(folder, from, folder, to)?);
        }
        #[cfg(target_os = "linux")]
        let renamed = rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE);
        #[cfg(not(target_os = "linux"))]
        let renamed = Err(Errno::NOTSUP);
        or_two_steps(renamed, folder, from, to)
    }

    fn remove(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        match folder.sync_all() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(()),
            result => result,
        }
    }
}

/// The result of a rename that replaces nothing. Where the file system cannot do it in one step, a check and a rename
/// that replaces must do.
fn or_two_steps(renamed: rustix::io::Result<()>, folder: &Folder, from: &OsStr, to: &OsStr) -> io::Result<()> {
    match renamed {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match folder.entry(to)? {
            None => Ok(rustix::fs::renameat(folder, from, folder, to)?),
            Some(_) => Err(Errno::EXIST.into()),
        },
        result => Ok(result?),
    }
}

/// Checks that what was written to an output has arrived, as far as the OS knows: network file systems report it only
/// when the file is closed. A descriptor that is not open for writing has taken nothing: std ignores its error on
/// standard output.
///
/// # Errors
/// It has not, or the OS returns another error.
pub fn check_written(output: impl AsFd) -> io::Result<()> {
    if rustix::fs::fcntl_getfl(&output)? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(Errno::BADF.into());
    }
    // Of a copy: the next file to be opened would get the number of standard output.
    Ok(nix::unistd::close(output.as_fd().try_clone_to_owned()?)?)
}

/// Writes all of `bytes`, in as many calls as the disk needs.
pub(crate) fn write_all_at(disk: &dyn Disk, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match uninterrupted(|| disk.write_at(file, &bytes[written..], offset + written as u64))? {
            0 => return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk took no byte")),
            taken => written += taken,
        }
    }
    Ok(())
}

/// The name by which an unnamed file can be linked.
#[cfg(target_os = "linux")]
fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn rename_in_two_steps_replaces_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let (opened, _) = Folder::make(&SystemDisk, folder.path()).expect("there");
        let two_steps = |renamed| or_two_steps(renamed, &opened, OsStr::new("from"), OsStr::new("to"));
        let number = |error: io::Error| error.raw_os_error();
        for cannot in [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP] {
            fs::write(&from, "new").expect("written");
            two_steps(Err(cannot)).expect("the name is free");
            assert_eq!(fs::read(&to).expect("there"), b"new");
            fs::write(&from, "newer").expect("written");
            assert_eq!(two_steps(Err(cannot)).map_err(number), Err(Some(Errno::EXIST.raw_os_error())));
            assert_eq!(
                (fs::read(&from).expect("there"), fs::read(&to).expect("there")),
                (b"newer".into(), b"new".into())
            );
            fs::remove_file(&to).expect("removed");
        }
        // Another error is passed on, and a rename that is done is not done again.
        for (renamed, expected) in [(Err(Errno::EXIST), Err(Some(Errno::EXIST.raw_os_error()))), (Ok(()), Ok(()))] {
            assert_eq!(two_steps(renamed).map_err(number), expected);
            assert!(from.exists() && !to.exists());
        }
    }

    #[test]
    fn sync_of_folder_ignores_only_einval() {
        let number = |error: io::Error| error.raw_os_error();
        // A device has nothing to sync, and returns what such file systems return.
        let device = File::open("/dev/null").expect("a device");
        assert_eq!(SystemDisk.sync(&device).map_err(number), Err(Some(Errno::INVAL.raw_os_error())));
        assert_eq!(SystemDisk.sync_folder(&device).map_err(number), Ok(()));
        let only_a_name = File::options().read(true).custom_flags(OFlags::PATH.bits() as i32).open("/");
        let only_a_name = only_a_name.expect("a name");
        assert_eq!(SystemDisk.sync_folder(&only_a_name).map_err(number), Err(Some(Errno::BADF.raw_os_error())));
    }
}
