//! Folders that are created on the way to one, and removed again when nothing is written into it.

use crate::os::directory::{Entry, Folder, stat};
use crate::os::disk::Disk;
use crate::os::place::{FolderError, Walk};
use crate::os::retry::uninterrupted;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

/// Folders that were created on the way to one. Dropped before [`MadeFolders::keep`], it removes those that are empty.
pub struct MadeFolders<'d> {
    disk: &'d dyn Disk,
    /// The parent of each, its name, and its device and inode.
    made: Vec<(Folder, OsString, (u64, u64))>,
}

impl MadeFolders<'_> {
    /// Keeps them.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for MadeFolders<'_> {
    fn drop(&mut self) {
        while let Some((folder, name, inode)) = self.made.pop() {
            // Another process may have replaced it.
            let is_it = folder.entry(&name).is_ok_and(|entry| entry.is_some_and(|entry| entry.inode == inode));
            // A folder that is not empty stays, and those above it. An earlier error is the one to report.
            if !is_it || uninterrupted(|| self.disk.remove_folder(&folder, &name)).is_err() {
                return self.made.clear();
            }
        }
    }
}

impl Folder {
    /// Opens a folder. It and those above it are created if they are missing, and their names are made durable.
    ///
    /// # Errors
    /// The OS returns an error; a name on the way is not that of a folder, or of a link that leads nowhere. The folders
    /// that were created are removed again.
    pub fn make<'d>(disk: &'d dyn Disk, path: &Path) -> Result<(Folder, MadeFolders<'d>), FolderError> {
        // The OS refuses it too; a walk of no steps would end where it begins.
        if path.as_os_str().is_empty() {
            return Err(FolderError::NoName);
        }
        let mut made = MadeFolders { disk, made: Vec::new() };
        let mut walk = Walk::new(path)?;
        while let Some(name) = walk.next() {
            let is_given = walk.ahead.len() < walk.n_given;
            walk.n_given = walk.n_given.min(walk.ahead.len());
            match walk.enter(&name) {
                Err(FolderError::Io(error)) if error.kind() == io::ErrorKind::NotFound && is_given => {
                    made.make(&mut walk, &name)?;
                }
                result => result?,
            }
        }
        Ok((Folder { path: path.to_path_buf(), ..walk.at }, made))
    }
}

impl MadeFolders<'_> {
    /// Creates a folder where the walk is, and goes into it.
    fn make(&mut self, walk: &mut Walk, name: &OsStr) -> Result<(), FolderError> {
        let parent = Folder { descriptor: walk.at.descriptor.try_clone()?, path: walk.at.path.clone() };
        let opened = uninterrupted(|| self.disk.open_folder(&parent))?;
        match uninterrupted(|| self.disk.make_folder(&parent, name)) {
            // Another process was faster. A link is not followed: it was not there when the path was checked.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return walk.enter_folder(name).map_err(|_| error.into());
            }
            result => result?,
        }
        match walk.enter_folder(name).and_then(|()| stat(&walk.at)) {
            Ok(stat) => self.made.push((parent, name.to_os_string(), Entry::new(&stat).inode)),
            Err(error) => {
                let _the_first_error_is_reported = uninterrupted(|| self.disk.remove_folder(&parent, name));
                return Err(error.into());
            }
        }
        Ok(uninterrupted(|| self.disk.sync_folder(&opened))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::disk::SystemDisk;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_folders_are_created_and_removed_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("there")).expect("a folder");
        symlink("there", path("link")).expect("linked");
        symlink("absent", path("dangling")).expect("linked");
        fs::write(path("file"), "").expect("written");
        for (given, is_at) in [
            ("a/b", "a/b"),
            ("link/c", "there/c"),
            ("d/../e/", "e"),
            ("there/./f/g/..", "there/f"),
            ("dangling/../x", "x"),
        ] {
            let (opened, made) = match Folder::make(&SystemDisk, &path(given)) {
                Ok(made) => made,
                Err(error) => {
                    assert!(given.starts_with("dangling"), "{given}: {error}");
                    continue;
                }
            };
            assert_eq!(opened.path(), path(given));
            assert!(path(is_at).is_dir(), "{given}");
            drop(made);
            assert!(!path(is_at).exists(), "{given} is left");
        }
        assert!(path("there").is_dir() && !path("a").exists() && !path("d").exists() && !path("absent").exists());
        for bad in ["file", "file/x", "dangling"] {
            assert!(Folder::make(&SystemDisk, &path(bad)).is_err(), "{bad}");
        }
        assert!(matches!(Folder::make(&SystemDisk, Path::new("")), Err(FolderError::NoName)));
        let (_, made) = Folder::make(&SystemDisk, &path("kept/too")).expect("made");
        made.keep();
        let (_, made) = Folder::make(&SystemDisk, &path("kept/more/most")).expect("made");
        // A folder that is not empty stays, and so does one of another process.
        fs::write(path("kept/more/file"), "").expect("written");
        drop(made);
        assert!(path("kept/too").is_dir() && path("kept/more/file").exists() && !path("kept/more/most").exists());
    }
}
