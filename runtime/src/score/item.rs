//! What is scored, and what is reported of it.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::os::memory;

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

/// Positions that the KV cache of each item needs when it is evaluated by itself, at least one.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn cache_positions(items: &[Item], config: &ModelConfig) -> Result<Vec<usize>, Error> {
    let of_item = |item: &Item| item.evaluated().len().max(1);
    let most = items.iter().map(of_item).max().unwrap_or(0);
    // With sliding windows a stem and each of its branches have a ring of their own.
    let has_rings = config.sliding_window > 0;
    memory::collected(items.iter().map(|item| if has_rings { most } else { of_item(item) }), "the lengths of items")
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
