//! The examples of the library print what their comments state, with the demo model.

use crate::{INFER, PACK};
use olmo_tests::{TempDir, repository, run};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

const EMBED_IN_A_THREAD: &str = env!("CARGO_BIN_EXE_example-embed-in-a-thread");
const GENERATE: &str = env!("CARGO_BIN_EXE_example-generate");
const SCORE: &str = env!("CARGO_BIN_EXE_example-score");

fn packed(folder: &TempDir) -> PathBuf {
    let path = folder.join("demo.olmo");
    run(PACK, [&repository().join("demo/weights"), &path]).ok();
    path
}

/// `n` tokens of the speech after `begin`.
fn speech_after(begin: &str, n: usize) -> String {
    let speech = fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech");
    let rest = speech.strip_prefix(begin).expect("how it begins");
    // A token is a letter.
    rest.chars().take(n).collect()
}

#[test]
fn generate_prints_the_speech() {
    let folder = TempDir::new("example-generate");
    let begin = "Four score and seven";
    let finished = run(GENERATE, [packed(&folder).as_os_str(), begin.as_ref()]);
    assert_eq!(finished.ok(), speech_after(begin, 256));
}

#[test]
fn embed_in_a_thread_prints_answers_in_order() {
    let folder = TempDir::new("example-threads");
    let model = packed(&folder);
    let prompts = ["Four score and seven", "Four score and seven years ago", "Four score"];
    let finished = run(EMBED_IN_A_THREAD, [model.as_os_str()].into_iter().chain(prompts.map(OsStr::new)));
    let answers: String = prompts.iter().map(|prompt| speech_after(prompt, 64) + "\n").collect();
    assert_eq!(finished.ok(), answers);
}

#[test]
fn score_matches_the_program() {
    let folder = TempDir::new("example-score");
    let (model, tokens) = (packed(&folder), repository().join("demo/prompt.tokens.bin"));
    let line = run(INFER, ["score".as_ref(), model.as_os_str(), tokens.as_os_str()]);
    let line: serde_json::Value = serde_json::from_str(line.ok()).expect("a JSON object");
    let finished = run(SCORE, [&model, &tokens]);
    let (found, rest) = finished.ok().split_once(' ').expect("a number and its unit");
    let (found, expected): (f64, _) = (found.parse().expect("a number"), line["mean_nll"].as_f64().expect("a number"));
    assert!((found - expected).abs() <= 1e-9, "{found} {expected}");
    assert!(rest.starts_with("nats a token, perplexity "), "{rest}");
    // Several files in the same passes: the same bits, a line each.
    let line = finished.ok();
    assert_eq!(run(SCORE, [&model, &tokens, &tokens]).ok(), line.repeat(2));

    let one = folder.join("one.bin");
    fs::write(&one, 70u32.to_le_bytes()).expect("written");
    let finished = run(SCORE, [&model, &one]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""));
    assert!(finished.stderr.contains("one token has nothing that predicts it"), "{}", finished.stderr);
}
