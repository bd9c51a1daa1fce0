//! Headers and indexes of safetensors checkpoints, read from memory: a value inside every limit is taken unchanged, one
//! beyond it is refused.

use olmo_pack::folder::element::SourceType;
use olmo_pack::folder::safetensors::header::{Entry, check};
use olmo_pack::folder::safetensors::index::ShardIndex;
use olmo_tests::safetensors::raw;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Longest header and index.
const MAX_BYTES: usize = 2 << 20;
/// Longest name.
const MAX_NAME_BYTES: usize = 255;

/// Reads a header of a file with `data_bytes` bytes of data.
fn read_text(header: &str, data_bytes: u64) -> Result<BTreeMap<String, Entry>, String> {
    let start = raw(header.as_bytes(), &[]);
    check(Path::new("m.safetensors"), &start, start.len() as u64 + data_bytes).map_err(|problem| problem.to_string())
}

fn read(header: &Value, data_bytes: u64) -> Result<BTreeMap<String, Entry>, String> {
    read_text(&header.to_string(), data_bytes)
}

/// A vector of f32 numbers at this range.
fn vector(begin: u64, end: u64) -> Value {
    json!({"dtype": "F32", "shape": [end.saturating_sub(begin) / 4], "data_offsets": [begin, end]})
}

/// Asserts that something is refused, and with these words.
#[track_caller]
fn assert_refused<T>(result: Result<T, String>, words: &str) {
    match result {
        Ok(_) => panic!("it is not refused: {words}"),
        Err(line) => assert!(line.contains(words), "{line}: {words}"),
    }
}

#[test]
fn reads_types_shapes_and_offsets() {
    let header = json!({
        "z": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "a": {"dtype": "F16", "shape": [5], "data_offsets": [30, 40]},
        "m": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [24, 30]},
        "i": {"dtype": "I64", "shape": [1], "data_offsets": [40, 48]},
        "none": {"dtype": "F32", "shape": [4, 0], "data_offsets": [48, 48]},
        "one": {"dtype": "F32", "shape": [], "data_offsets": [48, 52]},
    });
    let data = 8 + header.to_string().len() as u64;
    let entry =
        |element, shape: &[u64], begin, end| Entry { element, shape: shape.to_vec(), range: data + begin..data + end };
    let expected = BTreeMap::from(
        [
            ("z", entry(Ok(SourceType::F32), &[2, 3], 0, 24)),
            ("a", entry(Ok(SourceType::F16), &[5], 30, 40)),
            ("m", entry(Ok(SourceType::Bf16), &[3, 1], 24, 30)),
            ("i", entry(Err("I64".into()), &[1], 40, 48)),
            ("none", entry(Ok(SourceType::F32), &[4, 0], 48, 48)),
            ("one", entry(Ok(SourceType::F32), &[], 48, 52)),
        ]
        .map(|(name, entry)| (name.to_string(), entry)),
    );
    assert_eq!(read(&header, 52), Ok(expected));
    assert_refused(read(&header, 51), "needs 52 bytes of data, has 51 (truncated?)");
    assert_refused(read(&header, 53), "has 1 byte too many");
    assert_refused(read(&header, 54), "has 2 bytes too many");
}

#[test]
fn ranges_must_be_contiguous() {
    let two =
        |first: (u64, u64), second: (u64, u64)| json!({"a": vector(first.0, first.1), "b": vector(second.0, second.1)});
    for (first, second) in [((0, 8), (8, 12)), ((4, 12), (0, 4)), ((0, 0), (0, 12)), ((12, 12), (0, 12))] {
        assert!(read(&two(first, second), 12).is_ok(), "{first:?} {second:?}");
    }
    for (first, second) in [((0, 8), (4, 12)), ((4, 8), (8, 12)), ((0, 4), (8, 12)), ((0, 12), (0, 12))] {
        assert_refused(read(&two(first, second), 12), "the data are contiguous");
    }
    assert_refused(read(&two((0, 12), (12, 8)), 12), "expected an end after 12");
    assert_refused(read(&two((0, 12), (12, 8)), 8), "expected an end after 12");
    assert_refused(read(&json!({"a": vector(4, 0)}), 0), "expected an end after 4");
}

#[test]
fn shapes_must_match_their_ranges() {
    let shaped = |shape: Value, bytes: u64| {
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [4, 4 + bytes]});
        read(&json!({"a": vector(0, 4), "b": entry}), 4 + bytes)
    };
    assert!(shaped(json!([3, 5]), 30).is_ok());
    for bytes in [0, 28, 29, 31, 32, 60] {
        let words = format!("needs 30 bytes of data, its data_offsets have {bytes}");
        assert_refused(shaped(json!([3, 5]), bytes), &words);
    }
    assert_refused(shaped(json!([u64::MAX / 2, 4]), 30), "needs more than 2^64 bytes");
    assert!(shaped(json!(vec![1; 32]), 2).is_ok());
    assert_refused(shaped(json!(vec![1; 33]), 2), "shape of 33 dimensions, expected at most 32");
}

#[test]
fn headers_have_a_least_and_a_largest_length() {
    let padded = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2));
    assert!(read_text("{}", 0).expect("no tensors").is_empty());
    assert!(read_text(&padded(MAX_BYTES), 0).is_ok());
    assert_refused(read_text(&padded(MAX_BYTES + 1), 0), "header of 2097153 bytes, expected 2 to 2097152");
    let says = |length: u64, file_bytes: u64| {
        let start = [&length.to_le_bytes()[..], b"{}        "].concat();
        let result = check(Path::new("m.safetensors"), &start[..(file_bytes as usize).min(start.len())], file_bytes);
        result.map_err(|problem| problem.to_string())
    };
    for length in [0, 1, u64::MAX] {
        assert_refused(says(length, 18), &format!("header of {length} bytes, expected 2 to"));
    }
    assert!(says(10, 18).is_ok());
    assert_refused(says(11, 18), "header of 11 bytes in a file of 18 bytes");
    assert_refused(says(2, 9), "header of 2 bytes in a file of 9 bytes");
    assert_refused(says(10, 8), "expected a safetensors file");
}

#[test]
fn names_have_a_largest_length_and_are_unique() {
    let named = |name: &str| read(&json!({ name: vector(0, 4) }), 4);
    let longest = "n".repeat(MAX_NAME_BYTES);
    assert!(named(&longest).expect("a name").contains_key(&longest));
    assert_refused(named(&format!("{longest}n")), "a name of 256 bytes");
    let entry = vector(0, 4);
    assert_refused(read_text(&format!("{{\"a\":{entry},\"a\":{entry}}}"), 4), "bad header: ");
    for metadata in ["{}", "null", r#"{"format":"pt","other":"x"}"#] {
        let found = read_text(&format!("{{\"__metadata__\":{metadata},\"a\":{entry}}}"), 4).expect(metadata);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["a"]);
    }
    for metadata in ["1", "[]", r#"{"a":1}"#, r#"{"a":"x","a":"x"}"#, r#"{},"__metadata__":{}"#] {
        assert_refused(read_text(&format!("{{\"__metadata__\":{metadata},\"a\":{entry}}}"), 4), "bad header: ");
    }
}

fn index(index: &Value) -> Result<ShardIndex, String> {
    let parsed = ShardIndex::parse(Path::new("index.json"), index.to_string().as_bytes());
    parsed.map_err(|problem| problem.to_string())
}

#[test]
fn index_names_only_files_of_its_folder() {
    let of_file = |file: &str| index(&json!({"weight_map": {"a": "a.safetensors", "b": file}}));
    let longest = format!("{}.safetensors", "f".repeat(MAX_NAME_BYTES - ".safetensors".len()));
    for file in ["b.safetensors", "..safetensors", " .safetensors", "a.safetensors", &longest] {
        assert_eq!(of_file(file).expect(file).files["b"], file);
    }
    for file in [
        "",
        ".safetensors",
        "b.safetensor",
        "b.bin",
        "b.SAFETENSORS",
        "b.safetensors ",
        "b.safetensors/",
        "/b.safetensors",
        "../b.safetensors",
        "x/b.safetensors",
        "x\\b.safetensors",
        "x\0.safetensors",
        &format!("f{longest}"),
    ] {
        assert_refused(of_file(file), "expected the name of a .safetensors file in the same folder");
    }
}

#[test]
fn index_entries_must_have_valid_names() {
    let longest = "n".repeat(MAX_NAME_BYTES);
    let of_names = |names: &[&str]| {
        let files: BTreeMap<&str, &str> = names.iter().map(|name| (*name, "a.safetensors")).collect();
        index(&json!({ "weight_map": files }))
    };
    assert_eq!(of_names(&[&longest, "b"]).expect("names").files.len(), 2);
    assert_refused(of_names(&[&format!("{longest}n"), "b"]), "a name of 256 bytes");
    assert_refused(of_names(&[]), "lists no tensors");
}

#[test]
fn reads_index_with_any_metadata() {
    for metadata in [json!({"total_size": -1}), json!({"total_size": "x"}), json!(3), json!([]), Value::Null] {
        let whole = json!({"metadata": metadata, "weight_map": {"a": "a.safetensors"}});
        let files = index(&whole).expect("good").files;
        assert_eq!(files.into_iter().collect::<Vec<_>>(), [("a".to_string(), "a.safetensors".to_string())]);
    }
}
