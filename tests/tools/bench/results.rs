//! Everything that was measured: what `results.json` holds and the report is made from.

use crate::kind;
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// The file in the folder of the report.
const FILE: &str = "results.json";

/// All results. The two parts are measured by two commands, and either may be missing; a comparison replaces the one of
/// an earlier run.
#[derive(Serialize, Deserialize)]
pub struct Results {
    /// The machine.
    pub machine: Machine,
    /// Shape of the model.
    pub shape: String,
    /// Length of the folder of float32 weights.
    pub weights_bytes: u64,
    /// olmo-pack and olmo-infer by themselves.
    pub own: Option<Own>,
    /// Compared with other programs, by type and program.
    pub comparisons: Vec<Comparison>,
}

/// When and what was measured.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Date and time.
    pub date: String,
    /// Version and commit of this project, and the compiler.
    pub program: String,
}

/// olmo-pack and olmo-infer by themselves.
#[derive(Clone, Serialize, Deserialize)]
pub struct Own {
    /// Of this part.
    pub version: Version,
    /// Times of `cp` and `sync` of the folder, in seconds.
    pub copies: Vec<f64>,
    /// By kind of model file.
    pub kinds: Vec<OfKind>,
    /// The output of each run of the baseline.
    pub baseline: Vec<Value>,
}

/// The measurements of one model file.
#[derive(Clone, Serialize, Deserialize)]
pub struct OfKind {
    /// Name of the kind.
    pub kind: String,
    /// The packings.
    pub packed: Vec<Packed>,
    /// The output of `olmo-bench`.
    pub bench: Value,
    /// Whole runs of one token, everything in memory, in seconds.
    pub one_token: Vec<f64>,
    /// Whole runs of 4 tokens and on to 20, in seconds.
    pub four_score: Vec<f64>,
    /// Checks of the whole file on one core, in seconds. Older results have none.
    #[serde(default)]
    pub verify: Vec<f64>,
    /// Decode with more threads than cores.
    pub crowded: Crowded,
    /// Decode next to a busy loop, with a thread for each core but one and with a thread for each. Older results, and
    /// those of one core, have none.
    #[serde(default)]
    pub busy: Option<Crowded>,
    /// Several sequences at once, ascending.
    pub sequences: Vec<Sequences>,
    /// Starts after the file's pages were dropped.
    pub cold: Vec<Cold>,
}

/// One packing.
#[derive(Clone, Serialize, Deserialize)]
pub struct Packed {
    /// From the start of the process to its end, in seconds.
    pub seconds: f64,
    /// Most anonymous memory that was seen, in bytes.
    pub peak_anonymous_bytes: u64,
    /// Length of the model file.
    pub file_bytes: u64,
}

/// Decode with two numbers of threads by turns, for instance one for each core, and more.
#[derive(Clone, Serialize, Deserialize)]
pub struct Crowded {
    /// Threads of the first.
    pub cores: usize,
    /// Threads of the second.
    pub threads: usize,
    /// Seconds of the same tokens with the first.
    pub with_cores: Vec<f64>,
    /// And with the second.
    pub with_threads: Vec<f64>,
}

/// A number of sequences in one process.
#[derive(Clone, Serialize, Deserialize)]
pub struct Sequences {
    /// How many.
    pub n: usize,
    /// Tokens a second of all of them together, round by round; `None` where the difference of two runs gave none.
    pub tok_s: Vec<Option<f64>>,
}

/// One cold start and its neighbours.
#[derive(Clone, Serialize, Deserialize)]
pub struct Cold {
    /// Reading what a token needs, by MADV_POPULATE_READ, after the pages were dropped; in seconds.
    pub disk: f64,
    /// A whole run of one token after the pages were dropped, in seconds.
    pub cold: f64,
    /// The same with the pages in memory.
    pub warm: f64,
    /// Share of the file that was still in memory after dropping, the larger of the two times; `None` if the file
    /// system does not report it.
    pub left: Option<f64>,
}

/// One program compared with our model files of the same type.
#[derive(Serialize, Deserialize)]
pub struct Comparison {
    /// Of this comparison.
    pub version: Version,
    /// Threads of every program.
    pub threads: usize,
    /// Type of the matrices.
    pub dtype: String,
    /// The program: `name`, `version`, `settings`, `build`.
    pub peer: Value,
    /// Root mean square of the differences between its logits and ours, relative to ours: shows that both run the same
    /// model.
    pub logits_differ: f64,
    /// The measurements by turns.
    pub contests: Vec<Contest>,
}

/// One thing that all programs did, by turns.
#[derive(Serialize, Deserialize)]
pub struct Contest {
    /// `decode`, `prefill` or `first token`.
    pub what: String,
    /// The context, or the length of the prompt.
    pub size: usize,
    /// Tokens of one run.
    pub tokens: usize,
    /// Seconds of each run of the peer.
    pub theirs: Vec<f64>,
    /// Ours, by kind of model file.
    pub ours: Vec<Ours>,
}

/// Our runs of a contest.
#[derive(Serialize, Deserialize)]
pub struct Ours {
    /// Name of the kind.
    pub kind: String,
    /// Seconds of each run.
    pub seconds: Vec<f64>,
    /// Least share of the mapped weights that was in huge pages before a run; `None` where a process of its own ran.
    pub huge_share: Option<f64>,
}

impl Sequences {
    /// The rounds that gave a rate.
    pub fn measured(&self) -> impl Iterator<Item = f64> {
        self.tok_s.iter().flatten().copied()
    }
}

impl Results {
    /// Reads the results of an earlier run.
    pub fn read(folder: &Path) -> Result<Results, String> {
        Results::earlier(folder)?.ok_or_else(|| format!("{}: not there", folder.join(FILE).display()))
    }

    /// Reads the results of an earlier run; `None` when there was none.
    pub fn earlier(folder: &Path) -> Result<Option<Results>, String> {
        let path = folder.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Adds a comparison; it replaces an earlier one of the same type and program.
    pub fn put(&mut self, comparison: Comparison) {
        let same = |other: &Comparison| other.dtype == comparison.dtype && other.name() == comparison.name();
        match self.comparisons.iter().position(same) {
            Some(place) => self.comparisons[place] = comparison,
            None => self.comparisons.push(comparison),
        }
        self.comparisons.sort_by_key(|comparison| kind::KINDS.iter().position(|kind| kind.dtype == comparison.dtype));
    }

    /// Writes `results.json`, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| format!("{}: {error}", path.display()))?;
        let temporary = folder.join(format!("{FILE}.tmp"));
        let written = fs::write(&temporary, text + "\n").and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // The first error is the one to report.
            let _half_a_file = fs::remove_file(&temporary);
            format!("{}: cannot write the results: {error}", path.display())
        })
    }
}

impl Comparison {
    /// Name of the program.
    pub fn name(&self) -> &str {
        self.fact("name")
    }

    /// A fact that the program reported about itself.
    pub fn fact(&self, key: &str) -> &str {
        self.peer[key].as_str().unwrap_or("unknown")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let machine = Machine { cpu: "CPU".into(), cores: 2, kernel: "6.1".into(), memory_bytes: 1 << 30 };
        Results { machine, shape: "tiny".into(), weights_bytes: 1, own: None, comparisons: Vec::new() }
    }

    #[test]
    fn only_a_missing_file_means_no_results() {
        let folder = std::env::temp_dir().join(format!("olmo-bench-results-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let missing = Results::earlier(&folder);
        let written = results().write(&folder);
        let whole = Results::earlier(&folder);
        let files = fs::read_dir(&folder).expect("a folder").count();
        fs::write(folder.join(FILE), "{").expect("written");
        let broken = Results::earlier(&folder);
        fs::remove_dir_all(&folder).expect("removed");
        assert!(missing.expect("nothing wrong").is_none());
        written.expect("written");
        assert_eq!(whole.expect("nothing wrong").expect("results").shape, "tiny");
        assert_eq!(files, 1, "only {FILE} is left");
        assert!(broken.is_err());
    }
}
