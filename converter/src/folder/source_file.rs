//! Files that packing reads: opened without blocking, and checked at every read to be unmodified.

use crate::error::{Error, Problem, shown_path};
use crate::folder::hub_blobs;
use olmo_infer::internals::os::file_state::FileState;
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Facts that change when a file is replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device and inode.
    pub inode: (u64, u64),
    state: FileState,
}

impl Identity {
    fn of(path: &Path, file: &File) -> Result<Identity, Error> {
        let metadata = file.metadata().map_err(|error| Error::io(path, "cannot read its metadata", error))?;
        Ok(Identity { inode: (metadata.dev(), metadata.ino()), state: FileState::of(&metadata) })
    }

    /// Length.
    pub fn bytes(&self) -> u64 {
        self.state.written.bytes
    }
}

/// A file that was checked. It is opened again for each read, so that a model of many files needs few descriptors; its
/// identity shows that it is still the same one. It is read and not mapped: a mapped file that is cut short ends the
/// program.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its identity when it was checked.
    pub identity: Identity,
}

impl SourceFile {
    /// Checks the file at `path`.
    ///
    /// # Errors
    /// The OS returns an error, or it is not a regular file.
    pub fn look_at(path: &Path) -> Result<SourceFile, Error> {
        let file = open(path)?;
        Ok(SourceFile { path: path.to_path_buf(), identity: Identity::of(path, &file)? })
    }

    /// The first `limit` bytes, or all of a shorter file.
    ///
    /// # Errors
    /// As those of [`SourceFile::read`].
    pub fn start(&self, limit: u64) -> Result<Vec<u8>, Error> {
        let mut start = vec![0; self.identity.bytes().min(limit) as usize];
        self.read(0, &mut start)?;
        Ok(start)
    }

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// The system's, or that the file is no longer the one that was looked at.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.opened(|file| file.read(offset, out))
    }

    /// Opens the file for several reads.
    ///
    /// # Errors
    /// Those of `read`, or that the file is no longer the one that was looked at.
    pub(crate) fn opened(&self, read: impl FnOnce(&Opened) -> Result<(), Error>) -> Result<(), Error> {
        let file = Opened { path: &self.path, file: open(&self.path)? };
        let unchanged = || match Identity::of(&self.path, &file.file)? {
            identity if identity == self.identity => Ok(()),
            _ => Err(Error::from(self.changed())),
        };
        unchanged()?;
        let read = read(&file);
        // First whether it changed: that explains a read past the end better than the read's own error.
        unchanged()?;
        read
    }

    /// That the file is no longer the one that was looked at.
    pub fn changed(&self) -> Problem {
        changed(&self.path)
    }
}

/// A file that is open.
pub(crate) struct Opened<'a> {
    path: &'a Path,
    file: File,
}

impl Opened<'_> {
    /// Fills `out` from `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(out, offset).map_err(|error| Error::io(self.path, "cannot read", error))
    }
}

/// Opens a regular file for reading; a FIFO is refused instead of waited for.
///
/// # Errors
/// The OS returns an error, or it is not a regular file.
pub fn open(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| Error::io(path, "cannot open", error))?;
    let metadata = file.metadata().map_err(|error| Error::io(path, "cannot read its metadata", error))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "is a folder" } else { "is not a regular file" };
        return Err(Problem::new(path, found).expected("a file").into());
    }
    Ok(file)
}

/// All bytes of a regular file; `None` when it has more than `limit`. At most `limit` + 1 bytes are read.
///
/// # Errors
/// The OS returns an error, it is not a regular file, or it is modified meanwhile.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = open(path)?;
    let identity = Identity::of(path, &file)?;
    read_all(path, &file, identity, limit)
}

/// All bytes of the file that was `identity` when it was looked at.
fn read_all(path: &Path, file: &File, identity: Identity, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    if identity.bytes() > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(identity.bytes() as usize);
    // A file may be longer than its metadata report: it grows, or it is in /sys.
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    // A modification is reported first, as for weights.
    if Identity::of(path, file)? != identity {
        return Err(changed(path).into());
    }
    read.map_err(|error| Error::io(path, "cannot read", error))?;
    if (bytes.len() as u64) < identity.bytes() {
        return Err(Error::io(path, "cannot read", io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    if identity.bytes() == 0 && !bytes.is_empty() {
        let problem =
            Problem::new(path, "reports length 0 but has bytes, as files in /proc do").expected("a file on a disk");
        return Err(problem.advice("copy it").into());
    }
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// That the file at `path` is no longer the one that was looked at.
fn changed(path: &Path) -> Problem {
    Problem::new(path, "changed while being packed").advice("pack again when nothing writes to it")
}

/// Rejects a file of `folder` that is a link, or behind one, to a file elsewhere: the author of an untrusted folder
/// could put a file of its user into the model. A link into the folder itself is followed. So is one into the blobs of
/// a `huggingface_hub` cache: that which contains the folder, or the blobs of any model, as older versions left them in
/// other folders.
///
/// # Errors
/// The target of the link, or the error of the OS.
pub(crate) fn refuse_link_out_of(folder: &Path, path: &Path) -> Result<(), Error> {
    let resolved = |path: &Path| fs::canonicalize(path).map_err(|error| Error::io(path, "cannot open", error));
    let (target, folder) = (resolved(path)?, resolved(folder)?);
    let is_blob =
        || hub_blobs::blobs_of(&folder).is_some_and(|blobs| target.starts_with(blobs)) || hub_blobs::is_blob(&target);
    // A target that is not a file is rejected when it is opened, with its kind.
    if target.starts_with(&folder) || is_blob() || !target.is_file() {
        return Ok(());
    }
    let problem = Problem::new(path, format!("leads out of the folder, to {}", shown_path(&target)));
    Err(problem.expected("a file of the folder").advice("if it belongs to the model, copy it there").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Row W24, texts.
    #[test]
    fn read_all_rejects_file_modified_meanwhile() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        fs::write(&path, "before").expect("written");
        let file = open(&path).expect("opened");
        let identity = Identity::of(&path, &file).expect("looked at");
        assert_eq!(read_all(&path, &file, identity, 6).expect("read"), Some(b"before".to_vec()));
        assert_eq!(read_all(&path, &file, identity, 5).expect("read"), None);
        let file = open(&path).expect("opened");
        for (what, text) in [("longer", "afterwards"), ("shorter", "aft")] {
            fs::write(&path, text).expect("written");
            let error = read_all(&path, &file, identity, 100).expect_err(what).to_string();
            assert!(error.contains("changed while being packed"), "{what}: {error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn read_at_most_rejects_bytes_of_file_with_length_zero() {
        let error = read_at_most(Path::new("/proc/self/status"), 1 << 20).expect_err("refused").to_string();
        assert!(error.contains("reports length 0 but has bytes"), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("empty"), "").expect("written");
        assert_eq!(read_at_most(&folder.path().join("empty"), 9).expect("read"), Some(Vec::new()));
    }

    /// Row W22, links within a cache of the hub and out of one.
    #[test]
    fn links_are_followed_within_folder_and_into_cache_blobs() {
        let root = tempfile::tempdir().expect("a folder");
        let path = |name: &str| root.path().join(name);
        for folder in
            ["plain/sub", "repo/blobs", "repo/snapshots/1/sub", "repo/refs", "other/blobs", "models--a--b/blobs"]
        {
            fs::create_dir_all(path(folder)).expect("folders");
        }
        for file in [
            "key",
            "plain/file",
            "plain/sub/file",
            "repo/blobs/b",
            "repo/refs/main",
            "other/blobs/b",
            "models--a--b/blobs/b",
        ] {
            fs::write(path(file), "").expect("written");
        }
        symlink(path("plain"), path("link")).expect("linked");
        symlink("../other", path("plain/out")).expect("linked");
        let taken = |folder: &str, name: &str, target: &str| {
            let name = path(folder).join(name);
            symlink(target, &name).expect("linked");
            let result = refuse_link_out_of(&path(folder), &name).map_err(|error| error.to_string());
            fs::remove_file(&name).expect("removed");
            result
        };
        for (folder, name, target) in [
            ("plain", "l", "file"),
            ("plain", "l", "sub/file"),
            ("plain", "sub/l", "../file"),
            ("link", "l", "file"),
            ("repo/snapshots/1", "l", "../../blobs/b"),
            ("repo/snapshots/1", "sub/l", "../../../blobs/b"),
            ("repo/snapshots/1/sub", "l", "../../../blobs/b"),
            ("plain", "l", "../models--a--b/blobs/b"),
        ] {
            assert_eq!(taken(folder, name, target), Ok(()), "{folder}/{name} -> {target}");
        }
        for (folder, name, target, leads_to) in [
            ("plain", "l", "../key", "key"),
            ("plain", "l", "out/blobs/b", "other/blobs/b"),
            ("plain", "l", "../repo/blobs/b", "repo/blobs/b"),
            ("repo/snapshots/1", "l", "../../refs/main", "repo/refs/main"),
            ("repo/snapshots/1", "l", "../../../other/blobs/b", "other/blobs/b"),
            ("repo/snapshots/1", "l", "../../blobs/../../key", "key"),
        ] {
            let error = taken(folder, name, target).expect_err(target);
            let leads_to = fs::canonicalize(path(leads_to)).expect("there");
            let says = format!("leads out of the folder, to {}, expected a file of the folder", leads_to.display());
            assert!(error.contains(&says), "{error}");
        }
        // Through a folder that is a link.
        let behind = refuse_link_out_of(&path("plain"), &path("plain/out/blobs/b")).expect_err("out").to_string();
        assert!(behind.contains("leads out of the folder"), "{behind}");
    }
}
