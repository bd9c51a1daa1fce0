//! Between two tokens nothing is allocated: all buffers of a run are there from its beginning.

use crate::PACK;
use crate::allocator::ALLOCATIONS;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::generate::top_k::top_k_into;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use olmo_tests::{Stored, TempDir, finish, is_own_process, own_process, run, small_olmo3, write_weights};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};

#[test]
fn decode_allocates_nothing() {
    // Other tests allocate at the same time.
    let finished = finish(&mut own_process(module_path!(), "decodes_in_own_process"));
    assert!(finished.ok().contains("1 passed"), "{finished:?}");
}

#[test]
#[ignore = "runs in a process of its own"]
fn decodes_in_own_process() {
    if !is_own_process() {
        return;
    }
    let folder = TempDir::new("allocations");
    let weights = folder.join("w");
    write_weights(&weights, &small_olmo3(), Stored::F32, 2);
    for (dtype, kv) in [("f32", KvType::F32), ("bf16", KvType::F32), ("bf16", KvType::Bf16)] {
        let path = folder.join(format!("{dtype}-{kv:?}"));
        run(PACK, [weights.as_os_str(), path.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
        let file = ModelFile::open(&path).expect("a good file");
        let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
        with_team(2, |team| {
            // Starting a thread allocates, and one that starts late would do so between two tokens: each waits here for
            // the other, so both have begun.
            let both = Barrier::new(2);
            team.for_each(2, |_| {
                both.wait();
            });
            let mut batch = Batch::of_one(&network, Options { kv, ..Options::new(40) }).expect("it fits");
            let mut top = Vec::with_capacity(6);
            let mut decode = |token| {
                batch.forward(team, [(0, &[token][..])]).expect("a good token");
                top_k_into(batch.logits(team, 0..1).expect("finite"), 5, &mut top);
                top[0].0
            };
            let mut token = decode(5);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..30 {
                token = decode(token);
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{dtype} {kv:?}");

            let mut batch = Batch::new(&network, Options { kv, ..Options::new(40) }, 3).expect("it fits");
            (0..3).for_each(|place| batch.begin(place, 40).expect("it fits"));
            let mut decode = |tokens: &mut [u32; 3]| {
                let parts = tokens.iter().enumerate().map(|(place, token)| (place, std::slice::from_ref(token)));
                batch.forward(team, parts).expect("good tokens");
                let logits = batch.logits(team, 0..3).expect("finite");
                for (token, logits) in tokens.iter_mut().zip(logits.chunks_exact(logits.len() / 3)) {
                    top_k_into(logits, 5, &mut top);
                    *token = top[0].0;
                }
            };
            let mut tokens = [5, 6, 7];
            decode(&mut tokens);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..30).for_each(|_| decode(&mut tokens));
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{dtype} {kv:?}, three sequences");
        })
        .expect("runs");
    }
}
