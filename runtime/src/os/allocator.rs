//! The allocator of the programs. When an allocation fails, the program prints one line, removes its temporary files
//! and exits with status 1. Rust's default is to abort.
//!
//! Code that handles a failed allocation allocates inside [`memory::asking`] and gets the error. The library does so
//! for memory that grows with a model, a text or a request. This allocator covers everything else, including other
//! crates. It is the system allocator with a null check.

#![allow(unsafe_code, reason = "a global allocator")]

use crate::os::memory;
use crate::os::signals;
use std::alloc::{GlobalAlloc, Layout, System};

/// For `#[global_allocator]` in a program.
#[derive(Debug)]
pub struct Allocator {
    program: &'static str,
}

impl Allocator {
    /// For the program with this name; the error line begins with it.
    pub const fn new(program: &'static str) -> Allocator {
        Allocator { program }
    }

    fn checked(&self, memory: *mut u8, bytes: usize) -> *mut u8 {
        if memory.is_null() && !memory::takes_no() {
            signals::end_without_memory(self.program, bytes);
        }
        memory
    }
}

// SAFETY: every call is forwarded to the system allocator unchanged, and its result is returned or never used.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the same contract that this call needs.
        self.checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
