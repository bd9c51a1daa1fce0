//! A good header of a safetensors file with one defect.

use super::assert_refused;
use super::safetensors::{DTYPES, File, OTHER_DTYPES, PATH, Tensor, quoted, read};
use crate::property::check;
use olmo_pack::error::escaped;
use olmo_pack::folder::safetensors::header;
use olmo_tests::safetensors::raw;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::path::Path;

/// One thing that is wrong, of one tensor where it is one.
#[derive(Clone, Debug)]
enum Defect {
    /// The numbers of the tensor and of all behind it are nearer to the beginning, by this part of the way in 2^64ths.
    Overlap(u64),
    /// They are farther from it by this number of bytes.
    Hole(u64),
    /// The offsets are exchanged.
    Backwards,
    /// More or fewer bytes of numbers than the header has.
    Data(i64),
    /// A dimension is multiplied by this factor, or there is one more of that length.
    Count(Index, u64),
    /// The type has numbers of another length.
    OtherType,
    ManyDimensions(usize),
    UnknownType(String),
    /// The tensor is repeated at this position, perhaps in another spelling.
    Twice(Index, bool),
    MissingKey(Index),
    KeyTwice(Index, Index),
    /// Another value instead of one of the offsets, of a dimension, or of a whole entry.
    Offset(bool, String),
    Size(Index, String),
    Entry(&'static str),
    /// Other numbers of offsets than two.
    Offsets(usize),
    LongName(usize),
    Metadata(&'static str),
    /// Another length of the header, with this as the first numbers.
    HeaderBytes(u64, u8),
    /// The first byte of the header.
    FirstByte(u8),
    /// Invalid UTF-8 in the name of the tensor.
    Utf8(&'static [u8]),
    /// A control character, unescaped in the name of the tensor.
    Control(u8),
    /// Bytes behind the header.
    Tail(Vec<u8>),
    /// The file ends inside the header or before it.
    Cut(Index),
}

fn defect() -> impl Strategy<Value = Defect> {
    let at = any::<Index>;
    let bytes = || prop_oneof![1..=16u64, 1..=1u64 << 57];
    let types =
        select(vec!["", "f32", "F99", "float32", "bfloat16", "F8_E4M3FN", "f16", " F32", "F32 ", "F3", "BF16\0"]);
    let is_unknown =
        |dtype: &String| DTYPES.iter().all(|(known, ..)| dtype != known) && !OTHER_DTYPES.contains(&dtype.as_str());
    let types = prop_oneof![types.prop_map(String::from), "[A-Z0-9_]{1,5}", any::<String>()];
    let numbers =
        ["0.0", "8.0", "1e3", "-1", "-0.5", "\"0\"", "\"\"", "null", "true", "[0]", "{}", "01", "0x1", "+1", ","];
    let number = prop_oneof![
        2 => select(numbers.to_vec()).prop_map(String::from),
        1 => any::<u128>().prop_map(|number| (number | 1 << 64).to_string()),
        1 => any::<f64>().prop_filter("a number", |n| n.is_finite()).prop_map(|number| format!("{number:?}")),
        1 => (1..=i64::MAX).prop_map(|number| format!("-{number}")),
    ];
    let entries = vec!["null", "1", "\"F32\"", "true", "[]", "{}", "[\"F32\"]", "{\"F32\":[1]}", "[[]]", "{", ""];
    let metadata =
        vec!["1", "[]", "\"pt\"", "true", "{\"a\":1}", "{\"a\":null}", "{\"a\":{}}", "{\"a\":\"x\",\"a\":\"x\"}"];
    let length = prop_oneof![0..2000u64, (2u64 << 20) - 9..(2 << 20) + 9, any::<u64>(), u64::MAX - 16..=u64::MAX];
    let tail = prop_oneof![Just(b"{}".to_vec()), Just(vec![0]), prop::collection::vec(any::<u8>(), 1..20)];
    let is_tail = |tail: &Vec<u8>| tail.iter().any(|byte| !b" \t\r\n".contains(byte));
    let utf8: Vec<&[u8]> =
        vec![b"\x80", b"\xbf", b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80"];
    prop_oneof![
        (1..=u64::MAX).prop_map(Defect::Overlap),
        bytes().prop_map(Defect::Hole),
        Just(Defect::Backwards),
        (bytes(), any::<bool>()).prop_map(|(n, more)| Defect::Data(if more { n as i64 } else { -(n as i64) })),
        (at(), 2..=300u64).prop_map(|(at, times)| Defect::Count(at, times)),
        Just(Defect::OtherType),
        (33..200usize).prop_map(Defect::ManyDimensions),
        types.prop_filter("known", is_unknown).prop_map(Defect::UnknownType),
        (at(), any::<bool>()).prop_map(|(at, escapes)| Defect::Twice(at, escapes)),
        at().prop_map(Defect::MissingKey),
        (at(), at()).prop_map(|(key, at)| Defect::KeyTwice(key, at)),
        (any::<bool>(), number.clone()).prop_map(|(first, number)| Defect::Offset(first, number)),
        (at(), number).prop_map(|(at, number)| Defect::Size(at, number)),
        select(entries).prop_map(Defect::Entry),
        prop_oneof![0..2usize, 3..9usize].prop_map(Defect::Offsets),
        prop_oneof![256..300usize, 256..20_000usize].prop_map(Defect::LongName),
        select(metadata).prop_map(Defect::Metadata),
        (length, select(b" \n}{\0x\"".to_vec())).prop_map(|(length, number)| Defect::HeaderBytes(length, number)),
        any::<u8>().prop_filter("right", |&byte| byte != b'{').prop_map(Defect::FirstByte),
        select(utf8).prop_map(Defect::Utf8),
        (0..b' ').prop_map(Defect::Control),
        tail.prop_filter("spaces", is_tail).prop_map(Defect::Tail),
        at().prop_map(Defect::Cut),
    ]
}

/// Moves the numbers of the tensor at `at` and of all behind it.
fn shift(file: &mut File, at: usize, bytes: i64) {
    for tensor in &mut file.tensors[at..] {
        let (begin, end) = tensor.range;
        tensor.set_range(begin.wrapping_add_signed(bytes), end.wrapping_add_signed(bytes));
    }
}

/// A tensor with numbers, of a type that weights have, as most defects need one; it is the second of three at least.
fn victim(file: &mut File, at: Index) -> usize {
    let at = 1 + at.index(file.tensors.len() - 2);
    let known = DTYPES.iter().any(|(dtype, ..)| *dtype == file.tensors[at].dtype);
    if !known || file.tensors[at].sizes.contains(&0) {
        let bytes = file.tensors[at].range.1 - file.tensors[at].range.0;
        let tensor = &mut file.tensors[at];
        tensor.dtype = "BF16";
        tensor.set_sizes(vec![3, 1]);
        tensor.set_range(tensor.range.0, tensor.range.0 + 6);
        if at + 1 < file.tensors.len() {
            shift(file, at + 1, 6 - bytes as i64);
        }
    }
    at
}

/// The position of a tensor in the header.
fn place(file: &File, at: usize) -> usize {
    file.order.iter().position(|&tensor| tensor == at).expect("every tensor has a position")
}

/// Asserts that this file with this defect of the tensor at `at` is refused.
fn assert_defect_refused(mut file: File, at: usize, defect: Defect) -> Result<(), TestCaseError> {
    let good = file.header(&file.entries());
    prop_assert!(read(&good, file.data_bytes()).is_ok(), "not good before");
    let (begin, end) = file.tensors[at].range;
    // The line after the path, when it is about the tensor and when the JSON reader reports it.
    let name = escaped(&file.tensors[at].name);
    let of_tensor = format!("{PATH}: {name}: ");
    let of_entry = format!("{PATH}: bad header: {name}: ");
    let entry_refused = |file: &File, fields: &[(&str, String)], words: &str| {
        // Metadata would move the entry; its position does not matter here.
        let mut entries = File { metadata: None, ..file.clone() }.entries();
        entries[place(file, at)] = file.tensors[at].entry(fields);
        assert_refused(read(&file.header(&entries), file.data_bytes()), PATH, &format!("{of_entry}{words}"))
    };
    let refused =
        |file: &File, words: &str| assert_refused(read(&file.header(&file.entries()), file.data_bytes()), PATH, words);
    let fields = file.tensors[at].fields();
    match defect {
        Defect::Overlap(part) => {
            let bytes = (u128::from(begin) * u128::from(part)).div_ceil(u64::MAX.into()) as i64;
            // The numbers cannot move when all tensors before them are empty.
            if bytes == 0 {
                return Ok(());
            }
            shift(&mut file, at, -bytes);
            refused(&file, ": the data are contiguous")
        }
        Defect::Hole(bytes) => {
            shift(&mut file, at, bytes as i64);
            // Empty tensors before it may be named as well, as they have the same offset.
            refused(&file, &format!("expected a begin at {begin}: the data are contiguous"))
                .and_then(|()| refused(&file, &of_tensor))
        }
        Defect::Backwards => {
            let data_bytes = file.data_bytes();
            file.tensors[at].set_range(end, begin);
            let words = format!("{of_tensor}data_offsets [{end}, {begin}], expected an end after {end}");
            assert_refused(read(&file.header(&file.entries()), data_bytes), PATH, &words)
        }
        Defect::Data(bytes) => {
            let data_bytes = file.data_bytes().saturating_add_signed(bytes);
            let words = match data_bytes.checked_sub(file.data_bytes()) {
                None => format!("has {data_bytes} (truncated?)"),
                Some(1) => "has 1 byte too many".into(),
                Some(more) => format!("has {more} bytes too many"),
            };
            assert_refused(read(&good, data_bytes), PATH, &words)
        }
        Defect::Count(dimension, times) => {
            let mut sizes = file.tensors[at].sizes.clone();
            match dimension.index(sizes.len() + 1) {
                new if new == sizes.len() && new < 32 => sizes.push(times),
                new if new == sizes.len() => sizes[0] *= times,
                known => sizes[known] *= times,
            }
            file.tensors[at].set_sizes(sizes);
            refused(&file, &format!("{of_tensor}shape ")).and_then(|()| refused(&file, "its data_offsets have"))
        }
        Defect::OtherType => {
            file.tensors[at].dtype = if file.tensors[at].dtype == "F32" { "F16" } else { "F32" };
            refused(&file, &format!("{of_tensor}shape ")).and_then(|()| refused(&file, "its data_offsets have"))
        }
        Defect::ManyDimensions(rank) => {
            let mut sizes = file.tensors[at].sizes.clone();
            sizes.resize(rank, 1);
            file.tensors[at].set_sizes(sizes);
            refused(&file, &format!("{of_tensor}shape of {rank} dimensions, expected at most 32"))
        }
        Defect::UnknownType(dtype) => {
            let dtype = quoted(&dtype, file.tensors[at].escapes);
            let other = |(key, value): (_, String)| (key, if key == "dtype" { dtype.clone() } else { value });
            let fields: Vec<(&str, String)> = fields.into_iter().map(other).collect();
            entry_refused(&file, &fields, "unknown variant")
        }
        Defect::Twice(place, escapes) => {
            let mut entries = file.entries();
            let again = Tensor { escapes, ..file.tensors[at].clone() };
            entries.insert(place.index(entries.len() + 1), again.entry(&fields));
            let result = read(&file.header(&entries), file.data_bytes());
            assert_refused(result, PATH, &format!("{PATH}: bad header: duplicate key \"{name}\""))
        }
        Defect::MissingKey(key) => {
            let mut fields = fields;
            let (key, _) = fields.remove(key.index(3));
            entry_refused(&file, &fields, &format!("missing field `{key}`"))
        }
        Defect::KeyTwice(key, place) => {
            let mut fields = fields;
            let again = key.get(&fields).clone();
            fields.insert(place.index(4), again.clone());
            entry_refused(&file, &fields, &format!("duplicate field `{}`", again.0))
        }
        Defect::Offset(first, number) => {
            file.tensors[at].offsets[usize::from(!first)] = number;
            entry_refused(&file, &file.tensors[at].fields(), "")
        }
        Defect::Size(dimension, number) => {
            let shape = &mut file.tensors[at].shape;
            let dimension = dimension.index(shape.len() + 1);
            shape.insert(dimension, number);
            entry_refused(&file, &file.tensors[at].fields(), "")
        }
        Defect::Entry(entry) => {
            file.metadata = None;
            let mut entries = file.entries();
            let place = place(&file, at);
            entries[place] = format!("{}:{entry}", quoted(&file.tensors[at].name, false));
            assert_refused(read(&file.header(&entries), file.data_bytes()), PATH, &format!("{PATH}: bad header: "))
        }
        Defect::Offsets(n) => {
            let mut offsets = file.tensors[at].offsets.clone();
            offsets.resize(n, end.to_string());
            file.tensors[at].offsets = offsets;
            entry_refused(&file, &file.tensors[at].fields(), "")
        }
        Defect::LongName(bytes) => {
            file.tensors[at].name = "n".repeat(bytes);
            refused(&file, &format!("{PATH}: bad header: a name of {bytes} bytes"))
        }
        Defect::Metadata(metadata) => {
            file.metadata = Some((metadata.into(), 1));
            refused(&file, &format!("{PATH}: bad header: __metadata__: "))
        }
        Defect::HeaderBytes(bytes, number) => {
            let mut start = raw(&good, &[]);
            let file_bytes = start.len() as u64 + file.data_bytes();
            // The right one is made wrong by one.
            let bytes = if bytes == good.len() as u64 { bytes + 1 } else { bytes };
            start[..8].copy_from_slice(&bytes.to_le_bytes());
            // As much of the file as such a header has.
            let needed = bytes.saturating_add(8).min(file_bytes).min(8 + (2 << 20)) as usize;
            start.resize(needed.max(start.len()), number);
            let words = match bytes {
                0 | 1 | 0x20_0001.. => &format!("{PATH}: header of {bytes} bytes, expected 2 to 2097152"),
                _ if bytes + 8 > file_bytes => {
                    &format!("{PATH}: header of {bytes} bytes in a file of {file_bytes} bytes")
                }
                _ => "",
            };
            assert_refused(header::check(Path::new(PATH), &start, file_bytes), PATH, words)
        }
        Defect::FirstByte(byte) => {
            let mut header = good;
            header[0] = byte;
            assert_refused(read(&header, file.data_bytes()), PATH, "expected a safetensors file")
        }
        Defect::Utf8(bytes) => {
            assert_refused(read(&in_name(&file, at, bytes), file.data_bytes()), PATH, ": bad header: ")
        }
        Defect::Control(byte) => assert_refused(
            read(&in_name(&file, at, &[byte]), file.data_bytes()),
            PATH,
            ": bad header: control character",
        ),
        Defect::Tail(tail) => {
            let header = [good, tail].concat();
            assert_refused(read(&header, file.data_bytes()), PATH, "bad header: trailing characters")
        }
        Defect::Cut(at) => {
            let whole = raw(&good, &[]);
            let cut = at.index(whole.len());
            let result = header::check(Path::new(PATH), &whole[..cut], cut as u64);
            let words = if cut > 8 { "expected a header inside the file" } else { "expected a safetensors file" };
            assert_refused(result, PATH, words)
        }
    }
}

/// The header with these bytes at the beginning of a name.
fn in_name(file: &File, at: usize, bytes: &[u8]) -> Vec<u8> {
    let header = file.header(&file.entries());
    let name = quoted(&file.tensors[at].name, file.tensors[at].escapes) + ": {";
    let begin = header.windows(name.len()).position(|window| window == name.as_bytes()).expect("it is there");
    [&header[..=begin], bytes, &header[begin + 1..]].concat()
}

#[test]
fn refuses_one_defect_of_a_header() {
    check((File::any(3..=6), any::<Index>(), defect()), |(mut file, at, defect)| {
        let at = victim(&mut file, at);
        assert_defect_refused(file, at, defect)
    });
}
