//! An open model with its threads: the entry point of the library.

use crate::error::Error;
#[cfg(feature = "text")]
use crate::error::display_path;
use crate::file::mapping::Load;
use crate::file::model_file::{ModelFile, Which};
use crate::file::sampling::{AuthorSampling, Sampling};
#[cfg(feature = "internals")]
use crate::format::config::ModelConfig;
use crate::generate::batch_size::{batch_size, batch_size_up_to};
use crate::generate::{Evaluated, Run, Timing, generate};
use crate::network::batch::Batch;
use crate::network::speculate::Speculate;
use crate::network::{Network, Options};
use crate::os::memory;
use crate::parallel::team::Threads;
use crate::score::{Event, Item, MOST_SEQUENCES, cache_positions, score};
use crate::session::{Session, saved};
#[cfg(feature = "text")]
use crate::text::chat::{Chat, ChatError, Message};
#[cfg(feature = "text")]
use crate::text::encoder::Encoder;
#[cfg(feature = "text")]
use crate::text::tokenizer::Tokenizer;
use crate::text::vocabulary::Vocabulary;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

/// A model file and the threads that compute with it.
///
/// A clone is another handle on the same file and threads. Any number of threads share a model, each with its own
/// [`Session`]. Their passes take turns on the threads of the model, in order of arrival. The file stays open, and the
/// threads run, until the last handle and the last session are dropped.
///
/// A forked process has none of the threads: a pass that needs them returns [`Error::NotRun`]. The child opens its own
/// model.
///
/// The file must not be written to while it is mapped. Call [`Model::check_unchanged`] to detect that before results
/// are used. Replacing the file by renaming is safe. Reading past the end of a file that was truncated meanwhile raises
/// SIGBUS; with [`Load::Read`] it does not.
#[derive(Clone)]
pub struct Model {
    file: Arc<ModelFile>,
    /// Made for the first session: its tables are computed in the default floating-point mode only.
    network: Arc<OnceLock<Arc<Network>>>,
    threads: Arc<Threads>,
    /// Prepared for the first text.
    #[cfg(feature = "text")]
    encoder: Arc<OnceLock<Encoder>>,
}

impl Model {
    /// Opens a model file with [`Load::Auto`] and a thread for each core that this process may use.
    ///
    /// For a mapped file this reads only the index and the bf12 tables. The first pass reads the tensors, or [`Model::populate`] before it.
    ///
    /// # Errors
    /// Those of [`Model::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        Model::open_with(path, Load::Auto, thread::available_parallelism().map_or(1, usize::from))
    }

    /// Opens a model file with `n_threads` threads, the caller's included; fewer if the OS cannot create them. The
    /// results are the same bits for any number.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotAFile`], [`Error::NotOlmo`], [`Error::Version`], [`Error::Length`],
    /// [`Error::Damaged`], [`Error::Config`] or [`Error::Map`] for the file, [`Error::ModelTooLarge`] when it is to be
    /// read into memory, [`Error::Changed`] when it changed meanwhile, [`Error::OutOfMemory`].
    pub fn open_with(path: impl AsRef<Path>, load: Load, n_threads: usize) -> Result<Model, Error> {
        let file = Arc::new(ModelFile::open_with(path.as_ref(), load)?);
        Ok(Model {
            file,
            network: Arc::default(),
            threads: Arc::new(Threads::new(n_threads)),
            #[cfg(feature = "text")]
            encoder: Arc::default(),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Number of token ids, from 0.
    pub fn vocab_size(&self) -> usize {
        self.file.config().vocab_size
    }

    /// Most positions of a sequence.
    pub fn max_positions(&self) -> usize {
        self.file.config().max_position_embeddings
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.file.config().n_layers()
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.file.config().hidden_size
    }

    /// The EOS ids.
    pub fn eos_ids(&self) -> &[u32] {
        &self.file.config().eos_token_ids
    }

    /// The sampling that the author of the model recommends, with the seed 0; `None` without a recommendation.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::OutOfMemory`].
    pub fn recommended_sampling(&self) -> Result<Option<Sampling>, Error> {
        Ok(AuthorSampling::new(&self.file)?.map(|author| author.sampling()))
    }

    /// An empty sequence of at most [`Options::positions`] tokens: `model.session(Options::new(4096))`.
    ///
    /// # Errors
    /// [`Error::TooManyPositions`] for more than [`Model::max_positions`], [`Error::NoPositions`],
    /// [`Error::OutOfMemory`], [`Error::NotRun`] on a thread with a non-default floating-point mode.
    pub fn session(&self, options: Options) -> Result<Session, Error> {
        Session::new(self.shared_network()?, &self.threads, options)
    }

    /// The session that [`Session::save`] wrote to a file, with the bits of the one that was saved. Its
    /// [`Options::chunk`] and [`Options::speculate`] are the defaults.
    ///
    /// # Errors
    /// [`Error::SavedSession`] for a file that is not a saved session of this model, or is damaged; [`Error::Io`],
    /// [`Error::NotAFile`], and those of [`Model::session`].
    pub fn load_session(&self, path: impl AsRef<Path>) -> Result<Session, Error> {
        saved::load(self.shared_network()?, &self.threads, path.as_ref())
    }

    /// Bytes of memory that [`Model::session`] allocates: KV cache and activations.
    pub fn session_bytes(&self, options: &Options) -> u64 {
        Batch::bytes(self.file.config(), options, &[options.positions])
    }

    /// Evaluates many sequences together: each pass reads every weight once for all of them. Evaluates `at_once` of
    /// them at a time, in their order; `None` means 16, or fewer if memory is short. The results of a run do not depend
    /// on the others, to the last bit.
    ///
    /// Calls `visit` for each position, in the order of positions for each run; between runs the order depends on guesses,
    /// and so does which of several errors is returned. [`ControlFlow::Break`] ends that run.
    /// This holds the threads of the model until it returns, so `visit` cannot compute with the same model: that
    /// returns [`Error::NotRun`].
    ///
    /// # Errors
    /// [`Error::NoTokens`] for an empty prompt, [`Error::UnknownToken`], [`Error::Sampling`],
    /// [`Error::TooManyPositions`] for a run of more than [`Options::positions`], [`Error::ContextTooLarge`],
    /// [`Error::NotFinite`] with the index of the run as its sequence, those of [`Model::session`], and those that
    /// `visit` returns. All runs end then.
    pub fn generate<E: From<Error>>(
        &self,
        runs: &[Run<'_>],
        options: Options,
        at_once: Option<usize>,
        visit: impl FnMut(Evaluated<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Timing, E> {
        for run in runs {
            match run {
                Run { prompt: [], .. } => return Err(Error::NoTokens.into()),
                Run { positions: 0, .. } => return Err(Error::NoPositions.into()),
                run => run.sampling.check()?,
            }
        }
        if runs.is_empty() {
            return Ok(Timing::default());
        }
        let positions = memory::collected(runs.iter().map(|run| run.positions), "the positions of the runs")?;
        let network = self.shared_network()?;
        let n_slots = batch_size(at_once, &self.file, network, &options, &positions)?;
        let mut batch = Batch::new(network, options, n_slots)?;
        self.threads.run(|team| generate(&mut batch, team, runs, visit))?
    }

    /// Scores many sequences: how well the model predicts their tokens. What several of them begin with is evaluated
    /// once, and up to `at_once` of them share a pass; `None` means 64, or fewer if memory is short. The results are the
    /// bits of single runs. Reports items when they are done, in any order. [`Options::positions`] may be more than the
    /// longest item needs; what is allocated is not.
    ///
    /// This holds the threads of the model until it returns, so `report` cannot compute with the same model: that
    /// returns [`Error::NotRun`].
    ///
    /// # Errors
    /// [`Error::NoTokens`] for an item without tokens, or whose first scored token is 0, [`Error::UnknownToken`],
    /// [`Error::TooManyPositions`] for an item of more than [`Options::positions`] after its last token is left out,
    /// [`Error::ContextTooLarge`], those of [`Model::session`], and those that `report` returns.
    pub fn score<E: From<Error>>(
        &self,
        items: &[Item<'_>],
        options: Options,
        at_once: Option<usize>,
        report: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        if items.iter().any(|item| item.tokens.is_empty() || item.first == 0) {
            return Err(Error::NoTokens.into());
        }
        let positions = cache_positions(items, self.file.config())?;
        let Some(&longest) = positions.iter().max() else { return Ok(()) };
        if longest > options.positions {
            return Err(Error::TooManyPositions { asked: longest, most: options.positions }.into());
        }
        let network = self.shared_network()?;
        // Nothing is chosen, so the drafts are not read.
        let options = Options { positions: longest, speculate: Speculate::OFF, ..options };
        let n_slots = batch_size_up_to(MOST_SEQUENCES, at_once, &self.file, network, &options, &positions)?;
        let mut batch = Batch::new(network, options, n_slots)?;
        self.threads.run(|team| score(&mut batch, team, items, report))?
    }

    /// The bytes of every token; `None` if the file has no vocabulary. Copies about a megabyte, so keep the result.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::OutOfMemory`].
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>, Error> {
        Vocabulary::of_file(&self.file)
    }

    /// The text of `ids`. Invalid UTF-8 becomes U+FFFD, such as a character that is cut at the end. To print text as it
    /// is generated, push the bytes of each token to a [`TextStream`](crate::TextStream).
    ///
    /// # Errors
    /// [`Error::NoVocabulary`], [`Error::NoText`] for one of the ids, [`Error::Damaged`], [`Error::OutOfMemory`].
    pub fn decode_text(&self, ids: &[u32]) -> Result<String, Error> {
        let vocabulary = self.vocabulary()?.ok_or_else(|| Error::NoVocabulary { path: self.path_buf() })?;
        const WHAT: &str = "the text of tokens";
        let mut bytes = Vec::new();
        for &id in ids {
            let of_token = vocabulary.bytes(id).ok_or_else(|| Error::NoText { path: self.path_buf(), token: id })?;
            memory::reserve(&mut bytes, of_token.len(), WHAT)?;
            bytes.extend_from_slice(of_token);
        }
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => return Ok(text),
            Err(other) => other.into_bytes(),
        };
        let mut text = String::new();
        // A byte becomes at most one U+FFFD, which has three bytes.
        let room = memory::asking(|| text.try_reserve_exact(bytes.len().saturating_mul(3)));
        room.map_err(|_| memory::too_little_for::<[u8; 3]>(bytes.len(), WHAT))?;
        text.extend(bytes.utf8_chunks().flat_map(|chunk| [chunk.valid(), replacement(chunk.invalid())]));
        Ok(text)
    }

    /// Checks that the mapped file has not changed since it was opened. Call this before results are used.
    ///
    /// Compares length and modification time. If only the change time differs, as after a rename, or if the file was
    /// opened within two seconds of a change, this computes the digests of all tensors, which takes as long as reading
    /// them. A write through a mapping of another process may change no time, and is then not detected.
    ///
    /// # Errors
    /// [`Error::Changed`]; [`Error::Damaged`] for a wrong digest without a sign of a change; [`Error::Io`].
    pub fn check_unchanged(&self) -> Result<(), Error> {
        self.file.check_unchanged()
    }

    /// Checks by the digests of all tensors that a file is complete if it was changed within two seconds before it was
    /// opened. Call this before the first pass if another process may still be copying the file.
    ///
    /// # Errors
    /// [`Error::Unfinished`], and those of [`Model::check_unchanged`].
    pub fn check_complete(&self) -> Result<(), Error> {
        self.file.check_complete()
    }

    /// Reads the tensors into memory in the order of use, until `stop` returns true. Meant for a thread that runs
    /// during the first pass. Returns whether all tensors are in memory.
    ///
    /// # Errors
    /// [`Error::Io`] when the file was truncated or cannot be read.
    pub fn populate(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<bool, Error> {
        self.file.populate(Which::ALL, stop).map(|populated| populated.complete)
    }

    /// The network, made for the first caller.
    fn shared_network(&self) -> Result<&Arc<Network>, Error> {
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        let network = Arc::new(Network::new(self.file.clone())?);
        // Another thread may have been faster.
        Ok(self.network.get_or_init(|| network))
    }

    fn path_buf(&self) -> PathBuf {
        self.path().to_path_buf()
    }
}

/// For the programs and tests of this workspace.
#[cfg(feature = "internals")]
#[doc(hidden)]
impl Model {
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    pub fn config(&self) -> &ModelConfig {
        self.file.config()
    }

    /// # Errors
    /// Those of [`Network::new`].
    pub fn network(&self) -> Result<&Arc<Network>, Error> {
        self.shared_network()
    }
}

/// U+FFFD for invalid bytes, "" for no bytes.
fn replacement(invalid: &[u8]) -> &'static str {
    if invalid.is_empty() { "" } else { "\u{fffd}" }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("path", &self.path()).field("config", self.file.config()).finish_non_exhaustive()
    }
}

/// Text.
#[cfg(feature = "text")]
impl Model {
    /// The ids of a text. The first call prepares the tokenizer, which takes some milliseconds for 100,000 ids.
    ///
    /// # Errors
    /// [`Error::NoVocabulary`], [`Error::NoTokenizer`], [`Error::UnusableTokenizer`], [`Error::NoEmbedding`],
    /// [`Error::Unencodable`], [`Error::Damaged`], [`Error::OutOfMemory`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encoder()?.encode(text)
    }

    /// The ids of a conversation, `[system] user (assistant user)*`, up to the beginning of the answer.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::UnusableChatTemplate`], [`Error::Messages`], and those of [`Model::encode`].
    pub fn encode_messages(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        self.encode(&self.render_messages(messages)?)
    }

    /// The text of a conversation, `[system] user (assistant user)*`, up to the beginning of the answer: what
    /// [`Model::encode_messages`] encodes.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::UnusableChatTemplate`], [`Error::Messages`], [`Error::Damaged`],
    /// [`Error::OutOfMemory`].
    pub fn render_messages(&self, messages: &[Message]) -> Result<String, Error> {
        self.chat()?.render(messages).map_err(|error| match error {
            ChatError::NoMemory { bytes } => memory::too_little_for::<u8>(bytes, "the text of the conversation"),
            source => Error::Messages { source },
        })
    }

    /// The ids of special tokens, such as those around the turns of a conversation, which are not text of an answer.
    ///
    /// # Errors
    /// [`Error::NoVocabulary`], [`Error::NoTokenizer`], [`Error::UnusableTokenizer`], [`Error::Damaged`],
    /// [`Error::OutOfMemory`].
    pub fn special_ids(&self) -> Result<Vec<u32>, Error> {
        let (_, tokenizer) = self.tokenizer()?;
        Ok(tokenizer.special().collect())
    }

    fn encoder(&self) -> Result<&Encoder, Error> {
        if let Some(encoder) = self.encoder.get() {
            return Ok(encoder);
        }
        let (_, tokenizer) = self.tokenizer()?;
        let prepared = Encoder::new(&tokenizer).map_err(|error| self.with_path(error))?;
        // Another thread may have set it first.
        Ok(self.encoder.get_or_init(|| prepared))
    }

    /// The vocabulary and the tokenizer of the file.
    pub(crate) fn tokenizer(&self) -> Result<(Vocabulary, Tokenizer), Error> {
        let vocabulary = self.vocabulary()?.ok_or_else(|| Error::NoVocabulary { path: self.path_buf() })?;
        let tokenizer = Tokenizer::new(&self.file, &vocabulary).map_err(|error| self.with_path(error))?;
        let tokenizer = tokenizer.ok_or_else(|| Error::NoTokenizer { path: self.path_buf() })?;
        Ok((vocabulary, tokenizer))
    }

    /// The chat template of the file.
    pub(crate) fn chat(&self) -> Result<Chat, Error> {
        let chat = Chat::new(&self.file).map_err(|error| self.with_path(error))?;
        chat.ok_or_else(|| Error::NoChatTemplate { path: self.path_buf() })
    }

    /// Adds the path of the model to an error of its tokenizer or chat template.
    fn with_path(&self, error: Error) -> Error {
        let at_path = |problem: String| format!("{}: {problem}", display_path(self.path()));
        match error {
            Error::UnusableTokenizer { problem } => Error::UnusableTokenizer { problem: at_path(problem) },
            Error::UnusableChatTemplate { problem } => Error::UnusableChatTemplate { problem: at_path(problem) },
            error => error,
        }
    }
}
