//! The loop of a run: the prompt in chunks, then one token at a time, always the most likely one.

use crate::error::Error;
use crate::model::{LOGITS_CHUNK, Session};
use crate::threads::Team;
use crate::top_k::top_k_into;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What to evaluate.
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
}

/// One evaluated position.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated<'a> {
    /// Position in the sequence, from 0.
    pub position: usize,
    /// The token there.
    pub token: u32,
    /// Logits of the next token, `[vocab_size]`.
    pub logits: &'a [f32],
    /// The most likely next tokens and their logits.
    pub top: &'a [(u32, f32)],
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Tokens of the prompt that were evaluated.
    pub prefill_tokens: usize,
    /// Time for them, the visits included.
    pub prefill: Duration,
    /// Tokens evaluated one at a time.
    pub decode_tokens: usize,
    /// Time for them, the visits included.
    pub decode: Duration,
}

/// Evaluates a prompt and goes on greedily, calling `visit` in the order of positions until it breaks or all positions
/// are done.
///
/// # Errors
/// Those of [`Session::forward`] and [`Session::logits`], and whatever `visit` returns.
///
/// # Panics
/// When the prompt is empty or no position is asked for.
pub fn greedy<E: From<Error>>(
    session: &mut Session,
    team: &mut Team,
    run: Run,
    mut visit: impl FnMut(Evaluated) -> Result<ControlFlow<()>, E>,
) -> Result<Timing, E> {
    let prompt = &run.prompt[..run.prompt.len().min(run.positions)];
    assert!(!prompt.is_empty(), "something to begin with");
    let vocab_size = session.config().vocab_size;
    let n_top = run.top.clamp(1, vocab_size);
    let mut top = Vec::with_capacity(n_top + 1);
    let mut timing = Timing { prefill_tokens: prompt.len(), ..Timing::default() };
    let begun = Instant::now();
    for chunk in prompt.chunks(session.options().chunk) {
        let first = session.position();
        session.forward(team, chunk)?;
        let is_last = session.position() == prompt.len();
        let mut row = match (run.visit_prompt, is_last) {
            (true, _) => 0,
            (false, true) => chunk.len() - 1,
            (false, false) => continue,
        };
        while row < chunk.len() {
            let rows = row..chunk.len().min(row + LOGITS_CHUNK);
            let logits = session.logits(team, rows.clone())?;
            for (row, logits) in rows.clone().zip(logits.chunks_exact(vocab_size)) {
                top_k_into(logits, n_top, &mut top);
                let evaluated = Evaluated { position: first + row, token: chunk[row], logits, top: &top };
                if visit(evaluated)?.is_break() {
                    timing.prefill = begun.elapsed();
                    return Ok(timing);
                }
            }
            row = rows.end;
        }
    }
    timing.prefill = begun.elapsed();
    let begun = Instant::now();
    while session.position() < run.positions {
        let token = top[0].0;
        let position = session.position();
        session.forward(team, &[token])?;
        let logits = session.logits(team, 0..1)?;
        top_k_into(logits, n_top, &mut top);
        timing.decode_tokens += 1;
        if visit(Evaluated { position, token, logits, top: &top })?.is_break() {
            break;
        }
    }
    timing.decode = begun.elapsed();
    Ok(timing)
}
