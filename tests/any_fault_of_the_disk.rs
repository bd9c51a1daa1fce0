//! Every call of the disk fails in turn, until a run meets no fault: what was there stays, or the whole new file is
//! there, and nothing else. Interrupted calls and short writes change nothing at all.

use olmo_infer::config::{AttentionKind, ModelConfig};
use olmo_pack::copy;
use olmo_pack::disk::Disk;
use olmo_pack::error::Error;
use olmo_pack::pack::{self, Request};
use olmo_pack::unpack;
use olmo_tests::disks::{Fault, Plan};
use olmo_tests::{Stored, TempDir, on_one_processor, small_config, write_weights};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

type Files = BTreeMap<String, Vec<u8>>;

/// Something that writes files into a folder.
struct Case<'a> {
    folder: &'a Path,
    /// What a whole run leaves there.
    new: Files,
    /// Whether it makes the folder itself, when it need not replace files.
    makes_folder: bool,
    /// Writes, told whether to use force.
    write: &'a dyn Fn(bool, &dyn Disk) -> Result<(), Error>,
}

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file")))
        .collect()
}

impl Case<'_> {
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
            self.prepare(force);
            let (result, calls) = plan.run(|disk| (self.write)(force, disk));
            self.judge(&plan, force, &result, &calls);
            if calls.len() < plan.fail_at {
                assert!(result.is_ok(), "it fails without a fault");
                return plan.fail_at - 1;
            }
            plan.fail_at += 1;
        }
    }

    fn prepare(&self, force: bool) {
        let _ = fs::remove_dir_all(self.folder);
        if force || !self.makes_folder {
            fs::create_dir(self.folder).expect("a folder");
        }
        for name in self.new.keys().filter(|_| force) {
            fs::write(self.folder.join(name), "old").expect("written");
        }
    }

    fn judge(&self, plan: &Plan, force: bool, result: &Result<(), Error>, calls: &[&str]) {
        let call = calls.get(plan.fail_at - 1).unwrap_or(&"none");
        let place = format!("{call} of {} calls, force {force}, {plan:?}: {result:?}", calls.len());
        let mut left = files(self.folder);
        let mut temporary = 0;
        left.retain(|name, _| {
            let is_temporary = name.ends_with(".tmp");
            temporary += usize::from(is_temporary);
            !is_temporary
        });
        assert!(temporary <= usize::from(plan.clean_up_fails && result.is_err()), "{temporary} left after {place}");
        let harmless = match plan.fault {
            Fault::Short => true,
            Fault::Error(EINTR) => !plan.sticky,
            _ => false,
        };
        match result {
            Ok(()) => assert!(left == self.new, "not what was to be written after {place}"),
            Err(_) if harmless => panic!("not done after {place}"),
            Err(error) => self.judge_failed(&left, force, &error.to_string(), &place),
        }
    }

    /// After an error every file is as it was, or whole and new.
    fn judge_failed(&self, left: &Files, force: bool, error: &str, place: &str) {
        assert!(error.lines().count() == 1 && error.contains(self.folder.to_str().expect("UTF-8")), "{place}");
        let is_new = |(name, bytes): (&String, &Vec<u8>)| self.new.get(name) == Some(bytes);
        let is_old = |(name, bytes): (&String, &Vec<u8>)| force && self.new.contains_key(name) && bytes == b"old";
        assert!(left.iter().all(|file| is_new(file) || is_old(file)), "{:?} after {place}", left.keys());
        assert!(!force || left.len() == self.new.len(), "{:?} after {place}", left.keys());
        // What is one file must not be new after an error that does not say so.
        let says_new = error.contains("is in place, but its name may not survive a power cut");
        if self.new.len() == 1 {
            assert_eq!(left.iter().all(is_new) && !left.is_empty(), says_new, "{place}");
        }
    }
}

/// As few tensors as there can be.
fn least_config() -> ModelConfig {
    ModelConfig { layer_types: vec![AttentionKind::Full], tie_word_embeddings: true, ..small_config() }
}

#[test]
fn pack_leaves_the_old_file_or_the_whole_new_one() {
    let folder = TempDir::in_memory("pack-faults");
    let (weights, out) = (folder.join("weights"), folder.join("out"));
    write_weights(&weights, &least_config(), Stored::F32, 1);
    let write = |force, disk: &dyn Disk| {
        let request =
            Request { weights: weights.clone(), model: out.join("m.olmo"), force, threads: 1, ..Request::default() };
        pack::prepare(&request).expect("good").write(disk, &|_, _| {}).map(|_| ())
    };
    fs::create_dir(&out).expect("a folder");
    Plan::sound().run(|disk| write(false, disk)).0.expect("packed");
    let case = Case { folder: &out, new: files(&out), makes_folder: false, write: &write };
    case.try_all_faults();
}

#[test]
fn copy_leaves_the_old_file_or_the_whole_new_one() {
    let folder = TempDir::in_memory("copy-faults");
    let (weights, out) = (folder.join("weights"), folder.join("out"));
    let source = folder.join("source.olmo");
    write_weights(&weights, &least_config(), Stored::F32, 1);
    let request = Request { weights, model: source.clone(), ..Request::default() };
    let packed = pack::prepare(&request).expect("good");
    Plan::sound().run(|disk| packed.write(disk, &|_, _| {})).0.expect("packed");
    let good = fs::read(&source).expect("a model");
    let write = |force, disk: &dyn Disk| copy::run(&source, &out.join("m.olmo"), force, disk, &|_, _| {}).map(|_| ());
    let new = Files::from([("m.olmo".to_string(), good.clone())]);
    Case { folder: &out, new, makes_folder: false, write: &write }.try_all_faults();
    assert!(fs::read(&source).expect("still there") == good);
}

#[test]
fn unpack_leaves_each_file_old_or_whole_and_new() {
    // One thread, so that the calls come in the same order in every run.
    on_one_processor();
    let folder = TempDir::in_memory("unpack-faults");
    let (weights, out, model) = (folder.join("weights"), folder.join("above/out"), folder.join("m.olmo"));
    let config = ModelConfig { vocab_size: 20, hidden_size: 8, n_heads: 2, head_dim: 4, ..least_config() };
    let config = ModelConfig { n_kv_heads: 1, intermediate_size: 9, ..config };
    write_weights(&weights, &config, Stored::F32, 1);
    let request = Request { weights: weights.clone(), model: model.clone(), ..Request::default() };
    let packed = pack::prepare(&request).expect("good");
    Plan::sound().run(|disk| packed.write(disk, &|_, _| {})).0.expect("packed");
    let write = |force, disk: &dyn Disk| unpack::run(&model, &out, force, disk).map(|_| ());
    fs::create_dir(folder.join("above")).expect("a folder");
    Case { folder: &out, new: files(&weights), makes_folder: true, write: &write }.try_all_faults();
}
