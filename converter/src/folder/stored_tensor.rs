//! A tensor as stored in a file of the weights folder, independent of the file format.

use crate::error::{Error, Problem};
use crate::folder::element::{SourceType, widen};
use crate::folder::gguf::blocks::BlockType;
use crate::folder::gguf::rows::{Place, Rows};
use crate::folder::source_file::SourceFile;

/// Elements that are compared at a time.
const BLOCK: usize = 256 << 10;

/// The location, type and shape of a tensor's elements: little-endian, row-major. What a file has in another form is
/// read as f32.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The file.
    pub file: SourceFile,
    /// Its name in the file; `None` for a file that holds one tensor.
    pub name: Option<String>,
    /// Element type, as it is read.
    pub element: SourceType,
    /// How the rows of a GGUF file differ from those that are read.
    pub rows: Rows,
    /// Row-major.
    pub shape: Vec<u64>,
    /// Offset of the data in the file.
    pub offset: u64,
    /// Length of the data that are read.
    pub bytes: u64,
    /// All bytes before the data of an `.npy` file; empty for other files.
    pub npy_header: Vec<u8>,
    /// Tensors of the same type whose elements come after those of this one. The shape is that of all of them.
    pub following: Vec<StoredTensor>,
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
        let mut begin = 0u64;
        for tensor in std::iter::once(self).chain(&self.following) {
            // The part of what is asked for that this tensor has.
            let wanted = offset.max(begin)..(offset + out.len() as u64).min(begin + tensor.bytes);
            if !wanted.is_empty() {
                let to = (wanted.start - offset) as usize..(wanted.end - offset) as usize;
                tensor.read_own(wanted.start - begin, &mut out[to])?;
            }
            begin += tensor.bytes;
        }
        Ok(())
    }

    /// As [`StoredTensor::read`], without those that follow.
    fn read_own(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        match self.rows.are_plain() {
            true => self.file.read(self.offset + offset, out),
            false => self.rows.read(self.place(), offset, out),
        }
    }

    /// Reads the blocks of whole rows from row `first` on, as the file has them. [`Rows::blocks`] are what they are.
    ///
    /// # Errors
    /// As [`StoredTensor::read`].
    pub fn read_blocks(&self, first: u64, out: &mut [u8]) -> Result<(), Error> {
        self.rows.read_blocks(self.place(), first, out)
    }

    /// Length of the data that are read, those that follow included.
    pub fn all_bytes(&self) -> u64 {
        self.following.iter().fold(self.bytes, |sum, tensor| sum.saturating_add(tensor.bytes))
    }

    /// A part of a tensor whose rows are those of its last dimension: a matrix of this shape, from row `first` on. Keeps
    /// the header of the whole.
    pub fn rows_of_last(&self, first: u64, shape: &[usize]) -> StoredTensor {
        let row_bytes = self.shape.last().copied().unwrap_or_default() * self.element.bytes() as u64;
        let n_rows = shape.first().map_or(0, |&rows| rows as u64);
        StoredTensor {
            shape: shape.iter().map(|&size| size as u64).collect(),
            offset: self.offset + first * row_bytes,
            bytes: n_rows * row_bytes,
            ..self.clone()
        }
    }

    /// Length of the data in the file.
    pub fn stored_bytes(&self) -> u64 {
        let wide = |kind: BlockType| (kind.elements() * self.element.bytes()) as u64;
        self.rows.blocks.map_or(self.all_bytes(), |kind| self.bytes / wide(kind) * kind.bytes() as u64)
    }

    fn place(&self) -> Place<'_> {
        let columns = self.shape.last().copied().unwrap_or_default();
        Place { file: &self.file, data: self.offset, row_bytes: columns * self.element.bytes() as u64 }
    }

    /// The name of the type in the file, for messages and JSON.
    pub fn type_name(&self) -> &'static str {
        self.rows.blocks.map_or(self.element.name(), |block| block.name())
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
        let n_elements = self.all_bytes() / self.element.bytes() as u64;
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
