//! Where everything in a file is: a pure function of its tensors, their encodings and the lengths of the sections. The
//! converter writes it; the reader computes it again and refuses a file that differs, so overlaps, holes and wrong
//! alignments cannot be expressed.

use crate::format::header;
use crate::format::matrix::Encoding;
use crate::format::sizes::{Cursor, Extent, TooLarge, product, sum};
use crate::format::tensors::TensorSpec;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The index, after the header.
    pub index: Extent,
    /// The sections, in the order given.
    pub sections: Vec<Extent>,
    /// The tensors, in the order given.
    pub tensors: Vec<Extent>,
    /// Where the data begins.
    pub data_offset: u64,
    /// Exact length of the file.
    pub file_bytes: u64,
}

impl Layout {
    /// Length of the tensor data, up to the end of the file.
    pub fn data_bytes(&self) -> u64 {
        // A cursor that only moves forward has been at both.
        self.file_bytes.saturating_sub(self.data_offset)
    }
}

/// The encodings of a model whose matrices all have one, except those that are f32 in every file, as vectors are.
pub fn uniform(specs: &[TensorSpec], matrices: Encoding) -> Vec<Encoding> {
    specs.iter().map(|spec| if spec.has_choice() { matrices } else { Encoding::F32 }).collect()
}

/// Bytes of a tensor in the file, padding inside panels included.
///
/// # Errors
/// [`TooLarge`] when they leave the range of file sizes.
pub fn tensor_bytes(spec: &TensorSpec, encoding: Encoding) -> Result<u64, TooLarge> {
    match spec.panel_shape(encoding.dtype()) {
        Some(shape) => encoding.matrix_bytes(&shape),
        None => product([spec.rows, size_of::<f32>()]),
    }
}

/// Bytes of the table of a tensor in the section [`crate::format::section::BF12`], which holds all tables one after the
/// other; 0 of a tensor without one.
///
/// # Errors
/// [`TooLarge`] when they leave the range of file sizes.
pub fn table_bytes(spec: &TensorSpec, encoding: Encoding) -> Result<u64, TooLarge> {
    spec.panel_shape(encoding.dtype()).map_or(Ok(0), |shape| encoding.table_bytes(&shape))
}

/// Places the index, sections of the given lengths and the tensors in their encodings.
///
/// # Errors
/// [`TooLarge`] when a sum or product leaves the range of file offsets.
///
/// # Panics
/// When there is not one encoding for each tensor.
pub fn layout(specs: &[TensorSpec], encodings: &[Encoding], section_bytes: &[u64]) -> Result<Layout, TooLarge> {
    assert_eq!(encodings.len(), specs.len());
    let mut cursor = Cursor::default();
    cursor.take(header::HEADER_BYTES as u64)?;
    let tensor_records = product([specs.len(), header::TENSOR_RECORD_BYTES])?;
    let section_records = product([section_bytes.len(), header::SECTION_RECORD_BYTES])?;
    let index = cursor.take(sum([tensor_records, section_records])?)?;
    let mut sections = Vec::with_capacity(section_bytes.len());
    for &bytes in section_bytes {
        cursor.align(header::SECTION_ALIGNMENT)?;
        sections.push(cursor.take(bytes)?);
    }

    let mut total = Cursor::default();
    for (spec, &encoding) in specs.iter().zip(encodings) {
        total.take(tensor_bytes(spec, encoding)?)?;
        total.align(header::TENSOR_ALIGNMENT)?;
    }
    let (data_alignment, group_alignment) = if total.position() >= header::LARGE_DATA_BYTES {
        (header::LARGE_DATA_ALIGNMENT, header::LARGE_GROUP_ALIGNMENT)
    } else {
        (header::SMALL_DATA_ALIGNMENT, header::SMALL_GROUP_ALIGNMENT)
    };
    cursor.align(data_alignment)?;
    let data_offset = cursor.position();
    let mut placed = Vec::with_capacity(specs.len());
    let mut group = None;
    for (spec, &encoding) in specs.iter().zip(encodings) {
        // The embedding, each layer without its experts, each expert, what follows them, and their drafts are groups.
        let its_group = Some((spec.is_draft, spec.layer, spec.expert));
        cursor.align(if group == its_group { header::TENSOR_ALIGNMENT } else { group_alignment })?;
        group = its_group;
        placed.push(cursor.take(tensor_bytes(spec, encoding)?)?);
    }
    cursor.align(group_alignment)?;
    Ok(Layout { index, sections, tensors: placed, data_offset, file_bytes: cursor.position() })
}
