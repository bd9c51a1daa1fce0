//! Tokenizer, vocabulary, chat format and token files.

#[cfg(feature = "text")]
pub mod boundary;
pub mod bpe;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "chat")]
pub mod chat_style;
#[cfg(feature = "text")]
pub mod encoder;
#[cfg(feature = "chat")]
pub mod message;
pub mod stream;
pub mod token_file;
mod token_guess;
pub mod tokenizer;
pub mod vocabulary;
