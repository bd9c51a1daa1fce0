//! One sequence to evaluate.

use crate::file::sampling::Sampling;

/// What to evaluate of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Token ids to begin with; not empty.
    pub prompt: &'a [u32],
    /// Number of positions to evaluate; a longer prompt is cut.
    pub positions: usize,
    /// How many of the most likely next tokens [`Evaluated::top`] holds, at least one.
    pub top: usize,
    /// Whether all positions of the prompt are visited; otherwise only the last one is, which is faster.
    pub visit_prompt: bool,
    /// How the tokens after the prompt are chosen.
    pub sampling: Sampling,
    /// Whether [`Evaluated::nll`] is wanted.
    pub score: bool,
}

impl<'a> Run<'a> {
    /// A run that goes on greedily after the prompt, up to so many positions in all; nothing else is wanted.
    pub fn new(prompt: &'a [u32], positions: usize) -> Run<'a> {
        Run { prompt, positions, top: 1, visit_prompt: false, sampling: Sampling::GREEDY, score: false }
    }

    /// The part of the prompt that is evaluated.
    pub(super) fn evaluated_prompt(&self) -> &'a [u32] {
        &self.prompt[..self.prompt.len().min(self.positions)]
    }
}
