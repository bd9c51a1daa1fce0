//! `--draft`: a copy of the matrices that a token is multiplied with, next to a model that stays what it is.

use crate::{INFER, PACK};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::tensors::Role;
use olmo_tests::{Finished, Stored, TempDir, run, small_config, write_weights};
use std::fs;
use std::path::PathBuf;

fn pack(folder: &TempDir, config: &ModelConfig, words: &[&str]) -> (PathBuf, Finished) {
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    let _nothing_there = fs::remove_dir_all(&weights);
    write_weights(&weights, config, Stored::F32, 3);
    let paths = [weights.to_str().expect("UTF-8"), model.to_str().expect("UTF-8"), "--force"];
    let finished = run(PACK, paths.into_iter().chain(words.iter().copied()));
    (model, finished)
}

#[test]
fn every_matrix_of_a_token_has_a_draft_and_the_model_is_the_same() {
    let folder = TempDir::new("drafts");
    let tied = ModelConfig { tie_word_embeddings: true, ..small_config() };
    for (config, words) in [
        (&small_config(), &["--dtype", "f32"][..]),
        (&small_config(), &["--dtype", "bf12"]),
        (&tied, &["--dtype", "int8"]),
        (&small_config(), &["--dtype", "bf16", "--tensor", "o_proj=int4-f16"]),
    ] {
        let (model, finished) = pack(&folder, config, words);
        finished.ok();
        let plain = fs::read(&model).expect("a model");
        let with_draft = [words, &["--draft", "int4"]].concat();
        let (model, finished) = pack(&folder, config, &[&with_draft[..], &["--dry-run"]].concat());
        let planned = finished.ok().to_string();
        let (_, finished) = pack(&folder, config, &with_draft);
        finished.ok();
        let file = ModelFile::open(&model).expect("a model");
        assert!(planned.contains(&format!("({} bytes)", file.layout().file_bytes)), "{planned}");
        let n = file.model_specs().len();
        let model_bytes = |i: usize| {
            let extent = file.layout().tensors[i];
            fs::read(&model).expect("read")[extent.offset as usize..extent.end() as usize].to_vec()
        };
        for i in 0..n {
            let tensor = model_bytes(i);
            assert!(plain.windows(tensor.len()).any(|window| window == tensor), "{}", file.specs()[i].name());
        }
        for (i, spec) in file.model_specs().iter().enumerate() {
            let draft = (n..file.specs().len()).find(|&draft| Some(file.specs()[draft]) == spec.draft());
            let is_multiplied = spec.role != Role::EmbedTokens || config.tie_word_embeddings;
            let has_one = spec.columns.is_some() && is_multiplied && file.encoding(i).name() != "int4-f16";
            assert_eq!(draft.is_some(), has_one, "{}", spec.name());
            assert!(draft.is_none_or(|draft| file.encoding(draft).name() == "int4"), "{}", spec.name());
        }
        run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
        let shown = run(PACK, ["inspect".as_ref(), model.as_os_str(), "--tensors".as_ref()]);
        assert!(shown.ok().contains("draft.model.layers.0.mlp.up_proj.weight"), "{shown:?}");
    }
}

#[test]
fn refuses_a_draft_that_is_the_model_and_other_encodings() {
    let folder = TempDir::new("drafts-refused");
    for (dtype, draft, bits) in [("int8", "int8", 8.2), ("int4", "int8", 8.2), ("int8", "int8-f16", 8.5)] {
        let (_, finished) = pack(&folder, &small_config(), &["--dtype", dtype, "--draft", draft]);
        let says = format!(
            "nothing to draft: no matrix takes clearly more than the {bits} bits of {draft}; leave --draft out"
        );
        assert!(finished.refused(1).contains(&says), "{finished:?}");
    }
    for word in ["bf16", "f32", "int3", ""] {
        let (_, finished) = pack(&folder, &small_config(), &["--draft", word]);
        assert!(finished.refused(2).contains("int4, int4-16, int4-f16, int8, int8-16 or int8-f16"), "{finished:?}");
    }
}

#[test]
fn a_guess_that_was_asked_for_and_cannot_be_made_is_refused() {
    let folder = TempDir::new("drafts-speculate");
    let (model, finished) = pack(&folder, &small_config(), &[]);
    finished.ok();
    fs::write(folder.join("t.bin"), [5, 0, 0, 0, 9, 0, 0, 0]).expect("written");
    let (model, tokens) = (model.to_str().expect("UTF-8").to_string(), folder.join("t.bin"));
    let tokens = tokens.to_str().expect("UTF-8");
    let refused = |words: &[&str]| {
        run(INFER, [model.as_str(), tokens].into_iter().chain(words.iter().copied())).refused(2).to_string()
    };
    assert!(refused(&["--speculate", "draft"]).contains("m.olmo has no draft; pack it with olmo-pack --draft int4"));
    assert!(refused(&["--speculate", "on"]).contains("auto, off, lookup or draft"));
    let hidden = folder.join("h.npy");
    let words = ["--hidden", hidden.to_str().expect("UTF-8"), "--layer", "0", "--speculate", "lookup"];
    assert!(refused(&words).contains("--speculate guesses nothing with --hidden"));
}

#[test]
fn guesses_change_no_byte_of_the_output_and_are_counted() {
    let folder = TempDir::new("drafts-output");
    let (model, finished) = pack(&folder, &small_config(), &["--draft", "int8"]);
    finished.ok();
    fs::write(folder.join("t.bin"), [5, 0, 0, 0, 9, 0, 0, 0]).expect("written");
    let (model, tokens) = (model.to_str().expect("UTF-8").to_string(), folder.join("t.bin"));
    let with = |speculate: &str, words: &[&str]| {
        let base = [model.as_str(), tokens.to_str().expect("UTF-8"), "--timing", "--speculate", speculate];
        run(INFER, base.into_iter().chain(words.iter().copied()))
    };
    let logits = folder.join("l.npy");
    let greedy = ["--steps", "60", "--logits", logits.to_str().expect("UTF-8")];
    for words in [&greedy[..], &["--json", "--max-tokens", "50", "--temperature", "0.9", "--seed", "4"]] {
        let plain = with("off", words);
        let plain_logits = fs::read(&logits).expect("written");
        assert!(!plain.stderr.contains("guessed"), "{plain:?}");
        for speculate in ["auto", "lookup", "draft"] {
            let guessed = with(speculate, words);
            assert_eq!(guessed.ok(), plain.ok(), "{speculate} {words:?}");
            assert!(fs::read(&logits).expect("written") == plain_logits, "{speculate} {words:?}");
            let counted = guessed.stderr.contains("by the draft, ") && guessed.stderr.contains("tokens a pass");
            assert!(counted || speculate != "draft", "{guessed:?}");
        }
    }
}
