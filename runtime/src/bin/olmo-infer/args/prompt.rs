//! A prompt that is text, on the command line.

use std::path::{Path, PathBuf};

/// Where the text of a prompt is.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptText {
    /// On the command line.
    Given(String),
    /// In a file, or on standard input for `-`.
    File(PathBuf),
    /// The text of a conversation, whose messages are in a file, or on standard input for `-`.
    Messages(PathBuf),
}

/// A prompt that is text.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The text.
    pub text: PromptText,
    /// Whether it is a turn of a conversation.
    pub chat: bool,
    /// The system message.
    pub system: Option<String>,
}

impl Prompt {
    /// The file that it is read from.
    pub fn file(&self) -> Option<&Path> {
        match &self.text {
            PromptText::File(path) | PromptText::Messages(path) => Some(path),
            PromptText::Given(_) => None,
        }
    }
}

/// The options that a prompt is made of.
#[derive(Default)]
pub struct PromptOptions {
    /// `--prompt`.
    pub prompt: Option<String>,
    /// `--prompt-file`.
    pub prompt_file: Option<String>,
    /// `--chat`.
    pub chat: bool,
    /// `--system`.
    pub system: Option<String>,
    /// `--messages`.
    pub messages: Option<String>,
}

impl PromptOptions {
    /// The prompt, if there is one. `--chat` alone takes the text of standard input.
    ///
    /// # Errors
    /// Which options exclude each other.
    pub fn prompt(self) -> Result<Option<Prompt>, &'static str> {
        let PromptOptions { prompt, prompt_file, chat, system, messages } = self;
        if system.is_some() && !chat {
            return Err("--system belongs to --chat");
        }
        if system.as_ref().is_some_and(String::is_empty) {
            return Err("--system is empty, expected a text; leave it out");
        }
        if let Some(path) = messages {
            if prompt.is_some() || prompt_file.is_some() || chat {
                return Err("--messages is the whole conversation; leave out --prompt, --prompt-file and --chat");
            }
            return Ok(Some(Prompt { text: PromptText::Messages(path.into()), chat: true, system: None }));
        }
        let text = match (prompt, prompt_file) {
            (Some(_), Some(_)) => return Err("--prompt and --prompt-file exclude each other"),
            (Some(text), None) if text == "-" => PromptText::File("-".into()),
            (Some(text), None) => PromptText::Given(text),
            (None, Some(path)) => PromptText::File(path.into()),
            (None, None) if chat => PromptText::File("-".into()),
            (None, None) => return Ok(None),
        };
        Ok(Some(Prompt { text, chat, system }))
    }
}
