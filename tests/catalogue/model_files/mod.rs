//! Everything that can be wrong with a model file. `olmo-infer`, `olmo-bench`, and `olmo-pack verify`, `inspect`,
//! `unpack` and `copy` get each of these files. All six refuse what opening must refuse: in one line with the path and
//! the field, within 1 s and 32 MiB. What opening does not check, `verify` and `copy` find, and a run ends without a
//! crash. Digests are valid after most changes: an attacker would correct them.

mod bf12;
mod configuration;
mod data;
mod files;
mod headers;
mod kept_gguf;
mod model;
mod quantized;
mod ranges;
mod records;
mod vocabulary;

use olmo_tests::catalogue::Run;
use olmo_tests::crafted::Field;

/// More than any file here really has.
const HUGE: u64 = 1 << 40;

/// Status 0, or 1 in one line: other numbers may come out, a signal or a panic may not.
fn ends_without_crash(run: &Run) -> Result<(), String> {
    let is_told = run.status.code() == Some(1) && run.stderr.lines().count() == 1;
    let is_silent = run.status.code() == Some(0) && run.stderr.is_empty();
    if is_told || is_silent { Ok(()) } else { Err(format!("{}: {}", run.status, run.stderr)) }
}

fn header(at: usize, bytes: usize) -> Field {
    Field::of_header(at, bytes)
}
