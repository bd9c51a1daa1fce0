//! One sequence to evaluate.

use crate::file::sampling::Sampling;

/// What to evaluate of one sequence, for [`Model::generate`](crate::Model::generate).
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Token ids to begin with; not empty.
    pub prompt: &'a [u32],
    /// Number of positions to evaluate; a longer prompt is cut.
    pub positions: usize,
    /// Number of the most likely next tokens in [`Evaluated::top`](crate::Evaluated::top), at least one.
    pub top: usize,
    /// Whether all positions of the prompt are visited; otherwise only the last one is, which is faster.
    pub visit_prompt: bool,
    /// How the tokens after the prompt are chosen.
    pub sampling: Sampling,
    /// Whether to compute [`Evaluated::nll`](crate::Evaluated::nll).
    pub score: bool,
}

impl<'a> Run<'a> {
    /// A run that generates greedily after the prompt, up to `positions` positions in all.
    pub fn new(prompt: &'a [u32], positions: usize) -> Run<'a> {
        Run { prompt, positions, top: 1, visit_prompt: false, sampling: Sampling::GREEDY, score: false }
    }

    /// A run that computes [`Evaluated::nll`](crate::Evaluated::nll) for every token but the first, which none predicts.
    pub fn scoring(tokens: &'a [u32]) -> Run<'a> {
        // The last token predicts none that is known.
        Run { visit_prompt: true, score: true, ..Run::new(tokens, tokens.len().saturating_sub(1)) }
    }

    /// The part of the prompt that is evaluated.
    pub(super) fn evaluated_prompt(&self) -> &'a [u32] {
        &self.prompt[..self.prompt.len().min(self.positions)]
    }
}
