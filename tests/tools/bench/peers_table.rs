//! Our models compared with other programs: ratios of speeds, in pairs of neighbouring runs.

use crate::kind;
use crate::numbers::{median, ratios};
use crate::results::{Comparison, Contest, Ours};
use crate::summary::per_second;

/// Below this share of huge pages a run is reported as handicapped.
const HUGE: f64 = 0.99;

/// The part of the report, in Markdown.
pub fn markdown(comparisons: &[Comparison]) -> String {
    let mut out = String::from(
        "All programs use the same number of threads and run alternately. Times as fast: the ratio of olmo-infer to \
         the other program, as the median over pairs of neighbouring runs, with the smallest and the largest; n is the \
         number of pairs. First token: for olmo-infer a whole process; for the others a fresh process as well, but \
         measured from the end of its Python imports: loading and the first logits.\n",
    );
    for comparison in comparisons {
        out += &section(comparison);
    }
    out
}

/// One program: what it is, and the table of its contests.
fn section(comparison: &Comparison) -> String {
    let fact = |key: &str| comparison.fact(key);
    let mut out = format!(
        "\n### {} {}\n\n{}, {} threads, {}. Built {}. Its logits are {:.1e} from ours (root mean square of the \
         differences, relative).\n\n| | our file | ours | {} | times as fast | n |\n|---|---|---|---|---|---|\n",
        fact("name"),
        comparison.dtype,
        fact("version"),
        comparison.threads,
        fact("settings"),
        fact("build"),
        comparison.logits_differ,
        fact("name")
    );
    for contest in &comparison.contests {
        for ours in &contest.ours {
            out += &line(contest, ours);
        }
    }
    out + &not_huge(comparison)
}

/// One of our kinds in one contest.
fn line(contest: &Contest, ours: &Ours) -> String {
    let what = match contest.what.as_str() {
        "decode" => format!("decode at context {}", contest.size),
        "prefill" => format!("prefill of {}", contest.size),
        other => other.to_string(),
    };
    let figure = |seconds: &[f64]| match contest.what.as_str() {
        "first token" => format!("{:.3} s", median(seconds.iter().copied())),
        _ => format!("{:.1} tok/s", per_second(contest, seconds)),
    };
    let ratio = match ratios(&contest.theirs, &ours.seconds) {
        Some((middle, least, most)) => format!("**{middle:.2}** ({least:.2} to {most:.2})"),
        None => String::from("not measured"),
    };
    let (label, own, theirs) = (kind::label(&ours.kind), figure(&ours.seconds), figure(&contest.theirs));
    let n = contest.theirs.len().min(ours.seconds.len());
    format!("| {what} | {label} | {own} | {theirs} | {ratio} | {n} |\n")
}

/// A note for a comparison in which a file of our own was not mapped in huge pages before every run.
fn not_huge(comparison: &Comparison) -> String {
    let mut least: Vec<(&str, f64)> = Vec::new();
    for ours in comparison.contests.iter().flat_map(|contest| &contest.ours) {
        let Some(share) = ours.huge_share.filter(|&share| share < HUGE) else { continue };
        match least.iter_mut().find(|(kind, _)| *kind == ours.kind) {
            Some((_, least)) => *least = least.min(share),
            None => least.push((&ours.kind, share)),
        }
    }
    let sentence = |(name, share): (&str, f64)| {
        let label = kind::label(name);
        format!("\nOf our {label} file only {:.0} % was mapped in huge pages before some runs.\n", 100.0 * share)
    };
    least.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(huge_share: f64) -> Comparison {
        let ours = |kind: &str, seconds: &[f64]| Ours {
            kind: kind.into(),
            seconds: seconds.into(),
            huge_share: Some(huge_share),
        };
        let contest = Contest {
            what: "decode".into(),
            size: 16,
            tokens: 8,
            theirs: vec![1.0, 2.0, 1.0],
            ours: vec![ours("bf16-plain", &[0.8, 1.6, 0.5]), ours("bf16", &[0.5, 1.0, 0.25])],
        };
        let peer = serde_json::json!({"name": "other", "version": "1", "settings": "none", "build": "plainly"});
        let version = crate::results::Version { date: String::new(), program: String::new() };
        Comparison { version, threads: 2, dtype: "bf16".into(), peer, logits_differ: 0.001, contests: vec![contest] }
    }

    fn report(huge_share: f64) -> String {
        markdown(&[comparison(huge_share)])
    }

    #[test]
    fn every_kind_is_compared_pair_by_pair() {
        let text = report(1.0);
        let plain = "| decode at context 16 | bf16 plain | 10.0 tok/s | 8.0 tok/s | **1.25** (1.25 to 2.00) | 3 |";
        let coded = "| decode at context 16 | bf16 in 12 bits | 16.0 tok/s | 8.0 tok/s | **2.00** (2.00 to 4.00) | 3 |";
        assert!(text.contains(plain) && text.contains(coded), "{text}");
        assert!(!text.contains("huge pages"), "{text}");
    }

    #[test]
    fn mentions_file_without_huge_pages() {
        assert!(report(0.5).contains("Of our bf16 plain file only 50 % was mapped in huge pages"));
    }
}
