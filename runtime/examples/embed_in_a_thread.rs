//! One model in a program with several threads, each with a session of its own:
//!
//! ```text
//! cargo run --release -p olmo-infer --example embed_in_a_thread -- model.olmo "Four score and" "We hold these"
//! ```

use olmo_infer::{Error, Model, Options, Sampling};
use std::thread;

/// Most tokens of an answer.
const MAX_TOKENS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: embed_in_a_thread MODEL.olmo PROMPT...")?;
    let model = Model::open(path)?;
    for answer in answers(&model, arguments.collect()) {
        println!("{}", answer?);
    }
    Ok(())
}

/// The text that the model generates after each of the prompts, in their order. The sessions take turns, a pass each;
/// `Model::generate` has more tokens a second in all.
pub fn answers(model: &Model, prompts: Vec<String>) -> Vec<Result<String, Error>> {
    let spawn = |prompt: String| {
        // Another handle on the same file and threads.
        let model = model.clone();
        thread::spawn(move || answer(&model, &prompt))
    };
    // All of them, before the first is waited for.
    let threads: Vec<_> = prompts.into_iter().map(spawn).collect();
    threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
}

fn answer(model: &Model, prompt: &str) -> Result<String, Error> {
    let prompt = model.encode(prompt)?;
    let positions = (prompt.len() + MAX_TOKENS).min(model.max_positions());
    let mut session = model.session(Options::new(positions))?;
    session.prefill(&prompt)?;
    let tokens = session.generate(Sampling::GREEDY).collect::<Result<Vec<u32>, Error>>()?;
    model.check_unchanged()?;
    model.decode_text(&tokens)
}
