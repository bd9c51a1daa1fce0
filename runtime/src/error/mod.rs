//! The errors of the runtime.
//!
//! `Display` prints one line: where, what was found, what was expected, what to do. Library code returns errors; only
//! the programs print them.

mod config_error;
pub mod shown;

pub use config_error::ConfigError;
pub use shown::one_line;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

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
    /// The tokens cannot be used with this model.
    Tokens {
        /// The file, or `-` for standard input.
        path: PathBuf,
        /// What is wrong, with the values.
        problem: String,
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
        problem: String,
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

/// Why threads do not run a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotRun {
    /// It is inside another run of the same threads, and would wait for itself.
    Nested,
    /// A deadlock: it would wait for a run that waits for an enclosing run of this one.
    Circle,
    /// This process was forked after the threads were started, and has none of them.
    Forked,
    /// This thread has a non-default floating-point mode.
    Rounding,
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotRun::Nested => {
                "this run would wait for the end of a run that it is part of; end that first, or open the model twice"
            }
            NotRun::Circle => {
                "this run would wait for one that waits for it; let runs inside of others begin in the \
                 same order everywhere"
            }
            NotRun::Forked => {
                "this process was forked off after the threads of the model were started; open the model in this \
                 process"
            }
            NotRun::Rounding => {
                "this thread has a non-default floating-point mode (FTZ/DAZ or rounding), which would change results; \
                 call from a thread whose mode no other library has changed"
            }
        })
    }
}

impl Error {
    /// An [`Error::Io`] for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { path: path.to_path_buf(), action, source }
    }
}

/// A path for an error line; `-` is standard input, and an empty path is `""`.
pub fn display_path(path: &Path) -> impl fmt::Display {
    match path.to_string_lossy().as_ref() {
        "-" => "standard input".into(),
        "" => "\"\"".into(),
        path => one_line(path),
    }
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
            Error::Tokens { path, problem } => write!(f, "{}: {problem}", display_path(path)),
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
            | Error::Messages { problem }
            | Error::Unencodable { problem } => f.write_str(problem),
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
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// One error of each variant. The values do not occur in the texts of the messages.
    fn all() -> Vec<Error> {
        let path = || PathBuf::from("m");
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let problem = || "p".to_string();
        let config = ConfigError { key: "k", found: "f".into(), expected: "e".into() };
        let reasons = [NotRun::Nested, NotRun::Circle, NotRun::Forked, NotRun::Rounding];
        let mut all: Vec<Error> = reasons.map(|why| Error::NotRun { why }).into();
        all.extend([
            Error::Io { path: path(), action: "a", source: source() },
            Error::NotAFile { path: path(), found: "f", advice: "a" },
            Error::NotOlmo { path: path(), found: "f", advice: "a" },
            Error::Version { path: path(), found: "f".into(), supported: "s".into(), is_older: true },
            Error::Version { path: path(), found: "f".into(), supported: "s".into(), is_older: false },
            Error::Length { path: path(), found: 1, expected: 2, is_stated: true },
            Error::Length { path: path(), found: 2, expected: 1, is_stated: false },
            Error::Damaged { path: path(), place: "p".into(), found: "f".into(), expected: "e".into() },
            Error::Unfinished { path: path() },
            Error::Changed { path: path() },
            Error::Config { path: path(), source: config },
            Error::Tokens { path: path(), problem: problem() },
            Error::Map { path: path(), source: source() },
            Error::OutOfMemory { bytes: 1, what: "w", advice: "a" },
            Error::ModelTooLarge { bytes: 2, available: 1 },
            Error::ContextTooLarge { sequences: 1, positions: 2, bytes: 2, available: 1 },
            Error::ContextTooLarge { sequences: 3, positions: 2, bytes: 2, available: 1 },
            Error::AddressSpace { bytes: 1 },
            Error::TooManyPositions { asked: 2, most: 1 },
            Error::NoPositions,
            Error::NoTokens,
            Error::ContextFull { tokens: 2, left: 1, positions: 3 },
            Error::PassTooLong { tokens: 2, room: 1 },
            Error::NoSlot { slot: 2, n_slots: 2 },
            Error::UnknownToken { token: 2, vocab_size: 2 },
            Error::NothingEvaluated,
            Error::Sampling { name: "top_k", value: 0.0, low: 1.0, high: f64::INFINITY },
            Error::Sampling { name: "top_p", value: 2.0, low: 0.0, high: 1.0 },
            Error::NoVocabulary { path: path() },
            Error::NoTokenizer { path: path() },
            Error::NoChatTemplate { path: path() },
            Error::NoText { path: path(), token: 1 },
            Error::UnusableTokenizer { problem: problem() },
            Error::UnusableChatTemplate { problem: problem() },
            Error::Messages { problem: problem() },
            Error::NoEmbedding { text: "t".into(), token: 1, n_rows: 1 },
            Error::Unencodable { problem: problem() },
            Error::NotFinite { sequence: 0, position: 1, token: 2, first: Some((0, 1)) },
            Error::NotFinite { sequence: 0, position: 1, token: 2, first: None },
        ]);
        all
    }

    #[test]
    fn messages_are_one_line_without_program_options() {
        let all = all();
        for error in &all {
            let text = error.to_string();
            assert!(!text.contains("--") && !text.contains('\n') && !text.contains("  "), "{text}");
        }
        let (_, variants) = include_str!("mod.rs").split_once("\npub enum Error {").expect("the enum");
        let variants = variants.split("\n}\n").next().expect("its variants").lines();
        let is_variant =
            |line: &&str| line.strip_prefix("    ").is_some_and(|line| line.starts_with(char::is_uppercase));
        let listed: HashSet<_> = all.iter().map(std::mem::discriminant).collect();
        assert_eq!(listed.len(), variants.filter(is_variant).count(), "a variant is missing in the list");
    }

    #[test]
    fn messages_contain_the_values() {
        for (error, text) in [
            (
                Error::ContextTooLarge { sequences: 3, positions: 9, bytes: 2_000_000_000, available: 500_000_000 },
                "3 sequences at a time need 2.0 GB for the KV cache and activations, 0.5 GB of memory are available",
            ),
            (
                Error::Sampling { name: "top_k", value: 0.0, low: 1.0, high: f64::INFINITY },
                "top_k is 0, expected at least 1",
            ),
            (
                Error::OutOfMemory { bytes: 7, what: "the KV cache", advice: "ask for fewer positions" },
                "out of memory: cannot allocate 7 bytes for the KV cache; ask for fewer positions",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
