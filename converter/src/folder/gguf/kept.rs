//! The section `GGUF`: a GGUF file without the data of its tensors, so that `unpack` gives the file back.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::error::Error;
use crate::folder::gguf::GgufFile;
use crate::folder::gguf::header::{self, Header};
use olmo_infer::internals::format::GgufHead;
use olmo_infer::internals::format::sizes::MAX_FILE_BYTES;
use std::path::Path;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

/// A section that was read back.
#[derive(Debug, PartialEq)]
pub struct Kept<'a> {
    /// The bytes of the file before the data of its tensors.
    pub start: &'a [u8],
    /// What they describe: all tensors of the file, and where their data are.
    pub header: Header,
    /// Length of the file.
    pub file_bytes: u64,
}

/// The bytes of the section for a file. The bytes between the data of its tensors and behind them are not kept: `None`
/// where one of them is not zero, with the offset of the first one.
///
/// # Errors
/// The file cannot be read, or changed.
pub(crate) fn section(gguf: &GgufFile) -> Result<Result<Vec<u8>, u64>, Error> {
    let (start, data) = gguf.start_and_data()?;
    let file_bytes = gguf.file.identity.bytes();
    let ends = data.iter().map(|range| range.end);
    let begins = data.iter().map(|range| range.start).skip(1).chain([file_bytes]);
    let mut padding = Vec::new();
    let mut not_zero = None;
    gguf.file.opened(|file| {
        for (end, begin) in ends.zip(begins) {
            // Less than the alignment, at most 1 MiB: the header was checked.
            padding.resize(begin.saturating_sub(end) as usize, 0);
            file.read(end, &mut padding)?;
            if let Some(at) = padding.iter().position(|&byte| byte != 0) {
                not_zero = Some(end.saturating_add(at as u64));
                break;
            }
        }
        Ok(())
    })?;
    Ok(match not_zero {
        Some(at) => Err(at),
        None => Ok([GgufHead { file_bytes: U64::new(file_bytes) }.as_bytes(), &start].concat()),
    })
}

/// Reads a section back; `path` is that of the model file.
///
/// # Errors
/// What is wrong with it.
pub fn in_section<'a>(path: &Path, section: &'a [u8]) -> Result<Kept<'a>, String> {
    let (head, start) = GgufHead::ref_from_prefix(section).map_err(|_| "no room for its head")?;
    let file_bytes = head.file_bytes.get();
    if file_bytes > MAX_FILE_BYTES {
        return Err(format!("a file of {file_bytes} bytes"));
    }
    let header = header::check(path, start, file_bytes).map_err(|problem| {
        let place = problem.tensor.map_or(String::new(), |place| format!("{place}: "));
        let expected = problem.expected.map_or(String::new(), |expected| format!(", expected {expected}"));
        format!("{place}{}{expected}", problem.found)
    })?;
    match header {
        Some(header) if header.data == start.len() as u64 => Ok(Kept { start, header, file_bytes }),
        _ => Err("a header that does not end with the section".into()),
    }
}
