//! The generation loop: prompts in chunks, then one token at a time, greedy or sampled, for one sequence or many.
//!
//! Each forward pass takes one token of every active run, and as much of their prompts as the chunk has room for. When
//! a run ends, the next one takes its slot.

pub mod batch_size;
mod noise;
#[cfg(feature = "internals")]
pub mod passes;
mod run;
pub mod sampler;
mod scheduler;
pub mod speculation;
pub mod top_k;

use crate::error::Error;
use crate::generate::scheduler::{ActiveRun, Found, Slots};
use crate::generate::speculation::{Given, Speculated, Speculator};
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
    /// Tokens of the runs evaluated in the other passes: one of every active run, and guesses that were right.
    pub decode_tokens: usize,
    /// Number of these passes.
    pub decode_passes: usize,
    /// Time of these passes, including the calls of `visit`.
    pub decode: Duration,
    /// The guesses among them.
    pub speculated: Speculated,
}

/// Evaluates the prompts of `runs` and generates tokens after them. Runs begin in their order, in free slots of the
/// batch. How far each is when another one ends or fails depends on guesses. Calls `visit` for each run in the order of
/// its positions, until `visit` breaks or all positions are done. A break ends that run only.
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
    generate_with(batch, team, runs, Way::Plain, visit)
}

/// As [`generate`], with guesses of the caller.
///
/// # Errors
/// Those of [`generate`].
///
/// # Panics
/// As [`generate`], and for more guesses than that.
#[cfg(feature = "internals")]
pub fn generate_guessing<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    runs: &[Run],
    guess: &mut Given<'_>,
    visit: impl FnMut(Evaluated) -> Result<ControlFlow<()>, E>,
) -> Result<Timing, E> {
    generate_with(batch, team, runs, Way::Guessing(guess), visit)
}

/// As [`generate`] for a single run, of which `see` gets the hidden states of each pass before its positions are
/// visited. No token is guessed.
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
    generate_with(batch, team, &[run], Way::Seeing(see), visit)
}

/// How passes are made.
enum Way<'w> {
    /// With the guesses of the options.
    Plain,
    /// With guesses of the caller.
    #[cfg_attr(not(feature = "internals"), expect(dead_code, reason = "for the tests of this workspace"))]
    Guessing(&'w mut Given<'w>),
    /// With hidden states for a caller.
    Seeing(&'w mut dyn FnMut(Hidden<'_>)),
}

fn generate_with<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    runs: &[Run],
    mut way: Way<'_>,
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
    let mut speculator = Speculator::new(batch)?;
    let mut waiting = runs.iter().copied().enumerate();
    let mut timing = Timing::default();
    loop {
        let begun = Instant::now();
        slots.fill(batch, &mut speculator, &mut waiting)?;
        if slots.active().next().is_none() {
            return Ok(timing);
        }
        let is_prefill = slots.active().any(ActiveRun::is_in_prompt);
        // Prompts fill the rows of their passes.
        let guesses = !is_prefill && !matches!(way, Way::Seeing(_));
        match &mut way {
            Way::Guessing(guess) if guesses => speculator.guess_given(&mut slots, guess),
            Way::Plain if guesses => speculator.guess(batch, team, &mut slots)?,
            _ => slots.share_rows(most_rows),
        }
        let pass_begun = Instant::now();
        match &mut way {
            _ if guesses => batch.forward(team, speculator.parts())?,
            Way::Seeing(see) => {
                slots.parts().try_for_each(|(slot, tokens)| batch.forward_hidden(team, slot, tokens, see))?;
            }
            _ => batch.forward(team, slots.parts())?,
        }
        let has_guesses = guesses && speculator.has_guesses();
        let mut pass_seconds = 0.0f64;

        visited.clear();
        let rows = batch.rows().iter().copied().enumerate();
        visited.extend(rows.filter(|(_, row)| slots.at(row.sequence).visits(row.position)));
        let mut begin = 0;
        while begin < visited.len() {
            let end = visited.len().min(begin + LOGITS_CHUNK);
            let mut computed = batch.logits(team, visited[begin..end].iter().map(|(row, _)| *row)).map(|_| ());
            if has_guesses && matches!(computed, Err(Error::NotFinite { .. })) {
                // Those of a wrong guess do not count. A pass with guesses has one chunk of rows.
                visited.retain(|(_, row)| slots.at(row.sequence).has(row));
                computed = batch.logits(team, visited.iter().map(|(row, _)| *row)).map(|_| ());
            }
            computed.map_err(|error| match error {
                Error::NotFinite { sequence, position, token, first } => {
                    Error::NotFinite { sequence: slots.at(sequence).index, position, token, first }
                }
                error => error,
            })?;
            pass_seconds = pass_seconds.max(pass_begun.elapsed().as_secs_f64());
            let rows = &visited[begin..end.min(visited.len())];
            begin = end;
            let logits = batch.computed_logits();
            let logits_of = |i: usize| &logits[i * vocab_size..][..vocab_size];
            team.for_rows(&mut founds[..rows.len()], 1, |i, found| {
                let (found, run) = (&mut found[0], &slots.at(rows[i].1.sequence).run);
                top_k_into(logits_of(i), n_top(run), &mut found.top);
                found.log_sum_exp = run.score.then(|| isa.run(LogSumExp(logits_of(i))).log_sum_exp);
            });
            for (i, (_, row)) in rows.iter().enumerate() {
                let active = slots.at_mut(row.sequence);
                if active.ended || !active.has(row) {
                    continue;
                }
                let next = active.choose(row.position, &founds[i], logits_of(i));
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
        let tokens = match guesses {
            true => slots.advance_guessed(batch, &mut speculator),
            false => slots.advance(),
        };
        if guesses {
            speculator.passed(pass_seconds, tokens);
            timing.speculated = speculator.counts();
        }

        let took = begun.elapsed();
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
