//! The one layer through which the converter changes the disk, so that tests can make every call of it fail, and the
//! rules that all callers of it share: interrupted calls are made again, short writes are continued.

use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How often a call may be interrupted in a row. More than any signals do, and less than forever.
const MAX_INTERRUPTIONS: u32 = 1000;

/// The operations that change the disk, and the one that must come before them.
pub trait Disk: Sync {
    /// Makes a folder, in a folder that exists.
    ///
    /// # Errors
    /// The system's, also when it exists.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;
    /// Opens `folder` for [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The system's.
    fn open_folder(&self, folder: &Path) -> io::Result<File>;
    /// Opens a new file without a name in `folder`, to be written and read back; it goes when it is closed.
    ///
    /// # Errors
    /// The system's, also when it knows no such files.
    fn create_unnamed(&self, folder: &Path) -> io::Result<File>;
    /// Creates a file that must not exist yet, to be written and read back.
    ///
    /// # Errors
    /// The system's, also when it exists.
    fn create_named(&self, path: &Path) -> io::Result<File>;
    /// Reserves space, so that a full disk is found out before anything is written.
    ///
    /// # Errors
    /// The system's, also when it cannot reserve.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// Writes `bytes`, or fewer of them from their beginning on, and returns how many.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
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
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)
    }

    fn open_folder(&self, folder: &Path) -> io::Result<File> {
        File::open(folder)
    }

    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        let flags = (OFlags::TMPFILE | OFlags::CLOEXEC).bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o666).open(folder)?;
        // It gets its name through /proc; without that it would be lost at the end.
        fs::metadata(descriptor_path(&file))?;
        Ok(file)
    }

    fn create_named(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o666).open(path)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
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
        or_two_steps(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE), from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        olmo_infer::folder::sync_folder(folder)
    }
}

/// What a renaming that replaces nothing came to. Where the file system cannot do it in one step, a look and the
/// renaming that replaces must do.
fn or_two_steps(renamed: rustix::io::Result<()>, from: &Path, to: &Path) -> io::Result<()> {
    match renamed {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        result => Ok(result?),
    }
}

/// Makes a call again for as long as a signal interrupts it.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
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

/// Writes all of `bytes`, in as many writes as the disk needs.
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
fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renaming_in_two_steps_replaces_nothing_either() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let number = |error: io::Error| error.raw_os_error();
        for cannot in [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP] {
            fs::write(&from, "new").expect("written");
            or_two_steps(Err(cannot), &from, &to).expect("the name is free");
            assert_eq!(fs::read(&to).expect("there"), b"new");
            fs::write(&from, "newer").expect("written");
            let taken = or_two_steps(Err(cannot), &from, &to).map_err(number);
            assert_eq!(taken, Err(Some(cannot.raw_os_error())));
            assert_eq!(
                (fs::read(&from).expect("there"), fs::read(&to).expect("there")),
                (b"newer".into(), b"new".into())
            );
            fs::remove_file(&to).expect("removed");
        }
        // What another error says is true, whoever has the name now; and what is done is not done again.
        for (renamed, expected) in [(Err(Errno::EXIST), Err(Some(Errno::EXIST.raw_os_error()))), (Ok(()), Ok(()))] {
            assert_eq!(or_two_steps(renamed, &from, &to).map_err(number), expected);
            assert!(from.exists() && !to.exists());
        }
    }

    #[test]
    fn names_that_cannot_be_synced_are_no_error_and_other_failures_are() {
        let number = |error: io::Error| error.raw_os_error();
        // A device has nothing to sync, and says so as such file systems do.
        let device = File::open("/dev/null").expect("a device");
        assert_eq!(SystemDisk.sync(&device).map_err(number), Err(Some(Errno::INVAL.raw_os_error())));
        assert_eq!(SystemDisk.sync_folder(&device).map_err(number), Ok(()));
        let only_a_name = OpenOptions::new().read(true).custom_flags(OFlags::PATH.bits() as i32).open("/");
        let only_a_name = only_a_name.expect("a name");
        assert_eq!(SystemDisk.sync_folder(&only_a_name).map_err(number), Err(Some(Errno::BADF.raw_os_error())));
    }
}
