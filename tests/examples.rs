//! The examples of the library do what they say, with the demo model.

#[expect(dead_code, reason = "`main` is for cargo run --example")]
#[path = "../runtime/examples/embed_in_a_thread.rs"]
mod embed_in_a_thread;
#[expect(dead_code, reason = "`main` is for cargo run --example")]
#[path = "../runtime/examples/generate.rs"]
mod generate;
#[expect(dead_code, reason = "`main` is for cargo run --example")]
#[path = "../runtime/examples/score.rs"]
mod score;

use olmo_infer::Error;
use olmo_infer::Model;
use olmo_infer::Sampling;
use olmo_tests::{TempDir, repository, run};
use std::fs;
use std::path::PathBuf;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");

fn packed(folder: &TempDir) -> PathBuf {
    let path = folder.join("demo.olmo");
    run(PACK, [&repository().join("demo/weights"), &path]).ok();
    path
}

/// The speech, what stands before `begin` left out, and as much of it as an answer of so many tokens has.
fn speech_after(begin: &str, tokens: usize) -> String {
    let speech = fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech");
    let rest = speech.strip_prefix(begin).expect("how it begins");
    // A token is a letter.
    rest.chars().take(tokens).collect()
}

#[test]
fn generate_shows_the_speech() {
    let folder = TempDir::new("example-generate");
    let model = Model::open(packed(&folder)).expect("a good file");
    let (mut shown, begin) = (Vec::new(), "Four score and seven");
    generate::generate(&model, begin, Sampling::GREEDY, &mut shown).expect("it runs");
    assert_eq!(String::from_utf8(shown).expect("text"), speech_after(begin, 256));
}

#[test]
fn several_threads_get_their_answers() {
    let folder = TempDir::new("example-threads");
    let model = Model::open(packed(&folder)).expect("a good file");
    let prompts = ["Four score and seven", "Four score and seven years ago", "Four score"].map(String::from);
    let answers = embed_in_a_thread::answers(&model, prompts.to_vec());
    assert_eq!(answers.len(), prompts.len());
    for (prompt, answer) in prompts.iter().zip(&answers) {
        assert_eq!(*answer.as_ref().expect("an answer"), speech_after(prompt, 64));
    }
}

#[test]
fn the_score_is_that_of_the_program() {
    let folder = TempDir::new("example-score");
    let (model, tokens) = (packed(&folder), repository().join("demo/prompt.tokens.bin"));
    let line = run(INFER, [model.as_os_str(), "--score".as_ref(), tokens.as_os_str()]);
    let line: serde_json::Value = serde_json::from_str(line.ok()).expect("a JSON object");
    let expected = line["mean_nll"].as_f64().expect("a number");
    let model = Model::open(&model).expect("a good file");
    let text = score::ids(&fs::read(&tokens).expect("the prompt"));
    // Together with another one, and twice.
    let found = score::mean_nll(&model, &[text.clone(), text[..5].to_vec(), text]).expect("it runs");
    assert_eq!((found.len(), found[0]), (3, found[2]));
    assert!((found[0] - expected).abs() <= 1e-6 * expected.abs(), "{found:?} {expected}");

    // One token has nothing that predicts it.
    let refused = score::mean_nll(&model, &[vec![70]]);
    assert!(matches!(refused, Err(Error::NoPositions)), "{refused:?}");
}
