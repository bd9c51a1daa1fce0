//! Calls of the library that promise `Error::OutOfMemory` keep it, whichever of their allocations fails: each asks in a way
//! that takes no for an answer, and gives back what it had.

use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Sampling;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::os::memory;
use olmo_tests::TempDir;
use olmo_tests::chats::{MARKED, demo_chat};
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");

thread_local! {
    /// Allocations of this thread that may fail, since they were last counted.
    static ASKED: Cell<u64> = const { Cell::new(0) };
    /// The one that does.
    static FAILS: Cell<u64> = const { Cell::new(0) };
    /// Allocations that take no no, since then.
    static UNASKED: Cell<u64> = const { Cell::new(0) };
    /// Whether anything is counted, and whether the first unasked one is to be shown.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, in which one allocation of a thread fails.
struct Failing;

/// Whether this allocation fails.
fn fails() -> bool {
    if !COUNTS.get() {
        return false;
    }
    if !memory::takes_no() {
        UNASKED.set(UNASKED.get() + 1);
        COUNTS.set(false);
        eprintln!("allocated without asking:\n{}", Backtrace::force_capture());
        COUNTS.set(true);
        return false;
    }
    ASKED.set(ASKED.get() + 1);
    ASKED.get() == FAILS.get()
}

// SAFETY: every call is handed to the system's allocator as it came, or refused.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        if fails() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        if fails() { std::ptr::null_mut() } else { unsafe { System.realloc(memory, layout, bytes) } }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `call` while its allocations are counted, and the one with the number `fails` is refused.
fn counted<R>(fails: u64, call: impl FnOnce() -> R) -> (R, u64, u64) {
    ASKED.set(0);
    UNASKED.set(0);
    FAILS.set(fails);
    COUNTS.set(true);
    let result = call();
    COUNTS.set(false);
    (result, ASKED.get(), UNASKED.get())
}

/// Lets each allocation of a call fail in turn. `small` are those that take no no: some words, whatever the model is.
#[track_caller]
fn assert_keeps_its_promise<R>(name: &str, small: u64, mut call: impl FnMut() -> Result<R, Error>) {
    let (result, n, unasked) = counted(0, &mut call);
    assert!(result.is_ok() && unasked <= small, "{name}: {unasked} allocations take no no, {n} do");
    drop(result);
    for number in 1..=n {
        let (result, asked, unasked) = counted(number, &mut call);
        // What is kept from one call to the next is not asked for again.
        let kept = if asked < number { result.is_ok() } else { matches!(result, Err(Error::OutOfMemory { .. })) };
        assert!(kept && unasked <= small, "{name}, allocation {number} of {n}");
    }
    assert!(call().is_ok(), "{name}, afterwards");
    println!("{name}: {n} allocations");
}

#[test]
fn calls_that_promise_an_error_for_memory_keep_it() {
    let folder = TempDir::new("library-without-memory");
    let path = demo_chat(PACK, &folder, MARKED);
    let model = Model::open_with(&path, olmo_infer::internals::file::mapping::Load::Mmap, 1).expect("a model");
    assert_keeps_its_promise("Model::session", 0, || model.session(Options::new(64)));
    let mut session = model.session(Options::new(64)).expect("it fits");
    assert_keeps_its_promise("Session::prefill", 0, || {
        session.restart();
        session.prefill(&[70, 111, 117, 114])
    });
    assert_keeps_its_promise("Session::decode", 0, || session.decode(32));
    assert_keeps_its_promise("Session::resume", 0, || session.resume(&[70, 111, 32]));
    assert_keeps_its_promise("Session::generate", 0, || {
        session.generate(Sampling::GREEDY).take(3).try_for_each(|id| id.map(|_| ()))
    });
    assert_keeps_its_promise("Model::vocabulary", 1, || model.vocabulary());
    assert_keeps_its_promise("Model::decode_text", 1, || model.decode_text(&[70, 111]));
    model.encode("Four").expect("ids");
    // The tables of a search for words are bounded, and asked for by the crate.
    assert_keeps_its_promise("Model::encode", 100, || model.encode("Four score <|x|> and"));
}
