//! The folder of an output file, held open: the file is written into the folder that was checked, even if its path
//! changes afterwards.
//!
//! Paths are walked name by name, so that every link is checked. A link of another user in a sticky, world-writable
//! folder such as `/tmp` is not followed. The kernel has the same rule with `fs.protected_symlinks`.

use crate::os::disk::{Disk, uninterrupted};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;
/// Most folders above another: a path has 4096 bytes.
const MAX_DEPTH: usize = 4096;

/// Opens a folder without its contents, which needs no read permission.
#[cfg(target_os = "linux")]
const PLACE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const PLACE: OFlags = OFlags::empty();

/// The folder of a path; "." for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Why a path cannot be resolved. `Display` prints the reason without the path.
#[derive(Debug)]
#[non_exhaustive]
pub enum FolderError {
    /// A folder of the path does not exist or cannot be opened.
    Folder {
        /// The folder that the last name is in.
        folder: PathBuf,
        /// The error of the OS.
        source: io::Error,
    },
    /// The error of the OS for the last name.
    Io(io::Error),
    /// There are more links than the kernel follows.
    TooManyLinks,
    /// A link of another user in a sticky, world-writable folder.
    ForeignLink {
        /// The link.
        link: PathBuf,
    },
    /// The path is that of an existing folder.
    IsFolder,
    /// The path has the form of a folder, such as `a/`, and does not exist.
    NoName,
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::Folder { source, .. } | FolderError::Io(source) => source.fmt(f),
            FolderError::TooManyLinks => f.write_str("too many symbolic links"),
            FolderError::ForeignLink { .. } => f.write_str("is a link of another user in a folder where all may write"),
            FolderError::IsFolder => f.write_str("is a folder"),
            FolderError::NoName => f.write_str("no file name at its end"),
        }
    }
}

impl std::error::Error for FolderError {}

impl From<io::Error> for FolderError {
    fn from(error: io::Error) -> FolderError {
        FolderError::Io(error)
    }
}

/// The file type, inode and length behind a name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// A regular file.
    pub is_file: bool,
    /// A symbolic link.
    pub is_link: bool,
    /// A folder.
    pub is_folder: bool,
    /// Device and inode.
    pub inode: (u64, u64),
    /// Length in bytes.
    pub bytes: u64,
}

impl Entry {
    #[allow(clippy::unnecessary_cast, reason = "systems differ in the types of these numbers")]
    fn new(stat: &Stat) -> Entry {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Entry {
            is_file: kind == FileType::RegularFile,
            is_link: kind == FileType::Symlink,
            is_folder: kind == FileType::Directory,
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            bytes: stat.st_size as u64,
        }
    }
}

/// A folder that is held open.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Folder {
    /// The path by which it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry of a name, without following links; `None` if it does not exist.
    ///
    /// # Errors
    /// Those of the OS.
    pub fn entry(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        let stat = uninterrupted(|| Ok(rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?));
        match stat {
            Ok(stat) => Ok(Some(Entry::new(&stat))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Free bytes of its file system for this user.
    ///
    /// # Errors
    /// Those of the OS.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = uninterrupted(|| Ok(rustix::fs::fstatvfs(self)?))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether the folder has no entries.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_empty(&self) -> io::Result<bool> {
        listed(self.open(".", OFlags::DIRECTORY)?)?.next().transpose().map(|first| first.is_none())
    }

    /// Whether it is the folder with this device and inode, or is inside it.
    ///
    /// # Errors
    /// Those of the OS; the user may not be allowed to open the folders above it.
    pub fn is_inside(&self, inode: (u64, u64)) -> io::Result<bool> {
        let mut own = Entry::new(&stat(self)?).inode;
        let mut above = self.open("..", PLACE | OFlags::DIRECTORY)?;
        for _ in 0..MAX_DEPTH {
            let next = Entry::new(&stat(&above)?).inode;
            // Only the root is its own parent.
            if own == inode || own == next {
                return Ok(own == inode);
            }
            own = next;
            above = open_at(&above, OsStr::new(".."), PLACE | OFlags::DIRECTORY)?;
        }
        Ok(false)
    }

    /// Opens or creates the file of this name, for appending and reading. Does not follow links.
    ///
    /// # Errors
    /// Those of the OS.
    pub fn open_to_append(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(open_at(self, name, flags)?.into())
    }

    /// Opens a name in it.
    pub(crate) fn open(&self, name: impl AsRef<OsStr>, flags: OFlags) -> io::Result<OwnedFd> {
        open_at(self, name.as_ref(), flags)
    }
}

/// The names in the folder at `path`, in unspecified order. Does not panic if closing the folder fails, as std does.
///
/// # Errors
/// The folder cannot be opened. An item is an error if reading the folder fails.
pub fn names(path: &Path) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
    listed(open_at(CWD, path.as_os_str(), OFlags::DIRECTORY)?)
}

fn listed(folder: OwnedFd) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
    let name = |entry: rustix::io::Result<rustix::fs::DirEntry>| match entry {
        Ok(entry) => match entry.file_name().to_bytes() {
            b"." | b".." => None,
            name => Some(Ok(OsStr::from_bytes(name).to_os_string())),
        },
        Err(error) => Some(Err(error.into())),
    };
    Ok(Dir::new(folder)?.filter_map(name))
}

fn open_at(folder: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let folder = folder.as_fd();
    uninterrupted(|| Ok(rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))?))
}

fn stat(file: impl AsFd) -> io::Result<Stat> {
    let file = file.as_fd();
    uninterrupted(|| Ok(rustix::fs::fstat(file)?))
}

/// A resolved path of a file that may not exist: a name in a folder that is held open. The name is not that of a link.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub folder: Folder,
    /// The name.
    pub name: OsString,
    /// The existing file, if there is one.
    pub entry: Option<Entry>,
    /// Whether the path ended in a link to this name.
    pub is_linked: bool,
}

impl Place {
    /// Resolves a path. Changes nothing.
    ///
    /// # Errors
    /// The path cannot be resolved, or is that of a folder.
    pub fn find(path: &Path) -> Result<Place, FolderError> {
        if path.as_os_str().is_empty() {
            return Err(FolderError::NoName);
        }
        // The path for messages, with the links at its end followed.
        let mut shown = path.to_path_buf();
        let mut is_linked = false;
        let mut walk = Walk::new(path)?;
        while let Some(name) = walk.next() {
            if !walk.ahead.is_empty() || name == ".." {
                walk.enter(&name).map_err(|error| match error {
                    FolderError::Io(source) => FolderError::Folder { folder: folder_of(&shown).to_path_buf(), source },
                    error => error,
                })?;
                continue;
            }
            let entry = walk.at.entry(&name)?;
            match entry {
                Some(Entry { is_link: true, .. }) => {
                    let Some(link) = walk.link(&name)? else { return Err(changed().into()) };
                    shown = folder_of(&shown).join(walk.follow(&name, link)?);
                    is_linked = true;
                }
                Some(Entry { is_folder: true, .. }) => return Err(FolderError::IsFolder),
                Some(_) if walk.ends_in_folder => return Err(io::Error::from(Errno::NOTDIR).into()),
                None if walk.ends_in_folder => return Err(FolderError::NoName),
                entry => {
                    let folder = Folder { path: folder_of(&shown).to_path_buf(), ..walk.at };
                    return Ok(Place { folder, name, entry, is_linked });
                }
            }
        }
        Err(FolderError::IsFolder)
    }
}

/// The error for a name that was a link and is no longer one.
fn changed() -> io::Error {
    io::Error::from(Errno::LOOP)
}

/// A walk along a path.
struct Walk {
    /// The current folder.
    at: Folder,
    /// The remaining names.
    ahead: VecDeque<OsString>,
    /// The number of remaining names, at the end, that are from the path itself and not from a link.
    n_given: usize,
    n_links: usize,
    /// Whether the path, or a link at its end, ends with `/` or `/.`.
    ends_in_folder: bool,
}

/// The metadata and the text of a link.
struct Link(Stat, PathBuf);

impl Walk {
    fn new(path: &Path) -> io::Result<Walk> {
        let beginning = Path::new(if path.is_absolute() { "/" } else { "." });
        let descriptor = open_at(CWD, beginning.as_os_str(), PLACE | OFlags::DIRECTORY)?;
        let at = Folder { descriptor, path: beginning.to_path_buf() };
        let mut walk = Walk { at, ahead: VecDeque::new(), n_given: 0, n_links: 0, ends_in_folder: false };
        walk.push(path);
        walk.n_given = walk.ahead.len();
        Ok(walk)
    }

    /// Puts the names of a path before the remaining ones.
    fn push(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        self.ends_in_folder |= self.ahead.is_empty() && (bytes.ends_with(b"/") || bytes.ends_with(b"/."));
        let names = bytes.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        for name in names.rev() {
            self.ahead.push_front(OsStr::from_bytes(name).to_os_string());
        }
    }

    fn next(&mut self) -> Option<OsString> {
        self.ahead.pop_front()
    }

    /// Enters a folder, or follows a link.
    fn enter(&mut self, name: &OsStr) -> Result<(), FolderError> {
        match self.enter_folder(name) {
            // The OS returns these errors for a link too.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTDIR | Errno::LOOP)) => {
                let link = self.link(name)?.ok_or(error)?;
                self.follow(name, link).map(|_| ())
            }
            result => Ok(result?),
        }
    }

    /// Enters a folder. A link to a folder is an error.
    fn enter_folder(&mut self, name: &OsStr) -> io::Result<()> {
        let descriptor = self.at.open(name, PLACE | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        self.at = Folder { descriptor, path: self.at.path.join(name) };
        Ok(())
    }

    /// The link of this name; `None` if it is not a link.
    fn link(&self, name: &OsStr) -> io::Result<Option<Link>> {
        // Held open, so that the checked link is the one that is read.
        #[cfg(target_os = "linux")]
        let (link, name) = (self.at.open(name, OFlags::PATH | OFlags::NOFOLLOW)?, c"");
        #[cfg(target_os = "linux")]
        let of_link = stat(&link)?;
        #[cfg(not(target_os = "linux"))]
        let link = &self.at;
        #[cfg(not(target_os = "linux"))]
        let of_link = uninterrupted(|| Ok(rustix::fs::statat(link, name, AtFlags::SYMLINK_NOFOLLOW)?))?;
        if !Entry::new(&of_link).is_link {
            return Ok(None);
        }
        let text = uninterrupted(|| Ok(rustix::fs::readlinkat(&link, name, Vec::new())?))?;
        Ok(Some(Link(of_link, PathBuf::from(OsString::from_vec(text.into_bytes())))))
    }

    /// Follows a link and returns its text.
    fn follow(&mut self, name: &OsStr, Link(of_link, text): Link) -> Result<PathBuf, FolderError> {
        self.n_links += 1;
        if self.n_links > MAX_LINKS {
            return Err(FolderError::TooManyLinks);
        }
        let of_folder = stat(&self.at)?;
        let is_shared = Mode::from_raw_mode(of_folder.st_mode).contains(Mode::SVTX | Mode::WOTH);
        let is_foreign = ![of_folder.st_uid, rustix::process::geteuid().as_raw()].contains(&of_link.st_uid);
        if is_shared && is_foreign {
            return Err(FolderError::ForeignLink { link: self.at.path.join(name) });
        }
        if text.is_absolute() {
            let descriptor = open_at(CWD, OsStr::new("/"), PLACE | OFlags::DIRECTORY)?;
            self.at = Folder { descriptor, path: PathBuf::from("/") };
        }
        self.push(&text);
        Ok(text)
    }
}

/// Folders that [`Folder::make`] created. Unless [`MadeFolders::keep`] is called, dropping this removes the empty ones.
pub struct MadeFolders<'d> {
    disk: &'d dyn Disk,
    /// Parent, name, and device and inode of each.
    made: Vec<(Folder, OsString, (u64, u64))>,
}

impl MadeFolders<'_> {
    /// Keeps the folders.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for MadeFolders<'_> {
    fn drop(&mut self) {
        while let Some((folder, name, inode)) = self.made.pop() {
            // Another process may have replaced the folder.
            let is_it = folder.entry(&name).is_ok_and(|entry| entry.is_some_and(|entry| entry.inode == inode));
            // A folder that is not empty stays, and so do those above it. An earlier error is already reported.
            if !is_it || uninterrupted(|| self.disk.remove_folder(&folder, &name)).is_err() {
                return self.made.clear();
            }
        }
    }
}

impl Folder {
    /// Opens a folder. Creates it and its missing parents, and makes their names durable (fsync).
    ///
    /// # Errors
    /// Those of the OS; a name of the path is not that of a folder, or is a dangling link. Created folders are then
    /// removed.
    pub fn make<'d>(disk: &'d dyn Disk, path: &Path) -> Result<(Folder, MadeFolders<'d>), FolderError> {
        // The OS returns an error too. Without this check the walk would end in the current folder.
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
    /// Creates a folder in the current folder of the walk, and enters it.
    fn make(&mut self, walk: &mut Walk, name: &OsStr) -> Result<(), FolderError> {
        let parent = Folder { descriptor: walk.at.descriptor.try_clone()?, path: walk.at.path.clone() };
        let opened = uninterrupted(|| self.disk.open_folder(&parent))?;
        match uninterrupted(|| self.disk.make_folder(&parent, name)) {
            // Another process created the name first. A link is not followed: it did not exist when the walk came here.
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
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn folder_of_returns_parent_or_current_folder() {
        for (path, folder) in [("m", "."), ("./m", "."), ("a/m", "a"), ("../m", ".."), ("/m", "/"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    /// The resolved path, whether it exists, and whether the given path ended in a link.
    fn found(path: PathBuf) -> Result<(PathBuf, bool, bool), String> {
        let place = Place::find(&path).map_err(|error| error.to_string())?;
        Ok((place.folder.path().join(place.name), place.entry.is_some(), place.is_linked))
    }

    #[test]
    fn find_resolves_paths_as_the_kernel_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("a/b")).expect("folders");
        fs::write(path("a/file"), "").expect("written");
        symlink("a", path("to-a")).expect("linked");
        symlink("../file", path("a/b/to-file")).expect("linked");
        symlink(path("a/b/absent"), path("dangling")).expect("linked");
        symlink("a/", path("to-folder")).expect("linked");
        symlink("a/absent/", path("to-absent-folder")).expect("linked");
        for (given, leads_to, is_there, is_linked) in [
            ("a/file", "a/file", true, false),
            ("a//./file", "a//./file", true, false),
            ("a/b/../file", "a/b/../file", true, false),
            ("to-a/file", "to-a/file", true, false),
            ("to-a/new", "to-a/new", false, false),
            ("to-a/b/to-file", "to-a/b/../file", true, true),
            ("dangling", "a/b/absent", false, true),
            // `..` after a link to a folder is the parent of that folder.
            ("to-a/b/../../dangling", "a/b/absent", false, true),
        ] {
            assert_eq!(found(path(given)), Ok((path(leads_to), is_there, is_linked)), "{given}");
        }
        for (given, message) in [
            ("a", "is a folder"),
            ("a/", "is a folder"),
            ("a/b/..", "is a folder"),
            ("a/.", "is a folder"),
            ("to-a", "is a folder"),
            ("to-folder", "is a folder"),
            ("new/", "no file name at its end"),
            ("new/.", "no file name at its end"),
            ("to-absent-folder", "no file name at its end"),
            ("a/file/", "Not a directory (os error 20)"),
            ("a/file/x", "Not a directory (os error 20)"),
            ("absent/x", "No such file or directory (os error 2)"),
            ("dangling/x", "No such file or directory (os error 2)"),
        ] {
            assert_eq!(found(path(given)), Err(message.into()), "{given}");
        }
        assert_eq!(found(PathBuf::new()), Err("no file name at its end".into()));
        assert_eq!(found("/".into()), Err("is a folder".into()));
        assert_eq!(found("Cargo.toml".into()), Ok(("./Cargo.toml".into(), true, false)));
    }

    #[test]
    fn foreign_link_in_sticky_folder_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("shared/real")).expect("folders");
        symlink("real/file", path("shared/link")).expect("linked");
        symlink("real", path("shared/to-real")).expect("linked");
        let foreign = "is a link of another user in a folder where all may write";
        let links = ["shared/link", "shared/to-real/file"];
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(path("shared"), open.clone()).expect("open to all");
        // Links of the same user.
        for link in links {
            found(path(link)).expect("followed");
        }
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            for link in ["shared/link", "shared/to-real"] {
                std::os::unix::fs::lchown(path(link), Some(65534), None).expect("given away");
            }
            for link in links {
                assert_eq!(found(path(link)), Err(foreign.into()), "{link}");
                let made = Folder::make(&SystemDisk, &path(link)).map(|_| ()).map_err(|error| error.to_string());
                assert_eq!(made, Err(foreign.into()), "{link}");
            }
        } else {
            // Directly to standard error: the test runner hides the output of passing tests.
            writeln!(io::stderr(), "\nSKIPPED: links of another user, which only root can make").expect("taken");
        }
        // A folder that is not world-writable, and one that is not sticky, where any user could replace any file.
        for mode in [0o1775, 0o777] {
            fs::set_permissions(path("shared"), fs::Permissions::from_mode(mode)).expect("changed");
            for link in links {
                found(path(link)).expect("followed");
            }
        }
        // Links of the owner of the folder.
        fs::set_permissions(path("shared"), open).expect("open to all");
        if is_root {
            std::os::unix::fs::chown(path("shared"), Some(65534), None).expect("given away");
        }
        for link in links {
            found(path(link)).expect("followed");
        }
    }

    #[test]
    fn make_creates_missing_folders_and_drop_removes_them() {
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
        // A folder that is not empty stays, and so does one that existed before.
        fs::write(path("kept/more/file"), "").expect("written");
        drop(made);
        assert!(path("kept/too").is_dir() && path("kept/more/file").exists() && !path("kept/more/most").exists());
    }

    #[test]
    fn is_empty_counts_hidden_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let (opened, _) = Folder::make(&SystemDisk, folder.path()).expect("there");
        assert!(opened.is_empty().expect("read"));
        fs::write(folder.path().join(".hidden"), "").expect("written");
        assert!(!opened.is_empty().expect("read"));
        let found: Vec<OsString> = names(folder.path()).expect("opened").map(|name| name.expect("read")).collect();
        assert_eq!(found, [".hidden"]);
        assert!(names(&folder.path().join("absent")).is_err() && names(&folder.path().join(".hidden")).is_err());
    }

    #[test]
    fn folder_is_inside_itself_and_its_parents() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("a/b")).expect("folders");
        let opened = |path: &str| Folder::make(&SystemDisk, &folder.path().join(path)).expect("there").0;
        let inode = |path: &str| Entry::new(&stat(opened(path)).expect("there")).inode;
        let b = opened("a/b");
        for (above, expected) in [("a/b", true), ("a", true), (".", true), ("..", true), ("a/b/c", false)] {
            fs::create_dir_all(folder.path().join(above)).expect("there");
            assert_eq!(b.is_inside(inode(above)).expect("known"), expected, "{above}");
        }
    }
}
