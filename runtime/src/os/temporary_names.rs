//! The list of temporary files that a stopping program removes. Nothing in it is freed.

#![allow(unsafe_code, reason = "pointers that signal handlers read")]

use libc::c_int;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Capacity of the list of temporary files; more than the threads that write.
const MAX_TEMPORARIES: usize = 512;
/// Milliseconds that the handler waits for files that other threads are creating. A slow disk may take that long to
/// create a name; only a thread that needs a lock of the stopped thread, such as that of the allocator, takes longer.
const MAX_WAITS: u32 = 5000;

/// Temporary files. A slot is taken while `target` is not null.
static TEMPORARIES: [Name; MAX_TEMPORARIES] = [const { Name::new() }; MAX_TEMPORARIES];
/// Whether a stopping signal has arrived.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);

/// A temporary file that exists or is being created.
struct Name {
    target: AtomicPtr<Target>,
    /// The thread that is creating it; 0 once it exists.
    maker: AtomicUsize,
}

impl Name {
    const fn new() -> Name {
        Name { target: AtomicPtr::new(ptr::null_mut()), maker: AtomicUsize::new(0) }
    }
}

/// A name and the open directory that contains it. Never freed, like all that a handler may read.
struct Target {
    folder: c_int,
    name: CString,
}

/// The entry of a temporary file in the list, until it is dropped.
#[derive(Debug)]
pub struct Temporary(Option<usize>);

impl Temporary {
    /// Registers the file `name` in `folder` for removal when the program is stopped. The folder must stay open until
    /// this is dropped. The thread that creates the file calls this before, and [`Temporary::park_if_stopping`] after
    /// it: a stopping program waits for files that are being created.
    pub fn new(folder: BorrowedFd<'_>, name: &OsStr) -> Temporary {
        // A name with a NUL is dropped; no file has one.
        let target = CString::new(name.as_bytes())
            .map_or(ptr::null_mut(), |name| Box::into_raw(Box::new(Target { folder: folder.as_raw_fd(), name })));
        let slot = TEMPORARIES.iter().position(|temporary| {
            temporary.target.compare_exchange(ptr::null_mut(), target, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(slot) = slot {
            TEMPORARIES[slot].maker.store(this_thread(), Ordering::SeqCst);
        }
        let temporary = Temporary(slot);
        // The stopping thread sets IS_STOPPING before it reads the makers. So either it sees this maker and waits, or
        // this thread sees the flag and creates no file.
        if IS_STOPPING.load(Ordering::SeqCst) {
            temporary.made();
            wait_for_end();
        }
        temporary
    }

    /// The file exists, or will not be created.
    fn made(&self) {
        if let Some(slot) = self.0 {
            TEMPORARIES[slot].maker.store(0, Ordering::SeqCst);
        }
    }

    /// Does not return when the program is about to end by a signal. Its files are being removed, also by this thread,
    /// and errors caused by that must not be reported.
    pub fn park_if_stopping(&self) {
        self.made();
        if IS_STOPPING.load(Ordering::SeqCst) {
            remove_temporaries();
            wait_for_end();
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.made();
        if let Some(slot) = self.0 {
            TEMPORARIES[slot].target.store(ptr::null_mut(), Ordering::Release);
        }
    }
}

/// Removes temporary files once no other thread is creating one. Async-signal-safe: pthread_self, poll and unlinkat are.
///
/// A system call in progress continues while the program
/// ends, so a file that it creates after the removal would be left behind. No new creation starts.
pub(super) fn remove_all() {
    IS_STOPPING.store(true, Ordering::SeqCst);
    forget_own_files();
    for _ in 0..MAX_WAITS {
        if TEMPORARIES.iter().all(|temporary| temporary.maker.load(Ordering::SeqCst) == 0) {
            break;
        }
        // SAFETY: no descriptors are looked at, so this only waits for a millisecond.
        unsafe { libc::poll(ptr::null_mut(), 0, 1) };
    }
    remove_temporaries();
}

/// Marks the files of this thread as not being created: it does not return to its caller.
pub(super) fn forget_own_files() {
    let own = this_thread();
    for temporary in &TEMPORARIES {
        // Entries of other threads stay unchanged.
        let _ = temporary.maker.compare_exchange(own, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

fn remove_temporaries() {
    for temporary in &TEMPORARIES {
        let target = temporary.target.load(Ordering::Acquire);
        if !target.is_null() {
            // SAFETY: the entry is never freed. The call may fail because the file does not exist yet or any more. If
            // another thread has just closed the folder, the random name exists in no other.
            unsafe { libc::unlinkat((*target).folder, (*target).name.as_ptr(), 0) };
        }
    }
}

/// A non-zero number of this thread.
fn this_thread() -> usize {
    // SAFETY: no precondition; async-signal-safe.
    unsafe { libc::pthread_self() as usize }
}

pub(super) fn wait_for_end() -> ! {
    loop {
        // SAFETY: no precondition; async-signal-safe.
        unsafe { libc::pause() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn dropped_entries_free_their_slots() {
        for _ in 0..2 {
            let folder = std::fs::File::open("/").expect("a folder");
            let new = |_| Temporary::new(folder.as_fd(), OsStr::new("x"));
            let held: Vec<Temporary> = (0..MAX_TEMPORARIES + 1).map(new).collect();
            assert_eq!(held.iter().filter(|temporary| temporary.0.is_none()).count(), 1);
        }
    }
}
