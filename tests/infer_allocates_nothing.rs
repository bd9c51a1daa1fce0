//! Between two tokens nothing is allocated: all buffers of a run are there from its beginning.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::generate::top_k::top_k_into;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use olmo_tests::{Stored, TempDir, run, small_olmo3, write_weights};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`, and the memory came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test only: others would allocate beside it.
#[test]
fn decode_allocates_nothing() {
    let folder = TempDir::new("allocations");
    let weights = folder.join("w");
    write_weights(&weights, &small_olmo3(), Stored::F32, 2);
    for dtype in ["f32", "bf16"] {
        let path = folder.join(dtype);
        run(PACK, [weights.as_os_str(), path.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
        let file = ModelFile::open(&path).expect("a good file");
        let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
        with_team(2, |team| {
            let mut batch = Batch::of_one(&network, Options::new(40)).expect("it fits");
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
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{dtype}");

            let mut batch = Batch::new(&network, Options::new(40), 3).expect("it fits");
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
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{dtype}, three sequences");
        })
        .expect("runs");
    }
}
