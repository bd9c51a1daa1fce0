//! The library leaves the signals of a program unchanged: SECURITY.md leaves them to the program that uses it. The
//! tests run in processes of their own, one of which dies of a signal.

use crate::PACK;
use libc::SIGBUS;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_tests::{Stored, TempDir, finish, own_process, run, small_config, write_weights};
use std::env;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

/// Passes to the tested process the model that it opens.
const MODEL: &str = "OLMO_TESTED_MODEL";

fn packed(folder: &TempDir) -> PathBuf {
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    run(PACK, [&weights, &model]).ok();
    model
}

/// The model of the tested process; none when a user runs all ignored tests.
fn own_model() -> Option<PathBuf> {
    env::var_os(MODEL).map(PathBuf::from)
}

/// Which signals this process ignores and which it catches.
fn signals() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").expect("the state of this process");
    let lines = status.lines().filter(|line| line.starts_with("SigIgn:") || line.starts_with("SigCgt:"));
    lines.map(String::from).collect()
}

#[test]
fn library_changes_no_signal_disposition() {
    let folder = TempDir::new("no-handler");
    let finished = finish(own_process(module_path!(), "opens_and_computes_in_own_process").env(MODEL, packed(&folder)));
    assert!(finished.ok().contains("1 passed"), "{finished:?}");
}

#[test]
fn truncated_model_ends_program_by_sigbus() {
    let folder = TempDir::new("no-handler");
    let output = own_process(module_path!(), "reads_truncated_model_in_own_process")
        .env(MODEL, packed(&folder))
        .output()
        .expect("it starts");
    // Rust's own handler, which looks for overflows of the stack, lets it be.
    assert_eq!(output.status.signal(), Some(SIGBUS), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("error: "), "{said}");
}

#[test]
#[ignore = "runs in a process of its own"]
fn opens_and_computes_in_own_process() {
    let Some(path) = own_model() else { return };
    let before = signals();
    assert_eq!(before.len(), 2);
    let model = Model::open_with(&path, Load::Mmap, 2).expect("a good file");
    let mut session = model.session(Options::new(4)).expect("it fits");
    session.prefill(&[1, 2, 3]).expect("a good prompt");
    assert!(!session.logits().is_empty());
    assert_eq!(signals(), before);
}

#[test]
#[ignore = "runs in a process of its own, and ends it"]
fn reads_truncated_model_in_own_process() {
    let Some(path) = own_model() else { return };
    // Once as most programs do, once with the bytes at hand.
    let _model = Model::open_with(&path, Load::Mmap, 2).expect("a good file");
    let file = ModelFile::open_with(&path, Load::Mmap).expect("a good file");
    File::options().write(true).open(&path).expect("open").set_len(4096).expect("cut");
    black_box(file.bytes().digest(0));
    panic!("what is cut off was read");
}
