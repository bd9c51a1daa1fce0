//! Sequences that continue another one share its keys and values, and have the bits of sequences by themselves.

use olmo_infer::KvType;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_tests::{
    Random, Stored, TempDir, run, small_config, small_hybrid, small_olmo1, small_olmo3, small_olmoe, write_weights,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const SLOTS: usize = 7;
const POSITIONS: usize = 400;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The logits after a sequence that is evaluated by itself.
fn alone(network: &Arc<Network>, team: &mut Team, options: Options, tokens: &[u32]) -> Vec<u32> {
    let mut batch = Batch::of_one(network, options).expect("memory");
    for chunk in tokens.chunks(options.chunk) {
        batch.forward(team, [(0, chunk)]).expect("good tokens");
    }
    let last = batch.rows().len() - 1;
    bits(batch.logits(team, [last]).expect("finite"))
}

/// What a test knows of a slot.
#[derive(Clone, Default)]
struct Slot {
    tokens: Vec<u32>,
    stem: Option<usize>,
}

fn has_branches(slots: &[Slot], slot: usize) -> bool {
    slots.iter().any(|other| other.stem == Some(slot))
}

/// Begins, continues, forks and ends sequences at random, several in a pass.
fn grow(network: &Arc<Network>, options: Options, random: &mut Random, n_threads: usize) -> usize {
    let vocab_size = network.config().vocab_size;
    let mut batch = Batch::new(network, options, SLOTS).expect("memory");
    let mut slots = vec![Slot::default(); SLOTS];
    let mut n_forks = 0;
    (0..SLOTS).for_each(|slot| batch.begin(slot, POSITIONS).expect("memory"));
    let grow_all = |team: &mut Team| {
        for _ in 0..60 {
            let (stem, branch) = (random.below(SLOTS), random.below(SLOTS));
            if stem != branch && !slots[stem].tokens.is_empty() && !has_branches(&slots, branch) {
                // Often at its end, often where a block of 64 begins.
                let length = slots[stem].tokens.len();
                let n = [length, random.below(length + 1), length / 64 * 64][random.below(3)];
                // The slot of a branch, whose stem this may be, is forgotten in any case.
                if slots[stem].stem != Some(branch) && batch.fork(stem, n, branch, POSITIONS).expect("memory") {
                    slots[branch] = Slot { tokens: slots[stem].tokens[..n].to_vec(), stem: Some(stem) };
                    n_forks += 1;
                }
            }
            if random.below(4) == 0 && !has_branches(&slots, branch) {
                batch.begin(branch, POSITIONS).expect("memory");
                slots[branch] = Slot::default();
            }
            let mut room = options.chunk;
            let mut parts: Vec<(usize, Vec<u32>)> = Vec::new();
            for slot in 0..SLOTS {
                let left = room.min(POSITIONS - slots[slot].tokens.len());
                if left == 0 || has_branches(&slots, slot) || random.below(2) == 0 {
                    continue;
                }
                let n = 1 + random.below(left.min(40));
                parts.push((slot, (0..n).map(|_| random.below(vocab_size) as u32).collect()));
                room -= n;
            }
            if parts.is_empty() {
                continue;
            }
            batch.forward(team, parts.iter().map(|(slot, tokens)| (*slot, &tokens[..]))).expect("good tokens");
            let mut row = 0;
            for (slot, tokens) in &parts {
                row += tokens.len();
                slots[*slot].tokens.extend(tokens);
                assert_eq!(batch.position(*slot), slots[*slot].tokens.len());
                let found = bits(batch.logits(team, [row - 1]).expect("finite"));
                let expected = alone(network, team, options, &slots[*slot].tokens);
                assert!(found == expected, "slot {slot} at {}", slots[*slot].tokens.len());
            }
        }
    };
    with_team(n_threads, grow_all).expect("threads");
    n_forks
}

#[test]
fn branches_have_the_bits_of_sequences_by_themselves() {
    let folder = TempDir::new("branches");
    let mut windows = small_olmo3();
    windows.sliding_window = 70;
    let mut narrow = small_olmo3();
    narrow.sliding_window = 5;
    let mut random = Random(3);
    let configs = [small_config(), small_olmo1(), windows, narrow, small_olmoe(), small_hybrid()];
    for (index, mut config) in configs.into_iter().enumerate() {
        config.max_position_embeddings = 512;
        let weights = folder.join(format!("w{index}"));
        write_weights(&weights, &config, Stored::F32, 7);
        let model = folder.join("m.olmo");
        run(crate::PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]).ok();
        let network = Arc::new(Network::new(Arc::new(ModelFile::open(&model).expect("a model"))).expect("memory"));
        for (n_threads, chunk, kv) in [(1, 100, KvType::F32), (2, 33, KvType::Bf16)] {
            let options = Options { chunk, kv, ..Options::new(POSITIONS) };
            let n_forks = grow(&network, options, &mut random, n_threads);
            assert!(n_forks > 10, "{n_forks}");
        }
    }
}

#[test]
fn stems_stay_as_they_are() {
    let folder = TempDir::new("branches-stems");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 7);
    run(crate::PACK, [&weights, &model]).ok();
    let network = Arc::new(Network::new(Arc::new(ModelFile::open(&model).expect("a model"))).expect("memory"));
    let mut batch = Batch::new(&network, Options::new(60), 3).expect("memory");
    with_team(1, |team| {
        batch.begin(0, 60).expect("memory");
        batch.forward(team, [(0, &[1, 2, 3][..])]).expect("good tokens");
        assert!(batch.fork(0, 2, 1, 60).expect("memory") && batch.fork(1, 2, 2, 30).expect("memory"));
        let mut panics =
            |call: &mut dyn FnMut(&mut Batch)| catch_unwind(AssertUnwindSafe(|| call(&mut batch))).is_err();
        assert!(panics(&mut |batch| drop(batch.begin(0, 5))));
        assert!(panics(&mut |batch| assert_eq!(batch.truncate(0, 1), 1)));
        assert!(panics(&mut |batch| batch.restart(1)));
        assert!(panics(&mut |batch| drop(batch.fork(2, 1, 0, 60))));
        assert!(panics(&mut |batch| drop(batch.forward(team, [(0, &[1][..])]))));
        assert!(panics(&mut |batch| drop(batch.fork(0, 4, 2, 60))), "positions that it does not have");
        batch.release(2);
        batch.forward(team, [(1, &[1][..])]).expect("it has no branches any more");
        batch.release(1);
        batch.forward(team, [(0, &[1][..])]).expect("nor has it");
        assert_eq!((batch.position(0), batch.position(1)), (4, 0));
    })
    .expect("a thread");
}
