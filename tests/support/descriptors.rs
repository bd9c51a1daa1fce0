//! Limits on file descriptors, for programs that inherit any.

use std::fs;

/// `O_CLOEXEC`, as Linux shows it.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// The limit on file descriptors (`prlimit --nofile`) under which a program that this process starts can open `n_free`
/// files. A limit is a largest number, and `make -j` and `flock` leave their descriptors open in all they start.
pub fn limit_for(n_free: usize) -> usize {
    limit_above(&inherited(), n_free)
}

/// The descriptors that every program inherits from this process, in addition to its standard streams.
fn inherited() -> Vec<usize> {
    let entries = fs::read_dir("/proc/self/fdinfo").expect("proc").flatten();
    let is_inherited = |number: &usize| {
        // The one of `entries` is gone when it is looked at.
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        *number > 2 && flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
    };
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_inherited).collect()
}

/// The same for a process with these descriptors.
pub fn limit_above(inherited: &[usize], n_free: usize) -> usize {
    let free = (3..).filter(|number| !inherited.contains(number));
    match n_free {
        0 => 3,
        _ => free.take(n_free).last().map_or(3, |last| last + 1),
    }
}
