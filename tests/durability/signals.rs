//! Row E11: a signal leaves no temporary file where many threads are making some, in processes of their own that end by
//! it.
//!
//! The race that is tested lasts for microseconds: the OS creates a file while the handler removes files and ends the
//! program. So these processes only create files, and are stopped many times.

use libc::{SIGINT, SIGTERM};
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::os::atomic_file::AtomicFile;
use olmo_infer::internals::os::directory::Folder;
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use olmo_infer::internals::os::signals;
use olmo_tests::packed::Packed;
use olmo_tests::{TempDir, files, own_process};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Passes to the tested process the folder in which it makes files.
const FOLDER: &str = "OLMO_TESTED_FOLDER";
/// Passes to it the model that it reads while the file is cut off.
const MODEL: &str = "OLMO_TESTED_MODEL";
/// How often each process is stopped. Where the handler does not wait nearly every one leaves files behind.
const TIMES: u64 = 40;
/// Threads that make files: where these are more than processors, some wait for the folder in the system.
const THREADS: usize = 8;
/// How long a process may take for what takes milliseconds.
const HANG: Duration = Duration::from_secs(60);

/// Lets threads put files of one byte in place, one after the other, until the program ends.
fn make_files(folder: &Path) {
    for thread in 0..THREADS {
        let (folder, name) = (folder.to_path_buf(), OsString::from(format!("file-{thread}")));
        spawn(move || {
            // A disk that syncs at once.
            let disk = HookedDisk(|_: Call<'_>| Ok(usize::MAX));
            let (folder, _made) = Folder::make(&disk, &folder).expect("a folder");
            let folder = Arc::new(folder);
            loop {
                let file = AtomicFile::create(&disk, &folder, "tested").expect("a new file");
                file.write_at(b"1", 0).expect("there is room");
                file.publish(&name, true).expect("in place");
            }
        });
    }
}

/// Whether every thread has put its first file in place.
fn has_files(folder: &Path) -> bool {
    (0..THREADS).all(|thread| folder.join(format!("file-{thread}")).exists())
}

/// Waits until `is_so`; returns false after a time limit.
fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < HANG {
        if is_so() {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

/// Waits for the end of a process that prints less than a pipe holds, and kills one that hangs.
fn ended(mut child: Child) -> Output {
    let has_ended = wait_until(|| child.try_wait().expect("a child").is_some());
    if !has_ended {
        child.kill().expect("killed");
    }
    let output = child.wait_with_output().expect("what it printed");
    assert!(has_ended, "it hangs: {output:?}");
    output
}

#[track_caller]
fn assert_only_whole_files(folder: &Path, time: u64) {
    for (name, bytes) in files(folder) {
        assert!(name.starts_with("file-") && bytes == b"1", "time {time}: {name}, {} bytes", bytes.len());
    }
}

/// Row E11.
#[test]
fn e11_signal_while_threads_make_files_leaves_none() {
    for time in 0..TIMES {
        let folder = TempDir::in_memory("signal-files");
        let (signal, name) = if time % 2 == 0 { (SIGTERM, "TERM") } else { (SIGINT, "INT") };
        let mut command = Command::new("env");
        let program = own_process(module_path!(), "makes_files_in_own_process");
        // What a script has left in the background ignores SIGINT.
        command.arg("--default-signal").arg(program.get_program()).args(program.get_args());
        command.env(FOLDER, folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        wait_until(|| has_files(folder.path()) || child.try_wait().expect("a child").is_some());
        sleep(Duration::from_micros(time * 97));
        // One that has ended before is looked at below.
        let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill runs");
        let output = ended(child);
        // No thread has ended before either.
        assert!(output.status.signal() == Some(signal) && output.stderr.is_empty(), "time {time}: {output:?}");
        assert_only_whole_files(folder.path(), time);
    }
}

/// Row E11.
#[test]
fn e11_sigbus_while_threads_make_files_leaves_none() {
    let model = TempDir::in_memory("signal-model");
    for time in 0..TIMES {
        fs::write(model.join("m.olmo"), Packed::plain_f32().bytes).expect("written");
        let folder = TempDir::in_memory("signal-files");
        let mut command = own_process(module_path!(), "makes_files_and_reads_truncated_model_in_own_process");
        command.env(FOLDER, folder.path()).env(MODEL, model.join("m.olmo"));
        let output = ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "time {time}: {output:?}");
        assert!(said.starts_with("tested: error: ") && said.lines().count() == 1, "time {time}: {said}");
        assert_only_whole_files(folder.path(), time);
    }
}

/// Row E11.
#[test]
fn full_stderr_delays_no_exit() {
    let model = TempDir::in_memory("signal-full");
    let path = model.join("m.olmo");
    let started = |signal: &str| {
        fs::write(&path, Packed::plain_f32().bytes).expect("written");
        let folder = TempDir::in_memory("signal-files");
        let (unread, mut end) = std::io::pipe().expect("a pipe");
        let capacity = rustix::pipe::fcntl_setpipe_size(&end, 4096).expect("a smaller pipe");
        end.write_all(&vec![b'.'; capacity]).expect("has place");
        let mut command = own_process(module_path!(), "makes_files_and_reads_truncated_model_in_own_process");
        command.env(FOLDER, folder.path()).env(MODEL, &path).stdout(Stdio::null()).stderr(end);
        let mut child = command.spawn().expect("it starts");
        if !signal.is_empty() {
            // While it waits for a reader of its line.
            let is_cut = || fs::metadata(&path).is_ok_and(|metadata| metadata.len() == 0);
            assert!(wait_until(|| is_cut() || child.try_wait().expect("a child").is_some()));
            sleep(Duration::from_millis(100));
            let _ = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().expect("kill runs");
        }
        let output = ended(child);
        drop(unread);
        assert_only_whole_files(folder.path(), 0);
        output.status
    };
    assert_eq!(started("").code(), Some(1));
    let status = started("TERM");
    assert!(status.signal() == Some(SIGTERM) || status.code() == Some(1), "{status}");
}

#[test]
#[ignore = "runs in a process of its own, and ends only by a signal"]
fn makes_files_in_own_process() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    signals::install("tested", "advice");
    make_files(Path::new(&folder));
    sleep(2 * HANG);
    panic!("it was not stopped");
}

#[test]
#[ignore = "runs in a process of its own, and ends it"]
fn makes_files_and_reads_truncated_model_in_own_process() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let path = PathBuf::from(env::var_os(MODEL).expect("a model"));
    signals::install("tested", "advice");
    make_files(Path::new(&folder));
    let model = ModelFile::open_with(&path, Load::Mmap).expect("a good file");
    assert!(wait_until(|| has_files(Path::new(&folder))), "no files");
    // Nothing is left, however large pages are.
    File::options().write(true).open(&path).expect("open").set_len(0).expect("cut");
    black_box(model.bytes().digest(0));
    panic!("what is cut off was read");
}
