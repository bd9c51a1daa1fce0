//! How well a model predicts the tokens of files, little-endian u32 ids, all files in the same passes:
//!
//! ```text
//! cargo run --release -p olmo-infer --example score -- model.olmo a.bin b.bin
//! ```

use olmo_infer::{Error, Model, Options, Run};
use std::ops::ControlFlow;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args_os().skip(1);
    let model = Model::open(arguments.next().ok_or("usage: score MODEL.olmo TOKENS.bin...")?)?;
    let files: Vec<_> = arguments.collect();
    let texts = files.iter().map(|file| Ok(ids(&fs::read(file)?))).collect::<std::io::Result<Vec<_>>>()?;
    if texts.iter().any(|tokens| tokens.len() < 2) {
        return Err("one token has nothing that predicts it".into());
    }
    for (file, mean_nll) in files.iter().zip(mean_nll(&model, &texts)?) {
        println!("{mean_nll:.9} nats a token, perplexity {:.3}, {}", mean_nll.exp(), file.to_string_lossy());
    }
    Ok(())
}

/// The token ids in the bytes of a file.
fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id)).collect()
}

/// For each text the mean negative log-likelihood, in nats, of its tokens but the first.
fn mean_nll(model: &Model, texts: &[Vec<u32>]) -> Result<Vec<f64>, Error> {
    let runs: Vec<Run> = texts.iter().map(|tokens| Run::scoring(tokens)).collect();
    let longest = runs.iter().map(|run| run.positions).max().unwrap_or(0);
    let mut sums = vec![0.0; texts.len()];
    model.generate(&runs, Options::new(longest), None, |evaluated| {
        sums[evaluated.run] += evaluated.nll.unwrap_or_default();
        Ok::<_, Error>(ControlFlow::Continue(()))
    })?;
    model.check_unchanged()?;
    Ok(runs.iter().zip(sums).map(|(run, sum)| sum / run.positions as f64).collect())
}
