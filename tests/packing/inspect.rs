//! `olmo-pack inspect`: one screen about a file, every tensor on demand, and all of it as JSON.

use crate::PACK;
use olmo_tests::{Finished, Stored, TempDir, finish, repository, run, skipped, small_olmo3, write_weights};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn inspect(model: &Path, flags: &[&str]) -> Finished {
    let flags = flags.iter().map(|flag| flag.as_ref());
    run(PACK, ["inspect".as_ref(), model.as_os_str()].into_iter().chain(flags))
}

/// The demo model: three layers, a tokenizer.
fn demo(folder: &TempDir) -> PathBuf {
    let model = folder.join("demo.olmo");
    run(PACK, [repository().join("demo/weights"), model.clone()]).ok();
    model
}

#[test]
fn table_has_a_line_per_role() {
    let folder = TempDir::new("inspect-table");
    let shown = inspect(&demo(&folder), &[]);
    let lines: Vec<&str> = shown.ok().lines().collect();
    assert!(lines[0].ends_with("demo.olmo"), "{}", lines[0]);
    assert_eq!(lines[1], "olmo2, 509.38 thousand parameters in f32: 3 layers of width 128, 2048 positions; 2.06 MB");
    let has = |words: &str| {
        let same = |line: &&&str| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(words);
        assert_eq!(lines.iter().filter(same).count(), 1, "{words}\n{}", shown.stdout);
    };
    for heading in ["configuration", "text", "tensors count shape type bits size", "file offset size", "provenance"] {
        has(heading);
    }
    has("hidden_size 128");
    has("layer_types 3 x full");
    has("vocabulary 256 tokens");
    has("tokenizer byte pairs, words as in GPT-2, 0 merges, 0 added tokens");
    has("chat none");
    has("model.embed_tokens.weight 1 256 x 128 f32 32.00 131.07 kB");
    has("model.layers.*.self_attn.q_proj.weight 3 128 x 128 f32 32.00 196.61 kB");
    has("model.norm.weight 1 128 f32 32.00 512 bytes");
    has("header 0 4.10 kB");
    has("VOCABULARY the bytes of every token");
    has("36 tensors; --tensors lists each");
    has("writer olmo-pack ");
    has("values of config.json model_type, hidden_size,");
    assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains("layers.0."), "{}", shown.stdout);
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{}", shown.stdout);
}

#[test]
fn lists_every_tensor_on_request() {
    let folder = TempDir::new("inspect-tensors");
    let model = demo(&folder);
    let shown = inspect(&model, &["--tensors"]);
    let named = shown.ok().lines().filter(|line| line.contains(".weight ")).count();
    assert_eq!(named, 36, "{}", shown.stdout);
    let json: Value = serde_json::from_str(inspect(&model, &["--json"]).ok()).expect("JSON");
    let tensor = &json["tensors"][5];
    for key in ["name", "offset", "bytes", "digest"] {
        let value = tensor[key].to_string();
        assert!(shown.stdout.contains(value.trim_matches('"')), "{key} {value}");
    }
}

#[test]
fn reports_rounded_and_bf12_tensors() {
    let folder = TempDir::new("inspect-coded");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_olmo3(), Stored::F32, 1);
    run(PACK, [weights.to_str().unwrap(), model.to_str().unwrap(), "--dtype", "bf16"]).ok();
    let shown = inspect(&model, &[]);
    let line = shown.ok().lines().find(|line| line.contains(".mlp.up_proj.")).expect("a line").to_string();
    assert!(line.contains(" bf12 ") && line.ends_with("  rounded from f32"), "{line}");
    assert!(shown.stdout.contains("3 x sliding, 1 x full: SSSF"), "{}", shown.stdout);
    assert!(shown.stdout.contains("rope_type yarn, factor 8.0, "), "{}", shown.stdout);
    assert!(shown.stdout.contains("vocabulary               none: ids only"), "{}", shown.stdout);
}

#[test]
fn json_has_every_field() {
    let folder = TempDir::new("inspect-json");
    let shown = inspect(&demo(&folder), &["--json"]);
    let json: Value = serde_json::from_str(shown.ok()).expect("JSON");
    for key in [
        "path",
        "format",
        "file_bytes",
        "data_offset",
        "content_digest",
        "matrices",
        "n_parameters",
        "n_tokens",
        "tokenizer",
        "chat",
        "config",
        "tensors",
        "sections",
        "provenance",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["tokenizer"]["pre_tokenizer"], "GPT-2");
    assert_eq!((&json["chat"], &json["n_tokens"]), (&Value::Null, &json!(256)));
    assert_eq!(json["sections"][0]["name"], "SOURCES");
}

#[test]
fn headings_are_bold_only_on_capable_terminals() {
    let folder = TempDir::new("inspect-bold");
    let model = demo(&folder);
    if Command::new("script").arg("--version").stdin(Stdio::null()).output().is_err() {
        skipped("bold headings were not tested: script (of util-linux), which gives a terminal, is not installed");
        return;
    }
    let in_terminal = |term: &str, no_color: Option<&str>| {
        let call = format!("{PACK} inspect {}", model.display());
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &call, "/dev/null"]).env("TERM", term).stdin(Stdio::null());
        for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        finish(&mut command).ok().to_string()
    };
    assert!(in_terminal("xterm", None).contains("\u{1b}[1mconfiguration\u{1b}[0m"), "{}", in_terminal("xterm", None));
    assert!(!in_terminal("xterm", Some("1")).contains('\u{1b}'));
    assert!(!in_terminal("dumb", None).contains('\u{1b}'));
}
