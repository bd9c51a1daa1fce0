//! The demo model knows its speech.

use crate::{INFER, PACK};
use olmo_tests::{TempDir, read_f32_npy, repository, run};
use std::fs;

#[test]
fn continuation_is_the_speech_to_its_end() {
    let folder = TempDir::new("demo");
    let speech = fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech");
    let prompt = repository().join("demo/prompt.tokens.bin");
    let n_prompt = fs::metadata(&prompt).expect("the prompt").len() as usize / 4;
    assert_eq!(&speech[..n_prompt], "Four score and seven");
    for dtype in ["f32", "bf16"] {
        let model = folder.join(format!("{dtype}.olmo"));
        let weights = repository().join("demo/weights");
        run(PACK, [weights.as_os_str(), model.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
        let arguments = [model.to_str().expect("UTF-8"), prompt.to_str().expect("UTF-8"), "--text", "--max-tokens"];
        let finished = run(INFER, arguments.into_iter().chain(["2000"]));
        assert_eq!(finished.ok(), &speech[n_prompt..], "{dtype}");
        assert!(finished.stdout.len() >= 300);
    }
}

#[test]
fn prompt_logits_match_transformers() {
    let folder = TempDir::new("demo-logits");
    let (model, logits) = (folder.join("m.olmo"), folder.join("l.npy"));
    run(PACK, [&repository().join("demo/weights"), &model]).ok();
    let prompt = repository().join("demo/prompt.tokens.bin");
    run(INFER, [model.as_os_str(), prompt.as_os_str(), "--logits".as_ref(), logits.as_os_str()]).ok();
    let (found, expected) = (read_f32_npy(&logits), read_f32_npy(&repository().join("demo/logits.npy")));
    assert_eq!(found.0, expected.0);
    assert!(found.1.iter().zip(&expected.1).all(|(a, b)| (a - b).abs() <= 2e-4));
}
