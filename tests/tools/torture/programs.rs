//! The programs under test, run as a user runs them, and the files that they are given.

use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_tests::{Stored, TempDir, small_config, write_weights};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A program that cargo built next to this one.
pub fn program(name: &str) -> PathBuf {
    env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name))).unwrap_or_else(|| name.into())
}

/// Runs a program to its end.
pub fn run<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Result<Output, String> {
    let output = Command::new(program(name)).args(arguments).stdin(Stdio::null()).output();
    output.map_err(|error| format!("{name} does not start: {error}"))
}

/// The output of a run that must succeed.
pub fn good<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Result<Vec<u8>, String> {
    let output = run(name, arguments)?;
    if output.status.success() { Ok(output.stdout) } else { Err(describe_run(name, &output)) }
}

/// How a run ended, in a line.
pub fn describe_run(name: &str, output: &Output) -> String {
    format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end().replace('\n', " | "))
}

/// A model that takes a run some tens of milliseconds: 40 MB as f32, a context of 1024.
pub fn middling_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 256,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 32,
        intermediate_size: 1024,
        vocab_size: 2000,
        max_position_embeddings: 1024,
        layer_types: vec![AttentionKind::Full; 8],
        ..small_config()
    }
}

/// Packs random weights into `folder/name`.
pub fn packed(
    folder: &TempDir,
    name: &str,
    config: &ModelConfig,
    stored: Stored,
    seed: u64,
) -> Result<PathBuf, String> {
    let weights = folder.join("weights");
    write_weights(&weights, config, stored, seed);
    let model = folder.join(name);
    good("olmo-pack", [&weights, &model])?;
    fs::remove_dir_all(&weights).map_err(|error| format!("{}: {error}", weights.display()))?;
    Ok(model)
}

/// Writes a token file of `n` ids below 2000.
pub fn write_tokens(path: &Path, n: usize) -> Result<(), String> {
    let ids = (0..n as u32).flat_map(|i| (i.wrapping_mul(2654435761) % 2000).to_le_bytes());
    fs::write(path, ids.collect::<Vec<u8>>()).map_err(|error| format!("{}: {error}", path.display()))
}
