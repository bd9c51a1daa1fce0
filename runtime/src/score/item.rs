//! What is scored, and what is reported of it.

use crate::error::Error;

/// A sequence to score.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Token ids; not empty.
    pub tokens: &'a [u32],
    /// The first token that is scored, at least 1: nothing predicts token 0.
    pub first: usize,
}

impl<'a> Item<'a> {
    /// All tokens that something predicts.
    pub fn whole(tokens: &'a [u32]) -> Item<'a> {
        Item { tokens, first: 1 }
    }

    /// The tokens that are evaluated: the last one predicts none that is known.
    pub(super) fn evaluated(&self) -> &'a [u32] {
        match self.tokens.len() {
            // Nothing is scored.
            n if n <= self.first => &[],
            n => &self.tokens[..n - 1],
        }
    }
}

/// How well the model predicts a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Negative log-likelihood in nats.
    pub nll: f64,
    /// Whether no token is likelier; of equal ones the lowest id counts.
    pub is_greedy: bool,
}

/// What [`score`](super::score) reports.
pub enum Event {
    /// A pass has ended, with this number of tokens.
    Pass(usize),
    /// An item is done: its index, and a score for each token from [`Item::first`] on, or [`Error::NotFinite`], whose
    /// sequence is that index.
    Scored(usize, Result<Vec<TokenScore>, Error>),
}
