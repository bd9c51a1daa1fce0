//! The tokens with which a session goes on, as an iterator.

use crate::error::Error;
use crate::sampler::{Sampler, Sampling};
use crate::session::Session;
use std::iter::FusedIterator;

/// The tokens that [`Session::generate`] chooses. It borrows the session: when it is dropped, wherever it stands, the
/// session goes on from there.
pub struct Continuation<'s, 'm> {
    session: &'s mut Session<'m>,
    sampler: Sampler,
    /// What is wrong with the values of the sampler, until it is told.
    refused: Option<Error>,
    ended: bool,
}

impl<'s, 'm> Continuation<'s, 'm> {
    pub(crate) fn new(session: &'s mut Session<'m>, sampling: Sampling) -> Continuation<'s, 'm> {
        let mut sampler = Sampler::new(sampling, session.config().vocab_size);
        session.tokens().iter().for_each(|&token| sampler.observe(token));
        Continuation { session, sampler, refused: sampling.check().err(), ended: false }
    }

    /// The session, to look at its logits and tokens.
    pub fn session(&self) -> &Session<'m> {
        self.session
    }
}

impl Iterator for Continuation<'_, '_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Result<u32, Error>> {
        if self.ended {
            return None;
        }
        let next = match self.refused.take() {
            Some(error) => Err(error),
            None => self.session.extend(&mut self.sampler),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl FusedIterator for Continuation<'_, '_> {}
