//! `peak-memory PROGRAM ARGUMENTS...`: runs a program and writes the most memory that it had at a time, in bytes, and
//! the time of processors that it took, in microseconds, to the file that `OLMO_PEAK_FILE` names, if it does. Ends as
//! the program does.
//!
//! The system counts for a program also what the process had that started it. This one has next to nothing.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

const FILE: &str = "OLMO_PEAK_FILE";

#[expect(clippy::zombie_processes, reason = "`wait` waits")]
fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("peak-memory: error: expected a program");
        return ExitCode::from(2);
    };
    let child = Command::new(program).args(arguments).env_remove(FILE).spawn().expect("the program starts");
    let (status, peak_bytes, microseconds) = wait(child.id());
    if let Some(file) = env::var_os(FILE) {
        fs::write(file, format!("{peak_bytes} {microseconds}")).expect("the file takes the numbers");
    }
    match status.signal() {
        None => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(255)),
        Some(signal) => end_by(signal),
    }
}

/// Waits for a child. std does too, but does not report its resource usage.
#[allow(unsafe_code)]
fn wait(process: u32) -> (ExitStatus, u64, u64) {
    let (mut status, process) = (0, libc::pid_t::try_from(process).expect("a process id"));
    // SAFETY: all bits zero are a valid rusage, which is made of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live until the call returns.
    let waited = unsafe { libc::wait4(process, &mut status, 0, &mut usage) };
    assert_eq!(waited, process, "{}", std::io::Error::last_os_error());
    let microseconds = |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).expect("a time");
    let peak_bytes = u64::try_from(usage.ru_maxrss).expect("a size") << 10;
    (ExitStatus::from_raw(status), peak_bytes, microseconds(usage.ru_utime) + microseconds(usage.ru_stime))
}

/// Ends this process as the signal ended the other.
#[allow(unsafe_code)]
fn end_by(signal: i32) -> ExitCode {
    // SAFETY: neither call has a precondition.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    // A signal that does not end a process by itself.
    ExitCode::from(255)
}
