//! Row W6: `config.json`.

use super::{Case, EMBEDDING, FLAGS, HEAD, OLMO1_FLAGS, set};
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::{small_config, small_olmo1};
use serde_json::json;
use std::fs::{self, File};

/// Row W6: `config.json`: absent, malformed, with impossible values, against the shapes or a flag.
#[test]
fn w6_packs_without_config_json_by_flags() {
    let mut report = Report::new("W6");
    for (config, all) in [(small_config(), FLAGS), (small_olmo1(), OLMO1_FLAGS)] {
        let case = Case::of(&config);
        let begins = format!("{}: ", case.weights.display());
        fs::remove_file(case.config()).expect("removed");
        let mut needed = vec!["no config.json"];
        needed.extend(all.iter().step_by(2));
        report.add(format_args!("no flags of {}", all[1]), case.refused(&case.weights, &needed));
        for at in (0..all.len()).step_by(2) {
            let flags: Vec<&str> = [&all[..at], &all[at + 2..]].concat();
            let outcome = case.refusal(begins.clone(), &["no config.json", all[at]], &flags);
            report.add(format_args!("no {} of {}", all[at], all[1]), outcome);
        }
        report.add(format_args!("all flags of {}", all[1]), case.packed(&all));
    }
    // The files of OLMo-1, without norms, and those of the others do not pass for each other.
    for (config, flags, says) in [
        (small_config(), OLMO1_FLAGS, "norm tensors, which OLMo-1 does not have"),
        (small_olmo1(), FLAGS, "no norm tensors, as in OLMo-1"),
    ] {
        let case = Case::of(&config);
        fs::remove_file(case.config()).expect("removed");
        let begins = format!("{}: ", case.weights.display());
        report.add(says, case.refusal(begins, &[says, "as set by --arch"], &flags));
    }
}

/// Row W6.
#[test]
fn w6_refuses_malformed_config_json() {
    let mut report = Report::new("W6");
    let texts: [(&str, Vec<u8>, &[&str]); 14] = [
        ("cut", b"{".to_vec(), &["expected JSON"]),
        ("empty", Vec::new(), &["expected JSON"]),
        ("too long", vec![b' '; (1 << 20) + 1], &["longer than 1 MiB"]),
        ("a key twice", b"{\"a\":1,\"a\":1}".to_vec(), &["duplicate key \"a\""]),
        ("a key twice, escaped", b"{\"a\":1,\"\\u0061\":1}".to_vec(), &["duplicate key \"a\""]),
        ("deep lists", b"[".repeat(500_000), &["recursion"]),
        ("deep objects", b"{\"a\":".repeat(100_000), &["recursion"]),
        ("many objects", [b"{\"a\":[", &b"{\"b\":1},".repeat(100_000)[..]].concat(), &["more than 32768 values"]),
        ("many keys", [b"{", &b"\"\\u0061\":{},".repeat(80_000)[..]].concat(), &["duplicate key \"a\""]),
        ("a list", b"[]".to_vec(), &["JSON that is not an object"]),
        ("no keys", b"{}".to_vec(), &["no model_type"]),
        ("not UTF-8", b"{\"\xff\":1}".to_vec(), &["expected JSON"]),
        ("NaN", b"{\"rope_theta\": NaN}".to_vec(), &["expected JSON"]),
        ("a terminal's escape", b"{\"model_type\": \"a\\u001b[31m\\n\"}".to_vec(), &["model_type is "]),
    ];
    for (variant, text, words) in texts {
        let case = Case::new();
        fs::write(case.config(), text).expect("written");
        report.add(variant, case.refused(case.config(), words));
    }
    let case = Case::new();
    fs::write(case.config(), "").expect("written");
    File::options().write(true).open(case.config()).and_then(|file| file.set_len(1 << 40)).expect("resized");
    report.add("sparse", case.refused(case.config(), &["longer than 1 MiB"]));
}

/// Row W6.
#[test]
fn w6_refuses_impossible_values() {
    let mut report = Report::new("W6");
    let cases = [
        (
            json!({"model_type": "llama"}),
            "model_type is \"llama\", expected olmo, olmo2, olmo3, olmoe, flex_olmo or olmo_hybrid",
        ),
        (json!({"model_type": "bolmo"}), "model_type is \"bolmo\", expected olmo, olmo2, olmo3, olmoe"),
        (json!({"clip_qkv": 8.0}), "clip_qkv is 8.0, expected none for olmo2"),
        (json!({"model_type": null}), "no model_type"),
        (json!({"hidden_size": 0}), "hidden_size is 0"),
        (json!({"hidden_size": -36}), "hidden_size is -36, expected a whole number"),
        (json!({"hidden_size": 1u64 << 60}), "hidden_size is 1152921504606846976"),
        (json!({"hidden_size": u64::MAX}), "hidden_size is 18446744073709551615"),
        (json!({"hidden_size": "36"}), "hidden_size is \"36\""),
        (json!({"hidden_size": null}), "no hidden_size"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers is 0"),
        (json!({"num_hidden_layers": 4_294_967_295u64}), "num_hidden_layers is 4294967295"),
        (json!({"num_attention_heads": 5, "head_dim": null}), "num_attention_heads is 5, expected a divisor"),
        (json!({"num_attention_heads": 0, "head_dim": null}), "num_attention_heads is 0"),
        (json!({"num_key_value_heads": 4}), "num_key_value_heads is 4"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads is 0"),
        (json!({"head_dim": 7}), "head_dim is 7"),
        (json!({"head_dim": 0}), "head_dim is 0"),
        (json!({"intermediate_size": 0}), "intermediate_size is 0"),
        (json!({"vocab_size": 0}), "vocab_size is 0"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings is 0"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps is 0"),
        (json!({"rms_norm_eps": -1e-6}), "rms_norm_eps is -"),
        (json!({"rms_norm_eps": "NaN"}), "rms_norm_eps is \"NaN\", expected a number"),
        (json!({"rope_theta": 0.0}), "rope_theta is 0"),
        (json!({"rope_theta": -5.0}), "rope_theta is -5"),
        (json!({"rope_theta": 1e300}), "rope_theta is 1"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings is 1, expected true or false"),
    ];
    for (changes, word) in cases {
        let case = Case::new();
        set(&case, changes.clone());
        report.add(changes, case.refused(case.config(), &[word]));
    }
    for (changes, word) in [
        (json!({"clip_qkv": 0.0}), "clip_qkv is 0.0, expected a number from "),
        (json!({"clip_qkv": -0.75}), "clip_qkv is -0.75, expected a number from "),
        (json!({"clip_qkv": 1e300}), "clip_qkv is 1e300, expected a number from "),
        (json!({"clip_qkv": [8.0]}), "clip_qkv is [8.0], expected a number"),
        (json!({"rms_norm_eps": 1e-6}), "rms_norm_eps is 1e-6, expected 1e-5"),
    ] {
        let case = Case::of(&small_olmo1());
        set(&case, changes.clone());
        report.add(changes, case.refused(case.config(), &[word]));
    }
    // Infinity by overflow: JSON has no word for it.
    let case = Case::new();
    let text = fs::read_to_string(case.config()).expect("read").replace("10000.0", "1e999");
    fs::write(case.config(), text).expect("written");
    report.add("rope_theta 1e999", case.refused(case.config(), &["number out of range"]));
    // A value that contradicts the shapes is reported with the tensors.
    let case = Case::new();
    set(&case, json!({"vocab_size": 100}));
    let line = |tensor: &str| {
        vec![format!("{}: shape [101, 36], expected [100, 36] as in config.json", case.file(tensor).display())]
    };
    let refusal = Refusal { program: "olmo-pack", status: 1, lines: vec![line(EMBEDDING), line(HEAD)], more: 0 };
    report.add("vocab_size 100", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
    // And a flag that contradicts the file by the flag.
    for (flag, value, key) in [
        ("--rope-theta", "5e5", "rope_theta"),
        ("--rms-norm-eps", "1e-5", "rms_norm_eps"),
        ("--head-dim", "12", "head_dim"),
    ] {
        let case = Case::new();
        let begins = format!("{}: ", case.config().display());
        report.add(flag, case.refusal(begins, &[key, flag], &[flag, value]));
    }
}
