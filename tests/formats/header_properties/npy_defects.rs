//! A good `.npy` header with one defect.

use super::npy::{Array, PATH, tuple};
use super::{assert_refused, sizes};
use crate::property::check;
use olmo_pack::folder::npy;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::path::Path;

/// One thing that is wrong.
#[derive(Clone, Debug)]
enum Defect {
    /// A byte of the magic is changed by these bits.
    Magic(Index, u8),
    Version([u8; 2]),
    /// A version whose length has another number of bytes.
    OtherPrefix,
    /// Another length of the header.
    HeaderBytes(u32),
    FortranOrder,
    /// Another value instead of the element type.
    Descr(String),
    /// Another value instead of the order.
    Order(&'static str),
    /// Another value instead of a dimension.
    Size(Index, String),
    /// A dimension with zeros before it.
    LeadingZeros(Index, usize),
    /// The shape is not a tuple, or has too many dimensions.
    Shape(String),
    ManyDimensions(usize),
    MissingKey(Index),
    /// The repeated key, and its position.
    KeyTwice(Index, Index),
    /// Another key, its value and its position.
    ExtraKey(String, &'static str, Index),
    /// Bytes behind the dictionary.
    Tail(String),
    /// More or fewer bytes of numbers than the shape has.
    Data(i64),
    /// The file ends inside the preamble.
    Cut(Index),
    /// A byte of the header that no header has.
    Byte(Index, u8),
    /// The last byte of the header.
    LastByte(u8),
}

/// Texts of `length` characters, without quotes and brackets.
fn text(length: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = String> {
    let chars: Vec<char> = (' '..='~').filter(|c| !"'\"()[]{}".contains(*c)).collect();
    prop::collection::vec(select(chars), length).prop_map(String::from_iter)
}

/// Element types of numpy that no parameter has, and types that numpy does not have.
fn other_descr() -> impl Strategy<Value = String> {
    let order = select(vec!["<", ">", "|", "=", ""]);
    let kind = select("bifucmMOSUVF?".chars().collect::<Vec<_>>());
    let size = prop_oneof![Just(String::new()), (1..=16u8).prop_map(|size| size.to_string()), Just("8[s]".into())];
    let of_numpy = (order, kind, size).prop_map(|(order, kind, size)| format!("{order}{kind}{size}"));
    let is_other = |descr: &String| !["<f4", "<f2", "<V2", "|V2", "<u2"].contains(&descr.as_str());
    let spaced = (select(vec!["<f4", "<V2"]), any::<bool>())
        .prop_map(|(descr, before)| if before { format!(" {descr}") } else { format!("{descr} ") });
    let one = prop_oneof![4 => of_numpy, 1 => text(0..=5), 1 => spaced].prop_filter("supported", is_other);
    let fields = prop::collection::vec(one.clone(), 1..3).prop_map(|types| {
        let fields: Vec<String> = types.iter().enumerate().map(|(i, descr)| format!("('f{i}', '{descr}')")).collect();
        format!("[{}]", fields.join(", "))
    });
    prop_oneof![5 => one.prop_map(|descr| format!("'{descr}'")), 1 => fields]
}

fn defect() -> impl Strategy<Value = Defect> {
    let at = any::<Index>;
    let is_no_version = |version: &[u8; 2]| !(version[1] == 0 && (1..=3).contains(&version[0]));
    let version = prop_oneof![any::<[u8; 2]>(), (0..5u8, 0..3u8).prop_map(|(major, minor)| [major, minor])];
    let length = prop_oneof![0..400u32, any::<u16>().prop_map(u32::from), 9_990..10_010u32, any::<u32>()];
    let others = vec!["0", "1", "None", "true", "FALSE", "'False'", "", "(False)", "Fals", "Falsey", "False False"];
    let digits =
        prop_oneof![u128::from(u64::MAX) + 1..=u128::from(u64::MAX) + 9, any::<u128>().prop_map(|n| n | 1 << 64)];
    let words = ["L", ".0", "e0", "_0", " 0", "j", " * 1", "+0", "x", ",,"].map(|end| format!("3{end}"));
    let words =
        words.into_iter().chain(["-1", "+1", "None", "True", "'1'", "0x3", "a", "(3,)", ".5"].map(String::from));
    let size = prop_oneof![
        digits.prop_map(|size| size.to_string()),
        select(words.collect::<Vec<_>>()),
        any::<u64>().prop_map(|size| format!("-{size}")),
        (30..300usize).prop_map(|digits| "9".repeat(digits)),
    ];
    let keys =
        prop_oneof![select(vec!["", "Descr", "descr ", "shape\\x00", "strides"]).prop_map(String::from), text(0..=30)];
    let is_other_key = |key: &String| !["descr", "fortran_order", "shape"].contains(&key.as_str());
    let values = select(vec!["'<f4'", "False", "(3,)", "1", "None", ""]);
    let tail = text(1..=30).prop_filter("nothing", |tail| !tail.trim().is_empty());
    let byte = prop_oneof![0..b' ', 0x7f..=0xffu8];
    let shapes = vec!["(3)", "3", "3,", "[3]", "((3,),)", "(,)", "{3}", "None", "(3", "'(3,)'", "(3 3)"];
    prop_oneof![
        (at(), 1..=255u8).prop_map(|(at, bits)| Defect::Magic(at, bits)),
        version.prop_filter("supported", is_no_version).prop_map(Defect::Version),
        Just(Defect::OtherPrefix),
        length.prop_map(Defect::HeaderBytes),
        Just(Defect::FortranOrder),
        other_descr().prop_map(Defect::Descr),
        select(others).prop_map(Defect::Order),
        (at(), size).prop_map(|(at, size)| Defect::Size(at, size)),
        (at(), 1..25usize).prop_map(|(at, zeros)| Defect::LeadingZeros(at, zeros)),
        select(shapes).prop_map(|shape| Defect::Shape(shape.into())),
        (33..200usize).prop_map(Defect::ManyDimensions),
        at().prop_map(Defect::MissingKey),
        (at(), at()).prop_map(|(key, at)| Defect::KeyTwice(key, at)),
        (keys.prop_filter("a key", is_other_key), values, at())
            .prop_map(|(key, value, at)| Defect::ExtraKey(key, value, at)),
        tail.prop_map(Defect::Tail),
        (1..=4096i64, any::<bool>()).prop_map(|(bytes, more)| Defect::Data(if more { bytes } else { -bytes })),
        at().prop_map(Defect::Cut),
        (at(), byte).prop_map(|(at, byte)| Defect::Byte(at, byte)),
        any::<u8>().prop_filter("right", |&byte| byte != b'\n').prop_map(Defect::LastByte),
    ]
}

/// The result of reading the array with this defect, and words that its line must contain.
fn read(array: &Array, defect: Defect) -> (Result<npy::Checked, olmo_pack::error::Problem>, &'static str) {
    let mut entries = array.entries();
    let mut data_bytes = array.data_bytes();
    let mut tail = String::new();
    let mut words = match defect.clone() {
        Defect::FortranOrder => {
            entries[1].1 = "True".into();
            "Fortran order, expected C order"
        }
        Defect::Descr(descr) => {
            entries[0].1 = descr;
            "expected <f4, <f2, or bfloat16 as <V2"
        }
        Defect::Order(order) => {
            entries[1].1 = order.into();
            "expected a header as np.save writes it"
        }
        Defect::Size(at, size) => {
            let mut sizes: Vec<String> = array.shape.iter().map(u64::to_string).collect();
            let is_too_large = size.bytes().all(|byte| byte.is_ascii_digit());
            let is_nested = size.starts_with('(');
            *at.get_mut(&mut sizes) = size;
            entries[2].1 = format!("({},)", sizes.join(", "));
            match () {
                () if is_too_large => "shape is too large, expected sizes that a file can hold",
                () if is_nested => "brackets nested deeper",
                () => "expected a header as np.save writes it",
            }
        }
        Defect::LeadingZeros(at, zeros) => {
            let mut sizes: Vec<String> = array.shape.iter().map(u64::to_string).collect();
            at.get_mut(&mut sizes).insert_str(0, &"0".repeat(zeros));
            entries[2].1 = format!("({},)", sizes.join(", "));
            "a shape with something other than plain numbers"
        }
        Defect::Shape(shape) => {
            entries[2].1 = shape;
            // The number of elements that the shape seems to have.
            data_bytes = 3 * array.descr.2;
            ""
        }
        Defect::ManyDimensions(rank) => {
            // The others are 1, so that the length is right.
            let mut shape = array.shape.clone();
            shape.resize(rank, 1);
            entries[2].1 = tuple(&shape);
            "more than 32 dimensions"
        }
        Defect::MissingKey(key) => {
            entries.remove(key.index(3));
            "header has no key '"
        }
        Defect::KeyTwice(key, at) => {
            let again = key.get(&entries).clone();
            entries.insert(at.index(4), again);
            "header has duplicate key '"
        }
        Defect::ExtraKey(key, value, at) => {
            entries.insert(at.index(4), (key, value.into()));
            "header has key '"
        }
        Defect::Tail(text) => {
            tail = text;
            "text after the dictionary"
        }
        Defect::Data(change) => {
            // Both lengths are positive: what is cut further is another kind.
            data_bytes = data_bytes.saturating_add_signed(change);
            "bytes of data, has "
        }
        _ => "",
    };
    let mut preamble = array.preamble(&entries, &tail);
    let (prefix, length) = (array.prefix_bytes(), preamble.len());
    match defect {
        Defect::Magic(at, bits) => {
            preamble[at.index(6)] ^= bits;
            words = "expected an .npy file";
        }
        Defect::Version(version) => {
            preamble[6..8].copy_from_slice(&version);
            words = "is not supported, expected 1.0, 2.0 or 3.0";
        }
        Defect::OtherPrefix => preamble[6] = if array.version == 1 { 2 } else { 1 },
        Defect::HeaderBytes(bytes) => {
            let other = &bytes.to_le_bytes()[..prefix - 8];
            // The right one is made wrong by its lowest bit.
            let is_right = preamble[8..prefix] == *other;
            preamble[8..prefix].copy_from_slice(other);
            preamble[8] ^= u8::from(is_right);
            words = "header";
        }
        Defect::Cut(at) => {
            preamble.truncate(at.index(length));
            data_bytes = 0;
        }
        Defect::Byte(at, byte) => {
            preamble[prefix + at.index(length - prefix - 1)] = byte;
            words = " in the header, expected printable ASCII";
        }
        Defect::LastByte(byte) => {
            preamble[length - 1] = byte;
            words = "header does not end with a newline";
        }
        _ => {}
    }
    if preamble.len() < length {
        return (npy::check(Path::new(PATH), &preamble, preamble.len() as u64), words);
    }
    (array.read(preamble, data_bytes), words)
}

#[test]
fn refuses_one_defect_of_a_header() {
    // At least two dimensions, so that the order matters.
    check((Array::any(sizes(2..=4)), defect()), |(array, defect)| {
        let (read, words) = read(&array, defect);
        assert_refused(read, PATH, words)
    });
}
