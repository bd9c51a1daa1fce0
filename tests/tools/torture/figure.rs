//! The result of a part of the torture, and the table of all results.

use std::fmt::Write;

/// Most failures of one figure that are kept.
const MAX_FAILURES: usize = 5;

/// How often something was tried, and what went wrong.
pub struct Figure {
    what: String,
    wanted: u64,
    tried: u64,
    failed: u64,
    /// The first failures, in words.
    failures: Vec<String>,
    /// A note for the report.
    note: String,
}

impl Figure {
    /// Something that is to be tried at least `wanted` times.
    pub fn new(what: impl Into<String>, wanted: u64) -> Figure {
        Figure { what: what.into(), wanted, tried: 0, failed: 0, failures: Vec::new(), note: String::new() }
    }

    /// Counts one try.
    pub fn add(&mut self, result: Result<(), String>) {
        self.tried += 1;
        if let Err(failure) = result {
            self.failed += 1;
            if self.failures.len() < MAX_FAILURES {
                eprintln!("torture: {}: {failure}", self.what);
                self.failures.push(failure);
            }
        }
    }

    /// Adds a remark.
    pub fn note(&mut self, note: impl Into<String>) {
        self.note = note.into();
    }

    /// Whether it was tried as often as it was to be, without a failure.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.tried >= self.wanted
    }
}

/// A table in Markdown, and below it the first failures of each row.
pub fn table(figures: &[Figure], effort: &str) -> String {
    let mut text =
        format!("What was tried ({effort}):\n\n| what | wanted | tried | failed | |\n|---|---:|---:|---:|---|\n");
    let row = |text: &mut String, figure: &Figure| {
        let Figure { what, wanted, tried, failed, note, .. } = figure;
        writeln!(text, "| {what} | {wanted} | {tried} | {failed} | {note} |")
            .expect("writing to a String does not fail");
    };
    figures.iter().for_each(|figure| row(&mut text, figure));
    for figure in figures.iter().filter(|figure| !figure.failures.is_empty()) {
        text += &format!("\n{}:\n\n", figure.what);
        figure.failures.iter().for_each(|failure| text += &format!("* {failure}\n"));
    }
    text
}
