//! The bodies of the fuzz targets, one function each, which plain tests call as well.
//!
//! A body takes any bytes and asserts what must hold of them: not only that nothing panics, but that what is accepted
//! has the properties that the code behind it relies on.

mod chat;
mod edit;
mod gguf;
mod index;
mod run;
mod seeds;
mod text;

pub use chat::chat_template;
pub use gguf::gguf_header;
pub use index::{index_raw, index_repaired};
pub use run::forward;
pub use seeds::seeds;
pub use text::{
    config_json, npy_header, safetensors_header, shard_index, tokenizer_json, tokenizer_section, tokenizer_sections,
    tokens, vocab_txt,
};

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 13] = [
    ("npy_header", npy_header),
    ("safetensors_header", safetensors_header),
    ("shard_index", shard_index),
    ("gguf_header", gguf_header),
    ("config_json", config_json),
    ("vocab_txt", vocab_txt),
    ("tokenizer_json", tokenizer_json),
    ("tokenizer_section", tokenizer_section),
    ("index_raw", index_raw),
    ("index_repaired", index_repaired),
    ("tokens", tokens),
    ("forward", forward),
    ("chat_template", chat_template),
];

/// The body of a target.
///
/// # Panics
/// When there is no such target.
pub fn target(name: &str) -> fn(&[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.unwrap_or_else(|| panic!("no fuzz target {name}")).1
}
