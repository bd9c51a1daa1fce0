//! The header of a GGUF file: metadata by key, and the type, the shape and the place of each tensor. The data follow,
//! each tensor at the next multiple of an alignment.
//!
//! Nothing is allocated in proportion to a number before the bytes that it counts are there, and they are at most
//! 16 MiB.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::error::{Problem, shortened};
use crate::folder::gguf::cursor::{Bad, Cursor, MAX_HEADER_BYTES, Stop};
use crate::folder::gguf::tensor_type::TensorType;
use crate::folder::gguf::value::Value;
use olmo_infer::internals::format::sizes::{product, sum};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::path::Path;

/// What a file begins with.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is read.
const VERSION: u32 = 3;
/// Most keys; those of published models have about 40.
const MAX_KEYS: u64 = 4096;
/// Most tensors: 1024 layers of 11, and some more.
const MAX_TENSORS: u64 = 16_384;
/// Longest key, and longest name of a tensor.
const MAX_NAME_BYTES: u64 = 255;
/// Most dimensions of a tensor.
const MAX_RANK: u32 = 4;
/// Where no other alignment is stated.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The key of another one.
const ALIGNMENT: &str = "general.alignment";
/// The largest one.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Most characters of a name in a message.
const SHOWN_CHARS: usize = 100;
/// Advice for a damaged file.
const ADVICE: &str = "download it again";

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its type.
    pub kind: TensorType,
    /// Row-major: the order of the file is the other one.
    pub shape: Vec<u64>,
    /// The range of its data in the file.
    pub range: Range<u64>,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The metadata; texts and lists are ranges of the header.
    pub keys: BTreeMap<String, Value>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the metadata end.
    pub keys_end: usize,
    /// Where the data of the first tensor begin.
    pub data: u64,
}

/// Reads the header of a file of `file_bytes` bytes that begins with `start`; `None` if it is longer than that.
///
/// # Errors
/// It is not a GGUF file of version 3 for this byte order, or its header is invalid.
pub fn check(path: &Path, start: &[u8], file_bytes: u64) -> Result<Option<Header>, Problem> {
    match read(start, file_bytes) {
        Ok(header) => Ok(Some(header)),
        Err(Stop::More) => Ok(None),
        Err(Stop::Bad(Bad { name, found, expected })) => {
            let problem = Problem::new(path, found).expected(expected);
            let problem = if problem.found.starts_with("version ") { problem } else { problem.advice(ADVICE) };
            Err(match name {
                Some(name) => problem.tensor(shortened(&name, SHOWN_CHARS)),
                None => problem,
            })
        }
    }
}

fn read(start: &[u8], file_bytes: u64) -> Result<Header, Stop> {
    let mut cursor = Cursor::new(start, file_bytes);
    if cursor.array()? != MAGIC {
        return Err(Stop::bad("not a GGUF file", "GGUF at its beginning"));
    }
    match cursor.u32()? {
        VERSION => {}
        swapped if swapped.swap_bytes() == VERSION => {
            return Err(Stop::bad("version 3 for big-endian machines", "a little-endian GGUF file of this model"));
        }
        other => {
            let expected = "version 3, which llama.cpp has written since 2023: get a newer file of this model";
            return Err(Stop::bad(format!("version {other} of GGUF"), expected));
        }
    }
    let n_tensors = count(cursor.u64()?, MAX_TENSORS, "tensors")?;
    let n_keys = count(cursor.u64()?, MAX_KEYS, "keys")?;
    let keys = keys(&mut cursor, n_keys)?;
    let keys_end = cursor.at();
    let alignment = alignment(&keys)?;
    let mut infos = Vec::new();
    for i in 0..n_tensors {
        infos.push(tensor(&mut cursor).map_err(|stop| stop.of(&format!("tensor {i}")))?);
    }
    // The header is at most MAX_HEADER_BYTES long.
    let data = (cursor.at() as u64).next_multiple_of(alignment);
    let tensors = places(infos, data, alignment, file_bytes)?;
    Ok(Header { keys, tensors, keys_end, data })
}

/// A count that is at most `most`.
fn count(found: u64, most: u64, of: &str) -> Result<u64, Stop> {
    if found > most {
        return Err(Stop::bad(format!("{found} {of}"), format!("at most {most}")));
    }
    Ok(found)
}

/// Reads the metadata.
fn keys(cursor: &mut Cursor, n_keys: u64) -> Result<BTreeMap<String, Value>, Stop> {
    let mut keys = BTreeMap::new();
    for i in 0..n_keys {
        let key = cursor.name(MAX_NAME_BYTES).map_err(|stop| stop.of(&format!("key {i}")))?;
        match keys.entry(key.to_string()) {
            Entry::Occupied(_) => return Err(Stop::bad("a key twice", "each key once").of(key)),
            Entry::Vacant(entry) => entry.insert(Value::read(cursor).map_err(|stop| stop.of(key))?),
        };
    }
    Ok(keys)
}

/// The stated alignment.
fn alignment(keys: &BTreeMap<String, Value>) -> Result<u64, Stop> {
    let Some(value) = keys.get(ALIGNMENT) else { return Ok(DEFAULT_ALIGNMENT) };
    let bad = |found: String| Stop::bad(found, format!("a power of two from 8 to {MAX_ALIGNMENT}")).of(ALIGNMENT);
    let Value::Whole(number) = value else { return Err(bad(value.name().into())) };
    let alignment = u64::try_from(*number).ok();
    let alignment =
        alignment.filter(|alignment| alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(alignment));
    alignment.ok_or_else(|| bad(number.to_string()))
}

/// A tensor whose place is not checked yet.
struct Unplaced {
    name: String,
    kind: TensorType,
    shape: Vec<u64>,
    bytes: u64,
    /// From the beginning of the data.
    offset: u64,
}

/// Reads the description of a tensor.
fn tensor(cursor: &mut Cursor) -> Result<Unplaced, Stop> {
    let name = cursor.name(MAX_NAME_BYTES)?;
    let in_tensor = |stop: Stop| stop.of(name);
    let rank = cursor.u32().map_err(in_tensor)?;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(Stop::bad(format!("{rank} dimensions"), format!("1 to {MAX_RANK}")).of(name));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        match cursor.u64().map_err(in_tensor)? {
            0 => return Err(Stop::bad("a dimension of 0", "elements").of(name)),
            size => shape.push(size),
        }
    }
    let code = cursor.u32().map_err(in_tensor)?;
    let offset = cursor.u64().map_err(in_tensor)?;
    let kind = TensorType::with_code(code).ok_or_else(|| {
        Stop::bad(format!("type {code}"), "a type of GGUF that this version knows: get a Q8_0, F16 or BF16 file")
            .of(name)
    })?;
    let n_columns = shape.first().copied().unwrap_or_default();
    if !n_columns.is_multiple_of(kind.block_elements) {
        let expected = format!("a multiple of {}, the blocks of {}", kind.block_elements, kind.name);
        return Err(Stop::bad(format!("rows of {n_columns} elements"), expected).of(name));
    }
    // The rows consist of whole blocks.
    let n_elements = product(shape.iter().copied());
    let n_blocks = n_elements.map(|elements| elements.checked_div(kind.block_elements).unwrap_or_default());
    let bytes = n_blocks.and_then(|blocks| product([blocks, kind.block_bytes]));
    let bytes = bytes.map_err(|_| Stop::bad("more than 2^64 bytes", "a shape that fits the file").of(name))?;
    shape.reverse();
    Ok(Unplaced { name: name.into(), kind, shape, bytes, offset })
}

/// Checks that the tensors follow each other, each at the next multiple of the alignment, up to the end of the file;
/// the data begin at `data`.
fn places(
    mut infos: Vec<Unplaced>,
    data: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<BTreeMap<String, TensorInfo>, Stop> {
    infos.sort_by_key(|info| info.offset);
    let mut tensors = BTreeMap::new();
    let mut end_of_last = 0u64;
    for Unplaced { name, kind, shape, bytes, offset } in infos {
        // Below 2^64: the data begin at `alignment` or later, and the file is not longer than that.
        let expected = end_of_last.next_multiple_of(alignment);
        if offset != expected {
            let found = format!("data at {offset}");
            return Err(Stop::bad(found, format!("data at {expected}, where those before it end")).of(&name));
        }
        let begin = sum([data, offset]);
        let end = begin.and_then(|begin| sum([begin, bytes]));
        let (Ok(begin), Some(end)) = (begin, end.ok().filter(|end| *end <= file_bytes)) else {
            let found = format!("{bytes} bytes at {offset} after {data} of a file of {file_bytes} bytes");
            return Err(Stop::bad(found, "a whole file").of(&name));
        };
        end_of_last = end.saturating_sub(data);
        match tensors.entry(name) {
            Entry::Occupied(entry) => return Err(Stop::bad("a tensor twice", "each tensor once").of(entry.key())),
            Entry::Vacant(entry) => entry.insert(TensorInfo { kind, shape, range: begin..end }),
        };
    }
    // A writer may fill the last one up, too.
    let end = data.saturating_add(end_of_last);
    let padded = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    if !tensors.is_empty() && file_bytes > padded {
        let found = format!("{} bytes after the last tensor", file_bytes.saturating_sub(end));
        return Err(Stop::bad(found, "the end of the file"));
    }
    Ok(tensors)
}

/// Most bytes of a file that its header can take.
pub(crate) fn most_bytes(file_bytes: u64) -> usize {
    file_bytes.min(MAX_HEADER_BYTES as u64) as usize
}
