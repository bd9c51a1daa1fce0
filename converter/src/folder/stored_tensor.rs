//! A tensor as stored in a file of the weights folder, independent of the file format.

use crate::error::{Error, Problem};
use crate::folder::element::{SourceType, widen};
use crate::folder::source_file::SourceFile;

/// Elements that are compared at a time.
const BLOCK: usize = 256 << 10;

/// The location, type and shape of a tensor's elements: little-endian, row-major.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The file.
    pub file: SourceFile,
    /// Its name in the file; `None` for a file that holds one tensor.
    pub name: Option<String>,
    /// Element type.
    pub element: SourceType,
    /// Row-major.
    pub shape: Vec<u64>,
    /// Offset of the data in the file.
    pub offset: u64,
    /// Length of the data.
    pub bytes: u64,
    /// All bytes before the data of an `.npy` file; empty for other files.
    pub npy_header: Vec<u8>,
}

impl StoredTensor {
    /// A problem with this tensor.
    pub fn problem(&self, found: impl Into<String>) -> Problem {
        let problem = Problem::new(&self.file.path, found);
        match &self.name {
            Some(name) => problem.tensor(name),
            None => problem,
        }
    }

    /// Reads data at `offset` bytes after the first element.
    ///
    /// # Errors
    /// The OS returns an error, or the file is no longer the one that was checked.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read(self.offset + offset, out)
    }

    /// Whether `other` has the same elements, bit for bit as f32, regardless of their types. Both are read block by
    /// block.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn same_numbers(&self, other: &StoredTensor) -> Result<bool, Error> {
        if self.shape != other.shape {
            return Ok(false);
        }
        let mut blocks = [self, other].map(|tensor| (tensor, Vec::new(), Vec::new()));
        let n_elements = self.bytes / self.element.bytes() as u64;
        let mut at = 0;
        while at < n_elements {
            let length = (n_elements - at).min(BLOCK as u64) as usize;
            for (tensor, bytes, bits) in &mut blocks {
                bytes.resize(length * tensor.element.bytes(), 0);
                tensor.read(at * tensor.element.bytes() as u64, bytes)?;
                bits.clear();
                widen(tensor.element, bytes, bits);
            }
            if blocks[0].2 != blocks[1].2 {
                return Ok(false);
            }
            at += length as u64;
        }
        Ok(true)
    }
}
