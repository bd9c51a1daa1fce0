//! The path of a file that a run writes: a regular file or a new one, and none that the run reads.

use crate::output::Failure;
use olmo_infer::error::{Error, display_path};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The file that `flag` names, links followed. It is only looked at: opening a pipe would wait for its other end.
///
/// # Errors
/// What is there and no regular file, one of the `inputs`, or a name that no file can have.
pub fn target(path: &Path, flag: &str, inputs: &[&Path]) -> Result<PathBuf, Failure> {
    let refused =
        |found| Err(Failure::Refused(format!("{}: {found}, expected a file name for {flag}", display_path(path))));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(_) if path.file_name().is_none() => return refused("no name"),
        // Whatever is wrong with the folder shows when the file is created; what is wrong with the name would show when
        // everything is computed.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "create")(error))?,
        Err(_) if path.as_os_str().as_bytes().ends_with(b"/") => return refused("no such folder"),
        Err(_) if path.is_symlink() => return refused("is a link that leads nowhere"),
        Err(_) => return Ok(path.to_path_buf()),
    };
    if !metadata.is_file() {
        return refused(if metadata.is_dir() { "is a folder" } else { "is not a regular file" });
    }
    let is_same = |input: &Path| {
        // Standard input may have been redirected from a file.
        let input = if input.as_os_str() == "-" { Path::new("/dev/stdin") } else { input };
        fs::metadata(input).is_ok_and(|input| (input.dev(), input.ino()) == (metadata.dev(), metadata.ino()))
    };
    if inputs.iter().copied().any(is_same) {
        return refused("is an input of this run");
    }
    Ok(fs::canonicalize(path).map_err(Error::io(path, "find"))?)
}
