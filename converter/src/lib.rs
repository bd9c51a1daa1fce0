//! Turns a folder of OLMo weights, `.npy` or safetensors, into one `.olmo` file that `olmo-infer` maps and runs.
//!
//! `ARCHITECTURE.md` of the repository has the plan of this crate. The format is defined by the runtime.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "olmo-pack writes files with calls that only Linux has (O_TMPFILE, linkat); pack there, and copy the .olmo file"
);

pub mod calibrate;
pub mod commands;
pub mod encode;
pub mod error;
pub mod folder;
pub mod json;
pub mod model;
pub mod text;
pub mod write;
