//! One row of figures for each program and type: what people look at first.

use crate::kind::{self, Kind};
use crate::numbers::{median, number};
use crate::peer;
use crate::results::{Comparison, Contest, OfKind, Own, Results};

/// Lengths of prompts that are measured with other programs and shown, ascending.
pub const PROMPTS: [usize; 2] = [128, 512];
/// Context at which decode is measured with other programs and shown.
pub const CONTEXT: usize = 16;

/// One program and one kind of model file. A figure that was not measured is NaN.
pub struct Row {
    /// The program.
    pub program: String,
    /// The kind of file, for people.
    pub label: String,
    /// The kind of file for our own programs.
    pub kind: Option<Kind>,
    /// Type of the matrices.
    pub dtype: String,
    /// Tokens a second of one sequence.
    pub decode: f64,
    /// Tokens a second of prompts of [`PROMPTS`].
    pub prefill: [f64; 2],
    /// Seconds to the first token with everything in memory.
    pub warm: f64,
    /// Seconds to the first token from the disk.
    pub cold: f64,
}

/// All rows, the types in order, ours before the others. With peers, our figures are those measured by turns with them.
pub fn rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for dtype in kind::DTYPES {
        let compared = || results.comparisons.iter().filter(|comparison| comparison.dtype == dtype);
        // The first comparison has the machine's memory to itself.
        let first = compared().next();
        for kind in kind::KINDS.into_iter().filter(|kind| kind.dtype == dtype) {
            let alone = results.own.as_ref().and_then(|own: &Own| own.kinds.iter().find(|of| of.kind == kind.name));
            let rate = |what, size| first.map_or(f64::NAN, |first| our_rate(first, what, size, kind.name));
            let row = Row {
                program: String::from("olmo-infer"),
                label: kind.label.to_string(),
                kind: Some(kind),
                dtype: dtype.to_string(),
                decode: or(rate("decode", CONTEXT), || entry(alone, "decode", "context", CONTEXT)),
                prefill: PROMPTS
                    .map(|prompt| or(rate("prefill", prompt), || entry(alone, "prefill", "tokens", prompt))),
                warm: or(rate("first token", 1).recip(), || {
                    alone.map_or(f64::NAN, |of| median(of.one_token.iter().copied()))
                }),
                cold: alone.map_or(f64::NAN, |of| median(of.cold.iter().map(|round| round.cold))),
            };
            if row.decode.is_finite() || row.warm.is_finite() {
                rows.push(row);
            }
        }
        for comparison in compared() {
            let rate = |what, size| {
                find(comparison, what, size).map_or(f64::NAN, |contest| per_second(contest, &contest.theirs))
            };
            rows.push(Row {
                program: comparison.name().to_string(),
                label: peer::type_of(comparison.name(), dtype).unwrap_or(dtype).to_string(),
                kind: None,
                dtype: dtype.to_string(),
                decode: rate("decode", CONTEXT),
                prefill: PROMPTS.map(|prompt| rate("prefill", prompt)),
                warm: rate("first token", 1).recip(),
                cold: f64::NAN,
            });
        }
    }
    rows
}

/// A contest of a comparison.
pub fn find<'a>(comparison: &'a Comparison, what: &str, size: usize) -> Option<&'a Contest> {
    comparison.contests.iter().find(|contest| contest.what == what && contest.size == size)
}

/// Tokens a second in the middle of some runs.
pub fn per_second(contest: &Contest, seconds: &[f64]) -> f64 {
    contest.tokens as f64 / median(seconds.iter().copied())
}

fn our_rate(comparison: &Comparison, what: &str, size: usize, kind: &str) -> f64 {
    let contest = find(comparison, what, size);
    let ours = contest.and_then(|contest| Some((contest, contest.ours.iter().find(|ours| ours.kind == kind)?)));
    ours.map_or(f64::NAN, |(contest, ours)| per_second(contest, &ours.seconds))
}

/// A figure of `olmo-bench` for one context or prompt.
fn entry(of: Option<&OfKind>, list: &str, key: &str, size: usize) -> f64 {
    let entries = of.and_then(|of| of.bench[list].as_array());
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry[key] == size));
    entry.map_or(f64::NAN, |entry| number(&entry["tok_s"]))
}

fn or(value: f64, other: impl FnOnce() -> f64) -> f64 {
    if value.is_finite() { value } else { other() }
}
