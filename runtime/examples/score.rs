//! How well a model predicts the tokens of a file, little-endian u32 ids. It shows what lies below `Model` and
//! `Session`: a whole run inside one team of threads.
//!
//! ```text
//! cargo run --release -p olmo-infer --example score -- model.olmo tokens.bin
//! ```

use olmo_infer::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::network::{Batch, Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use olmo_infer::internals::text::token_file::read_tokens;
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(model), Some(tokens)) = (arguments.next(), arguments.next()) else {
        return Err("usage: score MODEL.olmo TOKENS.bin".into());
    };
    let mean_nll = mean_nll(model.as_ref(), tokens.as_ref())?;
    println!("{mean_nll:.9} nats a token, perplexity {:.3}", mean_nll.exp());
    Ok(())
}

/// The mean over the tokens but the first of the negative logarithm of their probability, in nats.
pub fn mean_nll(model: &Path, tokens: &Path) -> Result<f64, Error> {
    let file = ModelFile::open(model)?;
    let config = file.config();
    let tokens = read_tokens(tokens, config.vocab_size, config.max_position_embeddings)?;
    // The last token predicts nothing that is known.
    let positions = tokens.len() - 1;
    if positions == 0 {
        return Err(Error::Request { problem: "one token has nothing that predicts it".into() });
    }
    let run = Run { visit_prompt: true, score: true, ..Run::new(&tokens, positions) };

    let network = Network::new(&file)?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let sum = with_team(threads, |team| {
        let mut batch = Batch::new(&network, Options::new(positions), 1)?;
        let mut sum = 0.0;
        generate(&mut batch, team, &[run], |evaluated| {
            sum += evaluated.nll.unwrap_or_default();
            Ok::<_, Error>(ControlFlow::Continue(()))
        })?;
        Ok::<_, Error>(sum)
    })??;
    file.check_unchanged()?;
    Ok(sum / positions as f64)
}
