//! Tokenizers, prompts, chat templates and conversations.

mod chat_piped;
mod chat_templates;
mod chat_terminal;
mod conversation;
mod gguf_tokens;
mod special_stops;
mod text_cli;
mod tokenizer;
mod tokenizer_folders;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
