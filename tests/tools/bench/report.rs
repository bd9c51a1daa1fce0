//! The report: date and machine, one table of what matters, charts, and then everything.

use crate::charts;
use crate::numbers::number;
use crate::own_table;
use crate::peers_table;
use crate::results::Results;
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
    if !results.comparisons.is_empty() {
        out += "\n## Compared with other programs\n\n";
        out += &peers_table::markdown(&results.comparisons);
    }
    if let Some(own) = &results.own {
        out += "\n## olmo-infer alone\n\nShares are of the ceiling measured directly before and after, as medians over \
                rounds; n is the number of runs.\n\n";
        out += &own_table::markdown(own);
    }
    out
}

/// Title, dates, machine.
fn head(results: &Results) -> String {
    let machine = &results.machine;
    let mut out = format!("# {}, random weights\n\n| | |\n|---|---|\n", results.shape);
    if let Some(own) = &results.own {
        out += &format!("| olmo-infer alone | {}, {} |\n", own.version.date, own.version.program);
    }
    for comparison in &results.comparisons {
        let (program, version) = (comparison.fact("version"), &comparison.version);
        let other = format!("{} {program}", comparison.name());
        out += &format!("| compared with {other}, {} | {}, {} |\n", comparison.dtype, version.date, version.program);
    }
    out += &format!(
        "| processor | {}, {} cores |\n| memory | {} GiB |\n| kernel | Linux {} |\n",
        machine.cpu,
        machine.cores,
        machine.memory_gib(),
        machine.kernel
    );
    let ceiling = results.own.iter().flat_map(|own| &own.kinds).map(|of| number(&of.bench["ceiling"]["read_gb_s"]));
    if let Some(ceiling) = ceiling.reduce(f64::max) {
        out += &format!("| memory read | {ceiling:.0} GB/s at best |\n");
    }
    out += &format!("| weights | {:.2} GB of `.npy` files |\n\n", results.weights_bytes as f64 / 1e9);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::results::{Cold, Comparison, Contest, Crowded, OfKind, Ours, Own, Packed, Sequences, Version};
    use serde_json::json;

    /// A machine that decodes 10 tokens a second and starts in 0.2 s, and a peer that is half as fast.
    fn results() -> Results {
        let version = || Version { date: "2000-01-02".into(), program: "olmo".into() };
        let of_kind = OfKind {
            kind: "f32".into(),
            packed: vec![Packed { seconds: 1.0, peak_anonymous_bytes: 1 << 20, file_bytes: 3_000_000_000 }],
            bench: json!({
                "model": {"bytes_per_token": 3e9},
                "ceiling": {"read_gb_s": 30.0, "one_thread_gb_s": 20.0, "gflop_s": {"f32": 200.0}},
                "decode": [{"context": 16, "tok_s": 10.0, "gb_s": 30.0, "share": 1.0}],
                "prefill": [{"tokens": 2, "tok_s": 19.0, "gflop_s": 1.0, "share": null, "vs_one": 1.05}],
                "startup": {
                    "open": {"ms": 1.0},
                    "page_in": {"ms": 1.0, "minor_faults": 1, "major_faults": 0},
                    "huge_mapped_bytes": 3e9,
                    "mapped_bytes": 3e9
                },
                "memory": {"anonymous_bytes": 1e6}
            }),
            one_token: vec![0.2],
            four_score: vec![2.0],
            verify: vec![0.5, 0.75, 1.0],
            crowded: Crowded { cores: 2, threads: 4, with_cores: vec![1.0], with_threads: vec![1.5] },
            busy: Some(Crowded { cores: 1, threads: 2, with_cores: vec![2.0], with_threads: vec![1.9] }),
            // The second round of one sequence gave nothing.
            sequences: vec![
                Sequences { n: 1, tok_s: vec![Some(10.0), None, Some(20.0)] },
                Sequences { n: 4, tok_s: vec![None] },
                Sequences { n: 8, tok_s: vec![Some(70.0), Some(80.0), Some(140.0)] },
            ],
            cold: vec![Cold { disk: 1.0, cold: 1.1, warm: 0.2, left: Some(0.0) }],
        };
        let ours = Ours { kind: "f32".into(), seconds: vec![0.8], huge_share: Some(1.0) };
        let contest = Contest { what: "decode".into(), size: 16, tokens: 8, theirs: vec![1.6], ours: vec![ours] };
        let peer = json!({"name": "other", "version": "1", "settings": "none", "build": "plainly"});
        let comparison = Comparison {
            version: version(),
            threads: 2,
            dtype: "f32".into(),
            peer,
            logits_differ: 1e-4,
            contests: vec![contest],
        };
        Results {
            machine: Machine { cpu: "CPU".into(), cores: 2, kernel: "6.1".into(), memory_bytes: 1 << 30 },
            shape: "olmo2-1b".into(),
            weights_bytes: 3_000_000_000,
            own: Some(Own { version: version(), copies: vec![1.0], kinds: vec![of_kind], baseline: Vec::new() }),
            comparisons: vec![comparison],
        }
    }

    #[test]
    fn report_has_every_measurement() {
        let text = markdown(&results(), &[("decode.svg".into(), "Decode".into())]);
        for expected in [
            "| processor | CPU, 2 cores |",
            "| **olmo-infer, f32** | 10.0 tok/s |  |  | 0.20 s | 1.10 s |",
            "| other, f32 | 5.0 tok/s |",
            "![Decode](decode.svg)",
            "| decode at context 16 | f32 | 10.0 tok/s | 5.0 tok/s | **2.00** (2.00 to 2.00) | 1 |",
            "| `olmo-pack verify` on one core | 0.75 s, 4.0 GB/s, n = 3 |",
            "4 threads take 1.50 x the time of 2 (1.50 to 1.50), n = 1",
            "1.10 s, 1.10 x the slower of disk (1.00 s) and warm (0.20 s), n = 1",
            "| 4 sequences at once | not measured |",
            "| 8 sequences at once | 80.0 tok/s, 7.00 x one, n = 3 |",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn chart_has_no_bar_without_a_number() {
        let folder = std::env::temp_dir().join(format!("olmo-bench-charts-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let drawn = charts::draw(&results(), &folder);
        let svg = fs::read_to_string(folder.join("sequences.svg"));
        fs::remove_dir_all(&folder).expect("removed");
        drawn.expect("drawn");
        let svg = svg.expect("a chart");
        for (expected, is_there) in [("1 sequence", true), ("8 sequences", true), ("4 sequences", false)] {
            assert_eq!(svg.lines().any(|line| line.trim() == expected), is_there, "{expected} in {svg}");
        }
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn written_results_give_the_same_report() {
        let text = serde_json::to_string(&results()).expect("JSON");
        let again: Results = serde_json::from_str(&text).expect("results");
        assert_eq!(markdown(&again, &[]), markdown(&results(), &[]));
    }

    #[test]
    fn newer_comparison_replaces_older_one_in_place() {
        let with = |dtype: &str, differ: f64| {
            let comparison = results().comparisons.remove(0);
            Comparison { dtype: dtype.into(), logits_differ: differ, ..comparison }
        };
        let mut all = Results { comparisons: Vec::new(), ..results() };
        for comparison in [with("bf16", 1.0), with("f32", 2.0), with("bf16", 3.0)] {
            all.put(comparison);
        }
        let order: Vec<f64> = all.comparisons.iter().map(|comparison| comparison.logits_differ).collect();
        assert_eq!(order, [2.0, 3.0]);
    }

    #[test]
    fn omits_unmeasured_parts() {
        let text = markdown(&Results { own: None, ..results() }, &[]);
        assert!(text.contains("## Compared with other programs") && !text.contains("## olmo-infer alone"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
        let text = markdown(&Results { comparisons: Vec::new(), ..results() }, &[]);
        assert!(!text.contains("## Compared with other programs") && text.contains("## olmo-infer alone"), "{text}");
    }
}
