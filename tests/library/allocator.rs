//! The allocator of these tests: the system allocator with a counter, which fails where a test requires it.

use olmo_infer::internals::os::memory;
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Allocations of all threads, since the program began.
pub(crate) static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Allocations of this thread that may fail, since [`counted`] began.
    static FALLIBLE: Cell<u64> = const { Cell::new(0) };
    /// The number of the one that fails.
    static FAILS: Cell<u64> = const { Cell::new(0) };
    /// Allocations that may not fail, since then.
    static INFALLIBLE: Cell<u64> = const { Cell::new(0) };
    /// Whether this thread is inside [`counted`].
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call` while the allocations of this thread are counted, and the fallible one with the number `fails` fails.
/// Returns its result and the numbers of fallible and of infallible allocations.
pub(crate) fn counted<R>(fails: u64, call: impl FnOnce() -> R) -> (R, u64, u64) {
    FALLIBLE.set(0);
    INFALLIBLE.set(0);
    FAILS.set(fails);
    COUNTS.set(true);
    let result = call();
    COUNTS.set(false);
    (result, FALLIBLE.get(), INFALLIBLE.get())
}

/// Counts an allocation; whether it fails.
fn fails() -> bool {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    if !COUNTS.get() {
        return false;
    }
    if !memory::takes_no() {
        INFALLIBLE.set(INFALLIBLE.get() + 1);
        COUNTS.set(false);
        eprintln!("allocated infallibly:\n{}", Backtrace::force_capture());
        COUNTS.set(true);
        return false;
    }
    FALLIBLE.set(FALLIBLE.get() + 1);
    FALLIBLE.get() == FAILS.get()
}

struct Counting;

// SAFETY: every call is passed to the system's allocator unchanged, or fails; counting allocates nothing, and what the
// backtrace allocates is not counted.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        if fails() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract, and the memory came from `System`.
        if fails() { std::ptr::null_mut() } else { unsafe { System.realloc(memory, layout, bytes) } }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, and the memory came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
