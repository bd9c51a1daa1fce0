//! Disks that fail, are slow, or remember: the system's behind a hook that sees every call before it is made.
//!
//! None of them waits for the real disk. What a power cut would lose is not tried but worked out, in [`crate::power`].

use olmo_infer::internals::os::directory::Folder;
use olmo_infer::internals::os::disk::{Disk, SystemDisk};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::Mutex;

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

/// The system's disk behind a hook. The hook returns an error to fail a call, or the most bytes that a write may take.
pub struct Hooked<F>(pub F);

impl<F: Fn(Call<'_>) -> io::Result<usize> + Sync> Disk for Hooked<F> {
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

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this number of the system.
    Error(i32),
    /// A write takes half of its bytes; other calls go well.
    Short,
    /// A write takes nothing; other calls go well.
    Nothing,
}

/// Which calls of a disk fail, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether it knows files without a name.
    pub unnamed: bool,
    /// The number of the call that fails, from 1.
    pub fail_at: usize,
    /// Whether all calls after it fail too.
    pub sticky: bool,
    /// How they fail.
    pub fault: Fault,
    /// Whether the removal of temporary files can fail: if not, none may be left.
    pub clean_up_fails: bool,
}

impl Plan {
    /// A disk without faults.
    pub fn sound() -> Plan {
        let fault = Fault::Error(0);
        Plan { unnamed: true, fail_at: usize::MAX, sticky: false, fault, clean_up_fails: false }
    }

    /// Calls `work` with a disk that fails like this; returns its result and the names of the calls that were made.
    pub fn run<T>(&self, work: impl FnOnce(&dyn Disk) -> T) -> (T, Vec<&'static str>) {
        let calls = Mutex::new(Vec::new());
        let result = work(&Hooked(|call: Call<'_>| self.meet(call, &calls)));
        (result, calls.into_inner().expect("no panic"))
    }

    fn meet(&self, call: Call<'_>, calls: &Mutex<Vec<&'static str>>) -> io::Result<usize> {
        if matches!(call, Call::CreateUnnamed(_)) && !self.unnamed {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if matches!(call, Call::Remove(..) | Call::RemoveFolder(..)) && !self.clean_up_fails {
            return Ok(usize::MAX);
        }
        let mut calls = calls.lock().expect("no panic");
        calls.push(call.name());
        if calls.len() != self.fail_at && !(self.sticky && calls.len() > self.fail_at) {
            return Ok(usize::MAX);
        }
        match (self.fault, call) {
            (Fault::Error(number), _) => Err(io::Error::from_raw_os_error(number)),
            (Fault::Short, Call::Write(_, bytes, _)) => Ok(bytes.len().div_ceil(2)),
            (Fault::Nothing, Call::Write(..)) => Ok(0),
            _ => Ok(usize::MAX),
        }
    }
}
