//! Output of signal handlers: without allocation, and without waiting for a reader.

#![allow(unsafe_code, reason = "system calls of signal handlers")]

use libc::{c_char, c_int};
use std::ffi::CString;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Milliseconds that the error line waits for standard error to accept it. A busy reader accepts it sooner.
const MAX_LINE_WAIT: c_int = 1000;

/// A text that a handler may read at any time, so it is never freed. There is one per mapped or written file.
pub(super) fn kept(text: Vec<u8>) -> *mut c_char {
    // Paths and messages contain no NUL; a text with one would be dropped.
    CString::new(text).map_or(ptr::null_mut(), CString::into_raw)
}

/// Writes as much as a descriptor accepts. After `milliseconds` without space the rest is dropped.
///
/// Async-signal-safe: poll and write are.
pub(super) fn write_without_waiting(descriptor: c_int, bytes: &[u8], milliseconds: c_int) {
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

/// The text behind a pointer; empty for a null pointer.
pub(super) fn text(text: &AtomicPtr<c_char>) -> &'static [u8] {
    let text = text.load(Ordering::Acquire);
    if text.is_null() {
        return b"";
    }
    // SAFETY: the text ends with a NUL and is never freed.
    unsafe { std::slice::from_raw_parts(text.cast(), libc::strlen(text)) }
}

/// A line on the stack, so that it is written in one call. The rest of a longer line is dropped; valid paths fit.
pub(super) struct Line {
    bytes: [u8; 4096 + 512],
    length: usize,
}

impl Line {
    pub(super) fn new() -> Line {
        Line { bytes: [0; 4096 + 512], length: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    pub(super) fn write(&self) {
        write_without_waiting(libc::STDERR_FILENO, &self.bytes[..self.length], MAX_LINE_WAIT);
    }
}

/// A number in decimal digits, without allocation.
pub(super) fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
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

    #[test]
    fn decimal_formats_smallest_and_largest_number() {
        let mut digits = [0; 20];
        assert_eq!(decimal(0, &mut digits), b"0");
        assert_eq!(decimal(1234567890, &mut digits), b"1234567890");
        assert_eq!(decimal(usize::MAX, &mut digits), usize::MAX.to_string().as_bytes());
    }
}
