//! A disk that remembers what is done to it.

use olmo_infer::internals::os::directory::Folder;
use olmo_infer::internals::os::disk::{Disk, SystemDisk};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A file, under any of its names.
pub type Inode = u64;

/// A recorded operation that may be lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Bytes at an offset of a file.
    Write(Inode, usize, Vec<u8>),
    /// A file of at least this length.
    Allocate(Inode, usize),
    /// Everything written to a file comes to the disk.
    Sync(Inode),
    /// A file gets a name.
    Name(Inode, PathBuf),
    /// A file gets another name instead of its first.
    Rename(PathBuf, PathBuf),
    /// All names in the folder come to the disk.
    SyncFolder,
}

/// The disk operations of a run.
#[derive(Clone, Debug)]
pub struct Recording {
    /// All of it, in order.
    pub operations: Vec<Operation>,
    /// The files before it.
    pub(crate) old: BTreeMap<PathBuf, (Inode, Vec<u8>)>,
    /// The files after it.
    pub(crate) new: BTreeMap<PathBuf, (Inode, Vec<u8>)>,
}

impl Recording {
    /// Records what `work` does in `folder`, with unnamed files or without.
    pub fn of(folder: &Path, unnamed: bool, work: impl FnOnce(&dyn Disk)) -> Recording {
        let recorder = Recorder { folder, unnamed, operations: Mutex::new(Vec::new()) };
        let old = files(folder);
        work(&recorder);
        Recording { operations: recorder.operations.into_inner().expect("no panic"), old, new: files(folder) }
    }
}

/// Names, inodes and bytes of the files in `folder`.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Inode, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| {
            let inode = fs::metadata(&path).expect("a file").ino();
            let bytes = fs::read(&path).expect("a file");
            (path, (inode, bytes))
        })
        .collect()
}

/// The system's disk, which remembers what it did. It does not wait for the real disk.
struct Recorder<'a> {
    /// The folder whose names matter.
    folder: &'a Path,
    unnamed: bool,
    operations: Mutex<Vec<Operation>>,
}

impl Recorder<'_> {
    fn add(&self, operation: Operation) {
        self.operations.lock().expect("no panic").push(operation);
    }
}

fn inode(file: &File) -> Inode {
    file.metadata().expect("an open file").ino()
}

impl Disk for Recorder<'_> {
    fn make_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        SystemDisk.make_folder(folder, name)
    }

    fn remove_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        panic!("{}: a run without faults removes nothing", folder.path().join(name).display())
    }

    fn open_folder(&self, folder: &Folder) -> io::Result<File> {
        SystemDisk.open_folder(folder)
    }

    fn create_unnamed(&self, folder: &Folder) -> io::Result<File> {
        if self.unnamed { SystemDisk.create_unnamed(folder) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn create_named(&self, folder: &Folder, name: &OsStr) -> io::Result<File> {
        let file = SystemDisk.create_named(folder, name)?;
        self.add(Operation::Name(inode(&file), folder.path().join(name)));
        Ok(file)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        SystemDisk.allocate(file, bytes)?;
        self.add(Operation::Allocate(inode(file), bytes as usize));
        Ok(())
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let taken = SystemDisk.write_at(file, bytes, offset)?;
        self.add(Operation::Write(inode(file), offset as usize, bytes[..taken].to_vec()));
        Ok(taken)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.add(Operation::Sync(inode(file)));
        Ok(())
    }

    fn link(&self, file: &File, folder: &Folder, name: &OsStr) -> io::Result<()> {
        SystemDisk.link(file, folder, name)?;
        self.add(Operation::Name(inode(file), folder.path().join(name)));
        Ok(())
    }

    fn rename(&self, folder: &Folder, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
        SystemDisk.rename(folder, from, to, replace)?;
        self.add(Operation::Rename(folder.path().join(from), folder.path().join(to)));
        Ok(())
    }

    fn remove(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        panic!("{}: a run without faults removes nothing", folder.path().join(name).display())
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        if inode(folder) == fs::metadata(self.folder)?.ino() {
            self.add(Operation::SyncFolder);
        }
        Ok(())
    }
}
