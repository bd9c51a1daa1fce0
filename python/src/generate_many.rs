//! `Model.generate_many`: texts after many prompts, of which each pass evaluates several.

use crate::errors::{Failure, raised_at};
use crate::generation::Text;
use crate::model::Model;
use crate::signals::Signals;
use olmo_infer::{self as library, Error, Evaluated, Options, Run, Sampling};
use pyo3::prelude::*;
use std::ops::ControlFlow;

/// Prompts, and what is generated after each of them.
pub struct Requests {
    /// Token ids.
    pub prompts: Vec<Vec<u32>>,
    /// Most tokens after a prompt.
    pub max_tokens: usize,
    /// Of the first run; each of the others has the next seed.
    pub sampling: Sampling,
    /// What shows the tokens of a run, one for each.
    pub texts: Vec<Text>,
}

/// The text after each prompt. `progress` is called when one is complete, with its number of tokens and the number of
/// complete texts.
pub fn generate_many(
    py: Python<'_>,
    model: &library::Model,
    requests: Requests,
    (options, at_once): (Options, Option<usize>),
    progress: Option<&Py<PyAny>>,
) -> PyResult<Vec<String>> {
    let Requests { prompts, max_tokens, sampling, texts } = requests;
    let most = model.max_positions();
    for (index, prompt) in prompts.iter().enumerate() {
        let error = match prompt.len() {
            0 => Error::NoTokens,
            n if n > most => Error::TooManyPositions { asked: n, most },
            _ => continue,
        };
        return Err(raised_at(py, &error, &format!("prompt {index}: ")));
    }
    let limits: Vec<usize> = prompts.iter().map(|prompt| max_tokens.min(most - prompt.len())).collect();
    let mut runs = Vec::new();
    for (index, (prompt, n_tokens)) in prompts.iter().zip(&limits).enumerate() {
        let seed = sampling.seed.wrapping_add(index as u64);
        // The last token that is generated is not evaluated.
        let run = Run::new(prompt, prompt.len() + n_tokens.saturating_sub(1));
        runs.push(Run { sampling: Sampling { seed, ..sampling }, ..run });
    }
    let mut shown: Vec<(Text, Vec<u8>, usize)> = texts.into_iter().map(|text| (text, Vec::new(), 0)).collect();
    let mut evaluate = || {
        let (mut signals, mut n_done) = (Signals::new(), 0);
        model.generate(&runs, options, at_once, |evaluated: Evaluated<'_>| {
            signals.check()?;
            let (text, bytes, n_tokens) = &mut shown[evaluated.run];
            let is_end = limits[evaluated.run] == 0 || model.eos_ids().contains(&evaluated.next);
            *n_tokens += usize::from(!is_end);
            if !is_end && !text.push(evaluated.next, bytes) && !evaluated.is_last {
                return Ok::<_, Failure>(ControlFlow::Continue(()));
            }
            n_done += 1;
            if let Some(progress) = progress {
                Python::attach(|py| progress.call1(py, (*n_tokens, n_done)))?;
            }
            Ok(ControlFlow::Break(()))
        })
    };
    if max_tokens > 0 {
        py.detach(|| Model::unchanged(model, evaluate()))?;
    }
    let text = |(mut text, mut bytes, _): (Text, Vec<u8>, usize)| {
        text.finish(&mut bytes);
        // A stream shows whole characters.
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(shown.into_iter().map(text).collect())
}
