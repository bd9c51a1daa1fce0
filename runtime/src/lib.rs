//! Runs OLMo-2 and Olmo-3 models on CPUs from a memory-mapped `.olmo` file.
//!
//! The way of a token, a file per step:
//!
//! 1. `config`: the model's sizes and constants.
//! 2. `format`, `layout`, `panels`: the file, its places and the shape of its matrices.
//! 3. `model_file`: opens, checks and maps it.

pub mod config;
pub mod error;
pub mod format;
pub mod layout;
pub mod model_file;
pub mod panels;
