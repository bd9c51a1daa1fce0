//! Memory that is available and in use, and allocations whose failure is an error instead of an abort.

use crate::error::Error;
use std::cell::Cell;
use std::collections::TryReserveError;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

/// Advice for an allocation that this program cannot make smaller.
const FREE_SOME: &str = "close other programs, or raise the limit (ulimit -v)";

thread_local! {
    /// Whether this thread handles failed allocations.
    static TAKES_NO: Cell<bool> = const { Cell::new(false) };
}

/// Runs `ask`, which allocates and handles the failure, as [`Vec::try_reserve`] does. Outside of it the
/// [`Allocator`](crate::os::allocator::Allocator) of the programs ends the program when an allocation fails.
pub fn asking<R>(ask: impl FnOnce() -> R) -> R {
    /// Restores the flag even if `ask` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            TAKES_NO.set(self.0);
        }
    }
    let _restore = Restore(TAKES_NO.replace(true));
    ask()
}

/// Whether this thread is inside [`asking`].
pub fn takes_no() -> bool {
    TAKES_NO.get()
}

/// An empty vector with capacity for `elements`.
///
/// # Errors
/// [`Error::OutOfMemory`]; `what` names the purpose of the memory.
pub fn room_for<T>(elements: usize, what: &'static str) -> Result<Vec<T>, Error> {
    let mut room = Vec::new();
    asking(|| room.try_reserve_exact(elements)).map_err(|_: TryReserveError| too_little_for::<T>(elements, what))?;
    Ok(room)
}

/// Collects an iterator of known length.
///
/// # Errors
/// [`Error::OutOfMemory`]; `what` names the elements.
pub fn collected<T>(elements: impl ExactSizeIterator<Item = T>, what: &'static str) -> Result<Vec<T>, Error> {
    let mut collected = room_for(elements.len(), what)?;
    // At most the reserved capacity, even if the iterator yields more than its length.
    let n = elements.len();
    collected.extend(elements.take(n));
    Ok(collected)
}

/// Reserves capacity for `more` elements.
///
/// # Errors
/// [`Error::OutOfMemory`]; `what` names the purpose of the memory.
pub fn reserve<T>(elements: &mut Vec<T>, more: usize, what: &'static str) -> Result<(), Error> {
    asking(|| elements.try_reserve(more)).map_err(|_: TryReserveError| too_little_for::<T>(more, what))
}

/// The error for a failed allocation of `elements`.
pub fn too_little_for<T>(elements: usize, what: &'static str) -> Error {
    let bytes = (elements as u64).saturating_mul(size_of::<T>() as u64);
    Error::OutOfMemory { bytes, what, advice: FREE_SOME }
}

/// Returns an error if a model of `bytes` bytes exceeds the `available` bytes.
///
/// # Errors
/// [`Error::ModelTooLarge`].
pub fn check_weights(bytes: u64, available: Option<u64>) -> Result<(), Error> {
    match available {
        Some(available) if bytes > available => Err(Error::ModelTooLarge { bytes, available }),
        _ => Ok(()),
    }
}

/// Bytes that this process can still allocate, or keep of files: the kernel's MemAvailable, which counts what the page
/// cache gives up, or the smallest limit of its control groups minus its own use, if that is less. `None` when neither
/// can be read.
pub fn available() -> Option<u64> {
    let left = group_limit().map(|limit| limit.saturating_sub(anonymous_bytes().unwrap_or(0)));
    kilobytes("/proc/meminfo", "MemAvailable:").into_iter().chain(left).min()
}

/// Bytes of address space left under a limit (`ulimit -v`), minus a quarter for threads and other allocations; `None`
/// without a limit.
pub fn address_space() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    let left = limit.saturating_sub(kilobytes("/proc/self/status", "VmSize:")?);
    Some(left - left / 4)
}

/// Total memory of the machine in bytes.
pub fn total() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemTotal:")
}

/// The smallest memory limit of the control groups of this process, versions 1 and 2.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    // Lines are `number:controllers:path`; the controllers are empty in version 2.
    let limits = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let groups = Path::new(path).ancestors();
        let folders = groups.map(|group| Path::new(root).join(group.strip_prefix("/").unwrap_or(group)));
        folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
    });
    limits.min()
}

/// Anonymous memory of this process in bytes, without the mapped file. Buffers and KV caches are freed only at the end
/// of a run, so that the value at the end is the peak.
pub fn anonymous_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "RssAnon:")
}

/// A `Key:  123 kB` line of a file in /proc, in bytes.
fn kilobytes(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Resident memory of an address range of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Resident bytes.
    pub bytes: u64,
    /// Resident bytes in huge pages.
    pub huge_bytes: u64,
}

/// The resident memory of an address range; `None` if the OS does not report it. The kernel visits every page for this.
pub fn resident(addresses: Range<usize>) -> Option<Resident> {
    let smaps = BufReader::new(File::open("/proc/self/smaps").ok()?);
    sum_of(smaps, addresses)
}

/// Sums the `smaps` entries of the mappings that overlap `range`.
fn sum_of(smaps: impl BufRead, range: Range<usize>) -> Option<Resident> {
    let mut sum = None;
    let mut inside = false;
    for line in smaps.lines() {
        let line = line.ok()?;
        let mut words = line.split_whitespace();
        let (first, second) = (words.next()?, words.next().unwrap_or_default());
        // A mapping starts with a line of its addresses, `begin-end`; the following lines are `Key: 123 kB`.
        let address = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(begin), Some(end))) = first.split_once('-').map(|(a, b)| (address(a), address(b))) {
            inside = begin < range.end && range.start < end;
            continue;
        }
        if !inside {
            continue;
        }
        let sum = sum.get_or_insert_with(Resident::default);
        let bytes = second.parse().unwrap_or(0) * 1024;
        match first {
            "Rss:" => sum.bytes += bytes,
            // Each kind of mapping has its own key.
            "FilePmdMapped:" | "AnonHugePages:" | "ShmemPmdMapped:" => sum.huge_bytes += bytes,
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5600a000-5600c000 r--p 00000000 fe:00 1 /usr/bin/olmo-infer
Rss:                   8 kB
FilePmdMapped:         0 kB
7f0000000000-7f0000400000 r--s 00000000 fe:00 2 /models/m.olmo
Size:               4096 kB
Rss:                4096 kB
AnonHugePages:         0 kB
FilePmdMapped:      2048 kB
VmFlags: rd mr me ms hg
7f0000400000-7f0000800000 r--s 00000000 fe:00 2 /models/m.olmo
Rss:                 100 kB
FilePmdMapped:         0 kB
7f0000800000-7f0000801000 rw-p 00000000 00:00 0
Rss:                   4 kB
";

    #[test]
    fn sums_only_mappings_in_range() {
        let sum = |range| sum_of(SMAPS.as_bytes(), range);
        let both = Resident { bytes: 4196 << 10, huge_bytes: 2048 << 10 };
        assert_eq!(sum(0x7f0000000000..0x7f0000800000), Some(both));
        assert_eq!(sum(0x7f0000000000..0x7f0000400000), Some(Resident { bytes: 4 << 20, huge_bytes: 2 << 20 }));
        assert_eq!(sum(0x7f0000400000..0x7f0000400001), Some(Resident { bytes: 100 << 10, huge_bytes: 0 }));
        assert_eq!(sum(0x1000..0x2000), None);
    }

    #[test]
    fn resident_finds_memory_of_this_test() {
        if !Path::new("/proc/self/smaps").exists() {
            return;
        }
        let bytes = vec![1u8; 1 << 20];
        let begin = bytes.as_ptr().addr();
        assert!(resident(begin..begin + bytes.len()).expect("a mapping").bytes >= 1 << 20);
    }

    #[test]
    fn too_large_model_is_error_with_both_sizes() {
        let line = check_weights(6_000_000_000, Some(2_500_000_000)).expect_err("too large").to_string();
        assert_eq!(line, "reading the model takes 6.0 GB of memory, 2.5 GB are available");
        assert!(check_weights(10, Some(10)).is_ok() && check_weights(10, None).is_ok());
    }
}
