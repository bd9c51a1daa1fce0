//! The machine that the figures belong to.

use crate::programs::output;
use crate::results::Version;
use olmo_tests::repository;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The facts that a reader of the figures needs.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory in bytes; 0 when it cannot be read.
    pub memory_bytes: u64,
}

impl Machine {
    /// Reads the facts in /proc.
    pub fn read() -> Machine {
        let field = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_string())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kilobytes: Option<u64> = memory.split_whitespace().next().and_then(|number| number.parse().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpu = |key: &str| field("/proc/cpuinfo", key).unwrap_or_else(|| String::from("unknown"));
        Machine {
            // Virtual machines often keep the rest of the name to themselves.
            cpu: format!("{} (family {}, model {})", cpu("model name"), cpu("cpu family"), cpu("model\t")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_string(),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
        }
    }

    /// Memory in GiB, rounded: what the kernel keeps for itself differs from one start to the next.
    pub fn memory_gib(&self) -> u64 {
        (self.memory_bytes as f64 / (1u64 << 30) as f64).round() as u64
    }

    /// Whether figures of both may be in one report.
    pub fn is_like(&self, other: &Machine) -> bool {
        let facts = |of: &Machine| (of.cpu.clone(), of.cores, of.kernel.clone(), of.memory_gib());
        facts(self) == facts(other)
    }
}

/// The date, and what this was built from.
pub fn version() -> Version {
    let first_line = |command: &mut Command| output(command).ok()?.lines().next().map(str::to_string);
    let unknown = || String::from("unknown");
    let date = first_line(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).unwrap_or_else(unknown);
    let git = |arguments: &[&str]| first_line(Command::new("git").current_dir(repository()).args(arguments));
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(unknown);
    let changed = if git(&["status", "--porcelain", "--untracked-files=no"]).is_some() { " with changes" } else { "" };
    let compiler = first_line(Command::new("rustc").arg("--version")).unwrap_or_else(unknown);
    Version { date, program: format!("olmo {}, commit {commit}{changed}, {compiler}", env!("CARGO_PKG_VERSION")) }
}

/// Bytes that are free on the disk of `folder`.
pub fn free_disk(folder: &Path) -> Result<u64, String> {
    let text = output(Command::new("df").args(["-B1", "--output=avail"]).arg(folder))?;
    let number = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
    number.ok_or_else(|| format!("df -B1 --output=avail {}: no number in {text:?}", folder.display()))
}

/// Bytes of all files of a folder.
pub fn folder_bytes(folder: &Path) -> Result<u64, String> {
    let context = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(context)? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(context)?.len();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_differs_by_kernel_but_not_by_a_little_memory() {
        let machine =
            |kernel: &str, memory_bytes| Machine { cpu: "CPU".into(), cores: 2, kernel: kernel.into(), memory_bytes };
        let now = machine("6.1", 25_276_502_016);
        assert!(now.is_like(&machine("6.1", 25_276_000_000)));
        assert!(!now.is_like(&machine("6.1", 16 << 30)));
        assert!(!now.is_like(&machine("6.2", 25_276_502_016)));
    }
}
