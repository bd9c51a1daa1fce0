//! Sequences that share forward passes yield the bits that each yields alone.

use crate::PACK;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::activations::LOGITS_CHUNK;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::matmul::Activations;
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_tests::{Random, Stored, TempDir, run, small_configs, write_weights};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

const POSITIONS: usize = 256;

/// A model of each family, in each type.
fn models(folder: &TempDir) -> Vec<PathBuf> {
    let mut models = Vec::new();
    for (name, mut config) in small_configs() {
        config.max_position_embeddings = POSITIONS;
        let weights = folder.join(name);
        write_weights(&weights, &config, Stored::F32, 21);
        for dtype in ["f32", "bf16", "int8", "int4"] {
            let model = folder.join(format!("{name}-{dtype}.olmo"));
            run(PACK, [weights.as_os_str(), model.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
            models.push(model);
        }
    }
    models
}

/// What a program takes by itself where there are kernels.
fn best() -> Backend {
    Backend { gemm: false, ..Backend::best() }
}

fn options(backend: Backend, activations: Activations, kv: KvType, chunk: usize) -> Options {
    Options { positions: POSITIONS, chunk, backend, activations, kv, speculate: Speculate::OFF }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// All logits of a sequence by itself, a row for each position.
fn alone(network: &Arc<Network>, team: &mut Team, options: Options, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut batch = Batch::of_one(network, options).expect("it fits");
    let mut rows = Vec::new();
    for chunk in tokens.chunks(options.chunk.min(LOGITS_CHUNK)) {
        batch.forward(team, [(0, chunk)]).expect("good tokens");
        let logits = batch.logits(team, 0..chunk.len()).expect("finite");
        rows.extend(logits.chunks_exact(logits.len() / chunk.len()).map(bits));
    }
    rows
}

/// Evaluates the sequences in passes of random pieces, at most `places` of them at a time, and compares every row.
fn compare(
    batch: &mut Batch,
    team: &mut Team,
    random: &mut Random,
    sequences: &[(Vec<u32>, Vec<Vec<u32>>)],
    what: &str,
) {
    let mut waiting = 0..sequences.len();
    let mut places: Vec<Option<usize>> = vec![None; batch.n_slots()];
    loop {
        for (place, sequence) in places.iter_mut().enumerate() {
            if sequence.is_none_or(|sequence| batch.position(place) == sequences[sequence].0.len()) {
                *sequence = waiting.next();
                if let Some(sequence) = *sequence {
                    // Room for all, or for just this one: memory is used again or replaced.
                    let positions = [POSITIONS, sequences[sequence].0.len()][random.below(2)];
                    batch.begin(place, positions).expect("it fits");
                }
            }
        }
        if places.iter().all(Option::is_none) {
            return;
        }
        let mut room = batch.options().chunk.min(LOGITS_CHUNK);
        let mut parts = Vec::new();
        // From any place on, and some sequences miss a pass.
        let first = random.below(places.len());
        for place in (first..places.len()).chain(0..first) {
            let Some(sequence) = places[place] else { continue };
            let left = &sequences[sequence].0[batch.position(place)..];
            if room == 0 || (!parts.is_empty() && random.below(4) == 0) {
                continue;
            }
            let most = [1, 1, 5, 64][random.below(4)];
            let taken = 1 + random.below(left.len().min(room).min(most));
            parts.push((place, &left[..taken]));
            room -= taken;
        }
        batch.forward(team, parts).expect("good tokens");
        // Backwards: any rows in any order.
        let rows = batch.rows().to_vec();
        let logits = batch.logits(team, (0..rows.len()).rev()).expect("finite");
        for (row, logits) in rows.iter().rev().zip(logits.chunks_exact(logits.len() / rows.len())) {
            let sequence = places[row.sequence].expect("live");
            assert_eq!(row.token, sequences[sequence].0[row.position]);
            assert!(bits(logits) == sequences[sequence].1[row.position], "{what}, sequence {sequence}, {row:?}");
        }
    }
}

#[test]
fn batched_sequences_yield_the_bits_of_single_ones() {
    let folder = TempDir::new("batch-bits");
    let mut random = Random(8);
    for path in models(&folder) {
        let file = ModelFile::open(&path).expect("a good file");
        let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
        for (activations, kv) in
            [(Activations::Auto, KvType::F32), (Activations::Auto, KvType::Bf16), (Activations::F32, KvType::F32)]
        {
            let scalar = Isa::named("scalar").expect("always there");
            let sequences: Vec<(Vec<u32>, Vec<Vec<u32>>)> = [1, 130, 3, 70, 64]
                .map(|length| {
                    let tokens: Vec<u32> = (0..length).map(|_| random.below(101) as u32).collect();
                    let expected = with_team(1, |team| {
                        alone(&network, team, options(Backend::of(scalar), activations, kv, 48), &tokens)
                    })
                    .expect("runs");
                    (tokens, expected)
                })
                .into();
            for backend in
                Isa::available().iter().filter(|isa| isa.has_products()).map(|&isa| Backend::of(isa)).chain([best()])
            {
                for (threads, places, chunk) in [(1, 3, 48), (2, 7, 20), (3, 2, 512), (2, 4, 1)] {
                    let what = format!(
                        "{path:?} {activations:?} {kv:?} {backend:?} {threads} threads, {places} places, {chunk}"
                    );
                    with_team(threads, |team| {
                        let options = options(backend, activations, kv, chunk);
                        let mut batch = Batch::new(&network, options, places).expect("it fits");
                        compare(&mut batch, team, &mut random, &sequences, &what);
                    })
                    .expect("runs");
                }
            }
        }
    }
}

/// What a visit saw: position, token, the bits of the logits, whether it was the last.
type Visit = (usize, u32, Vec<u32>, bool);

fn visits(network: &Arc<Network>, threads: usize, places: usize, chunk: usize, runs: &[Run]) -> Vec<Vec<Visit>> {
    let mut seen = vec![Vec::new(); runs.len()];
    with_team(threads, |team| {
        let options = options(best(), Activations::Auto, KvType::F32, chunk);
        let mut batch = Batch::new(network, options, places).expect("it fits");
        let timing = generate(&mut batch, team, runs, |evaluated| {
            let logits = bits(evaluated.logits);
            seen[evaluated.run].push((evaluated.position, evaluated.token, logits, evaluated.is_last));
            // One of them ends early, while the others continue.
            let ends = evaluated.run == 2 && evaluated.position == 30;
            Ok::<_, Error>(if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        let timing = timing.expect("good runs");
        assert!(timing.decode_passes <= timing.decode_tokens);
    })
    .expect("runs");
    seen
}

#[test]
fn greedy_runs_do_not_depend_on_batch_size() {
    let folder = TempDir::new("batch-greedy");
    let mut random = Random(9);
    let prompts =
        [4, 100, 25, 1, 90, 7].map(|length| -> Vec<u32> { (0..length).map(|_| random.below(101) as u32).collect() });
    for path in models(&folder) {
        let file = ModelFile::open(&path).expect("a good file");
        let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
        let run = |(prompt, (positions, visit_prompt))| Run { top: 3, visit_prompt, ..Run::new(prompt, positions) };
        let asked = [(40, true), (130, false), (50, false), (20, true), (60, true), (7, false)];
        let runs: Vec<Run> = prompts.iter().map(Vec::as_slice).zip(asked).map(run).collect();
        // Run 2 breaks by its position, so alone it has to be run 2 as well: one place, one after the other.
        let expected = visits(&network, 1, 1, 512, &runs);
        let ends: Vec<_> = expected.iter().map(|seen| (seen.len(), seen[0].0, seen.last().expect("some").0)).collect();
        assert_eq!(ends, [(40, 0, 39), (31, 99, 129), (7, 24, 30), (20, 0, 19), (60, 0, 59), (1, 6, 6)]);
        assert!(expected.iter().enumerate().all(|(run, seen)| seen.last().expect("some").3 == (run != 2)));
        for (threads, places, chunk) in [(2, 2, 512), (1, 3, 16), (2, 6, 512), (3, 6, 1), (2, 16, 64)] {
            let found = visits(&network, threads, places, chunk, &runs);
            assert!(found == expected, "{path:?} {threads} threads, {places} places, chunk {chunk}");
        }
    }
}

#[test]
fn refused_pass_leaves_sequences_unchanged() {
    let folder = TempDir::new("batch-refused");
    let path = &models(&folder)[0];
    let file = ModelFile::open(path).expect("a good file");
    let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
    with_team(2, |team| {
        let options = options(best(), Activations::Auto, KvType::F32, 8);
        let tokens = [5, 6, 7, 8];
        let expected = alone(&network, team, options, &tokens);
        let mut batch = Batch::new(&network, options, 2).expect("it fits");
        batch.begin(0, 4).expect("it fits");
        batch.forward(team, [(0, &tokens[..2])]).expect("good tokens");
        for (parts, problem) in [
            (vec![(0, &tokens[2..3]), (1, &tokens[..1])], "expected 1 to 0"),
            (vec![(0, &tokens[2..3]), (2, &tokens[..1])], "slot 2 of a batch of 2"),
            (vec![(0, &tokens[2..4]), (0, &tokens[..1])], "expected 1 to 0"),
            (vec![(0, &tokens[2..3]), (0, &[101])], "token 101, the vocabulary has ids 0 to 100"),
            (vec![(0, &[])], "0 tokens in one forward pass"),
            (vec![], "no tokens to evaluate"),
        ] {
            let error = batch.forward(team, parts).expect_err("must be refused").to_string();
            assert!(error.contains(problem), "{error}");
            assert_eq!((batch.position(0), batch.rows().len()), (2, 0), "{problem}");
        }
        assert!(batch.begin(1, POSITIONS + 1).expect_err("must be refused").to_string().contains("at most 256"));
        // Two parts of one sequence are one longer part.
        batch.forward(team, [(0, &tokens[2..3]), (0, &tokens[3..])]).expect("good tokens");
        let logits = batch.logits(team, [1]).expect("finite");
        assert_eq!(bits(logits), expected[3]);
    })
    .expect("runs");
}
