//! What shows that a file was modified.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A change that is older than this when the file is opened is complete. It is more than a tick of the clocks by which
/// file systems note changes (1 to 10 ms, whole or even seconds on some), and leaves time to a call that writes many
/// megabytes on a busy machine: it has the time of its beginning.
const COMPLETE_AFTER: Duration = Duration::from_secs(2);

/// The state of a file: two equal ones are of an unmodified file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// What writing changes.
    pub written: Written,
    /// Seconds and nanoseconds of the last change of the file or of its metadata, its names among them. No call sets it
    /// to a chosen time.
    changed: (i64, i64),
}

/// What writing to a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length.
    pub bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileState {
    /// The state that `metadata` states.
    pub fn of(metadata: &Metadata) -> FileState {
        let written = Written { bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) };
        FileState { written, changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    /// Whether the last change before `now`, a time since 1970, is so recent that it may not be complete, or that
    /// another one could have the same time. One in the future, by another clock, is.
    pub fn is_fresh(&self, now: Duration) -> bool {
        now < self.changed_at().saturating_add(COMPLETE_AFTER)
    }

    /// Whether the last change is further ahead of `now` than clocks of one machine are apart.
    pub fn is_ahead(&self, now: Duration) -> bool {
        now.saturating_add(COMPLETE_AFTER) < self.changed_at()
    }

    /// Since 1970.
    fn changed_at(&self) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_fresh_for_two_seconds_and_ahead_of_a_slow_clock() {
        let state = FileState { written: Written { bytes: 1, modified: (0, 0) }, changed: (1000, 500) };
        for (milliseconds, is_fresh, is_ahead) in [
            (0, true, true),
            (997_999, true, true),
            (998_001, true, false),
            (1_001_999, true, false),
            (1_002_001, false, false),
            (2_000_000, false, false),
        ] {
            let now = Duration::from_millis(milliseconds);
            assert_eq!((state.is_fresh(now), state.is_ahead(now)), (is_fresh, is_ahead), "{milliseconds}");
        }
    }
}
