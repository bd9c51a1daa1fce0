//! The pool of threads that packs and verifies.

use olmo_infer::internals::parallel::team::{has_room_for, spawn};
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool of so many threads, none of which ends the program for want of address space as it starts.
///
/// # Errors
/// The system gives fewer.
pub(crate) fn pool(n_threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    let is_ample = has_room_for(n_threads);
    let start = |worker: ThreadBuilder| {
        let name = format!("olmo-{}", worker.index());
        spawn(&name, is_ample, || worker.run()).map(drop)
    };
    ThreadPoolBuilder::new().num_threads(n_threads).spawn_handler(start).build()
}
