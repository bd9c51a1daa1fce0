//! The layer through which all files are written, so that tests can make each of its calls fail. Its callers repeat
//! interrupted calls and continue short writes.

use crate::os::directory::Folder;
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

/// Most interruptions of a call in a row: more than signals cause in practice, but a bound.
const MAX_INTERRUPTIONS: u32 = 1000;

/// The operations that change the disk, and opening a folder for [`Disk::sync_folder`]. Names are relative to a folder
/// that is held open. All errors are those of the OS.
pub trait Disk: Sync {
    /// Creates a folder in another.
    ///
    /// # Errors
    /// The name exists.
    fn make_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Removes an empty folder from another.
    ///
    /// # Errors
    /// It is not empty.
    fn remove_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Opens `folder` for [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The folder cannot be read.
    fn open_folder(&self, folder: &Folder) -> io::Result<File>;
    /// Creates a file without a name in `folder`, for writing and reading. The OS removes it when it is closed.
    ///
    /// # Errors
    /// The file system does not support such files.
    fn create_unnamed(&self, folder: &Folder) -> io::Result<File>;
    /// Creates a file for writing and reading.
    ///
    /// # Errors
    /// The name exists.
    fn create_named(&self, folder: &Folder, name: &OsStr) -> io::Result<File>;
    /// Reserves space, so that a full disk is detected before anything is written.
    ///
    /// # Errors
    /// The disk is full, or the file system does not support this.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// Writes `bytes`, or a prefix of them, and returns the number written.
    ///
    /// # Errors
    /// The write fails.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the file durable (fsync).
    ///
    /// # Errors
    /// Data may be lost.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives an unnamed file a name.
    ///
    /// # Errors
    /// The name exists.
    fn link(&self, file: &File, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Renames a file; `replace` permits that the new name exists.
    ///
    /// # Errors
    /// Without `replace`, the new name exists.
    fn rename(&self, folder: &Folder, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()>;
    /// Removes a temporary file.
    ///
    /// # Errors
    /// The file cannot be removed.
    fn remove(&self, folder: &Folder, name: &OsStr) -> io::Result<()>;
    /// Makes the names in an open folder durable (fsync). EINVAL, from a file system without directory sync, is
    /// ignored.
    ///
    /// # Errors
    /// Names may be lost.
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
        // It gets its name through /proc, so check now that /proc is mounted.
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

/// Returns the result of a rename that must not replace a file. If the file system does not support that, checks that
/// the name is free and renames: another process may create the name in between.
fn or_two_steps(renamed: rustix::io::Result<()>, folder: &Folder, from: &OsStr, to: &OsStr) -> io::Result<()> {
    match renamed {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match folder.entry(to)? {
            None => Ok(rustix::fs::renameat(folder, from, folder, to)?),
            Some(_) => Err(Errno::EXIST.into()),
        },
        result => Ok(result?),
    }
}

/// Repeats a call while signals interrupt it.
///
/// # Errors
/// Those of the call.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut n_interruptions = 0;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && n_interruptions < MAX_INTERRUPTIONS => {
                n_interruptions += 1;
            }
            result => return result,
        }
    }
}

/// Returns the delayed error of earlier writes to an output: network file systems report some errors only on close. A
/// descriptor that is not open for writing is an error too; std ignores that error for standard output.
///
/// # Errors
/// A write was lost, or the check itself fails.
pub fn check_written(output: impl AsFd) -> io::Result<()> {
    if rustix::fs::fcntl_getfl(&output)? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(Errno::BADF.into());
    }
    // Closes a copy: otherwise the next open file would get the descriptor number of standard output.
    Ok(nix::unistd::close(output.as_fd().try_clone_to_owned()?)?)
}

/// Writes all of `bytes`, and continues short writes.
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
    fn rename_in_two_steps_replaces_no_file() {
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
        // Other results are returned unchanged, and nothing is renamed again.
        for (renamed, expected) in [(Err(Errno::EXIST), Err(Some(Errno::EXIST.raw_os_error()))), (Ok(()), Ok(()))] {
            assert_eq!(two_steps(renamed).map_err(number), expected);
            assert!(from.exists() && !to.exists());
        }
    }

    #[test]
    fn sync_folder_ignores_einval_only() {
        let number = |error: io::Error| error.raw_os_error();
        // A device returns the same error as a file system without directory sync.
        let device = File::open("/dev/null").expect("a device");
        assert_eq!(SystemDisk.sync(&device).map_err(number), Err(Some(Errno::INVAL.raw_os_error())));
        assert_eq!(SystemDisk.sync_folder(&device).map_err(number), Ok(()));
        let only_a_name = File::options().read(true).custom_flags(OFlags::PATH.bits() as i32).open("/");
        let only_a_name = only_a_name.expect("a name");
        assert_eq!(SystemDisk.sync_folder(&only_a_name).map_err(number), Err(Some(Errno::BADF.raw_os_error())));
    }
}
