//! The result, as a table for people and as one JSON object for programs.

use crate::ceiling::{OneThread, Pattern};
use crate::decode::{self, Decode};
use crate::facts::ModelFacts;
use crate::guessing::{self, Guessing};
use crate::host::Host;
use crate::json::{array, integer, number, object, string};
use crate::peak::Peak;
use crate::prefill::{self, Prefill};
use crate::rounds::Measured;
use crate::scoring::{self, Scoring};
use crate::startup::{Phase, Startup};
use crate::ways;
use std::fmt::Write;

/// Everything that was measured.
pub struct Report {
    /// The machine.
    pub host: Host,
    /// The model.
    pub model: ModelFacts,
    /// Phases of the start.
    pub startup: Startup,
    /// Read ceiling of all threads, 1e9 bytes a second.
    pub read_gb_s: f64,
    /// The way of reading that reached it.
    pub pattern: Pattern,
    /// Read ceiling of one thread.
    pub one_thread: OneThread,
    /// Arithmetic peaks.
    pub peaks: Vec<Peak>,
    /// Decode by context.
    pub decode: Vec<Decode>,
    /// Prefill by length.
    pub prefill: Vec<Prefill>,
    /// Scoring, by length.
    pub scoring: Vec<Scoring>,
    /// Guesses, by their kind and the tokens of the text.
    pub guessing: Vec<Guessing>,
    /// Memory of this process alone, at the end and at most.
    pub anonymous_bytes: Option<u64>,
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text).expect("writing to a string succeeds");
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let (host, model, start) = (&self.host, &self.model, &self.startup);
        let how = match host.gemm {
            true => format!("{} with gemm", host.isa),
            false => format!("{}, {}", host.isa, ways::text(host.streaming)),
        };
        let how = format!("{how}, {} KV cache", host.kv.name());
        writeln!(out, "{}", model.head(host, &how))?;
        writeln!(out, "read, all threads   {:8.1} GB/s   {}", self.read_gb_s, self.pattern.text())?;
        writeln!(out, "read, one thread    {:8.1} GB/s   {}", self.one_thread.gb_s, self.one_thread.pattern.text())?;
        for peak in &self.peaks {
            let name = format!("{} {}", peak.isa, peak.dtype.name());
            writeln!(out, "{name:<19} {:8.1} GFLOP/s", peak.gflop_s)?;
        }
        writeln!(out)?;
        for (name, phase) in [("open", start.open), ("page-in", start.page_in), ("first token", start.first_token)] {
            let (ms, faults) = (phase.time.as_secs_f64() * 1e3, phase.faults);
            writeln!(out, "{name:<12} {ms:10.2} ms {:9} minor {:6} major faults", faults.minor, faults.major)?;
        }
        if let Some(huge) = start.huge_mapped_bytes {
            let share = 100.0 * huge as f64 / start.mapped_bytes as f64;
            writeln!(out, "huge pages   {:10.3} GB of the file, {share:.0} % of what is read", huge as f64 / 1e9)?;
        }
        if let Some(bytes) = self.anonymous_bytes {
            writeln!(out, "anonymous    {:10.1} MB of memory at most", bytes as f64 / 1e6)?;
        }
        if !self.decode.is_empty() {
            writeln!(out, "\ndecode at      tok/s     GB/s    share  rounds")?;
        }
        for Decode { context, outcome } in &self.decode {
            match outcome {
                Err(problem) => writeln!(out, "{context:9}  left out: {problem}")?,
                Ok(decode::Outcome { tok_s, measured, .. }) => {
                    writeln!(out, "{context:9} {tok_s:10.2} {:8.1} {}", measured.rate, share(measured))?;
                }
            }
        }
        if !self.prefill.is_empty() {
            writeln!(out, "\nprefill of     tok/s  GFLOP/s    share  rounds                time / one token")?;
        }
        for Prefill { tokens, outcome } in &self.prefill {
            match outcome {
                Err(problem) => writeln!(out, "{tokens:10}  left out: {problem}")?,
                Ok(prefill::Outcome { tok_s, vs_one, measured }) => {
                    let share = share(measured);
                    writeln!(out, "{tokens:10} {tok_s:9.2} {:8.1} {share:<30} {vs_one:6.2}", measured.rate)?;
                }
            }
        }
        if !self.scoring.is_empty() {
            writeln!(out, "\nscoring of     tok/s  / prefill  the same in FLOP/s")?;
        }
        for Scoring { tokens, outcome } in &self.scoring {
            match outcome {
                Err(problem) => writeln!(out, "{tokens:10}  left out: {problem}")?,
                Ok(scoring::Outcome { tok_s, vs_prefill, flops_vs_prefill, .. }) => {
                    let [tokens_share, flops_share] = [vs_prefill, flops_vs_prefill].map(|ratio| ratio * 100.0);
                    writeln!(out, "{tokens:10} {tok_s:9.2} {tokens_share:8.1} % {flops_share:18.1} %")?;
                }
            }
        }
        if !self.guessing.is_empty() {
            writeln!(out, "\nguesses, tokens              tok/s  / plain   right  tokens a pass")?;
        }
        for Guessing { way, tokens, outcome } in &self.guessing {
            let way = way.text();
            match outcome {
                Err(problem) => writeln!(out, "{way:18} {tokens:6}  left out: {problem}")?,
                Ok(guessing::Outcome { tok_s, vs_plain, right, per_pass, .. }) => {
                    let right = right * 100.0;
                    writeln!(out, "{way:18} {tokens:6} {tok_s:9.2} {vs_plain:8.2} {right:5.1} % {per_pass:14.2}")?;
                }
            }
        }
        let noisy = self.measured().filter(|measured| measured.is_noisy()).count();
        if noisy > 0 {
            writeln!(
                out,
                "\n{noisy} of these were disturbed in most of their rounds: measure again when it is quiet."
            )?;
        }
        Ok(())
    }

    fn measured(&self) -> impl Iterator<Item = &Measured> {
        let decode = self.decode.iter().filter_map(|d| d.outcome.as_ref().ok()).map(|d| &d.measured);
        decode.chain(self.prefill.iter().filter_map(|p| p.outcome.as_ref().ok()).map(|p| &p.measured))
    }

    /// For programs.
    pub fn json(&self) -> String {
        let (host, model, start) = (&self.host, &self.model, &self.startup);
        let phase = |phase: &Phase| {
            object([
                ("ms", number(phase.time.as_secs_f64() * 1e3)),
                ("minor_faults", integer(phase.faults.minor)),
                ("major_faults", integer(phase.faults.major)),
            ])
        };
        let decode = self.decode.iter().map(|decode| {
            let fields = [("context", integer(decode.context as u64))];
            let rest = match &decode.outcome {
                Err(problem) => vec![("left_out", string(problem))],
                Ok(outcome) => {
                    let own = [
                        ("mean_context", number(outcome.mean_context)),
                        ("bytes_per_token", number(outcome.bytes_per_token)),
                        ("tok_s", number(outcome.tok_s)),
                        ("gb_s", number(outcome.measured.rate)),
                    ];
                    own.into_iter().chain(rounds(&outcome.measured)).collect()
                }
            };
            object(fields.into_iter().chain(rest))
        });
        let prefill = self.prefill.iter().map(|prefill| {
            let fields = [("tokens", integer(prefill.tokens as u64))];
            let rest = match &prefill.outcome {
                Err(problem) => vec![("left_out", string(problem))],
                Ok(outcome) => {
                    let own = [
                        ("tok_s", number(outcome.tok_s)),
                        ("gflop_s", number(outcome.measured.rate)),
                        ("vs_one", number(outcome.vs_one)),
                    ];
                    own.into_iter().chain(rounds(&outcome.measured)).collect()
                }
            };
            object(fields.into_iter().chain(rest))
        });
        let scoring = self.scoring.iter().map(|scoring| {
            let fields = [("tokens", integer(scoring.tokens as u64))];
            let rest = match &scoring.outcome {
                Err(problem) => vec![("left_out", string(problem))],
                Ok(outcome) => vec![
                    ("tok_s", number(outcome.tok_s)),
                    ("vs_prefill", number(outcome.vs_prefill)),
                    ("flops_vs_prefill", number(outcome.flops_vs_prefill)),
                    ("rounds", integer(outcome.rounds as u64)),
                ],
            };
            object(fields.into_iter().chain(rest))
        });
        let guessing = self.guessing.iter().map(|guessing| {
            let fields = [("way", string(guessing.way.name())), ("tokens", integer(guessing.tokens as u64))];
            let rest = match &guessing.outcome {
                Err(problem) => vec![("left_out", string(problem))],
                Ok(outcome) => vec![
                    ("tok_s", number(outcome.tok_s)),
                    ("vs_plain", number(outcome.vs_plain)),
                    ("right", number(outcome.right)),
                    ("tokens_a_pass", number(outcome.per_pass)),
                    ("rounds", integer(outcome.rounds as u64)),
                ],
            };
            object(fields.into_iter().chain(rest))
        });
        let ceiling = object([
            ("read_gb_s", number(self.read_gb_s)),
            ("read_pattern", self.pattern.json()),
            ("one_thread_gb_s", number(self.one_thread.gb_s)),
            ("one_thread_pattern", self.one_thread.pattern.json()),
            ("gflop_s", self.peaks_of(host.isa)),
            ("gflop_s_by_isa", object(self.isa_names().into_iter().map(|isa| (isa, self.peaks_of(isa))))),
        ]);
        let startup = object([
            ("open", phase(&start.open)),
            ("load", string(start.load)),
            ("page_in", phase(&start.page_in)),
            ("page_in_bytes", integer(start.populated.bytes as u64)),
            ("page_in_complete", start.populated.complete.to_string()),
            ("first_token", phase(&start.first_token)),
            ("huge_mapped_bytes", integer(start.huge_mapped_bytes)),
            ("mapped_bytes", integer(start.mapped_bytes)),
        ]);
        let all = object([
            ("model", model.json()),
            ("ceiling", ceiling),
            ("decode", array(decode)),
            ("prefill", array(prefill)),
            ("scoring", array(scoring)),
            ("guessing", array(guessing)),
            ("startup", startup),
            ("memory", object([("anonymous_bytes", integer(self.anonymous_bytes))])),
            ("host", host.json()),
        ]);
        all + "\n"
    }

    fn isa_names(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.peaks.iter().map(|peak| peak.isa).collect();
        names.dedup();
        names
    }

    /// The peaks of one instruction set by type.
    fn peaks_of(&self, isa: &str) -> String {
        let peaks = self.peaks.iter().filter(|peak| peak.isa == isa);
        object(peaks.map(|peak| (peak.dtype.name(), number(peak.gflop_s))))
    }
}

/// Share and rounds, for a line of the table.
pub fn share(measured: &Measured) -> String {
    let share = measured.share.map_or_else(|| String::from("     -"), |share| format!("{:5.1} %", share * 100.0));
    let dropped = match measured.dropped {
        0 => String::new(),
        dropped => format!(" ({dropped} dropped)"),
    };
    format!("{share:>8}  {:6}{dropped}", measured.kept)
}

/// What every measurement in rounds has.
pub fn rounds(measured: &Measured) -> [(&'static str, String); 6] {
    [
        ("share", number(measured.share)),
        ("ceiling", number(measured.ceiling)),
        ("ms", number(measured.seconds * 1e3)),
        ("rounds", integer(measured.kept as u64)),
        ("dropped", integer(measured.dropped as u64)),
        ("noisy", measured.is_noisy().to_string()),
    ]
}
