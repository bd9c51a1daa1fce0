//! A conversation with a model: its messages, and a session that has evaluated them. It reads and prints nothing.
//!
//! For every answer the chat template renders the whole conversation, which is encoded again. The session resumes where
//! these ids differ from those that it has evaluated. So a chat template may change earlier turns, for example drop the
//! thinking of earlier answers: the result is always that of one prefill of the conversation.

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::generate::speculation::Speculated;
use crate::model::Model;
use crate::network::Options;
use crate::os::memory;
use crate::session::{Resumed, Session};
use crate::text::chat::{Chat, ChatError, Message, Role};
use crate::text::stream::TextStream;
use crate::text::vocabulary::Vocabulary;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Most bytes of text for each position; the longest token of the published models has 128. Longer text is rejected
/// before it is encoded.
pub const POSITION_BYTES: usize = 512;

/// Most bytes of a token's text in one call of the listener. Only the size of the model file bounds that text.
const PIECE_BYTES: usize = 64 << 10;

/// Options of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answering {
    /// How tokens are chosen. Each answer takes the next seed.
    pub sampling: Sampling,
    /// Most tokens of an answer; `None` for all positions left.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer and are not part of it; none is empty.
    pub stops: Vec<String>,
}

/// The messages of a conversation and the session that has evaluated them, kept in step.
pub struct Conversation {
    model: Model,
    chat: Chat,
    vocabulary: Vocabulary,
    /// Ids of special tokens, which are not text; each ends an answer.
    special: Vec<u32>,
    session: Session,
    answering: Answering,
    /// `[system] (user assistant)*`
    messages: Vec<Message>,
    /// Answers begun so far.
    n_answers: u64,
}

/// Counts and times of an answer, and why it ended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// Why it ended.
    pub end: End,
    /// Tokens of the conversation that were not evaluated again.
    pub reused: usize,
    /// Tokens of the conversation that were evaluated.
    pub evaluated: usize,
    /// Time for the evaluated tokens.
    pub prefill: Duration,
    /// Tokens that were generated.
    pub generated: usize,
    /// Time for the generated tokens, that of the listener included.
    pub decode: Duration,
    /// What was guessed of the generated tokens; the guesses of the last pass may be missing.
    pub speculated: Speculated,
    /// The seed for sampling.
    pub seed: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The model ended it.
    Model,
    /// The text contains one of [`Answering::stops`].
    Stop,
    /// It has [`Answering::max_tokens`] tokens.
    MaxTokens,
    /// The last position is taken, or the answer has more than 512 bytes of text for each position.
    Full,
    /// The listener ended it.
    Listener,
}

/// Why there is no answer. The messages are unchanged.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unanswered {
    /// The chat template does not accept this conversation.
    Chat(ChatError),
    /// There is no user turn to answer.
    NoTurn,
    /// The conversation cannot be encoded.
    Text(Error),
    /// The conversation needs more positions than there are.
    TooLong {
        /// Its length, as in "310 tokens".
        found: String,
        /// The positions of the session, one of which an answer needs.
        positions: usize,
    },
    /// The listener ended it before the first text of an answer.
    Listener,
    /// The evaluation failed.
    Failed(Error),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unanswered::Chat(error) => error.fmt(f),
            Unanswered::NoTurn => f.write_str("there is no turn yet"),
            Unanswered::TooLong { found, positions } => {
                write!(
                    f,
                    "the conversation would have {found}, which leaves no room for an answer in {positions} positions"
                )
            }
            Unanswered::Listener => f.write_str("the answer was interrupted before it began"),
            Unanswered::Text(error) | Unanswered::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Unanswered::Chat(error) => Some(error),
            Unanswered::Text(error) | Unanswered::Failed(error) => Some(error),
            Unanswered::NoTurn | Unanswered::TooLong { .. } | Unanswered::Listener => None,
        }
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Unanswered {
        Unanswered::Failed(error)
    }
}

impl Conversation {
    /// An empty conversation in a session with these options.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::UnusableChatTemplate`], [`Error::Sampling`], and those of [`Model::encode`]
    /// and [`Model::session`].
    pub fn new(model: &Model, options: Options, answering: Answering) -> Result<Conversation, Error> {
        Conversation::with(model, model.chat()?, options, answering)
    }

    /// [`Conversation::new`] with the chat template `chat`.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn with_chat(model: &Model, chat: Chat, options: Options, answering: Answering) -> Result<Conversation, Error> {
        Conversation::with(model, chat, options, answering)
    }

    fn with(model: &Model, chat: Chat, options: Options, answering: Answering) -> Result<Conversation, Error> {
        answering.sampling.check()?;
        // This prepares the tokenizer and returns its errors early.
        model.encode("")?;
        let (vocabulary, tokenizer) = model.tokenizer()?;
        let special = tokenizer.special().collect();
        let session = model.session(options)?;
        let (model, messages) = (model.clone(), Vec::new());
        Ok(Conversation { model, chat, vocabulary, special, session, answering, messages, n_answers: 0 })
    }

    /// The messages: `[system] (user assistant)*`.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The session, with its tokens and logits.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The options of answers.
    pub fn answering(&self) -> &Answering {
        &self.answering
    }

    /// Number of user turns, each of which has an answer.
    pub fn n_turns(&self) -> usize {
        (self.messages.len() - self.n_system()) / 2
    }

    /// 1 with a system message, else 0.
    fn n_system(&self) -> usize {
        usize::from(self.messages.first().is_some_and(|message| message.role == Role::System))
    }

    /// Sets the system message, which is first in the conversation, or removes it. The next answer evaluates the whole
    /// conversation.
    ///
    /// # Errors
    /// [`ChatError::NoSystem`] or [`ChatError::NeedsSystem`] if the chat template does not accept that.
    pub fn set_system(&mut self, system: Option<String>) -> Result<(), ChatError> {
        match (&system, &self.chat) {
            (Some(_), Chat { with_system: None, .. }) => return Err(ChatError::NoSystem),
            (None, Chat { alone: None, .. }) => return Err(ChatError::NeedsSystem),
            _ => {}
        }
        let system = system.map(|system| Message::new(Role::System, system));
        self.messages.splice(..self.n_system(), system);
        Ok(())
    }

    /// Removes the last user turn and its answer. Returns whether there was one.
    pub fn undo(&mut self) -> bool {
        let is_there = self.n_turns() > 0;
        if is_there {
            self.messages.truncate(self.messages.len() - 2);
        }
        is_there
    }

    /// Removes all turns; the system message stays.
    pub fn clear(&mut self) {
        self.messages.truncate(self.n_system());
    }

    /// Generates the answer to a new user turn, and appends both to the conversation. Calls `listen` with each piece of
    /// the answer's text, which may be empty, and with an empty piece before each pass over the conversation. If it
    /// breaks, the answer ends and the text so far is kept.
    ///
    /// # Errors
    /// [`Unanswered`]; the conversation is then unchanged.
    pub fn ask(
        &mut self,
        user: impl Into<String>,
        listen: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, Unanswered> {
        self.messages.push(Message::new(Role::User, user));
        self.answer_or(listen, |messages| messages.truncate(messages.len() - 1))
    }

    /// Answers the last user turn again, with the next seed. The new answer replaces the old one.
    ///
    /// # Errors
    /// [`Unanswered`]; the conversation is then unchanged.
    pub fn retry(&mut self, listen: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Unanswered> {
        if self.n_turns() == 0 {
            return Err(Unanswered::NoTurn);
        }
        let old = self.messages.pop();
        self.answer_or(listen, |messages| messages.extend(old))
    }

    /// Answers the user turn at the end. Without an answer, or if the listener panics, `undo` restores the messages.
    fn answer_or(
        &mut self,
        listen: &mut dyn FnMut(&str) -> ControlFlow<()>,
        undo: impl FnOnce(&mut Vec<Message>),
    ) -> Result<Answer, Unanswered> {
        let answer = catch_unwind(AssertUnwindSafe(|| self.answer(listen)));
        if !matches!(answer, Ok(Ok(_))) {
            undo(&mut self.messages);
        }
        answer.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The ids of the conversation, whose last message is that of a user.
    fn ids(&self) -> Result<Vec<u32>, Unanswered> {
        let positions = self.session.options().positions;
        let too_long = |found: String| Unanswered::TooLong { found, positions };
        let text = self.chat.render(&self.messages).map_err(Unanswered::Chat)?;
        if text.len() > positions.saturating_mul(POSITION_BYTES) {
            return Err(too_long(format!("{} bytes of text", text.len())));
        }
        let ids = self.model.encode(&text).map_err(|error| match error {
            error @ (Error::NoEmbedding { .. } | Error::Unencodable { .. }) => Unanswered::Text(error),
            error => error.into(),
        })?;
        match ids.len() {
            n if n >= positions => Err(too_long(format!("{n} tokens"))),
            _ => Ok(ids),
        }
    }

    /// Answers the user turn at the end, and appends the answer.
    fn answer(&mut self, listen: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Unanswered> {
        let ids = self.ids()?;
        let begun = Instant::now();
        let resumed = self.session.resume_while(&ids, || listen("").is_continue())?;
        let prefill = begun.elapsed();
        if !resumed.complete {
            return Err(Unanswered::Listener);
        }
        let seed = self.answering.sampling.seed.wrapping_add(self.n_answers);
        self.n_answers += 1;
        let prefix = self.chat.answer_prefix(self.n_system() == 1, self.n_turns() + 1).to_string();
        let most_bytes = self.session.options().positions.saturating_mul(POSITION_BYTES);
        let mut answer =
            AnswerText { content: prefix.clone(), most_bytes, stream: TextStream::new(&self.answering.stops), listen };
        let (begun, guessed) = (Instant::now(), self.session.speculated());
        let (mut generated, mut end) = (0, None);
        if (answer.listen)(&prefix).is_break() {
            end = Some(End::Listener);
        }
        let mut tokens = self.session.generate(Sampling { seed, ..self.answering.sampling });
        let end = loop {
            if let Some(end) = end {
                break end;
            }
            if self.answering.max_tokens.is_some_and(|most| generated >= most) {
                break End::MaxTokens;
            }
            let Some(token) = tokens.next() else {
                break if tokens.session().left() == 0 { End::Full } else { End::Model };
            };
            let token = token?;
            if self.special.contains(&token) {
                break End::Model;
            }
            generated += 1;
            end = answer.push(self.vocabulary.bytes(token).unwrap_or_default())?;
        };
        answer.finish()?;
        let content = answer.content;
        if end == End::Listener && content == prefix {
            return Err(Unanswered::Listener);
        }
        self.messages.push(Message::new(Role::Assistant, content));
        let Resumed { reused, evaluated, .. } = resumed;
        let (decode, speculated) = (begun.elapsed(), self.session.speculated().since(&guessed));
        Ok(Answer { end, reused, evaluated, prefill, generated, decode, speculated, seed })
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("messages", &self.messages).finish_non_exhaustive()
    }
}

/// The text of an answer while it is generated.
struct AnswerText<'l> {
    content: String,
    /// The limit for `content`.
    most_bytes: usize,
    stream: TextStream,
    listen: &'l mut dyn FnMut(&str) -> ControlFlow<()>,
}

impl AnswerText<'_> {
    /// Appends the bytes of a token. Returns why the answer ends with it, if it does.
    fn push(&mut self, bytes: &[u8]) -> Result<Option<End>, Error> {
        // The listener is called for a token without text too: it may end the answer.
        let mut pieces = bytes.chunks(PIECE_BYTES);
        let (mut shown, mut piece) = (Vec::new(), pieces.next().unwrap_or_default());
        loop {
            shown.clear();
            let is_stopped = self.stream.push(piece, &mut shown);
            match (is_stopped, self.emit(&shown)?) {
                (true, _) => return Ok(Some(End::Stop)),
                (false, ControlFlow::Break(())) => return Ok(Some(End::Listener)),
                // A conversation with a longer answer would be rejected by `ids`.
                _ if self.content.len() > self.most_bytes => return Ok(Some(End::Full)),
                (false, ControlFlow::Continue(())) => {}
            }
            match pieces.next() {
                Some(next) => piece = next,
                None => return Ok(None),
            }
        }
    }

    /// Emits the text that was held back, at the end of an answer.
    fn finish(&mut self) -> Result<(), Error> {
        let mut shown = Vec::new();
        self.stream.finish(&mut shown);
        if !shown.is_empty() {
            let _at_its_end = self.emit(&shown)?;
        }
        Ok(())
    }

    fn emit(&mut self, shown: &[u8]) -> Result<ControlFlow<()>, Error> {
        // A stream returns whole characters.
        let text = String::from_utf8_lossy(shown);
        let no_memory = |_| memory::too_little_for::<u8>(text.len(), "the answer");
        memory::asking(|| self.content.try_reserve(text.len())).map_err(no_memory)?;
        self.content += &text;
        Ok((self.listen)(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_beyond_the_byte_limit() {
        let (mut longest, mut n_pieces) = (0, 0);
        let mut listen = |piece: &str| {
            longest = longest.max(piece.len());
            n_pieces += 1;
            ControlFlow::Continue(())
        };
        let stream = TextStream::new(&["y".into()]);
        let mut answer =
            AnswerText { content: String::new(), most_bytes: 3 * PIECE_BYTES, stream, listen: &mut listen };
        assert_eq!(answer.push(&vec![b'x'; 2 * PIECE_BYTES]).expect("memory"), None);
        assert_eq!(answer.push(b"").expect("memory"), None);
        assert_eq!(answer.push(&vec![b'x'; 100 * PIECE_BYTES]).expect("memory"), Some(End::Full));
        assert_eq!(answer.content.len(), 4 * PIECE_BYTES);
        assert_eq!(answer.push(b"xyx").expect("memory"), Some(End::Stop));
        assert_eq!((longest, n_pieces), (PIECE_BYTES, 6));
    }
}
