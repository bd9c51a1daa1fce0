//! Runs OLMo-2 and Olmo-3 models on CPUs from a memory-mapped `.olmo` file.
//!
//! The way of a token, a file per step:
//!
//! 1. `config`: the model's sizes and constants.
//! 2. `format`, `layout`, `panels`: the file, its places and the shape of its matrices.
//! 3. `model_file`: opens, checks and maps it.

pub mod attention;
pub mod config;
pub mod error;
pub mod format;
pub mod gemm_crate;
pub mod greedy;
pub mod kernels;
pub mod kv_cache;
pub mod layout;
pub mod matmul;
pub mod model;
pub mod model_file;
pub mod panels;
pub mod rope;
pub mod threads;
pub mod tokens;
pub mod top_k;
pub mod vocabulary;
pub mod weights;
