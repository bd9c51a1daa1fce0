//! Readers of files, and what they make of damaged and of random ones.

mod bf12_tables;
mod drafts;
mod fuzz_corpora;
mod gguf_golden;
mod header_properties;
mod limits;
mod npy_differential;
mod properties;
mod property;
mod reader_exhaustive;
mod reader_script;
mod safetensors_parsers;
mod text_sections;
mod verify;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
