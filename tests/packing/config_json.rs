//! Every spelling of config.json means the model it means to transformers, and what cannot be meant is refused.

use olmo_infer::internals::format::config::{Architecture, AttentionKind, ModelConfig, Yarn};
use olmo_pack::model::config_json;
use olmo_pack::model::settings::{Flags, Origin, Settings};
use olmo_tests::{config_json, small_config, small_olmo1, small_olmo3};
use serde_json::{Value, json};
use std::path::Path;

fn read(json: &Value, flags: &Flags) -> Result<Settings, String> {
    let bytes = json.to_string().into_bytes();
    config_json::parse(Path::new("config.json"), bytes, flags).map_err(|problem| problem.to_string())
}

#[track_caller]
fn config(json: &Value) -> ModelConfig {
    read(json, &Flags::default()).expect("a good configuration").config
}

#[track_caller]
fn refusal(json: &Value) -> String {
    let line = read(json, &Flags::default()).expect_err("must be refused");
    assert!(line.starts_with("config.json: ") && line.lines().count() == 1, "{line}");
    line
}

/// `base` with some keys replaced; null removes a key.
fn with(base: &Value, changes: Value) -> Value {
    let mut json = base.clone();
    for (key, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => json.as_object_mut().expect("an object").shift_remove(key),
            value => json.as_object_mut().expect("an object").insert(key.clone(), value.clone()),
        };
    }
    json
}

#[test]
fn three_spellings_of_rope_are_equal() {
    let wanted = small_olmo3();
    let old = config_json(&wanted);
    assert_eq!(config(&old), wanted);
    let bare = with(&old, json!({"rope_theta": null, "rope_scaling": null}));
    let yarn = json!({"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 8.0, "beta_fast": 32,
        "beta_slow": 1, "attention_factor": 1.2079441541679836, "rope_theta": 10000});
    assert_eq!(config(&with(&bare, json!({"rope_parameters": yarn}))), wanted);
    let nested = json!({"full_attention": yarn, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}});
    assert_eq!(config(&with(&bare, json!({"rope_parameters": nested}))), wanted);
    // Both at once, in agreement; and the older word for rope_type.
    assert_eq!(config(&with(&old, json!({"rope_parameters": nested}))), wanted);
    let mut older = old.clone();
    let scaling = older["rope_scaling"].as_object_mut().expect("an object");
    scaling.shift_remove("rope_type");
    scaling.insert("type".into(), "yarn".into());
    assert_eq!(config(&older), wanted);
    // Another base for sliding layers.
    let two = json!({"full_attention": yarn, "sliding_attention": {"rope_type": "default", "rope_theta": 77}});
    let found = config(&with(&bare, json!({"rope_parameters": two})));
    assert_eq!((found.rope_theta, found.rope_theta_sliding), (10000.0, 77.0));
}

#[test]
fn reads_olmo2_in_both_spellings() {
    let wanted = small_config();
    let old = config_json(&wanted);
    assert_eq!(config(&old), wanted);
    let new = with(&old, json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 10000}}));
    assert_eq!(config(&new), wanted);
}

#[test]
fn reads_olmo1_in_both_spellings() {
    let wanted = small_olmo1();
    let old = config_json(&wanted);
    assert!(old.get("rms_norm_eps").is_none(), "no release writes it");
    assert_eq!(config(&old), wanted);
    let new = with(&old, json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 10000}}));
    assert_eq!(config(&new), wanted);
    assert_eq!(config(&with(&old, json!({"rms_norm_eps": 1e-5}))), wanted);
    let settings = read(&old, &Flags::default()).expect("good");
    assert!(settings.origins.0.contains(&("rms_norm_eps", Origin::Rule)));
    assert!(settings.origins.0.contains(&("clip_qkv", Origin::ConfigJson)));
    // Published files have a number, null, or nothing.
    assert_eq!(config(&with(&old, json!({"clip_qkv": 8}))).clip_qkv, Some(8.0));
    let mut null = old.clone();
    null["clip_qkv"] = Value::Null;
    for (json, origin) in [(null, Origin::ConfigJson), (with(&old, json!({"clip_qkv": null})), Origin::Rule)] {
        let settings = read(&json, &Flags::default()).expect("good");
        assert_eq!(settings.config, ModelConfig { clip_qkv: None, ..small_olmo1() });
        assert!(settings.origins.0.contains(&("clip_qkv", origin)));
    }
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let old = config_json(&small_olmo3());
    let yarn = |changes: Value| with(&old, json!({"rope_scaling": with(&old["rope_scaling"], changes)}));
    let found = |changes: Value| config(&yarn(changes)).yarn.expect("yarn");
    let wanted = small_olmo3().yarn.expect("yarn");
    assert_eq!(found(json!({"beta_fast": null, "beta_slow": null})), wanted);
    let computed = found(json!({"attention_factor": null})).attention_factor;
    assert!((computed - 1.2079441541679836).abs() < 1e-15, "{computed}");
    assert_eq!(found(json!({"original_max_position_embeddings": null})).original_max_position_embeddings, 64);
    assert_eq!(found(json!({"truncate": false})), Yarn { truncate: false, ..wanted.clone() });
    let quotient = found(json!({"attention_factor": null, "mscale": 2.0, "mscale_all_dim": 0.5})).attention_factor;
    assert!((quotient - (0.2 * 8f64.ln() + 1.0) / (0.05 * 8f64.ln() + 1.0)).abs() < 1e-15, "{quotient}");
    let flat = found(json!({"attention_factor": null, "factor": 1.0})).attention_factor;
    assert_eq!(flat, 1.0);

    let layers = config(&with(&old, json!({"layer_types": null, "num_hidden_layers": 9}))).layer_types;
    let full: Vec<usize> = (0..9).filter(|&layer| layers[layer] == AttentionKind::Full).collect();
    assert_eq!(full, [3, 7]);

    let old = config_json(&small_config());
    let heads = config(&with(&old, json!({"num_key_value_heads": null, "head_dim": null})));
    assert_eq!((heads.n_kv_heads, heads.head_dim), (6, 6));
    assert!(!config(&with(&old, json!({"tie_word_embeddings": null}))).tie_word_embeddings);
    assert_eq!(config(&with(&old, json!({"eos_token_id": 7}))).eos_token_ids, [7]);
    assert_eq!(config(&with(&old, json!({"eos_token_id": [100265, 100257]}))).eos_token_ids, [100265, 100257]);
    assert!(config(&with(&old, json!({"eos_token_id": null}))).eos_token_ids.is_empty());
    assert_eq!(config(&with(&old, json!({"bos_token_id": 3}))).bos_token_id, Some(3));
    assert_eq!(config(&with(&old, json!({"hidden_size": 36.0}))).hidden_size, 36);
    assert_eq!(config(&with(&old, json!({"eos_token_id": [2.0, 100257]}))).eos_token_ids, [2, 100257]);
    let none = config(&with(&old, json!({"bos_token_id": -1, "pad_token_id": -1})));
    assert_eq!((none.bos_token_id, none.pad_token_id), (None, None));
    let whole = json!({"partial_rotary_factor": 1, "architectures": [], "torch_dtype": "torch.float32",
        "dtype": "float32"});
    assert_eq!(config(&with(&old, whole)), small_config());
}

/// Complete files as transformers writes them, with smaller sizes.
#[test]
fn reads_published_files() {
    let old_olmo2 = r#"{
  "_name_or_path": "allenai/OLMo-2-0425-1B", "architectures": ["Olmo2ForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": null, "clip_qkv": null, "eos_token_id": 100257, "hidden_act": "silu",
  "hidden_size": 36, "initializer_range": 0.02, "intermediate_size": 71, "max_position_embeddings": 4096,
  "model_type": "olmo2", "num_attention_heads": 6, "num_hidden_layers": 2, "num_key_value_heads": 6,
  "pad_token_id": 100277, "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 500000,
  "tie_word_embeddings": false, "torch_dtype": "float32", "transformers_version": "4.57.1", "use_cache": false,
  "vocab_size": 101
}"#;
    let olmo1 = |rope: &str| {
        r#"{
  "architectures": ["OlmoForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": null,
  "clip_qkv": null, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 36, "initializer_range": 0.02,
  "intermediate_size": 71, "max_position_embeddings": 2048, "model_type": "olmo", "num_attention_heads": 6,
  "num_hidden_layers": 2, "num_key_value_heads": 6, "pad_token_id": 1, "pretraining_tp": 1, ROPE,
  "tie_word_embeddings": true, "torch_dtype": "float32", "transformers_version": "VERSION", "use_cache": true,
  "vocab_size": 101
}"#
        .replace("ROPE", rope)
    };
    let olmo3 = |rope: &str| {
        r#"{
  "architectures": ["Olmo3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": null,
  "dtype": "bfloat16", "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 36, "initializer_range": 0.02,
  "intermediate_size": 71, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention",
  "full_attention"], "max_position_embeddings": 65536, "model_type": "olmo3", "num_attention_heads": 6,
  "num_hidden_layers": 4, "num_key_value_heads": 6, "pad_token_id": 100277, "rms_norm_eps": 1e-06, ROPE,
  "sliding_window": 4096, "tie_word_embeddings": false, "transformers_version": "VERSION", "use_cache": false,
  "vocab_size": 101
}"#
        .replace("ROPE", rope)
    };
    let yarn = r#""attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
        "original_max_position_embeddings": 8192"#;
    let flat_4 = format!(r#""rope_scaling": {{{yarn}, "rope_type": "yarn"}}, "rope_theta": 500000"#);
    let flat_5 = format!(r#""rope_parameters": {{{yarn}, "rope_theta": 500000, "rope_type": "yarn"}}"#);
    let nested = format!(
        r#""rope_parameters": {{"full_attention": {{{yarn}, "rope_theta": 500000, "rope_type": "yarn"}},
        "sliding_attention": {{"rope_theta": 500000, "rope_type": "default"}}}}"#
    );
    let wanted_olmo2 = ModelConfig {
        n_kv_heads: 6,
        max_position_embeddings: 4096,
        rope_theta: 500_000.0,
        rope_theta_sliding: 500_000.0,
        eos_token_ids: vec![100_257],
        pad_token_id: Some(100_277),
        ..small_config()
    };
    let wanted_olmo1 = ModelConfig {
        n_kv_heads: 6,
        max_position_embeddings: 2048,
        clip_qkv: None,
        tie_word_embeddings: true,
        eos_token_ids: vec![50279],
        pad_token_id: Some(1),
        ..small_olmo1()
    };
    let wanted_olmo3 = ModelConfig {
        architecture: Architecture::Olmo3,
        max_position_embeddings: 65536,
        sliding_window: 4096,
        layer_types: small_olmo3().layer_types,
        yarn: small_olmo3().yarn.map(|yarn| Yarn { original_max_position_embeddings: 8192, ..yarn }),
        ..wanted_olmo2.clone()
    };
    for (text, wanted, bf16) in [
        (olmo1(r#""rope_scaling": null, "rope_theta": 10000.0"#), &wanted_olmo1, false),
        (olmo1(r#""rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}"#), &wanted_olmo1, false),
        (old_olmo2.to_string(), &wanted_olmo2, false),
        (olmo3(&flat_4), &wanted_olmo3, true),
        (olmo3(&flat_5), &wanted_olmo3, true),
        (olmo3(&nested), &wanted_olmo3, true),
    ] {
        let settings = config_json::parse(Path::new("config.json"), text.clone().into_bytes(), &Flags::default());
        let settings = settings.unwrap_or_else(|problem| panic!("{problem} in {text}"));
        assert_eq!(settings.config, *wanted, "{text}");
        assert_eq!(settings.u2_is_bf16, bf16, "{text}");
        assert_eq!(settings.config_json.as_deref(), Some(text.as_bytes()));
    }
}

#[test]
fn names_missing_keys_without_class_defaults() {
    let json = config_json(&small_olmo3());
    let keys = [
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "sliding_window",
    ];
    for key in keys {
        let mut changes = serde_json::Map::new();
        changes.insert(key.into(), Value::Null);
        let line = refusal(&with(&json, changes.clone().into()));
        assert!(line.contains(&format!("no {key}")), "{line}");
        // OLMo-1 has no window, and its epsilon is a constant of its class.
        if !["rms_norm_eps", "sliding_window"].contains(&key) {
            let line = refusal(&with(&config_json(&small_olmo1()), changes.into()));
            assert!(line.contains(&format!("no {key}")), "{line}");
        }
    }
}

/// Row W6, more keys.
#[test]
fn refuses_impossible_values_by_key() {
    let olmo2 = config_json(&small_config());
    let cases = [
        (
            json!({"model_type": "llama"}),
            "model_type is \"llama\", expected olmo, olmo2, olmo3, olmoe, flex_olmo or olmo_hybrid; no other",
        ),
        (json!({"model_type": "olmoe"}), "no num_experts"),
        (json!({"model_type": "flex_olmo"}), "no num_experts"),
        (
            json!({"model_type": "hf_olmo"}),
            "model_type is \"hf_olmo\", expected olmo, olmo2, olmo3, olmoe, flex_olmo or olmo_hybrid; take the release",
        ),
        (json!({"model_type": "olmo"}), "rms_norm_eps is 1e-6, expected 1e-5 as in every olmo model"),
        (json!({"hidden_size": 0}), "hidden_size is 0"),
        (json!({"hidden_size": -1}), "hidden_size is -1"),
        (json!({"hidden_size": "36"}), "hidden_size is \"36\""),
        (json!({"hidden_size": 36.5}), "hidden_size is 36.5"),
        (json!({"hidden_size": 1u64 << 60}), "hidden_size"),
        (json!({"num_hidden_layers": 4_000_000_000u64}), "num_hidden_layers"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        (json!({"num_attention_heads": 5, "head_dim": null}), "num_attention_heads is 5, expected a divisor"),
        (json!({"num_attention_heads": 0, "head_dim": null}), "num_attention_heads is 0"),
        (json!({"num_key_value_heads": 4}), "num_key_value_heads is 4"),
        (json!({"head_dim": 7}), "head_dim is 7"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps is 0"),
        (json!({"rms_norm_eps": -1e-6}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_theta": -5.0}), "rope_theta"),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}), "rope_scaling.rope_type is \"linear\""),
        (json!({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}), "llama3"),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}), "none for olmo2"),
        (json!({"rope_scaling": {"factor": 2.0}}), "no rope_scaling.rope_type"),
        (json!({"rope_scaling": 2}), "rope_scaling is 2"),
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}),
            "rope_theta is 10000 at the top level and 9",
        ),
        (json!({"layer_types": ["sliding_attention", "full_attention"]}), "layer_types"),
        (json!({"layer_types": ["full_attention"]}), "layer_types has 1 entries, expected 2"),
        (json!({"layer_types": ["full_attention", "other"]}), "layer_types entry is \"other\""),
        (json!({"hidden_act": "gelu"}), "hidden_act is \"gelu\", expected silu"),
        (json!({"attention_bias": true}), "attention_bias is true"),
        (json!({"clip_qkv": 8.0}), "clip_qkv is 8.0, expected none for olmo2"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config is {\"bits\":4}, expected null"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5, expected 1 or null"),
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}),
            "rope_parameters.partial_rotary_factor is 0.25",
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "full": {"rope_theta": 5.0}}}),
            "rope_parameters.full is {",
        ),
        (json!({"architectures": ["OlmoForCausalLM"]}), "architectures entry is \"OlmoForCausalLM\""),
        (json!({"architectures": ["Olmo2ForCausalLM", "Olmo3Model"]}), "expected Olmo2ForCausalLM"),
        (json!({"architectures": ["Olmo2ForSequenceClassification"]}), "architectures entry"),
        (json!({"architectures": "Olmo2ForCausalLM"}), "architectures is"),
        (json!({"dtype": "float32", "torch_dtype": "bfloat16"}), "torch_dtype is \"bfloat16\", expected float32"),
        (json!({"dtype": 16}), "dtype is 16"),
        (json!({"pad_token_id": -2}), "pad_token_id is -2"),
        (json!({"eos_token_id": 1.5}), "eos_token_id is 1.5"),
        (json!({"eos_token_id": -1}), "eos_token_id"),
        (json!({"eos_token_id": [1, "x"]}), "eos_token_id"),
        (json!({"eos_token_id": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]}), "eos_token_id is 17"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings is 1"),
    ];
    for (changes, says) in cases {
        let line = refusal(&with(&olmo2, changes));
        assert!(line.contains(says), "{line}\nwants {says}");
    }
    let olmo3 = config_json(&small_olmo3());
    let cases = [
        (json!({"sliding_window": 0}), "sliding_window is 0"),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 10000}}), "disagree"),
        (json!({"rope_scaling": with(&olmo3["rope_scaling"], json!({"factor": null}))}), "no rope_scaling.factor"),
        (
            json!({"rope_scaling": with(&olmo3["rope_scaling"], json!({"partial_rotary_factor": 0.5}))}),
            "rope_scaling.partial_rotary_factor is 0.5",
        ),
        (
            json!({"rope_scaling": null, "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}}}),
            "rope_parameters.sliding_attention.partial_rotary_factor is 0.5",
        ),
        (
            json!({"rope_scaling": null, "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e4}, "chunked_attention": {}}}),
            "rope_parameters.chunked_attention is {}, expected only full_attention and sliding_attention",
        ),
        (json!({"rope_scaling": with(&olmo3["rope_scaling"], json!({"type": "linear"}))}), "rope_scaling.type"),
        (json!({"rope_scaling": with(&olmo3["rope_scaling"], json!({"factor": 0.5}))}), "rope_scaling.factor is 0.5"),
    ];
    for (changes, says) in cases {
        let line = refusal(&with(&olmo3, changes));
        assert!(line.contains(says), "{line}\nwants {says}");
    }
}

/// Row W6, more keys.
#[test]
fn refuses_impossible_olmo1_values_by_key() {
    let olmo1 = config_json(&small_olmo1());
    let cases = [
        (json!({"clip_qkv": 0.0}), "clip_qkv is 0.0, expected a number from 1e-3 to 1e6"),
        (json!({"clip_qkv": -8.0}), "clip_qkv is -8.0, expected a number from 1e-3 to 1e6"),
        (json!({"clip_qkv": 1e300}), "clip_qkv is 1e300"),
        (json!({"clip_qkv": "8"}), "clip_qkv is \"8\", expected a number"),
        (json!({"clip_qkv": false}), "clip_qkv is false, expected a number"),
        (json!({"rms_norm_eps": 1e-6}), "rms_norm_eps is 1e-6, expected 1e-5 as in every olmo model"),
        (json!({"attention_bias": true}), "attention_bias is true"),
        (
            json!({"architectures": ["Olmo2ForCausalLM"]}),
            "architectures entry is \"Olmo2ForCausalLM\", expected OlmoFor",
        ),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}), "rope_scaling is yarn, expected none for olmo"),
        (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_scaling.rope_type is \"linear\""),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types is sliding_attention, expected full_attention everywhere for olmo",
        ),
    ];
    for (changes, says) in cases {
        let line = refusal(&with(&olmo1, changes));
        assert!(line.contains(says), "{line}\nwants {says}");
    }
    let olmo3 = refusal(&with(&config_json(&small_olmo3()), json!({"clip_qkv": 8})));
    assert!(olmo3.contains("clip_qkv is 8.0, expected none for olmo3"), "{olmo3}");
}

#[test]
fn refuses_lenient_json() {
    let read = |text: &str| {
        config_json::parse(Path::new("config.json"), text.as_bytes().to_vec(), &Flags::default())
            .expect_err("must be refused")
            .to_string()
    };
    assert!(read("{\"a\": 1, \"a\": 2}").contains("duplicate key \"a\""));
    assert!(read("{\"r\": {\"b\": 1, \"b\": 1}}").contains("duplicate key \"b\""));
    assert!(read("[]").contains("not an object"));
    for text in ["", "{", "{\"a\": NaN}", "{\"a\": 1e999}", "{} x", "\u{feff}{}"] {
        assert_eq!(read(text).lines().count(), 1, "{text}");
    }
    assert!(read(&"[".repeat(100_000)).contains("recursion"));
}

#[test]
fn flags_fill_gaps_and_must_not_contradict() {
    let json = with(&config_json(&small_config()), json!({"rms_norm_eps": null}));
    let flags = Flags { rms_norm_eps: Some(1e-6), head_dim: Some(6), ..Flags::default() };
    let settings = read(&json, &flags).expect("good");
    assert_eq!(settings.config, small_config());
    assert!(settings.origins.0.contains(&("rms_norm_eps", Origin::Flag)));
    assert!(settings.origins.0.contains(&("head_dim", Origin::ConfigJson)));
    let json = config_json(&small_config());
    for (flags, says) in [
        (Flags { rms_norm_eps: Some(1e-5), ..Flags::default() }, "--rms-norm-eps"),
        (Flags { head_dim: Some(12), ..Flags::default() }, "--head-dim"),
        (Flags { rope_theta: Some(5e5), ..Flags::default() }, "--rope-theta"),
        (Flags { max_positions: Some(65), ..Flags::default() }, "--max-positions"),
        (Flags { architecture: Some(Architecture::Olmo3), ..Flags::default() }, "--arch"),
        (Flags { eos_token_ids: Some(vec![2]), ..Flags::default() }, "--eos"),
        (Flags { sliding_window: Some(2), ..Flags::default() }, "--sliding-window"),
        (
            Flags { clip_qkv: Some(None), ..Flags::default() },
            "--clip-qkv for an olmo2 model, expected an olmo or olmoe model",
        ),
    ] {
        let line = read(&json, &flags).expect_err("a contradiction");
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn olmo1_flags_fill_gaps_and_must_not_contradict() {
    let json = config_json(&small_olmo1());
    let bare = with(&json, json!({"clip_qkv": null}));
    let clip = |clip| Flags { clip_qkv: Some(clip), ..Flags::default() };
    for (json, flag, wanted, origin) in [
        (&json, Some(0.75), Some(0.75), Origin::ConfigJson),
        (&bare, Some(8.0), Some(8.0), Origin::Flag),
        (&bare, None, None, Origin::Flag),
    ] {
        let settings = read(json, &clip(flag)).expect("good");
        assert_eq!(settings.config.clip_qkv, wanted);
        assert!(settings.origins.0.contains(&("clip_qkv", origin)));
    }
    for (flags, says) in [
        (clip(None), "clip_qkv is 0.75, expected none as set by --clip-qkv"),
        (clip(Some(8.0)), "clip_qkv is 0.75, expected 8 as set by --clip-qkv"),
        (
            Flags { rms_norm_eps: Some(1e-5), ..Flags::default() },
            "--rms-norm-eps for an olmo model, expected an olmo2 or",
        ),
        (Flags { no_yarn: true, ..Flags::default() }, "--no-yarn for an olmo model, expected an olmo3 model"),
    ] {
        let line = read(&json, &flags).expect_err("a contradiction");
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn refuses_the_no_token_number_as_eos() {
    let json = with(&config_json(&small_config()), json!({"eos_token_id": null}));
    let read = |ids: Vec<u32>| read(&json, &Flags { eos_token_ids: Some(ids), ..Flags::default() });
    assert_eq!(read(vec![7, u32::MAX - 1]).expect("two ids").config.eos_token_ids, [7, u32::MAX - 1]);
    let line = read(vec![7, u32::MAX]).expect_err("no token has this id");
    assert!(line.contains("eos_token_id is 4294967295, expected the id of a token"), "{line}");
}
