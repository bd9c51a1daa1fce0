//! Why a conversation cannot be rendered.

use crate::error::shown::one_line;
use std::fmt;

/// Why a conversation cannot be rendered. Messages are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatError {
    /// The format does not support a system message.
    NoSystem,
    /// The format needs a system message.
    NeedsSystem,
    /// Roles are not `[system] user (assistant user)*`.
    Order {
        /// The first message with a wrong role; the number of messages if one is missing.
        index: usize,
        /// The name of its role; `None` at the end.
        found: Option<&'static str>,
        /// The expected role.
        expected: &'static str,
    },
    /// Only one turn can be rendered, for this reason.
    OneTurn(String),
    /// A message contains a text that the template treats specially.
    Reserved {
        /// The message.
        index: usize,
        /// The text in it.
        text: String,
    },
    /// A message is blank, which the template treats specially.
    Blank {
        /// The message.
        index: usize,
    },
    /// The text would exceed 64 MiB, or there are too many reserved texts to search.
    TooLong,
    /// Out of memory for the text.
    NoMemory {
        /// Size of the failed allocation.
        bytes: usize,
    },
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatError::NoSystem => f.write_str("the model's chat format takes no system message"),
            ChatError::NeedsSystem => f.write_str("the model's chat format needs a system message"),
            ChatError::Order { index, found, expected } => match found {
                Some(role) => write!(f, "message {index} is of the role {role}, expected {expected}"),
                None => {
                    let plural = if *index == 1 { "" } else { "s" };
                    write!(f, "the conversation ends after {index} message{plural}, expected {expected}")
                }
            },
            ChatError::OneTurn(why) => write!(f, "the model's chat format takes a single turn: {}", one_line(why)),
            ChatError::Reserved { index, text } => {
                let text = one_line(text);
                write!(f, "message {index} contains \"{text}\", which the chat template treats specially")
            }
            ChatError::Blank { index } => write!(f, "message {index} is empty, expected a text"),
            ChatError::NoMemory { bytes } => write!(
                f,
                "out of memory: cannot allocate {bytes} bytes for the text of the conversation; close other \
                 programs, or raise the limit (ulimit -v)"
            ),
            ChatError::TooLong => f.write_str(
                "the conversation is too long for the model's chat format, expected less than 64 MiB of text; shorten \
                 it",
            ),
        }
    }
}

impl std::error::Error for ChatError {}
