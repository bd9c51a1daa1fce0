//! The progress of scoring, on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// A line on standard error that is written again and again, and cleared at the end.
pub struct Progress {
    begun: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
    /// Files that are done.
    pub n_files: usize,
    of_files: usize,
    /// Tokens that were evaluated; those that files begin with alike count once.
    pub n_tokens: usize,
}

impl Progress {
    /// For `of_files` files.
    pub fn new(of_files: usize) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        Progress { begun: Instant::now(), shown: None, is_terminal, n_files: 0, of_files, n_tokens: 0 }
    }

    /// Shows it, if standard error is a terminal and it was not shown just now.
    pub fn show(&mut self) {
        if !self.is_terminal || self.shown.is_some_and(|shown| shown.elapsed().as_millis() < 200) {
            return;
        }
        self.shown = Some(Instant::now());
        let rate = self.n_tokens as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        let line = format!("{} of {} files, {rate:.0} tokens/s", self.n_files, self.of_files);
        // No result depends on whether standard error takes it.
        let _lost = write!(io::stderr(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    /// Clears the line, so that what follows begins at its beginning.
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _lost = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
