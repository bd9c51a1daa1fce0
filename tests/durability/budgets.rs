//! Memory is bounded by the bytes that an accepted input really has, not by the lengths that it claims. Limits of
//! processor time only detect work of a higher order, which would exceed them many times.

use crate::{INFER, PACK};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_infer::internals::format::{Encoding, section};
use olmo_tests::catalogue::{Run, measured};
use olmo_tests::crafted::{claimed, vocabulary, with_sections, write_with_holes};
use olmo_tests::packed::{Packed, tiny_config};
use olmo_tests::{Stored, TempDir, infer_words, run, skipped, texts, write_weights};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// More than a run takes that has next to nothing to do.
const FEW_BYTES: u64 = 24 * MIB;
/// More than enough for every run here, also on a busy machine.
const MAX_TIME: Duration = Duration::from_secs(30);

/// Runs olmo-infer to its end, within so much memory.
#[track_caller]
fn within(most_bytes: u64, what: &str, arguments: &[&Path]) -> Run {
    let run = Run::new(measured(INFER).args(arguments)).unwrap_or_else(|failure| panic!("{what}: {failure}"));
    let used = run.used.expect("measured");
    assert!(used.peak_bytes <= most_bytes, "{what}: {} KiB of {} KiB", used.peak_bytes >> 10, most_bytes >> 10);
    assert!(used.time <= MAX_TIME, "{what}: {:?}", used.time);
    run
}

/// A model of this many rows with these sections.
fn with_rows(folder: &TempDir, vocab_size: usize, sections: &[(u32, Vec<u8>)]) -> PathBuf {
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &ModelConfig { vocab_size, ..tiny_config() }, Stored::F32, 1);
    run(PACK, [&weights, &model]).ok();
    let sections: Vec<(u32, &[u8])> = sections.iter().map(|(kind, bytes)| (*kind, bytes.as_slice())).collect();
    let bytes = with_sections(&fs::read(&model).expect("a model"), &sections);
    fs::write(&model, bytes).expect("written");
    model
}

/// Row X6, words that are too long, little memory.
#[test]
fn tokenizing_takes_16_bytes_per_byte_of_text() {
    const TEXT_BYTES: usize = 16 << 20;
    let folder = TempDir::new("budget-text");
    let (model, path) = (with_rows(&folder, texts::N_ROWS, &texts::doubling()), folder.join("t.txt"));
    for (what, piece) in texts::costly() {
        fs::write(&path, piece.repeat(TEXT_BYTES / piece.len())).expect("written");
        let most = texts::most_bytes(TEXT_BYTES) + FEW_BYTES;
        let run = within(most, what, &[Path::new("tokenize"), &model, &path]);
        assert!(run.status.success() && !run.stdout.is_empty(), "{what}: {}", run.stderr);
    }
    // A word that is longer costs as little as it is read.
    fs::write(&path, "a".repeat(TEXT_BYTES)).expect("written");
    let run = within(2 * TEXT_BYTES as u64 + FEW_BYTES, "too long", &[Path::new("tokenize"), &model, &path]);
    let says = "the text has a word, or a run of spaces or symbols, of more than 1048576 bytes, which begins \" aaaa";
    assert!(run.status.code() == Some(1) && run.stderr.contains(says), "{}", run.stderr);
    // A failed allocation is an error, wherever it happens.
    let piece = format!("{} ", "\u{1d160}".repeat(80_000));
    fs::write(&path, piece.repeat(TEXT_BYTES / piece.len())).expect("written");
    for kib in [70_000, 100_000, 150_000, 250_000] {
        let command = format!("ulimit -v {kib}; exec {INFER} tokenize {} {}", model.display(), path.display());
        let run = olmo_tests::run("sh", ["-c", &command]);
        assert!(run.refused(1).contains("memory"), "{kib} KiB: {}", run.stderr);
    }
}

/// Whether the file at `path` takes next to nothing on the disk.
fn is_sparse(path: &Path) -> bool {
    let blocks = fs::metadata(path).expect("a file").blocks();
    if blocks > 20_000 {
        skipped("holes of files were not tested: this file system makes none");
    }
    blocks <= 20_000
}

/// Row T6, more than 1 MiB of holes are refused.
#[test]
fn holes_cost_nothing() {
    let folder = TempDir::new("budget-holes");
    let good = Packed::plain_bf16();
    // A model of numbers that were never written, which was made just now.
    let config = ModelConfig { vocab_size: 1 << 24, hidden_size: 128, n_heads: 2, head_dim: 64, ..tiny_config() };
    let encodings = layout::uniform(&tensors_of(&config), Encoding::Bf16);
    let (bytes, layout) = claimed(&good.bytes, &config, &encodings);
    let (model, tokens) = (folder.join("numbers.olmo"), folder.join("t.bin"));
    fs::write(&tokens, 1u32.to_le_bytes()).expect("written");
    fs::write(&model, bytes).expect("written");
    File::options().write(true).open(&model).and_then(|file| file.set_len(layout.file_bytes)).expect("a hole");
    assert!(layout.file_bytes > 8 << 30);
    if !is_sparse(&model) {
        return;
    }
    for words in [&[][..], &["score"], &["--text"]] {
        let arguments: Vec<&Path> =
            infer_words(&[model.as_os_str(), tokens.as_os_str()], words).into_iter().map(Path::new).collect();
        // A new file: from an age of two seconds on it counts as a model.
        fs::write(folder.join("now"), "").and_then(|()| fs::rename(&model, folder.join("other"))).expect("moved");
        fs::rename(folder.join("other"), &model).expect("moved back");
        let run = within(FEW_BYTES, "a model of holes", &arguments);
        let says = "has holes of more than 16 MiB, as a file that is still being copied; wait until it is whole";
        assert!(run.status.code() == Some(1) && run.stderr.contains(says), "{}", run.stderr);
        assert!(run.used.expect("measured").time < Duration::from_secs(1));
    }
    // Tokens that were never written.
    let holes = with_sections(&good.bytes, &[(section::VOCABULARY, &vocabulary(&[b"a", &[0; 100 << 20], b"b"]))]);
    let model = folder.join("tokens.olmo");
    write_with_holes(&model, &holes);
    let run = within(FEW_BYTES, "a token of holes", &[&model, &tokens]);
    let says = "section VOCABULARY: found a hole that was never written, expected its bytes; the file is damaged";
    assert!(run.status.code() == Some(1) && run.stderr.contains(says), "{}", run.stderr);
    // Ids that were never written, the last of which is wrong.
    let model = folder.join("good.olmo");
    let text = [(section::VOCABULARY, vocabulary(&[b"a", b"b", b"c", b"d", b"e", b"f", b"g"]))];
    fs::write(&model, with_sections(&good.bytes, &text.each_ref().map(|(kind, bytes)| (*kind, bytes.as_slice()))))
        .expect("written");
    let mut ids = vec![0; 100 << 20];
    ids.extend(99u32.to_le_bytes());
    write_with_holes(&tokens, &ids);
    let run = within(FEW_BYTES, "ids of holes", &[Path::new("detokenize"), &model, &tokens]);
    assert!(run.status.code() == Some(1) && run.stderr.contains("MiB of holes, expected ids"), "{}", run.stderr);
}

#[test]
fn long_tokens_are_printed_in_pieces() {
    const TOKEN_BYTES: usize = 4 << 20;
    let folder = TempDir::new("budget-print");
    let (model, ids) = (folder.join("m.olmo"), folder.join("t.bin"));
    let tokens: Vec<Vec<u8>> = (b'a'..b'h').map(|letter| vec![letter; TOKEN_BYTES]).collect();
    let tokens: Vec<&[u8]> = tokens.iter().map(Vec::as_slice).collect();
    let text = vocabulary(&tokens);
    fs::write(&model, with_sections(&Packed::plain_bf16().bytes, &[(section::VOCABULARY, &text)])).expect("written");
    fs::write(&ids, [3u32, 5].map(u32::to_le_bytes).concat()).expect("written");
    // The vocabulary is copied from the pages of its file, and one of its tokens may be copied again.
    let most = 2 * text.len() as u64 + TOKEN_BYTES as u64 + FEW_BYTES;
    let printed = |more: &[&str]| {
        let arguments: Vec<&Path> =
            infer_words(&[model.as_os_str(), ids.as_os_str()], more).into_iter().map(Path::new).collect();
        let run = within(most, &more.join(" "), &arguments);
        assert!(run.status.success(), "{more:?}: {}", run.stderr);
        run.stdout
    };
    let lines = printed(&["--steps", "2"]);
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.starts_with(&format!("0: token 3 (\"{}\"...) Top 5 next tokens: ", "d".repeat(1024))));
    assert!(lines.len() < 2 * 6 * 1100, "{}", lines.len());
    let json = printed(&["--json", "--steps", "2"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["text"].as_str().map(str::len), Some(TOKEN_BYTES), "JSON is whole");
    let text = printed(&["--text", "--max-tokens", "2"]);
    assert!(text.len().is_multiple_of(TOKEN_BYTES) && !text.is_empty(), "{}", text.len());
    let json = printed(&["--json", "--max-tokens", "2"]);
    let last: serde_json::Value = serde_json::from_str(json.lines().last().expect("a line")).expect("JSON");
    assert!(text.starts_with(last["text"].as_str().expect("a text")));
    assert_eq!(printed(&["detokenize"]).len(), 2 * TOKEN_BYTES);
}
