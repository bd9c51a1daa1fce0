//! The catalogue of bad inputs, rows O: model files. Every program that opens one gets each of them, and refuses it in
//! one line that names the file and the place, at once and with little memory. Digests are made right again after most
//! changes: what is refused here somebody may have crafted.

mod coded;
mod configuration;
mod data;
mod files;
mod headers;
mod model;
mod ranges;
mod records;
mod vocabulary;

use olmo_tests::catalogue::Run;
use olmo_tests::crafted::Field;

/// More than any file here really has.
const HUGE: u64 = 1 << 40;

/// Status 0, or 1 in one line: other numbers may come out, a signal or a panic may not.
fn is_no_crash(run: &Run) -> Result<(), String> {
    let is_told = run.status.code() == Some(1) && run.stderr.lines().count() == 1;
    let is_silent = run.status.code() == Some(0) && run.stderr.is_empty();
    if is_told || is_silent { Ok(()) } else { Err(format!("{}: {}", run.status, run.stderr)) }
}

fn header(at: usize, bytes: usize) -> Field {
    Field::of_header(at, bytes)
}
