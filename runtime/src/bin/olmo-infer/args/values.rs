//! Values of options that several commands have.

use olmo_infer::internals::cli::command_line::named;
use olmo_infer::internals::cli::words::STANDARD_INPUT;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::kernels::backend::{Backend, BackendError};
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::parallel::matmul::Activations;
use olmo_infer::internals::text::token_file::TokenType;
use std::path::PathBuf;

/// `--load`.
pub fn load(text: &str) -> Result<Load, String> {
    named(Load::named(text), "auto, mmap or read")
}

/// `--token-type`.
pub fn token_type(text: &str) -> Result<TokenType, String> {
    named(TokenType::named(text), "u16, u32, i32, u64 or i64")
}

/// `--activations`.
pub fn activations(text: &str) -> Result<Activations, String> {
    named(Activations::named(text), "auto, int16, int8 or f32")
}

/// `--kv`.
pub fn kv(text: &str) -> Result<KvType, String> {
    named(KvType::named(text), "f32 or bf16")
}

/// `--speculate`.
pub fn speculate(text: &str) -> Result<Speculate, String> {
    named(Speculate::named(text), "auto, off, lookup or draft")
}

/// `--isa` and `--matmul`.
pub fn backend(isa: Option<&str>, matmul: Option<&str>) -> Result<Backend, String> {
    Backend::named(isa, matmul).map_err(|error| match error {
        BackendError::UnknownIsa { .. } => format!("--isa {error}"),
        BackendError::UnknownProducts { .. } | BackendError::NoKernels { .. } => format!("--matmul {error}"),
    })
}

/// The path of the model, which is mapped and cannot be standard input.
pub fn model(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        STANDARD_INPUT => Err("the model is mapped and cannot come from standard input"),
        path => Ok(PathBuf::from(path)),
    }
}

/// Paths of files, `-` for standard input, which can be read only once.
pub fn files(words: &[String]) -> Result<Vec<PathBuf>, &'static str> {
    if words.iter().filter(|word| *word == STANDARD_INPUT).count() > 1 {
        return Err("standard input can be read only once");
    }
    Ok(words.iter().map(|word| if word == STANDARD_INPUT { "-" } else { word }).map(PathBuf::from).collect())
}
