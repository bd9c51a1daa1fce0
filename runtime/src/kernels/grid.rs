//! Outputs cut into blocks that threads write at the same time.
//!
//! An [`OutputGrid`] is the exclusive borrow of a row-major matrix, given away block by block; an [`OutputBlock`] is
//! the exclusive borrow of one block. The team hands out each block once.

#![allow(unsafe_code, reason = "disjoint blocks of one output for several threads")]

use std::marker::PhantomData;
use std::ops::Range;

/// A row-major matrix `[rows, width]` cut into blocks that threads may write at the same time.
pub struct OutputGrid<'a, T = f32> {
    data: *mut T,
    width: usize,
    cut: RowCut<'a>,
    block_columns: usize,
    owner: PhantomData<&'a mut [T]>,
}

/// How the rows are cut.
#[derive(Clone, Copy)]
enum RowCut<'a> {
    /// `rows` rows into blocks of at most `block_rows`.
    Even { rows: usize, block_rows: usize },
    /// Into these ranges, which ascend.
    Listed(&'a [Range<usize>]),
}

// SAFETY: a grid holds the exclusive borrow of its data, and gives other threads only blocks, through `block`, which
// demands of its caller that no block exists twice.
unsafe impl<T: Send> Sync for OutputGrid<'_, T> {}

impl<'a, T> OutputGrid<'a, T> {
    /// Cuts `data`, rows of `width` elements, into blocks of at most `block_rows` rows and `block_columns` columns.
    ///
    /// # Panics
    /// When a size is 0 or `data` does not end with a row.
    pub fn new(data: &'a mut [T], width: usize, block_rows: usize, block_columns: usize) -> OutputGrid<'a, T> {
        assert!(width > 0 && block_rows > 0 && block_columns > 0 && data.len().is_multiple_of(width));
        let cut = RowCut::Even { rows: data.len() / width, block_rows };
        OutputGrid { data: data.as_mut_ptr(), width, cut, block_columns, owner: PhantomData }
    }

    /// Cuts `data`, rows of `width` elements, into blocks of the rows in `ranges` and at most `block_columns` columns.
    ///
    /// # Panics
    /// When a size is 0, `data` does not end with a row, or the ranges do not ascend or are not all in it.
    pub fn of_ranges(
        data: &'a mut [T],
        width: usize,
        ranges: &'a [Range<usize>],
        block_columns: usize,
    ) -> OutputGrid<'a, T> {
        assert!(width > 0 && block_columns > 0 && data.len().is_multiple_of(width));
        let mut end = 0;
        for range in ranges {
            assert!(end <= range.start && range.start < range.end);
            end = range.end;
        }
        assert!(end <= data.len() / width);
        OutputGrid { data: data.as_mut_ptr(), width, cut: RowCut::Listed(ranges), block_columns, owner: PhantomData }
    }

    fn blocks_per_row(&self) -> usize {
        self.width.div_ceil(self.block_columns)
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        let row_blocks = match self.cut {
            RowCut::Even { rows, block_rows } => rows.div_ceil(block_rows),
            RowCut::Listed(ranges) => ranges.len(),
        };
        row_blocks * self.blocks_per_row()
    }

    /// Block `index`, counted along the rows first.
    ///
    /// # Safety
    /// No other block with this index may exist, nor a row that came of one by [`OutputBlock::into_row`].
    pub(crate) unsafe fn block(&self, index: usize) -> OutputBlock<'a, T> {
        let (block_row, block_column) = (index / self.blocks_per_row(), index % self.blocks_per_row());
        let first_column = block_column * self.block_columns;
        let (first_row, rows) = match self.cut {
            RowCut::Even { rows, block_rows } => {
                let first = block_row * block_rows;
                assert!(first < rows);
                (first, block_rows.min(rows - first))
            }
            // They were checked when the grid was made.
            RowCut::Listed(ranges) => (ranges[block_row].start, ranges[block_row].len()),
        };
        assert!(first_column < self.width);
        // SAFETY: row and column are inside the matrix: the assertions above and in `of_ranges`.
        let data = unsafe { self.data.add(first_row * self.width + first_column) };
        OutputBlock {
            data,
            first_row,
            first_column,
            rows,
            columns: self.block_columns.min(self.width - first_column),
            stride: self.width,
            owner: PhantomData,
        }
    }
}

/// The exclusive use of one block of an [`OutputGrid`], or of a whole matrix.
pub struct OutputBlock<'a, T = f32> {
    data: *mut T,
    first_row: usize,
    first_column: usize,
    rows: usize,
    columns: usize,
    stride: usize,
    owner: PhantomData<&'a mut [T]>,
}

impl<'a, T> OutputBlock<'a, T> {
    /// A whole row-major matrix as one block.
    ///
    /// # Panics
    /// When the matrix is empty or `data` does not end with a row.
    pub fn whole(data: &'a mut [T], width: usize) -> OutputBlock<'a, T> {
        let rows = data.len() / width;
        // SAFETY: the exclusive borrow of `data` goes into the one block of this grid.
        unsafe { OutputGrid::new(data, width, rows.max(1), width).block(0) }
    }

    /// Row `row` of the block.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        if self.columns == 0 {
            return &mut [];
        }
        // SAFETY: `OutputGrid::block` asserts that the block begins inside the matrix and cuts it at its ends. Its
        // elements belong to this block alone, and the borrow of `self` prevents a second row at the same time.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.columns) }
    }

    /// The first element of the block. The pointer is valid for all elements of all rows, with [`OutputBlock::stride`]
    /// elements from one row to the next, as long as the block is not used otherwise.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }

    /// First row in the matrix.
    pub fn first_row(&self) -> usize {
        self.first_row
    }

    /// First column in the matrix.
    pub fn first_column(&self) -> usize {
        self.first_column
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements between the beginnings of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The rows and columns in these ranges, counted from the block's own.
    ///
    /// # Panics
    /// When they are not all in the block.
    pub fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> OutputBlock<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.columns);
        // A part without elements begins where the block does: rows.start may be one past the last row.
        let is_empty = rows.is_empty() || columns.is_empty();
        let offset = if is_empty { 0 } else { rows.start * self.stride + columns.start };
        OutputBlock {
            // SAFETY: the place of an element of this block, as the assertions above state, or its beginning.
            data: unsafe { self.data.add(offset) },
            first_row: self.first_row + rows.start,
            first_column: self.first_column + columns.start,
            rows: rows.len(),
            columns: columns.len(),
            stride: self.stride,
            owner: PhantomData,
        }
    }

    /// The only row of a block of one row.
    ///
    /// # Panics
    /// When it has another number of rows.
    pub fn into_row(self) -> &'a mut [T] {
        assert!(self.rows == 1);
        // SAFETY: `OutputGrid::block` asserts that the block is inside the matrix. The block is consumed, so its
        // elements are borrowed once, for as long as the grid was.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.columns) }
    }
}

impl<'a, T> OutputBlock<'a, T> {
    /// The rows of a block of whole rows, one after the other.
    ///
    /// # Panics
    /// When they are longer than the block is wide.
    pub fn into_rows(self) -> &'a mut [T] {
        assert!(self.columns == self.stride);
        // SAFETY: as in `OutputBlock::into_row`; the assertion shows that nothing is between two rows.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.rows * self.stride) }
    }
}

// SAFETY: a block is an exclusive borrow of its elements, like `&mut [T]`.
unsafe impl<T: Send> Send for OutputBlock<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_without_elements_point_into_the_matrix() {
        let mut data = [0u32; 128];
        let inside = data.as_ptr_range();
        let grid = OutputGrid::new(&mut data, 64, 2, 16);
        for index in 0..grid.n_blocks() {
            // SAFETY: one after the other, each is gone before the next.
            let mut block = unsafe { grid.block(index) };
            for (rows, columns) in [(1..1, 0..0), (2..2, 16..16), (0..2, 16..16), (2..2, 0..16), (1..2, 15..15)] {
                let mut part = block.part(rows, columns);
                assert!(inside.contains(&part.as_mut_ptr().cast_const()), "block {index}");
                for row in 0..part.rows() {
                    assert!(part.row(row).is_empty());
                }
                // A part of a part.
                let (rows, columns) = (part.rows(), part.columns());
                let mut part = part.part(rows..rows, columns..columns);
                assert!(inside.contains(&part.as_mut_ptr().cast_const()), "block {index}");
            }
            assert!(block.part(1..2, 0..0).into_row().is_empty());
        }
    }

    #[test]
    fn a_block_is_written_by_rows_by_parts_and_by_its_pointer() {
        let mut data = [0u32; 5 * 7];
        let grid = OutputGrid::new(&mut data, 7, 2, 3);
        for index in 0..grid.n_blocks() {
            // SAFETY: each block once.
            let mut block = unsafe { grid.block(index) };
            let (rows, columns, stride) = (block.rows(), block.columns(), block.stride());
            let first = block.as_mut_ptr();
            for place in (0..rows).flat_map(|row| (0..columns).map(move |column| row * stride + column)) {
                // SAFETY: an element of the block.
                unsafe { *first.add(place) += 1 };
            }
            (0..rows).for_each(|row| block.row(row).iter_mut().for_each(|cell| *cell += 10));
            block.part(rows - 1..rows, columns - 1..columns).into_row()[0] += 100;
        }
        assert!(data.iter().all(|cell| cell % 100 == 11));
        assert_eq!(data.iter().filter(|&&cell| cell == 111).count(), 9);
        let mut whole = OutputBlock::whole(&mut data, 7);
        assert_eq!((whole.rows(), whole.columns(), whole.row(4).len()), (5, 7, 7));
    }
}
