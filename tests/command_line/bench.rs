//! `olmo-bench` as a user runs it. What it measures is not looked at: tests share their machine.

use crate::PACK;
use olmo_infer::internals::kernels::Isa;
use olmo_tests::{Stored, TempDir, run, small_config, write_weights};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const BENCH: &str = env!("CARGO_BIN_EXE_tested-olmo-bench");

/// A bf16 model of some positions.
fn model(positions: usize) -> (TempDir, PathBuf) {
    let folder = TempDir::new("bench-cli");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let mut config = small_config();
    config.max_position_embeddings = positions;
    write_weights(&weights, &config, Stored::Bf16, 7);
    run(PACK, [&weights, &model]).ok();
    (folder, model)
}

fn bench(model: &Path, words: &str) -> olmo_tests::Finished {
    run(BENCH, [model.as_os_str()].into_iter().chain(words.split(' ').map(std::ffi::OsStr::new)))
}

/// The instruction sets that a sweep has.
fn paths() -> Vec<&'static str> {
    let names = Isa::available().iter().map(|isa| isa.name());
    names.filter(|name| !["portable", "scalar"].contains(name)).collect()
}

/// A field of each row, as text.
fn column(rows: &Value, field: &str) -> Vec<String> {
    rows.as_array().expect("rows").iter().map(|row| row[field].to_string()).collect()
}

#[test]
fn a_sweep_has_every_path_and_way_to_read() {
    if paths().is_empty() {
        return olmo_tests::skipped("a sweep: no kernels for this processor");
    }
    let (_folder, model) = model(1024);
    let finished = bench(&model, "--sweep --quick --rounds 1 --json");
    let json: Value = serde_json::from_str(finished.ok()).expect("JSON");
    let decode = &json["decode"];
    let rows: BTreeSet<String> = ["isa", "panels", "ahead_bytes"]
        .map(|field| column(decode, field))
        .into_iter()
        .reduce(|all, next| all.iter().zip(next).map(|(a, b)| format!("{a} {b}")).collect())
        .expect("columns")
        .into_iter()
        .collect();
    let mut expected = BTreeSet::new();
    for isa in paths() {
        for panels in [1, 2, 4, 8] {
            for ahead in [0, 1024, 2048, 4096, 8192, 16384] {
                expected.insert(format!("\"{isa}\" {panels} {ahead}"));
            }
        }
    }
    assert!(rows.is_superset(&expected), "{rows:?}");
    assert_eq!(rows.len(), decode.as_array().expect("rows").len(), "twice");
    for isa in paths() {
        let of_path = || decode.as_array().expect("rows").iter().filter(|row| row["isa"] == isa);
        for mark in ["best", "own"] {
            assert_eq!(of_path().filter(|row| row[mark] == true).count(), 1, "{isa} {mark}");
        }
        let own = of_path().find(|row| row["own"] == true).expect("asserted");
        let streaming = Isa::named(isa).expect("there").streaming();
        assert_eq!(own["panels"], streaming.panels);
        assert_eq!(own["ahead_bytes"], streaming.ahead_bytes);
        assert!(of_path().all(|row| row["share"].as_f64().is_some_and(|share| share > 0.0)));
    }
    let each = |n: usize| paths().into_iter().flat_map(move |isa| vec![format!("\"{isa}\""); n]).collect::<Vec<_>>();
    assert_eq!(column(&json["passes"], "isa"), each(5));
    assert_eq!(column(&json["passes"], "tokens"), ["1", "2", "4", "8", "16"].repeat(paths().len()));
    assert_eq!(column(&json["prefill"], "isa"), each(1));
    assert!(column(&json["prefill"], "gflop_s").iter().all(|number| number != "null"));
    assert!(json["suggested"]["panels"].is_u64() && json["suggested"]["ahead_bytes"].is_u64());
    assert_eq!(json["rounds"], 1);
}

#[test]
fn a_sweep_is_a_table_of_marked_ways() {
    let Some(isa) = paths().pop() else { return olmo_tests::skipped("a sweep: no kernels for this processor") };
    let (_folder, model) = model(64);
    let finished = bench(&model, &format!("--sweep --quick --rounds 1 --threads 1 --isa {isa}"));
    let table = finished.ok();
    assert!(table.contains("\n1 threads, every instruction set\n"), "{table}");
    let lines = |beginning: &str| table.lines().filter(|line| line.starts_with(beginning)).count();
    // Shares, best and own, passes, prefill.
    assert_eq!(lines(isa), 5, "{table}");
    assert_eq!((lines("   1 panel "), lines("   8 panels")), (1, 1), "{table}");
    assert!(table.lines().any(|line| line.contains("left out: the model has 64 positions")), "{table}");
    let shares: Vec<&str> = table.lines().filter(|line| line.starts_with("   ")).collect();
    let marks = |mark| shares.iter().map(|line| line.matches(mark).count()).sum::<usize>();
    assert_eq!((marks('*'), marks('=')), (1, 1), "{table}");
    assert!(table.contains("\nthe table of `Streaming` for ") && table.contains("\nStreaming { panels: "), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
}

#[test]
fn a_sweep_refuses_what_it_decides_itself() {
    for (words, expected) in [
        ("--sweep --contexts 16", "--contexts does not go with --sweep"),
        ("--sweep --prefill none", "--prefill does not go with --sweep"),
        ("--sweep --matmul own", "--matmul does not go with --sweep"),
        ("--sweep --streaming 1:2048", "--streaming does not go with --sweep"),
        ("--sweep --kv f32", "--kv does not go with --sweep"),
        ("--kv q8", "--kv q8: expected f32 or bf16"),
        ("--sweep --isa scalar", "--sweep: scalar reads weights in one way only"),
        ("--sweep --isa portable", "--sweep: portable reads weights in one way only"),
        ("--streaming 1:2048 --matmul gemm", "--streaming does not go with gemm"),
        ("--streaming 2048", "expected panels, 1 to 8, and bytes, as 1:2048"),
        ("--streaming 0:2048", "expected panels, 1 to 8, and bytes, as 1:2048"),
        ("--streaming 9:2048", "expected panels, 1 to 8, and bytes, as 1:2048"),
        ("--streaming 1:-1", "expected panels, 1 to 8, and bytes, as 1:2048"),
        ("--streaming 1:2:3", "expected panels, 1 to 8, and bytes, as 1:2048"),
    ] {
        let finished = bench(Path::new("absent.olmo"), words);
        let line = finished.refused(2);
        assert!(line.contains(expected), "{words}: {line}");
    }
}

#[test]
fn a_report_prints_how_weights_were_read() {
    let isa = Isa::best();
    if !isa.has_products() {
        return olmo_tests::skipped("--streaming: no kernels for this processor");
    }
    let (_folder, model) = model(64);
    let words = "--quick --rounds 1 --contexts 16 --prefill 2 --json";
    let json = |words: &str| -> Value { serde_json::from_str(bench(&model, words).ok()).expect("JSON") };
    let own = &json(words)["host"]["streaming"];
    assert_eq!(own["panels"], isa.streaming().panels);
    assert_eq!(own["ahead_bytes"], isa.streaming().ahead_bytes);
    let forced = &json(&format!("{words} --streaming 4:512"))["host"]["streaming"];
    assert_eq!((&forced["panels"], &forced["ahead_bytes"]), (&Value::from(4), &Value::from(512)));
}

#[test]
fn a_report_counts_the_bytes_of_its_kv_cache() {
    let (_folder, model) = model(64);
    let json = |kv: &str| -> Value {
        let words = format!("--quick --rounds 1 --contexts 16 --prefill 2 --json --kv {kv}");
        serde_json::from_str(bench(&model, &words).ok()).expect("JSON")
    };
    let bytes = |json: &Value| json["decode"][0]["bytes_per_token"].as_f64().expect("a number");
    let (wide, narrow) = (json("f32"), json("bf16"));
    assert_eq!((&wide["host"]["kv"], &narrow["host"]["kv"]), (&Value::from("f32"), &Value::from("bf16")));
    // Two bytes less of each key and value of positions 0 to 16, for the first token, up to 23, for the eighth.
    let (config, visible) = (small_config(), (17 + 24) as f64 / 2.0);
    let saved = 2.0 * 2.0 * visible * (config.kv_width() * config.layer_types.len()) as f64;
    assert_eq!(bytes(&wide) - bytes(&narrow), saved);
}
