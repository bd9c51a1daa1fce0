//! `random-weights` makes folders that `olmo-pack` takes: true headers, true sizes, the same numbers every time.

use crate::{INFER, PACK};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::Dtype;
use olmo_tests::{TempDir, read_f32_npy, run};
use std::fs;

const TOOL: &str = env!("CARGO_BIN_EXE_random-weights");

#[test]
fn tiny_folder_packs_in_both_types() {
    let folder = TempDir::new("random");
    for (dtype, stored) in [("f32", Dtype::F32), ("bf16", Dtype::Bf16)] {
        let (weights, model) = (folder.join(dtype), folder.join(format!("{dtype}.olmo")));
        run(TOOL, [weights.as_os_str(), "--shape".as_ref(), "tiny".as_ref(), "--dtype".as_ref(), dtype.as_ref()]).ok();
        run(PACK, [&weights, &model]).ok();
        assert_eq!(ModelFile::open(&model).expect("a model").matrices(), Some(stored));
    }
}

/// Each token of the circle predicts the one 4973 rows further, or its twin in the upper half of the vocabulary, with the
/// draft of the model or without.
#[test]
fn tokens_of_a_predictable_model_are_in_a_circle() {
    let folder = TempDir::new("random-predictable");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let shape = ["--shape", "tiny", "--predictable", "0.8"];
    run(TOOL, [weights.to_str().expect("UTF-8")].into_iter().chain(shape)).ok();
    let paths = [weights.to_str().expect("UTF-8"), model.to_str().expect("UTF-8")];
    run(PACK, paths.into_iter().chain(["--draft", "int4"])).ok();
    fs::write(folder.join("t.bin"), 7u32.to_le_bytes()).expect("written");
    let tokens = folder.join("t.bin");
    for speculate in ["off", "draft"] {
        let words =
            [paths[1], tokens.to_str().expect("UTF-8"), "--json", "--max-tokens", "60", "--speculate", speculate];
        let lines = run(INFER, words);
        let last = lines.ok().lines().last().expect("an object").to_string();
        let last: serde_json::Value = serde_json::from_str(&last).expect("JSON");
        let ids: Vec<u64> = serde_json::from_value(last["generated"].clone()).expect("ids");
        // An EOS id may come earlier.
        assert!(ids.len() > 20, "{ids:?}");
        for (i, id) in (1..).zip(&ids) {
            assert_eq!(id % 251, (7 + 4973 * i) % 251, "{speculate}: {ids:?}");
        }
    }
    run(TOOL, [folder.join("o").to_str().expect("UTF-8"), "--shape", "olmo1-1b", "--predictable", "0.9"]).refused(1);
    run(TOOL, [folder.join("o").to_str().expect("UTF-8"), "--shape", "tiny", "--predictable", "0.5"]).refused(1);
}

#[test]
fn weights_are_plausible_and_reproducible() {
    let folder = TempDir::new("random");
    let (a, b) = (folder.join("a"), folder.join("b"));
    for weights in [&a, &b] {
        run(TOOL, [weights.as_os_str(), "--shape".as_ref(), "tiny".as_ref()]).ok();
    }
    for entry in fs::read_dir(&a).expect("a folder") {
        let path = entry.expect("an entry").path();
        let twin = b.join(path.file_name().expect("a name"));
        assert!(fs::read(&path).expect("read") == fs::read(twin).expect("read"), "{}", path.display());
    }
    let statistics = |name: &str| {
        let (_, numbers) = read_f32_npy(&a.join(name));
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / numbers.len() as f32;
        (mean, variance.sqrt())
    };
    let (mean, deviation) = statistics("lm_head.weight.npy");
    assert!(mean.abs() < 1e-3 && (deviation - 0.02).abs() < 1e-3, "{mean} {deviation}");
    let (mean, deviation) = statistics("model.norm.weight.npy");
    assert!((mean - 1.0).abs() < 0.05 && deviation < 0.2, "{mean} {deviation}");
}

#[test]
fn outliers_have_the_documented_share_and_spread() {
    let folder = TempDir::new("random");
    let (plain, outliers) = (folder.join("plain"), folder.join("outliers"));
    run(TOOL, [plain.as_os_str(), "--shape".as_ref(), "tiny".as_ref()]).ok();
    run(TOOL, [outliers.as_os_str(), "--shape".as_ref(), "tiny".as_ref(), "--outliers".as_ref()]).ok();
    let (mut n, mut changed) = (0, Vec::new());
    for entry in fs::read_dir(&plain).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        if name.contains("norm") || !name.ends_with(".npy") {
            continue;
        }
        let (before, after) = (read_f32_npy(&path).1, read_f32_npy(&outliers.join(name)).1);
        n += before.len();
        changed.extend(before.iter().zip(&after).filter(|(a, b)| a != b).map(|(_, b)| b.abs()));
    }
    let share = changed.len() as f64 / n as f64;
    assert!((0.0001..0.0006).contains(&share), "{share}");
    let (least, most) = changed.iter().fold((f32::MAX, 0f32), |(least, most), &x| (least.min(x), most.max(x)));
    assert!(least < 2f32.powi(-45) && most > 2f32.powi(-10) && most < 1.0, "{least:e} to {most:e}");
}

#[test]
fn olmo1_is_tied_and_has_no_norms() {
    let folder = TempDir::new("random");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    run(TOOL, [weights.as_os_str(), "--shape".as_ref(), "olmo1-1b".as_ref(), "--sparse".as_ref()]).ok();
    let said = run(PACK, [weights.as_os_str(), model.as_os_str(), "--dry-run".as_ref()]);
    // 50304 x 2048, and 16 layers of 4 x 2048 x 2048 and 3 x 2048 x 8192.
    let line = "113 f32 files, 1176764416 weights, head tied to the embedding\n";
    assert!(said.ok().contains(line), "{}", said.stdout);
}

#[test]
fn sparse_folders_have_full_sizes_and_take_no_space() {
    use std::os::unix::fs::MetadataExt;
    let folder = TempDir::new("random");
    let weights = folder.join("w");
    let said = run(TOOL, [weights.as_os_str(), "--shape".as_ref(), "olmo3-32b".as_ref(), "--sparse".as_ref()]);
    // 32,233,522,176 weights of 4 bytes and 707 headers of 128.
    assert!(said.ok().ends_with("707 sparse tensors, 128934179200 bytes\n"), "{}", said.stdout);
    let metadata = fs::metadata(weights.join("lm_head.weight.npy")).expect("a file");
    assert_eq!(metadata.len(), 128 + 100278 * 5120 * 4);
    assert!(metadata.blocks() * 512 <= 64 << 10);
    let refused = run(TOOL, [weights.as_os_str(), "--shape".as_ref(), "tiny".as_ref()]);
    assert!(refused.refused(1).ends_with("not empty; --force writes into it"), "{}", refused.stderr);
}
