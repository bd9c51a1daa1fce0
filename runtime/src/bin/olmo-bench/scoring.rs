//! Scoring: texts of one length with the logits of every position, against prefill in the same rounds.

use crate::args::Args;
use crate::host::{self, progress};
use crate::rounds::median;
use crate::work::{head_flops, prefill_flops};
use olmo_infer::internals::error::Error;
use olmo_infer::internals::generate::passes::{self, random_tokens};
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::Team;
use olmo_infer::internals::score::{Item, score};
use std::sync::Arc;
use std::time::Instant;

/// Texts that are scored at a time.
const TEXTS: usize = 2;

/// Scoring of texts of one length.
pub struct Scoring {
    /// Tokens that are evaluated of each text.
    pub tokens: usize,
    /// Or why there is no result.
    pub outcome: Result<Outcome, String>,
}

/// What was measured.
pub struct Outcome {
    /// Tokens a second.
    pub tok_s: f64,
    /// Tokens a second / those of prefill, which computes the head for one position only.
    pub vs_prefill: f64,
    /// Operations a second / those of prefill.
    pub flops_vs_prefill: f64,
    /// Number of rounds.
    pub rounds: usize,
}

/// Measures every length that was asked for.
pub fn measure(network: &Arc<Network>, args: &Args, team: &mut Team) -> Result<Vec<Scoring>, Error> {
    args.score.iter().map(|&tokens| Scoring::measure(network, args, tokens, team)).collect()
}

impl Scoring {
    fn measure(network: &Arc<Network>, args: &Args, tokens: usize, team: &mut Team) -> Result<Scoring, Error> {
        progress(&format!("scoring of texts of {tokens} tokens"));
        let (config, n) = (network.config(), tokens);
        let options = Options { backend: args.backend, kv: args.kv, ..Options::new(n) };
        let problem = match n > config.max_position_embeddings {
            true => Some(format!("the model has {} positions", config.max_position_embeddings)),
            false => host::too_large(Batch::bytes(config, &options, &[n; TEXTS + 1])),
        };
        if let Some(problem) = problem {
            return Ok(Scoring { tokens, outcome: Err(problem) });
        }
        // The last token of a text is only predicted.
        let ids = random_tokens(TEXTS * (n + 1), config.vocab_size);
        let items: Vec<Item> = ids.chunks(n + 1).map(Item::whole).collect();
        let mut one = Batch::of_one(network, options)?;
        let mut several = Batch::new(network, options, TEXTS)?;
        let (mut seconds, mut ratios) = (Vec::new(), Vec::new());
        // The first round has no clock: it touches the memory.
        for round in 0..=args.rounds {
            let of_prefill = passes::prefill(&mut one, team, &ids[..n])?;
            let begun = Instant::now();
            score(&mut several, team, &items, |_| Ok::<_, Error>(()))?;
            let of_text = begun.elapsed().as_secs_f64() / TEXTS as f64;
            if round > 0 {
                seconds.push(of_text);
                ratios.push(of_prefill / of_text);
            }
        }
        let vs_prefill = median(&ratios);
        let flops = prefill_flops(config, n);
        let more = (flops + (n as u64 - 1) * head_flops(config)) as f64 / flops as f64;
        let outcome = Outcome {
            tok_s: n as f64 / median(&seconds),
            vs_prefill,
            flops_vs_prefill: vs_prefill * more,
            rounds: args.rounds,
        };
        Ok(Scoring { tokens, outcome: Ok(outcome) })
    }
}
