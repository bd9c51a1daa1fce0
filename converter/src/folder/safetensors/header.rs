//! The header of a safetensors file: eight bytes with its length, then a JSON object with the type, the shape and the
//! byte range of each tensor. The data fill the rest of the file, without holes.
//!
//! The crate `safetensors` parses each entry, as in every other program that reads such files; no other module names
//! it. But its readers need the whole file in memory, and keep the last of two tensors with the same name. So the
//! entries are collected here, within limits, and their ranges are compared with the length of the file before anything
//! is read.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::error::{Problem, shortened};
use crate::folder::element::SourceType;
use crate::folder::file_kind;
use crate::folder::npy::header::{MAX_RANK, shown_shape};
use crate::json::strict::{Object, insert_next};
use olmo_infer::internals::file::file_kind::FileKind;
use olmo_infer::internals::format::sizes::{product, sum};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Longest accepted header. That of 1024 layers has 1.6 MB, that of OLMoE-1B-7B with its 3,219 tensors would have 0.4 MB
/// in one file.
const MAX_HEADER_BYTES: u64 = 2 << 20;
/// Longest name of a tensor; the same limit as for file names.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// Bytes before the header.
const PREFIX_BYTES: usize = 8;
/// Most characters of a header error in a message.
const SHOWN_CHARS: usize = 400;
/// Advice for an incomplete file.
const ADVICE: &str = "download it again";

/// A tensor as described by the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The element type, or its name in the header if weights cannot have it.
    pub element: Result<SourceType, String>,
    /// Row-major.
    pub shape: Vec<u64>,
    /// The byte range of the data in the file.
    pub range: Range<u64>,
}

/// Where the header ends and the data begin in a file of `file_bytes` bytes. `start` is at least its first 512 bytes,
/// or the whole file.
///
/// # Errors
/// It is not a safetensors file, or its header is too long or extends beyond the file.
pub(crate) fn header_end(path: &Path, start: &[u8], file_bytes: u64) -> Result<u64, Problem> {
    let (Some(length), Some(b'{')) = (start.first_chunk(), start.get(PREFIX_BYTES)) else {
        return Err(not_safetensors(path, start));
    };
    let header_bytes = u64::from_le_bytes(*length);
    if !(2..=MAX_HEADER_BYTES).contains(&header_bytes) {
        let problem = Problem::new(path, format!("header of {header_bytes} bytes"));
        return Err(problem.expected(format!("2 to {MAX_HEADER_BYTES}")).advice(ADVICE));
    }
    sum([PREFIX_BYTES as u64, header_bytes]).ok().filter(|&end| end <= file_bytes).ok_or_else(|| {
        Problem::new(path, format!("header of {header_bytes} bytes in a file of {file_bytes} bytes"))
            .expected("a header inside the file")
            .advice("the file is truncated, download it again")
    })
}

/// The error for a file without a header, with a guess of its kind.
fn not_safetensors(path: &Path, start: &[u8]) -> Problem {
    let kind = FileKind::of(start);
    let advice = match kind {
        FileKind::LfsPointer => "run git lfs pull",
        FileKind::Npy => "name it <parameter name>.npy, as all the others of the model",
        FileKind::Zip | FileKind::Pickle | FileKind::Gguf => "save the weights with save_pretrained",
        FileKind::Gzip => "decompress it",
        _ => ADVICE,
    };
    Problem::new(path, file_kind::name(kind)).expected("a safetensors file").advice(advice)
}

/// The tensors of a file of `file_bytes` bytes. `start` must include the whole header.
///
/// # Errors
/// The header is invalid, or its ranges do not cover the file.
pub fn check(path: &Path, start: &[u8], file_bytes: u64) -> Result<BTreeMap<String, Entry>, Problem> {
    let data = header_end(path, start, file_bytes)?;
    let header = start.get(PREFIX_BYTES..data as usize).unwrap_or_default();
    let Header(infos) = serde_json::from_slice(header).map_err(|error| {
        let found = format!("bad header: {}", shortened(&error.to_string(), SHOWN_CHARS));
        Problem::new(path, found).expected("names with dtype, shape and data_offsets").advice(ADVICE)
    })?;
    // header_end() has checked that `data` is at most `file_bytes`.
    check_ranges(path, &infos, file_bytes.saturating_sub(data))?;
    let entry = |(name, info): (String, TensorInfo)| match entry(info, data) {
        Ok(entry) => Ok((name, entry)),
        Err(found) => Err(Problem::new(path, found).tensor(name).advice(ADVICE)),
    };
    infos.into_iter().map(entry).collect()
}

/// Checks that the ranges are contiguous and cover `data_bytes` bytes.
fn check_ranges(path: &Path, infos: &BTreeMap<String, TensorInfo>, data_bytes: u64) -> Result<(), Problem> {
    let mut ordered: Vec<(&String, (usize, usize))> =
        infos.iter().map(|(name, info)| (name, info.data_offsets)).collect();
    ordered.sort_by_key(|(_, range)| *range);
    let mut end_of_last = 0;
    for (name, (begin, end)) in ordered {
        if begin != end_of_last || end < begin {
            let expected = match end < begin {
                true => format!("an end after {begin}"),
                false => format!("a begin at {end_of_last}: the data are contiguous"),
            };
            let problem = Problem::new(path, format!("data_offsets [{begin}, {end}]")).tensor(name);
            return Err(problem.expected(expected).advice(ADVICE));
        }
        end_of_last = end;
    }
    let needed = end_of_last as u64;
    let has = match data_bytes.checked_sub(needed) {
        Some(0) => return Ok(()),
        None => format!("{data_bytes} (truncated?)"),
        Some(1) => "1 byte too many".into(),
        Some(extra) => format!("{extra} bytes too many"),
    };
    Err(Problem::new(path, format!("its header needs {needed} bytes of data, has {has}")).advice(ADVICE))
}

/// The entry of a tensor with a checked range; the data begin at `data`.
fn entry(info: TensorInfo, data: u64) -> Result<Entry, String> {
    let (begin, end) = info.data_offsets;
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "check_ranges() has checked their order and that they are in the file"
    )]
    let (bytes, range) = ((end - begin) as u64, data + begin as u64..data + end as u64);
    if info.shape.len() > MAX_RANK {
        return Err(format!("shape of {} dimensions, expected at most {MAX_RANK}", info.shape.len()));
    }
    let shape: Vec<u64> = info.shape.into_iter().map(|size| size as u64).collect();
    let element = match info.dtype {
        Dtype::F32 => Ok(SourceType::F32),
        Dtype::F16 => Ok(SourceType::F16),
        Dtype::BF16 => Ok(SourceType::Bf16),
        other => Err(format!("{other:?}")),
    };
    // Data of other types are never read.
    if let Ok(element) = element {
        let needed = product([element.bytes() as u64].iter().chain(&shape).copied());
        if needed != Ok(bytes) {
            let shape = shown_shape(&shape);
            let needed = needed.map_or("more than 2^64".into(), |needed| needed.to_string());
            return Err(format!("shape {shape} needs {needed} bytes of data, its data_offsets have {bytes}"));
        }
    }
    Ok(Entry { element, shape, range })
}

/// The entries of a header by tensor name.
struct Header(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Header, A::Error> {
        let mut infos = BTreeMap::new();
        // Free text of the writer; only its form is checked.
        let mut metadata = BTreeMap::<String, Option<Object<String>>>::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == "__metadata__" {
                insert_next(&mut metadata, key, &mut entries)?;
            } else if key.len() > MAX_NAME_BYTES {
                return Err(A::Error::custom(format!("a name of {} bytes", key.len())));
            } else {
                insert_next(&mut infos, key, &mut entries)?;
            }
        }
        Ok(Header(infos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_must_be_object_of_objects() {
        for (text, says) in [
            ("[]", "invalid type: sequence, expected an object at line 1 column 0"),
            ("3", "invalid type: integer `3`, expected an object at line 1 column 1"),
            ("{\"__metadata__\":[]}", "__metadata__: invalid type: sequence, expected an object at line 1 column 16"),
        ] {
            let error = serde_json::from_str::<Header>(text).err().expect(says);
            assert_eq!(error.to_string(), says);
        }
    }
}
