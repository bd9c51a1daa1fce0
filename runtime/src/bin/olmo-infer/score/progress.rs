//! The progress of scoring, on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Instant;

/// A bar on standard error, cleared at the end.
pub struct Progress {
    begun: Instant,
    bar: ProgressBar,
    n_items: u64,
    n_tokens: u64,
}

impl Progress {
    /// For files of `n_bytes` bytes; without a number, the time left is not known.
    pub fn new(n_bytes: Option<u64>) -> Progress {
        let bar = ProgressBar::with_draw_target(n_bytes, ProgressDrawTarget::stderr());
        let template = if n_bytes.is_some() { "{bar:30} {percent}%, {msg}, {eta} left" } else { "{spinner} {msg}" };
        bar.set_style(ProgressStyle::with_template(template).expect("a template"));
        Progress { begun: Instant::now(), bar, n_items: 0, n_tokens: 0 }
    }

    /// Tokens were evaluated; those that items begin with alike count once.
    pub fn add_tokens(&mut self, n: usize) {
        self.n_tokens += n as u64;
        self.show();
    }

    /// An item is done, which ends after `n_read` bytes of the files.
    pub fn end_item(&mut self, n_read: u64) {
        self.n_items += 1;
        self.bar.set_position(n_read);
        self.show();
    }

    fn show(&self) {
        if !self.bar.is_hidden() {
            let rate = self.n_tokens as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
            self.bar.set_message(format!("{} items, {rate:.0} tokens/s", self.n_items));
        }
    }
}

impl Drop for Progress {
    /// So that what follows begins at the beginning of a line.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
