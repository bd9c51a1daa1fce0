//! A stop text that is a special token, which is not printed.

use crate::{INFER, PACK};
use olmo_tests::{TempDir, files, repository, run};
use serde_json::{Value, json};
use std::fs;

/// The demo model, in which the byte `y` is a special token.
#[test]
fn special_tokens_are_stop_texts() {
    let folder = TempDir::new("special-stops");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    fs::create_dir(&weights).expect("created");
    for (name, bytes) in files(&repository().join("demo/weights")) {
        fs::write(weights.join(name), bytes).expect("copied");
    }
    let path = weights.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    tokenizer["added_tokens"] = json!([{"id": 121, "content": "y", "special": true, "normalized": false}]);
    fs::write(&path, tokenizer.to_string()).expect("written");
    run(PACK, [&weights, &model]).ok();
    let infer = |flags: &[&str]| {
        let words = ["--prompt", "Four score and seven", "--max-tokens", "10"];
        let words = words.iter().chain(flags).map(|word| word.as_ref());
        run(INFER, [model.as_os_str()].into_iter().chain(words)).ok().to_string()
    };
    assert_eq!(infer(&[]), " ears ago");
    assert_eq!(infer(&["--stop", "y"]), " ");
    // Part of another stop text it is not.
    assert_eq!(infer(&["--stop", "ye"]), " ears ago");
    let object: Value =
        serde_json::from_str(infer(&["--stop", "y", "--json"]).lines().last().expect("a line")).expect("JSON");
    assert_eq!(object["text"], " ");
}
