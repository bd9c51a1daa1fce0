//! Holes of sparse files: ranges that were never written. They read as zeros and take no disk space, regardless of
//! their length.

#![allow(unsafe_code, reason = "a system call")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Bytes of `range` in holes. The count stops once it exceeds `most`; it is 0 where the file system does not report
/// holes. Moves the file position.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"))]
pub(crate) fn bytes_in_holes(file: &File, range: Range<u64>, most: u64) -> u64 {
    let seek = |from: u64, whence: libc::c_int| {
        let from = libc::off_t::try_from(from).map_err(|_| libc::EINVAL)?;
        // SAFETY: the descriptor is open while `file` is borrowed; the call touches no memory.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(0))
    };
    let (mut at, mut bytes) = (range.start, 0);
    while at < range.end && bytes <= most {
        // The end of a file counts as the start of a hole.
        let Ok(hole) = seek(at, libc::SEEK_HOLE) else { break };
        if hole >= range.end {
            break;
        }
        let data = match seek(hole, libc::SEEK_DATA) {
            Ok(data) => data.min(range.end),
            // There is no data after the hole.
            Err(libc::ENXIO) => range.end,
            Err(_) => break,
        };
        // A file system that contradicts itself reports nothing.
        if data <= at {
            break;
        }
        bytes += data.saturating_sub(hole);
        at = data;
    }
    bytes
}

/// Other systems do not report holes.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd")))]
pub(crate) fn bytes_in_holes(_file: &File, _range: Range<u64>, _most: u64) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn counts_holes_up_to_limit() {
        let file = tempfile::tempfile().expect("a file");
        const MIB: u64 = 1 << 20;
        file.set_len(16 * MIB).expect("a hole");
        file.write_all_at(&[1; 1 << 20], 4 * MIB).expect("written");
        if bytes_in_holes(&file, 0..16 * MIB, u64::MAX) == 0 {
            // eprintln would be captured; cargo shows captured output for failed tests only.
            let _ = writeln!(io::stderr(), "SKIPPED: this file system does not report holes");
            return;
        }
        for (range, most, bytes) in [
            (0..16, u64::MAX, 15),
            (4..5, u64::MAX, 0),
            (3..6, u64::MAX, 2),
            (0..4, u64::MAX, 4),
            (5..16, u64::MAX, 11),
            (0..16, 3 * MIB, 4),
            (7..7, u64::MAX, 0),
            (16..20, u64::MAX, 0),
        ] {
            let range = range.start * MIB..range.end * MIB;
            assert_eq!(bytes_in_holes(&file, range.clone(), most), bytes * MIB, "{range:?}");
        }
    }
}
