//! The report: date and machine, one table of what matters, charts, and then everything.

use crate::charts;
use crate::numbers::number;
use crate::own_table;
use crate::peers_table;
use crate::results::{Results, Version};
use crate::summary::{self, CONTEXT, PROMPTS, Row};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes `report.md` and the charts into `folder`; returns the path of the report and its text.
pub fn write(results: &Results, folder: &Path) -> Result<(PathBuf, String), String> {
    let charts = charts::draw(results, folder)?;
    let text = markdown(results, &charts);
    let path = folder.join("report.md");
    fs::write(&path, &text).map_err(|error| format!("{}: cannot write the report: {error}", path.display()))?;
    Ok((path, text))
}

fn markdown(results: &Results, charts: &[(String, String)]) -> String {
    let mut out = head(results);
    out += &summary_table(&summary::rows(results));
    for (file, title) in charts {
        out += &format!("\n![{title}]({file})\n");
    }
    if let Some(peers) = &results.peers {
        out += "\n## Beside other programs\n\n";
        out += &peers_table::markdown(peers);
    }
    if let Some(own) = &results.own {
        out +=
            "\n## By themselves\n\nShares are of the ceiling measured right before and after, medians over rounds.\n\n";
        out += &own_table::markdown(own);
    }
    out
}

/// Title, dates, machine.
fn head(results: &Results) -> String {
    let machine = &results.machine;
    let gib = machine.memory_bytes as f64 / (1u64 << 30) as f64;
    let mut out = format!("# {}, random weights\n\n| | |\n|---|---|\n", results.shape);
    let parts = [
        ("by themselves", results.own.as_ref().map(|own| &own.version)),
        ("beside other programs", results.peers.as_ref().map(|peers| &peers.version)),
    ];
    for (part, version) in parts {
        if let Some(Version { date, program }) = version {
            out += &format!("| {part} | {date}, {program} |\n");
        }
    }
    out += &format!(
        "| processor | {}, {} cores |\n| memory | {gib:.0} GiB |\n| kernel | Linux {} |\n",
        machine.cpu, machine.cores, machine.kernel
    );
    for comparison in results.peers.iter().flat_map(|peers| &peers.comparisons).filter(|c| c.dtype == "f32") {
        let fact = |key: &str| comparison.peer[key].as_str().unwrap_or("unknown").to_string();
        out += &format!("| {} | {} |\n", fact("name"), fact("version"));
    }
    let ceiling = results.own.iter().flat_map(|own| &own.kinds).map(|of| number(&of.bench["ceiling"]["read_gb_s"]));
    if let Some(ceiling) = ceiling.reduce(f64::max) {
        out += &format!("| memory read | {ceiling:.0} GB/s at best |\n");
    }
    out += &format!("| weights | {:.2} GB of float32 `.npy` files |\n\n", results.weights_bytes as f64 / 1e9);
    out
}

/// A row for each program and type.
fn summary_table(rows: &[Row]) -> String {
    let mut out = format!(
        "| | decode at context {CONTEXT} | prefill of {} | prefill of {} | first token, in memory | from the disk |\n\
         |---|---|---|---|---|---|\n",
        PROMPTS[0], PROMPTS[1]
    );
    let rate = |value: f64| figure(value, |value| format!("{value:.1} tok/s"));
    let seconds = |value: f64| figure(value, |value| format!("{value:.2} s"));
    for row in rows {
        let name = format!("{}, {}", row.program, row.label);
        let name = if row.kind.is_some() { format!("**{name}**") } else { name };
        out += &format!(
            "| {name} | {} | {} | {} | {} | {} |\n",
            rate(row.decode),
            rate(row.prefill[0]),
            rate(row.prefill[1]),
            seconds(row.warm),
            seconds(row.cold)
        );
    }
    out
}

/// A cell that is empty when nothing was measured.
fn figure(value: f64, text: impl Fn(f64) -> String) -> String {
    if value.is_finite() { text(value) } else { String::new() }
}
