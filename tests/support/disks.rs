//! Disks that fail, are slow, or remember: the system's behind a hook that sees every call before it is made.
//!
//! None of them waits for the real disk. What a power cut would lose is not tried but worked out, in [`crate::power`].

use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use std::io;
use std::sync::Mutex;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this number of the system.
    Error(i32),
    /// A write takes half of its bytes; other calls go well.
    Short,
    /// A write takes nothing; other calls go well.
    Nothing,
}

/// Which calls of a disk fail, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether it knows files without a name.
    pub unnamed: bool,
    /// The number of the call that fails, from 1.
    pub fail_at: usize,
    /// Whether all calls after it fail too.
    pub sticky: bool,
    /// How they fail.
    pub fault: Fault,
    /// Whether the removal of temporary files can fail: if not, none may be left.
    pub clean_up_fails: bool,
}

impl Plan {
    /// A disk without faults.
    pub fn sound() -> Plan {
        let fault = Fault::Error(0);
        Plan { unnamed: true, fail_at: usize::MAX, sticky: false, fault, clean_up_fails: false }
    }

    /// Calls `work` with a disk that fails like this; returns its result and the names of the calls that were made.
    pub fn run<T>(&self, work: impl FnOnce(&dyn Disk) -> T) -> (T, Vec<&'static str>) {
        let calls = Mutex::new(Vec::new());
        let result = work(&HookedDisk(|call: Call<'_>| self.meet(call, &calls)));
        (result, calls.into_inner().expect("no panic"))
    }

    fn meet(&self, call: Call<'_>, calls: &Mutex<Vec<&'static str>>) -> io::Result<usize> {
        if matches!(call, Call::CreateUnnamed(_)) && !self.unnamed {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if matches!(call, Call::Remove(..) | Call::RemoveFolder(..)) && !self.clean_up_fails {
            return Ok(usize::MAX);
        }
        let mut calls = calls.lock().expect("no panic");
        calls.push(call.name());
        if calls.len() != self.fail_at && !(self.sticky && calls.len() > self.fail_at) {
            return Ok(usize::MAX);
        }
        match (self.fault, call) {
            (Fault::Error(number), _) => Err(io::Error::from_raw_os_error(number)),
            (Fault::Short, Call::Write(_, bytes, _)) => Ok(bytes.len().div_ceil(2)),
            (Fault::Nothing, Call::Write(..)) => Ok(0),
            _ => Ok(usize::MAX),
        }
    }
}
