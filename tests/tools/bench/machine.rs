//! The machine that the figures belong to.

use crate::programs::output;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a reader of the figures must know about it.
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
    /// Reads what /proc says.
    pub fn read() -> Machine {
        let field = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_string())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kilobytes: Option<u64> = memory.split_whitespace().next().and_then(|number| number.parse().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| String::from("unknown processor")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_string(),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
        }
    }
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
