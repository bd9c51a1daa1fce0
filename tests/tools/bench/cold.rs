//! Starts from the disk: a run after the file's pages were dropped, and a plain read of the file after the same
//! dropping.

use crate::results::Cold;
use olmo_infer::internals::file::model_file::{ModelFile, Which};
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Places in the file that are looked at to see whether it is in memory.
const SAMPLES: u64 = 1000;

/// One round: the disk, a cold run, a warm one. `run` is a whole run of the program in seconds.
pub fn round(model: &Path, run: impl Fn() -> Result<f64, String>) -> Result<Cold, String> {
    let at = |error: io::Error| format!("{}: cannot drop its pages: {error}", model.display());
    let left = drop_pages(model).map_err(at)?;
    let disk = read_by_mapping(model)?;
    let left = drop_pages(model).map_err(at)?.zip(left).map(|(second, first)| second.max(first));
    let cold = run()?;
    let warm = run()?;
    Ok(Cold { disk, cold, warm, left })
}

/// Drops the kernel's cached pages of a file; returns the share that stays, if the file system reports it. No process
/// may have the file mapped.
fn drop_pages(path: &Path) -> io::Result<Option<f64>> {
    let file = File::open(path)?;
    // Pages that were not written yet would stay.
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    let left = share_in_memory(&file)?;
    // The check has loaded pages again.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(left)
}

/// The share of a file that is in memory, if the file system reports it. Every page that is checked is in memory
/// afterwards.
fn share_in_memory(file: &File) -> io::Result<Option<f64>> {
    // Checking an absent page makes the kernel read it: without readahead, only that page.
    rustix::fs::fadvise(file, 0, None, Advice::Random)?;
    let bytes = file.metadata()?.len();
    let mut here = 0;
    for sample in 0..SAMPLES {
        let offset = bytes / SAMPLES * sample;
        match is_in_memory(file, offset)? {
            Some(true) => here += 1,
            // Waits for it: reads on their way can neither be dropped nor be kept out of the next measurement.
            Some(false) => file.read_exact_at(&mut [0], offset)?,
            None => return Ok(None),
        }
    }
    Ok(Some(here as f64 / SAMPLES as f64))
}

/// Whether the page at `offset` can be read without waiting for the disk; `None` if the file system does not report it.
/// A page that cannot may be on its way afterwards.
fn is_in_memory(file: &File, offset: u64) -> io::Result<Option<bool>> {
    let mut byte = [0];
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
        Ok(_) => Ok(Some(true)),
        Err(Errno::AGAIN) => Ok(Some(false)),
        Err(Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Seconds in which the disk gives everything that a token reads: opening, mapping and MADV_POPULATE_READ.
fn read_by_mapping(path: &Path) -> Result<f64, String> {
    let begun = Instant::now();
    let file = ModelFile::open(path).map_err(|error| error.to_string())?;
    let populated = file.populate(Which::default(), &|| false).map_err(|error| error.to_string())?;
    match populated.complete {
        true => Ok(begun.elapsed().as_secs_f64()),
        false => Err(format!("{}: this kernel or file system cannot populate a mapping", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_file_is_not_reported_as_cold() {
        let path = std::env::temp_dir().join(format!("olmo-bench-in-memory-{}", std::process::id()));
        std::fs::write(&path, vec![7; 1 << 20]).expect("written");
        let here = is_in_memory(&File::open(&path).expect("opens"), 4096).expect("looked at");
        std::fs::remove_file(&path).expect("removed");
        assert_ne!(here, Some(false));
    }

    #[test]
    fn checking_dropped_pages_does_not_load_them() {
        let path = std::env::temp_dir().join(format!("olmo-bench-dropped-{}", std::process::id()));
        std::fs::write(&path, vec![7; 4 << 20]).expect("written");
        // The kernel keeps pages that it is still busy with, so on a busy disk not every dropping succeeds.
        let agrees = (0..20).any(|_| {
            let left = drop_pages(&path).expect("dropped");
            let here = is_in_memory(&File::open(&path).expect("opens"), 0).expect("looked at");
            // A file system in memory drops nothing.
            here == left.map(|left| left > 0.5)
        });
        std::fs::remove_file(&path).expect("removed");
        assert!(agrees);
    }
}
