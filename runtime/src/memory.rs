//! How much memory there is, and how much this process took.

use crate::output::Failure;
use std::cmp::Reverse;
use std::fs;
use std::path::Path;

/// Sequences at a time when nobody asked for a number: up to about so many, a pass costs little more than for one.
const DEFAULT_BATCH: usize = 16;

/// How many sequences to evaluate at a time: as many as were asked for, else [`DEFAULT_BATCH`], or fewer when their KV
/// caches would not fit the free memory beside the model, whose pages would have to be read again for every pass.
///
/// `positions` are those of all sequences, `needed` says what a batch of some of them takes.
///
/// # Errors
/// [`Failure::Refused`] when the memory is not enough for what was asked for, or for one.
pub fn batch(
    asked: Option<usize>,
    positions: &[usize],
    model_bytes: u64,
    needed: impl Fn(&[usize]) -> u64,
) -> Result<usize, Failure> {
    batch_within(available().unwrap_or(u64::MAX), asked, positions, model_bytes, needed)
}

/// As [`batch`], for so much available memory.
fn batch_within(
    available: u64,
    asked: Option<usize>,
    positions: &[usize],
    model_bytes: u64,
    needed: impl Fn(&[usize]) -> u64,
) -> Result<usize, Failure> {
    // Whatever sequences meet, they take no more than the largest do.
    let mut positions = positions.to_vec();
    positions.sort_unstable_by_key(|&positions| Reverse(positions));
    let most = asked.unwrap_or(DEFAULT_BATCH).min(positions.len());
    let beside_the_model = available.saturating_sub(model_bytes);
    let sequences = match asked {
        Some(_) => most,
        None => (2..=most).rev().find(|&n| needed(&positions[..n]) <= beside_the_model).unwrap_or(1),
    };
    let needed = needed(&positions[..sequences]);
    if needed <= available {
        return Ok(sequences);
    }
    let (what, advice) = match sequences {
        1 => (format!("{} positions need", positions[0]), "for fewer positions or a smaller --chunk"),
        n => (format!("{n} sequences at a time need"), "for a smaller --batch, fewer positions or a smaller --chunk"),
    };
    Err(Failure::Refused(format!(
        "{what} {:.1} GB for the KV cache and activations, this machine has {:.1} GB to give; ask {advice}",
        needed as f64 / 1e9,
        available as f64 / 1e9
    )))
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

/// Bytes of memory that belong to this process alone, the mapped file not counted. Buffers and KV caches are kept to the
/// end of a run, so that at the end this is the most it had.
pub fn anonymous_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "RssAnon:")
}

/// A `Key:  123 kB` line of a file in /proc, in bytes.
fn kilobytes(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte for each position, and 5 for the activations.
    fn needed(positions: &[usize]) -> u64 {
        positions.iter().sum::<usize>() as u64 + 5
    }

    #[test]
    fn as_many_as_fit_beside_the_model_unless_a_number_was_asked_for() {
        let sequences = |available, asked, positions: &[usize]| batch_within(available, asked, positions, 1000, needed);
        let many = [10; 40];
        for (available, asked, expected) in [
            (u64::MAX, None, 16),
            (1165, None, 16),
            (1164, None, 15),
            (1025, None, 2),
            (1024, None, 1),
            (15, None, 1),
            (165, Some(16), 16),
            (u64::MAX, Some(40), 40),
            (u64::MAX, Some(99), 40),
        ] {
            assert_eq!(sequences(available, asked, &many).ok(), Some(expected), "{available} {asked:?}");
        }
        // The largest may meet, in whatever order they come.
        assert_eq!(sequences(1000 + 5 + 90 + 80, None, &[1, 80, 2, 90, 3]).ok(), Some(2));
        assert_eq!(sequences(u64::MAX, None, &[7]).ok(), Some(1));
        let refused = |available, asked| match sequences(available, asked, &many) {
            Err(failure) => failure.to_string(),
            Ok(sequences) => panic!("{sequences} sequences"),
        };
        assert!(refused(14, None).starts_with("10 positions need 0.0 GB"));
        assert!(refused(164, Some(16)).starts_with("16 sequences at a time need 0.0 GB"));
    }
}
