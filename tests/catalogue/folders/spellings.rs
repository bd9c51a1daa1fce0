//! Rows W28 and W29: experts, and the names and the convolution of linear attention.

use super::{Case, set};
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::{read_f32_npy, small_flex_olmo, small_hybrid, small_olmoe, write_npy};
use serde_json::json;
use std::fs;

const EXPERT: &str = "model.layers.1.mlp.experts.4.up_proj.weight";
const ROUTER: &str = "model.layers.0.mlp.gate.weight";
const GATE_UP: &str = "model.layers.1.mlp.experts.gate_up_proj";
const DOWN: &str = "model.layers.1.mlp.experts.down_proj";
const CONVOLUTION: &str = "model.layers.0.linear_attn.k_conv1d.weight";

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Makes the two tensors of the experts of layer 1 that transformers has in memory; `keeps` leaves the others there.
fn fuse(case: &Case, keeps: bool) {
    let (experts, mut gate_up, mut down) = (5, Vec::new(), Vec::new());
    for expert in 0..experts {
        for role in ["gate_proj", "up_proj", "down_proj"] {
            let fused = if role == "down_proj" { &mut down } else { &mut gate_up };
            let path = case.file(&format!("model.layers.1.mlp.experts.{expert}.{role}.weight"));
            fused.extend(read_f32_npy(&path).1);
            if !keeps {
                fs::remove_file(path).expect("removed");
            }
        }
    }
    write_npy(&case.file(GATE_UP), "<f4", &[experts, 2 * 23, 36], &bytes(&gate_up));
    write_npy(&case.file(DOWN), "<f4", &[experts, 36, 23], &bytes(&down));
}

/// Row W28: experts that are missing, too many, of another shape or there twice; impossible numbers of them.
#[test]
fn w28_refuses_experts_that_are_not_those_of_the_model() {
    let mut report = Report::new("W28");
    let spoil = |path: &str, words: &[&str], spoil: &dyn Fn(&Case)| {
        let case = Case::of(&small_olmoe());
        spoil(&case);
        case.refused(case.file(path), words)
    };
    let missing = ["missing (layer 1 of 2, expert 4 of 5)", "expected a tensor [23, 36]"];
    report.add("missing", spoil(EXPERT, &missing, &|case| fs::remove_file(case.file(EXPERT)).expect("removed")));
    let router = ["missing (layer 0 of 2)", "expected a tensor [5, 36]"];
    report.add("router", spoil(ROUTER, &router, &|case| fs::remove_file(case.file(ROUTER)).expect("removed")));
    let sixth = "model.layers.0.mlp.experts.5.up_proj.weight";
    let more = |case: &Case| write_npy(&case.file(sixth), "<f4", &[23, 36], &[0; 23 * 36 * 4]);
    report.add("one more", spoil(sixth, &["not a parameter of this model"], &more));
    let other = |case: &Case| write_npy(&case.file(EXPERT), "<f4", &[24, 36], &[0; 24 * 36 * 4]);
    report.add("shape", spoil(EXPERT, &["shape [24, 36]", "expected [23, 36]"], &other));
    report.add("fused", {
        let case = Case::of(&small_olmoe());
        fuse(&case, false);
        case.packed(&[])
    });
    let twice = |case: &Case| fuse(case, true);
    report.add("both spellings", {
        let case = Case::of(&small_olmoe());
        twice(&case);
        let line = |role: &str, fused: &str| {
            let own = case.file(&format!("model.layers.1.mlp.experts.0.{role}.weight"));
            vec![format!("{}: there, and {fused} too, expected one of them", own.display()), "keep one".into()]
        };
        let lines = vec![line("gate_proj", GATE_UP), line("down_proj", DOWN)];
        let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: 0 };
        refusal.check(case.folder.path(), || case.pack(&case.weights, &[]))
    });
    let shape = |case: &Case| {
        fuse(case, false);
        write_npy(&case.file(DOWN), "<f4", &[5, 23, 36], &[0; 5 * 36 * 23 * 4]);
    };
    report.add("fused, transposed", {
        let case = Case::of(&small_olmoe());
        shape(&case);
        let line = || vec![format!("{}: shape [5, 23, 36], expected [5, 36, 23]", case.file(DOWN).display())];
        let refusal = Refusal { program: "olmo-pack", status: 1, lines: (0..5).map(|_| line()).collect(), more: 0 };
        refusal.check(case.folder.path(), || case.pack(&case.weights, &[]))
    });
    for (what, changes, words) in [
        ("K > E", json!({"num_experts_per_tok": 6}), "num_experts_per_tok is 6, expected 1 to 5"),
        ("K = 0", json!({"num_experts_per_tok": 0}), "num_experts_per_tok is 0, expected 1 to 5"),
        ("E = 0", json!({"num_experts": 0}), "num_experts is 0, expected 1 to 512"),
        ("E large", json!({"num_experts": 513}), "num_experts is 513, expected 1 to 512"),
        ("E text", json!({"num_experts": "5"}), "num_experts is \"5\""),
        ("no E", json!({"num_experts": null}), "no num_experts"),
        ("two E", json!({"num_local_experts": 4}), "num_local_experts is 4, expected 5"),
        ("no K", json!({"num_experts_per_tok": null}), "no num_experts_per_tok"),
        ("no norm", json!({"norm_topk_prob": null}), "no norm_topk_prob"),
        ("another class", json!({"architectures": ["FlexOlmoForCausalLM"]}), "expected OlmoeForCausalLM"),
    ] {
        let case = Case::of(&small_olmoe());
        set(&case, changes);
        report.add(what, case.refused(case.config(), &[words]));
    }
    let case = Case::of(&small_flex_olmo());
    set(&case, json!({"clip_qkv": 8.0}));
    report
        .add("FlexOlmo does not clip", case.refused(case.config(), &["clip_qkv is 8.0, expected none for flex_olmo"]));
    let case = Case::of(&small_olmoe());
    fs::remove_file(case.config()).expect("removed");
    let words = ["no config.json, and expert tensors, as in OLMoE and FlexOlmo"];
    report.add("no config.json", case.folder_refused(&case.weights, &words));
}

/// Row W29: convolutions that do not add up, other names at once, and RoPE that is not stated.
#[test]
fn w29_refuses_linear_attention_that_is_not_that_of_the_model() {
    let mut report = Report::new("W29");
    let convolution = |shape: &[usize], descr: &str, size: usize, words: &[&str]| {
        let case = Case::of(&small_hybrid());
        let n: usize = shape.iter().product();
        write_npy(&case.file(CONVOLUTION), descr, shape, &vec![0; n * size]);
        let refused = case.file("model.layers.0.linear_attn.q_conv1d.weight");
        let path = if words[0].starts_with("a convolution") { refused } else { case.file(CONVOLUTION) };
        case.refused(path, words)
    };
    // q and k have 10 channels, v 44.
    let sum = ["a convolution of 65 channels in all, expected 64"];
    report.add("one channel more", convolution(&[11, 1, 4], "<f4", 4, &sum));
    report.add("kernel", convolution(&[10, 1, 3], "<f4", 4, &["shape [10, 1, 3], expected [channels, 1, 4]"]));
    report.add("rank", convolution(&[10, 4], "<f4", 4, &["shape [10, 4], expected [channels, 1, 4]"]));
    let types = ["of f16 numbers, expected f32 numbers as in the part before"];
    report.add("types", convolution(&[10, 1, 4], "<f2", 2, &types));
    let cut = |channels: [usize; 3]| {
        let case = Case::of(&small_hybrid());
        let file = |part: &str| case.file(&format!("model.layers.0.linear_attn.{part}_conv1d.weight"));
        let mut all: Vec<f32> = ["q", "k", "v"].iter().flat_map(|part| read_f32_npy(&file(part)).1).collect();
        for (part, n) in ["q", "k", "v"].iter().zip(channels) {
            write_npy(&file(part), "<f4", &[n, 1, 4], &bytes(&all.drain(..n * 4).collect::<Vec<_>>()));
        }
        case
    };
    // As transformers 5.24 saves them.
    report.add("cut in thirds", cut([22, 22, 20]).packed(&[]));
    let removed = |tensor: &str, words: &[&str]| {
        let case = Case::of(&small_hybrid());
        fs::remove_file(case.file(tensor)).expect("removed");
        case.refused(case.file(tensor), words)
    };
    report.add("a part missing", removed(CONVOLUTION, &["missing (layer 0 of 3), expected it too"]));
    report
        .add("decay", removed("model.layers.2.linear_attn.A_log", &["missing (layer 2 of 3), expected a tensor [4]"]));
    for (own, other) in [
        ("input_layernorm.weight", "attention_layer_norm.weight"),
        ("post_attention_layernorm.weight", "feedforward_layer_norm.weight"),
        ("linear_attn.o_proj.weight", "linear_attn.out_proj.weight"),
        ("linear_attn.o_norm.weight", "linear_attn.norm.weight"),
    ] {
        let case = Case::of(&small_hybrid());
        let file = |name: &str| case.file(&format!("model.layers.2.{name}"));
        fs::copy(file(own), file(other)).expect("copied");
        let words = format!("there, and model.layers.2.{other} too, expected one of them");
        report.add(format_args!("{own} twice"), case.refused(file(own), &[&words]));
        fs::remove_file(file(own)).expect("removed");
        report.add(other, case.packed(&[]));
    }
    let case = Case::of(&small_hybrid());
    let parts = ["q", "k", "v"].map(|part| case.file(&format!("model.layers.0.linear_attn.{part}_conv1d.weight")));
    let all: Vec<f32> = parts.iter().flat_map(|part| read_f32_npy(part).1).collect();
    let whole = case.file("model.layers.0.linear_attn.conv1d.weight");
    write_npy(&whole, "<f4", &[64, 1, 4], &bytes(&all));
    report.add("convolution twice", case.refused(&parts[0], &["there, and model.layers.0.linear_attn.conv1d.weight"]));
    parts.iter().for_each(|part| fs::remove_file(part).expect("removed"));
    report.add("one convolution", case.packed(&[]));
    for (what, changes, words) in [
        (
            "no base",
            json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": null}}),
            "rope_theta is null in one place",
        ),
        (
            "a kind",
            json!({"layer_types": ["linear_attention", "sliding_attention", "full_attention"]}),
            "layer_types is sliding_attention",
        ),
        ("heads", json!({"linear_num_key_heads": 3}), "linear_num_value_heads is 4, expected a multiple of 3"),
        ("no heads", json!({"linear_num_key_heads": 0}), "linear_num_key_heads is 0, expected 1 to 4096"),
        ("kernel", json!({"linear_conv_kernel_dim": 17}), "linear_conv_kernel_dim is 17, expected 1 to 16"),
        (
            "yarn",
            json!({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
            "none for olmo_hybrid",
        ),
    ] {
        let case = Case::of(&small_hybrid());
        set(&case, changes);
        report.add(what, case.refused(case.config(), &[words]));
    }
    let case = Case::of(&small_hybrid());
    let text = fs::read_to_string(case.config()).expect("read").replace("  \"rope_theta\": null,\n", "");
    fs::write(case.config(), text).expect("written");
    report.add("nothing about RoPE", case.refused(case.config(), &["no rope_theta", "null for a model without RoPE"]));
}
