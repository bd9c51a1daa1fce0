//! Rows G10 and G11: architectures and values.

use super::{Case, changed, refused};
use olmo_tests::catalogue::Report;
use olmo_tests::gguf::{Gguf, Meta, keys};
use olmo_tests::{small_olmo1, small_olmo3};
use std::fs;

fn set<V: Into<Meta>>(key: &str, value: V) -> impl FnOnce(&mut Gguf) + use<V> {
    let (key, value) = (key.to_string(), value.into());
    let key = if key.contains('.') && !key.starts_with('.') { key } else { format!("olmo2{key}") };
    move |gguf| gguf.set(&key, value)
}

/// Row G10: other architectures, parts of a model, and keys that change the arithmetic.
#[test]
fn g10_refuses_other_models() {
    let mut report = Report::new("G10");
    let of = "expected olmo or olmo2, as llama.cpp names OLMo-1, OLMo-2 and Olmo-3; ";
    for (name, advice) in [
        ("olmoe", "pack the safetensors checkpoint of OLMoE"),
        ("olmo3", "only OLMo-1, OLMo-2 and Olmo-3 are supported"),
        ("llama", "only OLMo-1, OLMo-2 and Olmo-3 are supported"),
        ("", "only OLMo-1"),
        ("\u{1b}[31m", "only OLMo-1"),
    ] {
        report.add(name, refused(&["general.architecture: ", of, advice], set("general.architecture", name)));
    }
    report.add(
        "a number",
        refused(&["general.architecture: a whole number, expected text"], set("general.architecture", Meta::U32(1))),
    );
    let words = ["split.count: one of 2 files, expected a model in one file; merge them with llama-gguf-split --merge"];
    report.add("a part", refused(&words, set("split.count", Meta::U32(2))));
    report.add("one part", changed(set("split.count", Meta::U32(1))).packed().map(drop));
    for (key, value, says) in [
        (".expert_count", Meta::U32(8), "olmo2.expert_count: 8, expected no experts"),
        (".rope.scale_linear", Meta::F32(2.0), "olmo2.rope.scale_linear: 2, expected 1"),
        (".rope.scaling.yarn_ext_factor", Meta::F32(0.5), "olmo2.rope.scaling.yarn_ext_factor: 0.5, expected 1"),
        (".attention.causal", Meta::Bool(false), "olmo2.attention.causal: false, expected true"),
        (".rope.dimension_count", Meta::U32(4), "olmo2.rope.dimension_count: 4, expected 6, the width of a head"),
        (".attention.value_length", Meta::U32(8), "olmo2.attention.value_length: 8, expected 6"),
        (".rope.scaling.type", Meta::from("longrope"), "rope_type is \"longrope\", expected default or yarn"),
        (".rope.scaling.factor", Meta::F32(4.0), "rope_type is \"linear\", expected default or yarn"),
        (".attention.head_count_kv", Meta::I32s(vec![2, 2]), "olmo2.attention.head_count_kv: a value for each layer"),
        (".vocab_size", Meta::U32(100), "olmo2.vocab_size: 100, expected 101, the rows of token_embd.weight"),
    ] {
        report.add(key, refused(&[says], set(key, value)));
    }
    report.add("the width of a head", changed(set(".rope.dimension_count", Meta::U32(6))).packed().map(drop));
    report.add("no scaling", changed(set(".rope.scaling.type", "none")).packed().map(drop));
}

/// Row G11: values that are missing, of another type, or impossible.
#[test]
fn g11_refuses_impossible_values() {
    let mut report = Report::new("G11");
    for key in ["block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length"] {
        let key = format!("olmo2.{key}");
        let words = [&format!("no {key}, expected the model's value; add it")[..]];
        report.add(format_args!("no {key}"), refused(&words, |gguf| gguf.unset(&key)));
        for (value, says) in [
            (Meta::I32(-1), "-1, expected a number that is not negative"),
            (Meta::F32(2.0), "a number, expected a whole number"),
            (Meta::from("2"), "text, expected a whole number"),
            (Meta::Bool(true), "true or false, expected a whole number"),
        ] {
            let words = [&format!("{key}: ")[..], says];
            report.add(format!("{key} {value:?}"), refused(&words, |gguf| gguf.set(&key, value)));
        }
        for value in [Meta::U32(0), Meta::U32(u32::MAX), Meta::U64(u64::MAX)] {
            let words = ["m.gguf: ", "expected "];
            report.add(format!("{key} {value:?}"), refused(&words, |gguf| gguf.set(&key, value)));
        }
    }
    for (key, value, says) in [
        (".attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN), "NaN, expected a finite number"),
        (".attention.layer_norm_rms_epsilon", Meta::F32(0.0), "olmo2.attention.layer_norm_rms_epsilon is 0"),
        (".rope.freq_base", Meta::F32(f32::INFINITY), "inf, expected a finite number"),
        (".rope.freq_base", Meta::F32(-1.0), "olmo2.rope.freq_base is -1"),
        (".rope.freq_base", Meta::F64(f64::MAX), "olmo2.rope.freq_base is 1.797"),
        (".attention.head_count", Meta::U32(5), "olmo2.attention.head_count is 5, expected a divisor of"),
        (".attention.head_count_kv", Meta::U32(4), "olmo2.attention.head_count_kv is 4"),
        (".attention.sliding_window", Meta::U32(1 << 30), "olmo2.attention.sliding_window is "),
        ("tokenizer.ggml.eos_token_id", Meta::U64(1 << 40), "eos_token_id"),
        ("tokenizer.ggml.bos_token_id", Meta::from("x"), "tokenizer.ggml.bos_token_id: text"),
    ] {
        report.add(format!("{key} {value:?}"), refused(&[says], set(key, value)));
    }
    for (value, says) in [
        (Meta::Bools(vec![true; 3]), "3 items, expected 2, one for each layer"),
        (Meta::Bools(vec![]), "0 items, expected 2"),
        (Meta::from("every"), "text, expected a whole number"),
        (Meta::Texts(vec!["a".into(); 2]), "a list of 2 items, each text, expected a list of whole numbers"),
    ] {
        let words = ["olmo2.attention.sliding_window_pattern: ", says];
        report.add(
            format!("{value:?}"),
            refused(&words, |gguf| {
                gguf.set("olmo2.attention.sliding_window", Meta::U32(5));
                gguf.set("olmo2.attention.sliding_window_pattern", value);
            }),
        );
    }
    // OLMo-1 clips, has another epsilon and no other one.
    let mut case = Case::of(&small_olmo1());
    for (key, value, says) in [
        ("olmo.attention.clamp_kqv", Meta::F32(-1.0), "olmo.attention.clamp_kqv is -1"),
        ("olmo.attention.layer_norm_epsilon", Meta::F32(1e-3), "olmo.attention.layer_norm_epsilon is 0.001"),
    ] {
        case.gguf.keys = keys(&small_olmo1());
        case.gguf.set(key, value);
        report.add(key, case.bytes_refused(&case.gguf.bytes(), &[says]));
    }
    // Olmo-3 of 65,536 positions without YaRN.
    let mut case = Case::of(&small_olmo3());
    case.gguf.keys.retain(|(key, _)| !key.contains("rope.scaling"));
    case.gguf.set("olmo2.context_length", Meta::U32(65_536));
    fs::write(&case.file, case.gguf.bytes()).expect("written");
    report.add("no YaRN", case.warned("65536 positions and no rope scaling, which older converters left out"));
}
