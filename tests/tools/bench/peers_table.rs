//! Our models beside other programs: who was how many times as fast, in pairs of neighbouring runs.

use crate::kind;
use crate::numbers::{median, ratios};
use crate::results::{Comparison, Contest, Ours, Peers};
use crate::summary::per_second;

/// Below this share of huge pages a run is said to be handicapped.
const HUGE: f64 = 0.99;

/// The section in Markdown.
pub fn markdown(peers: &Peers) -> String {
    let mut out = format!(
        "Every program with {} threads, one run of each by turns. Ratios are how many times as fast we are: the median \
         of the pairs of neighbouring runs, and the least and most of them. First token: ours is the whole process, \
         theirs is measured from the end of the Python imports on.\n\n\
         | | ours | theirs | ours is so many times as fast |\n|---|---|---|---|\n",
        peers.threads
    );
    for comparison in &peers.comparisons {
        for contest in &comparison.contests {
            for ours in &contest.ours {
                out += &line(comparison, contest, ours);
            }
        }
    }
    out += "\n";
    for comparison in &peers.comparisons {
        let fact = |key: &str| comparison.peer[key].as_str().unwrap_or("unknown").to_string();
        out += &format!(
            "- {} {}, {}: {}. Its logits are {:.1e} apart from ours (root mean square, relative). Built: {}.\n",
            fact("name"),
            fact("version"),
            comparison.dtype,
            fact("settings"),
            comparison.logits_differ,
            fact("build")
        );
    }
    for problem in peers.comparisons.iter().flat_map(not_huge) {
        out += &format!("- {problem}\n");
    }
    out
}

/// One of our kinds in one contest.
fn line(comparison: &Comparison, contest: &Contest, ours: &Ours) -> String {
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
        Some((middle, least, most)) => format!("**{middle:.2} x** ({least:.2} to {most:.2})"),
        None => String::from("not measured"),
    };
    let name = comparison.peer["name"].as_str().unwrap_or("unknown");
    format!(
        "| {what}: {} and {name} {} | {} | {} | {ratio} |\n",
        kind::label(&ours.kind),
        comparison.dtype,
        figure(&ours.seconds),
        figure(&contest.theirs)
    )
}

/// What to know about runs on a file that was not mapped in huge pages.
fn not_huge(comparison: &Comparison) -> Vec<String> {
    let runs = comparison.contests.iter().flat_map(|contest| contest.ours.iter().map(move |ours| (contest, ours)));
    let low = runs.filter_map(|(contest, ours)| Some((contest, ours, ours.huge_share.filter(|&share| share < HUGE)?)));
    let name = comparison.peer["name"].as_str().unwrap_or("unknown");
    let problem = |(contest, ours, share): (&Contest, &Ours, f64)| {
        format!(
            "In {} of {} beside {name} only {:.0} % of our {} file was mapped in huge pages.",
            contest.what,
            contest.size,
            100.0 * share,
            kind::label(&ours.kind)
        )
    };
    low.map(problem).collect()
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
        let peer = serde_json::json!({"name": "other", "version": "1", "settings": "none", "build": "plain"});
        Comparison { dtype: "bf16".into(), peer, logits_differ: 0.001, contests: vec![contest] }
    }

    fn report(huge_share: f64) -> String {
        let version = crate::results::Version { date: String::new(), program: String::new() };
        markdown(&Peers { version, threads: 2, comparisons: vec![comparison(huge_share)] })
    }

    #[test]
    fn each_of_our_kinds_is_compared_pair_by_pair() {
        let text = report(1.0);
        let plain =
            "| decode at context 16: bf16 plain and other bf16 | 10.0 tok/s | 8.0 tok/s | **1.25 x** (1.25 to 2.00) |";
        let coded = "bf16 in 12 bits and other bf16 | 16.0 tok/s | 8.0 tok/s | **2.00 x** (2.00 to 4.00) |";
        assert!(text.contains(plain) && text.contains(coded), "{text}");
        assert!(!text.contains("huge pages"), "{text}");
    }

    #[test]
    fn a_file_without_huge_pages_is_mentioned() {
        assert!(report(0.5).contains("only 50 % of our bf16 plain file was mapped in huge pages"));
    }
}
