//! The `.npy` file of `--logits`: written without a name, and given one only when it is complete; or standard output,
//! where the header comes first and must be right from the start.

use crate::failure::Failure;
use crate::output_path::output_path;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::os::atomic_file::Pending;
use olmo_infer::internals::os::directory::{Folder, Place};
use olmo_infer::internals::os::disk::{Disk, uninterrupted};
use olmo_infer::internals::os::memory;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes before the numbers: room for any shape, and a multiple of 64 as the format wants.
const HEADER_BYTES: usize = 128;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Where the logits of all positions go.
pub enum Logits {
    /// To a file.
    File(LogitsFile<'static>),
    /// To standard output.
    Stdout(LogitsStream),
}

impl Logits {
    /// Appends the logits of one position.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        match self {
            Logits::File(file) => file.write(logits),
            Logits::Stdout(stream) => stream.write(logits),
        }
    }

    /// Makes the array complete.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Logits::File(file) => file.finish(),
            Logits::Stdout(stream) => stream.finish(),
        }
    }
}

/// An array `[positions, vocab_size]` of f32 on standard output.
pub struct LogitsStream {
    out: BufWriter<Stdout>,
    vocab_size: usize,
    /// Rows that the header promises and that have not been written.
    missing: usize,
}

impl LogitsStream {
    /// Begins an array of `positions` rows.
    pub fn create(positions: usize, vocab_size: usize) -> Result<LogitsStream, Failure> {
        let mut out = BufWriter::with_capacity(1 << 16, io::stdout());
        out.write_all(&header(positions, vocab_size))?;
        Ok(LogitsStream { out, vocab_size, missing: positions })
    }

    fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        assert_eq!(logits.len(), self.vocab_size);
        self.missing = self.missing.checked_sub(1).expect("no more positions than were promised");
        Ok(logits.iter().try_for_each(|logit| self.out.write_all(&logit.to_le_bytes()))?)
    }

    fn finish(mut self) -> Result<(), Failure> {
        assert_eq!(self.missing, 0, "as many positions as were promised");
        Ok(self.out.flush()?)
    }
}

/// An array `[positions, vocab_size]` of f32 that grows by rows.
pub struct LogitsFile<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    name: OsString,
    /// The folder of the name; none where it may be written to and not read.
    folder: Option<File>,
    out: Pending<'d>,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Bytes that are.
    bytes: u64,
    vocab_size: usize,
    rows: usize,
}

impl<'d> LogitsFile<'d> {
    /// Begins a file that will replace `path`, or the file that a link there leads to; `inputs` are not replaced.
    pub fn create(
        disk: &'d dyn Disk,
        path: &Path,
        inputs: &[&Path],
        vocab_size: usize,
    ) -> Result<LogitsFile<'d>, Failure> {
        let Place { folder, name, .. } = output_path(path, "--logits", "create", inputs)?;
        let mut buffer = Vec::new();
        // While there is no file that could be left behind.
        if memory::asking(|| buffer.try_reserve_exact(BUFFER_BYTES)).is_err() {
            return Err(Failure::Refused(format!(
                "{}: the system does not give the 1 MiB of memory that writing it takes; raise the limit (ulimit -v)",
                display_path(path)
            )));
        }
        let synced = open_for_sync(disk, &folder).map_err(Error::io(path, "create"))?;
        let out = Pending::create(disk, &Arc::new(folder), "olmo-infer").map_err(Error::io(path, "create"))?;
        let path = path.to_path_buf();
        let mut file = LogitsFile { disk, path, name, folder: synced, out, buffer, bytes: 0, vocab_size, rows: 0 };
        file.write_bytes(&header(0, vocab_size))?;
        Ok(file)
    }

    /// Appends the logits of one position.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        assert_eq!(logits.len(), self.vocab_size);
        self.rows += 1;
        logits.iter().try_for_each(|logit| self.write_bytes(&logit.to_le_bytes()))
    }

    /// Writes the final shape, gives the file its name and brings that to the disk.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()?;
        let header = header(self.rows, self.vocab_size);
        let written = self.out.write_at(&header, 0).and_then(|()| self.out.sync());
        written.map_err(Error::io(&self.path, "write"))?;
        self.out.publish(&self.name, true).map_err(Error::io(&self.path, "create"))?;
        Ok(sync_names(self.disk, self.folder.as_ref(), &self.path)?)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.write_at(&self.buffer, self.bytes).map_err(Error::io(&self.path, "write"))?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Opens a folder to bring its names to the disk later: what would fail after the name is there must fail before. None
/// where the folder may be written to and not read.
pub fn open_for_sync(disk: &dyn Disk, folder: &Folder) -> io::Result<Option<File>> {
    match uninterrupted(|| disk.open_folder(folder)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(Some),
    }
}

/// Brings the name of the file at `path` to the disk.
pub fn sync_names(disk: &dyn Disk, folder: Option<&File>, path: &Path) -> Result<(), Error> {
    let survives = folder.map_or(Ok(()), |folder| uninterrupted(|| disk.sync_folder(folder)));
    survives.map_err(Error::io(path, "make its name survive a power cut, though it is in place"))
}

/// Magic, version 1.0, length, and the description padded with spaces to [`HEADER_BYTES`].
fn header(rows: usize, vocab_size: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((HEADER_BYTES as u16 - 10).to_le_bytes());
    let shape = (rows, vocab_size);
    write!(header, "{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}").expect("writing to memory");
    header.resize(HEADER_BYTES - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooked::assert_whole_or_not_at_all;

    #[test]
    fn the_file_is_whole_or_not_there_and_in_no_other_folder() {
        let rows = [[0.0f32, 1.5], [-2.0, 3.0]];
        let numbers = rows.as_flattened().iter().flat_map(|number| number.to_le_bytes());
        let whole: Vec<u8> = header(2, 2).into_iter().chain(numbers).collect();
        for replaces in [false, true] {
            assert_whole_or_not_at_all(replaces, &whole, |disk, path| {
                let mut file = LogitsFile::create(disk, path, &[], 2)?;
                rows.iter().try_for_each(|row| file.write(row))?;
                file.finish()
            });
        }
    }
}
