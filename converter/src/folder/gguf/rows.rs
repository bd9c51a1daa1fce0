//! The rows of a GGUF tensor as those of a checkpoint: decoded from blocks, and in its order.

use crate::error::Error;
use crate::folder::gguf::blocks::BlockType;
use crate::folder::source_file::{Opened, SourceFile};

/// Bytes of blocks that are decoded at a time, at most.
const STEP_BYTES: usize = 32 << 10;

/// How rows differ from those of a checkpoint; not at all by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The blocks that hold the elements.
    pub blocks: Option<BlockType>,
    /// The width of the heads whose rows are in another order: row `2 i + j` of a head is row `i + j head_dim / 2` of
    /// it in the checkpoint.
    pub head_dim: Option<usize>,
}

impl Rows {
    /// Whether the file has the elements as a checkpoint has them.
    pub fn are_plain(&self) -> bool {
        *self == Rows::default()
    }

    /// The row of the file that is row `row` of the checkpoint.
    pub(crate) fn stored(&self, row: u64) -> u64 {
        let Some(head_dim) = self.head_dim.map(|dim| dim as u64) else { return row };
        let (first, row) = (row - row % head_dim, row % head_dim);
        let half = head_dim / 2;
        first + 2 * (row % half) + row / half
    }
}

/// Where the rows of a tensor are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file.
    pub file: &'a SourceFile,
    /// Where its data begin.
    pub data: u64,
    /// Bytes of a row, as it is read.
    pub row_bytes: u64,
}

impl Rows {
    /// Fills `out` with elements, from `offset` bytes after the first one on.
    ///
    /// # Errors
    /// The OS returns an error, or the file is no longer the one that was checked.
    pub(crate) fn read(&self, place: Place, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        place.file.opened(|file| {
            if self.head_dim.is_none() {
                return self.piece(file, place.data, offset, out);
            }
            let (mut at, mut rest) = (offset, out);
            while !rest.is_empty() {
                let (row, inside) = (at / place.row_bytes, at % place.row_bytes);
                let (now, later) = rest.split_at_mut(rest.len().min((place.row_bytes - inside) as usize));
                self.piece(file, place.data, self.stored(row) * place.row_bytes + inside, now)?;
                at += now.len() as u64;
                rest = later;
            }
            Ok(())
        })
    }

    /// Reads elements that follow each other in the file, from `at` bytes after the first one on.
    fn piece(&self, file: &Opened, data: u64, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let Some(kind) = self.blocks else { return file.read(data + at, out) };
        let (wide, narrow) = ((kind.elements() * size_of::<f32>()) as u64, kind.bytes() as u64);
        let per_step = STEP_BYTES / kind.bytes();
        let (mut blocks, mut elements) = (vec![0; per_step * kind.bytes()], Vec::new());
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            // Pieces can begin and end inside a block.
            let (first, skipped) = (at / wide, (at % wide) as usize);
            let n_blocks = ((skipped + rest.len()) as u64).div_ceil(wide).min(per_step as u64);
            let blocks = &mut blocks[..(n_blocks * narrow) as usize];
            file.read(data + first * narrow, blocks)?;
            elements.clear();
            kind.widen(blocks, &mut elements);
            let elements = &elements[skipped..];
            let (now, later) = rest.split_at_mut(rest.len().min(elements.len()));
            now.copy_from_slice(&elements[..now.len()]);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Fills `out` with the blocks of whole rows from row `first` on, unchanged, in the order of the checkpoint: for an
    /// encoding that stores them without a loss. Nothing without blocks.
    ///
    /// # Errors
    /// As [`Rows::read`].
    pub(crate) fn read_blocks(&self, place: Place, first: u64, out: &mut [u8]) -> Result<(), Error> {
        let Some(kind) = self.blocks else { return Ok(()) };
        let wide = (kind.elements() * size_of::<f32>()) as u64;
        let row_bytes = place.row_bytes / wide * kind.bytes() as u64;
        place.file.opened(|file| {
            let mut rows = out.chunks_mut(row_bytes as usize).zip(first..);
            rows.try_for_each(|(out, row)| file.read(place.data + self.stored(row) * row_bytes, out))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_return_to_their_halves() {
        let rows = Rows { head_dim: Some(6), ..Rows::default() };
        let stored: Vec<u64> = (0..12).map(|row| rows.stored(row)).collect();
        assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
