//! The generation loop: prompts in chunks, then one token at a time, greedy or sampled, for one sequence or many.
//!
//! Each forward pass takes one token of every active run, and as much of their prompts as the chunk has room for. When
//! a run ends, the next one takes its slot.

pub mod batch_size;
#[cfg(feature = "internals")]
pub mod passes;
mod run;
pub mod sampler;
mod scheduler;
pub mod top_k;

use crate::error::Error;
use crate::generate::scheduler::{ActiveRun, Found, Slots};
use crate::generate::top_k::{top_k_into, top_k_room};
use crate::kernels::lanes::LogSumExp;
use crate::network::activations::LOGITS_CHUNK;
use crate::network::batch::Batch;
use crate::network::observer::Hidden;
use crate::os::memory;
use crate::parallel::team::Team;
pub use run::Run;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// One evaluated position.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Evaluated<'a> {
    /// Index of the run that it belongs to.
    pub run: usize,
    /// Position in the sequence, from 0.
    pub position: usize,
    /// The token there.
    pub token: u32,
    /// Logits of the next token, `[vocab_size]`.
    pub logits: &'a [f32],
    /// The most likely next tokens and their logits, most likely first.
    pub top: &'a [(u32, f32)],
    /// The next token of the sequence: that of the prompt, or the chosen one.
    pub next: u32,
    /// Negative log-likelihood of `next`, in nats; `None` without [`Run::score`].
    pub nll: Option<f64>,
    /// Whether it is the last position of its run.
    pub is_last: bool,
}

/// Tokens, passes and times of a call of [`Model::generate`](crate::Model::generate).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timing {
    /// Tokens evaluated in passes with tokens of a prompt.
    pub prefill_tokens: usize,
    /// Time of these passes, including the calls of `visit`.
    pub prefill: Duration,
    /// Tokens evaluated in the other passes: one of every active run.
    pub decode_tokens: usize,
    /// Number of these passes.
    pub decode_passes: usize,
    /// Time of these passes, including the calls of `visit`.
    pub decode: Duration,
}

/// Evaluates the prompts of `runs` and generates tokens after them. Runs begin in their order, in free slots of the
/// batch. Calls `visit` for each run in the order of its positions, until `visit` breaks or all positions are done. A
/// break ends that run only.
///
/// # Errors
/// Those of [`Batch::begin`], [`Batch::forward`], [`Batch::logits`] and `visit`; all runs end then. The sequence of
/// [`Error::NotFinite`] is the index of the run. [`Error::OutOfMemory`] before any pass.
///
/// # Panics
/// When a run has an empty prompt or no positions.
pub fn generate<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    runs: &[Run],
    visit: impl FnMut(Evaluated) -> Result<ControlFlow<()>, E>,
) -> Result<Timing, E> {
    generate_with(batch, team, runs, None, visit)
}

/// As [`generate`] for a single run, of which `see` gets the hidden states of each pass before its positions are
/// visited.
///
/// # Errors
/// Those of [`generate`], also when a hidden state is not a finite number.
///
/// # Panics
/// As [`generate`].
pub fn generate_seeing<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    run: Run,
    see: &mut dyn FnMut(Hidden<'_>),
    visit: impl FnMut(Evaluated) -> Result<ControlFlow<()>, E>,
) -> Result<Timing, E> {
    generate_with(batch, team, &[run], Some(see), visit)
}

fn generate_with<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    runs: &[Run],
    mut see: Option<&mut dyn FnMut(Hidden<'_>)>,
    mut visit: impl FnMut(Evaluated) -> Result<ControlFlow<()>, E>,
) -> Result<Timing, E> {
    assert!(runs.iter().all(|run| !run.evaluated_prompt().is_empty()), "something to begin with");
    let (vocab_size, most_rows, isa) = (batch.config().vocab_size, batch.options().chunk, batch.options().backend.isa);
    let n_top = |run: &Run| run.top.clamp(1, vocab_size);
    let most_top = runs.iter().map(n_top).max().unwrap_or(1);
    let room = top_k_room(most_top, vocab_size);
    let nothing = |_| Ok(Found { top: memory::room_for(room, "the most likely tokens")?, log_sum_exp: None });
    let mut founds = (0..most_rows.min(LOGITS_CHUNK)).map(nothing).collect::<Result<Vec<Found>, Error>>()?;
    let mut visited = memory::room_for(most_rows, "the rows of a pass")?;
    let mut slots = Slots::new(batch.n_slots());
    let mut waiting = runs.iter().copied().enumerate();
    let mut timing = Timing::default();
    loop {
        let begun = Instant::now();
        slots.fill(batch, &mut waiting)?;
        if slots.active().next().is_none() {
            return Ok(timing);
        }
        let is_prefill = slots.active().any(ActiveRun::is_in_prompt);
        slots.share_rows(most_rows);
        match &mut see {
            None => batch.forward(team, slots.parts())?,
            Some(see) => {
                slots.parts().try_for_each(|(slot, tokens)| batch.forward_hidden(team, slot, tokens, see))?;
            }
        }

        visited.clear();
        let rows = batch.rows().iter().copied().enumerate();
        visited.extend(rows.filter(|(_, row)| slots.at(row.sequence).visits(row.position)));
        for rows in visited.chunks(LOGITS_CHUNK) {
            let logits = batch.logits(team, rows.iter().map(|(row, _)| *row)).map_err(|error| match error {
                Error::NotFinite { sequence, position, token, first } => {
                    Error::NotFinite { sequence: slots.at(sequence).index, position, token, first }
                }
                error => error,
            })?;
            let logits_of = |i: usize| &logits[i * vocab_size..][..vocab_size];
            team.for_rows(&mut founds[..rows.len()], 1, |i, found| {
                let (found, run) = (&mut found[0], &slots.at(rows[i].1.sequence).run);
                top_k_into(logits_of(i), n_top(run), &mut found.top);
                found.log_sum_exp = run.score.then(|| isa.run(LogSumExp(logits_of(i))).log_sum_exp);
            });
            for (i, (_, row)) in rows.iter().enumerate() {
                let active = slots.at_mut(row.sequence);
                if active.ended {
                    continue;
                }
                let next = active.choose(row.position, &founds[i], logits_of(i));
                active.next = [next];
                active.ended = row.position + 1 == active.run.positions;
                let evaluated = Evaluated {
                    run: active.index,
                    position: row.position,
                    token: row.token,
                    logits: logits_of(i),
                    top: &founds[i].top,
                    next,
                    nll: founds[i].log_sum_exp.map(|sum| sum - f64::from(logits_of(i)[next as usize])),
                    is_last: active.ended,
                };
                active.ended |= visit(evaluated)?.is_break();
            }
        }
        slots.advance();

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
