//! The charts of the report.

use crate::bars::{Bar, Chart, Colour, Group};
use crate::kind::{self, DTYPES};
use crate::numbers::{median, number};
use crate::results::{OfKind, Results};
use crate::summary::{self, CONTEXT, PROMPTS, Row};
use std::fs;
use std::path::Path;

/// Writes a chart into `folder` for everything that was measured; returns file names and titles, in order.
pub fn draw(results: &Results, folder: &Path) -> Result<Vec<(String, String)>, String> {
    let mut drawn = Vec::new();
    for (name, chart) in all(results) {
        let file = format!("{name}.svg");
        let path = folder.join(&file);
        // A chart of an earlier report would look like a part of this one.
        let _not_there = fs::remove_file(&path);
        if let Some(svg) = chart.svg() {
            fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
            drawn.push((file, chart.title));
        }
    }
    Ok(drawn)
}

fn all(results: &Results) -> [(&'static str, Chart); 5] {
    let rows = summary::rows(results);
    let shape = &results.shape;
    let machine = format!("{shape}, random weights; {}, {} cores", results.machine.cpu, results.machine.cores);
    let chart = |title: String, good: &str, axis: &str, groups: Vec<Group>| Chart {
        title,
        subtitle: format!("{good}. {machine}"),
        axis: axis.to_string(),
        groups: groups.into_iter().filter(|group| !group.bars.is_empty()).collect(),
    };
    let rate = |value: f64| if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    let decode = DTYPES.map(|dtype| group(dtype.to_string(), &rows, dtype, |row| row.decode, &rate));
    let each_prompt = PROMPTS.iter().enumerate().flat_map(|prompt| DTYPES.map(|dtype| (prompt, dtype)));
    let prefill = each_prompt.map(|((i, prompt), dtype)| {
        group(format!("{prompt} tokens, {dtype}"), &rows, dtype, |row| row.prefill[i], &rate)
    });
    let seconds = |value: f64| format!("{value:.2} s");
    let warm = DTYPES.map(|dtype| group(format!("in memory, {dtype}"), &rows, dtype, |row| row.warm, &seconds));
    let cold = DTYPES.map(|dtype| group(format!("from the disk, {dtype}"), &rows, dtype, |row| row.cold, &seconds));
    let start = warm.into_iter().chain(cold);
    let start_title = match results.comparisons.is_empty() {
        true => "Start-up: from nothing to the first predicted token",
        false => "Time to the first predicted token; others timed after their imports",
    };
    let kinds = results.own.as_ref().map_or(&[][..], |own| &own.kinds[..]);
    [
        (
            "decode",
            chart(
                format!("Decode: one sequence at context {CONTEXT}"),
                "Longer is faster",
                "tokens a second",
                decode.into(),
            ),
        ),
        (
            "prefill",
            chart(
                "Prefill: a prompt up to its first prediction".into(),
                "Longer is faster",
                "tokens of the prompt a second",
                prefill.collect(),
            ),
        ),
        (
            "first-token",
            chart(start_title.into(), "Shorter is better", "seconds, prompt of one token", start.collect()),
        ),
        (
            "small-batch",
            chart(
                "Small batches: time of one pass over n tokens".into(),
                "Shorter is better",
                "times of a single token",
                small_batch(kinds),
            ),
        ),
        (
            "sequences",
            chart(
                "Several sequences decoding together".into(),
                "Longer is faster",
                "tokens a second, all sequences together",
                sequences(kinds, &rate),
            ),
        ),
    ]
}

/// A bar for every row of a type that has the figure.
fn group(
    heading: String,
    rows: &[Row],
    dtype: &str,
    figure: impl Fn(&Row) -> f64,
    text: &dyn Fn(f64) -> String,
) -> Group {
    let rows = rows.iter().filter(|row| row.dtype == dtype);
    let bars = rows.filter(|row| figure(row).is_finite()).map(|row| {
        let colour = match (&row.kind, row.program.as_str()) {
            (Some(_), _) => Colour::OursToo,
            (None, "llama.cpp") => Colour::Theirs,
            _ => Colour::TheirsToo,
        };
        let name = format!("{}, {}", row.program, row.label);
        Bar { name, value: figure(row), text: text(figure(row)), colour }
    });
    Group { heading, bars: bars.collect() }
}

/// A bar of one of our kinds among others.
fn bar(of: &OfKind, value: f64, text: String) -> Bar {
    let colour = match of.kind.as_str() {
        "f32" => Colour::Ours,
        "bf16-plain" => Colour::OursToo,
        _ => Colour::OursThree,
    };
    Bar { name: kind::label(&of.kind).to_string(), value, text, colour }
}

/// For each length up to 32, the kinds.
fn small_batch(kinds: &[OfKind]) -> Vec<Group> {
    let entries = |of: &OfKind| of.bench["prefill"].as_array().cloned().unwrap_or_default();
    let first = kinds.first().map(entries).unwrap_or_default();
    let lengths = first.iter().filter_map(|entry| entry["tokens"].as_u64()).filter(|&n| n <= 32);
    let groups = lengths.map(|n| {
        let bars = kinds.iter().filter_map(|of| {
            let value = number(&entries(of).iter().find(|entry| entry["tokens"] == n)?["vs_one"]);
            value.is_finite().then(|| bar(of, value, format!("{value:.2} x")))
        });
        Group { heading: format!("n = {n}"), bars: bars.collect() }
    });
    groups.collect()
}

/// For each number of sequences, the kinds.
fn sequences(kinds: &[OfKind], rate: &dyn Fn(f64) -> String) -> Vec<Group> {
    let numbers = kinds.first().map_or(&[][..], |of| &of.sequences[..]).iter().map(|of| of.n);
    let groups = numbers.map(|n| {
        let bars = kinds.iter().filter_map(|of| {
            let value = median(of.sequences.iter().find(|of| of.n == n)?.measured());
            value.is_finite().then(|| bar(of, value, rate(value)))
        });
        Group { heading: if n == 1 { "1 sequence".into() } else { format!("{n} sequences") }, bars: bars.collect() }
    });
    groups.collect()
}
