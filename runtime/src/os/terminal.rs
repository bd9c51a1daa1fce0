//! The terminal of a program: the mode while a line is edited, and SIGINT from the keyboard.

#![allow(unsafe_code, reason = "system calls, and the mode that signal handlers restore")]

use crate::os::raw_line::write_without_waiting;
use std::io::{self, IsTerminal};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Whether standard output is a terminal in the middle of a line of text.
static IS_IN_TEXT: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT only sets [`WAS_INTERRUPTED`].
static CATCHES_INTERRUPT: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT arrived while it was caught.
static WAS_INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The terminal mode before line editing; null outside of it.
static TERMINAL: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());

/// Sets whether text is being written to standard output, in whole characters. If SIGINT ends the program meanwhile, a
/// terminal gets a newline after the last character. Files and pipes get the text alone.
pub fn set_in_text(is_in_text: bool) {
    IS_IN_TEXT.store(is_in_text && io::stdout().is_terminal(), Ordering::Release);
}

/// Chooses whether SIGINT sets a flag for [`was_interrupted`] or ends the program. Clears the flag. Has no effect
/// without handlers of [`crate::os::signals`], or where SIGINT was ignored before it.
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

/// Takes SIGINT if it is caught; yields whether it was.
///
/// Async-signal-safe: it uses atomics only.
pub(super) fn take_interrupt() -> bool {
    let is_caught = CATCHES_INTERRUPT.load(Ordering::SeqCst);
    if is_caught {
        WAS_INTERRUPTED.store(true, Ordering::SeqCst);
    }
    is_caught
}

/// Restores the terminal mode if a line is being edited, unless another program is in the foreground; yields whether it
/// did.
///
/// Async-signal-safe: tcgetpgrp, getpgrp and tcsetattr are, and the mode is never freed.
pub(super) fn restore_mode() -> bool {
    let mode = TERMINAL.load(Ordering::SeqCst);
    // SAFETY: the mode is complete and never freed; the other calls have no precondition.
    !mode.is_null()
        && unsafe {
            libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp()
                && libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) == 0
        }
}

/// Ends bracketed paste and the line that was edited. Async-signal-safe.
pub(super) fn end_edited_line() {
    write_without_waiting(libc::STDOUT_FILENO, b"\x1b[?2004l\r\n", 0);
}

/// Ends the line of a text that is being written to a terminal. Async-signal-safe.
pub(super) fn end_line_of_text() {
    if IS_IN_TEXT.load(Ordering::Acquire) {
        write_without_waiting(libc::STDOUT_FILENO, b"\n", 0);
    }
}
