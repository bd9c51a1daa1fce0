//! Rows O10 and O11: the configuration.

use super::model::Model;
use super::{HUGE, header};
use olmo_infer::internals::format::config::MAX_WIDTH;
use olmo_infer::internals::format::{ConfigBlock, HEADER_BYTES, Header, TensorRecord};
use olmo_tests::catalogue::Report;
use olmo_tests::crafted::{CONFIG_REALS, Field, config_field, repair_digests};
use std::fs::File;
use std::mem::offset_of;

/// Integers that no model has, with the key that the message names and its text.
const IMPOSSIBLE: [(&str, &[u64], &str); 30] = [
    ("architecture", &[0, 7, 1 << 31, u64::MAX], ": architecture is "),
    ("architecture", &[3], ": rms_norm_eps is 1e-6"),
    ("architecture", &[4, 5], ": num_experts is 0, expected 1 to 512"),
    ("n_experts", &[1, 512, u64::MAX], ": num_experts is "),
    ("n_experts_per_tok", &[1, u64::MAX], ": num_experts_per_tok is set"),
    ("norm_topk_prob", &[1, u64::MAX], ": norm_topk_prob is set"),
    ("linear_num_key_heads", &[1, u64::MAX], ": linear_num_key_heads is set"),
    ("linear_num_value_heads", &[1, u64::MAX], ": linear_num_value_heads is set"),
    ("linear_key_head_dim", &[1, u64::MAX], ": linear_key_head_dim is set"),
    ("linear_value_head_dim", &[1, u64::MAX], ": linear_value_head_dim is set"),
    ("linear_conv_kernel_dim", &[1, u64::MAX], ": linear_conv_kernel_dim is set"),
    ("linear_allow_neg_eigval", &[1, u64::MAX], ": linear_allow_neg_eigval is set"),
    ("reserved_2", &[1, u64::MAX], ": reserved is set"),
    ("rope_type", &[3, 1 << 31, u64::MAX], ": rope_type is "),
    ("n_layers", &[0, 1025, 1 << 31, u64::MAX], ": num_hidden_layers is "),
    ("hidden_size", &[0, (1 << 20) + 1, 1 << 24, 1 << 31, u64::MAX], ": hidden_size is "),
    ("n_heads", &[0, (1 << 20) + 1, 1 << 31, u64::MAX], ": num_attention_heads is "),
    ("n_kv_heads", &[0, 3, 1 << 20, 1 << 31, u64::MAX], ": num_key_value_heads is "),
    ("head_dim", &[0, 1, 3, 1023, 1025, 1026, 1 << 31, u64::MAX], ": head_dim is "),
    ("intermediate_size", &[0, (1 << 20) + 1, 1 << 24, 1 << 31, u64::MAX], ": intermediate_size is "),
    ("vocab_size", &[0, (1 << 24) + 1, 1 << 31, u64::MAX], ": vocab_size is "),
    ("max_position_embeddings", &[0, (1 << 24) + 1, 1 << 31, u64::MAX], ": max_position_embeddings is "),
    ("sliding_window", &[1, 1 << 24, u64::MAX], ": sliding_window is "),
    ("tie_word_embeddings", &[2, 1 << 31, u64::MAX], ": tie_word_embeddings is "),
    ("rope_type", &[2], ": rope_type is set"),
    ("rope_type", &[1], ": rope_scaling.factor is 0"),
    ("n_eos_token_ids", &[0], ": eos_token_ids is set"),
    ("n_eos_token_ids", &[17, 1 << 31, u64::MAX], ": n_eos_token_ids is "),
    ("yarn_original_max_position_embeddings", &[1, u64::MAX], ": yarn_original_max_position_embeddings is set"),
    ("yarn_truncate", &[1, u64::MAX], ": yarn_truncate is set"),
];

/// Row O10: configurations: every count, every code, claims of a huge model.
///
/// Note on O10: Another valid number of positions or other EOS ids make another model: only the digest of the header
/// detects them.
#[test]
fn o10_refuses_impossible_configurations() {
    let model = Model::plain();
    let mut report = Report::new("O10");
    for (name, values, says) in IMPOSSIBLE {
        model.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
    let heads = [(config_field("n_heads"), 3), (config_field("n_kv_heads"), 2)];
    model.refuse(&mut report, "3 heads over 2", &model.with(&heads), &[": num_key_value_heads is 2", "a divisor of 3"]);
    for (n_heads, head_dim) in [(1 << 20, 1024), (1 << 20, 2), (1025, 1024)] {
        let wide = [(config_field("n_heads"), n_heads), (config_field("head_dim"), head_dim)];
        let words = [": head_dim is ", "heads * head_dim of at most 1048576"];
        model.refuse(&mut report, format!("{n_heads} heads of {head_dim}"), &model.with(&wide), &words);
    }
    let layers = offset_of!(ConfigBlock, sliding_layers);
    let words = [": layer_types is sliding_attention"];
    model.refuse(&mut report, "a window", &model.with(&[(Field::of_config(layers, 1), 1)]), &words);
    for (at, bit) in [(layers, 2), (layers, 0x80), (layers + 127, 0x80)] {
        let bytes = model.with(&[(Field::of_config(at, 1), bit)]);
        model.refuse(&mut report, format!("layer {at}"), &bytes, &[": sliding_layers is set"]);
    }
    let eos = Field::of_config(offset_of!(ConfigBlock, eos_token_ids) + 60, 4);
    model.refuse_values(&mut report, "eos_token_ids", eos, &[0, 1], &[": eos_token_ids is set"]);
}

/// Row O10.
#[test]
fn o10_refuses_configuration_of_another_model() {
    let model = Model::plain();
    let mut report = Report::new("O10");
    // Possible values, against records and lengths of other ones.
    for (name, values, says) in [
        ("n_layers", &[2, 1024][..], ": number of tensors: found "),
        ("tie_word_embeddings", &[1], ": number of tensors: found "),
        ("hidden_size", &[1, 16, 18, 1 << 20], ": file bytes: found "),
        ("n_heads", &[1, 3, 4, 512], ": found "),
        ("n_kv_heads", &[2], ": found "),
        ("head_dim", &[4, 1024], ": found "),
        ("intermediate_size", &[1, 4, 6, 1 << 20], ": found "),
        ("vocab_size", &[1, 64, 69, 71, 129, 1 << 24], ": found "),
    ] {
        model.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
    let yarn = Model::yarn();
    for (name, values, says) in [
        ("architecture", &[1][..], ": rope_scaling is yarn, expected none for olmo2"),
        ("rope_type", &[0], ": yarn_factor is set"),
        ("sliding_window", &[0, (1 << 24) + 1, u64::MAX], ": sliding_window is "),
        ("yarn_truncate", &[2, u64::MAX], ": yarn_truncate is "),
        (
            "yarn_original_max_position_embeddings",
            &[0, (1 << 24) + 1, u64::MAX],
            ": rope_scaling.original_max_position_embeddings is ",
        ),
    ] {
        yarn.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
}

/// Row O10.
#[test]
fn o10_refuses_impossible_olmo1_configurations() {
    let model = Model::olmo1();
    let mut report = Report::new("O10");
    for (name, values, says) in [
        ("architecture", &[1, 2][..], ": clip_qkv is 0.75"),
        ("rope_type", &[1], ": rope_scaling.factor is 0"),
        ("sliding_window", &[1, u64::MAX], ": sliding_window is "),
        ("tie_word_embeddings", &[1], ": number of tensors: found "),
    ] {
        model.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
    let sliding = Field::of_config(offset_of!(ConfigBlock, sliding_layers), 1);
    let words = [": layer_types is sliding_attention, expected full_attention everywhere for olmo"];
    model.refuse(&mut report, "a window", &model.with(&[(sliding, 1)]), &words);
    // One that does not clip and has the tensors of another family.
    for architecture in [1, 2] {
        let bytes = model.with(&[(config_field("architecture"), architecture), (config_field("clip_qkv"), 0)]);
        let words = [": number of tensors: found 9, expected 14"];
        model.refuse(&mut report, format!("architecture {architecture}"), &bytes, &words);
    }
    let plain = Model::plain();
    let eps = 1e-5f64.to_bits();
    let bytes = plain.with(&[(config_field("architecture"), 3), (config_field("rms_norm_eps"), eps)]);
    let words = [": number of tensors: found 14, expected 9"];
    plain.refuse(&mut report, "an OLMo-1 with norms", &bytes, &words);
}

/// The largest sizes that the format knows, and the index that they need, in a file of `length` bytes.
fn largest(model: &Model, length: u64) -> Vec<(Field, u64)> {
    let n_tensors = 1024 * 11 + 3;
    let index_bytes = n_tensors * size_of::<TensorRecord>() + size_of_val(model.file.sections());
    [
        ("n_layers", 1024),
        ("hidden_size", MAX_WIDTH as u64),
        ("n_heads", 1024),
        ("n_kv_heads", 1024),
        ("head_dim", 1024),
        ("intermediate_size", MAX_WIDTH as u64),
        ("vocab_size", 1 << 24),
    ]
    .map(|(name, value)| (config_field(name), value))
    .into_iter()
    .chain([
        (header(offset_of!(Header, n_tensors), 4), n_tensors as u64),
        (header(offset_of!(Header, index_bytes), 8), index_bytes as u64),
        (header(offset_of!(Header, file_bytes), 8), length),
    ])
    .collect()
}

/// Row O10.
#[test]
fn o10_refuses_header_of_a_huge_model() {
    let model = Model::plain();
    let mut report = Report::new("O10");
    let length = model.good.len() as u64;
    let tiny = model.with(&largest(&model, length));
    model.refuse(&mut report, "a tiny file", &tiny, &[": index: found a file of ", "expected room for the index"]);
    let sparse = |name: &str, bytes: &[u8]| {
        let path = model.write(name, bytes);
        File::options().write(true).open(&path).expect("open").set_len(HUGE).expect("a sparse file");
        path
    };
    let path = sparse("sparse.olmo", &model.with(&largest(&model, HUGE)));
    model.refuse_path(&mut report, "a sparse file", &path, &[": index digest: found "]);
    // With an index of zeros under its right digest, and then with a type in each record.
    let n_bytes = header(offset_of!(Header, index_bytes), 8).get(&tiny) as usize;
    let mut crafted = [&model.with(&largest(&model, HUGE))[..HEADER_BYTES], &vec![0; n_bytes]].concat();
    repair_digests(&mut crafted);
    let path = sparse("zeros.olmo", &crafted);
    model.refuse_path(&mut report, "an index of zeros", &path, &[": section 0: found a kind out of order"]);
    crafted[HEADER_BYTES..].copy_from_slice(&vec![0; n_bytes]);
    header(offset_of!(Header, n_sections), 4).set(&mut crafted, 0);
    let without = n_bytes - size_of_val(model.file.sections());
    header(offset_of!(Header, index_bytes), 8).set(&mut crafted, without as u64);
    repair_digests(&mut crafted);
    let path = sparse("untyped.olmo", &crafted);
    model.refuse_path(&mut report, "no type", &path, &["model.embed_tokens.weight: found element type 0"]);
    let n_tensors = header(offset_of!(Header, n_tensors), 4).get(&crafted) as usize;
    for tensor in 0..n_tensors {
        Field::of_tensor(tensor, offset_of!(TensorRecord, dtype), 4).set(&mut crafted, 1);
    }
    repair_digests(&mut crafted);
    let path = sparse("typed.olmo", &crafted);
    model.refuse_path(&mut report, "a type", &path, &[": file bytes: found 1099511627776, expected "]);
}

/// Row O11: real numbers of the configuration.
#[test]
fn o11_refuses_impossible_real_numbers() {
    let mut report = Report::new("O11");
    let model = Model::yarn();
    let never = [
        f64::NAN,
        -f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        -1.0,
        5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
    ];
    let key = |name: &str| match name {
        "rope_theta_sliding" => "rope_theta".to_string(),
        name => name.replace("yarn_", "rope_scaling."),
    };
    let limits: [(f64, f64); 7] =
        [(1e-12, 1.0), (1.0, 1e12), (1.0, 1e12), (1.0, 1e6), (1e-3, 1e6), (1e-3, 1e6), (1e-3, 1e3)];
    for ((name, _), (least, most)) in CONFIG_REALS.into_iter().zip(limits) {
        let says = [&format!(": {} is ", key(name)), ", expected a number from ", "pack the weights again"];
        for value in never.into_iter().chain([least.next_down(), most.next_up()]) {
            let bytes = model.with(&[(config_field(name), value.to_bits())]);
            model.refuse(&mut report, format!("{name} = {value:e}"), &bytes, &says);
        }
    }
    let one = model.with(&[(config_field("rope_theta"), 1f64.to_bits())]);
    model.refuse(&mut report, "rope_theta 1", &one, &[": rope_theta is 1", "more than 1 with YaRN"]);
    // Without YaRN its numbers are +0.
    let plain = Model::plain();
    for (name, _) in &CONFIG_REALS[3..limits.len()] {
        let says = format!(": {name} is set, expected nothing where it has no use");
        for value in [-0.0, 1.0, f64::NAN] {
            let bytes = plain.with(&[(config_field(name), value.to_bits())]);
            plain.refuse(&mut report, format!("{name} = {value:e} without use"), &bytes, &[&says]);
        }
    }
    // OLMo-1 has one epsilon, and only OLMo-1 clips: 0 is the word for not at all.
    let olmo1 = Model::olmo1();
    for value in [1e-6, 1e-5f64.next_down(), 1e-5f64.next_up()] {
        let bytes = olmo1.with(&[(config_field("rms_norm_eps"), value.to_bits())]);
        let says = [": rms_norm_eps is ", ", expected 1e-5 as in every olmo model"];
        olmo1.refuse(&mut report, format!("rms_norm_eps = {value:e} in OLMo-1"), &bytes, &says);
    }
    let limits = [1e-3f64.next_down(), 1e6f64.next_up()];
    for value in never.into_iter().chain(limits).filter(|value| value.to_bits() != 0) {
        let clip = [(config_field("clip_qkv"), value.to_bits())];
        let says = [": clip_qkv is ", ", expected a number from 1e-3 to 1e6"];
        olmo1.refuse(&mut report, format!("clip_qkv = {value:e}"), &olmo1.with(&clip), &says);
        let says = [": clip_qkv is ", ", expected none for olmo2"];
        plain.refuse(&mut report, format!("clip_qkv = {value:e} in OLMo-2"), &plain.with(&clip), &says);
    }
}
