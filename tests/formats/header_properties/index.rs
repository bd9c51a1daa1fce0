//! Indexes of checkpoints in several files.

use super::assert_refused;
use crate::property::check;
use olmo_pack::error::escaped;
use olmo_pack::folder::safetensors::index::ShardIndex;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

const PATH: &str = "weights/model.safetensors.index.json";

/// Which files hold which tensors.
fn files() -> impl Strategy<Value = BTreeMap<String, String>> {
    let name = "[^/\\\\\0]{1,40}".prop_filter("too long", |name: &String| name.len() <= 200);
    let file = prop_oneof!["model-0000[1-3]-of-00003", name].prop_map(|stem| stem + ".safetensors");
    let tensor = any::<String>().prop_filter("too long", |name| name.len() <= 255);
    prop::collection::btree_map(tensor, file, 1..8)
}

#[test]
fn reads_every_index() {
    let metadata = prop::option::of(prop_oneof![
        any::<u64>().prop_map(|total| json!({"total_size": total, "total_parameters": 7})),
        any::<f64>().prop_map(|total| json!({"total_size": total})),
        any::<String>().prop_map(|text| json!(text)),
    ]);
    check((files(), metadata), |(files, metadata)| {
        let mut index = json!({"weight_map": files});
        if let Some(metadata) = metadata {
            index["metadata"] = metadata;
        }
        let read = ShardIndex::parse(Path::new(PATH), index.to_string().as_bytes());
        prop_assert_eq!(read.map(|read| read.files), Ok(files));
        Ok(())
    });
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
enum Defect {
    /// Another name of a file.
    File(String),
    /// Another value instead of the name of a file or of the map.
    NoFile(&'static str),
    NoMap(&'static str),
    LongName(usize),
    Twice,
    MapTwice,
    Cut(Index),
    Tail(&'static str),
}

fn defect() -> impl Strategy<Value = Defect> {
    let part = || "[a-z.]{0,8}";
    let slash = (part(), select(vec!["/", "\\", "\0"]), part());
    let file = prop_oneof![
        slash.prop_map(|(folder, slash, name)| format!("{folder}{slash}{name}.safetensors")),
        "[a-z0-9-]{0,20}",
        "[a-z]{1,9}\\.(bin|pt|safetensor|SAFETENSORS|safetensors |safetensors/)",
        Just(".safetensors".to_string()),
        (244..1000usize).prop_map(|n| "f".repeat(n) + ".safetensors"),
    ];
    prop_oneof![
        file.prop_map(Defect::File),
        select(vec!["1", "null", "[]", "[\"a.safetensors\"]", "{}", "true"]).prop_map(Defect::NoFile),
        select(vec!["1", "null", "[]", "\"a.safetensors\"", "true", "{}"]).prop_map(Defect::NoMap),
        (256..5000usize).prop_map(Defect::LongName),
        Just(Defect::Twice),
        Just(Defect::MapTwice),
        any::<Index>().prop_map(Defect::Cut),
        select(vec!["{}", ",", "x", "\0", "}"]).prop_map(Defect::Tail),
    ]
}

#[test]
fn refuses_one_defect_of_an_index() {
    check((files(), any::<Index>(), defect()), |(files, at, defect)| {
        let quoted = |text: &str| json!(text).to_string();
        let mut entries: Vec<(String, String)> =
            files.iter().map(|(tensor, file)| (tensor.clone(), quoted(file))).collect();
        let at = at.index(entries.len());
        let name = escaped(&entries[at].0);
        let (mut map, mut metadata, mut words) = (None, "{\"total_size\":7}".to_string(), String::new());
        match &defect {
            Defect::File(file) => {
                entries[at].1 = quoted(file);
                words = format!("{PATH}: {name}: the file \"");
            }
            Defect::NoFile(value) => entries[at].1 = value.to_string(),
            Defect::NoMap(value) => map = Some(value.to_string()),
            Defect::LongName(bytes) => {
                entries[at].0 = "n".repeat(*bytes);
                words = format!("a name of {bytes} bytes");
            }
            Defect::Twice => {
                let again = entries[at].clone();
                entries.push(again);
                words = format!("key \"{}", name.chars().take(20).collect::<String>());
            }
            Defect::MapTwice => {
                metadata += ",\"weight_map\":{}";
                words = "duplicate key \"weight_map\"".into();
            }
            Defect::Cut(_) | Defect::Tail(_) => {}
        }
        let entries: Vec<String> = entries.iter().map(|(tensor, file)| format!("{}:{file}", quoted(tensor))).collect();
        let map = map.unwrap_or_else(|| format!("{{{}}}", entries.join(",")));
        let mut text = format!("{{\"metadata\":{metadata},\"weight_map\":{map}}}").into_bytes();
        match &defect {
            Defect::Cut(at) => text.truncate(at.index(text.len())),
            Defect::Tail(tail) => text.extend(tail.as_bytes()),
            _ => {}
        }
        assert_refused(ShardIndex::parse(Path::new(PATH), &text), PATH, &words)
    });
}
