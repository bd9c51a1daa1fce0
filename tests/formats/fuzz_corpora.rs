//! Inputs that the fuzzer collected, and every input that once showed a defect, run again; and a few thousand changes
//! of each, so that tests without a fuzzer try new inputs as well.

use olmo_tests::fuzz::{self, TARGETS};
use olmo_tests::{Random, repository};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// Changed inputs of each target, except the slow ones.
const CHANGED: usize = 3000;
/// Changed inputs of the target that computes a forward pass.
const CHANGED_FORWARD: usize = 150;

/// Changed chat templates; one that has a chat format is run on hundreds of conversations.
const CHANGED_TEMPLATES: usize = 1500;

/// The inputs in a folder, with their paths; none when it is not there.
fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
}

/// Everything there is for a target: seeds, corpus and past findings.
fn all_inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let seeds = fuzz::seeds(target).into_iter().map(|seed| (PathBuf::from("a seed"), seed));
    let corpus = inputs(&repository().join("fuzz/corpus").join(target));
    let findings = inputs(&repository().join("tests/regress").join(target));
    seeds.chain(corpus).chain(findings).collect()
}

/// An input with a few changes: bytes set, bits flipped, pieces left out, doubled or taken from another one.
fn changed(random: &mut Random, inputs: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = inputs[random.below(inputs.len())].1.clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(16) + 1);
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] = random.bits() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => {
                let other = &inputs[random.below(inputs.len())].1;
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + 16).min(other.len())].to_vec();
                drop(bytes.splice(at..end, piece));
            }
        }
    }
    bytes
}

/// Shows the input when its target panics.
struct Shown<'a>(&'a Path, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}: {}", self.0.display(), self.1.escape_ascii());
        }
    }
}

fn assert_target_holds(name: &str, n_changed: usize) {
    let body = fuzz::target(name);
    let inputs = all_inputs(name);
    for (path, input) in &inputs {
        let _shown = Shown(path, input);
        body(input);
    }
    let mut random = Random(1);
    for _ in 0..n_changed {
        let input = changed(&mut random, &inputs);
        let _shown = Shown(Path::new("a changed input"), &input);
        body(&input);
    }
}

#[test]
fn every_fuzz_target_has_a_test() {
    let tested = "npy_header safetensors_header shard_index gguf_header config_json vocab_txt tokenizer_json \
                  tokenizer_section index_raw index_repaired tokens forward chat_template";
    assert_eq!(TARGETS.map(|target| target.0).join(" "), tested);
}

#[test]
fn every_fuzz_target_has_a_corpus() {
    for (target, _) in TARGETS {
        let folder = repository().join("fuzz/corpus").join(target);
        assert!(!inputs(&folder).is_empty(), "no inputs in {}", folder.display());
    }
}

#[test]
fn npy_headers_are_refused_or_read_as_by_npyz() {
    assert_target_holds("npy_header", CHANGED);
}

/// Row S4, compared with the crate.
#[test]
fn safetensors_headers_are_refused_or_read_as_by_crate() {
    assert_target_holds("safetensors_header", CHANGED);
}

#[test]
fn shard_indexes_are_refused_or_name_siblings() {
    assert_target_holds("shard_index", CHANGED);
}

/// Row G3, random changes.
#[test]
fn gguf_headers_are_refused_or_describe_their_file() {
    assert_target_holds("gguf_header", CHANGED);
}

#[test]
fn configurations_are_refused_or_fit_the_format() {
    assert_target_holds("config_json", CHANGED);
}

#[test]
fn vocabularies_are_refused_or_round_trip() {
    assert_target_holds("vocab_txt", CHANGED);
}

#[test]
fn tokenizers_are_refused_or_round_trip() {
    assert_target_holds("tokenizer_json", CHANGED);
}

#[test]
fn tokenizer_sections_are_refused_or_round_trip() {
    assert_target_holds("tokenizer_section", CHANGED);
}

#[test]
fn raw_indexes_are_refused_or_valid() {
    assert_target_holds("index_raw", CHANGED);
}

#[test]
fn indexes_with_valid_digests_are_refused_or_valid() {
    assert_target_holds("index_repaired", CHANGED);
}

#[test]
fn token_files_are_refused_or_give_their_ids() {
    assert_target_holds("tokens", CHANGED);
}

#[test]
fn changed_models_are_refused_found_damaged_or_run() {
    assert_target_holds("forward", CHANGED_FORWARD);
}

#[test]
fn chat_templates_render_or_give_a_reason() {
    assert_target_holds("chat_template", CHANGED_TEMPLATES);
}

/// `OLMO_FUZZ_TARGET` names the target, `OLMO_FUZZ_RUNS` is how many inputs are tried, `OLMO_FUZZ_SEED` makes them others.
#[test]
#[ignore = "takes its target and its number of runs from the environment"]
fn one_target_holds_for_many_changed_inputs() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let name = std::env::var("OLMO_FUZZ_TARGET").expect("OLMO_FUZZ_TARGET names a target");
    let (body, inputs) = (fuzz::target(&name), all_inputs(&name));
    let mut random = Random(number("OLMO_FUZZ_SEED").unwrap_or(2));
    for _ in 0..number("OLMO_FUZZ_RUNS").expect("OLMO_FUZZ_RUNS is a number") {
        let input = changed(&mut random, &inputs);
        let _shown = Shown(Path::new("a changed input"), &input);
        body(&input);
    }
}

#[test]
#[ignore = "writes the seeds to where scripts/fuzz.sh collects inputs"]
fn writes_seeds_for_the_fuzzer() {
    for (name, _) in TARGETS {
        let folder = repository().join("target/fuzz/corpus").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for (i, seed) in fuzz::seeds(name).iter().enumerate() {
            fs::write(folder.join(format!("seed-{i}")), seed).expect("written");
        }
    }
}
