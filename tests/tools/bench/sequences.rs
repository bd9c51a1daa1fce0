//! Several sequences at once in one process of `olmo-infer`.

use crate::programs::Programs;
use crate::results::Sequences;
use std::path::Path;

/// How many sequences are tried.
const NUMBERS: [usize; 5] = [1, 2, 4, 8, 16];
/// Runs of each number.
const RUNS: usize = 3;
/// Positions of the two runs whose difference is the decoding: contexts stay below 64, and what a start takes cancels.
const FEW: usize = 8;
const MANY: usize = 56;

/// Tokens a second of 1 to 16 sequences that run together from a prompt of a few tokens.
pub fn measure(programs: &Programs, model: &Path, prompt: &Path, quick: bool) -> Result<Vec<Sequences>, String> {
    let mut results: Vec<Sequences> = NUMBERS.map(|n| Sequences { n, tok_s: Vec::new() }).into();
    for _ in 0..if quick { 1 } else { RUNS } {
        for Sequences { n, tok_s } in &mut results {
            let prompts = vec![prompt; *n];
            let few = programs.olmo_infer(model, &prompts, FEW)?;
            let many = programs.olmo_infer(model, &prompts, MANY)?;
            // In a tiny model the difference is noise. The round keeps its position among those of other numbers.
            tok_s.push((many > few).then(|| (*n * (MANY - FEW)) as f64 / (many - few)));
        }
    }
    Ok(results)
}
