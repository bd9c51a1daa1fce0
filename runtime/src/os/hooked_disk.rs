//! A disk for tests: the disk of this machine, with a hook before each call.

use crate::os::directory::Folder;
use crate::os::disk::{Disk, SystemDisk};
use std::ffi::OsStr;
use std::fs::File;
use std::io;

/// A call of the disk, with what it is given.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// [`Disk::make_folder`].
    MakeFolder(&'a Folder, &'a OsStr),
    /// [`Disk::remove_folder`].
    RemoveFolder(&'a Folder, &'a OsStr),
    /// [`Disk::open_folder`].
    OpenFolder(&'a Folder),
    /// [`Disk::create_unnamed`].
    CreateUnnamed(&'a Folder),
    /// [`Disk::create_named`].
    CreateNamed(&'a Folder, &'a OsStr),
    /// [`Disk::allocate`].
    Allocate(&'a File, u64),
    /// [`Disk::write_at`].
    Write(&'a File, &'a [u8], u64),
    /// [`Disk::sync`].
    Sync(&'a File),
    /// [`Disk::link`].
    Link(&'a File, &'a Folder, &'a OsStr),
    /// [`Disk::rename`].
    Rename(&'a Folder, &'a OsStr, &'a OsStr),
    /// [`Disk::remove`].
    Remove(&'a Folder, &'a OsStr),
    /// [`Disk::sync_folder`].
    SyncFolder(&'a File),
}

impl Call<'_> {
    /// The name of the method.
    pub fn name(&self) -> &'static str {
        match self {
            Call::MakeFolder(..) => "make_folder",
            Call::RemoveFolder(..) => "remove_folder",
            Call::OpenFolder(_) => "open_folder",
            Call::CreateUnnamed(_) => "create_unnamed",
            Call::CreateNamed(..) => "create_named",
            Call::Allocate(..) => "allocate",
            Call::Write(..) => "write_at",
            Call::Sync(_) => "sync",
            Call::Link(..) => "link",
            Call::Rename(..) => "rename",
            Call::Remove(..) => "remove",
            Call::SyncFolder(_) => "sync_folder",
        }
    }
}

/// The disk of this machine, with a hook before each call: it returns an error, or the most bytes that a write may
/// take. Nothing is synced.
pub struct HookedDisk<F>(pub F);

impl<F: Fn(Call<'_>) -> io::Result<usize> + Sync> Disk for HookedDisk<F> {
    fn make_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        self.0(Call::MakeFolder(folder, name))?;
        SystemDisk.make_folder(folder, name)
    }

    fn remove_folder(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        self.0(Call::RemoveFolder(folder, name))?;
        SystemDisk.remove_folder(folder, name)
    }

    fn open_folder(&self, folder: &Folder) -> io::Result<File> {
        self.0(Call::OpenFolder(folder))?;
        SystemDisk.open_folder(folder)
    }

    fn create_unnamed(&self, folder: &Folder) -> io::Result<File> {
        self.0(Call::CreateUnnamed(folder))?;
        SystemDisk.create_unnamed(folder)
    }

    fn create_named(&self, folder: &Folder, name: &OsStr) -> io::Result<File> {
        self.0(Call::CreateNamed(folder, name))?;
        SystemDisk.create_named(folder, name)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.0(Call::Allocate(file, bytes))?;
        SystemDisk.allocate(file, bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let most = self.0(Call::Write(file, bytes, offset))?;
        SystemDisk.write_at(file, &bytes[..bytes.len().min(most)], offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.0(Call::Sync(file)).map(|_| ())
    }

    fn link(&self, file: &File, folder: &Folder, name: &OsStr) -> io::Result<()> {
        self.0(Call::Link(file, folder, name))?;
        SystemDisk.link(file, folder, name)
    }

    fn rename(&self, folder: &Folder, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
        self.0(Call::Rename(folder, from, to))?;
        SystemDisk.rename(folder, from, to, replace)
    }

    fn remove(&self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        self.0(Call::Remove(folder, name))?;
        SystemDisk.remove(folder, name)
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        self.0(Call::SyncFolder(folder)).map(|_| ())
    }
}
