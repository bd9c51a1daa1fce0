//! Threads of a program and threads of a model: any number of callers, from wherever they call, get the same bits or an
//! error, and nothing hangs or piles up.

use crate::PACK;
use olmo_infer::Error;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Sampling;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::parallel::team::{Threads, with_team};
use olmo_tests::{Stored, TempDir, finish, is_own_process, own_process, run, small_config, write_weights};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn packed(folder: &TempDir) -> PathBuf {
    pack(folder, &small_config())
}

fn pack(folder: &TempDir, config: &ModelConfig) -> PathBuf {
    let (weights, path) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, config, Stored::F32, 1);
    run(PACK, [&weights, &path]).ok();
    path
}

fn open(path: &Path, n_threads: usize) -> Model {
    Model::open_with(path, Load::Auto, n_threads).expect("a good file")
}

/// The bits of what some tokens predict, in a session of their own.
fn logits(model: &Model, tokens: &[u32]) -> Result<Vec<u32>, Error> {
    let mut session = model.session(Options::new(tokens.len()))?;
    session.prefill(tokens)?;
    Ok(session.logits().iter().map(|logit| logit.to_bits()).collect())
}

/// Row E14, the library.
#[test]
fn callers_in_a_pool_do_no_other_task_while_waiting() {
    let folder = TempDir::new("threads-tasks");
    let config = ModelConfig {
        hidden_size: 4,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        intermediate_size: 4,
        vocab_size: 8,
        layer_types: vec![AttentionKind::Full],
        pad_token_id: None,
        ..small_config()
    };
    let model = open(&pack(&folder, &config), 2);
    let expected = [logits(&model, &[5]).expect("good"), logits(&model, &[7]).expect("good")];
    let n_threads = 4;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("a pool");
    let (live, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let document = |index: usize| {
        most.fetch_max(live.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let found = logits(&model, &[[5, 7][index % 2]]).expect("good");
        assert_eq!(found, expected[index % 2]);
        live.fetch_sub(1, Ordering::Relaxed);
    };
    pool.install(|| (0..100_000).into_par_iter().for_each(document));
    assert!(most.load(Ordering::Relaxed) <= n_threads, "no session begins inside another one");
    // Tasks that are all there at once, and whose own thread pool has nothing else to do.
    pool.scope(|scope| (0..2000).for_each(|index| scope.spawn(move |_| document(index))));
}

/// Row E14, the library.
#[test]
fn sixteen_concurrent_callers_get_the_same_tokens() {
    let folder = TempDir::new("threads-callers");
    let path = packed(&folder);
    for n_threads in [1, 2, 5] {
        let model = open(&path, n_threads);
        let tokens = || {
            let mut session = model.session(Options::new(40)).expect("it fits");
            session.prefill(&[5, 17, 3]).expect("good tokens");
            let sampling = Sampling { temperature: 1.5, seed: 3, ..Sampling::GREEDY };
            session.generate(sampling).collect::<Result<Vec<u32>, Error>>().expect("finite")
        };
        let expected = tokens();
        thread::scope(|scope| {
            let callers: Vec<_> = (0..16).map(|_| scope.spawn(tokens)).collect();
            assert!(callers.into_iter().all(|caller| caller.join().expect("no panic") == expected));
        });
    }
}

/// Row E14, the library.
#[test]
fn nested_run_of_one_team_is_refused() {
    let threads = Threads::new(2);
    let inner = threads.run(|team| {
        let from_the_body = threads.run(|_| ()).map_err(|error| error.to_string());
        let refused = AtomicUsize::new(0);
        team.for_each(1000, |_| {
            refused.fetch_add(usize::from(threads.run(|_| ()).is_err()), Ordering::Relaxed);
            // Other threads may run.
            with_team(1, |_| ()).expect("runs");
        });
        (from_the_body, refused.into_inner())
    });
    let (from_the_body, refused) = inner.expect("runs");
    let line = "this run would wait for the end of a run that it is part of; end that first, or open the model twice";
    assert_eq!((from_the_body, refused), (Err(line.into()), 1000));
}

/// Runs something in a forked child, whose exit status is whether it succeeded. A child that hangs is killed.
#[allow(unsafe_code)]
fn forked(work: impl FnOnce() -> bool) -> Option<i32> {
    // SAFETY: the child begins with one thread, and those that the parent has besides hold no lock: it is a process of
    // its own with one test, whose other threads wait. The child ends without unwinding or any handler.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let went_well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(false);
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!went_well)) }
    }
    assert!(child > 0, "a process can be forked off");
    let begun = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: the child belongs to this process, and `status` outlives the call.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 if begun.elapsed() > Duration::from_secs(20) => {
                // SAFETY: the child belongs to this process and was not waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
            0 => thread::sleep(Duration::from_millis(1)),
            _ => return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        }
    }
}

/// Row E14, the library.
#[test]
fn forked_process_must_open_its_own_model() {
    let finished = finish(&mut own_process(module_path!(), "forks_in_own_process"));
    assert!(finished.ok().contains("1 passed"), "{finished:?}");
}

#[test]
#[ignore = "runs in a process of its own"]
fn forks_in_own_process() {
    if !is_own_process() {
        return;
    }
    let folder = TempDir::new("threads-fork");
    let path = packed(&folder);
    let (model, alone) = (open(&path, 2), open(&path, 1));
    let expected = logits(&model, &[5, 17]).expect("good");
    let mut session = model.session(Options::new(4)).expect("it fits");
    session.prefill(&[5]).expect("good tokens");
    let in_the_child = || {
        let refused = session.prefill(&[17]).expect_err("the threads are elsewhere").to_string();
        let told = refused.starts_with("this process was forked off") && refused.ends_with("the model in this process");
        // Nothing has changed, and dropping waits for no thread.
        let same = session.tokens() == [5];
        drop(open(&path, 2));
        let own = logits(&open(&path, 2), &[5, 17]).is_ok_and(|found| found == expected);
        let without_threads = logits(&alone, &[5, 17]).is_ok_and(|found| found == expected);
        told && same && own && without_threads
    };
    assert_eq!(forked(in_the_child), Some(0));
    session.prefill(&[17]).expect("they are here");
    drop(session);
    // In the child too.
    let mut model = Some(model);
    assert_eq!(forked(|| model.take().is_some()), Some(0));
    assert_eq!(logits(&model.expect("the parent has it"), &[5, 17]).expect("good"), expected);
}

/// Passes the model of the test below to a process of its own.
const MODEL: &str = "OLMO_TEST_THREADS_MODEL";

#[test]
#[ignore = "runs in a process of its own"]
fn computes_in_own_process() {
    let Some(path) = env::var_os(MODEL) else { return };
    let found = logits(&open(Path::new(&path), 64), &[5, 17]).expect("good");
    assert_eq!(found, logits(&open(Path::new(&path), 1), &[5, 17]).expect("good"));
}

/// Row E14, the library.
#[test]
fn starts_fewer_threads_when_address_space_is_short() {
    let folder = TempDir::new("threads-address-space");
    let path = packed(&folder);
    let program = own_process(module_path!(), "computes_in_own_process");
    for kib in (40_000..200_000).step_by(8011) {
        let mut command = Command::new("sh");
        let script = format!("ulimit -v {kib} && exec \"$0\" \"$@\"");
        command.args(["-c", &script]).arg(program.get_program()).args(program.get_args()).env(MODEL, &path);
        let finished = finish(&mut command);
        assert!(finished.ok().contains("1 passed"), "{kib} KiB: {finished:?}");
    }
}
