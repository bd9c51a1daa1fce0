//! The errors of the runtime.
//!
//! `Display` prints one line: where, what was found, what was expected, what to do. Library code returns errors; only
//! the programs print them.

mod chat_error;
mod config_error;
mod not_run;
mod saved_session_error;
pub mod shown;
mod token_remedy;

pub use chat_error::ChatError;
pub use config_error::ConfigError;
pub use not_run::NotRun;
pub use saved_session_error::SavedSessionError;
pub use shown::one_line;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
pub use token_remedy::TokenRemedy;

/// An error of the runtime.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The OS returned an error for an operation on a file.
    Io {
        /// The file.
        path: PathBuf,
        /// The operation, as in "cannot {action}".
        action: &'static str,
        /// The error of the OS.
        source: io::Error,
    },
    /// The path names something that is not a regular file.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// The file is not an `.olmo` file.
    NotOlmo {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// The file was made for another reader.
    Version {
        /// The file.
        path: PathBuf,
        /// What the file needs.
        found: String,
        /// What this program reads.
        supported: String,
        /// Whether this program is the newer one.
        is_older: bool,
    },
    /// The file's length is not the one its header states.
    Length {
        /// The file.
        path: PathBuf,
        /// Length in bytes.
        found: u64,
        /// Length in the header, or the least that a header has.
        expected: u64,
        /// Whether the header states it.
        is_stated: bool,
    },
    /// A field or a digest of the file is not what the format allows.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Field, section or tensor.
        place: String,
        /// The value found.
        found: String,
        /// The value that the format requires.
        expected: String,
    },
    /// The file was changed just before it was opened, and parts of it are not written.
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// The file was written to while it was in use.
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The configuration in the file describes no possible model.
    Config {
        /// The file.
        path: PathBuf,
        /// The value in question.
        source: ConfigError,
    },
    /// The tokens in a file cannot be used with this model. Only the programs read such files.
    #[doc(hidden)]
    Tokens {
        /// The file, or `-` for standard input.
        path: PathBuf,
        /// What is wrong, with the values.
        problem: String,
        /// What to do about it.
        remedy: TokenRemedy,
    },
    /// A file cannot be mapped.
    Map {
        /// The file.
        path: PathBuf,
        /// The error of the OS.
        source: io::Error,
    },
    /// An allocation failed.
    OutOfMemory {
        /// Bytes of the allocation.
        bytes: u64,
        /// What it was for.
        what: &'static str,
        /// What to do about it.
        advice: &'static str,
    },
    /// Reading a model into memory takes more than there is. Mapping it does not.
    ModelTooLarge {
        /// Bytes of the model.
        bytes: u64,
        /// Bytes that this process can still get.
        available: u64,
    },
    /// The KV caches and activations of some sequences take more memory than there is.
    ContextTooLarge {
        /// Sequences at a time.
        sequences: usize,
        /// Positions of the longest one.
        positions: usize,
        /// Bytes for all of them.
        bytes: u64,
        /// Bytes that this process can still get.
        available: u64,
    },
    /// A file does not fit the address space of this machine.
    AddressSpace {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The threads of a model cannot run this work here. None of it has begun.
    NotRun {
        /// Why.
        why: NotRun,
    },
    /// More positions than the model or the session has.
    TooManyPositions {
        /// The requested number.
        asked: usize,
        /// The most that are possible.
        most: usize,
    },
    /// A request for no positions, no sequences or a chunk of no tokens.
    NoPositions,
    /// No tokens to evaluate.
    NoTokens,
    /// More tokens than a session has positions left.
    ContextFull {
        /// The number of tokens.
        tokens: usize,
        /// Positions left.
        left: usize,
        /// Positions of the session.
        positions: usize,
    },
    /// A sequence has no tokens in a forward pass, or more than the pass or its positions have room for.
    PassTooLong {
        /// The number of tokens.
        tokens: usize,
        /// The most there is room for.
        room: usize,
    },
    /// A batch has no such slot.
    NoSlot {
        /// The requested one.
        slot: usize,
        /// Number of slots.
        n_slots: usize,
    },
    /// A token id that the vocabulary of the model does not have.
    UnknownToken {
        /// The id.
        token: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// Generation was requested before any token was evaluated.
    NothingEvaluated,
    /// A sampling value out of range.
    Sampling {
        /// Its field.
        name: &'static str,
        /// The value found.
        value: f64,
        /// The least that is possible.
        low: f64,
        /// The most that is possible; infinity for no limit.
        high: f64,
    },
    /// The model file has no vocabulary.
    NoVocabulary {
        /// The file.
        path: PathBuf,
    },
    /// The model file has no tokenizer.
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// The model file has no chat template.
    NoChatTemplate {
        /// The file.
        path: PathBuf,
    },
    /// The model file has no text for a token id.
    NoText {
        /// The file.
        path: PathBuf,
        /// The id.
        token: u32,
    },
    /// The tokenizer in the model file cannot be used.
    UnusableTokenizer {
        /// Why.
        problem: String,
    },
    /// The chat template in the model file cannot be used.
    UnusableChatTemplate {
        /// Why.
        problem: String,
    },
    /// The chat template of the model does not accept these messages.
    Messages {
        /// Why.
        source: ChatError,
    },
    /// A text has a token for which the embedding of the model has no row.
    NoEmbedding {
        /// The text of the token.
        text: String,
        /// The id of the token.
        token: u32,
        /// Rows of the embedding.
        n_rows: usize,
    },
    /// A text cannot be encoded.
    Unencodable {
        /// Why.
        problem: String,
    },
    /// A file is not a saved session that this model can continue.
    SavedSession {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SavedSessionError,
    },
    /// The computation produced a number that is not finite.
    NotFinite {
        /// Which of the sequences evaluated together, from 0.
        sequence: usize,
        /// Position in the sequence.
        position: usize,
        /// The first bad logit's token id.
        token: usize,
        /// Where such numbers began in this sequence: position and layer. `None` when it was in the last norm or the
        /// head.
        first: Option<(usize, usize)>,
    },
}

impl Error {
    /// An [`Error::Io`] for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { path: path.to_path_buf(), action, source }
    }
}

/// A path for an error line; `-` is standard input, and an empty path is `""`.
pub fn display_path(path: &Path) -> impl fmt::Display {
    if path.as_os_str() == "-" { "standard input".into() } else { one_line(&shown::path_text(path)) }
}

/// The OS message of an error, without the "(os error 2)" that Rust appends. `UnexpectedEof` comes from Rust itself and
/// gets a message that a user understands.
pub fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the file ends before its length".into();
    }
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

/// Bytes in gigabytes.
fn gb(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, action, source } => {
                write!(f, "{}: cannot {action}: {}", display_path(path), reason(source))
            }
            Error::NotAFile { path, found, advice } => {
                write!(f, "{}: is {found}, expected a regular file; {advice}", display_path(path))
            }
            Error::NotOlmo { path, found, advice } => {
                write!(f, "{}: not an .olmo file but {found}; {advice}", display_path(path))
            }
            Error::Version { path, found, supported, is_older } => {
                let advice = if *is_older {
                    "pack the weights again with olmo-pack weights/ model.olmo"
                } else {
                    "use the olmo-infer that came with its olmo-pack, or pack the weights again"
                };
                write!(f, "{}: needs {found}, this program reads {supported}; {advice}", display_path(path))
            }
            Error::Length { path, found, expected, is_stated } => {
                let what = if found < expected { "truncated" } else { "too long" };
                let whose = if *is_stated { "as its header states" } else { "at least, for the header" };
                write!(
                    f,
                    "{}: {what}: has {found} bytes, expected {expected} {whose}; copy or pack it again",
                    display_path(path)
                )
            }
            Error::Damaged { path, place, found, expected } => write!(
                f,
                "{}: {place}: found {found}, expected {expected}; the file is damaged, copy or pack it again",
                display_path(path)
            ),
            Error::Unfinished { path } => write!(
                f,
                "{}: changed less than two seconds before it was opened and has holes of more than 16 MiB, as a file \
                 that is still being copied; wait until it is whole, and run again",
                display_path(path)
            ),
            Error::Changed { path } => write!(
                f,
                "{}: changed while it was in use; results discarded; replace a model by renaming, as olmo-pack does, \
                 and run again",
                display_path(path)
            ),
            Error::Config { path, source } => write!(f, "{}: {source}; pack the weights again", display_path(path)),
            Error::Tokens { path, problem, remedy: TokenRemedy::Stated } => {
                write!(f, "{}: {problem}", display_path(path))
            }
            Error::Tokens { path, problem, remedy } => write!(f, "{}: {problem}; {remedy}", display_path(path)),
            Error::Map { path, source } => {
                write!(f, "{}: cannot map all of it: {} (see ulimit -v)", display_path(path), reason(source))
            }
            Error::OutOfMemory { bytes, what, advice } => {
                write!(f, "out of memory: cannot allocate {bytes} bytes for {what}; {advice}")
            }
            Error::ModelTooLarge { bytes, available } => {
                write!(f, "reading the model takes {} of memory, {} are available", gb(*bytes), gb(*available))
            }
            Error::ContextTooLarge { sequences, positions, bytes, available } => {
                match sequences {
                    1 => write!(f, "{positions} positions need")?,
                    n => write!(f, "{n} sequences at a time need")?,
                }
                let (needed, available) = (gb(*bytes), gb(*available));
                write!(f, " {needed} for the KV cache and activations, {available} of memory are available")
            }
            Error::AddressSpace { bytes } => {
                write!(f, "{bytes} bytes do not fit the address space of this machine")
            }
            Error::NotRun { why } => why.fmt(f),
            Error::TooManyPositions { asked, most } => {
                write!(f, "{asked} positions requested, expected at most {most}")
            }
            Error::NoPositions => f.write_str("at least one sequence, one position and a chunk of one are needed"),
            Error::NoTokens => f.write_str("no tokens to evaluate, expected at least one"),
            Error::ContextFull { tokens, left, positions } => {
                write!(f, "{tokens} tokens, expected at most {left}: {left} of {positions} positions are left")
            }
            Error::PassTooLong { tokens, room } => {
                write!(f, "{tokens} tokens in one forward pass, expected 1 to {room}")
            }
            Error::NoSlot { slot, n_slots } => write!(f, "slot {slot} of a batch of {n_slots}"),
            Error::UnknownToken { token, vocab_size } => {
                write!(f, "token {token}, the vocabulary has ids 0 to {}", vocab_size.saturating_sub(1))
            }
            Error::NothingEvaluated => f.write_str("nothing to generate from; evaluate a prompt first"),
            Error::Sampling { name, value, low, high } if *high == f64::INFINITY => {
                write!(f, "{name} is {value}, expected at least {low}")
            }
            Error::Sampling { name, value, low, high } => {
                write!(f, "{name} is {value}, expected a number from {low} to {high}")
            }
            Error::NoVocabulary { path } => write!(f, "{}: has no vocabulary", display_path(path)),
            Error::NoTokenizer { path } => write!(f, "{}: has no tokenizer", display_path(path)),
            Error::NoChatTemplate { path } => write!(f, "{}: has no chat template", display_path(path)),
            Error::NoText { path, token } => write!(f, "{}: has no text for the id {token}", display_path(path)),
            Error::UnusableTokenizer { problem }
            | Error::UnusableChatTemplate { problem }
            | Error::Unencodable { problem } => f.write_str(problem),
            Error::Messages { source } => source.fmt(f),
            Error::SavedSession { path, source } => write!(f, "{}: {source}", display_path(path)),
            Error::NoEmbedding { text, token, n_rows } => write!(
                f,
                "the text has the token \"{text}\" with id {token}, beyond the {n_rows} rows of the model's embedding; \
                 leave it out of the text, or train and pack a model that has a row for it"
            ),
            Error::NotFinite { position, token, first, .. } => {
                write!(f, "logit of token {token} at position {position} is not a finite number")?;
                match first {
                    Some((position, layer)) => {
                        write!(f, ", the first ones were computed at position {position} in layer {layer}")?
                    }
                    None => write!(f, ", which comes from the last norm or the head")?,
                }
                f.write_str("; check the file with olmo-pack verify, and the weights with olmo-pack")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Map { source, .. } => Some(source),
            Error::Config { source, .. } => Some(source),
            Error::Messages { source } => Some(source),
            Error::SavedSession { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
