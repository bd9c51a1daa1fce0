//! The report: one table, a column for each type and one for the run without a model file.

use crate::machine::Machine;
use crate::packing::Packed;
use serde_json::Value;
use std::fmt::Write;

/// Everything that was measured.
pub struct Results {
    /// The machine.
    pub machine: Machine,
    /// Shape of the model.
    pub shape: String,
    /// Length of the folder.
    pub weights_bytes: u64,
    /// Times of `cp` and `sync`, in seconds.
    pub copies: Vec<f64>,
    /// By type.
    pub types: Vec<OfType>,
    /// What each run of the baseline said.
    pub baseline: Option<Vec<Value>>,
}

/// What was measured on one model file.
pub struct OfType {
    /// Name of the type.
    pub name: String,
    /// The packings.
    pub packed: Vec<Packed>,
    /// What `olmo-bench` said.
    pub bench: Value,
    /// Whole runs of one token, in seconds.
    pub one_token: Vec<f64>,
    /// Whole runs of 20 positions, in seconds.
    pub four_score: Vec<f64>,
}

/// A line of the table: its name, a cell for each type, the baseline's cell.
struct Line {
    name: String,
    cells: Vec<String>,
    baseline: String,
}

impl Results {
    /// The report.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let machine = &self.machine;
        let gib = machine.memory_bytes as f64 / (1u64 << 30) as f64;
        let gb = self.weights_bytes as f64 / 1e9;
        let head = writeln!(
            out,
            "# {}, random weights\n\n{}, {} cores, Linux {}, {gib:.0} GiB of memory. A folder of {gb:.2} GB of float32 \
             `.npy` files. Shares are of the ceiling measured right before and after, medians over rounds.\n",
            self.shape, machine.cpu, machine.cores, machine.kernel
        );
        let names: Vec<&str> = self.types.iter().map(|of| of.name.as_str()).collect();
        let title = writeln!(out, "| | {} | every `.npy` read into the heap |", names.join(" | "));
        let rule = writeln!(out, "|---|{}---|", "---|".repeat(names.len()));
        head.and(title).and(rule).expect("writing to a string succeeds");
        for Line { name, cells, baseline } in self.lines() {
            writeln!(out, "| {name} | {} | {baseline} |", cells.join(" | ")).expect("writing to a string succeeds");
        }
        out
    }

    fn lines(&self) -> Vec<Line> {
        let baseline = |key: &str| {
            let runs = self.baseline.as_ref()?;
            Some(median(runs.iter().filter_map(|run| run[key].as_f64())))
        };
        let seconds = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2} s"));
        let line = |name: &str, cell: &dyn Fn(&OfType) -> String| Line {
            name: name.into(),
            cells: self.types.iter().map(cell).collect(),
            baseline: String::new(),
        };
        let beside = |name: &str, cell: &dyn Fn(&OfType) -> String, baseline| Line { baseline, ..line(name, cell) };
        let copy = median(self.copies.iter().copied());
        let load = baseline("read_s").zip(baseline("pack_s")).map(|(read, pack)| read + pack);
        let mut lines = vec![
            line("model file", &|of| format!("{:.3} GB", of.packed[0].file_bytes as f64 / 1e9)),
            line("`olmo-pack`", &|of| {
                let time = median(of.packed.iter().map(|packed| packed.seconds));
                match of.name == "f32" && copy.is_finite() {
                    true => format!("{time:.2} s, {:.2} x `cp` + `sync` ({copy:.2} s)", time / copy),
                    false => format!("{time:.2} s"),
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
            line("arithmetic peak", &|of| format!("{} GFLOP/s", one(&of.bench["ceiling"]["gflop_s"][&of.name]))),
            beside("load: open and page-in", &load_time, seconds(load)),
            line("mapped in huge pages", &|of| {
                let start = &of.bench["startup"];
                let share = number(&start["huge_mapped_bytes"]) / number(&start["mapped_bytes"]);
                format!("{:.0} %", 100.0 * share)
            }),
            line("whole process, one token", &|of| format!("{:.3} s", median(of.one_token.iter().copied()))),
            beside(
                "whole process, 4 tokens and on to 20",
                &|of| format!("{:.2} s", median(of.four_score.iter().copied())),
                seconds(baseline("wall_s")),
            ),
            line("anonymous memory of `olmo-bench`", &|of| {
                format!("{:.0} MB", number(&of.bench["memory"]["anonymous_bytes"]) / 1e6)
            }),
        ];
        let rate = baseline("decode_ms_per_token").map_or_else(String::new, |ms| format!("{:.2} tok/s", 1e3 / ms));
        for (kind, key, unit, per_second) in
            [("decode", "context", "GB/s", "gb_s"), ("prefill", "tokens", "GFLOP/s", "gflop_s")]
        {
            let entries = self.types[0].bench[kind].as_array().map_or(&[][..], Vec::as_slice);
            for (index, entry) in entries.iter().enumerate() {
                let name = match kind {
                    "decode" => format!("decode at context {}", entry[key]),
                    _ => format!("prefill of {}", entry[key]),
                };
                let cell = |of: &OfType| measured(&of.bench[kind][index], unit, per_second);
                let baseline = if kind == "decode" && index == 0 { rate.clone() } else { String::new() };
                lines.push(beside(&name, &cell, baseline));
            }
        }
        lines
    }
}

/// Open and page-in of one model file.
fn load_time(of: &OfType) -> String {
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

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// A number to one place.
fn one(value: &Value) -> String {
    format!("{:.1}", number(value))
}

/// The middle of some numbers; NaN for none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}
