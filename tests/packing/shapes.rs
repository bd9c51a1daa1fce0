//! Names and shapes of tensors: what they determine without a config.json, and how long they make the model file.

use crate::PACK;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_pack::model::config_json;
use olmo_tests::{
    Stored, TempDir, config_json, npy_path, run, small_config, small_olmo1, small_olmo3, write_npy, write_weights,
};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn flags_replace_config_json() {
    let folder = TempDir::new("noconfig");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let config = small_olmo3();
    write_weights(&weights, &config, Stored::F32, 1);
    fs::remove_file(weights.join("config.json")).expect("removed");
    let base = [weights.to_str().unwrap(), model.to_str().unwrap()];
    let pack = |flags: &str| run(PACK, base.into_iter().chain(flags.split_whitespace()));
    let line = pack("").refused(1).to_string();
    for word in ["no config.json", "--arch", "--head-dim", "--rope-theta", "--rms-norm-eps", "--max-positions"] {
        assert!(line.contains(word), "{line}");
    }
    let most = "--arch olmo3 --head-dim 6 --rope-theta 10000 --rms-norm-eps 1e-6 --max-positions 64";
    assert!(pack(most).refused(1).contains("--sliding-window"));
    let all = format!("{most} --sliding-window 5 --yarn-factor 8 --yarn-original-positions 8 --eos 1");
    let text = pack(&all).ok().to_string();
    assert!(text.contains("flag: model_type, head_dim"), "{text}");
    let found = olmo_infer::internals::file::model_file::ModelFile::open(&model).expect("valid").config().clone();
    let close =
        found.yarn.clone().expect("yarn").attention_factor - config.yarn.clone().expect("yarn").attention_factor;
    assert!(close.abs() < 1e-15);
    assert_eq!(ModelConfig { yarn: config.yarn.clone(), pad_token_id: Some(0), ..found }, config);
    // As the other family it is something else, and must be asked for.
    let olmo2 = most.replace("olmo3", "olmo2");
    assert!(pack(&format!("{olmo2} --force")).ok().contains("olmo2, 4 layers"));
    for flags in ["--sliding-window 5", "--yarn-factor 2", "--no-yarn"] {
        let finished = pack(&format!("{olmo2} --force {flags}"));
        let says = format!("{} for an olmo2 model", flags.split(' ').next().expect("a flag"));
        assert!(finished.refused(1).contains(&says), "{}", finished.stderr);
    }
}

#[test]
fn folder_without_norms_can_only_be_olmo1() {
    let folder = TempDir::new("noconfig-olmo1");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let config = small_olmo1();
    write_weights(&weights, &config, Stored::F32, 1);
    fs::remove_file(weights.join("config.json")).expect("removed");
    let base = [weights.to_str().unwrap(), model.to_str().unwrap(), "--force"];
    let pack = |flags: &str| run(PACK, base.into_iter().chain(flags.split_whitespace()));
    let line = pack("").refused(1).to_string();
    let needed = ["--arch olmo,", "--head-dim", "--rope-theta", "--max-positions", "--clip-qkv with a number or none"];
    for word in ["no config.json, and no norm tensors, as in OLMo-1"].iter().chain(&needed) {
        assert!(line.contains(word), "{line}");
    }
    assert!(!line.contains("--rms-norm-eps"), "{line}");
    let most = "--arch olmo --head-dim 6 --rope-theta 10000 --max-positions 64 --eos 1";
    assert!(pack(most).refused(1).contains("--clip-qkv"));
    for (clip, wanted) in [("0.75", Some(0.75)), ("none", None)] {
        let text = pack(&format!("{most} --clip-qkv {clip}")).ok().to_string();
        assert!(text.contains("default: rms_norm_eps"), "{text}");
        assert_eq!(text.contains("q, k and v clipped at 0.75"), wanted.is_some(), "{text}");
        let found = olmo_infer::internals::file::model_file::ModelFile::open(&model).expect("valid").config().clone();
        assert_eq!(ModelConfig { pad_token_id: Some(0), ..found }, ModelConfig { clip_qkv: wanted, ..config.clone() });
    }
    let line = pack(&format!("{most} --clip-qkv 0")).refused(1).to_string();
    assert!(line.contains("clip_qkv is 0.0, expected a number from 1e-3"), "{line}");
    // Neither family passes for the other.
    let olmo2 = most.replace("olmo ", "olmo2 ");
    let line = pack(&format!("{olmo2} --rms-norm-eps 1e-6")).refused(1).to_string();
    assert!(line.contains("no norm tensors, as in OLMo-1, expected an olmo2 model as set by --arch"), "{line}");
    fs::remove_dir_all(&weights).expect("removed");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    fs::remove_file(weights.join("config.json")).expect("removed");
    let line = pack(&format!("{most} --clip-qkv none")).refused(1).to_string();
    assert!(
        line.contains("norm tensors, which OLMo-1 does not have, expected an olmo model as set by --arch"),
        "{line}"
    );
}

/// Headers and lengths of real models; the numbers are holes.
fn sparse(folder: &Path, config: &ModelConfig) {
    fs::create_dir_all(folder).expect("folder");
    for spec in olmo_infer::internals::format::tensors::tensors_of(config) {
        let path = npy_path(folder, &spec.name());
        write_npy(&path, "<f4", &spec.shape(), &[]);
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
        let header = file.metadata().expect("metadata").len();
        file.set_len(header + 4 * spec.n_elements()).expect("sparse file");
    }
}

#[test]
fn published_olmo2_widths_need_no_config_json() {
    let folder = TempDir::new("published");
    let config = ModelConfig {
        hidden_size: 2048,
        n_heads: 16,
        n_kv_heads: 16,
        head_dim: 128,
        intermediate_size: 8192,
        vocab_size: 100_352,
        layer_types: vec![AttentionKind::Full; 16],
        ..small_config()
    };
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    sparse(&weights, &config);
    let base = [weights.to_str().unwrap(), model.to_str().unwrap(), "--dry-run", "--json"];
    let dry = |flags: &[&str]| run(PACK, base.iter().chain(flags));
    let json: Value = serde_json::from_str(dry(&[]).ok()).expect("JSON");
    for key in ["head_dim", "rope_theta", "rms_norm_eps", "max_position_embeddings", "model_type"] {
        assert_eq!(json["origins"][key], "published OLMo-2 constants", "{key}");
    }
    assert_eq!(json["origins"]["vocab_size"], "shapes");
    let json: Value = serde_json::from_str(dry(&["--rope-theta", "10000"]).ok()).expect("JSON");
    assert_eq!(json["origins"]["rope_theta"], "flag");
    assert!(dry(&["--arch", "olmo3"]).refused(1).contains("--sliding-window"));
    // A part of the export must not pass for a smaller model.
    fs::remove_file(npy_path(&weights, "lm_head.weight")).expect("removed");
    let line = dry(&[]).refused(1).to_string();
    assert!(line.contains("and the widths of OLMo-2 1B but no lm_head.weight, expected"), "{line}");
    assert!(line.contains("--arch") && line.contains("--head-dim"), "{line}");
    let all = "--arch olmo2 --head-dim 128 --rope-theta 5e5 --rms-norm-eps 1e-6 --max-positions 4096";
    dry(&all.split(' ').collect::<Vec<_>>()).ok();
    fs::remove_dir_all(&weights).expect("removed");
    sparse(&weights, &ModelConfig { layer_types: vec![AttentionKind::Full; 15], ..config.clone() });
    let line = dry(&["--arch", "olmo2"]).refused(1).to_string();
    assert!(line.contains("widths of OLMo-2 1B but 15 layers instead of 16, expected the whole model"), "{line}");
    // The same widths with Olmo-3's rows.
    sparse(&weights, &ModelConfig { vocab_size: 100_278, ..config });
    let line = dry(&[]).refused(1).to_string();
    assert!(
        line.contains("100278 vocabulary rows, as in Olmo-3 and in BAR-7B, an OLMo-2") && line.contains("--arch"),
        "{line}"
    );
    assert!(dry(&["--arch", "olmo2"]).refused(1).contains("--head-dim"));
}

#[test]
fn refuses_other_families_by_name() {
    let cases = [
        ("model.layers.0.input_layernorm.weight", "pre-norm"),
        ("model.layers.0.mlp.experts.0.gate_proj.weight", "OLMoE"),
        ("model.layers.0.linear_attn.q_proj.weight", "Olmo-Hybrid"),
        ("model.layers.0.pre_feedforward_layernorm.weight", "Gemma"),
    ];
    for (tensor, says) in cases {
        let folder = TempDir::new("family");
        let weights = folder.join("w");
        write_weights(&weights, &small_config(), Stored::F32, 1);
        fs::remove_file(weights.join("config.json")).expect("removed");
        write_npy(&npy_path(&weights, tensor), "<f4", &[1], &[0; 4]);
        let finished = run(PACK, [weights, folder.join("m.olmo")]);
        assert!(finished.refused(1).contains(says), "{}", finished.stderr);
    }
    let folder = TempDir::new("family");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    fs::remove_file(weights.join("config.json")).expect("removed");
    write_npy(&npy_path(&weights, "model.layers.0.self_attn.q_norm.weight"), "<f4", &[6], &[0; 24]);
    assert!(run(PACK, [weights, folder.join("m.olmo")]).refused(1).contains("a norm for each head"));
}

#[test]
fn dry_run_predicts_exact_sizes() {
    // Layers, hidden, MLP, key/value width, rows; sizes counted by hand from the format: 64-row panels, tensors at
    // multiples of 256 bytes, layers at multiples of 64 KiB, data at 2 MiB.
    let shapes = [
        ("olmo2", 32, 4096, 11008, 4096, 100_352),
        ("olmo2", 40, 5120, 13824, 5120, 100_352),
        ("olmo2", 64, 5120, 27648, 1024, 100_352),
        ("olmo3", 32, 4096, 11008, 4096, 100_278),
        ("olmo3", 64, 5120, 27648, 1024, 100_278),
    ];
    for (name, layers, hidden, mlp, kv, rows) in shapes {
        let folder = TempDir::new("true-shapes");
        let weights = folder.join("w");
        let olmo3 = name == "olmo3";
        let small = if olmo3 { small_olmo3() } else { small_config() };
        let config = ModelConfig {
            hidden_size: hidden,
            n_heads: hidden / 128,
            n_kv_heads: kv / 128,
            head_dim: 128,
            intermediate_size: mlp,
            vocab_size: rows,
            max_position_embeddings: if olmo3 { 65536 } else { 4096 },
            layer_types: config_json::default_layer_types(small.architecture, layers),
            sliding_window: if olmo3 { 4096 } else { 0 },
            ..small
        };
        sparse(&weights, &config);
        fs::write(weights.join("config.json"), config_json(&config).to_string()).expect("written");
        for (dtype, element) in [("f32", 4u64), ("bf16", 2)] {
            let up = |bytes: u64, to: u64| bytes.div_ceil(to) * to;
            let (h, f, kv, rows) = (hidden as u64, mlp as u64, kv as u64, rows as u64);
            let embedding = up(up(rows, 64) * h * element, 65536);
            let matrices = (2 * h * h + 2 * kv * h + 3 * h * f) * element;
            let norms = (3 * h + kv) * 4;
            let layer = up(matrices + norms, 65536);
            let end = up(h * 4 + up(rows, 64) * h * element, 65536);
            let expected = (2 << 20) + embedding + layers as u64 * layer + end;
            let model = folder.join("m.olmo");
            let arguments =
                [weights.to_str().unwrap(), model.to_str().unwrap(), "--dry-run", "--json", "--dtype", dtype];
            let json: Value = serde_json::from_str(run(PACK, arguments).ok()).expect("JSON");
            assert_eq!(json["file_bytes"][dtype], expected, "{name} {layers} layers {dtype}");
            let least = &json["least_bf12_bytes"];
            if dtype == "f32" {
                assert!(least.is_null());
            } else {
                // Three quarters of every matrix, and the same norms and alignments.
                let coded = |bytes: u64| bytes / 4 * 3;
                let embedding = up(coded(up(rows, 64) * h * element), 65536);
                let layer = up(coded(matrices) + norms, 65536);
                let end = up(h * 4 + coded(up(rows, 64) * h * element), 65536);
                assert_eq!(*least, (2 << 20) + embedding + layers as u64 * layer + end, "{name} {layers} layers");
            }
            let tensors = json["tensors"].as_array().expect("a list");
            assert_eq!(tensors.len(), 11 * layers + 3);
            assert_eq!(tensors[0]["offset"], 2 << 20);
            assert_eq!(tensors[1]["offset"], (2 << 20) + embedding);
            assert!(!model.exists());
        }
        // With auto the numbers decide, which a dry run does not read: all sizes.
        let model = folder.join("m.olmo");
        let text = run(PACK, [weights.to_str().unwrap(), model.to_str().unwrap(), "--dry-run"]).ok().to_string();
        assert!(text.contains("f32 or bf16, decided by reading") && text.contains("nothing was written"), "{text}");
        assert_eq!(text.matches("  size ").count(), 3, "{text}");
        assert!(text.contains("; the table is that of plain f32\n"), "{text}");
        let bf16 = ["--dry-run", "--dtype", "bf16"];
        let text = run(PACK, [weights.to_str().unwrap(), model.to_str().unwrap()].iter().chain(&bf16)).ok().to_string();
        assert!(text.contains("  matrices    bf16; the table is that of the plain file\n"), "{text}");
        let flags = ["--dry-run", "--encoding", "plain"];
        let text =
            run(PACK, [weights.to_str().unwrap(), model.to_str().unwrap()].iter().chain(&flags)).ok().to_string();
        assert_eq!(text.matches("  size ").count(), 2, "{text}");
    }
}
