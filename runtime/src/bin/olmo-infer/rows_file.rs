//! The `.npy` files of `--logits` and `--hidden`, a row for each position: written without a name, and given one only
//! when they are complete; or standard output, where the header comes first and must be right from the start.

use crate::failure::Failure;
use crate::output_path::output_path;
use crate::program::PROGRAM;
use npyz::WriterBuilder;
use npyz::write_options::WriteOptions;
use olmo_infer::internals::error::display_path;
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::memory;
use olmo_infer::internals::os::output_file::OutputFile;
use std::io::{self, BufWriter, Stdout, Write};
use std::path::Path;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Where the rows of all positions go.
pub enum Rows {
    /// To a file.
    File(RowsFile<'static>),
    /// To standard output.
    Stdout(RowsStream),
}

impl Rows {
    /// Appends the row of one position.
    pub fn write(&mut self, row: &[f32]) -> Result<(), Failure> {
        match self {
            Rows::File(file) => file.write(row),
            Rows::Stdout(stream) => stream.write(row),
        }
    }

    /// Makes the array complete.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Rows::File(file) => file.finish(),
            Rows::Stdout(stream) => stream.finish(),
        }
    }
}

/// An array `[positions, width]` of f32 on standard output.
pub struct RowsStream {
    out: BufWriter<Stdout>,
    width: usize,
    /// Rows that the header promises and that have not been written.
    missing: usize,
}

impl RowsStream {
    /// Begins an array of `positions` rows.
    pub fn create(positions: usize, width: usize) -> Result<RowsStream, Failure> {
        let mut out = BufWriter::with_capacity(1 << 16, io::stdout());
        out.write_all(&header(positions, width))?;
        Ok(RowsStream { out, width, missing: positions })
    }

    fn write(&mut self, row: &[f32]) -> Result<(), Failure> {
        assert_eq!(row.len(), self.width);
        self.missing = self.missing.checked_sub(1).expect("no more positions than were promised");
        Ok(row.iter().try_for_each(|number| self.out.write_all(&number.to_le_bytes()))?)
    }

    fn finish(mut self) -> Result<(), Failure> {
        assert_eq!(self.missing, 0, "as many positions as were promised");
        Ok(self.out.flush()?)
    }
}

/// An array `[positions, width]` of f32 that grows by rows.
pub struct RowsFile<'d> {
    out: OutputFile<'d>,
    /// What is not written yet.
    buffer: Vec<u8>,
    width: usize,
    rows: usize,
}

impl<'d> RowsFile<'d> {
    /// Begins a file that will replace `path`, the value of `flag`, or the file that a link there leads to; `inputs` are
    /// not replaced.
    pub fn create(
        disk: &'d dyn Disk,
        path: &Path,
        flag: &str,
        inputs: &[&Path],
        width: usize,
    ) -> Result<RowsFile<'d>, Failure> {
        let place = output_path(path, flag, "create", inputs)?;
        let mut buffer = Vec::new();
        // While there is no file that could be left behind.
        if memory::asking(|| buffer.try_reserve_exact(BUFFER_BYTES)).is_err() {
            return Err(Failure::Refused(format!(
                "{}: out of memory: cannot allocate 1 MiB for writing it; raise the limit (ulimit -v)",
                display_path(path)
            )));
        }
        let out = OutputFile::create(disk, place, path, PROGRAM.name())?;
        buffer.extend(header(0, width));
        Ok(RowsFile { out, buffer, width, rows: 0 })
    }

    /// Appends the row of one position.
    pub fn write(&mut self, row: &[f32]) -> Result<(), Failure> {
        assert_eq!(row.len(), self.width);
        self.rows += 1;
        row.iter().try_for_each(|number| self.write_bytes(&number.to_le_bytes()))
    }

    /// Writes the final shape, which takes as many bytes as the first one, and gives the file its name.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()?;
        self.out.write_beginning(&header(self.rows, self.width))?;
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
fn header(rows: usize, width: usize) -> Vec<u8> {
    let dtype = npyz::DType::new_scalar("<f4".parse().expect("a type of numpy"));
    let shape = [rows as u64, width as u64];
    let header = WriteOptions::new_header_only().dtype(dtype).shape(&shape).writer(Vec::new());
    header.write_header_only().expect("memory takes it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whole_file::assert_whole_or_not_at_all;

    #[test]
    fn header_has_the_same_length_for_any_shape() {
        for (rows, width) in [(0, 1), (1, 50_304), (1 << 40, 100_352)] {
            assert_eq!(header(rows, width).len(), 128, "{rows} {width}");
        }
    }

    /// Row E8, `--logits` and `--hidden`.
    #[test]
    fn the_file_is_whole_or_not_there_and_in_no_other_folder() {
        let rows = [[0.0f32, 1.5], [-2.0, 3.0]];
        let numbers = rows.as_flattened().iter().flat_map(|number| number.to_le_bytes());
        let whole: Vec<u8> = header(2, 2).into_iter().chain(numbers).collect();
        for replaces in [false, true] {
            assert_whole_or_not_at_all(replaces, &whole, |disk, path| {
                let mut file = RowsFile::create(disk, path, "--logits", &[], 2)?;
                rows.iter().try_for_each(|row| file.write(row))?;
                file.finish()
            });
        }
    }
}
