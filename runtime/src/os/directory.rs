//! The folder that a file is put into, held open: whatever happens to its path afterwards, what is written goes into
//! the folder that was looked at.
//!
//! A path is walked name by name, so that every link on the way is seen and judged. One that somebody else has put into
//! a folder where everybody may put something, as `/tmp` is, is not followed, as the kernel has it where
//! `fs.protected_symlinks` is set.

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

/// Opens a place without what is in it, for which a folder need not be readable.
#[cfg(target_os = "linux")]
const PLACE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const PLACE: OFlags = OFlags::empty();

/// The folder of a path; that of a bare name is ".".
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Why a path leads nowhere. `Display` gives the reason without the path.
#[derive(Debug)]
#[non_exhaustive]
pub enum FolderError {
    /// A folder on the way is not there, or the system refuses it.
    Folder {
        /// The folder that the last name is in.
        folder: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refuses the last name.
    Io(io::Error),
    /// There are more links than the kernel follows.
    TooManyLinks,
    /// A link of another user, in a folder where everybody may put something.
    ForeignLink {
        /// The link.
        link: PathBuf,
    },
    /// A folder is there.
    IsFolder,
    /// The path is that of a folder, and none is there.
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

/// What a name of a folder stands for.
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
    /// Where it was when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a name stands for, links not followed; `None` for nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn entry(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        let stat = uninterrupted(|| Ok(rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?));
        match stat {
            Ok(stat) => Ok(Some(Entry::new(&stat))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes that the user may still write to its file system.
    ///
    /// # Errors
    /// The system does not say.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = uninterrupted(|| Ok(rustix::fs::fstatvfs(self)?))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether there is no name in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_empty(&self) -> io::Result<bool> {
        listed(self.open(".", OFlags::DIRECTORY)?)?.next().transpose().map(|first| first.is_none())
    }

    /// Whether it is the folder with this device and inode, or lies in it.
    ///
    /// # Errors
    /// The system's; folders above it may not be open to everybody.
    pub fn lies_in(&self, inode: (u64, u64)) -> io::Result<bool> {
        let mut own = Entry::new(&stat(self)?).inode;
        let mut above = self.open("..", PLACE | OFlags::DIRECTORY)?;
        for _ in 0..MAX_DEPTH {
            let next = Entry::new(&stat(&above)?).inode;
            // Only the root is above itself.
            if own == inode || own == next {
                return Ok(own == inode);
            }
            own = next;
            above = open_at(&above, OsStr::new(".."), PLACE | OFlags::DIRECTORY)?;
        }
        Ok(false)
    }

    /// Opens the file of this name for appending and reading, or makes it; a link is not followed.
    ///
    /// # Errors
    /// The system's.
    pub fn open_to_append(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(open_at(self, name, flags)?.into())
    }

    /// Opens a name in it.
    pub(crate) fn open(&self, name: impl AsRef<OsStr>, flags: OFlags) -> io::Result<OwnedFd> {
        open_at(self, name.as_ref(), flags)
    }
}

/// The names in the folder at `path`, in no order. Unlike those of std, which panics, they end well where the system
/// fails to close the folder.
///
/// # Errors
/// It cannot be opened or, each time, not be read on.
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

/// Where a file is, or may be: a name in a folder that is held open. The name is that of no link.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub folder: Folder,
    /// The name.
    pub name: OsString,
    /// What is there.
    pub entry: Option<Entry>,
    /// Whether the path ended in a link, which leads here.
    pub is_linked: bool,
}

impl Place {
    /// Follows a path. Changes nothing.
    ///
    /// # Errors
    /// It leads nowhere, or to a folder.
    pub fn find(path: &Path) -> Result<Place, FolderError> {
        if path.as_os_str().is_empty() {
            return Err(FolderError::NoName);
        }
        // As it is shown: links at its end followed.
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

/// What is a link at one moment and none at the next.
fn changed() -> io::Error {
    io::Error::from(Errno::LOOP)
}

/// The way along a path.
struct Walk {
    /// The folder that was reached.
    at: Folder,
    /// Names that are still ahead.
    ahead: VecDeque<OsString>,
    /// How many of them, the last ones, are of the path itself and not of a link.
    n_given: usize,
    n_links: usize,
    /// Whether the path, or a link at its end, ends as only that of a folder does.
    ends_in_folder: bool,
}

/// What a link is, and its text.
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

    /// Puts the names of a path before those that are ahead.
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

    /// Goes into a folder, or where a link leads.
    fn enter(&mut self, name: &OsStr) -> Result<(), FolderError> {
        match self.enter_folder(name) {
            // So the system answers for a link too.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTDIR | Errno::LOOP)) => {
                let link = self.link(name)?.ok_or(error)?;
                self.follow(name, link).map(|_| ())
            }
            result => Ok(result?),
        }
    }

    /// Goes into a folder, which is none when it is a link.
    fn enter_folder(&mut self, name: &OsStr) -> io::Result<()> {
        let descriptor = self.at.open(name, PLACE | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        self.at = Folder { descriptor, path: self.at.path.join(name) };
        Ok(())
    }

    /// The link of this name; `None` when it is something else.
    fn link(&self, name: &OsStr) -> io::Result<Option<Link>> {
        // Held open, so that the one that is judged is the one that is read.
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

    /// Goes where a link leads; yields its text.
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

/// Folders that were made on the way to one; dropped before [`MadeFolders::keep`], those of them go that are empty.
pub struct MadeFolders<'d> {
    disk: &'d dyn Disk,
    /// The folder that each is in, its name, and what it is.
    made: Vec<(Folder, OsString, (u64, u64))>,
}

impl MadeFolders<'_> {
    /// Lets them stay.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for MadeFolders<'_> {
    fn drop(&mut self) {
        while let Some((folder, name, inode)) = self.made.pop() {
            // Not one that somebody else has put there meanwhile.
            let is_it = folder.entry(&name).is_ok_and(|entry| entry.is_some_and(|entry| entry.inode == inode));
            // One with something in it stays, and those above it; an error before this one is the one to report.
            if !is_it || uninterrupted(|| self.disk.remove_folder(&folder, &name)).is_err() {
                return self.made.clear();
            }
        }
    }
}

impl Folder {
    /// Opens a folder. It and those above it are made, as far as they are missing, and their names brought to the disk.
    ///
    /// # Errors
    /// The system's; a name on the way is that of something else, or of a link that leads nowhere. What was made then
    /// goes again.
    pub fn make<'d>(disk: &'d dyn Disk, path: &Path) -> Result<(Folder, MadeFolders<'d>), FolderError> {
        // Which the system refuses too, and a walk of no steps would end where it begins.
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
    /// Makes a folder where the walk is, and goes into it.
    fn make(&mut self, walk: &mut Walk, name: &OsStr) -> Result<(), FolderError> {
        let parent = Folder { descriptor: walk.at.descriptor.try_clone()?, path: walk.at.path.clone() };
        let opened = uninterrupted(|| self.disk.open_folder(&parent))?;
        match uninterrupted(|| self.disk.make_folder(&parent, name)) {
            // Somebody else was faster. A link is none of ours to follow: it was not there when the path was looked at.
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
    fn the_folder_of_a_path_is_where_a_file_beside_it_would_be() {
        for (path, folder) in [("m", "."), ("./m", "."), ("a/m", "a"), ("../m", ".."), ("/m", "/"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    /// What a path leads to, and what is there.
    fn found(path: PathBuf) -> Result<(PathBuf, bool, bool), String> {
        let place = Place::find(&path).map_err(|error| error.to_string())?;
        Ok((place.folder.path().join(place.name), place.entry.is_some(), place.is_linked))
    }

    #[test]
    fn paths_lead_where_the_kernel_finds_them() {
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
            // Of a link to a folder what is above is above the folder.
            ("to-a/b/../../dangling", "a/b/absent", false, true),
        ] {
            assert_eq!(found(path(given)), Ok((path(leads_to), is_there, is_linked)), "{given}");
        }
        for (given, says) in [
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
            assert_eq!(found(path(given)), Err(says.into()), "{given}");
        }
        assert_eq!(found(PathBuf::new()), Err("no file name at its end".into()));
        assert_eq!(found("/".into()), Err("is a folder".into()));
        assert_eq!(found("Cargo.toml".into()), Ok(("./Cargo.toml".into(), true, false)));
    }

    #[test]
    fn a_link_of_somebody_else_where_all_may_write_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("shared/real")).expect("folders");
        symlink("real/file", path("shared/link")).expect("linked");
        symlink("real", path("shared/to-real")).expect("linked");
        let foreign = "is a link of another user in a folder where all may write";
        let links = ["shared/link", "shared/to-real/file"];
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(path("shared"), open.clone()).expect("open to all");
        // Our own.
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
            // Past the test runner, which keeps what passing tests print.
            writeln!(io::stderr(), "\nSKIPPED: links of another user, which only root can make").expect("taken");
        }
        // A folder where not all may write, or that is not sticky, where they could replace anything.
        for mode in [0o1775, 0o777] {
            fs::set_permissions(path("shared"), fs::Permissions::from_mode(mode)).expect("changed");
            for link in links {
                found(path(link)).expect("followed");
            }
        }
        // Links of whom the folder belongs to.
        fs::set_permissions(path("shared"), open).expect("open to all");
        if is_root {
            std::os::unix::fs::chown(path("shared"), Some(65534), None).expect("given away");
        }
        for link in links {
            found(path(link)).expect("followed");
        }
    }

    #[test]
    fn folders_are_made_as_far_as_they_are_missing_and_go_again() {
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
        // What has something in it stays, and so does what is not ours.
        fs::write(path("kept/more/file"), "").expect("written");
        drop(made);
        assert!(path("kept/too").is_dir() && path("kept/more/file").exists() && !path("kept/more/most").exists());
    }

    #[test]
    fn a_folder_is_empty_when_it_has_no_name() {
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
    fn a_folder_lies_in_itself_and_in_those_above_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("a/b")).expect("folders");
        let opened = |path: &str| Folder::make(&SystemDisk, &folder.path().join(path)).expect("there").0;
        let inode = |path: &str| Entry::new(&stat(opened(path)).expect("there")).inode;
        let b = opened("a/b");
        for (above, expected) in [("a/b", true), ("a", true), (".", true), ("..", true), ("a/b/c", false)] {
            fs::create_dir_all(folder.path().join(above)).expect("there");
            assert_eq!(b.lies_in(inode(above)).expect("known"), expected, "{above}");
        }
    }
}
