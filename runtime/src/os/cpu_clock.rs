//! The time that a thread has had a core.

#![allow(unsafe_code, reason = "the query for the clock of a thread")]

use std::time::Duration;

/// The time that the calling thread has run so far; it does not advance while the thread waits for a core or for anything
/// else. `None` where the OS has no such clock.
pub fn of_this_thread() -> Option<Duration> {
    if cfg!(miri) {
        return None;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the one struct that it is given, which lives until it returns.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    (status == 0).then(|| Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn clock_runs_with_work_and_not_in_sleep() {
        let Some(before) = of_this_thread() else { return };
        std::thread::sleep(Duration::from_millis(50));
        let slept = of_this_thread().expect("as before") - before;
        assert!(slept < Duration::from_millis(40), "{slept:?}");
        let begun = Instant::now();
        while of_this_thread().expect("as before") - before < slept + Duration::from_millis(1) {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    }
}
