//! How a program of ours ends by a signal: in one line when a mapped file is cut short, and without a temporary file
//! left behind when somebody stops it.
//!
//! The library only keeps the two lists that the handlers look at: mapped ranges and names of temporary files. The
//! handlers themselves are installed by programs, never by the library. They call nothing but what POSIX lets a signal
//! handler call, and read nothing but atomics and memory that is never freed. They wait for no reader: what a full pipe
//! or a stopped terminal does not take is left out, and before they write, the next signal ends the program at once.

#![allow(unsafe_code)]

use crate::error::one_line;
use libc::{c_char, c_int};
use std::ffi::{CString, OsStr};
use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Mappings that are known at the same time; those beyond it end the program by the signal, as without a handler.
const MAX_MAPPINGS: usize = 16;
/// Temporary files that are known at the same time: more than threads write.
const MAX_TEMPORARIES: usize = 512;
/// Signals by which people, systems and limits stop a program.
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

/// Milliseconds for which the end waits for files that other threads are making. A disk may take that long for a name;
/// longer waits only a thread that needs something that the stopped one holds, like the lock of the allocator.
const MAX_WAITS: u32 = 5000;

/// Milliseconds for which the line about a file waits until standard error takes it. A reader that is only
/// busy takes it sooner.
const MAX_LINE_WAIT: c_int = 1000;

/// Mapped ranges. A slot is taken while `text` is not null; no address is in it until `end` is set, after the others.
static MAPPINGS: [Range; MAX_MAPPINGS] = [const { Range::new() }; MAX_MAPPINGS];
/// Temporary files. A slot is taken while `doomed` is not null.
static TEMPORARIES: [Name; MAX_TEMPORARIES] = [const { Name::new() }; MAX_TEMPORARIES];
/// "olmo-infer: error: ", null when no handler is installed.
static PREFIX: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// Whether a signal has come that stops the program.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether standard output is a terminal in the middle of a line of text.
static IS_IN_TEXT: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT only sets [`WAS_INTERRUPTED`].
static CATCHES_INTERRUPT: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT came while it was caught.
static WAS_INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The mode of the terminal before a line is edited, null while none is.
static TERMINAL: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());
/// Whether a thread has begun to say what happened.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// A mapping and what to say when it cannot be read.
struct Range {
    begin: AtomicUsize,
    end: AtomicUsize,
    /// The path of the file, for the message.
    text: AtomicPtr<c_char>,
}

impl Range {
    const fn new() -> Range {
        Range { begin: AtomicUsize::new(0), end: AtomicUsize::new(0), text: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// A temporary file that is there, or will be.
struct Name {
    doomed: AtomicPtr<Doomed>,
    /// The thread that is making it; 0 when it is made.
    maker: AtomicUsize,
}

impl Name {
    const fn new() -> Name {
        Name { doomed: AtomicPtr::new(ptr::null_mut()), maker: AtomicUsize::new(0) }
    }
}

/// A name and the open folder that it is in. Like a text it is never freed.
struct Doomed {
    folder: c_int,
    name: CString,
}

/// A text that a handler may read at any time: it is never freed. There are as many as files are mapped or written.
fn kept(text: Vec<u8>) -> *mut c_char {
    // Neither a path nor a message of ours has a NUL; one that had would be left out.
    CString::new(text).map_or(ptr::null_mut(), CString::into_raw)
}

/// A mapping in the list, until it is dropped.
#[derive(Debug)]
pub struct Mapped(Option<usize>);

impl Mapped {
    /// Says that `bytes` are mapped from the file at `path`.
    pub fn new(bytes: &[u8], path: &Path) -> Mapped {
        let text = kept(one_line(&path.to_string_lossy()).into_bytes());
        let begin = bytes.as_ptr() as usize;
        let slot = MAPPINGS.iter().position(|range| {
            // Claimed with an empty range, which no address is in.
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

/// The name of a temporary file in the list, until it is dropped.
#[derive(Debug)]
pub struct Temporary(Option<usize>);

impl Temporary {
    /// Says that the file `name` in `folder` is to be removed when the program is stopped. The folder stays open until
    /// this is dropped. To be called by the thread that makes the file, before it does, and
    /// [`Temporary::park_if_stopping`] afterwards: the end waits for files that are being made.
    pub fn new(folder: BorrowedFd<'_>, name: &OsStr) -> Temporary {
        // A name with a NUL, which no file has, is left out.
        let doomed = CString::new(name.as_bytes())
            .map_or(ptr::null_mut(), |name| Box::into_raw(Box::new(Doomed { folder: folder.as_raw_fd(), name })));
        let slot = TEMPORARIES.iter().position(|temporary| {
            temporary.doomed.compare_exchange(ptr::null_mut(), doomed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(slot) = slot {
            TEMPORARIES[slot].maker.store(this_thread(), Ordering::SeqCst);
        }
        let temporary = Temporary(slot);
        // Whoever stops the program says so before it looks at the makers. So either it sees this one and waits, or
        // this one sees that, and makes no file.
        if IS_STOPPING.load(Ordering::SeqCst) {
            temporary.made();
            wait_for_the_end();
        }
        temporary
    }

    /// The file is there, or will not be.
    fn made(&self) {
        if let Some(slot) = self.0 {
            TEMPORARIES[slot].maker.store(0, Ordering::SeqCst);
        }
    }

    /// Does not return when the program is about to end by a signal: its files are being removed, by this thread too,
    /// and what would fail now because of that is nobody's concern.
    pub fn park_if_stopping(&self) {
        self.made();
        if IS_STOPPING.load(Ordering::SeqCst) {
            remove_temporaries();
            wait_for_the_end();
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.made();
        if let Some(slot) = self.0 {
            TEMPORARIES[slot].doomed.store(ptr::null_mut(), Ordering::Release);
        }
    }
}

/// Installs the handlers of a program. Lines on standard error begin with its name.
///
/// * SIGBUS: temporary files are removed. Inside a mapped file one line follows, and exit status 1; elsewhere the
///   program ends by the signal.
/// * SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXCPU, SIGALRM, SIGVTALRM and SIGPROF, unless they are
///   ignored or have a handler: temporary files are removed, a terminal in which a line is edited gets its mode back,
///   then the program ends by the signal. SIGINT does nothing of it while [`catch_interrupts`] catches it.
/// * SIGABRT: the same, and when the program itself raised it, exit status 1. The standard library and that of C do so
///   where they do not get memory that they need for themselves, after a line that says so.
/// * SIGXFSZ is ignored: writing beyond a limit on file sizes is then an error like any other. SIGCHLD is not.
pub fn install(program: &str) {
    PREFIX.store(kept(format!("{program}: error: ").into_bytes()), Ordering::Release);
    handle(libc::SIGBUS, on_bus as *const () as usize, libc::SA_SIGINFO);
    // SAFETY: the calls have no precondition, and change how the system treats one signal each. Where SIGCHLD is
    // ignored, as services may have it, the system keeps no status of a process that was waited for.
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

/// Says that text is being written to standard output, whole characters at a time, or no longer: whoever interrupts
/// that from the keyboard gets a newline after the last one, where it is a terminal. Files and pipes get the text
/// alone.
pub fn set_in_text(is_in_text: bool) {
    IS_IN_TEXT.store(is_in_text && io::stdout().is_terminal(), Ordering::Release);
}

/// From here on SIGINT does not end the program but sets a flag for [`was_interrupted`], or ends it again. The flag is
/// cleared. Without [`install`], or where SIGINT was ignored before that, this changes nothing.
pub fn catch_interrupts(catches: bool) {
    WAS_INTERRUPTED.store(false, Ordering::SeqCst);
    CATCHES_INTERRUPT.store(catches, Ordering::SeqCst);
}

/// Whether SIGINT came since [`catch_interrupts`] or [`forget_interrupt`].
pub fn was_interrupted() -> bool {
    WAS_INTERRUPTED.load(Ordering::SeqCst)
}

/// Clears the flag of [`was_interrupted`].
pub fn forget_interrupt() {
    WAS_INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Waits until standard input can be read; false when a caught SIGINT came first. The handler restarts a read, but not
/// this.
pub fn wait_for_input() -> bool {
    loop {
        if was_interrupted() {
            return false;
        }
        let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one entry. The timeout is for a signal between the look at the flag and the call.
        let ready = unsafe { libc::poll(&mut input, 1, 100) };
        let is_interrupt = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        // After any other error the read says what is wrong.
        if ready > 0 || ready < 0 && !is_interrupt() {
            return true;
        }
    }
}

/// Drops what was typed in the terminal on standard input and is not read yet.
pub fn discard_typed() {
    // SAFETY: no precondition. Where standard input is not a terminal nothing happens.
    unsafe { libc::tcflush(libc::STDIN_FILENO, libc::TCIFLUSH) };
}

/// While this exists a line is edited in the terminal on standard input: a signal that ends the program gives the
/// terminal the mode back that it has now, and ends bracketed paste.
#[derive(Debug)]
pub struct Editing {
    _private: (),
}

impl Editing {
    /// Remembers the mode of the terminal. Where standard input is not a terminal there is nothing to give back.
    pub fn begin() -> Editing {
        let mut mode = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is to room for one mode.
        let status = unsafe { libc::tcgetattr(libc::STDIN_FILENO, mode.as_mut_ptr()) };
        if status == 0 {
            // SAFETY: the call succeeded, so it has written all of it.
            let mode = unsafe { mode.assume_init() };
            // Never freed, as a handler may read it at any time; a line is typed by a person, and this is 60 bytes.
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

/// Gives the terminal its mode back when a line is being edited; not from the background, where it is in use by another
/// program. From here on the signals that stop the program end it at once, where they ended up here.
///
/// Async-signal-safe: tcgetpgrp, getpgrp, tcsetattr, sigaction, sigaddset, signal, pthread_sigmask, poll and write are,
/// and the mode is never freed.
fn restore_terminal() {
    let mode = TERMINAL.load(Ordering::SeqCst);
    // SAFETY: the mode is complete and never freed; the other calls have no precondition.
    let is_restored = !mode.is_null()
        && unsafe {
            libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp()
                && libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) == 0
        };
    // SAFETY: all zeros are an empty set, and the numbers are those of signals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        for signal in STOPPING.into_iter().filter(|&signal| handler_of(signal) == Some(on_stop as *const () as usize)) {
            libc::signal(signal, libc::SIG_DFL);
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
    if is_restored {
        write_without_waiting(libc::STDOUT_FILENO, b"\x1b[?2004l\r\n", 0);
    }
}

/// Writes what a descriptor takes; after so many milliseconds without room, the rest is left out.
///
/// Async-signal-safe: poll and write are.
fn write_without_waiting(descriptor: c_int, bytes: &[u8], milliseconds: c_int) {
    const STEP: c_int = 10;
    // Where a pipe has room, it has this much.
    for piece in bytes.chunks(libc::PIPE_BUF) {
        let has_room = (0..=milliseconds / STEP).any(|i| {
            let mut output = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
            // SAFETY: the pointer is to one entry.
            let ready = unsafe { libc::poll(&mut output, 1, if i == 0 { 0 } else { STEP }) };
            // With a limit of no open files, which those that are open survive, nothing can be asked.
            let cannot_ask = ready < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
            cannot_ask || ready == 1 && output.revents & libc::POLLOUT != 0
        });
        if !has_room {
            return;
        }
        // SAFETY: so many bytes are readable. Where nobody takes them nobody is left to read.
        unsafe { libc::write(descriptor, piece.as_ptr().cast(), piece.len()) };
    }
}

/// Whether nothing was said about a signal: it is not ignored, as `nohup` has it for SIGHUP, nor awaited by a profiler.
fn has_default(signal: c_int) -> bool {
    handler_of(signal) == Some(libc::SIG_DFL)
}

/// What handles a signal.
///
/// Async-signal-safe: sigaction is.
fn handler_of(signal: c_int) -> Option<usize> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the pointer is to room for one action; a null pointer for the new one changes nothing.
    let status = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call succeeded, so it has written all of it.
    (status == 0).then(|| unsafe { action.assume_init() }.sa_sigaction)
}

/// Installs a handler; while it runs the signals that stop a program wait.
fn handle(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: all zeros are a valid action: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags | libc::SA_RESTART;
    for other in STOPPING {
        // SAFETY: the mask is a valid set, and the numbers are those of signals.
        unsafe { libc::sigaddset(&mut action.sa_mask, other) };
    }
    // SAFETY: the action is complete, and every handler has the signature that its flags say. They are
    // async-signal-safe, see there.
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
    leave_no_temporaries();
    restore_terminal();
    if signal == libc::SIGINT && IS_IN_TEXT.load(Ordering::Acquire) {
        write_without_waiting(libc::STDOUT_FILENO, b"\n", 0);
    }
    end_by(signal);
}

/// Ends a program that has ended itself, and said why. What others send is a signal like those of [`on_stop`].
///
/// Async-signal-safe: like [`on_stop`].
extern "C" fn on_abort(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to the facts about the signal; one that a call sends, with a
    // code that is not positive, has a sender.
    let is_own = unsafe { (*info).si_code <= 0 && (*info).si_pid() == libc::getpid() };
    if is_own {
        begin_the_end();
        // SAFETY: ends the process without running anything else of it.
        unsafe { libc::_exit(1) };
    }
    leave_no_temporaries();
    restore_terminal();
    end_by(signal);
}

/// Says which file cannot be read, and ends the program. The address is one of a read that can never succeed, so
/// returning would only come back here.
///
/// Async-signal-safe: like [`on_stop`], the texts are never freed, and nothing allocates.
extern "C" fn on_bus(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to the facts about the signal. One that the kernel itself
    // sends, with a positive code, has an address; what another process sends has not.
    let address = unsafe { if (*info).si_code > 0 { (*info).si_addr() as usize } else { 0 } };
    for range in &MAPPINGS {
        let begin = range.begin.load(Ordering::Acquire);
        if !(begin..range.end.load(Ordering::Acquire)).contains(&address) {
            continue;
        }
        begin_the_end();
        let mut line = Line::new();
        line.push(text(&PREFIX));
        line.push(text(&range.text));
        line.push(b": cannot read byte ");
        line.push(decimal(address - begin, &mut [0; 20]));
        line.push(
            b" of it while it is in use: cut short, or a disk error; copy or pack it again, or use --load read\n",
        );
        line.write();
        // SAFETY: ends the process without running anything else of it.
        unsafe { libc::_exit(1) };
    }
    leave_no_temporaries();
    restore_terminal();
    end_by(signal);
}

/// Cleans up before one thread says what happened. Others that come here wait for the end.
fn begin_the_end() {
    if IS_ENDING.swap(true, Ordering::AcqRel) {
        make_nothing();
        wait_for_the_end();
    }
    leave_no_temporaries();
    restore_terminal();
}

/// Ends a program that does not get memory it cannot do without: temporary files are removed, a terminal gets its mode
/// back, then one line and exit status 1. Nothing here allocates.
pub(crate) fn end_without_memory(program: &str, bytes: usize) -> ! {
    begin_the_end();
    let mut line = Line::new();
    line.push(program.as_bytes());
    line.push(b": error: the system does not give ");
    line.push(decimal(bytes, &mut [0; 20]));
    line.push(if bytes == 1 { b" byte" } else { b" bytes" });
    line.push(b" of memory; close other programs, or raise the limit (ulimit -v)\n");
    line.write();
    // SAFETY: ends the process without running anything else of it.
    unsafe { libc::_exit(1) }
}

/// Removes temporary files when no other thread is making one. A call that is under way goes on in the system while the
/// program ends, so one that was removed too early would be there afterwards. No new one begins.
fn leave_no_temporaries() {
    IS_STOPPING.store(true, Ordering::SeqCst);
    make_nothing();
    for _ in 0..MAX_WAITS {
        if TEMPORARIES.iter().all(|temporary| temporary.maker.load(Ordering::SeqCst) == 0) {
            break;
        }
        // SAFETY: no descriptors are looked at, so this only waits for a millisecond.
        unsafe { libc::poll(ptr::null_mut(), 0, 1) };
    }
    remove_temporaries();
}

/// What this thread was making it makes no more: it does not return from where this is called.
fn make_nothing() {
    let own = this_thread();
    for temporary in &TEMPORARIES {
        // Those of others stay as they are.
        let _ = temporary.maker.compare_exchange(own, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

fn remove_temporaries() {
    for temporary in &TEMPORARIES {
        let doomed = temporary.doomed.load(Ordering::Acquire);
        if !doomed.is_null() {
            // SAFETY: it is never freed. That the call fails because the file is not there yet, or no more, is as good.
            // So is a folder that another thread has just closed: the name, drawn by lot, is in no other.
            unsafe { libc::unlinkat((*doomed).folder, (*doomed).name.as_ptr(), 0) };
        }
    }
}

/// A number of this thread that is not 0.
fn this_thread() -> usize {
    // SAFETY: no precondition; async-signal-safe.
    unsafe { libc::pthread_self() as usize }
}

fn wait_for_the_end() -> ! {
    loop {
        // SAFETY: no precondition; async-signal-safe.
        unsafe { libc::pause() };
    }
}

/// Ends the program by the signal, as if there were no handler. The first process of a container does not end by one
/// that has none: it ends with the status by which shells report the signal.
fn end_by(signal: c_int) -> ! {
    // SAFETY: all zeros are a valid set, and the calls have no precondition. The signal is blocked while its handler
    // runs, and comes when it no longer is.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::_exit(128 + signal)
    }
}

/// A text that is never freed, or none.
fn text(text: &AtomicPtr<c_char>) -> &'static [u8] {
    let text = text.load(Ordering::Acquire);
    if text.is_null() {
        return b"";
    }
    // SAFETY: a text with a NUL at its end, which is never freed.
    unsafe { std::slice::from_raw_parts(text.cast(), libc::strlen(text)) }
}

/// A line on the stack, so that it is written at once. What does not fit, which no path that the system takes does, is
/// left out.
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

/// A number in decimal digits, without allocating.
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
    fn numbers_are_written_in_decimal() {
        let mut digits = [0; 20];
        assert_eq!(decimal(0, &mut digits), b"0");
        assert_eq!(decimal(1234567890, &mut digits), b"1234567890");
        assert_eq!(decimal(usize::MAX, &mut digits), usize::MAX.to_string().as_bytes());
    }

    #[test]
    fn places_in_the_lists_are_given_back() {
        for _ in 0..2 {
            let folder = std::fs::File::open("/").expect("a folder");
            let new = |_| Temporary::new(folder.as_fd(), OsStr::new("x"));
            let held: Vec<Temporary> = (0..MAX_TEMPORARIES + 1).map(new).collect();
            assert_eq!(held.iter().filter(|temporary| temporary.0.is_none()).count(), 1);
            let bytes = [0u8; 4];
            let held: Vec<Mapped> = (0..MAX_MAPPINGS + 1).map(|_| Mapped::new(&bytes, Path::new("x"))).collect();
            // Other tests of this process may map a file or two meanwhile.
            assert!(held.last().is_some_and(|mapped| mapped.0.is_none()));
            assert!(held.iter().filter(|mapped| mapped.0.is_some()).count() >= MAX_MAPPINGS / 2);
        }
    }
}
