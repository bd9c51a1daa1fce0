//! A sequence of tokens and the results of the model for it.

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::format::config::ModelConfig;
use crate::generate::sampler::Sampler;
use crate::network::batch::Batch;
use crate::network::{Network, Options};
use crate::os::memory;
use crate::parallel::team::Threads;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

/// A sequence with its KV cache and all buffers, from [`Model::session`](crate::Model::session). It keeps the file and
/// the threads of the model, and can be sent to another thread.
///
/// Every pass takes a turn on the threads of the model, and wakes them when the last one ended more than a moment ago,
/// which takes some tens of microseconds. For many sequences [`Model::generate`](crate::Model::generate) is faster.
pub struct Session {
    /// Of one slot.
    batch: Batch,
    threads: Arc<Threads>,
    /// The sequence, `[<= positions]`. The token that was generated last may not be evaluated yet.
    tokens: Vec<u32>,
}

/// The result of [`Session::resume_while`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Tokens whose keys and values were there.
    pub reused: usize,
    /// Tokens that were evaluated.
    pub evaluated: usize,
    /// Whether all of them were.
    pub complete: bool,
}

impl Session {
    pub(crate) fn new(network: &Arc<Network>, threads: &Arc<Threads>, options: Options) -> Result<Session, Error> {
        let batch = Batch::of_one(network, options)?;
        let tokens = memory::room_for(options.positions, "the tokens of a session")?;
        Ok(Session { batch, threads: threads.clone(), tokens })
    }

    /// Appends tokens, any number of them, and evaluates them in chunks of [`Options::chunk`]. [`Session::logits`] then
    /// gives what the last one predicts.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::ContextFull`], [`Error::UnknownToken`]: the session is what it was.
    /// [`Error::NotFinite`] when a logit is not a finite number: the tokens stay, and nothing can be generated after
    /// them. [`Error::NotRun`], [`Error::OutOfMemory`]: the tokens that are not evaluated are not part of the sequence.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.check(tokens, self.left())?;
        let before = self.tokens.len();
        self.tokens.extend(tokens);
        let evaluated = self.evaluate(&mut || true);
        if let Err(Error::NotRun { .. } | Error::OutOfMemory { .. }) = evaluated {
            self.tokens.truncate(before.max(self.batch.position(0)));
        }
        evaluated.map(|_complete| ())
    }

    /// Makes `tokens` the sequence. What it has in common with the sequence so far is kept, the rest is evaluated:
    /// [`Session::logits`] gives what the last token predicts, with the bits of a new session after a
    /// [`Session::prefill`] of `tokens`. Yields the number of tokens that were not evaluated again.
    ///
    /// At least the last token is evaluated. The costs of a cut are those of [`Session::truncate`].
    ///
    /// # Errors
    /// Those of [`Session::prefill`], for as many positions as the session has.
    pub fn resume(&mut self, tokens: &[u32]) -> Result<usize, Error> {
        self.resume_while(tokens, || true).map(|resumed| resumed.reused)
    }

    /// [`Session::resume`] that asks before each pass, of at most [`Options::chunk`] tokens, whether to go on. Where
    /// the answer is no, the session keeps the tokens that are evaluated by then. It has the logits of the last one where
    /// nothing was to be cut and nothing was evaluated, else none.
    ///
    /// # Errors
    /// Those of [`Session::resume`].
    pub fn resume_while(&mut self, tokens: &[u32], mut go_on: impl FnMut() -> bool) -> Result<Resumed, Error> {
        self.check(tokens, self.options().positions)?;
        let same = self.tokens.iter().zip(tokens).take_while(|(old, new)| old == new).count();
        let reused = self.batch.truncate(0, same.min(tokens.len() - 1));
        self.tokens.clear();
        self.tokens.extend(tokens);
        let complete = self.evaluate(&mut go_on);
        let evaluated = self.batch.position(0) - reused;
        self.tokens.truncate(self.batch.position(0));
        Ok(Resumed { reused, evaluated, complete: complete? })
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
        self.batch.computed_logits()
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
    pub fn generate(&mut self, sampling: Sampling) -> Continuation<'_> {
        let mut sampler = sampling.check().and_then(|()| Sampler::new(sampling, self.config().vocab_size));
        if let Ok(sampler) = &mut sampler {
            self.tokens.iter().for_each(|&token| sampler.observe(token));
        }
        Continuation { session: self, sampler: Some(sampler), ended: false }
    }

    /// Forgets the sequence; the next tokens begin a new one in the same memory.
    pub fn restart(&mut self) {
        self.batch.restart(0);
        self.tokens.clear();
    }

    /// Cuts the sequence back to its first `n` tokens; does nothing where it has no more than that. What follows has
    /// the bits of a session that has seen these tokens only.
    ///
    /// The cut itself takes no time. The last token that is left is evaluated again by the next call that evaluates,
    /// so that [`Session::generate`] can go on; [`Session::logits`] is empty until then. A layer with a sliding window
    /// keeps its window and about [`Options::chunk`] more positions: after a longer cut of a sequence longer than that,
    /// all `n` tokens are evaluated again by that call.
    pub fn truncate(&mut self, n: usize) {
        if n >= self.tokens.len() {
            return;
        }
        self.tokens.truncate(n);
        // A token that was generated last may not be evaluated: without it the logits are those of the end.
        if self.batch.position(0) > n {
            self.batch.truncate(0, n.saturating_sub(1));
        }
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

    fn config(&self) -> &ModelConfig {
        self.batch.config()
    }

    /// How this session computes; the chunk is at most the positions.
    pub fn options(&self) -> &Options {
        self.batch.options()
    }

    /// Checks that tokens can be evaluated at `left` positions.
    fn check(&self, tokens: &[u32], left: usize) -> Result<(), Error> {
        let (positions, vocab_size) = (self.options().positions, self.config().vocab_size);
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        if tokens.len() > left {
            return Err(Error::ContextFull { tokens: tokens.len(), left, positions });
        }
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(Error::UnknownToken { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// Evaluates the tokens that are not yet, of which there are some, as long as `go_on` says so before each pass;
    /// tells whether that was to the end. The threads are let go after each pass, so that a long prompt does not keep
    /// other sessions waiting.
    fn evaluate(&mut self, go_on: &mut dyn FnMut() -> bool) -> Result<bool, Error> {
        let (begin, most) = (self.batch.position(0), self.options().chunk);
        let (batch, mut waiting) = (&mut self.batch, &self.tokens[begin..]);
        while !waiting.is_empty() {
            if !go_on() {
                return Ok(false);
            }
            let (chunk, rest) = waiting.split_at(waiting.len().min(most));
            self.threads.run(|team| -> Result<(), Error> {
                batch.forward(team, [(0, chunk)])?;
                if rest.is_empty() {
                    batch.logits(team, chunk.len() - 1..chunk.len())?;
                }
                Ok(())
            })??;
            waiting = rest;
        }
        Ok(true)
    }

    /// The next token of [`Session::generate`]; `None` at the end.
    fn extend(&mut self, sampler: &mut Sampler) -> Result<Option<u32>, Error> {
        if self.left() == 0 {
            return Ok(None);
        }
        if self.batch.position(0) < self.tokens.len() {
            self.evaluate(&mut || true)?;
        }
        if self.logits().is_empty() {
            return Err(Error::NothingEvaluated);
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

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("tokens", &self.tokens).field("options", self.options()).finish_non_exhaustive()
    }
}

/// The tokens that [`Session::generate`] chooses. It borrows the session, which goes on from the last of them when this
/// is dropped.
pub struct Continuation<'s> {
    session: &'s mut Session,
    /// Chooses the tokens, or the error that the first item is; `None` after that.
    sampler: Option<Result<Sampler, Error>>,
    ended: bool,
}

impl Continuation<'_> {
    /// The session, with its logits and tokens.
    pub fn session(&self) -> &Session {
        self.session
    }
}

impl Iterator for Continuation<'_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Result<u32, Error>> {
        if self.ended {
            return None;
        }
        let next = match self.sampler.as_mut()? {
            Ok(sampler) => self.session.extend(sampler),
            Err(_) => self.sampler.take()?.map(|_| None),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl FusedIterator for Continuation<'_> {}
