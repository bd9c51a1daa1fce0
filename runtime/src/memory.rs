//! How much memory there is, and how much this process took.

use crate::output::Failure;
use std::fs;
use std::path::Path;

/// Refuses a run whose KV cache and activations cannot fit.
pub fn check(needed: u64, positions: usize) -> Result<(), Failure> {
    match available() {
        Some(available) if needed > available => Err(Failure::Refused(format!(
            "{positions} positions need {:.1} GB for the KV cache and activations, this machine has {:.1} GB to give; ask \
             for fewer positions or a smaller --chunk",
            needed as f64 / 1e9,
            available as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// Bytes that this process could still get: what the kernel says is available, or the smallest limit of its control
/// groups when that is less. `None` where neither can be read.
fn available() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:").into_iter().chain(group_limit()).min()
}

/// The smallest memory limit of the control groups of this process, version 2 and version 1.
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

/// Bytes of memory that belong to this process alone, the mapped file not counted. All buffers are allocated at the
/// beginning of a run and kept to its end, so that at the end this is the most it had.
pub fn anonymous_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "RssAnon:")
}

/// A `Key:  123 kB` line of a file in /proc, in bytes.
fn kilobytes(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
