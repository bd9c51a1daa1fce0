//! Which model a folder is.

pub mod checkpoint;
pub mod config_json;
pub mod generation_config;
pub mod infer_config;
pub mod rope_json;
pub mod settings;
