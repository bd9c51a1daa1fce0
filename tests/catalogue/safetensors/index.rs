//! Rows S11 and S12: malformed indexes, and indexes that do not match their shards.

use super::{Case, NORM};
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::safetensors::{file, shard_name};
use serde_json::{Value, json};
use std::fs;

/// The refusal of an index of two shards after it was changed.
fn index_refused(words: &[&str], change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let case = Case::new(2);
    case.with_index(change);
    case.refused(case.index(), words)
}

/// Row S11: malformed indexes; files outside the folder.
#[test]
fn s11_refuses_malformed_indexes() {
    let mut report = Report::new("S11");
    let texts: [(&str, &str); 12] = [
        ("", "EOF while parsing"),
        ("version https://git-lfs.github.com/spec/v1\n", "expected value"),
        ("[]", "has no weight_map"),
        ("[null, {\"a\": \"b.safetensors\"}]", "has no weight_map"),
        ("{}", "has no weight_map"),
        ("{\"weight_map\": {}}", "lists no tensors"),
        ("{\"weight_map\": []}", "a weight_map that is not an object"),
        ("{\"weight_map\": {\"a\": 1}}", "a: 1 instead of a file name"),
        ("{\"weight_map\": {\"a\": \"b.safetensors\", \"a\": \"c.safetensors\"}}", "duplicate key \"a\""),
        ("{\"weight_map\": {}, \"weight_map\": {}}", "duplicate key \"weight_map\""),
        ("{\"weight_map\": {\"a\": \"b.safetensors\"}} x", "trailing characters"),
        (&format!("{{\"weight_map\": {{\"{}\": \"b.safetensors\"}}}}", "n".repeat(256)), "a name of 256 bytes"),
    ];
    for (text, says) in texts {
        let case = Case::new(2);
        fs::write(case.index(), text).expect("written");
        let words = [says, ", expected a weight_map from tensors to files; download it again"];
        report.add(&text[..text.len().min(60)], case.refused(case.index(), &words));
    }
    for many in ["{\"\":1},", "[0],", "0,"] {
        let case = Case::new(2);
        fs::write(case.index(), format!("[{}", many.repeat((2 << 20) / many.len() - 1))).expect("written");
        report.add(format_args!("many of {many}"), case.refused(case.index(), &["more than 32768 values"]));
    }
    let case = Case::new(2);
    fs::write(case.index(), " ".repeat((2 << 20) + 1)).expect("written");
    report.add("longer than an index", case.refused(case.index(), &["longer than 2 MiB, expected an index"]));
    // Files elsewhere, and files that do not hold weights.
    let long = format!("{}.safetensors", "n".repeat(255));
    for name in [
        "../weights/model-00001-of-00002.safetensors",
        "/etc/passwd",
        "/etc/passwd.safetensors",
        "./model-00001-of-00002.safetensors",
        "sub/model.safetensors",
        "a\\b.safetensors",
        "..",
        "",
        ".safetensors",
        "model.bin",
        "a\u{0}.safetensors",
        "a\n\u{1b}[31m.npy",
        &long,
    ] {
        let words = [NORM, "the file \"", "expected the name of a .safetensors file in the same folder"];
        report.add(name.escape_debug(), index_refused(&words, |index| index["weight_map"][NORM] = name.into()));
    }
}

/// Row S12: a missing shard; tensors in two shards, in another one, or in none; wrong metadata, which is ignored.
#[test]
fn s12_refuses_indexes_that_contradict_shards() {
    let mut report = Report::new("S12");
    let again = "; download the index and all shards again, of one revision";
    // Missing shards.
    let case = Case::new(2);
    fs::remove_file(case.shard(1)).expect("removed");
    report.add("a shard", case.refused(case.shard(1), &["missing, expected a shard of the model; download it"]));
    fs::remove_file(case.shard(2)).expect("removed");
    let line = |number| vec![format!("{}: missing", case.shard(number).display())];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: vec![line(1), line(2)], more: 0 };
    report.add("both shards", refusal.check(case.folder.path(), || case.pack(&[])));
    // Tensors that are not where the index has them.
    let case = Case::new(2);
    let n_first = case.tensors.len().div_ceil(2);
    let last = case.tensors[n_first..].last().expect("a tensor").clone();
    fs::write(case.shard(2), file(&case.tensors[n_first..case.tensors.len() - 1])).expect("written");
    let says = format!("{}: missing, expected it in this file, as in the index{again}", last.name);
    report.add("a tensor", case.refused(case.shard(2), &[&says]));
    let mut first = case.tensors[..n_first].to_vec();
    first.push(last.clone());
    fs::write(case.shard(1), file(&first)).expect("written");
    fs::write(case.shard(2), file(&case.tensors[n_first..])).expect("written");
    let says = format!("{}: is here, but in the index it is in {}", last.name, shard_name(2, 2));
    report.add("a tensor in two shards", case.refused(case.shard(1), &[&says, again]));
    let case = Case::new(2);
    case.with_index(|index| drop(index["weight_map"].as_object_mut().expect("an object").remove(NORM)));
    let says = format!("{NORM}: is not in the index, expected only tensors of the index{again}");
    report.add("a tensor that the index lacks", case.refused(case.shard(2), &[&says]));
    let case = Case::new(2);
    case.with_index(|index| index["weight_map"]["model.more.weight"] = shard_name(1, 2).into());
    let says = format!("model.more.weight: missing, expected it in this file, as in the index{again}");
    report.add("a tensor that is in the index alone", case.refused(case.shard(1), &[&says]));
    let case = Case::new(2);
    case.with_index(|index| index["weight_map"][NORM] = shard_name(1, 2).into());
    let lines = vec![
        vec![format!("{}: {NORM}: is here, but in the index it is in {}", case.shard(2).display(), shard_name(1, 2))],
        vec![format!("{}: {NORM}: missing, expected it in this file", case.shard(1).display())],
    ];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: 0 };
    report.add("a tensor elsewhere", refusal.check(case.folder.path(), || case.pack(&[])));
    // No loader reads the metadata: only the headers of the shards count.
    let metadata = [
        json!({"total_size": 1, "total_parameters": 1}),
        json!({"total_size": 1.5e300}),
        json!({"total_size": "96 bytes", "other": [1]}),
        json!({}),
        json!([96]),
        json!(null),
    ];
    for metadata in metadata {
        let case = Case::new(2);
        case.with_index(|index| index["metadata"] = metadata.clone());
        report.add(&metadata, case.packed(&[]));
    }
    // Many tensors that are nowhere.
    let case = Case::new(2);
    case.with_index(|index| {
        for i in 0..30_000 {
            index["weight_map"][format!("{i:05}")] = shard_name(1, 2).into();
        }
    });
    let line = |i| vec![format!("{}: {i:05}: missing", case.shard(1).display())];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: (0..10).map(line).collect(), more: 29_990 };
    report.add("30,000 tensors", refusal.check(case.folder.path(), || case.pack(&[])));
}
