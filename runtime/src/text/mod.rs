//! Tokenizer, vocabulary, chat format and token files.

pub mod bpe;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "text")]
pub mod encoder;
pub mod stream;
pub mod token_file;
mod token_guess;
pub mod tokenizer;
pub mod vocabulary;
