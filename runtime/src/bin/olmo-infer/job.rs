//! The evaluation of prompts, up to the last line of their results.

use crate::args::generate::{DEFAULT_MAX_TOKENS, GenerateArgs, Mode};
use crate::failure::Failure;
use crate::printer::Printer;
use crate::prompts::Input;
use crate::rows_file::Rows;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::Sampling;
use olmo_infer::internals::generate::{Evaluated, Run, Timing, generate, generate_seeing};
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::observer::Hidden;
use olmo_infer::internals::os::memory;
use olmo_infer::internals::parallel::team::Team;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Names the file in question: that of the tokens when there are several, otherwise the model.
fn of_file(args: &GenerateArgs, sequence: usize, failure: Failure) -> Failure {
    let path = match args.tokens.as_slice() {
        [] | [_] => &args.model,
        several => &several[sequence],
    };
    Failure::Refused(format!("{}: {failure}", display_path(path)))
}

/// The evaluation of the prompts of a run.
pub struct Job<'a> {
    /// The model, which must be the same at the end.
    pub file: &'a ModelFile,
    /// In the order of the arguments.
    pub inputs: &'a [Input],
    /// The command line.
    pub args: &'a GenerateArgs,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Takes the results.
    pub printer: Printer<'a>,
    /// Takes the logits, of the only prompt.
    pub logits: Option<Rows>,
    /// Takes the hidden states of a layer, of the only prompt.
    pub hidden: Option<(usize, Rows)>,
    /// When the program began.
    pub begun: Instant,
}

/// What a job took.
pub struct Measured {
    /// Prefill and decode.
    pub timing: Timing,
    /// From the start of the program to the first predicted token after a prompt.
    pub first_token: Duration,
    /// Number of threads.
    pub threads: usize,
    /// Whether the text ends only because the positions of the model are full.
    pub is_cut: bool,
    /// Memory of the process itself.
    pub anonymous_bytes: Option<u64>,
}

impl Job<'_> {
    /// Evaluates and prints.
    pub fn run(mut self, mut batch: Batch, team: &mut Team) -> Result<Measured, Failure> {
        let visit_prompt = self.args.mode != Mode::Text || self.logits.is_some();
        let top = self.args.top();
        let sampling = self.sampling;
        let plain = self.inputs.iter().map(|input| Run::new(&input.tokens, input.positions));
        let runs: Vec<Run> = plain.map(|run| Run { top, visit_prompt, sampling, ..run }).collect();
        let mut first_token = None;
        let mut is_cut = false;
        let generates = self.args.generates();
        let to_stdout = |rows: Option<&Rows>| matches!(rows, Some(Rows::Stdout(_)));
        if to_stdout(self.logits.as_ref()) || to_stdout(self.hidden.as_ref().map(|(_, rows)| rows)) {
            self.printer.mute();
        }
        let has_rows = self.logits.is_some() || self.hidden.is_some();
        // The error of writing hidden states, which ends the run at the next position.
        let failed = Cell::new(None);
        self.printer.begin()?;
        let mut see = self.hidden.as_mut().map(|(wanted, rows)| {
            |hidden: Hidden<'_>| {
                if hidden.layer == *wanted {
                    let width = hidden.rows.len() / hidden.n_rows;
                    let written = hidden.rows.chunks_exact(width).try_for_each(|row| rows.write(row));
                    failed.set(failed.take().or(written.err()));
                }
            }
        });
        let visit = |evaluated: Evaluated<'_>| {
            if let Some(failure) = failed.take() {
                return Err(failure);
            }
            let input = &self.inputs[evaluated.run];
            if evaluated.position + 1 >= input.tokens.len().min(input.positions) {
                first_token.get_or_insert_with(|| self.begun.elapsed());
            }
            let is_prompt = evaluated.position + 1 < input.tokens.len().min(input.positions);
            // JSON ends at once with the text.
            if evaluated.is_last || generates && self.args.mode == Mode::Json && !is_prompt {
                // If the model was written to meanwhile, the results are discarded: the last one is held back.
                self.file.check_unchanged()?;
            }
            if let Some(file) = &mut self.logits {
                file.write(evaluated.logits)?;
            }
            match self.printer.print(&evaluated, is_prompt) {
                // The rows are still wanted.
                Err(Failure::ReaderGone) if has_rows => {
                    self.printer.mute();
                    Ok(ControlFlow::Continue(()))
                }
                // A text that ends before its last position: nothing was printed for this one.
                Ok(ControlFlow::Break(())) if !evaluated.is_last => {
                    self.file.check_unchanged()?;
                    Ok(ControlFlow::Break(()))
                }
                result => {
                    let is_open = matches!(result, Ok(ControlFlow::Continue(())));
                    let fewer = input.positions < input.tokens.len() + DEFAULT_MAX_TOKENS - 1;
                    let is_short = fewer && !self.args.has_max_tokens();
                    is_cut |= generates && is_open && evaluated.is_last && is_short;
                    result
                }
            }
        };
        let timing = match &mut see {
            None => generate(&mut batch, team, &runs, visit),
            Some(see) => generate_seeing(&mut batch, team, runs[0], see, visit),
        };
        let timing = timing.map_err(|failure| match failure {
            Failure::Runtime(Error::NotFinite { sequence, .. }) => match self.file.check_unchanged() {
                Ok(()) => of_file(self.args, sequence, failure),
                // That is where they come from.
                Err(changed) => changed.into(),
            },
            failure => failure,
        })?;
        match self.printer.finish() {
            // The rows are still wanted.
            Err(Failure::ReaderGone) if has_rows => {}
            finished => finished?,
        }
        if let Some(failure) = failed.take() {
            return Err(failure);
        }
        for rows in self.logits.into_iter().chain(self.hidden.map(|(_, rows)| rows)) {
            rows.finish()?;
        }
        Ok(Measured {
            timing,
            first_token: first_token.unwrap_or_default(),
            threads: team.n_threads(),
            is_cut,
            // While the batch still has its buffers.
            anonymous_bytes: memory::anonymous_bytes(),
        })
    }
}
