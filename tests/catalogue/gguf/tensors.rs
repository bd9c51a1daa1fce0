//! Rows G7 to G9: descriptions of tensors, types that cannot be packed, and numbers.

use super::{Case, changed, refused};
use olmo_pack::folder::gguf::tensor_type::TensorType;
use olmo_tests::Random;
use olmo_tests::catalogue::Report;
use olmo_tests::gguf::{Gguf, Meta, Tensor, blocks};
use std::fs;

/// Row G7: impossible shapes, unknown types, names twice, tensors that are missing or that no OLMo has.
#[test]
fn g7_refuses_impossible_tensors() {
    let mut report = Report::new("G7");
    let name = "output_norm.weight";
    for (shape, says) in [
        (vec![], "0 dimensions, expected 1 to 4"),
        (vec![1; 5], "5 dimensions, expected 1 to 4"),
        (vec![0], "a dimension of 0, expected elements"),
        (vec![36, 0], "a dimension of 0"),
        (vec![1 << 40, 1 << 40], "more than 2^64 bytes"),
        (vec![u64::MAX], "more than 2^64 bytes"),
        (vec![1 << 62], "more than 2^64 bytes"),
        (vec![1 << 40], "of a file of "),
        (vec![37], "expected "),
    ] {
        let words = [&format!("{name}: ")[..], says];
        let found = refused(&words, |gguf| gguf.tensor(name).shape = shape.clone());
        // A longer or shorter one moves those behind it.
        report.add(
            format_args!("{shape:?}"),
            if shape == [37] {
                found.or_else(|_| refused(&["data at "], |gguf| gguf.tensor(name).shape = shape.clone()))
            } else {
                found
            },
        );
    }
    for kind in [4, 5, 31, 36, 38, 42, 1000, u32::MAX] {
        let words = [&format!("{name}: type {kind}, expected a type of GGUF")[..], "get a Q8_0, F16 or BF16 file"];
        report.add(format_args!("type {kind}"), refused(&words, |gguf| gguf.tensor(name).kind = kind));
    }
    let words = ["rows of 36 elements, expected a multiple of 32, the blocks of Q8_0"];
    report.add("part of a block", refused(&words, |gguf| gguf.tensor("output.weight").kind = 8));
    let copy = |from: &str, name: &str| {
        let (from, name) = (from.to_string(), name.to_string());
        move |gguf: &mut Gguf| {
            let tensor = gguf.tensor(&from).clone();
            gguf.tensors.push(Tensor { name, ..tensor });
        }
    };
    report.add("twice", refused(&[name, ": a tensor twice, expected each tensor once"], copy(name, name)));
    report.add("no name", refused(&["an empty name"], copy(name, "")));
    report.add("a long name", refused(&["a text of 256 bytes"], copy(name, &"n".repeat(256))));
    let words = ["model.norm.weight: the name of a tensor in a checkpoint, expected output_norm.weight in a GGUF file"];
    report.add("a name of a checkpoint", refused(&words, copy(name, "model.norm.weight")));
    for extra in ["rope_freqs.weight", "blk.0.attn_norm.weight", "blk.00.attn_q.weight", "blk.2.attn_q.weight", "x"] {
        let words = [&format!("{extra}: not a parameter of this model")[..]];
        report.add(extra, refused(&words, copy(name, extra)));
    }
    let without = |name: &'static str| move |gguf: &mut Gguf| gguf.tensors.retain(|tensor| tensor.name != name);
    report.add("no norm", refused(&["output_norm.weight: missing, expected a tensor [36]"], without(name)));
    report.add(
        "no embedding",
        refused(&["token_embd.weight: missing, expected the embedding"], without("token_embd.weight")),
    );
    let words = ["blk.1.ffn_up.weight: missing (layer 1 of 2)", "convert the whole model"];
    report.add("no matrix", refused(&words, without("blk.1.ffn_up.weight")));
    report.add("no head is a tied model", changed(without("output.weight")).packed().map(drop));
    let swap = |gguf: &mut Gguf| gguf.tensor("blk.0.ffn_up.weight").shape.reverse();
    report.add(
        "transposed",
        refused(&["blk.0.ffn_up.weight: shape [36, 71], expected [71, 36] as in the metadata"], swap),
    );
}

/// Row G8: types that cannot be packed without a second error.
#[test]
fn g8_refuses_other_types_in_one_line() {
    let mut report = Report::new("G8");
    let code = |gguf: &mut Gguf, name: &str, code: u32| {
        let kind = TensorType::with_code(code).expect("a type");
        let tensor = gguf.tensor(name);
        let n_elements = tensor.shape.iter().product::<u64>();
        tensor.kind = code;
        tensor.data = blocks(kind, n_elements, &mut Random(1));
    };
    let of = |change: &dyn Fn(&mut Gguf)| {
        let mut case = Case::of(&olmo_infer::internals::format::config::ModelConfig {
            hidden_size: 256,
            n_heads: 4,
            n_kv_heads: 4,
            head_dim: 64,
            intermediate_size: 256,
            ..olmo_tests::small_config()
        });
        change(&mut case.gguf);
        fs::write(&case.file, case.gguf.bytes()).expect("written");
        case
    };
    let all = |codes: u32| {
        move |gguf: &mut Gguf| {
            let names: Vec<String> =
                gguf.tensors.iter().filter(|t| t.shape.len() == 2).map(|t| t.name.clone()).collect();
            names.iter().for_each(|name| code(gguf, name, codes));
        }
    };
    for (number, name) in [
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (10, "Q2_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
        (23, "IQ4_XS"),
        (28, "F64"),
        (39, "MXFP4"),
    ] {
        let says = format!(
            "type {name}, and 15 more tensors of such types; storing it in another type would add a second error"
        );
        let words =
            [&says[..], "expected F32, F16, BF16, Q8_0, Q4_0 or IQ4_NL; get a Q8_0, F16 or BF16 file of this model"];
        report.add(name, of(&all(number)).refused(&words));
    }
    let words = ["blk.1.attn_v.weight: type Q5_K; storing it"];
    report.add("one of them", of(&|gguf| code(gguf, "blk.1.attn_v.weight", 13)).refused(&words));
    // The head of a file of Q4_0 is Q6_K. Next to others it is not.
    let head = |layers: u32| {
        of(&move |gguf: &mut Gguf| {
            all(layers)(gguf);
            code(gguf, "output.weight", 14);
        })
    };
    report.add("a head next to Q4_0", head(2).warned("output.weight is Q6_K"));
    report.add("a head next to IQ4_NL", head(20).warned("output.weight is Q6_K"));
    report.add("a head next to Q8_0", head(8).refused(&["output.weight: type Q6_K; storing it"]));
    let embedding = of(&|gguf| {
        all(2)(gguf);
        code(gguf, "token_embd.weight", 14);
    });
    report.add("an embedding", embedding.refused(&["token_embd.weight: type Q6_K; storing it"]));
}

/// Row G9: NaN and infinity, in elements and in the scales of blocks; the file as its own target.
#[test]
fn g9_refuses_scales_that_are_not_finite() {
    let mut report = Report::new("G9");
    for (name, half) in [("infinity", 0x7c00u16), ("NaN", 0x7e00), ("minus infinity", 0xfc00)] {
        for (kind, bytes) in [(8u32, 34usize), (2, 18), (20, 18)] {
            let mut case = Case::of_blocks();
            let tensor = case.gguf.tensor("blk.0.ffn_up.weight");
            let n_elements = tensor.shape.iter().product::<u64>();
            tensor.kind = kind;
            tensor.data = blocks(TensorType::with_code(kind).expect("a type"), n_elements, &mut Random(1));
            tensor.data[bytes..bytes + 2].copy_from_slice(&half.to_le_bytes());
            let words = ["blk.0.ffn_up.weight: 32 of its numbers are NaN or infinite, the first at [0, 32]"];
            report.add(format_args!("{name} in type {kind}"), case.bytes_refused(&case.gguf.bytes(), &words));
        }
    }
    let words = ["output_norm.weight: 1 of its numbers are NaN or infinite"];
    report.add(
        "a vector",
        refused(&words, |gguf| gguf.tensor("output_norm.weight").data[..4].copy_from_slice(&[0xff; 4])),
    );
    let case = changed(|gguf| gguf.set("general.name", Meta::from("another")));
    let same = Case { model: case.file.clone(), ..case };
    let words = ["is the same file as "];
    report.add("itself", same.refused(&words));
}
