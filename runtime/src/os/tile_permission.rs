//! The permission to use the tiles of AMX. Linux gives it to processes that ask, because a thread that uses tiles needs
//! 8 KiB more for its state, also on the stacks of its signal handlers. Without the permission an instruction for tiles
//! ends the process.

#![allow(unsafe_code, reason = "system calls that libc has no functions for")]

use std::sync::OnceLock;

/// Whether the threads of this process, those that there are already among them, may use tiles. The first call asks for
/// the permission, which lasts: a forked process keeps it, and a new program has to ask again, as it does here. A
/// refusal is an answer, regardless of its reason: a filter of system calls (`EPERM`), an old kernel (`ENOSYS`, `EINVAL`), or
/// a thread whose alternate signal stack is too small (`ENOSPC`).
///
/// Only for processors with tiles that the OS enabled.
pub fn is_granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(system::ask)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
mod system {
    /// What `arch_prctl` does.
    const ARCH_GET_XCOMP_PERM: libc::c_long = 0x1022;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    /// The part of the state of a thread that holds tiles.
    const TILE_DATA: libc::c_long = 18;

    pub fn ask() -> bool {
        // SAFETY: takes two numbers, and touches no memory of the process.
        let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) };
        answer == 0 && permitted().is_some_and(|parts| parts & 1 << TILE_DATA != 0)
    }

    /// The parts of its state that a thread may use.
    pub fn permitted() -> Option<u64> {
        let mut parts = 0u64;
        // SAFETY: writes a u64 to this address.
        let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &raw mut parts) };
        (answer == 0).then_some(parts)
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", not(miri))))]
mod system {
    pub fn ask() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_stays_and_is_that_of_the_system() {
        let granted = is_granted();
        assert_eq!(is_granted(), granted);
        assert_eq!(std::thread::spawn(is_granted).join().expect("no panic"), granted);
        #[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
        assert_eq!(system::permitted().is_some_and(|parts| parts & 1 << 18 != 0), granted);
    }
}
