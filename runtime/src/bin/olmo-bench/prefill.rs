//! Prefill: a prompt in one go, its share of the arithmetic peak, and its time in tokens.

use crate::args::Args;
use crate::host::{self, progress};
use crate::peak::Arithmetic;
use crate::rounds::{self, Measured, Sample, median};
use crate::work::prefill_flops;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::generate::passes::{self, random_tokens};
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::weights::Mlp;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::Team;
use std::sync::Arc;
use std::time::Duration;

/// Prefill of one length.
pub struct Prefill {
    /// Length of the prompt.
    pub tokens: usize,
    /// Or why there is no result.
    pub outcome: Result<Outcome, String>,
}

/// What was measured.
pub struct Outcome {
    /// Tokens a second.
    pub tok_s: f64,
    /// Time of the prompt / time of a single token, which is taken right before it.
    pub vs_one: f64,
    /// Operations a second, against the arithmetic peak.
    pub measured: Measured,
}

/// Measures every length that was asked for.
pub fn measure(network: &Arc<Network>, args: &Args, team: &mut Team) -> Result<Vec<Prefill>, Error> {
    let options = Options { backend: args.backend, kv: args.kv, ..Options::new(1) };
    let of = |&tokens: &usize| Prefill::measure(network, options, tokens, args.rounds, args.ceiling_time(), team);
    args.prefill.iter().map(of).collect()
}

impl Prefill {
    /// Measures one length, with `options` except for their positions.
    pub fn measure(
        network: &Arc<Network>,
        options: Options,
        tokens: usize,
        rounds: usize,
        ceiling_time: Duration,
        team: &mut Team,
    ) -> Result<Prefill, Error> {
        let backend = options.backend;
        progress(&format!("{}, prefill of {tokens} tokens", backend.isa.name()));
        let (config, n) = (network.config(), tokens);
        let options = Options { positions: n, ..options };
        if n > config.max_position_embeddings {
            let problem = format!("the model has {} positions", config.max_position_embeddings);
            return Ok(Prefill { tokens, outcome: Err(problem) });
        }
        if let Some(problem) = host::too_large(Batch::bytes(config, &options, &[n])) {
            return Ok(Prefill { tokens, outcome: Err(problem) });
        }
        // gemm chooses its instruction set itself.
        let isa = if backend.gemm { Isa::best() } else { backend.isa };
        // That of the layers, which are most of the work. gemm multiplies bf16 weights as f32, but the machine could do
        // better.
        let dtype = network.weights().layers.first().map_or(Dtype::F32, |layer| match &layer.mlp {
            Mlp::Dense(mlp) => mlp.gate_proj.shape.dtype,
            Mlp::Experts(mlp) => mlp.experts.first().map_or(Dtype::F32, |expert| expert.gate_proj.shape.dtype),
        });
        let peak = Arithmetic::new(isa, dtype, ceiling_time);
        let ids = random_tokens(n, config.vocab_size);
        let mut batch = Batch::of_one(network, options)?;
        let mut ratios = Vec::new();
        // Once without a clock: the kernel then gives the memory.
        passes::prefill(&mut batch, team, &ids)?;
        let measured = rounds::measure(
            rounds,
            team,
            |team| peak.pass(team),
            |team| {
                let one = passes::prefill(&mut batch, team, &ids[..1])?;
                let seconds = passes::prefill(&mut batch, team, &ids)?;
                ratios.push(seconds / one);
                Ok(Sample { amount: prefill_flops(config, n) as f64, seconds })
            },
        )?;
        let outcome = Outcome { tok_s: n as f64 / measured.seconds, vs_one: median(&ratios), measured };
        Ok(Prefill { tokens, outcome: Ok(outcome) })
    }
}
