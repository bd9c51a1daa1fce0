//! Timed forward passes and tokens for them, for `olmo-bench` and the tool that compares it with other programs.

use crate::error::Error;
use crate::generate::top_k::top_k_into;
use crate::network::batch::Batch;
use crate::parallel::team::Team;
use std::time::Instant;

/// Most likely next tokens that are found after each token, as `olmo-infer` does.
const TOP: usize = 5;

/// `n` ids without pattern.
pub fn random_tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 32) % vocab_size as u64) as u32
    };
    (0..n).map(|_| next()).collect()
}

/// Evaluates `tokens` in chunks.
pub fn feed(batch: &mut Batch, team: &mut Team, tokens: &[u32]) -> Result<(), Error> {
    tokens.chunks(batch.options().chunk).try_for_each(|chunk| batch.forward(team, [(0, chunk)]))
}

/// Begins a new sequence of `context` positions; returns the token that comes next.
pub fn begin(batch: &mut Batch, team: &mut Team, context: usize) -> Result<u32, Error> {
    batch.restart(0);
    let mut tokens = random_tokens(context + 1, batch.config().vocab_size);
    let next = tokens.pop().expect("one more than the context");
    feed(batch, team, &tokens)?;
    Ok(next)
}

/// Decodes `n` tokens greedily, starting with `token`; stores the next token there and returns the seconds.
pub fn decode(batch: &mut Batch, team: &mut Team, token: &mut u32, n: usize) -> Result<f64, Error> {
    let mut top = Vec::with_capacity(TOP + 1);
    let begun = Instant::now();
    for _ in 0..n {
        batch.forward(team, [(0, &[*token][..])])?;
        top_k_into(batch.logits(team, 0..1)?, TOP, &mut top);
        *token = top[0].0;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds from the tokens to the logits of the last one, in a new sequence.
pub fn prefill(batch: &mut Batch, team: &mut Team, tokens: &[u32]) -> Result<f64, Error> {
    batch.restart(0);
    let begun = Instant::now();
    feed(batch, team, tokens)?;
    let last = (tokens.len() - 1) % batch.options().chunk;
    batch.logits(team, last..last + 1)?;
    Ok(begun.elapsed().as_secs_f64())
}
