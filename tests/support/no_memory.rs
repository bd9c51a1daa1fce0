//! Allocations that fail, one after the other, in every command.

use crate::commands::{Command, Ended, PACKING, Places};
use crate::{TempDir, repository};
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process;

/// Parts of the lines that report it: ours, that of the standard library for its own allocations, and glibc's.
const TELLING: [&str; 3] = [": error: ", "memory allocation of ", "Fatal glibc error: "];

/// Commands that read headers by npyz. Its dependency stacker asks glibc once a thread for the bounds of the stack, and
/// frees an uninitialized value when that allocation fails.
const READ_NPY: [&str; 2] = ["pack", "unpack"];
const SIGSEGV: i32 = 11;

/// `tests/programs/no_memory.rs`, compiled; `None` where there is no malloc to put it before.
pub fn library(folder: &TempDir) -> Option<PathBuf> {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
        return None;
    }
    let (source, library) = (repository().join("tests/programs/no_memory.rs"), folder.join("libno_memory.so"));
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = process::Command::new(rustc);
    command.args(["--edition", "2024", "-O", "-C", "panic=abort", "--crate-type", "cdylib", "-o"]);
    let status = command.args([&library, &source]).status().expect("rustc, which built this");
    assert!(status.success(), "{command:?}: {status}");
    Some(library)
}

/// A command with the library before its malloc.
pub struct WithoutMemory<'a> {
    command: Command,
    places: &'a Places<'a>,
    library: &'a str,
    /// How it ends with all memory, and what it writes.
    expected: (Ended, Option<Vec<u8>>),
    /// Number of its allocations.
    pub n_allocations: u64,
}

impl<'a> WithoutMemory<'a> {
    /// Counts the allocations of a command.
    pub fn new(command: Command, places: &'a Places<'a>, library: &'a str) -> WithoutMemory<'a> {
        let expected = command.run(places, &[]);
        assert_eq!(expected.code, Some(0), "{}: {expected:?}", command.name);
        let written = fs::read(&places.out).ok();
        places.clear();
        let counted = command.run(places, &[("LD_PRELOAD", library), ("NO_MEMORY_AT", "0")]);
        places.clear();
        let number = counted.stderr.lines().find_map(|line| line.strip_prefix("allocations:")).expect("a number");
        let n_allocations = number.trim().parse().expect("a number");
        WithoutMemory { command, places, library, expected: (expected, written), n_allocations }
    }

    /// Lets one allocation fail, or that one and all that follow. The command must end as with all memory, or with one
    /// line and status 1, and leave nothing.
    ///
    /// # Errors
    /// What happens instead.
    pub fn fails_at(&self, number: u64, goes_on: bool) -> Result<(), String> {
        let number = number.to_string();
        let mut environment = vec![("LD_PRELOAD", self.library), ("NO_MEMORY_AT", number.as_str())];
        environment.extend(goes_on.then_some(("NO_MEMORY_ON", "1")));
        let ended = self.command.run(self.places, &environment);
        let (written, left) = (fs::read(&self.places.out).ok(), self.places.left_over());
        self.places.clear();
        for name in &left {
            fs::remove_file(self.places.out.with_file_name(name)).map_err(|error| error.to_string())?;
        }
        let n_lines = ended.stderr.lines().filter(|line| TELLING.iter().any(|telling| line.contains(telling))).count();
        // Several threads may meet it at once.
        let n_lines = if goes_on { n_lines.min(1) } else { n_lines };
        let fault = match ended.code {
            // The output of packing contains its duration.
            Some(0) if ended.stdout != self.expected.0.stdout && self.command.name != PACKING.name => {
                "status 0 with another output"
            }
            Some(0) if written != self.expected.1 => "status 0 with another file",
            Some(1) if n_lines != 1 => "status 1 without one line",
            // It may have been the last thing to do.
            Some(1) if written.is_some() && written != self.expected.1 => "status 1 with a part of a file",
            Some(0 | 1) if !left.is_empty() => "a file is left",
            Some(0 | 1) => return Ok(()),
            // See the exceptions in SECURITY.md.
            None if READ_NPY.contains(&self.command.name) && ended.signal == Some(SIGSEGV) && n_lines == 0 => {
                return Ok(());
            }
            _ => "another end",
        };
        let name = self.command.name;
        Err(format!("{name}, allocation {number}, on {goes_on}: {fault}: {ended:?}, left {left:?}"))
    }
}
