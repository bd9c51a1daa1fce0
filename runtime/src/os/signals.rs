//! Signal handling of the programs: one error line when a mapped file is truncated, and no temporary files left behind
//! when the program is stopped.
//!
//! The library only keeps the two lists that the handlers read: mapped ranges and names of temporary files. The
//! programs install the handlers, never the library. The handlers call only async-signal-safe functions, and read only
//! atomics and memory that is never freed. They never block on a reader: output that a full pipe or a stopped terminal
//! does not accept is dropped. Before they write, the default action of the stopping signals is restored, so that the
//! next one ends the program at once.

#![allow(unsafe_code)]

use crate::error::display_path;
use libc::{c_char, c_int};
use std::ffi::{CString, OsStr};
use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Capacity of the list of mappings. For a mapping beyond it SIGBUS ends the program, as without a handler.
const MAX_MAPPINGS: usize = 16;
/// Capacity of the list of temporary files; more than the threads that write.
const MAX_TEMPORARIES: usize = 512;
/// Signals by which users, systems and limits stop a program.
const STOPPING: [c_int; 10] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGXCPU,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
];

/// Milliseconds that the handler waits for files that other threads are creating. A slow disk may take that long to
/// create a name; only a thread that needs a lock of the stopped thread, such as that of the allocator, takes longer.
const MAX_WAITS: u32 = 5000;

/// Milliseconds that the error line waits for standard error to accept it. A busy reader accepts it sooner.
const MAX_LINE_WAIT: c_int = 1000;

/// Mapped ranges. A slot is taken while `text` is not null. It contains no address until `end` is set, last.
static MAPPINGS: [Range; MAX_MAPPINGS] = [const { Range::new() }; MAX_MAPPINGS];
/// Temporary files. A slot is taken while `target` is not null.
static TEMPORARIES: [Name; MAX_TEMPORARIES] = [const { Name::new() }; MAX_TEMPORARIES];
/// "olmo-infer: error: "; null when no handler is installed.
static PREFIX: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// Whether a stopping signal has arrived.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether standard output is a terminal in the middle of a line of text.
static IS_IN_TEXT: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT only sets [`WAS_INTERRUPTED`].
static CATCHES_INTERRUPT: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT arrived while it was caught.
static WAS_INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The terminal mode before line editing; null outside of it.
static TERMINAL: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());
/// Whether a thread has started to print the error line.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// A mapping and the text of its error line.
struct Range {
    begin: AtomicUsize,
    end: AtomicUsize,
    /// The path of the file, for the error line.
    text: AtomicPtr<c_char>,
}

impl Range {
    const fn new() -> Range {
        Range { begin: AtomicUsize::new(0), end: AtomicUsize::new(0), text: AtomicPtr::new(ptr::null_mut()) }
    }
}

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

/// A name and the open directory that contains it. Never freed, like [`kept`] texts.
struct Target {
    folder: c_int,
    name: CString,
}

/// A text that a handler may read at any time, so it is never freed. There is one per mapped or written file.
fn kept(text: Vec<u8>) -> *mut c_char {
    // Paths and messages contain no NUL; a text with one would be dropped.
    CString::new(text).map_or(ptr::null_mut(), CString::into_raw)
}

/// The entry of a mapping in the list, until it is dropped.
#[derive(Debug)]
pub struct Mapped(Option<usize>);

impl Mapped {
    /// Registers `bytes` as a mapping of the file at `path`.
    pub fn new(bytes: &[u8], path: &Path) -> Mapped {
        let text = kept(display_path(path).to_string().into_bytes());
        let begin = bytes.as_ptr() as usize;
        let slot = MAPPINGS.iter().position(|range| {
            // Claimed with an empty range, which contains no address.
            let free = range.text.compare_exchange(ptr::null_mut(), text, Ordering::AcqRel, Ordering::Relaxed);
            free.is_ok()
        });
        if let Some(slot) = slot {
            MAPPINGS[slot].begin.store(begin, Ordering::Release);
            MAPPINGS[slot].end.store(begin + bytes.len(), Ordering::Release);
        }
        Mapped(slot)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let Some(slot) = self.0 else { return };
        MAPPINGS[slot].end.store(0, Ordering::Release);
        MAPPINGS[slot].begin.store(0, Ordering::Release);
        MAPPINGS[slot].text.store(ptr::null_mut(), Ordering::Release);
    }
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

/// Installs the signal handlers of a program. `program` begins its lines on standard error.
///
/// * SIGBUS: temporary files are removed. For an address in a mapped file one error line follows, and exit status 1;
///   otherwise the program ends by the signal.
/// * SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXCPU, SIGALRM, SIGVTALRM and SIGPROF, unless they are
///   ignored or have a handler: temporary files are removed, the terminal mode is restored if a line is being edited,
///   then the program ends by the signal. SIGINT does none of this while [`catch_interrupts`] catches it.
/// * SIGABRT: the same; if the program itself raised it, exit status 1. The Rust and C standard libraries raise it
/// after
///   an error line when they cannot allocate memory that they need for themselves.
/// * SIGXFSZ is ignored: exceeding a file size limit is then an ordinary write error. SIGCHLD is reset to its default.
pub fn install(program: &str) {
    PREFIX.store(kept(format!("{program}: error: ").into_bytes()), Ordering::Release);
    handle(libc::SIGBUS, on_bus as *const () as usize, libc::SA_SIGINFO);
    // SAFETY: the calls have no precondition, and change the disposition of one signal each. Where SIGCHLD is ignored,
    // as in some services, the system discards the exit status of child processes.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    for signal in STOPPING {
        if has_default(signal) {
            handle(signal, on_stop as *const () as usize, 0);
        }
    }
    if has_default(libc::SIGABRT) {
        handle(libc::SIGABRT, on_abort as *const () as usize, libc::SA_SIGINFO);
    }
}

/// Sets whether text is being written to standard output, in whole characters. If SIGINT ends the program meanwhile, a
/// terminal gets a newline after the last character. Files and pipes get the text alone.
pub fn set_in_text(is_in_text: bool) {
    IS_IN_TEXT.store(is_in_text && io::stdout().is_terminal(), Ordering::Release);
}

/// Chooses whether SIGINT sets a flag for [`was_interrupted`] or ends the program. Clears the flag. Has no effect
/// without [`install`], or where SIGINT was ignored before it.
pub fn catch_interrupts(catches: bool) {
    WAS_INTERRUPTED.store(false, Ordering::SeqCst);
    CATCHES_INTERRUPT.store(catches, Ordering::SeqCst);
}

/// Whether SIGINT arrived since [`catch_interrupts`] or [`forget_interrupt`].
pub fn was_interrupted() -> bool {
    WAS_INTERRUPTED.load(Ordering::SeqCst)
}

/// Clears the flag of [`was_interrupted`].
pub fn forget_interrupt() {
    WAS_INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Waits until standard input is readable; returns false if a caught SIGINT arrives first. The handler restarts a read,
/// but not this call.
pub fn wait_for_input() -> bool {
    loop {
        if was_interrupted() {
            return false;
        }
        let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one entry. The timeout covers a signal between the check of the flag and the call.
        let ready = unsafe { libc::poll(&mut input, 1, 100) };
        let is_interrupt = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        // After any other error the read reports it.
        if ready > 0 || ready < 0 && !is_interrupt() {
            return true;
        }
    }
}

/// Discards unread input of the terminal on standard input.
pub fn discard_typed() {
    // SAFETY: no precondition. The call fails without effect where standard input is not a terminal.
    unsafe { libc::tcflush(libc::STDIN_FILENO, libc::TCIFLUSH) };
}

/// A line is being edited in the terminal on standard input while this exists: a signal that ends the program restores
/// the present terminal mode and ends bracketed paste.
#[derive(Debug)]
pub struct Editing {
    _private: (),
}

impl Editing {
    /// Saves the terminal mode. Does nothing where standard input is not a terminal.
    pub fn begin() -> Editing {
        let mut mode = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is to memory for one mode.
        let status = unsafe { libc::tcgetattr(libc::STDIN_FILENO, mode.as_mut_ptr()) };
        if status == 0 {
            // SAFETY: the call succeeded, so it has initialized the mode.
            let mode = unsafe { mode.assume_init() };
            // Never freed, as a handler may read it at any time. A user types each line, and this is 60 bytes.
            TERMINAL.store(Box::into_raw(Box::new(mode)), Ordering::SeqCst);
        }
        Editing { _private: () }
    }
}

impl Drop for Editing {
    fn drop(&mut self) {
        TERMINAL.store(ptr::null_mut(), Ordering::SeqCst);
    }
}

/// Restores the terminal mode if a line is being edited, unless another program is in the foreground. From here on the
/// stopping signals that have this module's handler end the program at once.
///
/// Async-signal-safe: tcgetpgrp, getpgrp, tcsetattr, sigaction, sigaddset, signal, pthread_sigmask, poll and write are,
/// and the mode is never freed.
fn restore_terminal() {
    let mode = TERMINAL.load(Ordering::SeqCst);
    // SAFETY: the mode is complete and never freed; the other calls have no precondition.
    let restored = !mode.is_null()
        && unsafe {
            libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp()
                && libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) == 0
        };
    // SAFETY: all zeros are an empty set, and the numbers are signal numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        for signal in STOPPING.into_iter().filter(|&signal| handler_of(signal) == Some(on_stop as *const () as usize)) {
            libc::signal(signal, libc::SIG_DFL);
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
    if restored {
        write_without_waiting(libc::STDOUT_FILENO, b"\x1b[?2004l\r\n", 0);
    }
}

/// Writes as much as a descriptor accepts. After `milliseconds` without space the rest is dropped.
///
/// Async-signal-safe: poll and write are.
fn write_without_waiting(descriptor: c_int, bytes: &[u8], milliseconds: c_int) {
    const STEP: c_int = 10;
    // A pipe that is writable accepts PIPE_BUF bytes.
    for piece in bytes.chunks(libc::PIPE_BUF) {
        let has_room = (0..=milliseconds / STEP).any(|i| {
            let mut output = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
            // SAFETY: the pointer is to one entry.
            let ready = unsafe { libc::poll(&mut output, 1, if i == 0 { 0 } else { STEP }) };
            // With a limit of zero open files poll fails; open descriptors still work.
            let cannot_ask = ready < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
            cannot_ask || ready == 1 && output.revents & libc::POLLOUT != 0
        });
        if !has_room {
            return;
        }
        // SAFETY: the piece is readable. An error means that there is no reader left.
        unsafe { libc::write(descriptor, piece.as_ptr().cast(), piece.len()) };
    }
}

/// Whether a signal has its default action: it is neither ignored, as SIGHUP under `nohup`, nor handled by a profiler.
fn has_default(signal: c_int) -> bool {
    handler_of(signal) == Some(libc::SIG_DFL)
}

/// The handler of a signal.
///
/// Async-signal-safe: sigaction is.
fn handler_of(signal: c_int) -> Option<usize> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the pointer is to memory for one action; a null pointer for the new one changes nothing.
    let status = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call succeeded, so it has initialized the action.
    (status == 0).then(|| unsafe { action.assume_init() }.sa_sigaction)
}

/// Installs a handler; the stopping signals are blocked while it runs.
fn handle(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: all zeros are a valid action: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags | libc::SA_RESTART;
    for other in STOPPING {
        // SAFETY: the mask is a valid set, and the numbers are signal numbers.
        unsafe { libc::sigaddset(&mut action.sa_mask, other) };
    }
    // SAFETY: the action is complete, and every handler has the signature that its flags select. They are
    // async-signal-safe; see there.
    unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
}

/// Removes temporary files and lets the signal end the program.
///
/// Async-signal-safe: pthread_self, poll, unlinkat, write, signal, raise, pthread_sigmask and _exit are, and the names
/// are never freed; see [`restore_terminal`].
extern "C" fn on_stop(signal: c_int) {
    if signal == libc::SIGINT && CATCHES_INTERRUPT.load(Ordering::SeqCst) {
        WAS_INTERRUPTED.store(true, Ordering::SeqCst);
        return;
    }
    remove_all_temporaries();
    restore_terminal();
    if signal == libc::SIGINT && IS_IN_TEXT.load(Ordering::Acquire) {
        write_without_waiting(libc::STDOUT_FILENO, b"\n", 0);
    }
    end_by(signal);
}

/// Ends a program that aborted itself after its own error line. An abort sent by another process is handled like
/// [`on_stop`].
///
/// Async-signal-safe: like [`on_stop`].
extern "C" fn on_abort(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer. A signal sent by a call has a code that is not
    // positive, and a sender.
    let is_own = unsafe { (*info).si_code <= 0 && (*info).si_pid() == libc::getpid() };
    if is_own {
        begin_ending();
        // SAFETY: ends the process without running any other code of it.
        unsafe { libc::_exit(1) };
    }
    remove_all_temporaries();
    restore_terminal();
    end_by(signal);
}

/// Prints which file cannot be read, and ends the program. The read at this address can never succeed, so returning
/// would only raise the signal again.
///
/// Async-signal-safe: like [`on_stop`]; the texts are never freed, and nothing allocates.
extern "C" fn on_bus(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer. A signal raised by the kernel has a positive code and
    // an address; one sent by another process has none.
    let address = unsafe { if (*info).si_code > 0 { (*info).si_addr() as usize } else { 0 } };
    for range in &MAPPINGS {
        let begin = range.begin.load(Ordering::Acquire);
        if !(begin..range.end.load(Ordering::Acquire)).contains(&address) {
            continue;
        }
        begin_ending();
        let mut line = Line::new();
        line.push(text(&PREFIX));
        line.push(text(&range.text));
        line.push(b": cannot read byte ");
        line.push(decimal(address - begin, &mut [0; 20]));
        line.push(
            b" of it while it is in use: cut short, or a disk error; copy or pack it again, or use --load read\n",
        );
        line.write();
        // SAFETY: ends the process without running any other code of it.
        unsafe { libc::_exit(1) };
    }
    remove_all_temporaries();
    restore_terminal();
    end_by(signal);
}

/// Cleans up before one thread prints the error line. Other threads wait here for the end of the process.
fn begin_ending() {
    if IS_ENDING.swap(true, Ordering::AcqRel) {
        forget_own_files();
        wait_for_end();
    }
    remove_all_temporaries();
    restore_terminal();
}

/// Ends the program after a failed allocation: removes temporary files, restores the terminal mode, prints one line and
/// exits with status 1. Nothing here allocates.
pub(crate) fn end_without_memory(program: &str, bytes: usize) -> ! {
    begin_ending();
    let mut line = Line::new();
    line.push(program.as_bytes());
    line.push(b": error: out of memory: cannot allocate ");
    line.push(decimal(bytes, &mut [0; 20]));
    line.push(if bytes == 1 { b" byte" } else { b" bytes" });
    line.push(b"; close other programs, or raise the limit (ulimit -v)\n");
    line.write();
    // SAFETY: ends the process without running any other code of it.
    unsafe { libc::_exit(1) }
}

/// Removes temporary files once no other thread is creating one. A system call in progress continues while the program
/// ends, so a file that it creates after the removal would be left behind. No new creation starts.
fn remove_all_temporaries() {
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
fn forget_own_files() {
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

fn wait_for_end() -> ! {
    loop {
        // SAFETY: no precondition; async-signal-safe.
        unsafe { libc::pause() };
    }
}

/// Ends the program by the signal, as if there were no handler. PID 1 of a container is not ended by a signal with the
/// default action: it exits with the status by which shells report the signal.
fn end_by(signal: c_int) -> ! {
    // SAFETY: all zeros are a valid set, and the calls have no precondition. The signal is blocked while its handler
    // runs, and delivered once it is unblocked.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::_exit(128 + signal)
    }
}

/// The text behind a pointer; empty for a null pointer.
fn text(text: &AtomicPtr<c_char>) -> &'static [u8] {
    let text = text.load(Ordering::Acquire);
    if text.is_null() {
        return b"";
    }
    // SAFETY: the text ends with a NUL and is never freed.
    unsafe { std::slice::from_raw_parts(text.cast(), libc::strlen(text)) }
}

/// A line on the stack, so that it is written in one call. The rest of a longer line is dropped; valid paths fit.
struct Line {
    bytes: [u8; 4096 + 512],
    length: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 4096 + 512], length: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    fn write(&self) {
        write_without_waiting(libc::STDERR_FILENO, &self.bytes[..self.length], MAX_LINE_WAIT);
    }
}

/// A number in decimal digits, without allocation.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn decimal_formats_smallest_and_largest_number() {
        let mut digits = [0; 20];
        assert_eq!(decimal(0, &mut digits), b"0");
        assert_eq!(decimal(1234567890, &mut digits), b"1234567890");
        assert_eq!(decimal(usize::MAX, &mut digits), usize::MAX.to_string().as_bytes());
    }

    #[test]
    fn dropped_entries_free_their_slots() {
        for _ in 0..2 {
            let folder = std::fs::File::open("/").expect("a folder");
            let new = |_| Temporary::new(folder.as_fd(), OsStr::new("x"));
            let held: Vec<Temporary> = (0..MAX_TEMPORARIES + 1).map(new).collect();
            assert_eq!(held.iter().filter(|temporary| temporary.0.is_none()).count(), 1);
            let bytes = [0u8; 4];
            let held: Vec<Mapped> = (0..MAX_MAPPINGS + 1).map(|_| Mapped::new(&bytes, Path::new("x"))).collect();
            // Other tests of this process may map files meanwhile.
            assert!(held.last().is_some_and(|mapped| mapped.0.is_none()));
            assert!(held.iter().filter(|mapped| mapped.0.is_some()).count() >= MAX_MAPPINGS / 2);
        }
    }
}
