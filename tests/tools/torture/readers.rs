//! Both readers of the format on changed files: this one and `scripts/read_olmo.py`.

use crate::Effort;
use crate::figure::Figure;
use olmo_tests::{python, readers};
use std::sync::mpsc;
use std::thread;

/// Changed files.
const CHANGED: u64 = 1_000_000;

/// Files that both must judge and read alike, on all processors.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let mut figure = Figure::new("changed files that both readers judge and read alike", effort.times(CHANGED));
    let Some(python) = python("scripts/read_olmo.py", "numpy, xxhash") else {
        figure.add(Err("no Python that has numpy and xxhash; make venv makes one".into()));
        return vec![figure];
    };
    let bases = readers::bases();
    let n_threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let (sender, results) = mpsc::channel();
    let mut n_accepted = 0u64;
    thread::scope(|scope| {
        for i in 0..n_threads {
            let (sender, python, bases) = (sender.clone(), &python, &bases);
            let n = effort.times(CHANGED).div_ceil(n_threads);
            scope.spawn(move || {
                // The receiver stays until all threads have ended.
                let report = &mut |result| sender.send(result).unwrap_or_default();
                let seed = effort.seed + (i << 32);
                if let Err(error) = readers::compare_changed(python, seed, n, bases, report) {
                    sender.send(Err(format!("the script: {error}"))).unwrap_or_default();
                }
            });
        }
        drop(sender);
        for result in results {
            n_accepted += u64::from(result == Ok(true));
            figure.add(result.map(|_| ()));
        }
    });
    figure.note(format!("seed {}, {} files, {n_accepted} accepted", effort.seed, bases.len()));
    vec![figure]
}
