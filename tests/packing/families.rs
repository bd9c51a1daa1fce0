//! OLMoE, FlexOlmo and Olmo-Hybrid: every spelling of their configuration, and their exact sizes.

use crate::PACK;
use olmo_infer::internals::format::config::{Architecture, AttentionKind, LinearAttention, ModelConfig};
use olmo_pack::model::config_json;
use olmo_pack::model::settings::{Flags, Settings};
use olmo_tests::{TempDir, config_json, run, small_config, small_configs, small_hybrid, small_olmoe};
use serde_json::{Value, json};
use std::path::Path;

const RANDOM_WEIGHTS: &str = env!("CARGO_BIN_EXE_random-weights");

fn read(json: &Value, flags: &Flags) -> Result<Settings, String> {
    let bytes = json.to_string().into_bytes();
    config_json::parse(Path::new("config.json"), bytes, flags).map_err(|problem| problem.to_string())
}

#[track_caller]
fn config(json: &Value) -> ModelConfig {
    read(json, &Flags::default()).expect("a good configuration").config
}

fn without(json: &Value, key: &str) -> Value {
    let mut json = json.clone();
    json.as_object_mut().expect("an object").shift_remove(key);
    json
}

#[test]
fn configurations_are_read_as_they_were_written() {
    for (name, wanted) in small_configs() {
        assert_eq!(config(&config_json(&wanted)), wanted, "{name}");
    }
}

/// The first releases of OLMoE have no epsilon, later ones name the experts otherwise on reading.
#[test]
fn olmoe_has_defaults_that_transformers_has() {
    let json = config_json(&small_olmoe());
    let found = config(&without(&json, "rms_norm_eps"));
    assert_eq!(found, ModelConfig { rms_norm_eps: 1e-5, ..small_olmoe() });
    let mut renamed = without(&json, "num_experts");
    renamed["num_local_experts"] = json!(5);
    assert_eq!(config(&renamed), small_olmoe());
}

#[test]
fn null_means_no_rope_and_absence_is_refused() {
    let json = config_json(&small_hybrid());
    assert_eq!(json["rope_theta"], Value::Null);
    let bare = without(&json, "rope_theta");
    let mut nested = bare.clone();
    nested["rope_parameters"] = json!({"rope_theta": null, "rope_type": "default"});
    assert_eq!(config(&nested), small_hybrid());
    let with_rope = ModelConfig { rope_theta: 5e5, rope_theta_sliding: 5e5, ..small_hybrid() };
    nested["rope_parameters"] = json!({"rope_theta": 5e5, "rope_type": "default"});
    assert_eq!(config(&nested), with_rope);
    for parameters in [json!(null), json!({}), json!({"rope_type": "default"})] {
        nested["rope_parameters"] = parameters;
        let line = read(&nested, &Flags::default()).expect_err("not stated");
        assert!(line.contains("no rope_theta, expected null for a model without RoPE"), "{line}");
    }
    let flags = Flags { rope_theta: Some(1e4), ..Flags::default() };
    let line = read(&json, &flags).expect_err("a contradiction");
    assert!(line.contains("rope_theta is null, which is a model without RoPE, expected 10000"), "{line}");
    // In other families null is absence.
    let mut dense = config_json(&small_config());
    dense["rope_theta"] = Value::Null;
    let line = read(&dense, &Flags::default()).expect_err("missing");
    assert!(line.contains("no rope_theta") && line.contains("--rope-theta"), "{line}");
}

#[test]
fn linear_layers_have_the_defaults_of_their_class() {
    let mut json = json!({
        "model_type": "olmo_hybrid", "hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4,
        "intermediate_size": 7, "vocab_size": 11, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": null,
    });
    let found = config(&json);
    use AttentionKind::{Full, Linear};
    assert_eq!(found.layer_types, [Linear, Linear, Linear, Full, Linear, Linear]);
    let sizes = LinearAttention {
        n_key_heads: 4,
        n_value_heads: 4,
        key_head_dim: 18,
        value_head_dim: 36,
        conv_kernel: 4,
        allow_neg_eigval: true,
    };
    assert_eq!(found.linear, Some(sizes));
    json["num_hidden_layers"] = json!(3);
    assert_eq!(config(&json).layer_types, [Linear, Linear, Full]);
}

#[test]
fn first_name_of_olmo2_is_olmo2() {
    let mut json = config_json(&small_config());
    json["model_type"] = json!("olmo_1124");
    json["architectures"] = json!(["Olmo1124ForCausalLM"]);
    assert_eq!(config(&json), small_config());
}

#[test]
fn raw_exports_name_the_flag_for_their_positions() {
    let mut json = config_json(&small_config());
    json["max_position_embeddings"] = json!(-1);
    let line = read(&json, &Flags::default()).expect_err("no number");
    assert!(line.contains("max_position_embeddings is -1") && line.contains("pass --max-positions"), "{line}");
    let flags = Flags { max_positions: Some(64), ..Flags::default() };
    assert_eq!(read(&json, &flags).expect("good").config, small_config());
}

#[test]
fn models_with_code_of_their_own_are_refused_by_name() {
    for (name, states) in [
        ("bolmo", "Bolmo reads bytes by code of its own"),
        ("emo", "EMO has code of its own"),
        ("olmo3moe", "no such model was released"),
        ("hf_olmo", "take the release of this model whose name ends in -hf"),
    ] {
        let mut json = config_json(&small_config());
        json["model_type"] = json!(name);
        let line = read(&json, &Flags::default()).expect_err("refused");
        assert!(line.contains(states) && line.lines().count() == 1, "{line}");
    }
}

/// The bytes of a file in f32 or bf16, counted by hand from the format.
fn file_bytes(config: &ModelConfig, element: u64) -> u64 {
    let up = |bytes: u64, to: u64| bytes.div_ceil(to) * to;
    let sizes = [config.hidden_size, config.intermediate_size, config.q_width(), config.vocab_size];
    let [h, f, q, rows] = sizes.map(|size| size as u64);
    let matrix_of = |rows: u64, columns: u64, element: u64| up(rows, 64) * columns * element;
    let matrix = |rows: u64, columns: u64| matrix_of(rows, columns, element);
    let group = |tensors: &[u64]| up(tensors.iter().map(|&bytes| up(bytes, 256)).sum(), 65536);
    let vector = |n: u64| 4 * n;
    let embedding = group(&[matrix(rows, h)]);
    let dense = [matrix(f, h), matrix(f, h), matrix(h, f)];
    let attention = [matrix(q, h), matrix(q, h), matrix(q, h), vector(q), vector(q), matrix(h, q)];
    let norms = [vector(h), vector(h)];
    let layer = |kind: &AttentionKind| match (kind, config.experts, config.linear) {
        (AttentionKind::Linear, _, Some(linear)) => {
            let (keys, values, heads) =
                (linear.key_width() as u64, linear.value_width() as u64, linear.n_value_heads as u64);
            let mixer = [
                matrix(keys, h),
                matrix(keys, h),
                matrix(values, h),
                vector((2 * keys + values) * linear.conv_kernel as u64),
                matrix_of(heads, h, 4),
                matrix_of(heads, h, 4),
                vector(heads),
                vector(heads),
                matrix(values, h),
                vector(linear.value_head_dim as u64),
                matrix(h, values),
            ];
            group(&[&norms[..], &mixer, &dense].concat())
        }
        (_, Some(experts), _) => {
            let router = [matrix_of(experts.n_experts as u64, h, 4)];
            group(&[&norms[..], &attention, &router].concat()) + experts.n_experts as u64 * group(&dense)
        }
        _ => group(&[&norms[..], &attention, &dense].concat()),
    };
    let layers: u64 = config.layer_types.iter().map(layer).sum();
    (2 << 20) + embedding + layers + group(&[vector(h), matrix(rows, h)])
}

/// Sparse folders in the shapes of the released models.
#[test]
fn dry_run_predicts_exact_sizes_of_other_families() {
    for (shape, architecture, parameters, n_tensors) in [
        ("olmoe-1b-7b", Architecture::Olmoe, 6_919_161_856u64, 3219),
        ("hybrid-7b", Architecture::OlmoHybrid, 7_430_870_688, 24 * 16 + 8 * 11 + 3),
        ("flex-7x7b", Architecture::FlexOlmo, 33_270_665_216, 32 * (9 + 21) + 3),
        ("bar-5x7b", Architecture::FlexOlmo, 24_612_753_408, 32 * (9 + 15) + 3),
        ("bar-7b", Architecture::Olmo2, 7_298_011_136, 32 * 11 + 3),
    ] {
        let folder = TempDir::new("true-shapes");
        let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
        let words = ["--shape", shape, "--dtype", "bf16", "--sparse"];
        run(RANDOM_WEIGHTS, [weights.to_str().expect("UTF-8")].into_iter().chain(words)).ok();
        for (dtype, element) in [("f32", 4u64), ("bf16", 2)] {
            let paths = [weights.to_str().expect("UTF-8"), model.to_str().expect("UTF-8")];
            let words = ["--dry-run", "--json", "--dtype", dtype];
            let json: Value = serde_json::from_str(run(PACK, paths.into_iter().chain(words)).ok()).expect("JSON");
            let text = std::fs::read(weights.join("config.json")).expect("read");
            let config = read(&serde_json::from_slice(&text).expect("JSON"), &Flags::default()).expect("good").config;
            assert_eq!((config.architecture, config.n_parameters()), (architecture, parameters), "{shape}");
            assert_eq!(json["file_bytes"][dtype], file_bytes(&config, element), "{shape} {dtype}");
            assert_eq!(json["tensors"].as_array().expect("a list").len(), n_tensors, "{shape}");
        }
    }
}
