//! The runs that are evaluated together: each has a slot of the batch, which the next waiting run takes when it ends.

use crate::error::Error;
use crate::generate::run::Run;
use crate::generate::sampler::{Choice, Sampler};
use crate::generate::speculation::{Sequences, Speculator};
use crate::network::batch::Batch;
use crate::network::sequence::Row;
use crate::os::memory;

/// A run that has a slot in the batch.
pub(super) struct ActiveRun<'a> {
    pub index: usize,
    pub run: Run<'a>,
    sampler: Sampler,
    /// The evaluated part of the prompt, and the tokens chosen after it.
    tokens: Vec<u32>,
    /// Positions evaluated before this pass.
    position: usize,
    /// Tokens in this pass.
    taken: usize,
    pub ended: bool,
}

impl<'a> ActiveRun<'a> {
    fn new(index: usize, run: Run<'a>, vocab_size: usize) -> Result<ActiveRun<'a>, Error> {
        let mut sampler = Sampler::new(run.sampling, vocab_size)?;
        // One more: the last token is chosen, and not evaluated.
        let mut tokens = memory::room_for(run.positions.saturating_add(1), "the tokens of a run")?;
        tokens.extend(run.evaluated_prompt());
        tokens.iter().for_each(|&token| sampler.observe(token));
        Ok(ActiveRun { index, run, sampler, tokens, position: 0, taken: 0, ended: false })
    }

    /// Whether the row of a pass has the token of its position, which a wrong guess and all after it have not.
    pub fn has(&self, row: &Row) -> bool {
        self.tokens.get(row.position) == Some(&row.token)
    }

    /// The token after `position`: that of the prompt, or a chosen one, which is added.
    pub fn choose(&mut self, position: usize, found: &Found, logits: &[f32]) -> u32 {
        if let Some(&token) = self.run.prompt.get(position + 1) {
            return token;
        }
        let token = match self.run.sampling.is_greedy() {
            true => found.top[0].0,
            false => self.sampler.choose(logits, position + 1),
        };
        self.sampler.observe(token);
        self.tokens.push(token);
        token
    }

    /// The known tokens that are not evaluated: the rest of the prompt, or the last generated token.
    fn known(&self) -> &[u32] {
        &self.tokens[self.position..]
    }

    pub fn is_in_prompt(&self) -> bool {
        self.position < self.run.evaluated_prompt().len()
    }

    /// Whether `visit` is called for `position`.
    pub fn visits(&self, position: usize) -> bool {
        self.run.visit_prompt || position + 1 >= self.run.evaluated_prompt().len()
    }
}

/// What the threads compute from a row of logits.
pub(super) struct Found {
    /// The largest logits.
    pub top: Vec<(u32, f32)>,
    /// Logarithm of the sum of their exponentials, for runs with [`Run::score`].
    pub log_sum_exp: Option<f64>,
}

/// The slots of a batch, each with a run or free.
pub(super) struct Slots<'a>(Vec<Option<ActiveRun<'a>>>);

impl<'a> Slots<'a> {
    pub fn new(n_slots: usize) -> Slots<'a> {
        Slots((0..n_slots).map(|_| None).collect())
    }

    pub fn active(&self) -> impl Iterator<Item = &ActiveRun<'a>> {
        self.0.iter().flatten()
    }

    /// The run in a slot that has one.
    pub fn at(&self, slot: usize) -> &ActiveRun<'a> {
        self.0[slot].as_ref().expect("only slots with a run have rows")
    }

    pub fn at_mut(&mut self, slot: usize) -> &mut ActiveRun<'a> {
        self.0[slot].as_mut().expect("only slots with a run have rows")
    }

    /// Begins waiting runs in the free slots.
    pub fn fill(
        &mut self,
        batch: &mut Batch,
        speculator: &mut Speculator,
        waiting: &mut impl Iterator<Item = (usize, Run<'a>)>,
    ) -> Result<(), Error> {
        for (slot, free) in self.0.iter_mut().enumerate().filter(|(_, active)| active.is_none()) {
            let Some((index, run)) = waiting.next() else { break };
            batch.begin(slot, run.positions)?;
            speculator.begin(slot);
            *free = Some(ActiveRun::new(index, run, batch.config().vocab_size)?);
        }
        Ok(())
    }

    /// Decides how many tokens of each run the next pass takes: one of each, and as many of the prompts as there is
    /// room for, slot by slot.
    pub fn share_rows(&mut self, most_rows: usize) {
        let mut room = most_rows - self.active().count();
        for active in self.0.iter_mut().flatten() {
            active.taken = 1 + (active.known().len() - 1).min(room);
            room -= active.taken - 1;
        }
    }

    /// What the next pass takes, by slot.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let active = self.0.iter().enumerate().filter_map(|(slot, active)| Some((slot, active.as_ref()?)));
        active.map(|(slot, active)| (slot, &active.known()[..active.taken]))
    }

    /// After a pass: advances all runs, and frees the slots of those that have ended. Returns how many tokens the pass
    /// took.
    pub fn advance(&mut self) -> usize {
        let mut n_tokens = 0;
        for slot in &mut self.0 {
            if let Some(active) = slot {
                active.position += active.taken;
                n_tokens += active.taken;
            }
            slot.take_if(|active| active.ended);
        }
        n_tokens
    }

    /// After a pass with the parts of `speculator`: as [`Slots::advance`], and takes back the rows of wrong guesses.
    /// Returns how many tokens were right.
    pub fn advance_guessed(&mut self, batch: &mut Batch, speculator: &mut Speculator) -> usize {
        let mut n_tokens = 0;
        for (index, slot) in self.0.iter_mut().enumerate() {
            let Some(active) = slot else { continue };
            let before = active.position;
            // The last token is chosen and not evaluated.
            active.position = active.tokens.len() - 1;
            let n = active.position - before;
            n_tokens += n;
            let is_wrong = !active.ended && n < speculator.part(index).len();
            speculator.learn(index, n - 1, is_wrong);
            if is_wrong {
                batch.take_back(index, active.position);
            }
            slot.take_if(|active| active.ended);
        }
        n_tokens
    }
}

impl Sequences for Slots<'_> {
    fn known(&self, slot: usize) -> Option<(&[u32], usize)> {
        let active = self.0[slot].as_ref()?;
        Some((&active.tokens, active.run.positions - active.tokens.len()))
    }

    fn guess(&mut self, slot: usize, logits: &[f32], position: usize, guessed: &[u32]) -> Choice {
        self.at_mut(slot).sampler.guess(logits, position, guessed)
    }
}
