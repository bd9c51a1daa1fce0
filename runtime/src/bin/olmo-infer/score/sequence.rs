//! The tokens of an item, and the windows that it is evaluated in.

use crate::prompts::encoder;
use crate::score::request::Content;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::score::{Item, Window, windows};
use olmo_infer::internals::text::boundary::{count_words, encode_pair, start_token};
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::cell::OnceCell;

/// Most windows of an item: each takes some hundred bytes of memory.
const MOST_WINDOWS: usize = 1 << 20;

/// What the token is called that precedes a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// What [`start_token`] finds.
    Default,
    /// This token.
    Token(u32),
    /// None: the first token of a text is not scored.
    Nothing,
}

/// How much text is scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    pub bytes: u64,
    pub words: u64,
}

impl Extent {
    fn of(text: &str) -> Extent {
        Extent { bytes: text.len() as u64, words: count_words(text) }
    }
}

/// An item as the model evaluates it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Its ids, after the start token if it has one.
    pub tokens: Vec<u32>,
    /// Tokens of the item, without a start token and with those of the context that are left out.
    pub n_tokens: usize,
    /// The parts that are evaluated.
    pub windows: Vec<Window>,
    /// Tokens at the beginning of the context that are left out where the positions are too few.
    pub n_left_out: usize,
    /// Of what is scored; `None` for ids of a model without a vocabulary.
    pub extent: Option<Extent>,
    /// Whether the item is a continuation.
    pub is_continuation: bool,
}

impl Sequence {
    /// What is evaluated, in the order of the windows.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.windows.iter().map(|window| Item {
            tokens: &self.tokens[window.tokens.clone()],
            first: window.first - window.tokens.start,
        })
    }
}

/// Turns items into sequences.
pub struct Tokenizing<'a> {
    file: &'a ModelFile,
    start: Start,
    /// Most tokens of a window that are evaluated.
    positions: usize,
    stride: usize,
    /// Made for the first text.
    encoder: OnceCell<Result<Encoder, String>>,
    vocabulary: OnceCell<Option<Vocabulary>>,
}

impl<'a> Tokenizing<'a> {
    /// For windows of `positions`, each of which scores `stride` more tokens.
    pub fn new(file: &'a ModelFile, start: Start, positions: usize, stride: usize) -> Tokenizing<'a> {
        Tokenizing { file, start, positions, stride, encoder: OnceCell::new(), vocabulary: OnceCell::new() }
    }

    /// The sequence of an item.
    ///
    /// # Errors
    /// Why it cannot be scored.
    pub fn sequence(&self, content: Content) -> Result<Sequence, String> {
        match content {
            Content::Ids(ids) => self.of_ids(ids),
            Content::Text(text) => self.of_text(&text),
            Content::Pair { context, continuation } => self.of_pair(&context, &continuation),
        }
    }

    fn of_ids(&self, ids: Vec<u32>) -> Result<Sequence, String> {
        let vocab_size = self.file.config().vocab_size;
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(format!("token {index} is {id}, the vocabulary has ids 0 to {}", vocab_size - 1));
        }
        let (extent, n_tokens) = (self.extent_of(&ids[1..])?, ids.len());
        self.in_windows(ids, n_tokens, extent)
    }

    fn of_text(&self, text: &str) -> Result<Sequence, String> {
        let ids = self.encoder()?.encode(text).map_err(|error| error.to_string())?;
        let n_tokens = ids.len();
        match self.start()? {
            Some(start) => self.in_windows([vec![start], ids].concat(), n_tokens, Some(Extent::of(text))),
            None => {
                let extent = self.extent_of(ids.get(1..).unwrap_or_default())?;
                self.in_windows(ids, n_tokens, extent)
            }
        }
    }

    /// How much text ids are; `None` without a vocabulary.
    fn extent_of(&self, ids: &[u32]) -> Result<Option<Extent>, String> {
        let Some(vocabulary) = self.vocabulary()? else { return Ok(None) };
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| vocabulary.bytes(id).unwrap_or_default()).copied().collect();
        Ok(Some(Extent { bytes: bytes.len() as u64, ..Extent::of(&String::from_utf8_lossy(&bytes)) }))
    }

    fn in_windows(&self, tokens: Vec<u32>, n_tokens: usize, extent: Option<Extent>) -> Result<Sequence, String> {
        let n_windows = tokens.len() / self.stride;
        if n_windows > MOST_WINDOWS {
            return Err(format!(
                "{n_windows} windows, expected at most {MOST_WINDOWS}; give --stride a larger number, or split it"
            ));
        }
        let windows = windows(tokens.len(), self.positions, self.stride).collect();
        Ok(Sequence { tokens, n_tokens, windows, n_left_out: 0, extent, is_continuation: false })
    }

    /// As EleutherAI's evaluation harness does: see [`encode_pair`]; an empty context is the start token, and too long
    /// a context loses its beginning.
    fn of_pair(&self, context: &str, continuation: &str) -> Result<Sequence, String> {
        let encoder = self.encoder()?;
        let (tokens, first, n_start) = match context {
            "" => {
                let ids = encoder.encode(continuation).map_err(|error| error.to_string())?;
                match self.start()? {
                    None => return Err("an empty context, with --start none: nothing precedes the continuation".into()),
                    // A continuation that begins with the start token has its context.
                    Some(start) if ids.first() == Some(&start) => (ids, 1, 0),
                    Some(start) => ([vec![start], ids].concat(), 1, 1),
                }
            }
            _ => {
                let pair = encode_pair(encoder, context, continuation);
                let (tokens, first) = pair.map_err(|error| error.to_string())?;
                (tokens, first, 0)
            }
        };
        if first >= tokens.len() {
            let problem = "the continuation has no token of its own, expected a text that the context does not contain";
            return Err(problem.into());
        }
        if first == 0 {
            return Err("the context has no token, expected a text, or an empty one".into());
        }
        let begin = tokens.len().saturating_sub(self.positions + 1);
        if begin >= first {
            let (n, most) = (tokens.len() - first, self.positions);
            return Err(format!("the continuation has {n} tokens, expected at most {most}, the positions; split it"));
        }
        let windows = vec![Window { tokens: begin..tokens.len(), first }];
        let n_tokens = tokens.len() - n_start;
        let extent = Some(Extent::of(continuation));
        Ok(Sequence { tokens, n_tokens, windows, n_left_out: begin, extent, is_continuation: true })
    }

    /// The token before a text.
    fn start(&self) -> Result<Option<u32>, String> {
        match self.start {
            Start::Token(token) => Ok(Some(token)),
            Start::Nothing => Ok(None),
            Start::Default => match start_token(self.vocabulary()?, self.file.config()) {
                Some(token) => Ok(Some(token)),
                None => {
                    Err("the model has no <|endoftext|>, BOS or EOS token to begin a text; name one with --start"
                        .into())
                }
            },
        }
    }

    fn vocabulary(&self) -> Result<Option<&Vocabulary>, String> {
        if self.vocabulary.get().is_none() {
            let vocabulary = Vocabulary::new(self.file).map_err(|error: Error| error.to_string())?;
            self.vocabulary.get_or_init(|| vocabulary);
        }
        Ok(self.vocabulary.get().and_then(Option::as_ref))
    }

    fn encoder(&self) -> Result<&Encoder, String> {
        let made = self.encoder.get_or_init(|| encoder(self.file, "a text").map_err(|failure| failure.to_string()));
        made.as_ref().map_err(Clone::clone)
    }
}
