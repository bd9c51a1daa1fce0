//! Every instruction set with every way to read weights, against each other: what the table of [`Streaming`] is made
//! of.
//!
//! All variants decode a token in turn, round by round, between passes of the read ceiling, so that a machine that
//! becomes faster or slower does so for all of them. Every other round goes backwards.

use crate::args::Args;
use crate::ceiling::Ceiling;
use crate::host::progress;
use crate::prefill::Prefill;
use crate::rounds::median;
use crate::ways;
use crate::work::past_bytes;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::generate::passes::{self, random_tokens};
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::kernels::streaming::Streaming;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::Team;
use std::sync::Arc;

/// Variants between two passes of the ceiling.
const GROUP: usize = 6;
/// Tokens of the passes that are compared with a pass over one.
const TOKENS: [usize; 5] = [1, 2, 4, 8, 16];
/// Length of the prompt.
const PROMPT: usize = 512;
/// Shares that are closer than this are taken as equal: the program then keeps its own way.
const EQUAL: f64 = 0.01;

/// Decode with one instruction set and one way to read.
pub struct Variant {
    /// Both.
    pub isa: Isa,
    /// Median time of a token, in seconds.
    pub seconds: f64,
    /// Median rate of reading, 1e9 bytes a second.
    pub gb_s: f64,
    /// Median of the ceilings next to it.
    pub ceiling_gb_s: f64,
    /// Median of rate / mean of the ceilings before and after.
    pub share: f64,
}

/// A pass over several tokens.
pub struct Pass {
    /// How many.
    pub tokens: usize,
    /// Median time, in seconds.
    pub seconds: f64,
    /// Median of time / time of a pass over one token in the same round.
    pub vs_one: f64,
}

/// What was measured with one instruction set.
pub struct Path {
    /// The instruction set, with the program's own way to read.
    pub isa: Isa,
    /// Decode in every way.
    pub variants: Vec<Variant>,
    /// Passes, by ascending tokens.
    pub passes: Vec<Pass>,
    /// Prefill.
    pub prefill: Prefill,
}

/// Everything that was measured.
pub struct Sweep {
    /// By instruction set, in the order of [`Isa::available`].
    pub paths: Vec<Path>,
    /// Rounds of decode and passes.
    pub rounds: usize,
}

impl Sweep {
    /// Measures all instruction sets, or the one that was named.
    pub fn measure(
        network: &Arc<Network>,
        args: &Args,
        ceiling: &mut Ceiling,
        team: &mut Team,
    ) -> Result<Sweep, Error> {
        let isas: Vec<Isa> = ways::paths().filter(|isa| !args.one_isa || *isa == args.backend.isa).collect();
        let mut variants = variants(network, &isas, args.rounds, ceiling, team)?.into_iter().peekable();
        let mut passes = all_passes(network, &isas, args.rounds, team)?.into_iter();
        let mut paths = Vec::new();
        for isa in isas {
            let of_path = |variant: &Variant| variant.isa.name() == isa.name();
            paths.push(Path {
                isa,
                variants: std::iter::from_fn(|| variants.next_if(of_path)).collect(),
                passes: passes.next().expect("passes of each instruction set"),
                prefill: Prefill::measure(
                    network,
                    Options { backend: Backend::of(isa), ..Options::new(1) },
                    PROMPT,
                    args.rounds.div_ceil(2),
                    args.ceiling_time(),
                    team,
                )?,
            });
        }
        Ok(Sweep { paths, rounds: args.rounds })
    }

    /// The way to read that suits all instruction sets; `None` when there are none.
    pub fn suggested(&self) -> Option<Streaming> {
        let paths = &self.paths;
        let own = paths.first()?.isa.streaming();
        // The share of a way in the best share, of the instruction set for which that is least.
        let worst = |way: Streaming| paths.iter().map(|path| path.of_best(way)).fold(f64::INFINITY, f64::min);
        let all: Vec<(Streaming, f64)> = ways::to_read(own).into_iter().map(|way| (way, worst(way))).collect();
        let most = all.iter().map(|&(_, worst)| worst).fold(0.0, f64::max);
        let equal = all.iter().filter(|(_, worst)| *worst >= most - EQUAL).map(|&(way, _)| way);
        // The own one, or that with the fewest panels and then bytes.
        equal.min_by_key(|&way| (way != own, way.panels, way.ahead_bytes))
    }
}

impl Path {
    /// The variant with the greatest share.
    pub fn best(&self) -> &Variant {
        let best = self.variants.iter().max_by(|a, b| a.share.total_cmp(&b.share));
        best.expect("every instruction set has variants")
    }

    /// The variant that the program takes by itself.
    pub fn own(&self) -> &Variant {
        self.of(self.isa.streaming()).expect("it is among those measured")
    }

    /// The variant with a way to read.
    pub fn of(&self, way: Streaming) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.isa.streaming() == way)
    }

    /// The share of a way to read in the best share.
    fn of_best(&self, way: Streaming) -> f64 {
        self.of(way).map_or(0.0, |variant| variant.share) / self.best().share
    }
}

/// Decode of one token with every variant, in rounds.
fn variants(
    network: &Arc<Network>,
    isas: &[Isa],
    rounds: usize,
    ceiling: &mut Ceiling,
    team: &mut Team,
) -> Result<Vec<Variant>, Error> {
    struct Running {
        isa: Isa,
        batch: Batch,
        /// Of each round: seconds, and the ceiling next to it.
        results: Vec<(f64, f64)>,
    }
    let mut all = Vec::new();
    for isa in isas {
        for way in ways::to_read(isa.streaming()) {
            let isa = isa.with_streaming(way);
            let batch = Batch::of_one(network, options(isa, 1))?;
            all.push(Running { isa, batch, results: Vec::new() });
        }
    }
    let first_token = random_tokens(1, network.config().vocab_size)[0];
    for round in 0..rounds {
        progress(&format!("decode, round {} of {rounds}", round + 1));
        let order: Vec<usize> = if round % 2 == 0 { (0..all.len()).collect() } else { (0..all.len()).rev().collect() };
        let mut before = ceiling.pass(team);
        for group in order.chunks(GROUP) {
            let mut seconds = Vec::new();
            for &index in group {
                let batch = &mut all[index].batch;
                batch.restart(0);
                seconds.push(passes::decode(batch, team, &mut first_token.clone(), 1)?);
            }
            let after = ceiling.pass(team);
            for (&index, seconds) in group.iter().zip(seconds) {
                all[index].results.push((seconds, (before + after) / 2.0));
            }
            before = after;
        }
    }
    let gigabytes = (network.weights().bytes_per_token() + past_bytes(network.config(), KvType::F32, 0)) as f64 / 1e9;
    let measured = |Running { isa, results, .. }: Running| {
        let of = |value: &dyn Fn((f64, f64)) -> f64| median(&results.iter().map(|&r| value(r)).collect::<Vec<f64>>());
        Variant {
            isa,
            seconds: of(&|(seconds, _)| seconds),
            gb_s: of(&|(seconds, _)| gigabytes / seconds),
            ceiling_gb_s: of(&|(_, ceiling)| ceiling),
            share: of(&|(seconds, ceiling)| gigabytes / seconds / ceiling),
        }
    };
    Ok(all.into_iter().map(measured).collect())
}

/// Passes over several tokens with every instruction set, in rounds.
fn all_passes(network: &Arc<Network>, isas: &[Isa], rounds: usize, team: &mut Team) -> Result<Vec<Vec<Pass>>, Error> {
    let config = network.config();
    let possible = TOKENS.into_iter().filter(|&tokens| tokens <= config.max_position_embeddings);
    let lengths: Vec<usize> = possible.collect();
    let most = lengths.last().copied().unwrap_or(1);
    let ids = random_tokens(most, config.vocab_size);
    let mut all = Vec::new();
    for &isa in isas {
        let mut batch = Batch::of_one(network, options(isa, most))?;
        // Once without a clock: the kernel then gives the memory.
        passes::prefill(&mut batch, team, &ids)?;
        all.push((batch, vec![Vec::new(); lengths.len()]));
    }
    for round in 0..rounds {
        progress(&format!("passes over 1 to {most} tokens, round {} of {rounds}", round + 1));
        for (batch, results) in &mut all {
            for (&tokens, results) in lengths.iter().zip(results) {
                results.push(passes::prefill(batch, team, &ids[..tokens])?);
            }
        }
    }
    let of_path = |(_, results): (Batch, Vec<Vec<f64>>)| {
        let pass = |(&tokens, seconds): (&usize, &Vec<f64>)| {
            let ratios: Vec<f64> = seconds.iter().zip(&results[0]).map(|(many, one)| many / one).collect();
            Pass { tokens, seconds: median(seconds), vs_one: median(&ratios) }
        };
        lengths.iter().zip(&results).map(pass).collect()
    };
    Ok(all.into_iter().map(of_path).collect())
}

fn options(isa: Isa, positions: usize) -> Options {
    Options { backend: Backend::of(isa), ..Options::new(positions) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths with these shares for some ways, and half of the ceiling for all others.
    fn sweep(paths: &[&[(usize, usize, f64)]]) -> Sweep {
        let isa = Isa::named("scalar").expect("always there");
        let isa = isa.with_streaming(Streaming { panels: 1, ahead_bytes: 2048 });
        let path = |shares: &&[(usize, usize, f64)]| {
            let share = |way: Streaming| {
                let found = shares.iter().find(|(panels, bytes, _)| (way.panels, way.ahead_bytes) == (*panels, *bytes));
                found.map_or(0.5, |(_, _, share)| *share)
            };
            let variant = |way| Variant {
                isa: isa.with_streaming(way),
                seconds: 1.0,
                gb_s: share(way),
                ceiling_gb_s: 1.0,
                share: share(way),
            };
            Path {
                isa,
                variants: ways::to_read(isa.streaming()).into_iter().map(variant).collect(),
                passes: Vec::new(),
                prefill: Prefill { tokens: 1, outcome: Err(String::new()) },
            }
        };
        Sweep { paths: paths.iter().map(path).collect(), rounds: 1 }
    }

    #[test]
    fn the_best_has_the_greatest_share() {
        let sweep = sweep(&[&[(1, 2048, 0.9), (4, 1024, 0.95)]]);
        let path = &sweep.paths[0];
        assert_eq!(path.best().isa.streaming(), Streaming { panels: 4, ahead_bytes: 1024 });
        assert_eq!(path.own().isa.streaming(), Streaming { panels: 1, ahead_bytes: 2048 });
    }

    #[test]
    fn equal_ways_leave_the_table_as_it_is() {
        let own = Some(Streaming { panels: 1, ahead_bytes: 2048 });
        assert_eq!(sweep(&[&[(1, 2048, 0.900), (4, 1024, 0.905)]]).suggested(), own);
        let other = Some(Streaming { panels: 4, ahead_bytes: 1024 });
        assert_eq!(sweep(&[&[(1, 2048, 0.90), (4, 1024, 0.95), (8, 0, 0.95)]]).suggested(), other);
    }

    #[test]
    fn a_line_suits_every_path_that_shares_it() {
        let first: &[_] = &[(1, 0, 1.0), (2, 0, 0.9)];
        let second: &[_] = &[(1, 0, 0.3), (2, 0, 0.6)];
        let sweep = sweep(&[first, second]);
        assert_eq!(sweep.suggested(), Some(Streaming { panels: 2, ahead_bytes: 0 }));
    }
}
