//! The weights folder or file: its tensors, their files, and their offsets in them.

pub mod element;
pub mod file_kind;
pub mod gguf;
pub mod hub_blobs;
pub mod hub_cache;
pub mod listing;
pub mod npy;
pub mod safetensors;
pub mod source_file;
pub mod stored_tensor;
