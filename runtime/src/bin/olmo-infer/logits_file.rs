//! The `.npy` file of `--logits`: written without a name, and given one only when it is complete; or standard output,
//! where the header comes first and must be right from the start.

use crate::failure::Failure;
use crate::output_file::OutputFile;
use crate::output_path::output_path;
use npyz::WriterBuilder;
use npyz::write_options::WriteOptions;
use olmo_infer::internals::error::display_path;
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::memory;
use std::io::{self, BufWriter, Stdout, Write};
use std::path::Path;

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
    out: OutputFile<'d>,
    /// What is not written yet.
    buffer: Vec<u8>,
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
        let place = output_path(path, "--logits", "create", inputs)?;
        let mut buffer = Vec::new();
        // While there is no file that could be left behind.
        if memory::asking(|| buffer.try_reserve_exact(BUFFER_BYTES)).is_err() {
            return Err(Failure::Refused(format!(
                "{}: out of memory: cannot allocate 1 MiB for writing it; raise the limit (ulimit -v)",
                display_path(path)
            )));
        }
        let out = OutputFile::create(disk, place, path)?;
        buffer.extend(header(0, vocab_size));
        Ok(LogitsFile { out, buffer, vocab_size, rows: 0 })
    }

    /// Appends the logits of one position.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        assert_eq!(logits.len(), self.vocab_size);
        self.rows += 1;
        logits.iter().try_for_each(|logit| self.write_bytes(&logit.to_le_bytes()))
    }

    /// Writes the final shape, which takes as many bytes as the first one, and gives the file its name.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()?;
        self.out.write_beginning(&header(self.rows, self.vocab_size))?;
        Ok(self.out.publish(true)?)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// The header of an array of `rows` rows: 128 bytes for any number.
fn header(rows: usize, vocab_size: usize) -> Vec<u8> {
    let dtype = npyz::DType::new_scalar("<f4".parse().expect("a type of numpy"));
    let shape = [rows as u64, vocab_size as u64];
    let header = WriteOptions::new_header_only().dtype(dtype).shape(&shape).writer(Vec::new());
    header.write_header_only().expect("memory takes it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whole_file::assert_whole_or_not_at_all;

    #[test]
    fn header_has_the_same_length_for_any_shape() {
        for (rows, vocab_size) in [(0, 1), (1, 50_304), (1 << 40, 100_352)] {
            assert_eq!(header(rows, vocab_size).len(), 128, "{rows} {vocab_size}");
        }
    }

    /// Row E8, `--logits`.
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
