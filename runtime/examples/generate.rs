//! Continues a text and prints it as it is generated:
//!
//! ```text
//! cargo run --release -p olmo-infer --example generate -- model.olmo "Four score and"
//! ```

use olmo_infer::{Model, Options, Sampling, TextStream};
use std::error::Error;
use std::io::{self, Write};

/// Most tokens of an answer.
const MAX_TOKENS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate MODEL.olmo PROMPT".into());
    };
    generate(&Model::open(path)?, &prompt, Sampling::GREEDY, &mut io::stdout().lock())
}

/// Writes the text that the model generates after a prompt, token by token.
pub fn generate(model: &Model, prompt: &str, sampling: Sampling, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let vocabulary = model.vocabulary()?.ok_or("the model has no vocabulary")?;
    let prompt = model.encode(prompt)?;
    let positions = (prompt.len() + MAX_TOKENS).min(model.max_positions());
    let mut session = model.session(Options::new(positions))?;
    session.prefill(&prompt)?;

    // A token can end in the middle of a character: the stream holds those bytes back until the rest comes.
    let (mut stream, mut shown) = (TextStream::default(), Vec::new());
    for token in session.generate(sampling) {
        stream.push(vocabulary.bytes(token?).unwrap_or_default(), &mut shown);
        out.write_all(&shown)?;
        out.flush()?;
        shown.clear();
    }
    stream.finish(&mut shown);
    out.write_all(&shown)?;
    // The mapped file was not written to meanwhile.
    Ok(model.check_unchanged()?)
}
