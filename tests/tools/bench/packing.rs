//! Packing a folder, compared with copying it.

use crate::kind::Kind;
use crate::programs::{Programs, failure, output};
use crate::results::Packed;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often the memory of the packer is looked at.
const SAMPLE: Duration = Duration::from_millis(2);

/// The two ways of the same bytes to the same disk.
pub struct Packing<'a> {
    /// The programs.
    pub programs: &'a Programs,
    /// The folder.
    pub weights: &'a Path,
    /// Where `cp` puts it.
    pub copy: &'a Path,
    /// Where `olmo-pack` puts the model.
    pub model: &'a Path,
}

impl Packing<'_> {
    /// `cp` of the folder and `sync`, in seconds. The copy is removed again.
    pub fn copy(&self) -> Result<f64, String> {
        self.prepare()?;
        let begun = Instant::now();
        output(Command::new("cp").args(["-r", "--reflink=never"]).arg(self.weights).arg(self.copy))?;
        output(&mut Command::new("sync"))?;
        let seconds = begun.elapsed().as_secs_f64();
        remove_folder(self.copy)?;
        Ok(seconds)
    }

    /// `olmo-pack` of the folder, which syncs by itself.
    pub fn pack(&self, kind: &Kind) -> Result<Packed, String> {
        if self.model.exists() {
            fs::remove_file(self.model).map_err(|error| format!("{}: {error}", self.model.display()))?;
        }
        self.prepare()?;
        let name = self.programs.path("olmo-pack");
        let mut command = Command::new(&name);
        command.arg(self.weights).arg(self.model).args(kind.pack);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", name.display()))?;
        let status_file = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| format!("{}: {error}", name.display()))? {
                break status;
            }
            peak = peak.max(anonymous_bytes(&status_file).unwrap_or(0));
            thread::sleep(SAMPLE);
        };
        let seconds = begun.elapsed().as_secs_f64();
        if !status.success() {
            let mut stderr = Vec::new();
            // The exit status reports the failure already.
            let _without_a_reason = child.stderr.take().map(|mut pipe| pipe.read_to_end(&mut stderr));
            return Err(failure(&name.to_string_lossy(), status, &stderr));
        }
        let file_bytes = fs::metadata(self.model).map_err(|error| format!("{}: {error}", self.model.display()))?.len();
        Ok(Packed { seconds, peak_anonymous_bytes: peak, file_bytes })
    }

    /// Nothing waits for the disk, and the source is in memory.
    fn prepare(&self) -> Result<(), String> {
        output(&mut Command::new("sync"))?;
        let context = |error: io::Error| format!("{}: {error}", self.weights.display());
        let mut buffer = vec![0; 1 << 20];
        for entry in fs::read_dir(self.weights).map_err(context)? {
            let mut file = File::open(entry.map_err(context)?.path()).map_err(context)?;
            while file.read(&mut buffer).map_err(context)? > 0 {}
        }
        Ok(())
    }
}

/// Removes a folder of generated files.
pub fn remove_folder(folder: &Path) -> Result<(), String> {
    fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn anonymous_bytes(status_file: &str) -> Option<u64> {
    let status = fs::read_to_string(status_file).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
