//! The model in a weights folder: its configuration and its tensors.

pub mod checkpoint;
pub mod config_json;
pub mod generation_config;
pub mod gguf_config;
pub mod infer_config;
pub mod rope_json;
pub mod settings;
pub mod spelling;
