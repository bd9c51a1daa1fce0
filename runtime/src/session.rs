//! A sequence of tokens and what the model makes of it, for a caller that knows nothing of teams.

use crate::config::ModelConfig;
use crate::continuation::Continuation;
use crate::error::Error;
use crate::model_file::ModelFile;
use crate::network::{Network, Options};
use crate::sampler::{Sampler, Sampling};
use crate::single::Single;
use crate::threads::Threads;
use std::fmt;

/// A sequence with its KV cache and all buffers, from [`Model::session`](crate::Model::session). It can be sent to
/// another thread.
///
/// Every pass wakes the threads of the model, some tens of microseconds, and lets them go again, so that sessions of
/// several callers can share them. Where that counts - for whole runs, or many sequences at once -
/// [`generate`](crate::generate::generate) inside [`with_team`](crate::threads::with_team) is the way.
pub struct Session<'m> {
    single: Single<'m>,
    threads: &'m Threads,
    /// The sequence, `[<= positions]`. A token that was generated last is here and not evaluated yet.
    tokens: Vec<u32>,
}

impl<'m> Session<'m> {
    pub(crate) fn new(file: &'m ModelFile, threads: &'m Threads, options: Options) -> Result<Session<'m>, Error> {
        let single = Single::new(&Network::new(file), options)?;
        Ok(Session { single, threads, tokens: Vec::with_capacity(options.positions) })
    }

    /// Bytes that a session needs: KV cache and activations.
    pub fn bytes(config: &ModelConfig, options: &Options) -> u64 {
        Single::bytes(config, options)
    }

    /// Appends tokens, any number of them, and evaluates them in chunks of [`Options::chunk`]. [`Session::logits`] then
    /// gives what the last one predicts.
    ///
    /// # Errors
    /// [`Error::Request`] when the tokens are none, more than there are positions left, or not in the vocabulary: the
    /// session is what it was. [`Error::NotFinite`] when what they predict is no number; the tokens stay, and nothing
    /// can be generated after them.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.check(tokens).map_err(|problem| Error::Request { problem })?;
        self.tokens.extend(tokens);
        self.evaluate()
    }

    /// Appends one token and evaluates it: [`Session::prefill`] for a token that the caller has chosen.
    ///
    /// # Errors
    /// Those of [`Session::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<(), Error> {
        self.prefill(&[token])
    }

    /// What the last evaluated token predicts, `[vocab_size]`; empty before the first one, and after an error of the
    /// evaluation. While [`Session::generate`] goes on, they are what its last token was chosen from.
    pub fn logits(&self) -> &[f32] {
        self.single.computed_logits()
    }

    /// Goes on after the tokens so far, one chosen token after the other, up to one that ends a text, which is not
    /// handed out, or to the last position. They become part of the sequence: a caller does not give them to
    /// [`Session::decode`] again. Each is handed out before it is evaluated, so that the last one costs no pass.
    ///
    /// The same seed gives the same tokens on every machine.
    ///
    /// # Errors
    /// An item is an error, and the last one, when nothing was evaluated before, when the values of `sampling` cannot
    /// be, and for [`Error::NotFinite`].
    pub fn generate(&mut self, sampling: Sampling) -> Continuation<'_, 'm> {
        Continuation::new(self, sampling)
    }

    /// Forgets the sequence; the next tokens begin a new one in the same memory.
    pub fn restart(&mut self) {
        self.single.restart();
        self.tokens.clear();
    }

    /// The tokens of the sequence, given and generated.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens so far, which is the position of the next one.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// Number of tokens that there is still room for.
    pub fn left(&self) -> usize {
        self.options().positions - self.position()
    }

    /// The model's configuration.
    pub fn config(&self) -> &'m ModelConfig {
        self.single.config()
    }

    /// How this session computes; the chunk is at most the positions.
    pub fn options(&self) -> &Options {
        self.single.options()
    }

    /// What is wrong with tokens that are to be appended.
    fn check(&self, tokens: &[u32]) -> Result<(), String> {
        let (left, positions, vocab_size) = (self.left(), self.options().positions, self.config().vocab_size);
        if tokens.is_empty() {
            return Err("no tokens to evaluate, expected at least one".into());
        }
        if tokens.len() > left {
            let n = tokens.len();
            return Err(format!("{n} tokens, expected at most {left}: so many are left of {positions} positions"));
        }
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(token) => Err(format!("token {token}, the vocabulary has ids 0 to {}", vocab_size - 1)),
            None => Ok(()),
        }
    }

    /// Evaluates the tokens that are not yet, of which there are some. The threads are let go after each pass, so that
    /// a long prompt does not keep other sessions waiting.
    fn evaluate(&mut self) -> Result<(), Error> {
        let (begin, most) = (self.single.position(), self.options().chunk);
        let (single, mut waiting) = (&mut self.single, &self.tokens[begin..]);
        while !waiting.is_empty() {
            let (chunk, rest) = waiting.split_at(waiting.len().min(most));
            self.threads.run(|team| {
                single.forward(team, chunk)?;
                if rest.is_empty() {
                    single.logits(team, chunk.len() - 1..chunk.len())?;
                }
                Ok(())
            })?;
            waiting = rest;
        }
        Ok(())
    }

    /// The next token of [`Session::generate`]; `None` at the end.
    pub(crate) fn extend(&mut self, sampler: &mut Sampler) -> Result<Option<u32>, Error> {
        if self.left() == 0 {
            return Ok(None);
        }
        if self.single.position() < self.tokens.len() {
            self.evaluate()?;
        }
        if self.logits().is_empty() {
            return Err(Error::Request { problem: "nothing to go on from; evaluate a prompt first".into() });
        }
        let token = sampler.choose(self.logits());
        if self.config().eos_token_ids.contains(&token) {
            return Ok(None);
        }
        sampler.observe(token);
        self.tokens.push(token);
        Ok(Some(token))
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("tokens", &self.tokens).field("options", self.options()).finish_non_exhaustive()
    }
}
