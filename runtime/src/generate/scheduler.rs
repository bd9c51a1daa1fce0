//! The runs that are evaluated together: each has a slot of the batch, which the next waiting run takes when it ends.

use crate::error::Error;
use crate::generate::run::Run;
use crate::generate::sampler::Sampler;
use crate::network::batch::Batch;

/// A run that has a slot in the batch.
pub(super) struct ActiveRun<'a> {
    pub index: usize,
    pub run: Run<'a>,
    /// Chooses its tokens, unless they are the most likely ones.
    sampler: Option<Sampler>,
    /// Positions evaluated before this pass.
    position: usize,
    /// The token after the prompt, or after the last one generated.
    pub next: [u32; 1],
    /// Tokens in this pass.
    taken: usize,
    pub ended: bool,
}

impl<'a> ActiveRun<'a> {
    fn new(index: usize, run: Run<'a>, vocab_size: usize) -> Result<ActiveRun<'a>, Error> {
        let mut sampler = None;
        if !run.sampling.is_greedy() {
            let sampler = sampler.insert(Sampler::new(run.sampling, vocab_size)?);
            run.evaluated_prompt().iter().for_each(|&token| sampler.observe(token));
        }
        Ok(ActiveRun { index, run, sampler, position: 0, next: [0], taken: 0, ended: false })
    }

    /// The token after `position`: that of the prompt, or a chosen one.
    pub fn choose(&mut self, position: usize, found: &Found, logits: &[f32]) -> u32 {
        match (self.run.prompt.get(position + 1), &mut self.sampler) {
            (Some(&token), _) => token,
            (None, None) => found.top[0].0,
            (None, Some(sampler)) => {
                let token = sampler.choose(logits);
                sampler.observe(token);
                token
            }
        }
    }

    /// The known tokens that are not evaluated: the rest of the prompt, or the last generated token.
    fn known(&self) -> &[u32] {
        match self.run.evaluated_prompt().get(self.position..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &self.next,
        }
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
        waiting: &mut impl Iterator<Item = (usize, Run<'a>)>,
    ) -> Result<(), Error> {
        for (slot, free) in self.0.iter_mut().enumerate().filter(|(_, active)| active.is_none()) {
            let Some((index, run)) = waiting.next() else { break };
            batch.begin(slot, run.positions)?;
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

    /// After a pass: advances all runs, and frees the slots of those that have ended.
    pub fn advance(&mut self) {
        for slot in &mut self.0 {
            if let Some(active) = slot {
                active.position += active.taken;
            }
            slot.take_if(|active| active.ended);
        }
    }
}
