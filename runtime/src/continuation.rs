//! The tokens with which a session goes on, as an iterator.

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::generate::sampler::Sampler;
use crate::session::Session;
use std::iter::FusedIterator;

/// The tokens that [`Session::generate`] chooses. It borrows the session: when it is dropped, wherever it stands, the
/// session goes on from there.
pub struct Continuation<'s, 'm> {
    session: &'s mut Session<'m>,
    /// Chooses the tokens, or says why it cannot; `None` when that was told.
    sampler: Option<Result<Sampler, Error>>,
    ended: bool,
}

impl<'s, 'm> Continuation<'s, 'm> {
    pub(crate) fn new(session: &'s mut Session<'m>, sampling: Sampling) -> Continuation<'s, 'm> {
        let mut sampler = sampling.check().and_then(|()| Sampler::new(sampling, session.config().vocab_size));
        if let Ok(sampler) = &mut sampler {
            session.tokens().iter().for_each(|&token| sampler.observe(token));
        }
        Continuation { session, sampler: Some(sampler), ended: false }
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
        let next = match self.sampler.as_mut()? {
            Ok(sampler) => self.session.extend(sampler),
            Err(_) => self.sampler.take()?.map(|_| None),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl FusedIterator for Continuation<'_, '_> {}
