//! Guesses change no token and no logit: right or wrong ones, in batches and sessions, at any end of a text.

use crate::PACK;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::generate::{Evaluated, Run, generate, generate_guessing};
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_infer::{Model, Sampling, Session, Speculate};
use olmo_tests::{
    Random, Stored, TempDir, reference_cases, repository, run, small_config, small_olmo1, small_olmo3, small_olmoe,
    write_weights,
};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

const POSITIONS: usize = 96;
const VOCAB: usize = 101;

/// How tokens are chosen in a base, in turn.
fn samplings(seed: u64) -> [Sampling; 6] {
    let hot = Sampling { temperature: 0.8, seed, ..Sampling::GREEDY };
    [
        Sampling::GREEDY,
        hot,
        Sampling { repetition_penalty: 1.4, ..Sampling::GREEDY },
        Sampling { top_p: 0.9, min_p: 0.01, ..hot },
        Sampling { top_k: Some(7), repetition_penalty: 0.8, ..hot },
        // Texts that repeat themselves, in which a lookup is often right.
        Sampling { repetition_penalty: 0.5, ..Sampling::GREEDY },
    ]
}

/// Models whose windows are overwritten, and of the other block, in an encoding with a draft.
fn model(folder: &TempDir, name: &str, config: ModelConfig, words: &[&str]) -> PathBuf {
    let (weights, path) = (folder.join(name), folder.join(format!("{name}.olmo")));
    write_weights(&weights, &ModelConfig { max_position_embeddings: POSITIONS, ..config }, Stored::F32, 5);
    let paths = [weights.to_str().expect("UTF-8"), path.to_str().expect("UTF-8")];
    run(PACK, paths.into_iter().chain(words.iter().copied())).ok();
    path
}

fn models(folder: &TempDir) -> Vec<PathBuf> {
    let tied = ModelConfig { tie_word_embeddings: true, ..small_config() };
    let windowed = ModelConfig { sliding_window: 5, ..small_olmo3() };
    vec![
        model(folder, "f32", small_config(), &["--draft", "int4"]),
        model(folder, "bf16", windowed, &["--dtype", "bf16", "--encoding", "plain", "--draft", "int4"]),
        model(folder, "bf12", small_olmo1(), &["--dtype", "bf12", "--draft", "int8"]),
        model(folder, "int8", tied, &["--dtype", "int8", "--draft", "int4-16"]),
        model(folder, "int4", small_olmo3(), &["--dtype", "int4"]),
        model(folder, "experts", small_olmoe(), &["--dtype", "bf16", "--draft", "int4"]),
    ]
}

fn network(path: &Path) -> Arc<Network> {
    let file = ModelFile::open(path).expect("a good file");
    Arc::new(Network::new(Arc::new(file)).expect("memory"))
}

/// A text of the model, and the bits of the logits of each position.
struct Base {
    sampling: Sampling,
    prompt: usize,
    tokens: Vec<u32>,
    logits: Vec<Vec<u32>>,
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

fn options(kv: KvType, chunk: usize, speculate: Speculate) -> Options {
    Options { chunk, kv, speculate, ..Options::new(POSITIONS) }
}

fn bases(network: &Arc<Network>, team: &mut Team, kv: KvType, seed: u64, n: usize) -> Vec<Base> {
    let mut random = Random(seed);
    (0..n)
        .map(|i| {
            let sampling = samplings(seed ^ i as u64)[i % 6];
            let mut tokens: Vec<u32> = (0..1 + random.below(20)).map(|_| random.below(VOCAB) as u32).collect();
            let prompt = tokens.clone();
            let run = Run { sampling, visit_prompt: true, ..Run::new(&prompt, POSITIONS) };
            let mut batch = Batch::of_one(network, options(kv, 64, Speculate::OFF)).expect("it fits");
            let mut logits = Vec::new();
            let timing = generate(&mut batch, team, &[run], |evaluated| {
                logits.push(bits(evaluated.logits));
                if evaluated.position + 1 >= prompt.len() {
                    tokens.push(evaluated.next);
                }
                Ok::<_, Error>(ControlFlow::Continue(()))
            });
            assert_eq!(timing.expect("finite").speculated.passes, 0);
            Base { sampling, prompt: prompt.len(), tokens, logits }
        })
        .collect()
}

/// Where the guesses of a case come from.
#[derive(Clone, Copy, Debug)]
enum Guesses {
    Right,
    Wrong,
    /// Right up to the last one.
    LastWrong,
    Random,
    /// From the options.
    Own(Speculate),
}

/// Runs some of the bases together, each up to a random position or to a random break, and compares all that is visited.
/// Returns the numbers of guesses and of right ones.
fn compare(
    network: &Arc<Network>,
    team: &mut Team,
    (kv, random): (KvType, &mut Random),
    bases: &[Base],
    (n, at_once): (usize, usize),
    (guesses, most): (Guesses, usize),
) -> (usize, usize) {
    let chosen: Vec<&Base> = (0..n).map(|_| &bases[random.below(bases.len())]).collect();
    let ends: Vec<usize> = chosen.iter().map(|base| 1 + random.below(POSITIONS - base.prompt)).collect();
    let breaks: Vec<usize> = ends.iter().map(|end| random.below(4 * end)).collect();
    let runs: Vec<Run> = (chosen.iter().zip(&ends))
        .map(|(base, &more)| Run {
            sampling: base.sampling,
            ..Run::new(&base.tokens[..base.prompt], base.prompt + more - 1)
        })
        .collect();
    let speculate = match guesses {
        Guesses::Own(speculate) => Speculate { tokens: (most > 0).then_some(most), ..speculate },
        _ => Speculate::OFF,
    };
    let chunk = [16, 48, 200][random.below(3)];
    let mut batch = Batch::new(network, options(kv, chunk, speculate), at_once).expect("it fits");
    let mut visited: Vec<usize> = runs.iter().map(|run| run.prompt.len() - 1).collect();
    let what = format!("{guesses:?} of {most}, {n} runs, {at_once} at once, {kv:?}, chunk {chunk}");
    let visit = |evaluated: Evaluated<'_>| {
        let (run, position) = (evaluated.run, evaluated.position);
        assert_eq!(position, visited[run], "{what}: the next position of run {run}");
        visited[run] += 1;
        let base = chosen[run];
        assert_eq!(evaluated.token, base.tokens[position], "{what}: run {run}, token {position}");
        assert!(bits(evaluated.logits) == base.logits[position], "{what}: run {run}, logits {position}");
        assert_eq!(evaluated.next, base.tokens[position + 1], "{what}: run {run}, token {position} + 1");
        assert_eq!(evaluated.is_last, position + 1 == runs[run].positions);
        Ok::<_, Error>(if position == base.prompt + breaks[run] {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    let mut n_given = 0;
    let mut made = Random(random.bits());
    // The tokens of a slot identify its run.
    let mut guess = |_slot: usize, tokens: &[u32], room: usize| {
        let k = most.min(room);
        n_given += k;
        let base = chosen.iter().find(|base| base.tokens.starts_with(tokens)).expect("a text of a base");
        (0..k)
            .map(|i| {
                let right = base.tokens.get(tokens.len() + i).copied().unwrap_or(7);
                match guesses {
                    Guesses::Right => right,
                    Guesses::LastWrong if i + 1 < k => right,
                    Guesses::Random if made.below(3) > 0 => right,
                    _ => (right + 1) % VOCAB as u32,
                }
            })
            .collect()
    };
    let timing = match guesses {
        Guesses::Own(_) => generate(&mut batch, team, &runs, visit),
        _ => generate_guessing(&mut batch, team, &runs, &mut guess, visit),
    };
    let speculated = timing.expect("finite").speculated;
    for (run, (base, end)) in chosen.iter().zip(&ends).enumerate() {
        let last = (base.prompt + end - 1).min(base.prompt + breaks[run] + 1);
        assert_eq!(visited[run], last, "{what}: the positions of run {run}");
    }
    assert!(matches!(guesses, Guesses::Own(_)) || speculated.looked_up == n_given, "{what}");
    (speculated.looked_up + speculated.drafted, speculated.looked_up_right + speculated.drafted_right)
}

/// 10,000 random runs, of all models, in batches of 1 to 16.
#[test]
fn guesses_change_no_token_and_no_logit() {
    let folder = TempDir::new("speculation");
    let models = models(&folder);
    thread::scope(|scope| {
        for (seed, path) in (1..).zip(&models) {
            scope.spawn(move || {
                let network = network(path);
                let (mut random, mut runs, mut by_kind) = (Random(seed), 0, [(0, 0); 8]);
                with_team(2, |team| {
                    for kv in [KvType::F32, KvType::Bf16] {
                        let bases = bases(&network, team, kv, seed, 12);
                        for case in 0.. {
                            let kinds = [
                                Guesses::Right,
                                Guesses::Wrong,
                                Guesses::LastWrong,
                                Guesses::Random,
                                Guesses::Own(Speculate::LOOKUP),
                                Guesses::Own(Speculate::DRAFT),
                                Guesses::Own(Speculate::AUTO),
                                Guesses::Own(Speculate::OFF),
                            ];
                            let (kind, most) = (case % 8, 1 + case / 8 % 15);
                            // Every third decides by itself how many.
                            let most = if kind > 3 && case % 3 == 0 { 0 } else { most };
                            let (n, at_once) = (1 + random.below(16), 1 + random.below(16));
                            let how = (kinds[kind], most);
                            let found = compare(&network, team, (kv, &mut random), &bases, (n, at_once), how);
                            by_kind[kind] = (by_kind[kind].0 + found.0, by_kind[kind].1 + found.1);
                            runs += n;
                            if runs >= if kv == KvType::F32 { 1500 } else { 2000 } {
                                break;
                            }
                        }
                    }
                })
                .expect("runs");
                let [right, wrong, last_wrong, mixed, lookup, draft, auto, off] = by_kind;
                assert!(right.0 > 1000 && right.0 - right.1 < right.0 / 4, "{path:?}: {by_kind:?}");
                assert!(wrong.0 > 1000 && wrong.1 == 0 && off.0 == 0, "{path:?}: {by_kind:?}");
                assert!(last_wrong.1 > 0 && mixed.1 > 0 && lookup.1 > 0 && auto.1 > 0, "{path:?}: {by_kind:?}");
                let has_draft = !path.ends_with("int4.olmo");
                assert!(draft.1 <= draft.0 && (draft.1 > 0) == has_draft, "{path:?}: {by_kind:?}");
            });
        }
    });
}

/// Overwrites the drafts of a file, whose digests are not looked at when it is opened.
fn overwrite_drafts(path: &Path, byte: &mut dyn FnMut() -> u8) {
    let file = ModelFile::open(path).expect("a good file");
    let first = file.layout().tensors[file.model_specs().len()].offset as usize;
    let mut bytes = fs::read(path).expect("read");
    bytes[first..].fill_with(byte);
    drop(file);
    fs::write(path, bytes).expect("written");
}

/// Drafts of any bytes: with numbers that are not finite, or that mean nothing.
#[test]
fn drafts_of_any_bytes_change_nothing() {
    let folder = TempDir::new("speculation-bytes");
    let mut random = Random(4);
    for (name, config) in [("full", small_config()), ("windows", ModelConfig { sliding_window: 5, ..small_olmo3() })] {
        let path = model(&folder, name, config, &["--draft", "int4"]);
        let plain = with_team(1, |team| bases(&network(&path), team, KvType::F32, 3, 6)).expect("runs");
        for kind in 0..4 {
            let mut zeros = Random(kind);
            let mut byte = || match kind {
                0 => 0xff,
                1 => 0,
                2 => zeros.bits() as u8,
                // Mostly infinite and huge scales.
                _ => [0x7f, 0x80, 0xff, 0x00][zeros.below(4)],
            };
            overwrite_drafts(&path, &mut byte);
            let network = network(&path);
            with_team(2, |team| {
                for most in 0..6 {
                    let how = (Guesses::Own(Speculate::DRAFT), most);
                    let found = compare(&network, team, (KvType::F32, &mut random), &plain, (6, 3), how);
                    assert!(kind != 0 || found == (0, 0), "a guess without a number: {found:?}");
                }
            })
            .expect("runs");
        }
    }
}

/// The next steps of a session, the same for the same random numbers; adds up what was guessed.
fn steps(
    session: &mut Session,
    random: &mut Random,
    (model, path): (&Model, &Path),
    n: usize,
    guessed: &mut (usize, usize),
) -> Vec<(u32, Vec<u32>)> {
    let speculate = session.options().speculate;
    let mut found = Vec::new();
    for _ in 0..n {
        match random.below(14) {
            0 if session.left() >= 2 => session.prefill(&[3, 1 + random.below(99) as u32]).expect("room"),
            1 => session.truncate(session.position() - random.below(session.position().min(4))),
            2 => {
                let mut other = session.fork().expect("memory");
                let more = other.generate(Sampling::GREEDY).take(5);
                found.extend(more.map(|token| (token.expect("finite"), Vec::new())));
                found.push((0, bits(other.logits())));
                *session = session.fork().expect("memory");
            }
            3 => {
                session.save(path).expect("written");
                *session = model.load_session(path).expect("as it was");
                session.set_speculate(speculate).expect("memory");
            }
            4 if session.left() > 0 => session.decode(random.below(99) as u32).expect("room"),
            5 => {
                let tokens: Vec<u32> = session.tokens().iter().copied().chain([7]).take(POSITIONS).collect();
                let n_same = session.resume(&tokens).expect("room");
                found.push((n_same as u32, bits(session.logits())));
            }
            // Nothing is cut and nothing is evaluated: the logits are still those.
            6 => {
                let tokens = session.tokens().to_vec();
                let resumed = session.resume_while(&tokens, || false).expect("room");
                found.push((resumed.evaluated as u32, bits(session.logits())));
            }
            7 => {
                session.restart();
                session.prefill(&[9, 1 + random.below(99) as u32, 2]).expect("room");
            }
            8 if session.left() >= 3 => {
                let visited = session.prefill_visiting(&[5, 6, 7], |_| ControlFlow::Continue(()));
                assert!(visited.expect("finite"));
            }
            9 => assert!(session.prefill(&[VOCAB as u32]).is_err()),
            10 => {
                // Refused in a run of the same threads.
                let refused = model.generate(&[Run::new(&[1], 1)], Options::new(1), None, |_| {
                    assert!(session.prefill(&[1]).is_err());
                    let mut chooser = session.chooser(Sampling::GREEDY).expect("good values");
                    let _refused_if_it_needs_a_pass = session.generate_next(&mut chooser);
                    Ok::<_, Error>(ControlFlow::Continue(()))
                });
                refused.expect("one position");
            }
            _ => {}
        }
        if session.left() < 2 {
            session.truncate(5);
        }
        if session.logits().is_empty() {
            session.decode(9).expect("room");
        }
        let sampling = samplings(random.bits() % 5)[random.below(6)];
        let mut chooser = session.chooser(sampling).expect("good values");
        for _ in 0..random.below(16) {
            // At an EOS id and in the last position, too.
            let next = session.generate_next(&mut chooser).expect("finite");
            found.push((next.unwrap_or(u32::MAX), bits(session.logits())));
        }
        found.push((session.position() as u32, bits(session.logits())));
        let counts = session.speculated();
        guessed.0 += counts.looked_up + counts.drafted;
        guessed.1 += counts.looked_up_right + counts.drafted_right;
        session.set_speculate(speculate).expect("memory");
    }
    found
}

#[test]
fn sessions_with_guesses_are_those_without() {
    let folder = TempDir::new("speculation-sessions");
    let models = models(&folder);
    thread::scope(|scope| {
        for path in &models {
            scope.spawn(move || {
                let model = Model::open_with(path, olmo_infer::Load::Auto, 2).expect("a good file");
                let saved = path.with_extension("session");
                let ways = [Speculate::AUTO, Speculate::LOOKUP, Speculate::DRAFT];
                let fixed = |most: usize| (1..=most).map(|k| Speculate { tokens: Some(k), ..Speculate::AUTO });
                for (kv, chunk) in [(KvType::F32, 32), (KvType::Bf16, 16), (KvType::F32, 2), (KvType::F32, 1)] {
                    let with = |speculate: Speculate| {
                        let mut session = model.session(options(kv, chunk, speculate)).expect("memory");
                        session.prefill(&[4, 8, 15, 16]).expect("room");
                        let mut guessed = (0, 0);
                        let of_model = (&model, &saved as &Path);
                        (steps(&mut session, &mut Random(6), of_model, 60, &mut guessed), guessed)
                    };
                    let (expected, guessed) = with(Speculate::OFF);
                    assert_eq!(guessed, (0, 0));
                    let mut all = (0, 0);
                    // More than a chunk holds is as if it were less.
                    for speculate in ways.into_iter().chain(fixed(chunk.min(15))) {
                        let (found, guessed) = with(speculate);
                        assert!(found == expected, "{path:?} {speculate:?} {kv:?} chunk {chunk}");
                        all = (all.0 + guessed.0, all.1 + guessed.1);
                    }
                    assert!(chunk == 1 || all.0 > all.1 && all.1 > 0, "{path:?} chunk {chunk}: {all:?}");
                }
            });
        }
    });
}

/// Every reference case and the demo, in every encoding, greedy and sampled.
#[test]
fn reference_cases_are_the_same_with_guesses() {
    let folder = TempDir::new("speculation-cases");
    let demo = (repository().join("demo/weights"), repository().join("demo/prompt.tokens.bin"));
    let cases = reference_cases().into_iter().map(|case| (case.join("weights"), case.join("tokens.bin")));
    let mut all = (0, 0);
    for (weights, prompt) in cases.chain([demo]) {
        let prompt: Vec<u32> = fs::read(&prompt)
            .expect("a prompt")
            .chunks(4)
            .map(|id| u32::from_le_bytes(id.try_into().expect("4")))
            .collect();
        for words in [
            &["--dtype", "f32", "--draft", "int4"][..],
            &["--dtype", "bf16", "--encoding", "plain", "--draft", "int4"],
            &["--dtype", "bf16", "--draft", "int4-16"],
            &["--dtype", "int8", "--draft", "int4"],
            &["--dtype", "int4"],
        ] {
            let path = folder.join("m.olmo");
            let pack = |words: &[&str]| {
                let paths = [weights.as_os_str(), path.as_os_str(), "--force".as_ref()];
                run(PACK, paths.into_iter().chain(words.iter().map(AsRef::as_ref)))
            };
            let packed = pack(words);
            // A state of linear attention cannot be cut back: no drafts for it.
            let drafts = packed.code == Some(0);
            if !drafts {
                assert!(packed.stderr.contains("linear attention"), "{weights:?}: {}", packed.stderr);
                pack(&words[..words.len() - 2]).ok();
            }
            let model = Model::open_with(&path, olmo_infer::Load::Auto, 2).expect("a good file");
            let most = model.config().max_position_embeddings.min(prompt.len() + 40);
            for sampling in [Sampling::GREEDY, Sampling { temperature: 0.8, seed: 3, ..Sampling::GREEDY }] {
                let mut with = |speculate: Speculate| {
                    let mut session = model.session(Options { speculate, ..Options::new(most) }).expect("memory");
                    session.prefill(&prompt).expect("room");
                    let mut chooser = session.chooser(sampling).expect("good values");
                    let mut found = vec![(0, bits(session.logits()))];
                    while let Some(token) = session.generate_next(&mut chooser).expect("finite") {
                        found.push((token, bits(session.logits())));
                    }
                    let counts = session.speculated();
                    all = (all.0 + counts.drafted, all.1 + counts.drafted_right);
                    found
                };
                let expected = with(Speculate::OFF);
                assert!(expected.len() > 1, "{weights:?}: no token");
                for speculate in [Speculate::AUTO, Speculate::LOOKUP, Speculate::DRAFT] {
                    assert!(with(speculate) == expected, "{weights:?} {words:?} {sampling:?} {speculate:?}");
                }
            }
        }
    }
    assert!(all.0 > all.1 && all.1 > 0, "{all:?}");
}

/// Their sums are others for several rows than for one.
#[test]
fn products_by_gemm_make_no_guess() {
    let folder = TempDir::new("speculation-gemm");
    let path = model(&folder, "m", small_config(), &["--draft", "int4"]);
    let model = Model::open(&path).expect("a good file");
    let fixed = Speculate { tokens: Some(3), ..Speculate::AUTO };
    for gemm in [false, true] {
        let plain = options(KvType::F32, 32, fixed);
        let with_gemm = Options { backend: Backend { gemm, ..plain.backend }, ..plain };
        let mut session = model.session(with_gemm).expect("memory");
        session.prefill(&[4, 8]).expect("room");
        assert_eq!(session.generate(Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY }).take(30).count(), 30);
        assert_eq!(session.speculated().passes == 0, gemm);
    }
}

/// Only what the model itself computes can be an error.
#[test]
fn an_error_is_where_it_is_without_guesses() {
    let folder = TempDir::new("speculation-not-finite");
    let sound = network(&model(&folder, "w", small_config(), &[]));
    let plain = with_team(2, |team| bases(&sound, team, KvType::F32, 3, 6)).expect("runs");
    // A token that no text has makes everything after it NaN.
    let bad = (0..VOCAB as u32).find(|id| plain.iter().all(|base| !base.tokens.contains(id))).expect("a rare token");
    let (weights, path) = (folder.join("w"), folder.join("m.olmo"));
    olmo_tests::map_numbers(&weights, "model.embed_tokens.weight", |i, old| {
        if i / small_config().hidden_size == bad as usize { f32::NAN } else { old }
    });
    run(PACK, [weights.as_os_str(), path.as_os_str(), "--allow-nonfinite".as_ref()]).ok();
    let network = network(&path);
    with_team(2, |team| {
        for base in &plain {
            let run = Run { sampling: base.sampling, ..Run::new(&base.tokens[..base.prompt], POSITIONS) };
            let mut batch = Batch::new(&network, options(KvType::F32, 32, Speculate::OFF), 1).expect("it fits");
            let mut at = base.prompt;
            let mut guess = |_: usize, tokens: &[u32], room: usize| {
                let right = base.tokens.get(tokens.len()).copied().unwrap_or(1);
                [right, bad, 3].into_iter().take(room).collect()
            };
            let timing = generate_guessing(&mut batch, team, &[run], &mut guess, |evaluated| {
                assert_eq!(evaluated.next, base.tokens[at]);
                assert!(bits(evaluated.logits) == base.logits[at - 1]);
                at += 1;
                Ok::<_, Error>(ControlFlow::Continue(()))
            });
            assert_eq!((timing.expect("finite").speculated.looked_up > 50, at), (true, POSITIONS + 1));
        }
        // One that the text has is an error, at its position.
        let mut batch = Batch::new(&network, options(KvType::F32, 32, Speculate::LOOKUP), 1).expect("it fits");
        let (good, bad) = ([5, 6], [5, bad]);
        let runs = [Run::new(&good, 9), Run::new(&bad, 9)];
        let error = generate(&mut batch, team, &runs, |_| Ok::<_, Error>(ControlFlow::Continue(())));
        assert!(matches!(error, Err(Error::NotFinite { sequence: 1, position: 1, .. })), "{error:?}");
    })
    .expect("runs");
}
