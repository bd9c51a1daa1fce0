//! Terminals for programs that are tested.

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread::{JoinHandle, spawn};

/// A terminal: where keys are typed and the screen is read, and the side of the program.
///
/// # Panics
/// When the OS has none.
pub fn pty() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let line = open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("its line");
    (File::from(master), line)
}

/// Reads a screen until its last writer closes it.
pub fn screen(mut keyboard: File) -> JoinHandle<Vec<u8>> {
    spawn(move || {
        let (mut screen, mut bytes) = (Vec::new(), [0; 4096]);
        // On Linux the end is an error.
        while let Ok(n @ 1..) = keyboard.read(&mut bytes) {
            screen.extend(&bytes[..n]);
        }
        screen
    })
}
