//! `olmo-pack diff`: what two model files have in common.

use crate::PACK;
use olmo_tests::{Finished, Stored, TempDir, map_numbers, run, small_config, write_weights};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn pack(folder: &TempDir, name: &str, weights: &Path, flags: &[&str]) -> PathBuf {
    let model = folder.join(name);
    let flags = flags.iter().map(|flag| flag.as_ref());
    run(PACK, [weights.as_os_str(), model.as_os_str()].into_iter().chain(flags)).ok();
    model
}

fn diff(a: &Path, b: &Path) -> Finished {
    run(PACK, ["diff".as_ref(), a.as_os_str(), b.as_os_str()])
}

fn weights(folder: &TempDir, name: &str) -> PathBuf {
    let weights = folder.join(name);
    write_weights(&weights, &small_config(), Stored::F32OfBf16, 1);
    weights
}

#[test]
fn element_types_and_encodings_do_not_differ() {
    let folder = TempDir::new("diff-same");
    let w = weights(&folder, "w");
    let f32 = pack(&folder, "f32.olmo", &w, &["--dtype", "f32"]);
    let plain = pack(&folder, "plain.olmo", &w, &["--dtype", "bf16", "--encoding", "plain"]);
    let coded = pack(&folder, "coded.olmo", &w, &["--dtype", "bf16"]);
    assert_eq!(diff(&f32, &f32).ok().lines().count(), 2);
    for (a, b) in [(&f32, &plain), (&plain, &coded), (&coded, &f32)] {
        let finished = diff(a, b);
        assert!(finished.ok().contains(": the same model\n"), "{}", finished.stdout);
        assert!(finished.stdout.contains("which does not count"), "{}", finished.stdout);
    }
    let shown: Value =
        serde_json::from_str(run(PACK, ["diff".as_ref(), f32.as_os_str(), coded.as_os_str(), "--json".as_ref()]).ok())
            .expect("JSON");
    assert_eq!((&shown["same"], &shown["tensors"]), (&json!(true), &json!([])));
}

#[test]
fn reports_and_measures_other_weights() {
    let folder = TempDir::new("diff-numbers");
    let (a, b) = (weights(&folder, "a"), weights(&folder, "b"));
    let tensor = "model.layers.1.mlp.up_proj.weight";
    let was = std::cell::Cell::new(0.0f32);
    map_numbers(&b, tensor, |i, x| {
        if i == 17 {
            was.set(x);
            return x + 0.5;
        }
        x
    });
    let files = [pack(&folder, "a.olmo", &a, &["--dtype", "f32"]), pack(&folder, "b.olmo", &b, &["--dtype", "f32"])];
    let finished = diff(&files[0], &files[1]);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(1), ""));
    assert!(finished.stdout.contains(": different models\n"), "{}", finished.stdout);
    let line = finished.stdout.lines().find(|line| line.contains(tensor)).expect("named");
    let largest = f64::from(was.get() + 0.5) - f64::from(was.get());
    assert!(line.contains(" 1 of ") && line.ends_with(&format!("by at most {largest:e}")), "{line}");
    let shown = run(PACK, ["diff".as_ref(), files[0].as_os_str(), files[1].as_os_str(), "--json".as_ref()]);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown["tensors"][0]["largest_difference"], json!(largest));
    assert_eq!((shown["tensors"].as_array().map(Vec::len), &shown["same"]), (Some(1), &json!(false)));
}

#[test]
fn configuration_and_vocabulary_differ_but_not_provenance() {
    let folder = TempDir::new("diff-config");
    let w = weights(&folder, "w");
    let first = pack(&folder, "a.olmo", &w, &[]);
    let json = fs::read_to_string(w.join("config.json")).expect("read");
    let mut config: Value = serde_json::from_str(&json).expect("JSON");
    config["remark"] = json!("another file, the same model");
    fs::write(w.join("config.json"), config.to_string()).expect("written");
    let finished = diff(&first, &pack(&folder, "b.olmo", &w, &[]));
    assert!(
        finished.ok().contains("also different           CONFIG_JSON, which does not count"),
        "{}",
        finished.stdout
    );
    config["rope_theta"] = json!(12345.0);
    fs::write(w.join("config.json"), config.to_string()).expect("written");
    let finished = diff(&first, &pack(&folder, "c.olmo", &w, &[]));
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("rope_theta") && finished.stdout.contains(" / 12345.0"), "{}", finished.stdout);
    fs::write(w.join("config.json"), json).expect("written");
    fs::write(w.join("vocab.txt"), "0\ta\n").expect("written");
    let finished = diff(&first, &pack(&folder, "d.olmo", &w, &[]));
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("vocabulary               differs"), "{}", finished.stdout);
}

#[test]
fn damage_is_an_error() {
    let folder = TempDir::new("diff-damage");
    let w = weights(&folder, "w");
    let (good, bad) = (pack(&folder, "a.olmo", &w, &[]), folder.join("b.olmo"));
    let mut bytes = fs::read(&good).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&bad, &bytes).expect("written");
    assert!(diff(&good, &bad).refused(1).contains("b.olmo: model."), "{}", diff(&good, &bad).stderr);
    assert!(diff(&good, &folder.join("absent")).refused(1).contains("absent"));
    assert!(run(PACK, ["diff".as_ref(), good.as_os_str()]).refused(2).contains("b"));
}
