//! Every call of the disk fails in turn, until a run meets no fault: what was there stays, or the whole new file is
//! there, and nothing else. Interrupted calls and short writes change nothing at all. Before every call in turn the
//! folder is exchanged for a link: no other folder gets a file.

use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use olmo_pack::error::Error;
use olmo_tests::disks::{Fault, Plan};
use olmo_tests::runs::{Runs, Work};
use olmo_tests::{TempDir, files, on_one_processor};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;
const EDQUOT: i32 = 122;

/// The one call whose failure a run may survive: a file system without unnamed files returns one of many errors, and a
/// temporary file with a name serves as well. The removal of such a file is not one of them: it comes only after an
/// error, which is then the one to report.
const SURVIVED: [&str; 1] = ["create_unnamed"];

type Files = BTreeMap<String, Vec<u8>>;

/// Something that writes files into a folder.
struct Case {
    runs: Runs,
    work: Work,
    /// The files of a complete run.
    new: Files,
}

impl Case {
    /// All faults at all calls, with all kinds of temporary files.
    fn try_all_faults(&self) {
        let mut tried = 0;
        let errors = [EINTR, EIO, EACCES, ENOSPC, EDQUOT].map(Fault::Error);
        for fault in errors.into_iter().chain([Fault::Short, Fault::Nothing]) {
            for unnamed in [true, false] {
                for sticky in [true, false] {
                    for clean_up_fails in [false, true] {
                        let plan = Plan { unnamed, fail_at: 1, sticky, fault, clean_up_fails };
                        tried += self.try_every_call(plan, true) + self.try_every_call(plan, false);
                    }
                }
            }
        }
        println!("{tried} faults");
    }

    /// Lets the first call fail, then the second, until there is none left; returns how many there were.
    fn try_every_call(&self, mut plan: Plan, force: bool) -> usize {
        loop {
            self.runs.prepare(self.work, force);
            let (result, calls) = plan.run(|disk| self.runs.run(self.work, force, disk));
            self.judge(&plan, force, &result, &calls);
            if calls.len() < plan.fail_at {
                assert!(result.is_ok(), "it fails without a fault");
                return plan.fail_at - 1;
            }
            plan.fail_at += 1;
        }
    }

    fn judge(&self, plan: &Plan, force: bool, result: &Result<(), Error>, calls: &[&str]) {
        let call = calls.get(plan.fail_at - 1).unwrap_or(&"none");
        let place = format!("{call} of {} calls, force {force}, {plan:?}: {result:?}", calls.len());
        let mut left = files(&self.runs.out());
        let mut temporary = 0;
        left.retain(|name, _| {
            let is_temporary = name.ends_with(".tmp");
            temporary += usize::from(is_temporary);
            !is_temporary
        });
        let most_temporary = if self.work == Work::Calibrate { 2 } else { 1 };
        let may_be_left = plan.clean_up_fails && result.is_err();
        assert!(temporary <= if may_be_left { most_temporary } else { 0 }, "{temporary} left after {place}");
        let harmless = match plan.fault {
            Fault::Short => true,
            Fault::Error(EINTR) => !plan.sticky,
            _ => false,
        };
        match result {
            Ok(()) => {
                assert!(!must_fail(plan, calls), "an error is lost after {place}");
                assert!(left == self.new, "not what was to be written after {place}");
            }
            Err(_) if harmless => panic!("not done after {place}"),
            Err(error) => self.judge_failed(plan, &left, force, &error.to_string(), &place),
        }
    }

    /// After an error every file is as it was, or whole and new.
    fn judge_failed(&self, plan: &Plan, left: &Files, force: bool, error: &str, place: &str) {
        assert!(error.lines().count() == 1 && error.contains(self.runs.out().to_str().expect("UTF-8")), "{place}");
        let is_new = |(name, bytes): (&String, &Vec<u8>)| self.new.get(name) == Some(bytes);
        let is_old = |(name, bytes): (&String, &Vec<u8>)| force && self.new.contains_key(name) && bytes == b"old";
        assert!(left.iter().all(|file| is_new(file) || is_old(file)), "{:?} after {place}", left.keys());
        assert!(!force || left.len() == self.new.len(), "{:?} after {place}", left.keys());
        // A folder that was made for nothing goes again.
        let is_made = self.work == Work::Unpack && !force && !plan.clean_up_fails;
        assert!(!is_made || !left.is_empty() || !self.runs.out().exists(), "an empty folder after {place}");
        // A single output file must not be new after an error, unless the error reports that it is.
        let says_new = error.contains("is in place, but its name may not survive a power cut");
        if self.new.len() == 1 {
            assert_eq!(left.iter().all(is_new) && !left.is_empty(), says_new, "{place}");
        }
    }
}

/// Whether a call failed that a run must not get over.
fn must_fail(plan: &Plan, calls: &[&str]) -> bool {
    let n_failing = if plan.sticky { usize::MAX } else { 1 };
    calls.iter().skip(plan.fail_at - 1).take(n_failing).any(|call| match plan.fault {
        Fault::Short => false,
        Fault::Nothing => *call == "write_at",
        // Made again, unless it is interrupted for ever.
        Fault::Error(EINTR) if !plan.sticky => false,
        Fault::Error(_) => !SURVIVED.contains(call),
    })
}

/// Lets everything fail that `work` does.
fn try_all_faults(work: Work) {
    let runs = Runs::new();
    runs.prepare(work, false);
    Plan::sound().run(|disk| runs.run(work, false, disk)).0.expect("done");
    let inputs = (files(&runs.weights()), fs::read(runs.model()).expect("a model"));
    let case = Case { new: files(&runs.out()), runs, work };
    case.try_all_faults();
    assert!(files(&case.runs.weights()) == inputs.0, "the weights are as they were");
    assert!(fs::read(case.runs.model()).expect("a model") == inputs.1, "so is the model");
}

/// Row E6, every call, ENOSPC and EDQUOT too.
///
/// Row E19, without unnamed files, `fallocate` or `fsync` of folders.
#[test]
fn pack_leaves_old_or_whole_new_file() {
    try_all_faults(Work::Pack);
}

/// Row E6, likewise; the copy that is run leaves nothing.
#[test]
fn calibration_leaves_old_or_whole_new_file() {
    // One thread, so that the calls come in the same order in every run.
    on_one_processor();
    try_all_faults(Work::Calibrate);
}

/// Row E6, likewise.
#[test]
fn copy_leaves_old_or_whole_new_file() {
    try_all_faults(Work::Copy);
}

/// Row E6, likewise.
#[test]
fn unpack_leaves_old_or_whole_new_files() {
    // One thread, so that the calls come in the same order in every run.
    on_one_processor();
    try_all_faults(Work::Unpack);
}

/// How often a run without faults syncs its file.
fn n_syncs(runs: &Runs, work: Work) -> usize {
    runs.prepare(work, true);
    let (result, calls) = Plan::sound().run(|disk| runs.run(work, true, disk));
    result.expect("written");
    calls.iter().filter(|call| **call == "sync").count()
}

#[test]
fn early_fsync_failure_is_reported() {
    // Longer than what is written before the disk is set to work.
    let config = ModelConfig { vocab_size: 33_000, hidden_size: 1024, n_heads: 8, head_dim: 128, ..Runs::config() };
    let (small, large) = (Runs::new(), Runs::within(TempDir::new("large"), &config));
    for work in [Work::Pack, Work::Copy] {
        assert_eq!(n_syncs(&large, work), n_syncs(&small, work) + 1, "{work:?}");
        large.prepare(work, true);
        // The OS reports a write error once.
        let is_told = AtomicBool::new(false);
        let hook = |call: Call<'_>| match call {
            Call::Sync(_) if !is_told.swap(true, Ordering::SeqCst) => Err(io::Error::from_raw_os_error(EIO)),
            _ => Ok(usize::MAX),
        };
        let error =
            large.run(work, true, &HookedDisk(hook)).expect_err("some of it may not be on the disk").to_string();
        assert!(error.ends_with("cannot make it durable: Input/output error"), "{work:?}: {error}");
        assert!(files(&large.out()).values().eq([b"old"]), "{work:?}");
    }
}

#[test]
fn unsupported_preallocation_is_accepted_and_failure_reported() {
    let runs = Runs::new();
    for work in [Work::Pack, Work::Copy] {
        let cannot = [EPERM, EINVAL, ENOSYS, EOPNOTSUPP].map(|number| (number, true));
        let fails = [EIO, EACCES, EFBIG, ENOSPC, EDQUOT].map(|number| (number, false));
        for (number, is_survived) in cannot.into_iter().chain(fails) {
            runs.prepare(work, true);
            let hook = |call: Call<'_>| match call {
                Call::Allocate(..) => Err(io::Error::from_raw_os_error(number)),
                _ => Ok(usize::MAX),
            };
            let result = runs.run(work, true, &HookedDisk(hook));
            assert_eq!(result.is_ok(), is_survived, "{work:?}, error {number}: {result:?}");
        }
    }
}

#[test]
fn name_taken_meanwhile_is_left_alone() {
    let runs = Runs::new();
    for (work, unnamed) in [(Work::Pack, true), (Work::Pack, false), (Work::Unpack, false)] {
        runs.prepare(work, true);
        let planted = Mutex::new(None);
        // Another process already has a file of the first random name.
        let hook = |call: Call<'_>| match call {
            Call::CreateUnnamed(_) if !unnamed => Err(io::ErrorKind::Unsupported.into()),
            Call::CreateNamed(folder, name) | Call::Link(_, folder, name) => {
                planted.lock().expect("no panic").get_or_insert_with(|| {
                    let path = folder.path().join(name);
                    fs::write(&path, "theirs").expect("planted");
                    path
                });
                Ok(usize::MAX)
            }
            _ => Ok(usize::MAX),
        };
        runs.run(work, true, &HookedDisk(hook)).expect("another random name");
        let planted = planted.into_inner().expect("no panic").expect("a random name");
        assert!(planted.extension().is_some_and(|extension| extension == "tmp"));
        assert_eq!(fs::read(&planted).expect("still there"), b"theirs");
        fs::remove_file(&planted).expect("removed");
        assert!(files(&runs.out()).keys().all(|name| !name.ends_with(".tmp")));
    }
}

/// A run during which, before the call of this number, the folder that it writes into is moved away and a link to
/// another one takes its place.
struct Exchange {
    runs: Runs,
    /// Where the folder is moved.
    moved: PathBuf,
    /// Where the link leads.
    other: PathBuf,
}

impl Exchange {
    fn new() -> Exchange {
        let runs = Runs::new();
        let above = runs.out().parent().expect("a path in a folder").to_path_buf();
        Exchange { runs, moved: above.join("moved"), other: above.join("other") }
    }

    /// The folders as they are before a run: the other one has files of the same names.
    fn prepare(&self, work: Work, force: bool, names: &Files) {
        if self.runs.out().is_symlink() {
            fs::remove_file(self.runs.out()).expect("removed");
        }
        for folder in [&self.moved, &self.other] {
            let _ = fs::remove_dir_all(folder);
        }
        self.runs.prepare(work, force);
        fs::create_dir(&self.other).expect("a folder");
        for name in names.keys().filter(|_| force) {
            fs::write(self.other.join(name), "theirs").expect("written");
        }
    }

    fn exchange(&self) {
        // Before the folder is created there is only the link.
        let _ = fs::rename(self.runs.out(), &self.moved);
        symlink(&self.other, self.runs.out()).expect("linked");
    }

    /// Exchanges the folder before each call in turn; yields how many there are.
    fn at_every_call(&self, work: Work, force: bool, unnamed: bool) -> usize {
        self.prepare(work, force, &Files::new());
        self.runs.run(work, force, &HookedDisk(|_: Call<'_>| Ok(usize::MAX))).expect("done");
        let new = files(&self.runs.out());
        for at in 1.. {
            self.prepare(work, force, &new);
            let (theirs, n_calls) = (files(&self.other), AtomicUsize::new(0));
            let hook = |call: Call<'_>| {
                if n_calls.fetch_add(1, Ordering::SeqCst) + 1 == at {
                    self.exchange();
                }
                match call {
                    Call::CreateUnnamed(_) if !unnamed => Err(io::ErrorKind::Unsupported.into()),
                    _ => Ok(usize::MAX),
                }
            };
            let result = self.runs.run(work, force, &HookedDisk(hook));
            let place = format!("{work:?}, force {force}, unnamed {unnamed}, call {at}: {result:?}");
            assert!(files(&self.other) == theirs, "the other folder has {:?}, {place}", files(&self.other).keys());
            if n_calls.into_inner() < at {
                assert!(result.is_ok() && files(&self.runs.out()) == new, "{place}");
                return at - 1;
            }
            let found = files(&self.moved);
            match result {
                Ok(()) => assert!(found == new, "{:?} in the folder, {place}", found.keys()),
                Err(error) => {
                    assert_eq!(error.to_string().lines().count(), 1, "{place}");
                    // None is left half, nor is a temporary one.
                    let is_whole = |(name, bytes): (&String, &Vec<u8>)| new.get(name) == Some(bytes) || bytes == b"old";
                    assert!(found.iter().all(is_whole), "{:?} in the folder, {place}", found.keys());
                }
            }
        }
        unreachable!("it ends")
    }
}

/// Row E8, meanwhile.
#[test]
fn folder_replaced_by_link_redirects_no_file() {
    // One thread, so that the calls come in the same order in every run.
    on_one_processor();
    let exchange = Exchange::new();
    for work in [Work::Pack, Work::Copy, Work::Unpack] {
        for force in [true, false] {
            for unnamed in [true, false] {
                let n_calls = exchange.at_every_call(work, force, unnamed);
                assert!(n_calls >= 8, "{n_calls} calls of {work:?}");
            }
        }
    }
}
