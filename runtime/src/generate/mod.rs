//! The loop of a run: prompts in chunks, then one token at a time, the most likely one or one drawn at random; for one
//! sequence or many.
//!
//! Each forward pass takes a token of every live sequence, and as much of their prompts as there is room for. When a
//! sequence has ended, the next one takes its place.

pub mod batch_size;
#[cfg(feature = "internals")]
pub mod passes;
pub mod sampler;
pub mod top_k;

use crate::error::Error;
use crate::file::sampling::Sampling;
use crate::generate::sampler::Sampler;
use crate::generate::top_k::top_k_into;
use crate::kernels::lanes::LogSumExp;
use crate::network::{Batch, LOGITS_CHUNK};
use crate::parallel::team::Team;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

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
    fn prompt(&self) -> &'a [u32] {
        &self.prompt[..self.prompt.len().min(self.positions)]
    }
}

/// One evaluated position.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated<'a> {
    /// Index of the run that it belongs to.
    pub run: usize,
    /// Position in the sequence, from 0.
    pub position: usize,
    /// The token there.
    pub token: u32,
    /// Logits of the next token, `[vocab_size]`.
    pub logits: &'a [f32],
    /// The most likely next tokens and their logits.
    pub top: &'a [(u32, f32)],
    /// The token that the sequence goes on with: that of the prompt, or the chosen one.
    pub next: u32,
    /// Negative logarithm of the probability of `next`, in nats, when it is wanted.
    pub nll: Option<f64>,
    /// Whether it is the last position of its run.
    pub is_last: bool,
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Tokens evaluated in passes that took in some of a prompt.
    pub prefill_tokens: usize,
    /// Time for them, the visits included.
    pub prefill: Duration,
    /// Tokens evaluated in passes that took in none: one of every live sequence.
    pub decode_tokens: usize,
    /// Number of these passes.
    pub decode_passes: usize,
    /// Time for them, the visits included.
    pub decode: Duration,
}

/// A run that has a place in the batch.
struct Live<'a> {
    index: usize,
    run: Run<'a>,
    /// Chooses its tokens, unless they are the most likely ones.
    sampler: Option<Sampler>,
    /// Positions evaluated before this pass.
    position: usize,
    /// The token after the prompt, or after the last one generated.
    next: [u32; 1],
    /// Tokens in this pass.
    taken: usize,
    ended: bool,
}

impl<'a> Live<'a> {
    fn new(index: usize, run: Run<'a>, vocab_size: usize) -> Result<Live<'a>, Error> {
        let mut sampler = None;
        if !run.sampling.is_greedy() {
            let sampler = sampler.insert(Sampler::new(run.sampling, vocab_size)?);
            run.prompt().iter().for_each(|&token| sampler.observe(token));
        }
        Ok(Live { index, run, sampler, position: 0, next: [0], taken: 0, ended: false })
    }

    /// The token after `position`: that of the prompt, or the one to go on with.
    fn choose(&mut self, position: usize, found: &Found, logits: &[f32]) -> u32 {
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

    /// The tokens that are known and not evaluated: the rest of the prompt, or the one generated last.
    fn known(&self) -> &[u32] {
        match self.run.prompt().get(self.position..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &self.next,
        }
    }

    fn is_in_prompt(&self) -> bool {
        self.position < self.run.prompt().len()
    }

    /// Whether what the token at `position` predicts is wanted.
    fn visits(&self, position: usize) -> bool {
        self.run.visit_prompt || position + 1 >= self.run.prompt().len()
    }
}

/// What is found out about each row of logits, by whichever thread has time.
struct Found {
    /// The largest logits.
    top: Vec<(u32, f32)>,
    /// Logarithm of the sum of their exponentials, when it is wanted.
    log_sum_exp: Option<f64>,
}

/// The places of a batch, each with a run or free.
struct Places<'a>(Vec<Option<Live<'a>>>);

impl<'a> Places<'a> {
    fn live(&self) -> impl Iterator<Item = &Live<'a>> {
        self.0.iter().flatten()
    }

    /// The run in a place that has one.
    fn at(&self, place: usize) -> &Live<'a> {
        self.0[place].as_ref().expect("only places with a run have rows")
    }

    fn at_mut(&mut self, place: usize) -> &mut Live<'a> {
        self.0[place].as_mut().expect("only places with a run have rows")
    }

    /// Begins waiting runs in the free places.
    fn fill(&mut self, batch: &mut Batch, waiting: &mut impl Iterator<Item = (usize, Run<'a>)>) -> Result<(), Error> {
        for (place, free) in self.0.iter_mut().enumerate().filter(|(_, live)| live.is_none()) {
            let Some((index, run)) = waiting.next() else { break };
            batch.begin(place, run.positions)?;
            *free = Some(Live::new(index, run, batch.config().vocab_size)?);
        }
        Ok(())
    }

    /// Says how many tokens of each run the next pass takes: one of each, and of the prompts as many as there is room
    /// for, place by place.
    fn share_rows(&mut self, most_rows: usize) {
        let mut room = most_rows - self.live().count();
        for live in self.0.iter_mut().flatten() {
            live.taken = 1 + (live.known().len() - 1).min(room);
            room -= live.taken - 1;
        }
    }

    /// What the next pass takes, by place.
    fn parts(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let live = self.0.iter().enumerate().filter_map(|(place, live)| Some((place, live.as_ref()?)));
        live.map(|(place, live)| (place, &live.known()[..live.taken]))
    }

    /// After a pass: moves on, and frees the places of runs that have ended.
    fn advance(&mut self) {
        for place in &mut self.0 {
            if let Some(live) = place {
                live.position += live.taken;
            }
            place.take_if(|live| live.ended);
        }
    }
}

/// Evaluates prompts and goes on from there, as many of `runs` at a time as the batch has places. Calls `visit` in the
/// order of positions for each run, until it breaks or all positions of the run are done; a break ends that run only.
/// Runs begin in their order.
///
/// # Errors
/// Those of [`Batch::begin`], [`Batch::forward`] and [`Batch::logits`], and whatever `visit` returns; all runs end
/// then. The sequence of [`Error::NotFinite`] is the index of the run.
///
/// # Panics
/// When a prompt is empty or no position is asked for.
pub fn generate<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    runs: &[Run],
    mut visit: impl FnMut(Evaluated) -> Result<ControlFlow<()>, E>,
) -> Result<Timing, E> {
    assert!(runs.iter().all(|run| !run.prompt().is_empty()), "something to begin with");
    let (vocab_size, most_rows, isa) = (batch.config().vocab_size, batch.options().chunk, batch.options().backend.isa);
    let n_top = |run: &Run| run.top.clamp(1, vocab_size);
    let most_top = runs.iter().map(n_top).max().unwrap_or(1);
    let nothing = |_| Found { top: Vec::with_capacity(most_top + 1), log_sum_exp: None };
    let mut founds: Vec<Found> = (0..most_rows.min(LOGITS_CHUNK)).map(nothing).collect();
    let mut visited = Vec::with_capacity(most_rows);
    let mut places = Places((0..batch.n_places()).map(|_| None).collect());
    let mut waiting = runs.iter().copied().enumerate();
    let mut timing = Timing::default();
    loop {
        let begun = Instant::now();
        places.fill(batch, &mut waiting)?;
        if places.live().next().is_none() {
            return Ok(timing);
        }
        let is_prefill = places.live().any(Live::is_in_prompt);
        places.share_rows(most_rows);
        batch.forward(team, places.parts())?;

        visited.clear();
        let rows = batch.rows().iter().copied().enumerate();
        visited.extend(rows.filter(|(_, row)| places.at(row.sequence).visits(row.position)));
        for rows in visited.chunks(LOGITS_CHUNK) {
            let logits = batch.logits(team, rows.iter().map(|(row, _)| *row)).map_err(|error| match error {
                Error::NotFinite { sequence, position, token, first } => {
                    Error::NotFinite { sequence: places.at(sequence).index, position, token, first }
                }
                error => error,
            })?;
            let logits_of = |i: usize| &logits[i * vocab_size..][..vocab_size];
            team.for_rows(&mut founds[..rows.len()], 1, |i, found| {
                let (found, run) = (&mut found[0], &places.at(rows[i].1.sequence).run);
                top_k_into(logits_of(i), n_top(run), &mut found.top);
                found.log_sum_exp = run.score.then(|| isa.run(LogSumExp(logits_of(i))));
            });
            for (i, (_, row)) in rows.iter().enumerate() {
                let live = places.at_mut(row.sequence);
                if live.ended {
                    continue;
                }
                let next = live.choose(row.position, &founds[i], logits_of(i));
                live.next = [next];
                live.ended = row.position + 1 == live.run.positions;
                let evaluated = Evaluated {
                    run: live.index,
                    position: row.position,
                    token: row.token,
                    logits: logits_of(i),
                    top: &founds[i].top,
                    next,
                    nll: founds[i].log_sum_exp.map(|sum| sum - f64::from(logits_of(i)[next as usize])),
                    is_last: live.ended,
                };
                live.ended |= visit(evaluated)?.is_break();
            }
        }
        places.advance();

        let (tokens, took) = (batch.rows().len(), begun.elapsed());
        if is_prefill {
            timing.prefill_tokens += tokens;
            timing.prefill += took;
        } else {
            timing.decode_tokens += tokens;
            timing.decode_passes += 1;
            timing.decode += took;
        }
    }
}
