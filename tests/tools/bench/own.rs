//! olmo-pack and olmo-infer by themselves: packing, starts, decode, prefill, several sequences.

use crate::cold;
use crate::kind::Kind;
use crate::machine;
use crate::ours::Ours;
use crate::results::{Crowded, OfKind, Own, Packed, Results};
use crate::sequences;
use crate::work::{self, Work};
use olmo_infer::internals::file::model_file::ModelFile;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Whole runs whose median counts.
const RUNS: usize = 5;
/// Runs of the baseline, each of them many seconds.
const BASELINE_RUNS: usize = 2;
/// Times that the folder is copied and packed by turns.
const PACKINGS: usize = 3;
/// Rounds of decode with as many threads as cores, and with more; and the same next to a busy loop.
const CROWDED_ROUNDS: usize = 9;
/// Context and tokens of such a round.
const CROWDED_CONTEXT: usize = 16;
const CROWDED_TOKENS: usize = 8;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A first impression.
    Quick,
    /// The runs of `make bench`.
    Usual,
    /// All contexts and lengths of olmo-bench too.
    Full,
}

impl Effort {
    /// The usual number of runs, or one.
    fn runs(self, usual: usize) -> usize {
        if self == Effort::Quick { 1 } else { usual }
    }
}

/// Measures all kinds. Each result replaces that of an earlier run in `results` and in `folder` at once; each model
/// file is removed before the next is made.
pub fn measure(
    work: &Work,
    kinds: &[Kind],
    effort: Effort,
    results: &mut Results,
    folder: &Path,
) -> Result<(), String> {
    let mut keep = |own: &Own| {
        results.own = Some(own.clone());
        results.write(folder)
    };
    let mut own = Own { version: machine::version(), copies: Vec::new(), kinds: Vec::new(), baseline: Vec::new() };
    for kind in kinds {
        // A copy has the bytes of the f32 file, so only that one is compared with it; the baseline reads f32 alone.
        let is_f32 = kind.dtype == "f32" && work.model.dtype == "f32";
        let times = if is_f32 { effort.runs(PACKINGS) } else { 1 };
        let packed = work.pack(kind, times, is_f32.then_some(&mut own.copies))?;
        own.kinds.push(of_kind(work, kind, effort, packed)?);
        keep(&own)?;
        work::remove(&work.model_file(kind))?;
        if is_f32 {
            for number in 1..=effort.runs(BASELINE_RUNS) {
                eprintln!("bench: baseline, {number} of {}", effort.runs(BASELINE_RUNS));
                own.baseline.push(work.programs.baseline(&work.weights, &work.four_score)?);
                keep(&own)?;
            }
        }
    }
    Ok(())
}

/// Everything about one model file.
fn of_kind(work: &Work, kind: &Kind, effort: Effort, packed: Vec<Packed>) -> Result<OfKind, String> {
    let (model, programs) = (work.model_file(kind), &work.programs);
    let say = |what: &str| eprintln!("bench: {}: {what}", kind.label);
    say("olmo-bench");
    let options: &[&str] = match effort {
        Effort::Quick => &["--quick"],
        Effort::Usual => &["--prefill", "2,4,8,16,32,128,512"],
        Effort::Full => &[],
    };
    let bench = programs.olmo_bench(&model, options)?;
    say("olmo-infer, warm");
    let times = |tokens: &Path, steps: usize| -> Result<Vec<f64>, String> {
        (0..effort.runs(RUNS)).map(|_| programs.olmo_infer(&model, &[tokens], steps)).collect()
    };
    let one_token = times(&work.one_token, 1)?;
    let four_score = times(&work.four_score, 20)?;
    say("olmo-pack verify, warm");
    let verify = (0..effort.runs(RUNS)).map(|_| programs.verify_on_one_processor(&model)).collect::<Result<_, _>>()?;
    say("more threads than cores");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let crowded = crowded(&model, [cores, 2 * cores], effort.runs(CROWDED_ROUNDS))?;
    say("next to a busy loop");
    let busy = match cores {
        1 => None,
        _ => Some(next_to_busy_loop(|| self::crowded(&model, [cores - 1, cores], effort.runs(CROWDED_ROUNDS)))?),
    };
    say("several sequences");
    let sequences = sequences::measure(programs, &model, &work.four_score, effort == Effort::Quick)?;
    // Last: it leaves the pages of the file as the disk gave them.
    say("olmo-infer, cold");
    let run = || programs.olmo_infer(&model, &[&work.one_token], 1);
    let cold = (0..effort.runs(RUNS)).map(|_| cold::round(&model, run)).collect::<Result<_, _>>()?;
    Ok(OfKind {
        kind: kind.name.to_string(),
        packed,
        bench,
        one_token,
        four_score,
        verify,
        crowded,
        busy,
        sequences,
        cold,
    })
}

/// Decode with two numbers of threads, by turns.
fn crowded(path: &Path, [cores, threads]: [usize; 2], rounds: usize) -> Result<Crowded, String> {
    let file = ModelFile::open(path).map_err(|error| error.to_string())?;
    let mut ours = Ours::new(file, CROWDED_CONTEXT + CROWDED_TOKENS)?;
    let mut crowded = Crowded { cores, threads, with_cores: Vec::new(), with_threads: Vec::new() };
    ours.decode(cores, CROWDED_CONTEXT, 1)?;
    for _ in 0..rounds {
        crowded.with_cores.push(ours.decode(cores, CROWDED_CONTEXT, CROWDED_TOKENS)?);
        crowded.with_threads.push(ours.decode(threads, CROWDED_CONTEXT, CROWDED_TOKENS)?);
    }
    Ok(crowded)
}

/// Runs `measure` while another thread always has something to do, as another program may.
fn next_to_busy_loop<R>(measure: impl FnOnce() -> R) -> R {
    /// Ends the loop even where the measurement panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let _end = End(&ends);
        measure()
    })
}
