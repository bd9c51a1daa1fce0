//! The place of a file that a run writes: a regular file or a new one, and none that the run reads.

use crate::failure::Failure;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::os::place::{FolderError, Place};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

/// Where `flag` names a file, links followed. It is only looked at: opening a pipe would wait for its other end.
/// `action` is for errors of the OS.
///
/// # Errors
/// What is there and no regular file, one of the `inputs`, a name that no file can have, or a link that leads nowhere
/// or is not to be trusted.
pub fn output_path(path: &Path, flag: &str, action: &'static str, inputs: &[&Path]) -> Result<Place, Failure> {
    let refused =
        |found| Err(Failure::Refused(format!("{}: {found}, expected a file name for {flag}", display_path(path))));
    let io = |error| Failure::Runtime(Error::io(path, action)(error));
    // Of a pipe or a device that is open, as /dev/stdout may be, the link has no path that leads anywhere.
    let nowhere = || match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => refused("is not a regular file"),
        _ => refused("is a link that leads nowhere"),
    };
    let place = match Place::find(path) {
        Ok(place) => place,
        Err(FolderError::IsFolder) => return refused("is a folder"),
        Err(FolderError::NoName) if path.file_name().is_none() => return refused("no name"),
        Err(FolderError::NoName) => return refused("no such folder"),
        Err(FolderError::TooManyLinks) => return Err(io(rustix::io::Errno::LOOP.into())),
        Err(ref error @ FolderError::ForeignLink { ref link }) => {
            return Err(Failure::Refused(format!("{}: {error}", display_path(link))));
        }
        Err(FolderError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            return nowhere();
        }
        Err(FolderError::Folder { source, .. } | FolderError::Io(source)) => return Err(io(source)),
        Err(error) => return Err(io(io::Error::other(error))),
    };
    let Some(entry) = &place.entry else {
        return if place.is_linked { nowhere() } else { Ok(place) };
    };
    if !entry.is_file {
        return refused("is not a regular file");
    }
    let is_same = |input: &Path| {
        // Standard input may have been redirected from a file.
        let input = if input.as_os_str() == "-" { Path::new("/dev/stdin") } else { input };
        fs::metadata(input).is_ok_and(|input| (input.dev(), input.ino()) == entry.inode)
    };
    if inputs.iter().copied().any(is_same) {
        return refused("is an input of this run");
    }
    Ok(place)
}
