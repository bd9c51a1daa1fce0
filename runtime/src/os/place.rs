//! Where a path leads: a name in a folder that is held open.
//!
//! A path is walked name by name, so that every link on the way is checked. A link of another user, in a folder where
//! all users may create files, as in `/tmp`, is not followed: the kernel does the same with `fs.protected_symlinks`.

use crate::os::directory::{Entry, Folder, PLACE, folder_of, open_at, stat};
use crate::os::retry::uninterrupted;
#[cfg(not(target_os = "linux"))]
use rustix::fs::AtFlags;
use rustix::fs::{CWD, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// Why a path leads nowhere. `Display` gives the reason without the path.
#[derive(Debug)]
#[non_exhaustive]
pub enum FolderError {
    /// A folder on the way does not exist or cannot be opened.
    Folder {
        /// The folder of the last name.
        folder: PathBuf,
        /// The error of the OS.
        source: io::Error,
    },
    /// The OS returns an error for the last name.
    Io(io::Error),
    /// There are more links than the kernel follows.
    TooManyLinks,
    /// A link of another user, in a folder where all users may create files.
    ForeignLink {
        /// The link.
        link: PathBuf,
    },
    /// The path is that of a folder.
    IsFolder,
    /// The path ends as that of a folder, and does not exist.
    NoName,
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::Folder { source, .. } | FolderError::Io(source) => source.fmt(f),
            FolderError::TooManyLinks => f.write_str("too many symbolic links"),
            FolderError::ForeignLink { .. } => f.write_str(
                "is a link of another user in a folder where all may write, expected one of your own; give the path that \
                 it leads to",
            ),
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

/// Where a file is, or will be: a name in a folder that is held open. The name is not that of a link.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub folder: Folder,
    /// The name.
    pub name: OsString,
    /// Its entry, if it exists.
    pub entry: Option<Entry>,
    /// Whether the path ends in a link, which leads here.
    pub is_linked: bool,
}

impl Place {
    /// Follows a path. Changes nothing.
    ///
    /// # Errors
    /// It leads nowhere or to a folder.
    pub fn find(path: &Path) -> Result<Place, FolderError> {
        if path.as_os_str().is_empty() {
            return Err(FolderError::NoName);
        }
        // For messages: links at its end followed.
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

/// An entry that was a link a moment ago.
fn changed() -> io::Error {
    io::Error::from(Errno::LOOP)
}

/// A walk along a path.
pub(super) struct Walk {
    /// The folder that was reached.
    pub(super) at: Folder,
    /// Names that are still ahead.
    pub(super) ahead: VecDeque<OsString>,
    /// How many of them, the last ones, are of the path itself and not of a link.
    pub(super) n_given: usize,
    n_links: usize,
    /// Whether the path, or a link at its end, ends as only that of a folder does.
    ends_in_folder: bool,
}

/// The metadata of a link, and its text.
struct Link(Stat, PathBuf);

impl Walk {
    pub(super) fn new(path: &Path) -> io::Result<Walk> {
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

    pub(super) fn next(&mut self) -> Option<OsString> {
        self.ahead.pop_front()
    }

    /// Goes into a folder, or where a link leads.
    pub(super) fn enter(&mut self, name: &OsStr) -> Result<(), FolderError> {
        match self.enter_folder(name) {
            // The OS returns them for a link too.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTDIR | Errno::LOOP)) => {
                let link = self.link(name)?.ok_or(error)?;
                self.follow(name, link).map(|_| ())
            }
            result => Ok(result?),
        }
    }

    /// Goes into a folder, not through a link.
    pub(super) fn enter_folder(&mut self, name: &OsStr) -> io::Result<()> {
        let descriptor = self.at.open(name, PLACE | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        self.at = Folder { descriptor, path: self.at.path.join(name) };
        Ok(())
    }

    /// The link of this name; `None` when it is something else.
    fn link(&self, name: &OsStr) -> io::Result<Option<Link>> {
        // Held open, so that the link that is checked is the one that is read.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::disk::SystemDisk;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
    fn refuses_link_of_another_user_where_all_may_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("shared/real")).expect("folders");
        symlink("real/file", path("shared/link")).expect("linked");
        symlink("real", path("shared/to-real")).expect("linked");
        let foreign = "is a link of another user in a folder where all may write, expected one of your own; give the path \
                       that it leads to";
        let links = ["shared/link", "shared/to-real/file"];
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(path("shared"), open.clone()).expect("open to all");
        // Links of this user.
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
        // Links of the owner of the folder.
        fs::set_permissions(path("shared"), open).expect("open to all");
        if is_root {
            std::os::unix::fs::chown(path("shared"), Some(65534), None).expect("given away");
        }
        for link in links {
            found(path(link)).expect("followed");
        }
    }
}
