//! A tensor as a file of the weights folder stores it, whatever the kind of file: from here on nothing cares which.

use crate::element::SourceType;
use crate::error::{Error, Problem};
use crate::source_file::SourceFile;

/// Bytes that are compared at a time.
const BLOCK: usize = 1 << 20;

/// Where the numbers of a tensor lie, and what they are: little-endian, row-major.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The file.
    pub file: SourceFile,
    /// Its name in the file; `None` where a file holds one tensor.
    pub name: Option<String>,
    /// Element type.
    pub element: SourceType,
    /// Row-major.
    pub shape: Vec<u64>,
    /// Where the numbers begin in the file.
    pub offset: u64,
    /// Their length.
    pub bytes: u64,
    /// Everything before the numbers of an `.npy` file, byte for byte; nothing of other files.
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

    /// Reads numbers from `offset` bytes behind the first one on.
    ///
    /// # Errors
    /// The system's, or that the file is no longer the one that was checked.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read(self.offset + offset, out)
    }

    /// Whether `other` holds the same numbers.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn same_numbers(&self, other: &StoredTensor) -> Result<bool, Error> {
        if (self.element, &self.shape) != (other.element, &other.shape) {
            return Ok(false);
        }
        let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
        let mut offset = 0;
        while offset < self.bytes {
            let length = (self.bytes - offset).min(BLOCK as u64) as usize;
            self.read(offset, &mut a[..length])?;
            other.read(offset, &mut b[..length])?;
            if a[..length] != b[..length] {
                return Ok(false);
            }
            offset += length as u64;
        }
        Ok(true)
    }
}
