//! Our models and other programs, measured by turns, so that noise affects all of them. One type at a time, and its
//! files are removed before the next; while one program computes, the others wait for a request.

use crate::kind::Kind;
use crate::machine;
use crate::numbers::median;
use crate::ours::Ours;
use crate::peer::{PROGRAMS, Peer, Program, Python};
use crate::results::{self, Comparison, Contest, Results};
use crate::summary::{CONTEXT, PROMPTS};
use crate::work::{self, Work};
use olmo_infer::internals::file::model_file::ModelFile;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Rounds of decode, of prompts of each length, and of fresh processes.
const DECODE_ROUNDS: usize = 15;
const PREFILL_ROUNDS: usize = 7;
const FIRST_TOKEN_ROUNDS: usize = 5;
/// Tokens of a round of decode.
const TOKENS: usize = 8;
/// After its answer a program's threads may spin a little before they sleep.
const SETTLE: Duration = Duration::from_millis(50);
/// Logits further from ours than this are those of another model. Two models of 4 bits have large errors, and each has
/// its own: those of other weights are 1.4 apart.
const SAME_MODEL: f64 = 0.1;
const SAME_INT4_MODEL: f64 = 0.8;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Rounds {
    /// At most this number of rounds of everything.
    pub at_most: usize,
    /// Threads of every program.
    pub threads: usize,
}

impl Rounds {
    fn of(self, usual: usize) -> usize {
        usual.min(self.at_most)
    }
}

/// Our model files of one type, mapped, in the order of their kinds.
type Mapped = Vec<(Kind, PathBuf, Ours)>;

/// Compares all types of `kinds`, and puts every comparison into `results` and into `folder` as soon as it is made.
pub fn measure(
    work: &Work,
    kinds: &[Kind],
    rounds: Rounds,
    python: &Python,
    results: &mut Results,
    folder: &Path,
) -> Result<(), String> {
    let mut types: Vec<&str> = kinds.iter().map(|kind| kind.dtype).collect();
    types.dedup();
    for dtype in types {
        let kinds: Vec<Kind> = kinds.iter().filter(|kind| kind.dtype == dtype).copied().collect();
        for kind in &kinds {
            work.pack(kind, 1, None)?;
        }
        for program in &PROGRAMS {
            let Some(theirs) = program.type_of(dtype) else { continue };
            eprintln!("bench: converting {theirs} for {}", program.name);
            let model = program.model(&work.folder, dtype);
            work.will_make(&model);
            python.convert(program, &work.weights, &model, theirs)?;
            results.put(compare(work, &kinds, rounds, python, program, &model)?);
            results.write(folder)?;
            work::remove(&model)?;
        }
        for kind in &kinds {
            work::remove(&work.model_file(kind))?;
        }
    }
    Ok(())
}

/// Compares one program with our model files of one type.
fn compare(
    work: &Work,
    kinds: &[Kind],
    rounds: Rounds,
    python: &Python,
    program: &Program,
    theirs: &Path,
) -> Result<Comparison, String> {
    let dtype = kinds[0].dtype;
    let say = |what: &str| eprintln!("bench: {dtype}, {}: {what}", program.name);
    let paths: Vec<PathBuf> = kinds.iter().map(|kind| work.model_file(kind)).collect();
    say("first token");
    let first_token = first_token(work, kinds, rounds, python, program, theirs)?;
    let mut ours: Mapped = Vec::new();
    for (kind, path) in kinds.iter().zip(paths) {
        let file = ModelFile::open(&path).map_err(|error| error.to_string())?;
        ours.push((*kind, path, Ours::new(file, PROMPTS[PROMPTS.len() - 1])?));
    }
    say("starting");
    // It stays after an error, which names it.
    let log = work.folder.join(format!("peer-{dtype}.log"));
    let mut peer = python.start(program, theirs, rounds.threads, &log)?;
    let logits_differ = check_same_model(&mut peer, &mut ours, &work.prompt(), rounds)?;
    let mut contests = vec![first_token];
    say("decode");
    let request = format!("decode {CONTEXT} {TOKENS}");
    let decode = |ours: &mut Ours| ours.decode(rounds.threads, CONTEXT, TOKENS);
    let empty = contest("decode", CONTEXT, TOKENS, kinds);
    contests.push(by_turns(&mut peer, &mut ours, rounds.of(DECODE_ROUNDS), &request, decode, empty)?);
    for prompt in PROMPTS {
        say(&format!("prefill of {prompt}"));
        let request = format!("prefill {prompt}");
        let prefill = |ours: &mut Ours| ours.prefill(rounds.threads, prompt);
        let empty = contest("prefill", prompt, prompt, kinds);
        contests.push(by_turns(&mut peer, &mut ours, rounds.of(PREFILL_ROUNDS), &request, prefill, empty)?);
    }
    let facts = peer.facts.clone();
    drop(peer);
    work::remove(&log)?;
    Ok(Comparison {
        version: machine::version(),
        threads: rounds.threads,
        dtype: dtype.to_string(),
        peer: facts,
        logits_differ,
        contests,
    })
}

/// A contest without runs.
fn contest(what: &str, size: usize, tokens: usize, kinds: &[Kind]) -> Contest {
    let ours = |kind: &Kind| results::Ours { kind: kind.name.to_string(), seconds: Vec::new(), huge_share: None };
    let ours = kinds.iter().map(ours).collect();
    Contest { what: what.to_string(), size, tokens, theirs: Vec::new(), ours }
}

/// Timed rounds: our first model, the other program, our second model if there is one. A warm-up round is not timed.
fn by_turns(
    peer: &mut Peer,
    ours: &mut Mapped,
    rounds: usize,
    request: &str,
    run: impl Fn(&mut Ours) -> Result<f64, String>,
    mut contest: Contest,
) -> Result<Contest, String> {
    for round in 0..=rounds {
        for (index, (_, _, mapped)) in ours.iter_mut().enumerate() {
            let huge = mapped.huge_share();
            let seconds = run(mapped)?;
            // The peer sits between our first kind and our second.
            let theirs = if index == 0 { Some(peer.seconds(request)?) } else { None };
            if theirs.is_some() {
                sleep(SETTLE);
            }
            if round > 0 {
                let own = &mut contest.ours[index];
                own.seconds.push(seconds);
                own.huge_share = Some(own.huge_share.map_or(huge, |least| least.min(huge)));
                contest.theirs.extend(theirs);
            }
        }
    }
    Ok(contest)
}

/// Fresh processes by turns: ours whole, theirs from the end of their imports on.
fn first_token(
    work: &Work,
    kinds: &[Kind],
    rounds: Rounds,
    python: &Python,
    program: &Program,
    theirs: &Path,
) -> Result<Contest, String> {
    let mut contest = contest("first token", 1, 1, kinds);
    for round in 0..=rounds.of(FIRST_TOKEN_ROUNDS) {
        for (index, kind) in kinds.iter().enumerate() {
            let seconds = work.programs.olmo_infer(&work.model_file(kind), &[&work.one_token], 1)?;
            // The first round brings everything into memory.
            if round > 0 {
                contest.ours[index].seconds.push(seconds);
            }
        }
        let seconds = python.first_token(program, theirs, rounds.threads)?;
        if round > 0 {
            contest.theirs.push(seconds);
        }
    }
    Ok(contest)
}

/// How far its logits are from ours, or that it runs another model.
fn check_same_model(peer: &mut Peer, ours: &mut Mapped, prompt: &[u32], rounds: Rounds) -> Result<f64, String> {
    let theirs = peer.logits(prompt)?;
    let mut distances = Vec::new();
    for (kind, path, mapped) in ours {
        let logits = mapped.logits(rounds.threads, prompt)?;
        let distance = distance(&logits, &theirs);
        let most = if kind.dtype == "int4" { SAME_INT4_MODEL } else { SAME_MODEL };
        if distance.is_nan() || distance > most {
            let path = path.display();
            return Err(format!("{path}: its logits are not those of {}: {distance:.3} apart", peer.facts["name"]));
        }
        eprintln!("bench: {}: logits {distance:.1e} apart", kind.label);
        distances.push(distance);
    }
    Ok(median(distances))
}

/// Root mean square of the differences, relative to that of `ours`; NaN when the lengths differ.
fn distance(ours: &[f32], theirs: &[f64]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::NAN;
    }
    let square = |x: f64| x * x;
    let differences: f64 = ours.iter().zip(theirs).map(|(&a, &b)| square(f64::from(a) - b)).sum();
    (differences / ours.iter().map(|&a| square(a.into())).sum::<f64>()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn permuted_logits_are_far_apart() {
        assert_eq!(distance(&[1.0, -2.0], &[1.0, -2.0]), 0.0);
        assert!(distance(&[1.0, -2.0], &[-2.0, 1.0]) > 1.0);
        assert!(distance(&[1.0], &[1.0, 1.0]).is_nan());
    }
}
