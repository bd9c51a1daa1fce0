//! Properties of the readers of weights headers, `.npy` and safetensors, on 10,000 random cases each: what a writer
//! writes is read unchanged, one defect anywhere is refused in one line that names the place, and no size wraps.
//!
//! The expected result follows from how a case was made, or is computed in 128 bits, without a parser. A failing case
//! is minimized and printed; it then becomes a test of its own.

mod index;
mod npy;
mod npy_defects;
mod safetensors;
mod safetensors_defects;

use crate::property::edgy;
use olmo_pack::error::Problem;
use proptest::prelude::*;
use std::cell::Cell;
use std::path::Path;

/// Most bytes that the numbers of a good tensor take: sums of some of them are still lengths of files.
const MAX_DATA_BYTES: u64 = 1 << 58;

/// Sizes of at most `rank` dimensions, each of any size except 0.
fn sizes(rank: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(edgy(usize::MAX).prop_map(|size| size as u64), rank)
}

/// Makes the sizes small enough for a file, the later ones first.
fn fitted(mut shape: Vec<u64>) -> Vec<u64> {
    let mut room = MAX_DATA_BYTES / 16;
    for size in &mut shape {
        *size = (*size).min(room);
        room /= (*size).max(1);
    }
    shape
}

/// Asserts that this is refused in one line, which begins with the path and has these words in it.
fn assert_refused<T>(result: Result<T, Problem>, path: &str, words: &str) -> Result<(), TestCaseError> {
    let Err(problem) = result else { return Err(TestCaseError::fail(format!("not refused: {words}"))) };
    let line = problem.to_string();
    prop_assert!(problem.path == Path::new(path) && line.starts_with(&format!("{path}: ")), "{}", line);
    prop_assert!(!line.chars().any(char::is_control), "{:?} is not one line", line);
    prop_assert!(line.contains(words), "{:?} without {:?}", line, words);
    Ok(())
}

/// Counts the cases of a kind, so that a property cannot hold because there are none.
struct Seen {
    kinds: Vec<(&'static str, Cell<usize>)>,
}

impl Seen {
    fn new(kinds: &[&'static str]) -> Seen {
        Seen { kinds: kinds.iter().map(|&kind| (kind, Cell::new(0))).collect() }
    }

    fn count(&self, kind: &str) {
        let (_, count) = self.kinds.iter().find(|(known, _)| *known == kind).expect("a kind");
        count.set(count.get() + 1);
    }

    /// Asserts that there were at least `least` cases of each kind.
    fn assert_each(&self, least: usize) {
        for (kind, count) in &self.kinds {
            assert!(count.get() >= least, "{kind}: {} cases", count.get());
        }
    }
}
