//! Starting threads without ending the program.
//!
//! In a new thread std asks for the stack of its signal handlers and for memory of its own, and aborts the process when
//! it gets none. Under a limit on the address space (`ulimit -v`) a thread is therefore started only while enough is
//! left, and the next one only after it runs.

use memmap2::MmapOptions;
use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Stack of a thread: std's default, regardless of RUST_MIN_STACK.
const STACK_BYTES: usize = 2 << 20;
/// Address space in addition to the stack without which no thread is started.
const START_BYTES: usize = 1 << 20;
/// Most address space that a thread takes: malloc of glibc reserves twice 64 MiB, and does without where it must.
const AMPLE_BYTES: usize = 256 << 20;

/// Whether the address space is ample for `n_threads` threads, so that none needs to be watched as it starts.
pub fn has_room_for(n_threads: usize) -> bool {
    is_free(n_threads.saturating_mul(AMPLE_BYTES))
}

/// Calls `start` with `n`, and with half of that each time it fails, down to 1.
///
/// # Errors
/// That of the last call.
pub fn halving<T, E>(n: usize, mut start: impl FnMut(usize) -> Result<T, E>) -> Result<T, E> {
    let mut wanted = n.max(1);
    loop {
        match start(wanted) {
            Err(_) if wanted > 1 => wanted /= 2,
            result => return result,
        }
    }
}

/// Starts a thread; `is_ample` is the result of [`has_room_for`] for all threads that are started with it.
///
/// # Errors
/// The OS refuses the thread, or too little address space is left for one.
pub fn spawn(name: &str, is_ample: bool, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let builder = Builder::new().stack_size(STACK_BYTES).name(name.into());
    guarded(is_ample, |started| {
        builder.spawn(move || {
            // The receiver is gone where the address space is ample.
            let _may_be_unread = started.send(());
            body();
        })
    })
}

/// Starts a thread of a scope, for work that can be done without it.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let builder = Builder::new().stack_size(STACK_BYTES).name(name.into());
    guarded(is_free(AMPLE_BYTES), |started| {
        builder.spawn_scoped(scope, move || {
            let _may_be_unread = started.send(());
            body()
        })
    })
}

/// Whether the OS maps `bytes` of address space. Nothing is written there, and it is unmapped at once.
fn is_free(bytes: usize) -> bool {
    // Miri has no such mappings, and no limit.
    cfg!(miri) || MmapOptions::new().len(bytes).no_reserve_swap().map_anon().is_ok()
}

/// Starts a thread by `start`, whose thread sends a message first of all. Where address space is not ample, this waits
/// for the message, and starts no thread without enough of it.
fn guarded<H>(is_ample: bool, start: impl FnOnce(mpsc::SyncSender<()>) -> io::Result<H>) -> io::Result<H> {
    if !is_ample && !is_free(STACK_BYTES + START_BYTES) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let (started, has_started) = mpsc::sync_channel(1);
    let thread = start(started)?;
    if !is_ample {
        let _it_has_started = has_started.recv();
    }
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_ends_at_the_first_success_or_at_one() {
        let tried = |n, most| {
            let mut tried = Vec::new();
            let result = halving(n, |n| {
                tried.push(n);
                if n <= most { Ok(n) } else { Err(n) }
            });
            (result, tried)
        };
        assert_eq!(tried(9, 2), (Ok(2), vec![9, 4, 2]));
        assert_eq!(tried(5, 8), (Ok(5), vec![5]));
        assert_eq!(tried(3, 0), (Err(1), vec![3, 1]));
        assert_eq!(tried(0, 1), (Ok(1), vec![1]));
    }

    #[test]
    fn a_watched_thread_runs_its_body() {
        for is_ample in [false, true] {
            let (sender, receiver) = mpsc::channel();
            let thread = spawn("test", is_ample, move || sender.send(7).expect("received")).expect("started");
            assert_eq!(receiver.recv(), Ok(7));
            thread.join().expect("no panic");
        }
    }
}
