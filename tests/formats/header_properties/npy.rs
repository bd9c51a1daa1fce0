//! `.npy` headers that are good, and sizes at the limits of numbers.

use super::{Seen, assert_refused, fitted, sizes};
use crate::property::{check, edgy};
use olmo_pack::folder::npy::{self, Checked, Descr};
use proptest::prelude::*;
use std::path::Path;

/// The file in messages.
pub const PATH: &str = "weights/lm_head.weight.npy";
/// The most bytes of a file that the reader needs.
const START_BYTES: usize = 10_012;
/// The element types that are read, as numpy names them.
const DESCRS: [(&str, Descr, u64); 5] = [
    ("<f4", Descr::F32, 4),
    ("<f2", Descr::F16, 2),
    ("<V2", Descr::Raw16, 2),
    ("|V2", Descr::Raw16, 2),
    ("<u2", Descr::U16, 2),
];

/// An array on its way into a file.
#[derive(Clone, Debug)]
pub struct Array {
    pub descr: (&'static str, Descr, u64),
    pub shape: Vec<u64>,
    pub version: u8,
    /// The preamble is a multiple of this: 16 in old versions of numpy, later 64.
    pub alignment: usize,
    /// Whether there is room for a first dimension of 21 digits, as newer versions of numpy leave it.
    pub room: bool,
    /// A byte of the numbers.
    pub number: u8,
}

impl Array {
    /// Arrays with a size that a file can have, and sizes of `shape`.
    pub fn any(shape: impl Strategy<Value = Vec<u64>>) -> impl Strategy<Value = Array> {
        let descr = prop::sample::select(DESCRS.to_vec());
        let alignment = prop::sample::select(vec![16, 64]);
        (descr, shape.prop_map(fitted), 1..=3u8, alignment, any::<bool>(), any::<u8>()).prop_map(
            |(descr, shape, version, alignment, room, number)| Array { descr, shape, version, alignment, room, number },
        )
    }

    /// The bytes of the numbers.
    pub fn data_bytes(&self) -> u64 {
        self.descr.2 * self.shape.iter().product::<u64>()
    }

    /// The keys and their values, in numpy's order.
    pub fn entries(&self) -> Vec<(String, String)> {
        let shape = tuple(&self.shape);
        let entries = [("descr", format!("'{}'", self.descr.0)), ("fortran_order", "False".into()), ("shape", shape)];
        entries.map(|(key, value)| (key.to_string(), value)).to_vec()
    }

    /// All before the numbers: the dictionary of these entries, and `tail` behind it.
    pub fn preamble(&self, entries: &[(String, String)], tail: &str) -> Vec<u8> {
        let entries: String = entries.iter().map(|(key, value)| format!("'{key}': {value}, ")).collect();
        self.preamble_of(&format!("{{{entries}}}{tail}"))
    }

    /// All before the numbers, with this text in the header.
    pub fn preamble_of(&self, text: &str) -> Vec<u8> {
        let prefix = self.prefix_bytes();
        let first = self.shape.first().map_or(0, |size| size.to_string().len());
        let room = if self.room { 21 - first } else { 0 };
        let end = (prefix + text.len() + room + 1).next_multiple_of(self.alignment);
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([self.version, 0]);
        bytes.extend(&((end - prefix) as u32).to_le_bytes()[..prefix - 8]);
        bytes.extend(text.as_bytes());
        bytes.resize(end - 1, b' ');
        bytes.push(b'\n');
        bytes
    }

    /// The bytes before the header.
    pub fn prefix_bytes(&self) -> usize {
        if self.version == 1 { 10 } else { 12 }
    }

    /// The result of reading a file with this preamble and `data_bytes` bytes of numbers.
    pub fn read(&self, mut preamble: Vec<u8>, data_bytes: u64) -> Result<Checked, olmo_pack::error::Problem> {
        let file_bytes = preamble.len() as u64 + data_bytes;
        // No more of the numbers than it looks at: there may be an exabyte.
        preamble.resize(preamble.len().max(START_BYTES).min(file_bytes as usize), self.number);
        npy::check(Path::new(PATH), &preamble, file_bytes)
    }
}

/// A tuple as Python shows it.
pub fn tuple(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("({}{})", sizes.join(", "), if sizes.len() == 1 { "," } else { "" })
}

#[test]
fn reads_every_header_of_numpy() {
    let seen = Seen::new(&["read", "no dimension", "a dimension of 0"]);
    let shape =
        (sizes(0..=4), prop::option::weighted(0.2, any::<prop::sample::Index>())).prop_map(|(mut shape, zero)| {
            if let (Some(zero), false) = (zero, shape.is_empty()) {
                let zero = zero.index(shape.len());
                shape[zero] = 0;
            }
            shape
        });
    check(Array::any(shape), |array| {
        let preamble = array.preamble(&array.entries(), "");
        prop_assert_eq!(preamble.len() % array.alignment, 0);
        let preamble_bytes = preamble.len();
        let read = array.read(preamble, array.data_bytes());
        // No parameter of a model is a single number, and none is empty.
        if array.shape.is_empty() {
            seen.count("no dimension");
            return assert_refused(read, PATH, "shape () has no dimension");
        }
        if array.shape.contains(&0) {
            seen.count("a dimension of 0");
            return assert_refused(read, PATH, "has no elements");
        }
        seen.count("read");
        let Array { descr: (_, descr, _), shape, .. } = array;
        prop_assert_eq!(read, Ok(Checked { descr, fortran_order: false, shape, preamble_bytes }));
        Ok(())
    });
    seen.assert_each(1000);
}

#[test]
fn reads_every_spelling_of_a_dictionary_alike() {
    let order = Just(vec![0, 1, 2]).prop_shuffle();
    let gaps = prop::collection::vec(0..3usize, 1..30);
    let spelling = (order, gaps, prop::sample::select(vec!['\'', '"']), any::<[bool; 3]>());
    check((Array::any(sizes(1..=32)), spelling), |(array, (order, gaps, quote, [comma, tuple_comma, fortran]))| {
        // Of a vector both orders are the same.
        let fortran = fortran && array.shape.len() == 1;
        let mut sizes: Vec<String> = array.shape.iter().flat_map(|size| [size.to_string(), ",".into()]).collect();
        if sizes.len() > 2 && !tuple_comma {
            sizes.pop();
        }
        let values = [
            ("descr", vec![format!("{quote}{}{quote}", array.descr.0)]),
            ("fortran_order", vec![if fortran { "True".into() } else { "False".into() }]),
            ("shape", [vec!["(".into()], sizes, vec![")".into()]].concat()),
        ];
        let mut tokens = vec!["{".to_string()];
        for (key, value) in order.iter().map(|&at: &usize| &values[at]) {
            tokens.extend([format!("{quote}{key}{quote}"), ":".into()]);
            tokens.extend(value.iter().cloned());
            tokens.push(",".into());
        }
        if !comma {
            tokens.pop();
        }
        tokens.push("}".into());
        let spaced = tokens.iter().zip(gaps.iter().cycle()).map(|(token, &gap)| " ".repeat(gap) + token);
        let preamble = array.preamble_of(&spaced.collect::<String>());
        let preamble_bytes = preamble.len();
        let read = array.read(preamble, array.data_bytes());
        let Array { descr: (_, descr, _), shape, .. } = array;
        prop_assert_eq!(read, Ok(Checked { descr, fortran_order: fortran, shape, preamble_bytes }));
        Ok(())
    });
}

#[test]
fn data_size_of_shape_never_wraps() {
    let seen = Seen::new(&["read", "other bytes", "more than 64 bits"]);
    let shape = prop_oneof![sizes(1..=4), sizes(1..=32), sizes(1..=6).prop_map(fitted)];
    let change = prop_oneof![2 => Just(0u64), 1 => edgy(usize::MAX).prop_map(|n| n as u64), 1 => any::<u64>()];
    check((Array::any(sizes(1..=1)), shape, change), |(array, shape, change)| {
        let array = Array { room: false, shape, ..array };
        let mut start = array.preamble(&array.entries(), "");
        let preamble_bytes = start.len() as u64;
        let sizes = array.shape.iter().map(|&size| u128::from(size));
        // The exact length, unless it has more than 128 bits; and that of a reader whose numbers wrap.
        let exact = sizes.clone().try_fold(u128::from(array.descr.2), u128::checked_mul);
        let exact = exact.and_then(|bytes| bytes.checked_add(preamble_bytes.into()));
        let wrapped = sizes.fold(array.descr.2, |bytes, size| bytes.wrapping_mul(size as u64));
        let file_bytes = wrapped.wrapping_add(preamble_bytes).wrapping_add(change);
        start.resize(start.len().max(START_BYTES), array.number);
        if file_bytes < START_BYTES as u64 {
            start.truncate(file_bytes as usize);
        }
        let read = npy::check(Path::new(PATH), &start, file_bytes);
        if exact == Some(file_bytes.into()) {
            seen.count("read");
            prop_assert_eq!(read.map(|checked| checked.shape), Ok(array.shape));
            return Ok(());
        }
        let fits = exact.is_some_and(|bytes| bytes <= u64::MAX.into());
        seen.count(if fits { "other bytes" } else { "more than 64 bits" });
        // A header that is cut is refused before its sizes are checked.
        let words = match (file_bytes >= preamble_bytes, fits) {
            (false, _) => "",
            (true, true) => " bytes of data, has ",
            (true, false) => " is too large",
        };
        assert_refused(read, PATH, words)
    });
    seen.assert_each(1000);
}
