//! Decode: tokens a second of one sequence, and their share of the read ceiling.

use crate::args::Args;
use crate::ceiling::Ceiling;
use crate::rounds::{self, Measured, Sample};
use crate::work::{feed, kv_bytes, random_tokens};
use crate::{host, say};
use olmo_infer::error::Error;
use olmo_infer::model::{Model, Options, Session};
use olmo_infer::threads::Team;
use olmo_infer::top_k::top_k_into;
use std::time::Instant;

/// Tokens of one round.
const TOKENS: usize = 8;
/// Up to this context the session is filled anew for every round; beyond, the rounds go on in one sequence.
const REFILLED: usize = 256;
/// Most likely next tokens that are found after each token, as `olmo-infer` does.
const TOP: usize = 5;

/// Decode at one context.
pub struct Decode {
    /// Positions before the first token, as asked for.
    pub context: usize,
    /// Or why there is no result.
    pub outcome: Result<Outcome, String>,
}

/// What was measured.
pub struct Outcome {
    /// Tokens a second.
    pub tok_s: f64,
    /// Mean number of positions before a token.
    pub mean_context: f64,
    /// Bytes of weights, keys and values a second, against the read ceiling.
    pub measured: Measured,
}

/// Measures every context that was asked for.
pub fn measure(model: &Model, args: &Args, ceiling: &mut Ceiling, team: &mut Team) -> Result<Vec<Decode>, Error> {
    let config = model.config();
    let mut results = Vec::new();
    let all_tokens = TOKENS * rounds::most_rounds(args.rounds);
    let options = |positions| Options { products: args.products, ..Options::new(positions) };
    for &context in &args.contexts {
        say(&format!("decode at context {context}"));
        let most = config.max_position_embeddings;
        let refilled = context <= REFILLED;
        // In one sequence the contexts lie around the one asked for.
        let (first, needed) = match refilled {
            true => (context, context + TOKENS),
            false => {
                let first = context.saturating_sub(all_tokens / 2).min(most.saturating_sub(all_tokens));
                (first, first + all_tokens)
            }
        };
        let outcome = if needed > most || context >= most || first == 0 {
            Err(format!("the model has {most} positions"))
        } else if let Some(problem) = host::too_large(Session::bytes(config, &options(needed))) {
            Err(problem)
        } else {
            let mut sequence = Sequence { model, options: options(needed), session: None, first, refilled };
            let mut positions = Vec::new();
            let measured = rounds::measure(
                args.rounds,
                team,
                |team| ceiling.pass(team),
                |team| sequence.round(team, &mut positions),
            )?;
            Ok(Outcome {
                tok_s: TOKENS as f64 / measured.seconds,
                mean_context: positions.iter().sum::<usize>() as f64 / positions.len() as f64,
                measured,
            })
        };
        results.push(Decode { context, outcome });
    }
    Ok(results)
}

/// A sequence that goes on from round to round, or begins anew.
struct Sequence<'m> {
    model: &'m Model<'m>,
    options: Options,
    session: Option<(Session<'m>, u32)>,
    first: usize,
    refilled: bool,
}

impl Sequence<'_> {
    fn round(&mut self, team: &mut Team, positions: &mut Vec<usize>) -> Result<Sample, Error> {
        let config = self.model.config();
        let (session, token) = match &mut self.session {
            Some(session) => session,
            empty => empty.insert((Session::new(self.model, self.options)?, 0)),
        };
        if self.refilled || session.position() == 0 {
            session.restart();
            let mut tokens = random_tokens(self.first + 1, config.vocab_size);
            *token = tokens.pop().expect("one more than the context");
            feed(session, team, &tokens)?;
        }
        let first = session.position();
        let mut top = Vec::with_capacity(TOP + 1);
        let begun = Instant::now();
        for _ in 0..TOKENS {
            session.forward(team, &[*token])?;
            top_k_into(session.logits(team, 0..1)?, TOP, &mut top);
            *token = top[0].0;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let weights = self.model.weights().bytes_per_token() * TOKENS as u64;
        let keys_and_values: u64 = (first..first + TOKENS).map(|position| kv_bytes(config, position)).sum();
        positions.extend(first..first + TOKENS);
        Ok(Sample { amount: (weights + keys_and_values) as f64, seconds })
    }
}
