//! Guesses of the next tokens: the same text with and without them, by turns.

use crate::args::Args;
use crate::host::{self, progress};
use crate::rounds::median;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::generate::passes::random_tokens;
use olmo_infer::internals::generate::speculation::Speculated;
use olmo_infer::internals::generate::{Run, Timing, generate};
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::Team;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Tokens of a prompt, without the text to copy.
const PROMPT: usize = 16;
/// One of this number of tokens of the text to copy is another.
const EDITED: usize = 24;

/// Guesses of one kind.
pub struct Guessing {
    /// Where they come from.
    pub way: Way,
    /// Tokens of a text.
    pub tokens: usize,
    /// Or why there is no result.
    pub outcome: Result<Outcome, String>,
}

/// Where guesses come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The draft of the file.
    Draft,
    /// The text so far, in a text that is not there yet.
    Lookup,
    /// The text so far, which has the same text with a few other tokens.
    Copy,
}

impl Way {
    /// In the table.
    pub fn text(self) -> &'static str {
        match self {
            Way::Draft => "by the draft",
            Way::Lookup => "by the text so far",
            Way::Copy => "by a text to copy",
        }
    }

    /// In JSON.
    pub fn name(self) -> &'static str {
        match self {
            Way::Draft => "draft",
            Way::Lookup => "lookup",
            Way::Copy => "copy",
        }
    }
}

/// What was measured.
pub struct Outcome {
    /// Tokens a second.
    pub tok_s: f64,
    /// Tokens a second / those without guesses.
    pub vs_plain: f64,
    /// Share of the guesses that were right.
    pub right: f64,
    /// Tokens of a pass with guesses.
    pub per_pass: f64,
    /// Number of rounds.
    pub rounds: usize,
}

/// Measures every number of tokens that was asked for.
pub fn measure(network: &Arc<Network>, args: &Args, team: &mut Team) -> Result<Vec<Guessing>, Error> {
    let mut all = Vec::new();
    for &tokens in &args.speculate {
        for way in [Way::Draft, Way::Lookup, Way::Copy] {
            if way != Way::Draft || network.draft().is_some() {
                progress(&format!("{tokens} tokens guessed {}", way.text()));
                all.push(Guessing { way, tokens, outcome: of_way(network, args, (way, tokens), team)? });
            }
        }
    }
    Ok(all)
}

fn of_way(
    network: &Arc<Network>,
    args: &Args,
    (way, n): (Way, usize),
    team: &mut Team,
) -> Result<Result<Outcome, String>, Error> {
    let config = network.config();
    let positions = 2 * (PROMPT + n);
    let options = |speculate| Options { backend: args.backend, kv: args.kv, speculate, ..Options::new(positions) };
    if positions > config.max_position_embeddings {
        return Ok(Err(format!("the model has {} positions", config.max_position_embeddings)));
    }
    if let Some(problem) = host::too_large(2 * Batch::bytes(config, &options(Speculate::OFF), &[positions])) {
        return Ok(Err(problem));
    }
    let mut plain = Batch::of_one(network, options(Speculate::OFF))?;
    let speculate = if way == Way::Draft { Speculate::DRAFT } else { Speculate::LOOKUP };
    let mut guessing = Batch::of_one(network, options(speculate))?;
    let (mut seconds, mut ratios, mut all) = (Vec::new(), Vec::new(), Speculated::default());
    let ids = random_tokens(PROMPT * (args.rounds + 1), config.vocab_size);
    // The first round has no clock: it touches the memory.
    for (round, prompt) in ids.chunks(PROMPT).enumerate() {
        let mut prompt = prompt.to_vec();
        if way == Way::Copy {
            let (text, _) = continued(&mut plain, team, &prompt, n)?;
            let edited = text.iter().enumerate().map(|(i, &id)| if i % EDITED == 0 { ids[i % ids.len()] } else { id });
            prompt = prompt.iter().copied().chain(edited).chain(prompt.iter().copied()).collect();
        }
        let (expected, of_plain) = continued(&mut plain, team, &prompt, n)?;
        let (text, timing) = continued(&mut guessing, team, &prompt, n)?;
        assert!(text == expected, "guesses change no token");
        if round > 0 {
            let per_token = |timing: Timing| timing.decode.as_secs_f64() / timing.decode_tokens as f64;
            seconds.push(per_token(timing));
            ratios.push(per_token(of_plain) / per_token(timing));
            add(&mut all, &timing.speculated);
        }
    }
    let guessed = (all.looked_up + all.drafted).max(1) as f64;
    Ok(Ok(Outcome {
        tok_s: 1.0 / median(&seconds),
        vs_plain: median(&ratios),
        right: (all.looked_up_right + all.drafted_right) as f64 / guessed,
        per_pass: all.tokens as f64 / all.passes.max(1) as f64,
        rounds: ratios.len(),
    }))
}

fn add(all: &mut Speculated, more: &Speculated) {
    all.passes += more.passes;
    all.tokens += more.tokens;
    all.looked_up += more.looked_up;
    all.looked_up_right += more.looked_up_right;
    all.drafted += more.drafted;
    all.drafted_right += more.drafted_right;
}

/// The `n` tokens after a prompt, EOS ids among them.
fn continued(batch: &mut Batch, team: &mut Team, prompt: &[u32], n: usize) -> Result<(Vec<u32>, Timing), Error> {
    let mut text = Vec::with_capacity(n);
    let timing = generate(batch, team, &[Run::new(prompt, prompt.len() + n - 1)], |evaluated| {
        text.push(evaluated.next);
        Ok::<_, Error>(ControlFlow::Continue(()))
    })?;
    Ok((text, timing))
}
