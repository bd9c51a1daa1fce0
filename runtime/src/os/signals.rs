//! Signal handling of the programs: one error line when a mapped file is truncated, and no temporary files left behind
//! when the program is stopped.
//!
//! The library only keeps the two lists that the handlers read: `mapped_ranges` and `temporary_names`. The
//! programs install the handlers, never the library. The handlers call only async-signal-safe functions, and read only
//! atomics and memory that is never freed. They never block on a reader: output that a full pipe or a stopped terminal
//! does not accept is dropped. Before they write, the default action of the stopping signals is restored, so that the
//! next one ends the program at once.

#![allow(unsafe_code, reason = "signal handlers")]

use crate::os::raw_line::{Line, decimal, kept, text};
use crate::os::{mapped_ranges, temporary_names, terminal};
use libc::{c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

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

/// "olmo-infer: error: "; null when no handler is installed.
static PREFIX: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// What to do about a model that cannot be read, and a newline; null when no handler is installed.
static ADVICE: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// Whether a thread has started to print the error line.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Installs the signal handlers of a program. `program` begins its lines on standard error; `advice` ends the line about
/// a mapped file that cannot be read.
///
/// * SIGBUS: temporary files are removed. For an address in a mapped file one error line follows, and exit status 1;
///   otherwise the program ends by the signal.
/// * SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXCPU, SIGALRM, SIGVTALRM and SIGPROF, unless they are
///   ignored or have a handler: temporary files are removed, the terminal mode is restored if a line is being edited,
///   then the program ends by the signal. SIGINT does none of this while [`catch_interrupts`](crate::os::terminal::catch_interrupts) catches it.
/// * SIGABRT: the same; if the program itself raised it, exit status 1. The Rust and C standard libraries raise it
///   after an error line when they cannot allocate memory that they need for themselves.
/// * SIGXFSZ is ignored: exceeding a file size limit is then an ordinary write error. SIGCHLD is reset to its default.
pub fn install(program: &str, advice: &str) {
    PREFIX.store(kept(format!("{program}: error: ").into_bytes()), Ordering::Release);
    ADVICE.store(kept(format!("{advice}\n").into_bytes()), Ordering::Release);
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

/// Restores the terminal mode if a line is being edited, unless another program is in the foreground. From here on the
/// stopping signals that have this module's handler end the program at once.
///
/// Async-signal-safe: those of [`terminal`], sigaction, sigaddset, signal and pthread_sigmask are.
fn restore_terminal() {
    let restored = terminal::restore_mode();
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
        terminal::end_edited_line();
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
    if signal == libc::SIGINT && terminal::take_interrupt() {
        return;
    }
    temporary_names::remove_all();
    restore_terminal();
    if signal == libc::SIGINT {
        terminal::end_line_of_text();
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
    temporary_names::remove_all();
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
    if let Some((path, offset)) = mapped_ranges::find(address) {
        begin_ending();
        let mut line = Line::new();
        line.push(text(&PREFIX));
        line.push(path);
        line.push(b": cannot read byte ");
        line.push(decimal(offset, &mut [0; 20]));
        line.push(b" of it while it is in use: cut short, or a disk error; ");
        line.push(text(&ADVICE));
        line.write();
        // SAFETY: ends the process without running any other code of it.
        unsafe { libc::_exit(1) };
    }
    temporary_names::remove_all();
    restore_terminal();
    end_by(signal);
}

/// Cleans up before one thread prints the error line. Other threads wait here for the end of the process.
fn begin_ending() {
    if IS_ENDING.swap(true, Ordering::AcqRel) {
        temporary_names::forget_own_files();
        temporary_names::wait_for_end();
    }
    temporary_names::remove_all();
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
