//! Row G12: tokenizers.

use super::{changed, refused};
use olmo_tests::catalogue::Report;
use olmo_tests::gguf::{Gguf, Meta};

/// Sets the tokens, their types and the merges.
fn tokens(tokens: &[&str], types: &[i32], merges: &[&str]) -> impl FnOnce(&mut Gguf) + use<> {
    let texts = |texts: &[&str]| Meta::Texts(texts.iter().map(|text| text.to_string()).collect());
    let (tokens, types, merges) = (texts(tokens), Meta::I32s(types.to_vec()), texts(merges));
    move |gguf| {
        gguf.set("tokenizer.ggml.model", "gpt2");
        gguf.set("tokenizer.ggml.pre", "dbrx");
        gguf.set("tokenizer.ggml.tokens", tokens);
        gguf.set("tokenizer.ggml.token_type", types);
        gguf.set("tokenizer.ggml.merges", merges);
    }
}

/// Row G12: tokens and merges that are malformed are refused, tokenizers that are not supported are left out.
#[test]
fn g12_refuses_malformed_tokens() {
    let mut report = Report::new("G12");
    let again = "convert the model again";
    for (name, words, change) in [
        ("a token twice", &["tokenizer.ggml.tokens: duplicate key \"a\""][..], tokens(&["a", "b", "a"], &[1; 3], &[])),
        ("too few types", &["tokenizer.ggml.token_type: 2 types for 3 tokens"], tokens(&["a", "b", "c"], &[1; 2], &[])),
        ("no text", &["tokenizer.ggml.tokens: id 1 without a token"], tokens(&["a", "", "c"], &[1; 3], &[])),
        ("no tokens", &["no tokens, expected the tokens of a model"], tokens(&[], &[], &[])),
    ] {
        report.add(name, refused(&[words, &[again]].concat(), change));
    }
    let many: Vec<String> = (0..1200).map(|i| format!("t{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let words = ["tokenizer.ggml.tokens: 1200 tokens for 101 rows of the embedding, expected at most 1024 more"];
    report.add("many tokens", refused(&words, tokens(&many, &[1; 1200], &[])));
    for key in ["tokens", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        let words = [&format!("{key}: ")[..], "expected a list of texts"];
        report.add(
            format_args!("a number for {key}"),
            refused(&words, |gguf| {
                tokens(&["a"], &[1], &[])(gguf);
                gguf.set(&key, Meta::U32(1));
            }),
        );
        let raw = [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &1u64.to_le_bytes(), b"\xff"].concat();
        let words = [&format!("{key}: text that is not UTF-8, expected UTF-8")[..]];
        report.add(
            format_args!("bytes for {key}"),
            refused(&words, |gguf| {
                tokens(&["a"], &[1], &[])(gguf);
                gguf.set(&key, Meta::Raw(9, raw));
            }),
        );
    }
    // A tokenizer that cannot be used does not hinder the model.
    for (key, value) in [
        ("model", Meta::from("llama")),
        ("pre", Meta::from("default")),
        ("add_bos_token", Meta::Bool(true)),
        ("merges", Meta::Texts(vec!["a".into()])),
    ] {
        let case = changed(|gguf| {
            tokens(&["a", "b"], &[1, 1], &[])(gguf);
            gguf.set(&format!("tokenizer.ggml.{key}"), value);
        });
        report.add(format_args!("another {key}"), case.packed().map(drop));
    }
    report.add(
        "no split",
        changed(|gguf| {
            tokens(&["a", "b"], &[1, 1], &[])(gguf);
            gguf.unset("tokenizer.ggml.pre");
        })
        .packed()
        .map(drop),
    );
    report.add(
        "a template that is not text",
        refused(&["tokenizer.chat_template: a whole number"], |gguf| {
            gguf.set("tokenizer.chat_template", Meta::U32(1));
        }),
    );
}
