//! The `.npy` reader: a strict check of the header, and reads of the numbers at known offsets.
//!
//! npyz's header parser is made for honest files: on a hostile one it allocates what the file claims, recurses without
//! a limit and multiplies unchecked. So every header is first read by the flat grammar of `npy_header`; npyz then
//! parses a header that *we* write from the checked values, and must come to the same type, shape and order. It never
//! sees a byte of the file. No other module names npyz.

pub mod header;

use crate::error::{Error, Problem};
use crate::folder::element::SourceType;
use crate::folder::npy::header::{ACCEPTED, MAX_HEADER_BYTES, check_start};
pub use crate::folder::npy::header::{Checked, Descr, shown_shape};
use crate::folder::source_file::SourceFile;
use crate::folder::stored_tensor::StoredTensor;
use std::path::Path;

/// A checked `.npy` file.
#[derive(Clone, Debug)]
pub struct NpyFile {
    /// The file.
    pub file: SourceFile,
    /// Element type.
    pub descr: Descr,
    /// Row-major; no dimension is 0.
    pub shape: Vec<u64>,
    /// All bytes before the data.
    pub preamble: Vec<u8>,
}

impl NpyFile {
    /// Opens and checks the file at `path`.
    ///
    /// # Errors
    /// It is not a regular file or not an `.npy` file, its type or order is not supported, or its length does not match
    /// its
    /// shape.
    pub fn check(path: &Path) -> Result<NpyFile, Error> {
        let file = SourceFile::look_at(path)?;
        // The longest legal header and the bytes before it.
        let mut start = file.start(12 + MAX_HEADER_BYTES as u64)?;
        let Checked { descr, shape, preamble_bytes, .. } = check(path, &start, file.identity.bytes())?;
        start.truncate(preamble_bytes);
        start.shrink_to_fit();
        Ok(NpyFile { file, descr, shape, preamble: start })
    }

    /// The tensor in it. `u2_is_bf16` decides what `<u2` is, which the header leaves open.
    ///
    /// # Errors
    /// The elements are 16-bit integers and not declared as bfloat16.
    pub fn tensor(self, u2_is_bf16: bool) -> Result<StoredTensor, Problem> {
        let element = match self.descr {
            Descr::F32 => SourceType::F32,
            Descr::F16 => SourceType::F16,
            Descr::Raw16 => SourceType::Bf16,
            Descr::U16 if u2_is_bf16 => SourceType::Bf16,
            Descr::U16 => {
                let problem = Problem::new(&self.file.path, "16-bit integers (<u2)").expected(ACCEPTED);
                let how = "set \"dtype\": \"bfloat16\" in config.json, or save array.view('<V2')";
                return Err(problem.advice(format!("if they are bfloat16, {how}")));
            }
        };
        let offset = self.preamble.len() as u64;
        let bytes = self.file.identity.bytes() - offset;
        let NpyFile { file, shape, preamble, .. } = self;
        Ok(StoredTensor { file, name: None, element, shape, offset, bytes, npy_header: preamble })
    }
}

/// Checks the first bytes of a file of `file_bytes` bytes as [`NpyFile::check`] does, which has them from the file;
/// `path` is for messages. `start` is at least the first 10,012 bytes, or all there are.
///
/// # Errors
/// What is wrong with the file.
pub fn check(path: &Path, start: &[u8], file_bytes: u64) -> Result<Checked, Problem> {
    let checked = check_start(start, file_bytes).map_err(|bad| bad.problem(path))?;
    confirm_with_npyz(&checked).map_err(|error| Problem::new(path, format!("npyz disagrees: {error}")))?;
    Ok(checked)
}

/// Lets npyz read a header of our own with the checked values, and compares.
pub(crate) fn confirm_with_npyz(checked: &Checked) -> Result<(), String> {
    #[cfg(test)]
    NPYZ_CALLS.with(|calls| calls.set(calls.get() + 1));
    compare_with_npyz(&header_for(checked), checked)
}

/// The element type as npyz spells it.
fn descr_of(checked: &Checked) -> &'static str {
    match checked.descr {
        Descr::F32 => "<f4",
        Descr::F16 => "<f2",
        Descr::Raw16 => "|V2",
        Descr::U16 => "<u2",
    }
}

/// A header with the checked values.
pub(crate) fn header_for(checked: &Checked) -> Vec<u8> {
    let sizes: String = checked.shape.iter().map(|size| format!("{size}, ")).collect();
    let (descr, order) = (descr_of(checked), if checked.fortran_order { "True" } else { "False" });
    let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({sizes}), }}\n");
    // Version 2.0 has room for any length; 32 dimensions of 20 digits stay far below its limit.
    let mut header = b"\x93NUMPY\x02\x00".to_vec();
    header.extend((text.len() as u32).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

/// Compares what npyz reads in `header`, which is one of ours, with the checked values.
pub(crate) fn compare_with_npyz(header: &[u8], checked: &Checked) -> Result<(), String> {
    let header = npyz::NpyHeader::from_reader(header).map_err(|error| error.to_string())?;
    let (descr, shape, order) = (header.dtype().descr(), header.shape(), header.order());
    let checked_order = if checked.fortran_order { npyz::Order::Fortran } else { npyz::Order::C };
    if shape != checked.shape || order != checked_order || descr != format!("'{}'", descr_of(checked)) {
        return Err(format!("it reads {descr} {shape:?} {order:?}"));
    }
    Ok(())
}

#[cfg(test)]
thread_local! {
    /// How often this thread came to npyz.
    pub(crate) static NPYZ_CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}
