//! The allocator of the programs: when the system gives no memory, a program ends with one line and exit status 1, and
//! leaves no temporary file behind. Rust's own way is to abort.
//!
//! Code that takes no for an answer asks inside of [`memory::asking`], and gets it. The library asks so for whatever
//! grows with a model, a text or a request; this is for everything else, other crates included. It is the system's
//! allocator but for a look at what that gives.

#![allow(unsafe_code)]

use crate::os::memory;
use crate::os::signals;
use std::alloc::{GlobalAlloc, Layout, System};

/// For `#[global_allocator]` in a program.
#[derive(Debug)]
pub struct Allocator {
    program: &'static str,
}

impl Allocator {
    /// For the program of that name, with which its last line begins.
    pub const fn new(program: &'static str) -> Allocator {
        Allocator { program }
    }

    fn given(&self, memory: *mut u8, bytes: usize) -> *mut u8 {
        if memory.is_null() && !memory::takes_no() {
            signals::end_without_memory(self.program, bytes);
        }
        memory
    }
}

// SAFETY: every call goes to the system's allocator as it is, and what that gives is returned or never seen.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of this call.
        self.given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        self.given(unsafe { System.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
