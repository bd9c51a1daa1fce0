//! The folder that a file is put into.

use std::fs::File;
use std::io;
use std::path::Path;

/// The folder of a path; that of a bare name is ".".
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Brings the names of an open folder to the disk.
///
/// # Errors
/// The system's; but file systems without names to sync say so with EINVAL, which is none.
pub fn sync_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn the_folder_of_a_path_is_where_a_file_beside_it_would_be() {
        for (path, folder) in [("m", "."), ("./m", "."), ("a/m", "a"), ("../m", ".."), ("/m", "/"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    #[test]
    fn names_that_cannot_be_synced_are_no_error_and_other_failures_are() {
        let device = File::open("/dev/null").expect("a device, which knows no sync");
        assert_eq!(device.sync_all().expect_err("not synced").raw_os_error(), Some(libc::EINVAL));
        assert!(sync_folder(&device).is_ok());
        let folder = File::options().read(true).custom_flags(libc::O_PATH).open("/").expect("only its place");
        assert_eq!(sync_folder(&folder).expect_err("not open").raw_os_error(), Some(libc::EBADF));
    }
}
