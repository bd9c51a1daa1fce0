//! The `.npy` reader: a strict check of the header, and reads of the numbers at known offsets.
//!
//! npyz's header parser is made for trusted files: on a hostile one it allocates what the file claims, recurses without
//! a limit and multiplies unchecked. So the flat grammar of `header` checks every header first; npyz then reads the
//! same bytes, and must find the same type, shape and order. No other module names npyz.

pub mod header;

use crate::error::{Error, Problem};
use crate::folder::element::SourceType;
use crate::folder::gguf::rows::Rows;
use crate::folder::npy::header::{ACCEPTED, MAX_HEADER_BYTES, check_descr, check_start};
pub use crate::folder::npy::header::{Checked, Descr, shown_shape};
use crate::folder::source_file::SourceFile;
use crate::folder::stored_tensor::StoredTensor;
use npyz::WriterBuilder;
use npyz::write_options::WriteOptions;
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
    /// its shape.
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
        let rows = Rows::default();
        Ok(StoredTensor {
            file,
            name: None,
            element,
            rows,
            shape,
            offset,
            bytes,
            npy_header: preamble,
            following: Vec::new(),
        })
    }
}

/// Checks the first bytes of a file of `file_bytes` bytes as [`NpyFile::check`] does, which has them from the file;
/// `path` is for messages. `start` is at least the first 10,012 bytes, or all there are.
///
/// # Errors
/// What is wrong with the file.
pub fn check(path: &Path, start: &[u8], file_bytes: u64) -> Result<Checked, Problem> {
    let checked = check_start(start, file_bytes).map_err(|bad| bad.problem(path))?;
    confirm_with_npyz(&start[..checked.preamble_bytes], &checked)
        .map_err(|error| Problem::new(path, format!("npyz disagrees: {error}")))?;
    Ok(checked)
}

/// Lets npyz read a header that the grammar accepts, and compares.
pub(crate) fn confirm_with_npyz(preamble: &[u8], checked: &Checked) -> Result<(), String> {
    #[cfg(test)]
    NPYZ_CALLS.with(|calls| calls.set(calls.get() + 1));
    let header = npyz::NpyHeader::from_reader(preamble).map_err(|error| error.to_string())?;
    let (descr, shape, order) = (header.dtype().descr(), header.shape(), header.order());
    let checked_order = if checked.fortran_order { npyz::Order::Fortran } else { npyz::Order::C };
    let is_descr = check_descr(descr.trim_matches('\'').as_bytes()).is_ok_and(|descr| descr == checked.descr);
    if shape != checked.shape || order != checked_order || !is_descr {
        return Err(format!("it reads {descr} {shape:?} {order:?}"));
    }
    Ok(())
}

/// The header of an array with elements of this type.
///
/// # Panics
/// When the array has more elements than a `u64` counts.
pub(crate) fn header_of(element: SourceType, shape: &[usize]) -> Vec<u8> {
    let descr = match element {
        SourceType::F32 => "<f4",
        SourceType::F16 => "<f2",
        SourceType::Bf16 => "<V2",
    };
    let dtype = npyz::DType::new_scalar(descr.parse().expect("a type of numpy"));
    let shape: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
    let header = WriteOptions::new_header_only().dtype(dtype).shape(&shape).writer(Vec::new());
    header.write_header_only().expect("memory takes it")
}

#[cfg(test)]
thread_local! {
    /// How often this thread came to npyz.
    pub(crate) static NPYZ_CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}
