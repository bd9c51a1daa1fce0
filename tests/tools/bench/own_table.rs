//! olmo-pack and olmo-infer by themselves: one table, a column for each kind of model file and one for the run without
//! a model file.

use crate::kind;
use crate::numbers::{median, number, ratios};
use crate::results::{Cold, Crowded, OfKind, Own};
use serde_json::Value;

/// A line of the table, where `n` is how many runs a median is of: its name, a cell for each type, the baseline's cell.
struct Line {
    name: String,
    cells: Vec<String>,
    baseline: String,
}

/// The table in Markdown.
pub fn markdown(own: &Own) -> String {
    let names: Vec<&str> = own.kinds.iter().map(|of| kind::label(&of.kind)).collect();
    let mut out = format!("| | {} | every `.npy` read into the heap |\n", names.join(" | "));
    out += &format!("|---|{}---|\n", "---|".repeat(names.len()));
    for Line { name, cells, baseline } in lines(own) {
        out += &format!("| {name} | {} | {baseline} |\n", cells.join(" | "));
    }
    out
}

fn lines(own: &Own) -> Vec<Line> {
    let baseline = |key: &str| {
        let times: Vec<f64> = own.baseline.iter().filter_map(|run| run[key].as_f64()).collect();
        (!times.is_empty()).then(|| median(times))
    };
    let runs = own.baseline.len();
    let seconds = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2} s, n = {runs}"));
    let line = |name: &str, cell: &dyn Fn(&OfKind) -> String| Line {
        name: name.into(),
        cells: own.kinds.iter().map(cell).collect(),
        baseline: String::new(),
    };
    let beside = |name: &str, cell: &dyn Fn(&OfKind) -> String, baseline| Line { baseline, ..line(name, cell) };
    let copy = median(own.copies.iter().copied());
    let load = baseline("read_s").zip(baseline("pack_s")).map(|(read, pack)| read + pack);
    let mut lines = vec![
        line("model file", &|of| format!("{:.3} GB", of.packed[0].file_bytes as f64 / 1e9)),
        line("`olmo-pack`", &|of| {
            let (time, n) = (median(of.packed.iter().map(|packed| packed.seconds)), of.packed.len());
            match of.kind == "f32" && copy.is_finite() {
                true => format!("{time:.2} s, {:.2} x `cp` + `sync` ({copy:.2} s), n = {n}", time / copy),
                false => format!("{time:.2} s, n = {n}"),
            }
        }),
        line("its peak anonymous memory", &|of| {
            let peak = of.packed.iter().map(|packed| packed.peak_anonymous_bytes).max().unwrap_or(0);
            format!("{:.0} MiB", peak as f64 / (1u64 << 20) as f64)
        }),
        line("read ceiling", &|of| {
            let ceiling = &of.bench["ceiling"];
            format!("{} GB/s, one thread {}", one(&ceiling["read_gb_s"]), one(&ceiling["one_thread_gb_s"]))
        }),
        line("arithmetic peak", &|of| {
            // Of integers there is one peak.
            let dtype = kind::named(&of.kind).map_or("", |kind| kind.dtype).replace("int4", "int8");
            format!("{} GFLOP/s", one(&of.bench["ceiling"]["gflop_s"][dtype]))
        }),
        beside("load: open and page-in", &load_time, seconds(load)),
        line("mapped in huge pages", &|of| {
            let start = &of.bench["startup"];
            let share = number(&start["huge_mapped_bytes"]) / number(&start["mapped_bytes"]);
            format!("{:.0} %", 100.0 * share)
        }),
        line("whole process, one token", &|of| {
            let ceiling = number(&of.bench["ceiling"]["read_gb_s"]);
            let reading = number(&of.bench["model"]["bytes_per_token"]) / ceiling / 1e9;
            let time = median(of.one_token.iter().copied());
            let n = of.one_token.len();
            format!("{time:.3} s, n = {n}; reading its weights at the ceiling takes {reading:.3} s")
        }),
        beside(
            "whole process, 4 tokens and on to 20",
            &|of| format!("{:.2} s, n = {}", median(of.four_score.iter().copied()), of.four_score.len()),
            seconds(baseline("wall_s")),
        ),
        line("`olmo-pack verify` on one core", &|of| {
            if of.verify.is_empty() {
                return String::from("not measured");
            }
            let (time, gb) = (median(of.verify.iter().copied()), of.packed[0].file_bytes as f64 / 1e9);
            format!("{time:.2} s, {:.1} GB/s, n = {}", gb / time, of.verify.len())
        }),
        line("anonymous memory of `olmo-bench`", &|of| {
            format!("{:.0} MB", number(&of.bench["memory"]["anonymous_bytes"]) / 1e6)
        }),
    ];
    let rate = baseline("decode_ms_per_token").map_or_else(String::new, |ms| format!("{:.2} tok/s", 1e3 / ms));
    for (kind, key, unit, per_second) in
        [("decode", "context", "GB/s", "gb_s"), ("prefill", "tokens", "GFLOP/s", "gflop_s")]
    {
        let entries = own.kinds[0].bench[kind].as_array().map_or(&[][..], Vec::as_slice);
        for (index, entry) in entries.iter().enumerate() {
            let name = match kind {
                "decode" => format!("decode at context {}", entry[key]),
                _ => format!("prefill of {}", entry[key]),
            };
            let cell = |of: &OfKind| measured(&of.bench[kind][index], unit, per_second);
            let baseline = if kind == "decode" && index == 0 { rate.clone() } else { String::new() };
            lines.push(beside(&name, &cell, baseline));
        }
    }
    lines.push(line("decode with more threads than cores", &|of| crowded(Some(&of.crowded))));
    lines.push(line("decode next to a busy loop", &|of| crowded(of.busy.as_ref())));
    lines.push(line("first token after the pages were dropped", &|of| cold(&of.cold)));
    let numbers: Vec<usize> = own.kinds[0].sequences.iter().map(|of| of.n).collect();
    for n in numbers {
        let name = match n {
            1 => String::from("one sequence, by the same measure"),
            _ => format!("{n} sequences at once"),
        };
        lines.push(line(&name, &|of| sequences(of, n)));
    }
    lines
}

/// Decode with one number of threads, against another.
fn crowded(crowded: Option<&Crowded>) -> String {
    let Some(crowded) = crowded else { return String::from("not measured") };
    match ratios(&crowded.with_threads, &crowded.with_cores) {
        Some((middle, least, most)) => format!(
            "{} threads take {middle:.2} x the time of {} ({least:.2} to {most:.2}), n = {}",
            crowded.threads,
            crowded.cores,
            crowded.with_cores.len()
        ),
        None => String::new(),
    }
}

/// Cold starts, against the slower of the disk and a warm start.
fn cold(rounds: &[Cold]) -> String {
    let of = |value: fn(&Cold) -> f64| median(rounds.iter().map(value));
    let ratio = of(|round| round.cold / round.disk.max(round.warm));
    let left = rounds.iter().map(|round| round.left).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
    let dropped = match left {
        Some(left) if left > 0.01 => format!("; {:.0} % could not be dropped", 100.0 * left),
        Some(_) => String::new(),
        None => String::from("; whether they were dropped is not known"),
    };
    format!(
        "{:.2} s, {ratio:.2} x the slower of disk ({:.2} s) and warm ({:.2} s), n = {}{dropped}",
        of(|round| round.cold),
        of(|round| round.disk),
        of(|round| round.warm),
        rounds.len()
    )
}

/// Tokens a second of `n` sequences, and how many times that of one it is.
fn sequences(of: &OfKind, n: usize) -> String {
    let rounds = |n: usize| of.sequences.iter().find(|of| of.n == n).map_or(&[][..], |of| &of.tok_s[..]);
    let rates: Vec<f64> = rounds(n).iter().flatten().copied().collect();
    if rates.is_empty() {
        return String::from("not measured");
    }
    // Rounds in which both gave a rate. Rates, so the pairs are the other way round.
    let pairs = rounds(n).iter().zip(rounds(1)).filter_map(|(many, one)| many.zip(*one));
    let (many, one): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let n_rates = rates.len();
    let times = match ratios(&many, &one) {
        Some((times, _, _)) if n > 1 => format!(", {times:.2} x one"),
        _ => String::new(),
    };
    format!("{:.1} tok/s{times}, n = {n_rates}", median(rates))
}

/// Open and page-in of one model file.
fn load_time(of: &OfKind) -> String {
    let start = &of.bench["startup"];
    let (open, page_in) = (number(&start["open"]["ms"]), number(&start["page_in"]["ms"]));
    let faults = &start["page_in"];
    format!(
        "{:.4} s ({} minor, {} major faults)",
        (open + page_in) / 1e3,
        faults["minor_faults"],
        faults["major_faults"]
    )
}

/// A cell for decode or prefill.
fn measured(entry: &Value, unit: &str, per_second: &str) -> String {
    if let Some(problem) = entry["left_out"].as_str() {
        return problem.to_string();
    }
    let share =
        entry["share"].as_f64().map_or_else(|| String::from("no quiet round"), |s| format!("{:.0} %", 100.0 * s));
    let vs_one = entry["vs_one"].as_f64().map_or_else(String::new, |ratio| format!(", {ratio:.2} x one token"));
    let noisy = if entry["noisy"] == true { ", noisy" } else { "" };
    let (rate, speed) = (number(&entry[per_second]), number(&entry["tok_s"]));
    format!("{speed:.1} tok/s, {rate:.1} {unit}, {share}{vs_one}{noisy}")
}

/// A number to one place.
fn one(value: &Value) -> String {
    format!("{:.1}", number(value))
}
