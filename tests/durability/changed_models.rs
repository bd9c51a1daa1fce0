//! O21: a model file that is cut short, written to, replaced or removed while a run has it mapped.
//!
//! A run that takes its tokens from standard input has opened and mapped the model before it waits for them: that is
//! the moment at which the file is changed here. `make torture` changes it at random moments.

use crate::{INFER, PACK};
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_tests::chats::{MARKED, demo_chat};
use olmo_tests::commands::{self, Places, READING};
use olmo_tests::neighbour::{HABITS, Neighbour};
use olmo_tests::{Finished, Stored, TempDir, run, small_config, write_weights};
use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A folder with two models of one size and different numbers.
fn two_models(name: &str) -> (TempDir, PathBuf, PathBuf) {
    let folder = TempDir::new(name);
    for (seed, model) in [(1, "m.olmo"), (2, "other.olmo")] {
        let weights = folder.join(format!("weights-{seed}"));
        write_weights(&weights, &small_config(), Stored::F32, seed);
        run(PACK, [&weights, &folder.join(model)]).ok();
    }
    let (model, other) = (folder.join("m.olmo"), folder.join("other.olmo"));
    (folder, model, other)
}

/// A run that has mapped the model and waits for its tokens.
struct Waiting(Child);

impl Waiting {
    fn start(model: &Path, flags: &[&str]) -> Waiting {
        let mut command = Command::new(INFER);
        command.arg(model).arg("-").args(flags).args(["--threads", "2", "--steps", "20"]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = pipes.spawn().expect("starts");
        let begun = Instant::now();
        // A model that was read leaves no trace; it takes no second to read a small one.
        let is_read = flags.contains(&"read");
        while !has_mapped(&child, model) {
            if is_read && begun.elapsed() > Duration::from_secs(1) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the model was never mapped");
            sleep(Duration::from_millis(1));
        }
        Waiting(child)
    }

    /// Gives it its tokens and waits for its end.
    fn finish(mut self) -> Finished {
        let mut stdin = self.0.stdin.take().expect("a pipe");
        let tokens: Vec<u8> = [5u32, 17, 3, 99].iter().flat_map(|token| token.to_le_bytes()).collect();
        stdin.write_all(&tokens).expect("it reads");
        drop(stdin);
        let output = self.0.wait_with_output().expect("ends");
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Whether the process has the file mapped.
fn has_mapped(child: &Child, model: &Path) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap_or_default();
    maps.contains(model.to_str().expect("UTF-8"))
}

/// Starts a run, changes the file with `change`, and lets the run end.
fn run_while(model: &Path, flags: &[&str], change: impl FnOnce()) -> Finished {
    let waiting = Waiting::start(model, flags);
    // Clocks of file systems tick in milliseconds.
    sleep(Duration::from_millis(20));
    change();
    waiting.finish()
}

/// Asserts one error line that contains `says`, exit status 1, and incomplete results.
#[track_caller]
fn assert_reported(finished: &Finished, expected_lines: usize, says: &str) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    assert!(finished.stderr.starts_with("olmo-infer: error: ") && finished.stderr.contains("m.olmo"), "{finished:?}");
    assert!(finished.stderr.contains(says), "{finished:?}");
    assert!(finished.stdout.lines().count() < expected_lines, "{finished:?}");
}

fn set_length(model: &Path, length: u64) {
    File::options().write(true).open(model).expect("open").set_len(length).expect("cut");
}

/// Row O21: a file that changes while it is mapped.
///
/// Row O22: an I/O error under the mapping (the same signal as of a truncated file).
///
/// Note on O22: A disk that fails, or an NFS server that forgets a file, cannot be made in a test.
#[test]
fn o21_truncated_model_is_one_line() {
    let (_folder, model, _) = two_models("cut");
    let good = fs::read(&model).expect("read");
    for length in [0, 4096, good.len() as u64 / 2] {
        fs::write(&model, &good).expect("written");
        let finished = run_while(&model, &[], || set_length(&model, length));
        // Found by the handler, by the thread that loads pages, or by a check of the file before the first pass.
        let says = if finished.stderr.contains("cut short") { "cut short" } else { "changed while it was in use" };
        assert_reported(&finished, 20, says);
    }
}

/// Row O21.
#[test]
fn o21_length_change_is_one_line() {
    let (_folder, model, _) = two_models("cut-inside");
    let good = fs::read(&model).expect("read");
    for length in [good.len() as u64 - 1, good.len() as u64 + 1] {
        fs::write(&model, &good).expect("written");
        assert_reported(&run_while(&model, &[], || set_length(&model, length)), 20, "changed while it was in use");
    }
}

/// Row O21.
#[test]
fn o21_modified_model_is_one_line() {
    let (_folder, model, other) = two_models("written");
    let (good, bad) = (fs::read(&model).expect("read"), fs::read(&other).expect("read"));
    for flags in [&[][..], &["--json"]] {
        fs::write(&model, &good).expect("written");
        let finished = run_while(&model, flags, || {
            File::options().write(true).open(&model).expect("open").write_all(&bad).expect("written");
        });
        assert_reported(&finished, 20, "changed while it was in use");
    }
}

/// Row O21.
#[test]
fn o21_hidden_modification_does_not_crash() {
    let (_folder, model, _) = two_models("hidden");
    let modified = fs::metadata(&model).expect("metadata").modified().expect("a time");
    let finished = run_while(&model, &[], || {
        let mut bytes = fs::read(&model).expect("read");
        *bytes.last_mut().expect("a file") ^= 1;
        // The last byte may be padding: also one that is not.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut file = File::options().write(true).open(&model).expect("open");
        file.write_all(&bytes).expect("written");
        file.set_times(FileTimes::new().set_modified(modified)).expect("hidden");
    });
    assert_reported(&finished, 20, "changed while it was in use");
}

/// Row O21.
///
/// All other tests change files that were made just before, in which the digests are looked at.
#[test]
fn o21_length_and_times_decide_for_older_files() {
    let (folder, model, other) = two_models("aged");
    let [cut, grown, written, replaced, removed] = ["cut", "grown", "written", "replaced", "removed"].map(|name| {
        fs::create_dir(folder.join(name)).expect("a folder");
        let copy = folder.join(name).join("m.olmo");
        fs::copy(&model, &copy).expect("copied");
        copy
    });
    let (length, bad) = (fs::metadata(&model).expect("metadata").len(), fs::read(&other).expect("read"));
    sleep(Duration::from_millis(2100));

    let finished = run_while(&cut, &[], || set_length(&cut, 4096));
    let says = if finished.stderr.contains("cut short") { "cut short" } else { "changed while it was in use" };
    assert_reported(&finished, 20, says);
    assert_reported(&run_while(&grown, &[], || set_length(&grown, length + 1)), 20, "changed while it was in use");
    let write = || {
        File::options().write(true).open(&written).expect("open").write_all(&bad).expect("written");
    };
    assert_reported(&run_while(&written, &[], write), 20, "changed while it was in use");
    let expected = run_while(&model, &[], || {}).ok().to_string();
    assert_eq!(run_while(&replaced, &[], || fs::rename(&other, &replaced).expect("replaced")).ok(), expected);
    assert_eq!(run_while(&removed, &[], || fs::remove_file(&removed).expect("removed")).ok(), expected);
}

#[test]
fn modified_sections_are_reported() {
    let folder = TempDir::new("hidden-section");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    fs::write(weights.join("vocab.txt"), "0\tzero\n1\tone\n").expect("written");
    run(PACK, [&weights, &model]).ok();
    let modified = fs::metadata(&model).expect("metadata").modified().expect("a time");
    sleep(Duration::from_millis(30));
    let file = ModelFile::open(&model).expect("a model");
    let at = file.layout().sections.last().expect("sections").end() as usize - 1;
    let mut bytes = fs::read(&model).expect("read");
    bytes[at] ^= 1;
    let mut writer = File::options().write(true).open(&model).expect("open");
    writer.write_all(&bytes).expect("written");
    writer.set_times(FileTimes::new().set_modified(modified)).expect("hidden");
    let error = file.check_unchanged().expect_err("written to");
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

/// Row O21.
#[test]
fn o21_replaced_or_removed_model_changes_no_run() {
    let (folder, model, other) = two_models("replaced");
    let expected = run_while(&model, &[], || {}).ok().to_string();
    assert_eq!(expected.lines().count(), 20);
    let moved = folder.join("moved.olmo");
    assert_eq!(run_while(&model, &[], || fs::rename(&model, &moved).expect("moved")).ok(), expected);
    fs::copy(&moved, &model).expect("copied");
    assert_eq!(run_while(&model, &[], || fs::rename(&other, &model).expect("replaced")).ok(), expected);
    fs::rename(&moved, &model).expect("moved");
    assert_eq!(run_while(&model, &[], || fs::remove_file(&model).expect("removed")).ok(), expected);
}

#[test]
fn loaded_model_does_not_need_its_file() {
    let (_folder, model, _) = two_models("read");
    let expected = run_while(&model, &["--load", "read"], || {}).ok().to_string();
    assert_eq!(run_while(&model, &["--load", "read"], || set_length(&model, 0)).ok(), expected);
}

#[test]
fn library_reports_modified_model() {
    let (folder, model, other) = two_models("library");
    let open = || ModelFile::open(&model).expect("a model");
    let (file, good) = (open(), fs::read(&model).expect("read"));
    file.check_unchanged().expect("nothing happened");
    fs::hard_link(&model, folder.join("link")).expect("linked");
    file.check_unchanged().expect("its bytes are the same");
    sleep(Duration::from_millis(20));
    fs::write(&model, &good).expect("written");
    let error = file.check_unchanged().expect_err("written to");
    assert!(matches!(&error, Error::Changed { path } if *path == model), "{error}");
    open().check_unchanged().expect("opened afterwards");
    let file = open();
    fs::rename(&other, &model).expect("replaced");
    file.check_unchanged().expect("it still has the old file");
}

/// Runs commands while a neighbour with each habit in turn changes the model, `rounds` times. None may end by a signal.
#[track_caller]
fn assert_errors_under_a_neighbour(folder: &TempDir, model: &Path, commands: &[commands::Command], rounds: u64) {
    let places = Places::new([PACK, INFER], folder, model);
    let neighbour = Neighbour::new(model);
    let mut failed = Vec::new();
    for (seed, habit) in (1..).zip(HABITS) {
        // From then on the file's times no longer count as recent; a change by mapping in memory changes none.
        sleep(Duration::from_millis(2100));
        for round in 0..rounds {
            neighbour.disturb(habit, seed * 1000 + round, || {
                for command in commands {
                    let ended = command.run(&places, &[]);
                    places.clear();
                    failed.extend(ended.in_a_line().err().map(|failure| format!("{}: {failure}", command.name)));
                }
            });
        }
    }
    let n_changes = neighbour.n_changes.into_inner();
    assert!(n_changes > 50, "{n_changes} changes");
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
}

#[test]
fn concurrent_rewrites_end_no_command_by_a_signal() {
    let folder = TempDir::in_memory("neighbour");
    let model = demo_chat(PACK, &folder, MARKED);
    assert_errors_under_a_neighbour(&folder, &model, &READING, 6);
}

#[test]
fn concurrent_rewrites_of_long_tokens_do_not_crash() {
    let folder = TempDir::in_memory("neighbour-long");
    let (weights, model) = (folder.join("weights"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    // Every token takes so long to print that it is rewritten meanwhile; of more than 4 MiB none would be packed.
    let text = "\u{120}\u{c3}\u{a9}".repeat((600 << 10) / small_config().vocab_size);
    let line = |id: usize| format!("{id}\t{text}\n");
    fs::write(weights.join("vocab.txt"), (0..small_config().vocab_size).map(line).collect::<String>())
        .expect("written");
    run(PACK, [&weights, &model]).ok();
    let printing = ["lines", "json", "text", "detokenize"];
    let commands: Vec<_> = READING.into_iter().filter(|command| printing.contains(&command.name)).collect();
    assert_errors_under_a_neighbour(&folder, &model, &commands, 20);
}
