//! Every allocation of a library call that documents `Error::OutOfMemory` is fallible: when it fails, the call returns
//! that error and releases its memory.

use crate::PACK;
use crate::allocator::counted;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Run;
use olmo_infer::Sampling;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::network::Network;
use olmo_tests::TempDir;
use olmo_tests::chats::{MARKED, demo_chat};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Lets each allocation of a call fail in turn. `small` bounds those that cannot fail: some words, for any model.
#[track_caller]
fn assert_returns_memory_errors<R>(name: &str, small: u64, mut call: impl FnMut() -> Result<R, Error>) {
    let (result, n, unasked) = counted(0, &mut call);
    assert!(result.is_ok() && unasked <= small, "{name}: {unasked} allocations take no no, {n} do");
    drop(result);
    for number in 1..=n {
        let (result, asked, unasked) = counted(number, &mut call);
        // Memory kept between calls is not allocated again.
        let kept = if asked < number { result.is_ok() } else { matches!(result, Err(Error::OutOfMemory { .. })) };
        assert!(kept && unasked <= small, "{name}, allocation {number} of {n}");
    }
    assert!(call().is_ok(), "{name}, afterwards");
    println!("{name}: {n} allocations");
}

#[test]
fn every_fallible_allocation_returns_memory_error() {
    let folder = TempDir::new("library-without-memory");
    let path = demo_chat(PACK, &folder, MARKED);
    let model = Model::open_with(&path, olmo_infer::internals::file::mapping::Load::Mmap, 1).expect("a model");
    // The views and the file that they borrow are kept in one allocation of self_cell, and shared in another.
    let file = Arc::new(ModelFile::open(&path).expect("a model"));
    assert_returns_memory_errors("Network::new", 2, || Network::new(file.clone()).map(Arc::new));
    model.network().expect("made once for all sessions");
    // The first one of the process looks for the fastest instruction set, which allocates.
    let _measured = Options::new(64);
    assert_returns_memory_errors("Model::session", 0, || model.session(Options::new(64)));
    let mut session = model.session(Options::new(64)).expect("it fits");
    assert_returns_memory_errors("Session::prefill", 0, || {
        session.restart();
        session.prefill(&[70, 111, 117, 114])
    });
    assert_returns_memory_errors("Session::decode", 0, || session.decode(32));
    assert_returns_memory_errors("Session::resume", 0, || session.resume(&[70, 111, 32]));
    assert_returns_memory_errors("Session::generate", 0, || {
        session.generate(Sampling::GREEDY).take(3).try_for_each(|id| id.map(|_| ()))
    });
    assert_returns_memory_errors("Session::prefill_visiting", 0, || {
        session.restart();
        session.prefill_visiting(&[70, 111, 117, 114], |_| ControlFlow::Continue(()))
    });
    assert_returns_memory_errors("Session::fork", 0, || session.fork());
    // Paths and names of the file.
    assert_returns_memory_errors("Session::save", 100, || session.save(folder.join("s.session")));
    assert_returns_memory_errors("Model::load_session", 100, || model.load_session(folder.join("s.session")));
    let prompt = [70, 111, 117, 114];
    let runs = [Run { top: usize::MAX, ..Run::new(&prompt, 6) }; 2];
    // The files of the OS that state the free memory are read by std.
    assert_returns_memory_errors("Model::generate", 100, || {
        model.generate(&runs, Options::new(6), Some(2), |_| Ok::<_, Error>(ControlFlow::Continue(())))
    });
    assert_returns_memory_errors("Model::vocabulary", 1, || model.vocabulary());
    assert_returns_memory_errors("Model::decode_text", 1, || model.decode_text(&[70, 111]));
    model.encode("Four").expect("ids");
    // The tables of a search for words are bounded, and asked for by the crate.
    assert_returns_memory_errors("Model::encode", 100, || model.encode("Four score <|x|> and"));
}
