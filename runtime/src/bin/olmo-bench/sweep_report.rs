//! The result of a sweep, as a table for people and as one JSON object for programs.

use crate::ceiling::Pattern;
use crate::facts::ModelFacts;
use crate::host::Host;
use crate::json::{array, integer, number, object, string};
use crate::prefill::{Outcome, Prefill};
use crate::report::{rounds, share};
use crate::sweep::{Path, Sweep, Variant};
use crate::ways;
use olmo_infer::internals::kernels::streaming::Streaming;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Everything that was measured.
pub struct SweepReport {
    /// The machine.
    pub host: Host,
    /// The model.
    pub model: ModelFacts,
    /// Read ceiling of all threads when it was tuned, 1e9 bytes a second.
    pub read_gb_s: f64,
    /// The way of reading that reached it.
    pub pattern: Pattern,
    /// What was measured.
    pub sweep: Sweep,
}

impl SweepReport {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text).expect("writing to a string succeeds");
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let (paths, n) = (&self.sweep.paths, self.sweep.rounds);
        writeln!(out, "{}", self.model.head(&self.host, "every instruction set"))?;
        writeln!(out, "read, all threads   {:8.1} GB/s   {}", self.read_gb_s, self.pattern.text())?;

        writeln!(out, "\ndecode by panels read by turns and bytes fetched ahead of each, in % of the read")?;
        writeln!(out, "ceiling, median of rounds ({n}); * is the best of its path, = what the program takes")?;
        for path in paths {
            write_shares(out, path)?;
        }
        writeln!(out, "\ndecode                                       tok/s     GB/s  ceiling    share")?;
        for path in paths {
            for (name, variant) in [("best", path.best()), ("own", path.own())] {
                let (isa, way) = (path.isa.name(), ways::text(variant.isa.streaming()));
                let Variant { seconds, gb_s, ceiling_gb_s, share, .. } = variant;
                write!(out, "{isa:<12} {name:<4} {way:<24} {:8.2} {gb_s:8.1}", 1.0 / seconds)?;
                writeln!(out, " {ceiling_gb_s:8.1}  {:5.1} %", share * 100.0)?;
            }
        }

        write!(out, "\na pass over  ")?;
        for pass in paths.iter().take(1).flat_map(|path| &path.passes) {
            write!(out, " {:7}", pass.tokens)?;
        }
        writeln!(out, " tokens, in passes over one")?;
        for path in paths {
            write!(out, "{:<13}", path.isa.name())?;
            for pass in &path.passes {
                write!(out, " {:7.2}", pass.vs_one)?;
            }
            writeln!(out)?;
        }

        writeln!(out, "\nprefill         tokens     tok/s  GFLOP/s     peak    share  rounds")?;
        for path in paths {
            let Prefill { tokens, outcome } = &path.prefill;
            write!(out, "{:<14} {tokens:7}", path.isa.name())?;
            match outcome {
                Err(problem) => writeln!(out, "  left out: {problem}")?,
                Ok(Outcome { tok_s, measured, .. }) => {
                    let share = share(measured);
                    writeln!(out, " {tok_s:9.2} {:8.1} {:8.1} {share}", measured.rate, measured.ceiling)?;
                }
            }
        }

        writeln!(out, "\nthe table of `Streaming` for {}", self.host.kind)?;
        if let Some(Streaming { panels, ahead_bytes }) = self.sweep.suggested() {
            writeln!(out, "Streaming {{ panels: {panels}, ahead_bytes: {ahead_bytes} }}")?;
        }
        Ok(())
    }

    /// For programs.
    pub fn json(&self) -> String {
        let paths = &self.sweep.paths;
        let decode = paths.iter().flat_map(|path| path.variants.iter().map(|variant| decode_json(path, variant)));
        let passes = paths.iter().flat_map(|path| path.passes.iter().map(move |pass| (path, pass)));
        let passes = passes.map(|(path, pass)| {
            object([
                ("isa", string(path.isa.name())),
                ("tokens", integer(pass.tokens as u64)),
                ("ms", number(pass.seconds * 1e3)),
                ("vs_one", number(pass.vs_one)),
            ])
        });
        let suggested = self.sweep.suggested().map_or_else(|| String::from("null"), streaming_json);
        let ceiling = object([("read_gb_s", number(self.read_gb_s)), ("read_pattern", self.pattern.json())]);
        let all = object([
            ("model", self.model.json()),
            ("host", self.host.json()),
            ("ceiling", ceiling),
            ("rounds", integer(self.sweep.rounds as u64)),
            ("decode", array(decode)),
            ("passes", array(passes)),
            ("prefill", array(paths.iter().map(prefill_json))),
            ("suggested", suggested),
        ]);
        all + "\n"
    }
}

/// The shares of one path: a line for each number of panels, a column for each number of bytes.
fn write_shares(out: &mut String, path: &Path) -> std::fmt::Result {
    let ways = || path.variants.iter().map(|variant| variant.isa.streaming());
    let columns: BTreeSet<usize> = ways().map(|way| way.ahead_bytes).collect();
    let lines: BTreeSet<usize> = ways().map(|way| way.panels).collect();
    write!(out, "{:<13}", path.isa.name())?;
    for ahead_bytes in &columns {
        write!(out, "{ahead_bytes:9} B")?;
    }
    writeln!(out)?;
    let [best, own] = [path.best(), path.own()].map(|variant| variant.isa.streaming());
    for panels in lines {
        let mut line = format!("{panels:4} panel{:<3}", if panels == 1 { "" } else { "s" });
        for &ahead_bytes in &columns {
            let way = Streaming { panels, ahead_bytes };
            let share = path.of(way).map_or_else(String::new, |variant| format!("{:.1}", variant.share * 100.0));
            let (star, equals) = (if way == best { "*" } else { "" }, if way == own { "=" } else { "" });
            write!(line, "{share:>9}{:<2}", format!("{star}{equals}"))?;
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn decode_json(path: &Path, variant: &Variant) -> String {
    let streaming = variant.isa.streaming();
    object([
        ("isa", string(path.isa.name())),
        ("panels", integer(streaming.panels as u64)),
        ("ahead_bytes", integer(streaming.ahead_bytes as u64)),
        ("tok_s", number(1.0 / variant.seconds)),
        ("gb_s", number(variant.gb_s)),
        ("ceiling", number(variant.ceiling_gb_s)),
        ("share", number(variant.share)),
        ("best", (streaming == path.best().isa.streaming()).to_string()),
        ("own", (streaming == path.isa.streaming()).to_string()),
    ])
}

fn prefill_json(path: &Path) -> String {
    let fields = [("isa", string(path.isa.name())), ("tokens", integer(path.prefill.tokens as u64))];
    let rest = match &path.prefill.outcome {
        Err(problem) => vec![("left_out", string(problem))],
        Ok(outcome) => {
            let own = [("tok_s", number(outcome.tok_s)), ("gflop_s", number(outcome.measured.rate))];
            own.into_iter().chain(rounds(&outcome.measured)).collect()
        }
    };
    object(fields.into_iter().chain(rest))
}

fn streaming_json(Streaming { panels, ahead_bytes }: Streaming) -> String {
    object([("panels", integer(panels as u64)), ("ahead_bytes", integer(ahead_bytes as u64))])
}
