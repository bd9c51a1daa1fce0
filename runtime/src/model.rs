//! An open model with its threads: where a program that uses the library begins.

use crate::error::{Error, display_path};
use crate::file::mapping::Load;
use crate::file::model_file::ModelFile;
use crate::format::config::ModelConfig;
use crate::network::Options;
use crate::os::memory;
use crate::parallel::team::Threads;
use crate::session::Session;
#[cfg(feature = "text")]
use crate::text::chat::{Chat, ChatError, Message, Role};
#[cfg(feature = "text")]
use crate::text::encoder::Encoder;
#[cfg(feature = "text")]
use crate::text::tokenizer::Tokenizer;
use crate::text::vocabulary::Vocabulary;
use std::fmt;
use std::path::Path;
#[cfg(feature = "text")]
use std::sync::OnceLock;
use std::thread;

/// A model file and the threads that compute with it. It is `Send` and `Sync`: in an [`Arc`](std::sync::Arc) it serves
/// any number of threads, each with a [`Session`] of its own, tasks of a thread pool among them. Their passes take
/// turns on the threads of the model, in the order in which they came; a thread that waits for its turn does nothing
/// else.
///
/// A process that is forked off has none of the threads. There a pass is an error, where it needs them, and the model
/// can be dropped; the child opens its own.
///
/// The file must not be written to while it is mapped: [`ModelFile::check_unchanged`] tells, before results are handed
/// on, that it was not. Replacing it by renaming is safe. The end of a file that is cut short meanwhile cannot be read,
/// which is a SIGBUS; [`Load::Read`] has no such exposure, and [`crate::os::signals::install`] ends the program in one
/// line.
pub struct Model {
    file: ModelFile,
    threads: Threads,
    /// Made for the first text.
    #[cfg(feature = "text")]
    encoder: OnceLock<Encoder>,
}

impl Model {
    /// Opens a model file, to compute on all cores that this process may use. It is mapped, or read where mapping is no
    /// good idea: see [`Load::Auto`].
    ///
    /// Of a mapped file nothing but the index is read here. The first pass brings the tensors in; when that is to
    /// happen at another time, [`ModelFile::populate`] does it.
    ///
    /// # Errors
    /// [`Error::Io`], and what is wrong with a file that is no good model.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        Model::open_with(path, Load::Auto, thread::available_parallelism().map_or(1, usize::from))
    }

    /// Opens a model file in a way of one's choice, to compute with so many threads, the caller's included: see
    /// [`Threads::new`]. The results are the same bits for any number.
    ///
    /// # Errors
    /// Those of [`ModelFile::open_with`].
    pub fn open_with(path: impl AsRef<Path>, load: Load, n_threads: usize) -> Result<Model, Error> {
        Ok(Model {
            file: ModelFile::open_with(path.as_ref(), load)?,
            threads: Threads::new(n_threads),
            #[cfg(feature = "text")]
            encoder: OnceLock::new(),
        })
    }

    /// The model's configuration: sizes, and the ids that end a text.
    pub fn config(&self) -> &ModelConfig {
        self.file.config()
    }

    /// The file, for everything else that is in it.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// An empty sequence of at most [`Options::positions`] tokens, with its KV cache and buffers:
    /// `model.session(Options::new(4096))`. [`Session::bytes`] says how much memory that is.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than the model has, no positions, or memory that the system does not give.
    pub fn session(&self, options: Options) -> Result<Session<'_>, Error> {
        Session::new(&self.file, &self.threads, options)
    }

    /// The bytes of every token; `None` when the file has none. Copies about a megabyte: better kept than asked for
    /// each token.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>, Error> {
        Vocabulary::new(&self.file)
    }

    /// The text of some ids. What is no UTF-8, as when they end in the middle of a character, becomes U+FFFD. To show
    /// text as it is generated, give the bytes of a token after the other to a [`TextStream`](crate::text::stream::TextStream).
    ///
    /// # Errors
    /// [`Error::Request`] when the file has no vocabulary, or no text for one of the ids; [`Error::Damaged`],
    /// [`Error::Memory`].
    pub fn decode_text(&self, ids: &[u32]) -> Result<String, Error> {
        let vocabulary = self.vocabulary()?.ok_or_else(|| self.has_no("vocabulary"))?;
        const WHAT: &str = "the text of tokens";
        let mut bytes = Vec::new();
        for &id in ids {
            let of_token = vocabulary.bytes(id).ok_or_else(|| self.has_no(&format!("text for the id {id}")))?;
            memory::reserve(&mut bytes, of_token.len(), WHAT)?;
            bytes.extend_from_slice(of_token);
        }
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => return Ok(text),
            Err(other) => other.into_bytes(),
        };
        let mut text = String::new();
        // A byte becomes a character of three at most.
        let room = memory::asking(|| text.try_reserve_exact(bytes.len().saturating_mul(3)));
        room.map_err(|_| memory::too_little_for::<[u8; 3]>(bytes.len(), WHAT))?;
        text.extend(bytes.utf8_chunks().flat_map(|chunk| [chunk.valid(), cut_or_not(chunk.invalid())]));
        Ok(text)
    }

    /// The error about something that the file lacks.
    pub(crate) fn has_no(&self, what: &str) -> Error {
        Error::Request { problem: format!("{}: has no {what}", display_path(self.file.path())) }
    }
}

/// U+FFFD for bytes that are no character, nothing for none.
fn cut_or_not(invalid: &[u8]) -> &'static str {
    if invalid.is_empty() { "" } else { "\u{fffd}" }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("path", &self.file.path()).field("config", self.config()).finish_non_exhaustive()
    }
}

/// Text.
#[cfg(feature = "text")]
impl Model {
    /// The ids of a text. The first call prepares the tokenizer, which takes some milliseconds for a hundred thousand
    /// ids.
    ///
    /// # Errors
    /// [`Error::Request`] when the file has no tokenizer, or one that this version cannot work with, and where
    /// [`Encoder::encode`] has it; [`Error::Damaged`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encoder()?.encode(text)
    }

    /// The ids of one turn of a conversation, after which the model answers; `system` says how it is to behave.
    ///
    /// # Errors
    /// Those of [`Model::conversation`].
    pub fn chat(&self, system: Option<&str>, user: &str) -> Result<Vec<u32>, Error> {
        let system = system.map(|system| Message::new(Role::System, system));
        let messages: Vec<Message> = system.into_iter().chain([Message::new(Role::User, user)]).collect();
        self.conversation(&messages)
    }

    /// The ids of a conversation, after which the model answers: `[system] user (assistant user)*`.
    ///
    /// # Errors
    /// [`Error::Request`] when the file has no chat format, or one that does not take this conversation, and those of
    /// [`Model::encode`].
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let chat = Chat::new(&self.file)?.ok_or_else(|| self.has_no("chat format"))?;
        let text = chat.render(messages).map_err(|error| match error {
            ChatError::NoMemory { bytes } => memory::too_little_for::<u8>(bytes, "the text of the conversation"),
            error => Error::Request { problem: error.to_string() },
        })?;
        self.encode(&text)
    }

    fn encoder(&self) -> Result<&Encoder, Error> {
        if let Some(encoder) = self.encoder.get() {
            return Ok(encoder);
        }
        let vocabulary = self.vocabulary()?.ok_or_else(|| self.has_no("vocabulary"))?;
        let tokenizer = Tokenizer::new(&self.file, &vocabulary)?.ok_or_else(|| self.has_no("tokenizer"))?;
        let made = Encoder::new(&tokenizer).map_err(|error| match error {
            Error::Request { problem } => {
                Error::Request { problem: format!("{}: {problem}", display_path(self.file.path())) }
            }
            other => other,
        })?;
        // Another thread may have been faster.
        Ok(self.encoder.get_or_init(|| made))
    }
}
