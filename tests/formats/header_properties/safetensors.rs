//! Headers of safetensors files that are good, and sizes at the limits of numbers.

use super::{Seen, assert_refused, fitted, sizes};
use crate::property::{check, edgy};
use olmo_pack::error::Problem;
use olmo_pack::folder::element::SourceType;
use olmo_pack::folder::safetensors::header::{self, Entry};
use olmo_tests::safetensors::raw;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::path::Path;

/// The file in messages.
pub const PATH: &str = "weights/model.safetensors";
/// The element types of weights, as headers name them, and the bytes of a number.
pub const DTYPES: [(&str, SourceType, u64); 3] =
    [("F32", SourceType::F32, 4), ("F16", SourceType::F16, 2), ("BF16", SourceType::Bf16, 2)];
/// Other types that the crate `safetensors` knows. A tensor of such a type is reported, not read.
pub const OTHER_DTYPES: [&str; 17] = [
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "I32", "U32", "C64",
    "F64", "I64", "U64",
];

/// A tensor on its way into a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    /// The dimensions, and the range of the numbers behind the header, as JSON.
    pub shape: Vec<String>,
    pub offsets: Vec<String>,
    /// The dimensions as numbers.
    pub sizes: Vec<u64>,
    pub range: (u64, u64),
    /// The order of the three keys, and whether the name is spelled with escapes.
    pub order: [usize; 3],
    pub escapes: bool,
}

impl Tensor {
    /// Its keys with their values.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let fields = [
            ("dtype", quoted(self.dtype, false)),
            ("shape", format!("[{}]", self.shape.join(","))),
            ("data_offsets", format!("[{}]", self.offsets.join(", "))),
        ];
        self.order.map(|at| fields[at].clone()).to_vec()
    }

    /// Its entry with these keys.
    pub fn entry(&self, fields: &[(&str, String)]) -> String {
        let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{}: {{{}}}", quoted(&self.name, self.escapes), fields.join(","))
    }

    /// Moves its numbers.
    pub fn set_range(&mut self, begin: u64, end: u64) {
        self.range = (begin, end);
        self.offsets = vec![begin.to_string(), end.to_string()];
    }

    /// Gives it other dimensions.
    pub fn set_sizes(&mut self, sizes: Vec<u64>) {
        self.shape = sizes.iter().map(u64::to_string).collect();
        self.sizes = sizes;
    }
}

/// A text in JSON, with each character as its code if so wanted.
pub fn quoted(text: &str, escapes: bool) -> String {
    if !escapes {
        return serde_json::to_string(text).expect("a text");
    }
    let codes: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{codes}\"")
}

/// A file of tensors.
#[derive(Clone, Debug)]
pub struct File {
    /// In the order of their numbers.
    pub tensors: Vec<Tensor>,
    /// In which order the header names them.
    pub order: Vec<usize>,
    /// What `__metadata__` is, and its place in that order.
    pub metadata: Option<(String, usize)>,
    /// Spaces behind the header.
    pub padding: usize,
}

impl File {
    /// Files of `n` tensors, without holes.
    pub fn any(n: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = File> {
        let end = *n.end();
        let names = prop::collection::btree_set(name(), n).prop_map(Vec::from_iter).prop_shuffle();
        names
            .prop_flat_map(move |names| {
                let tensors: Vec<_> = names.into_iter().map(tensor).collect();
                let order = Just((0..tensors.len()).collect::<Vec<_>>()).prop_shuffle();
                let words = prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
                let words = words.prop_map(|words| serde_json::to_string(&words).expect("JSON"));
                let metadata = prop::option::of((prop_oneof![4 => words, 1 => Just("null".into())], 0..=end));
                (tensors, order, metadata, prop_oneof![0..8usize, 0..300usize])
            })
            .prop_map(|(mut tensors, order, metadata, padding)| {
                let mut at = 0;
                for tensor in &mut tensors {
                    let begin = at;
                    at += tensor.range.1;
                    tensor.set_range(begin, at);
                }
                File { tensors, order, metadata, padding }
            })
    }

    /// The bytes of all numbers.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |tensor| tensor.range.1)
    }

    /// The entries of the header as JSON, in its order.
    pub fn entries(&self) -> Vec<String> {
        let tensor = |&at: &usize| self.tensors[at].entry(&self.tensors[at].fields());
        let mut entries: Vec<String> = self.order.iter().map(tensor).collect();
        if let Some((metadata, place)) = &self.metadata {
            entries.insert((*place).min(entries.len()), format!("\"__metadata__\":{metadata}"));
        }
        entries
    }

    /// The header of these entries.
    pub fn header(&self, entries: &[String]) -> Vec<u8> {
        let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
        header.resize(header.len() + self.padding, b' ');
        header
    }
}

/// Names of tensors: those of parameters, any text, and long ones.
fn name() -> impl Strategy<Value = String> {
    let long = (any::<char>(), 1..=255usize).prop_map(|(c, bytes)| String::from(c).repeat(bytes / c.len_utf8()));
    let parameter = (0..100u8, select(vec!["mlp.up_proj", "self_attn.q_norm"]))
        .prop_map(|(layer, part)| format!("model.layers.{layer}.{part}.weight"));
    let is_name = |name: &String| name != "__metadata__" && name.len() <= 255;
    prop_oneof![3 => parameter, 3 => any::<String>(), 1 => long, 1 => Just(String::from("__metadata"))]
        .prop_filter("no name", is_name)
}

/// A tensor of this name, which begins at 0.
fn tensor(name: String) -> impl Strategy<Value = Tensor> {
    let dtype = prop_oneof![
        4 => select(DTYPES.to_vec()).prop_map(|(dtype, _, bytes)| (dtype, Some(bytes))),
        1 => select(OTHER_DTYPES.to_vec()).prop_map(|dtype| (dtype, None)),
    ];
    let sizes = prop_oneof![6 => sizes(0..=4), 1 => sizes(0..=32), 1 => prop::collection::vec(0..4u64, 0..=4)];
    let order = Just([0, 1, 2]).prop_shuffle();
    (Just(name), dtype, sizes.prop_map(fitted), 0..100_000u64, order, any::<bool>()).prop_map(
        |(name, (dtype, bytes), sizes, other, order, escapes)| {
            // The size of other types is not known here.
            let bytes = bytes.map_or(other, |bytes| bytes * sizes.iter().product::<u64>());
            let (shape, offsets) = (Vec::new(), Vec::new());
            let mut tensor =
                Tensor { name, dtype, shape, offsets, sizes: Vec::new(), range: (0, bytes), order, escapes };
            tensor.set_sizes(sizes);
            tensor
        },
    )
}

/// The result of reading a file with this header and `data_bytes` bytes of numbers.
pub fn read(header: &[u8], data_bytes: u64) -> Result<BTreeMap<String, Entry>, Problem> {
    let start = raw(header, &[]);
    let file_bytes = start.len() as u64 + data_bytes;
    header::check(Path::new(PATH), &start, file_bytes)
}

#[test]
fn reads_every_header() {
    let seen = Seen::new(&["no tensor", "metadata", "a type that weights have not", "no bytes", "32 dimensions"]);
    check(File::any(0..=6), |file| {
        let header = file.header(&file.entries());
        let data = 8 + header.len() as u64;
        let element = |dtype: &str| {
            let known = DTYPES.iter().find(|(known, ..)| *known == dtype);
            known.map(|(_, element, _)| *element).ok_or_else(|| dtype.to_string())
        };
        let expected = file.tensors.iter().map(|tensor| {
            let range = data + tensor.range.0..data + tensor.range.1;
            let entry = Entry { element: element(tensor.dtype), shape: tensor.sizes.clone(), range };
            (tensor.name.clone(), entry)
        });
        prop_assert_eq!(read(&header, file.data_bytes()), Ok(expected.collect()));
        let any = |is: fn(&Tensor) -> bool| file.tensors.iter().any(is);
        [
            ("no tensor", file.tensors.is_empty()),
            ("metadata", file.metadata.is_some()),
            ("a type that weights have not", any(|tensor| OTHER_DTYPES.contains(&tensor.dtype))),
            ("no bytes", any(|tensor| tensor.range.0 == tensor.range.1)),
            ("32 dimensions", any(|tensor| tensor.sizes.len() == 32)),
        ]
        .iter()
        .filter(|(_, is)| *is)
        .for_each(|(kind, _)| seen.count(kind));
        Ok(())
    });
    seen.assert_each(50);
}

#[test]
fn tensor_size_of_shape_never_wraps() {
    let seen = Seen::new(&["read", "other bytes", "more than 64 bits", "an impossible file size"]);
    let shape = prop_oneof![
        sizes(1..=4),
        sizes(1..=32),
        sizes(1..=6).prop_map(fitted),
        edgy(1 << 40).prop_map(|size| {
            // Close to all bytes that a number can count.
            vec![u64::MAX / 4 - size as u64 / 300]
        })
    ];
    let change = prop_oneof![2 => Just(0), 1 => edgy(usize::MAX).prop_map(|n| n as u64), 1 => any::<u64>()];
    check((select(DTYPES.to_vec()), shape, change), |((dtype, element, number), shape, change)| {
        let sizes = shape.iter().map(|&size| u128::from(size));
        let exact = sizes.clone().try_fold(u128::from(number), u128::checked_mul);
        let exact = exact.filter(|&bytes| bytes <= u64::MAX.into());
        // The length that is right for a reader whose numbers wrap.
        let bytes = sizes.fold(number, |bytes, size| bytes.wrapping_mul(size as u64)).wrapping_add(change);
        let header = format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[0,{bytes}]}}}}");
        let start = raw(header.as_bytes(), &[]);
        let data = start.len() as u64;
        // So does this, where no file is so long; it begins with all of the header then.
        let file_bytes = data.checked_add(bytes).unwrap_or(data.max(data.wrapping_add(bytes)));
        let read = header::check(Path::new(PATH), &start, file_bytes);
        if data.checked_add(bytes).is_none() {
            seen.count("an impossible file size");
            return assert_refused(read, PATH, "(truncated?)");
        }
        if exact == Some(bytes.into()) {
            seen.count("read");
            let entry = Entry { element: Ok(element), shape, range: data..data + bytes };
            prop_assert_eq!(read, Ok(BTreeMap::from([("a".to_string(), entry)])));
            return Ok(());
        }
        seen.count(if exact.is_some() { "other bytes" } else { "more than 64 bits" });
        let needed = exact.map_or("more than 2^64".into(), |bytes| bytes.to_string());
        assert_refused(read, PATH, &format!(": a: shape {shape:?} needs {needed} bytes of data, its data_offsets have"))
    });
    seen.assert_each(100);
}
