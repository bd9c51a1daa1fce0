//! `--load`: mapped or read, the model is the same; mapped, two processes use its memory once.

use crate::{INFER, PACK};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::{
    Finished, Random, Stored, TempDir, repository, run, skipped, small_config, small_olmo3, write_weights,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Packs random weights.
fn packed(folder: &TempDir, name: &str, config: &ModelConfig, dtype: &str) -> PathBuf {
    let (weights, model) = (folder.join(format!("{name}-w")), folder.join(format!("{name}.olmo")));
    write_weights(&weights, config, Stored::F32, 5);
    run(PACK, [weights.as_os_str(), model.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
    fs::remove_dir_all(&weights).expect("removed");
    model
}

/// A model of some tens of megabytes: large enough for huge pages, and to outweigh everything else of a process.
fn medium_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 512,
        n_heads: 8,
        n_kv_heads: 8,
        head_dim: 64,
        intermediate_size: 1536,
        vocab_size: 6000,
        max_position_embeddings: 1024,
        ..small_config()
    }
}

/// `n` random ids below `vocab_size` in a file.
fn token_file(folder: &TempDir, n: usize, vocab_size: usize) -> PathBuf {
    let mut random = Random(9);
    let path = folder.join("t.bin");
    let bytes: Vec<u8> = (0..n).flat_map(|_| (random.below(vocab_size) as u32).to_le_bytes()).collect();
    fs::write(&path, bytes).expect("written");
    path
}

fn infer(model: &Path, tokens: &Path, flags: &[&str]) -> Finished {
    run(INFER, [model.as_os_str(), tokens.as_os_str()].into_iter().chain(flags.iter().map(|flag| flag.as_ref())))
}

#[test]
fn every_load_mode_gives_the_same_output() {
    let folder = TempDir::new("load");
    let tokens = token_file(&folder, 30, 100);
    for (name, config, dtype) in
        [("f", small_config(), "f32"), ("b", small_olmo3(), "bf16"), ("m", medium_config(), "f32")]
    {
        let model = packed(&folder, name, &config, dtype);
        let output = |load: &str| {
            let logits = folder.join(format!("{name}-{load}.npy"));
            let flags = ["--load", load, "--steps", "40", "--logits", logits.to_str().expect("UTF-8")];
            let lines = infer(&model, &tokens, &flags).ok().to_string();
            (lines, fs::read(&logits).expect("logits"))
        };
        let mapped = output("mmap");
        assert!(mapped.1.len() > 40 * 4 * config.vocab_size);
        assert!(output("read") == mapped, "{name}: read");
        assert!(output("auto") == mapped, "{name}: auto");
    }
}

#[test]
fn timing_reports_how_the_model_was_loaded() {
    let folder = TempDir::new("load-timing");
    let model = packed(&folder, "m", &medium_config(), "f32");
    let tokens = token_file(&folder, 3, 100);
    for (load, parts) in [
        ("mmap", ["open and map ", "(as asked for, on ", ", page-in of ", " GB in huge pages"]),
        ("read", ["open and read 0.0", "(as asked for, on ", ", first token after ", " GB in huge pages"]),
        ("auto", ["open and ", "(as suits ", ", first token after ", " GB in huge pages"]),
    ] {
        let finished = infer(&model, &tokens, &["--load", load, "--timing"]);
        finished.ok();
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        for part in parts {
            assert!(finished.stderr.contains(part), "{load} {part}: {}", finished.stderr);
        }
    }
}

#[test]
fn small_model_reports_no_huge_pages() {
    let folder = TempDir::new("load-small");
    let (model, tokens) = (folder.join("demo.olmo"), token_file(&folder, 3, 100));
    run(PACK, [&repository().join("demo/weights"), &model]).ok();
    let finished = infer(&model, &tokens, &["--timing"]);
    finished.ok();
    assert!(!finished.stderr.contains("huge"), "{}", finished.stderr);
}

/// Row O23: no address space for the mapping or the copy.
///
/// Row E13, memory.
#[test]
fn out_of_memory_is_one_line() {
    let folder = TempDir::new("load-limit");
    let model = packed(&folder, "m", &medium_config(), "f32");
    let tokens = token_file(&folder, 3, 100);
    let limited = |load: &str| {
        let (model, tokens) = (model.display(), tokens.display());
        // Kibibytes: room for the program, not for 40 MB more.
        run("sh", ["-c", &format!("ulimit -v 30000; exec {INFER} {model} {tokens} --load {load} --threads 1")])
    };
    let read = limited("read").refused(1).to_string();
    assert!(read.contains("out of memory: cannot allocate"), "{read}");
    assert!(read.contains("bytes for a copy of the model; map the model instead"), "{read}");
    assert!(limited("mmap").refused(1).contains("m.olmo: cannot map all of it"));
}

#[test]
fn unknown_load_mode_is_wrong_usage() {
    let finished = infer("m".as_ref(), "t".as_ref(), &["--load", "fast"]);
    assert!(finished.refused(2).contains("--load fast: expected auto, mmap or read"), "{}", finished.stderr);
}

/// A program that has its model in memory and waits, because its output is not read.
struct Waiting(Child);

impl Waiting {
    fn start(model: &Path, tokens: &Path, load: &str) -> Waiting {
        let mut command = Command::new(INFER);
        command.arg(model).arg(tokens).args(["--load", load, "--steps", "1000", "--top", "1000", "--threads", "2"]);
        Waiting(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts"))
    }

    /// Bytes of the lines that begin with `key` in its `smaps`: of the mapping of `file`, or of all memory that is not
    /// of a file.
    fn memory(&self, key: &str, file: Option<&Path>) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.0.id())).expect("it runs");
        let mut is_counted = false;
        let mut bytes = 0;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The head of a mapping: addresses, rights, offset, device, inode, path.
            if !words[0].ends_with(':') {
                let path = words.get(5).filter(|path| path.starts_with('/'));
                is_counted = path.map(Path::new) == file;
            } else if is_counted && words[0] == key {
                bytes += words[1].parse::<u64>().expect("a number") << 10;
            }
        }
        bytes
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _already_gone = self.0.wait();
    }
}

#[test]
fn two_runs_share_the_memory_of_one_file() {
    if !Path::new("/proc/self/smaps").exists() {
        skipped("this system has no /proc/PID/smaps: who shares which memory is not to be seen");
        return;
    }
    let folder = TempDir::new("load-shared");
    let config = medium_config();
    let model = fs::canonicalize(packed(&folder, "m", &config, "f32")).expect("a path");
    let tokens = token_file(&folder, 3, 100);
    // All of a file that is just written is read, to see that it is complete.
    sleep(Duration::from_millis(2100));
    let file = fs::metadata(&model).expect("a file").len();
    // What is read is the file without the embedding.
    let weights = file - 4 * (6000 + 64) * 512 - (2 << 20);
    let started = |load: &str, memory: &dyn Fn(&Waiting) -> u64| {
        let runs = [0, 1].map(|_| Waiting::start(&model, &tokens, load));
        let begun = Instant::now();
        // Until both have all of it.
        while runs.iter().any(|run| memory(run) < weights) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{load}: the model does not come into memory");
            sleep(Duration::from_millis(20));
        }
        runs
    };
    // A page that both have counts half for each: together they have the file once.
    let mapped = started("mmap", &|run| run.memory("Rss:", Some(&model)));
    let shared: u64 = mapped.iter().map(|run| run.memory("Pss:", Some(&model))).sum();
    assert!((weights..=file + 4096).contains(&shared), "{shared} bytes for two runs on {weights} of {file}");
    // A copy is each one's own, and larger than what a run on the mapping has in addition to it.
    let own = |run: &Waiting| run.memory("Rss:", None);
    for run in &mapped {
        assert!(own(run) < weights, "{} bytes in addition to a mapping of {weights}", own(run));
    }
    drop(mapped);
    started("read", &own);
}
