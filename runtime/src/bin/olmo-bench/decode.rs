//! Decode: tokens a second of one sequence, and their share of the read ceiling.

use crate::args::Args;
use crate::ceiling::Ceiling;
use crate::host::{self, progress};
use crate::rounds::{self, Measured, Sample};
use crate::work::past_bytes;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::generate::passes;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::Team;
use std::sync::Arc;

/// Tokens of one round.
const TOKENS: usize = 8;
/// Up to this context the sequence is filled again for every round; beyond, the rounds continue one sequence.
const REFILLED: usize = 256;

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
    /// Mean number of bytes of weights, keys and values that a token reads.
    pub bytes_per_token: f64,
    /// Bytes of weights, keys and values a second, against the read ceiling.
    pub measured: Measured,
}

/// Measures every context that was asked for.
pub fn measure(
    network: &Arc<Network>,
    args: &Args,
    ceiling: &mut Ceiling,
    team: &mut Team,
) -> Result<Vec<Decode>, Error> {
    let config = network.config();
    let mut results = Vec::new();
    let all_tokens = TOKENS * rounds::most_rounds(args.rounds);
    let options = |positions| Options { backend: args.backend, kv: args.kv, ..Options::new(positions) };
    for &context in &args.contexts {
        progress(&format!("decode at context {context}"));
        let most = config.max_position_embeddings;
        let refilled = context <= REFILLED;
        // In one sequence the contexts are around the requested one.
        let (first, needed) = match refilled {
            true => (context, context + TOKENS),
            false => {
                let first = context.saturating_sub(all_tokens / 2).min(most.saturating_sub(all_tokens));
                (first, first + all_tokens)
            }
        };
        let outcome = if needed > most || context >= most || first == 0 {
            Err(format!("the model has {most} positions"))
        } else if let Some(problem) = host::too_large(Batch::bytes(config, &options(needed), &[needed])) {
            Err(problem)
        } else {
            let mut sequence = Sequence { network, options: options(needed), batch: None, first, refilled };
            let mut read = Read::default();
            let measured =
                rounds::measure(args.rounds, team, |team| ceiling.pass(team), |team| sequence.round(team, &mut read))?;
            Ok(Outcome {
                tok_s: TOKENS as f64 / measured.seconds,
                mean_context: read.positions as f64 / read.tokens as f64,
                bytes_per_token: read.bytes as f64 / read.tokens as f64,
                measured,
            })
        };
        results.push(Decode { context, outcome });
    }
    Ok(results)
}

/// What the tokens of all rounds read.
#[derive(Default)]
struct Read {
    tokens: usize,
    /// Sum of the positions of the tokens.
    positions: usize,
    /// Bytes of weights, keys, values and states.
    bytes: u64,
}

/// A sequence that continues from round to round, or begins again.
struct Sequence<'m> {
    network: &'m Arc<Network>,
    options: Options,
    batch: Option<(Batch, u32)>,
    first: usize,
    refilled: bool,
}

impl Sequence<'_> {
    fn round(&mut self, team: &mut Team, read: &mut Read) -> Result<Sample, Error> {
        let (config, kv) = (self.network.config(), self.options.kv);
        let (batch, token) = match &mut self.batch {
            Some(batch) => batch,
            empty => empty.insert((Batch::of_one(self.network, self.options)?, 0)),
        };
        if self.refilled || batch.position(0) == 0 {
            *token = passes::begin(batch, team, self.first)?;
        }
        let first = batch.position(0);
        let seconds = passes::decode(batch, team, token, TOKENS)?;
        let weights = self.network.weights().bytes_per_token() * TOKENS as u64;
        let past: u64 = (first..first + TOKENS).map(|position| past_bytes(config, kv, position)).sum();
        let bytes = weights + past;
        read.tokens += TOKENS;
        read.positions += (first..first + TOKENS).sum::<usize>();
        read.bytes += bytes;
        Ok(Sample { amount: bytes as f64, seconds })
    }
}
