//! A library for `LD_PRELOAD` in whose malloc the allocation with the number `NO_MEMORY_AT` fails, and with
//! `NO_MEMORY_ON` set all that follow. With the number 0 none fails, and their number is printed on standard error at
//! the end. A test compiles it with rustc: no program contains it.

#![no_std]

use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(n: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, bytes: usize) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn write(file: c_int, bytes: *const c_void, n: usize) -> isize;
    fn abort() -> !;
    fn __errno_location() -> *mut c_int;
}

/// The error number for too little memory.
const ENOMEM: c_int = 12;

static COUNT: AtomicU64 = AtomicU64::new(0);
static AT: AtomicU64 = AtomicU64::new(u64::MAX);
static GOES_ON: AtomicBool = AtomicBool::new(false);

/// Whether this allocation fails.
fn fails() -> bool {
    let (number, at) = (COUNT.fetch_add(1, Relaxed) + 1, AT.load(Relaxed));
    let fails = at != 0 && (number == at || number > at && GOES_ON.load(Relaxed));
    if fails {
        // SAFETY: the place is this thread's. The C library believes it.
        unsafe { *__errno_location() = ENOMEM };
    }
    fails
}

extern "C" fn begin() {
    // SAFETY: the names end with NUL, and so does a value of the environment.
    unsafe {
        let mut text = getenv(c"NO_MEMORY_AT".as_ptr());
        let mut number = 0;
        while !text.is_null() && *text != 0 {
            number = number * 10 + (*text as u64 - 48);
            text = text.add(1);
        }
        GOES_ON.store(!getenv(c"NO_MEMORY_ON".as_ptr()).is_null(), Relaxed);
        // What came before belongs to the loader.
        COUNT.store(0, Relaxed);
        AT.store(number, Relaxed);
    }
}

extern "C" fn end() {
    if AT.load(Relaxed) != 0 {
        return;
    }
    let mut digits = *b"allocations:                     \n";
    let (mut at, mut left) = (digits.len() - 2, COUNT.load(Relaxed));
    while left > 0 {
        digits[at] = b'0' + (left % 10) as u8;
        (at, left) = (at - 1, left / 10);
    }
    // SAFETY: the bytes are readable.
    unsafe { write(2, digits.as_ptr().cast(), digits.len()) };
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;
#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(bytes: usize) -> *mut c_void {
    // SAFETY: the caller keeps malloc's contract.
    if fails() { null_mut() } else { unsafe { __libc_malloc(bytes) } }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(n: usize, bytes: usize) -> *mut c_void {
    // SAFETY: the caller keeps calloc's contract.
    if fails() { null_mut() } else { unsafe { __libc_calloc(n, bytes) } }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller keeps realloc's contract.
    if fails() { null_mut() } else { unsafe { __libc_realloc(old, bytes) } }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, alignment: usize, bytes: usize) -> c_int {
    if fails() {
        return ENOMEM;
    }
    // SAFETY: the caller keeps posix_memalign's contract.
    let memory = unsafe { __libc_memalign(alignment, bytes) };
    if memory.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller keeps posix_memalign's contract.
    unsafe { *out = memory };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(alignment: usize, bytes: usize) -> *mut c_void {
    // SAFETY: the caller keeps aligned_alloc's contract.
    if fails() { null_mut() } else { unsafe { __libc_memalign(alignment, bytes) } }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: no precondition.
    unsafe { abort() }
}

/// The precompiled core refers to it; it is never called, as a panic aborts.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
