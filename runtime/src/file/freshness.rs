//! Whether the file behind a mapping is still the one that was opened.

use crate::error::Error;
use crate::os::file_state::FileState;
use crate::os::holes::bytes_in_holes;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Bytes of holes for which a file that was just changed is still read.
const MAX_FRESH_HOLES: u64 = 16 << 20;

/// The file behind a mapping.
pub(super) struct MappedFile {
    file: File,
    path: PathBuf,
    opened: FileState,
    /// Whether it was changed in the future, by the clock of this machine.
    is_ahead: bool,
    /// The last state in which its bytes are known to be those that were opened.
    good: Mutex<Option<FileState>>,
}

impl MappedFile {
    /// A file with this metadata, read at a time since 1970 that is no later than the metadata.
    pub fn new(path: &Path, file: File, metadata: &Metadata, now: Duration) -> MappedFile {
        let opened = FileState::of(metadata);
        // One that was changed within the last moments is not known to be good: its next change may have the same time.
        let good = Mutex::new((!opened.is_fresh(now)).then_some(opened));
        MappedFile { file, path: path.to_path_buf(), opened, is_ahead: opened.is_ahead(now), good }
    }

    /// Whether it was changed further in the future than clocks of one machine are apart.
    pub fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// Refuses a file that changed. Where its state does not decide, `first_damaged` does, which reads all of it.
    pub fn check_unchanged(&self, first_damaged: impl FnOnce() -> Option<Error>) -> Result<(), Error> {
        let good = self.compared(first_damaged)?;
        // No thread panics while holding this lock.
        *self.good.lock().expect("not poisoned") = Some(good);
        Ok(())
    }

    /// As [`MappedFile::check_unchanged`], and keeps nothing of what was found: the next check must be a new one.
    pub fn check_complete(&self, first_damaged: impl FnOnce() -> Option<Error>) -> Result<(), Error> {
        if self.is_good() { Ok(()) } else { self.compared(first_damaged).map(|_| ()) }
    }

    /// Refuses a file that was just changed and has holes of more than 16 MiB among the bytes of `data`.
    pub fn refuse_unfinished(&self, data: Range<u64>) -> Result<(), Error> {
        // By a slow clock a file would be a new one for ever.
        if self.is_ahead || self.is_good() {
            return Ok(());
        }
        match bytes_in_holes(&self.file, data, MAX_FRESH_HOLES) > MAX_FRESH_HOLES {
            true => Err(Error::Unfinished { path: self.path.clone() }),
            false => Ok(()),
        }
    }

    fn is_good(&self) -> bool {
        self.good.lock().expect("not poisoned").is_some()
    }

    /// The state of the file now, when that is still the one that was opened.
    fn compared(&self, first_damaged: impl FnOnce() -> Option<Error>) -> Result<FileState, Error> {
        let metadata = self.file.metadata().map_err(Error::io(&self.path, "read its metadata"))?;
        let now = FileState::of(&metadata);
        let changed = || Err(Error::Changed { path: self.path.clone() });
        if now.written != self.opened.written {
            return changed();
        }
        if *self.good.lock().expect("not poisoned") == Some(now) {
            return Ok(now);
        }
        match first_damaged() {
            None => Ok(now),
            // Without a trace of a change: it may have been so when it was opened.
            Some(damage) if now == self.opened => Err(damage),
            Some(_) => changed(),
        }
    }
}
