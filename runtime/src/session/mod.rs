//! A sequence of tokens and its logits.

pub(crate) mod saved;

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::format::config::ModelConfig;
use crate::generate::sampler::{Choice, Sampler};
use crate::generate::speculation::{Sequences, Speculated, Speculator};
use crate::network::batch::Batch;
use crate::network::observer::Hidden;
use crate::network::sequence::Row;
use crate::network::speculate::Speculate;
use crate::network::{Network, Options};
use crate::os::memory;
use crate::parallel::team::Threads;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// A sequence with its KV cache and all buffers, from [`Model::session`](crate::Model::session). It keeps the file and
/// the threads of the model, and can be sent to another thread.
///
/// Every pass takes a turn on the threads of the model. If they are parked, it wakes them first, which takes some tens
/// of microseconds. For many sequences [`Model::generate`](crate::Model::generate) is faster.
pub struct Session {
    /// With one slot.
    batch: Batch,
    threads: Arc<Threads>,
    /// The sequence, `[<= positions]`. The token that was generated last may not be evaluated yet.
    tokens: Vec<u32>,
    /// The row of the computed logits that the last evaluated token has. Later rows are those of guesses.
    row: usize,
    speculator: Speculator,
    /// Seconds of the last pass with guesses, until it is known how many of them are right.
    unlearned: Option<f64>,
}

/// The sequence of a session, which drafts continue.
struct Guessed<'s> {
    tokens: &'s [u32],
    sampler: &'s mut Sampler,
    room: usize,
}

impl Sequences for Guessed<'_> {
    fn known(&self, _slot: usize) -> Option<(&[u32], usize)> {
        Some((self.tokens, self.room))
    }

    fn guess(&mut self, _slot: usize, logits: &[f32], position: usize, guessed: &[u32]) -> Choice {
        self.sampler.guess(logits, position, guessed)
    }
}

/// The result of [`Session::resume_while`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// Tokens whose keys and values were in the cache.
    pub reused: usize,
    /// Tokens that were evaluated.
    pub evaluated: usize,
    /// Whether all tokens are evaluated.
    pub complete: bool,
}

impl Session {
    pub(crate) fn new(network: &Arc<Network>, threads: &Arc<Threads>, options: Options) -> Result<Session, Error> {
        let batch = Batch::of_one(network, options)?;
        let tokens = memory::room_for(options.positions, "the tokens of a session")?;
        let speculator = Speculator::new(&batch)?;
        Ok(Session { batch, threads: threads.clone(), tokens, row: 0, speculator, unlearned: None })
    }

    /// Appends tokens and evaluates them in chunks of [`Options::chunk`]. [`Session::logits`] then returns the logits
    /// after the last one.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::ContextFull`], [`Error::UnknownToken`]: the session is unchanged.
    /// [`Error::NotFinite`] when a logit is not a finite number: the tokens stay, and nothing can be generated after
    /// them. [`Error::NotRun`], [`Error::OutOfMemory`]: the tokens that were not evaluated are removed.
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

    /// Replaces the sequence by `tokens`. Keeps the common prefix with the present sequence and evaluates the rest.
    /// [`Session::logits`] then has the bits of a new session after [`Session::prefill`] of `tokens`. Returns the
    /// number of tokens that were not evaluated again.
    ///
    /// At least the last token is evaluated. A cut costs what [`Session::truncate`] states.
    ///
    /// # Errors
    /// Those of [`Session::prefill`], for all positions of the session.
    pub fn resume(&mut self, tokens: &[u32]) -> Result<usize, Error> {
        self.resume_while(tokens, || true).map(|resumed| resumed.reused)
    }

    /// [`Session::resume`] that calls `proceed` before each pass of at most [`Options::chunk`] tokens, and stops when
    /// it returns false. The session then keeps the tokens evaluated so far. [`Session::logits`] is empty then, unless
    /// nothing was cut and nothing was evaluated.
    ///
    /// # Errors
    /// Those of [`Session::resume`].
    pub fn resume_while(&mut self, tokens: &[u32], mut proceed: impl FnMut() -> bool) -> Result<Resumed, Error> {
        self.check(tokens, self.options().positions)?;
        let same = self.tokens.iter().zip(tokens).take_while(|(old, new)| old == new).count();
        let reused = self.batch.truncate(0, same.min(tokens.len() - 1));
        self.tokens.clear();
        self.tokens.extend(tokens);
        let complete = self.evaluate(&mut proceed);
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

    /// [`Session::prefill`] that calls `visit` with the hidden states of all layers, in the order of layers for each
    /// chunk. Stops after a chunk in which `visit` breaks: the session then keeps the tokens evaluated so far, and
    /// [`Session::logits`] is empty. Returns whether all tokens are evaluated.
    ///
    /// This holds the threads of the model during each chunk, so `visit` cannot compute with the same model.
    ///
    /// # Errors
    /// Those of [`Session::prefill`], also when a hidden state is not a finite number.
    pub fn prefill_visiting(
        &mut self,
        tokens: &[u32],
        mut visit: impl FnMut(Hidden<'_>) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        self.check(tokens, self.left())?;
        self.learn(false);
        // The last token may not be evaluated, and its hidden states are not wanted.
        if self.batch.position(0) < self.tokens.len() {
            self.evaluate(&mut || true)?;
        }
        let most = self.options().chunk;
        let mut flow = ControlFlow::Continue(());
        for (index, chunk) in tokens.chunks(most).enumerate() {
            if flow.is_break() {
                return Ok(false);
            }
            let (batch, is_last) = (&mut self.batch, index == (tokens.len() - 1) / most);
            let evaluated = self.threads.run(|team| -> Result<(), Error> {
                batch.forward_hidden(team, 0, chunk, &mut |hidden| {
                    if flow.is_continue() {
                        flow = visit(hidden);
                    }
                })?;
                if is_last {
                    batch.logits(team, chunk.len() - 1..chunk.len())?;
                }
                Ok(())
            });
            if evaluated.is_ok() {
                self.row = 0;
            }
            // Tokens that were evaluated stay, also where a number is not finite.
            let n_evaluated = self.batch.position(0) - self.tokens.len();
            self.tokens.extend(&chunk[..n_evaluated]);
            evaluated??;
        }
        Ok(true)
    }

    /// A second session with the same tokens and options, which continues on its own: on another thread, too. Copies
    /// the keys and values that were evaluated; the results that follow have the bits of a session that has seen the
    /// same tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::NotRun`] on a thread with a non-default floating-point mode.
    pub fn fork(&self) -> Result<Session, Error> {
        let mut tokens = memory::room_for(self.options().positions, "the tokens of a session")?;
        tokens.extend(&self.tokens);
        let batch = self.batch.copied(self.row)?;
        let speculator = Speculator::new(&batch)?;
        Ok(Session { batch, threads: self.threads.clone(), tokens, row: 0, speculator, unlearned: None })
    }

    /// The logits after the last evaluated token, `[vocab_size]`; empty before the first one, and after an error of the
    /// evaluation. During [`Session::generate`] they are those that its last token was chosen from.
    pub fn logits(&self) -> &[f32] {
        self.batch.logits_of(self.row)
    }

    /// What [`Session::generate`] has guessed so far.
    pub fn speculated(&self) -> Speculated {
        self.speculator.counts()
    }

    /// Generates tokens after the sequence, up to an EOS id, which is not returned, or to the last position. They are
    /// appended to the sequence: do not pass them to [`Session::decode`] again. Each token is returned before it is
    /// evaluated, so that the last one costs no pass.
    ///
    /// The same seed gives the same tokens on every machine.
    ///
    /// # Errors
    /// The iterator ends after an error: [`Error::NothingEvaluated`], [`Error::Sampling`], or one of
    /// [`Session::prefill`].
    pub fn generate(&mut self, sampling: Sampling) -> Continuation<'_> {
        let chooser = self.chooser(sampling);
        Continuation { session: self, chooser: Some(chooser), ended: false }
    }

    /// What chooses the tokens after the sequence, for a caller that cannot hold a [`Continuation`]:
    /// [`Session::generate_next`] takes it.
    ///
    /// # Errors
    /// [`Error::Sampling`], [`Error::OutOfMemory`].
    pub fn chooser(&self, sampling: Sampling) -> Result<Chooser, Error> {
        sampling.check()?;
        let mut sampler = Sampler::new(sampling, self.config().vocab_size)?;
        self.tokens.iter().for_each(|&token| sampler.observe(token));
        Ok(Chooser { sampler })
    }

    /// The next token of [`Session::generate`], which is appended to the sequence; `None` at an EOS id and when all
    /// positions are taken. The chooser has seen the tokens of this session.
    ///
    /// # Errors
    /// [`Error::NothingEvaluated`], or one of [`Session::prefill`].
    pub fn generate_next(&mut self, chooser: &mut Chooser) -> Result<Option<u32>, Error> {
        if self.left() == 0 {
            return Ok(None);
        }
        if self.batch.position(0) < self.tokens.len() {
            self.evaluate_next(chooser)?;
        }
        if self.logits().is_empty() {
            return Err(Error::NothingEvaluated);
        }
        let token = chooser.sampler.choose(self.logits(), self.tokens.len());
        if self.config().eos_token_ids.contains(&token) {
            return Ok(None);
        }
        chooser.sampler.observe(token);
        self.tokens.push(token);
        Ok(Some(token))
    }

    /// How the next tokens are guessed from here on. It changes speed, never a result. What was counted of guesses is
    /// forgotten.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn set_speculate(&mut self, speculate: Speculate) -> Result<(), Error> {
        self.learn(false);
        self.batch.set_speculate(speculate);
        self.speculator = Speculator::new(&self.batch)?;
        Ok(())
    }

    /// Removes all tokens; the next ones begin a new sequence in the same memory.
    pub fn restart(&mut self) {
        self.learn(false);
        self.batch.restart(0);
        self.tokens.clear();
    }

    /// Cuts the sequence back to its first `n` tokens; does nothing if it has at most `n`. Later results have the bits
    /// of a session that has seen these tokens only.
    ///
    /// The cut itself takes no time. The next call that evaluates tokens evaluates the last remaining token again;
    /// [`Session::logits`] is empty until then. A layer with a sliding window keeps its window and about
    /// [`Options::chunk`] more positions: after a longer cut of a sequence longer than that, the call evaluates all `n`
    /// tokens again. So it does after any cut when the model has layers with linear attention, which keep no earlier
    /// state.
    pub fn truncate(&mut self, n: usize) {
        if n >= self.tokens.len() {
            return;
        }
        self.learn(false);
        self.tokens.truncate(n);
        // The last generated token may not be evaluated. If only that one is cut, the logits are still valid.
        if self.batch.position(0) > n {
            self.batch.truncate(0, n.saturating_sub(1));
        }
    }

    /// The tokens of the sequence, those of prompts and generated ones.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens, which is the position of the next one.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// Number of positions left.
    pub fn left(&self) -> usize {
        self.options().positions - self.position()
    }

    fn config(&self) -> &ModelConfig {
        self.batch.config()
    }

    /// The options of this session; the chunk is at most the positions.
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

    /// Evaluates the token that was generated last: by its row of the last pass, if the token was guessed there, else in
    /// a pass with guesses of what follows.
    fn evaluate_next(&mut self, chooser: &mut Chooser) -> Result<(), Error> {
        self.forget_unchecked();
        let (position, last) = (self.batch.position(0), self.tokens.len() - 1);
        if position < last || self.speculator.is_off() {
            return self.evaluate(&mut || true).map(|_complete| ());
        }
        let row = Row { sequence: 0, position, token: self.tokens[last] };
        if !self.batch.logits_of(self.row + 1).is_empty() && self.batch.rows().get(self.row + 1) == Some(&row) {
            // Refused where a pass would be.
            self.threads.check()?;
            self.batch.accept(0);
            self.row += 1;
            return Ok(());
        }
        self.learn(true);
        let room = self.left();
        let (batch, speculator) = (&mut self.batch, &mut self.speculator);
        let mut sequence = Guessed { tokens: &self.tokens, sampler: &mut chooser.sampler, room };
        let seconds = self.threads.run(|team| -> Result<f64, Error> {
            speculator.guess(batch, team, &mut sequence)?;
            let begun = Instant::now();
            batch.forward(team, speculator.parts())?;
            let n = batch.rows().len();
            let mut computed = batch.logits(team, 0..n).map(|_| ());
            if n > 1 && matches!(computed, Err(Error::NotFinite { .. })) {
                // Those of a wrong guess do not count.
                computed = batch.logits(team, 0..1).map(|_| ());
            }
            computed.map(|()| begun.elapsed().as_secs_f64())
        })?;
        self.row = 0;
        // Only the next token is known to be right.
        self.batch.take_back(0, (position + 1).min(self.batch.position(0)));
        self.unlearned = Some(seconds?);
        Ok(())
    }

    /// Takes back the guesses of a pass that panicked.
    fn forget_unchecked(&mut self) {
        if self.batch.position(0) > self.tokens.len() {
            self.batch.truncate(0, self.tokens.len().saturating_sub(1));
        }
    }

    /// Takes in how many guesses of the last pass were right, and whether the next one was wrong if there is one.
    fn learn(&mut self, is_next_wrong: bool) {
        if let Some(seconds) = self.unlearned.take() {
            self.speculator.passed(seconds, self.row + 1);
            let is_next_wrong = is_next_wrong && self.row + 1 < self.speculator.part(0).len();
            self.speculator.learn(0, self.row, is_next_wrong);
        }
    }

    /// Evaluates the tokens that are not evaluated yet, of which there is at least one, while `proceed` returns true
    /// before each pass. Returns whether all are evaluated. Each pass takes its own turn on the threads, so that a long
    /// prompt does not block other sessions.
    fn evaluate(&mut self, proceed: &mut dyn FnMut() -> bool) -> Result<bool, Error> {
        self.learn(false);
        self.forget_unchecked();
        let (begin, most) = (self.batch.position(0), self.options().chunk);
        let (batch, mut waiting) = (&mut self.batch, &self.tokens[begin..]);
        while !waiting.is_empty() {
            if !proceed() {
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
            self.row = 0;
            waiting = rest;
        }
        Ok(true)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("tokens", &self.tokens).field("options", self.options()).finish_non_exhaustive()
    }
}

/// Chooses the tokens of one sequence: the sampling, its random numbers, and the tokens that have occurred.
pub struct Chooser {
    sampler: Sampler,
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser").finish_non_exhaustive()
    }
}

/// The tokens that [`Session::generate`] chooses. It borrows the session; after it is dropped, the session continues
/// after the last of them.
pub struct Continuation<'s> {
    session: &'s mut Session,
    /// Or the error that is the first item, then `None`.
    chooser: Option<Result<Chooser, Error>>,
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
        let next = match self.chooser.as_mut()? {
            Ok(chooser) => self.session.generate_next(chooser),
            Err(_) => self.chooser.take()?.map(|_| None),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl FusedIterator for Continuation<'_> {}
