//! The published answers for the real OLMo-2-0425-1B.
//!
//! Set `OLMO2_1B_WEIGHTS` to its folder of `.npy` files (f32, as the base model is published) to run this; the file it
//! packs takes 6 GB in the temporary folder.

use crate::{INFER, PACK};
use olmo_tests::{TempDir, run, skipped};
use std::path::Path;
use std::{env, fs};

/// "Four score and seven".
const FOURSCORE: [u32; 4] = [28070, 5573, 323, 8254];
/// The top five next ids after each of them, from DirkTensor's test of this model against transformers in f32.
const TOP_FIVE: [&str; 4] =
    ["315 1667 15247 3115 339", "323 11 1667 279 1752", "810 8208 264 4330 584", "1667 5573 4520 198 1"];

#[test]
fn olmo2_1b_gives_its_published_answers() {
    let Some(weights) = env::var_os("OLMO2_1B_WEIGHTS") else {
        skipped(format_args!("set OLMO2_1B_WEIGHTS to a folder with the .npy files of OLMo-2-0425-1B"));
        return;
    };
    let folder = TempDir::new("olmo2-1b");
    let (model, tokens) = (folder.join("m.olmo"), folder.join("t.bin"));
    run(PACK, [Path::new(&weights), &model]).ok();
    fs::write(&tokens, FOURSCORE.map(u32::to_le_bytes).concat()).expect("written");
    let finished = run(INFER, [model.as_os_str(), tokens.as_os_str(), "--json".as_ref()]);
    assert_eq!(finished.ok().lines().count(), 20);
    for ((line, token), top_five) in finished.stdout.lines().zip(FOURSCORE).zip(TOP_FIVE) {
        let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        assert_eq!(line["token"], token);
        let top = line["top"].as_array().expect("a list");
        let ids: Vec<String> = top.iter().map(|next| next["token"].to_string()).collect();
        assert_eq!(ids.join(" "), top_five, "after {token}");
    }
}
