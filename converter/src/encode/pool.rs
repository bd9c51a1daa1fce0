//! The pool of threads that packs and verifies.

use crate::error::Error;
use olmo_infer::internals::os::spawn::{halving, has_room_for, spawn};
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::thread::available_parallelism;

/// Most threads of a pool: more cannot help.
const MAX_THREADS: usize = 256;

/// A pool of `n_threads` threads, 0 for all processors, or of fewer when the OS refuses some: their number changes no
/// byte. Where it refuses even one, the calling thread is the pool, which rayon allows once in its life: a run makes
/// one pool and hands it on.
///
/// # Errors
/// [`Error::NoThread`].
pub fn thread_pool(n_threads: usize) -> Result<ThreadPool, Error> {
    let n_threads = if n_threads == 0 { available_parallelism().map_or(1, usize::from) } else { n_threads };
    halving(n_threads.min(MAX_THREADS), pool).or_else(|_| {
        let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        pool.map_err(|error| Error::NoThread { reason: error.to_string() })
    })
}

fn pool(n_threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    let is_ample = has_room_for(n_threads);
    let start = |worker: ThreadBuilder| {
        let name = format!("olmo-{}", worker.index());
        spawn(&name, is_ample, || worker.run()).map(drop)
    };
    ThreadPoolBuilder::new().num_threads(n_threads).spawn_handler(start).build()
}
