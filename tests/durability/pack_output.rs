//! The model file gets its name last: after any failure before that the old file stays and nothing else is left.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::{self, HEADER_BYTES, SectionRecord, section};
use olmo_infer::internals::os::disk::{Disk, SystemDisk};
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use olmo_pack::commands::copy;
use olmo_pack::commands::pack::{self, Request};
use olmo_pack::commands::verify;
use olmo_pack::write::model_output::Target;
use olmo_tests::crafted::{Field, config_field, repair_digests};
use olmo_tests::disks::{Fault, Plan};
use olmo_tests::packed::range;
use olmo_tests::{Stored, TempDir, npy_path, repository, run, small_config, write_weights};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn folder_with_weights(name: &str) -> (TempDir, PathBuf, PathBuf) {
    let folder = TempDir::new(name);
    let weights = folder.join("weights");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    fs::create_dir(folder.join("out")).expect("folder");
    let model = folder.join("out/m.olmo");
    (folder, weights, model)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("list");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn existing_file_is_replaced_only_with_force() {
    let (folder, weights, model) = folder_with_weights("force");
    fs::write(&model, "old").expect("written");
    let line = run(PACK, [&weights, &model]).refused(1).to_string();
    assert!(line.contains("m.olmo: exists") && line.contains("--force"), "{line}");
    assert!(run(PACK, [text(&weights), text(&model), "--dry-run"]).refused(1).contains("exists"));
    // Another process has the old file open, under another name too.
    let old = File::open(&model).expect("open");
    fs::hard_link(&model, folder.join("link")).expect("linked");
    run(PACK, [text(&weights), text(&model), "--force"]).ok();
    assert_ne!(fs::metadata(&model).expect("new").ino(), old.metadata().expect("old").ino());
    assert_eq!(fs::read(folder.join("link")).expect("old"), b"old");
    ModelFile::open(&model).expect("valid");
    assert_eq!(names(&folder.join("out")), ["m.olmo"]);
}

#[test]
fn symbolic_link_stays_and_its_target_is_replaced() {
    let (folder, weights, model) = folder_with_weights("symlink");
    symlink("../real.olmo", &model).expect("linked");
    run(PACK, [&weights, &model]).ok();
    assert!(fs::symlink_metadata(&model).expect("link").is_symlink());
    ModelFile::open(&folder.join("real.olmo")).expect("valid");
    assert!(run(PACK, [&weights, &model]).refused(1).contains("exists"));
    run(PACK, [text(&weights), text(&model), "--force"]).ok();
    assert!(fs::symlink_metadata(&model).expect("link").is_symlink());
    assert_eq!(names(&folder.join("out")), ["m.olmo"]);
    let circle = folder.join("circle");
    symlink("circle", &circle).expect("linked");
    assert!(run(PACK, [&weights, &circle]).refused(1).contains("too many symbolic links"));
}

#[test]
fn follows_as_many_links_as_the_kernel() {
    let folder = TempDir::new("links");
    // Link 0 leads to a file, each other one to the one before it.
    for i in 0..=40 {
        let to = if i == 0 { "m.olmo".into() } else { format!("{}", i - 1) };
        symlink(to, folder.join(i.to_string())).expect("linked");
    }
    let (last, one_too_many) = (folder.join("39"), folder.join("40"));
    Target::new(&last, false).expect("40 links");
    let line = Target::new(&one_too_many, false).expect_err("41 links").to_string();
    assert!(line.contains("too many symbolic links"), "{line}");
    fs::write(&last, "by the kernel").expect("40 links");
    fs::write(&one_too_many, "by the kernel").expect_err("41 links");
}

#[test]
fn impossible_outputs_are_refused_before_weights_are_read() {
    let (folder, weights, model) = folder_with_weights("places");
    let refused = |path: &Path, says: &str| {
        let finished = run(PACK, [text(&weights), text(path), "--force"]);
        assert!(finished.refused(1).contains(says), "{}", finished.stderr);
    };
    refused(&folder.join("out"), "is a folder");
    refused(Path::new("/dev/null"), "not a regular file");
    refused(&folder.join("none/m.olmo"), "No such file");
    refused(&folder.join("out/m.olmo/"), "no file name at its end");
    refused(&folder.join("out/m.olmo/."), "no file name at its end");
    refused(&npy_path(&weights, "model.norm.weight").join("m.olmo"), "Not a directory");
    refused(&weights.join("m.olmo"), "is inside the weights folder");
    refused(&weights.join("../weights/m.olmo"), "is inside the weights folder");
    refused(&folder.join("out").join("n".repeat(256)), "File name too long");
    // The same file by another name.
    fs::hard_link(npy_path(&weights, "model.norm.weight"), &model).expect("linked");
    refused(&model, "is the same file as");
    assert_eq!(names(&folder.join("out")), ["m.olmo"]);
    assert_eq!(fs::metadata(&model).expect("input").nlink(), 2);
}

#[test]
fn bare_name_is_relative_and_mode_follows_umask() {
    let (folder, weights, _) = folder_with_weights("umask");
    let command = format!("umask 027 && exec {PACK} ../weights m.olmo");
    let finished = Command::new("sh").args(["-c", &command]).current_dir(folder.join("out")).output().expect("sh runs");
    assert!(finished.status.success());
    let mode = fs::metadata(folder.join("out/m.olmo")).expect("model").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    assert_eq!(names(&weights).len(), 26);
}

#[test]
fn closed_stdout_is_accepted_and_full_one_reported() {
    let (_folder, weights, model) = folder_with_weights("stdout");
    let paths = format!("{} {} --force", text(&weights), text(&model));
    let status =
        |command: String| Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status().expect("sh");
    // The status of the first program of the pipe: `true` has closed it before anything is written.
    let closed =
        status(format!("{{ sleep 0.3; {PACK} {paths}; echo $? > {}; }} | true", text(&model.with_extension("rc"))));
    assert!(closed.success());
    assert_eq!(fs::read_to_string(model.with_extension("rc")).expect("status"), "0\n");
    assert_eq!(status(format!("{PACK} {paths} > /dev/full")).code(), Some(1));
}

/// Row E12: kill -9, power loss.
#[test]
fn killed_pack_leaves_only_the_old_file() {
    let folder = TempDir::new("kill");
    let (weights, model) = (folder.join("weights"), folder.join("out/m.olmo"));
    // Enough to be killed in the middle: 150 MB.
    let config = olmo_infer::internals::format::config::ModelConfig {
        vocab_size: 250_000,
        hidden_size: 72,
        head_dim: 12,
        ..small_config()
    };
    write_weights(&weights, &config, Stored::F32, 1);
    fs::create_dir(folder.join("out")).expect("folder");
    let mut interrupted = 0;
    for (i, signal) in [2, 15, 9, 1, 9, 2].into_iter().enumerate() {
        fs::write(&model, "old").expect("written");
        let mut child = Command::new(PACK)
            .args([text(&weights), text(&model), "--force", "--threads", "1"])
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(Duration::from_millis(15 + 20 * i as u64));
        let kill =
            Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().expect("kill runs");
        // It has not been waited for, so even one that is over takes a signal.
        assert!(kill.success());
        let status = child.wait().expect("ends");
        if status.signal().is_none() {
            // It was faster. Then everything must be there.
            assert!(status.success(), "{status}");
            ModelFile::open(&model).expect("valid");
        } else {
            interrupted += 1;
            assert_eq!(status.signal(), Some(signal));
            assert_eq!(fs::read(&model).expect("old"), b"old");
        }
        assert_eq!(names(&folder.join("out")), ["m.olmo"]);
    }
    assert!(interrupted > 0, "every pack was over before its signal");
}

#[test]
fn concurrent_packs_leave_one_whole_file() {
    let (folder, weights, model) = folder_with_weights("race");
    let other = folder.join("other");
    write_weights(&other, &small_config(), Stored::F32, 2);
    let spawn = |weights: &Path| {
        let arguments = [text(weights), text(&model), "--force"];
        Command::new(PACK).args(arguments).stdout(Stdio::null()).spawn().expect("starts")
    };
    for _ in 0..10 {
        for mut child in [spawn(&weights), spawn(&other), spawn(&weights)] {
            assert!(child.wait().expect("ends").success());
        }
        run(PACK, ["verify", text(&model)]).ok();
        assert_eq!(names(&folder.join("out")), ["m.olmo"]);
    }
}

#[test]
fn unsyncable_folder_is_refused_before_writing() {
    let (_folder, weights, model) = folder_with_weights("unreadable");
    let request = Request { weights, model, ..Request::default() };
    let plan = Plan { fail_at: 1, fault: Fault::Error(13), ..Plan::sound() };
    let (result, calls) = plan.run(|disk| pack::prepare(&request).expect("good").write(disk, &|_, _| {}));
    let error = result.expect_err("refused").to_string();
    assert!(error.ends_with("out: cannot open the folder for the model: Permission denied"), "{error}");
    assert_eq!(calls, ["open_folder"]);
}

#[test]
fn disk_error_in_the_middle_is_reported() {
    let folder = TempDir::new("middle");
    let (weights, model) = (folder.join("weights"), folder.join("m.olmo"));
    // More than the 128 MiB after which syncing begins in parallel with writing.
    let config = olmo_infer::internals::format::config::ModelConfig {
        vocab_size: 250_000,
        hidden_size: 72,
        head_dim: 12,
        ..small_config()
    };
    write_weights(&weights, &config, Stored::F32, 1);
    let request = Request { weights, model: model.clone(), force: true, ..Request::default() };
    let pack = |fail_at| {
        let plan = Plan { fail_at, fault: Fault::Error(5), ..Plan::sound() };
        plan.run(|disk| pack::prepare(&request).expect("good").write(disk, &|_, _| {}))
    };
    let (result, calls) = pack(usize::MAX);
    result.expect("no fault");
    assert_eq!(calls.iter().filter(|call| **call == "sync").count(), 3, "one in the middle, two at the end: {calls:?}");
    fs::remove_file(&model).expect("removed");
    let middle = calls.iter().position(|call| *call == "sync").expect("a sync") + 1;
    let (result, calls) = pack(middle);
    // Writing continues meanwhile, so the fault may meet a write instead; either must be reported.
    assert!(matches!(calls[middle - 1], "sync" | "write_at"), "{calls:?}");
    assert!(result.expect_err("told").to_string().contains("Input/output error"));
    assert!(!model.exists());
}

#[test]
fn writes_whole_windows_in_order_with_zeros_between() {
    let folder = TempDir::new("batches");
    let (weights, model) = (folder.join("weights"), folder.join("m.olmo"));
    // 35 MB: memory of earlier batches is used again, with old numbers where zeros must be.
    let config = olmo_infer::internals::format::config::ModelConfig {
        vocab_size: 60_000,
        hidden_size: 72,
        head_dim: 12,
        ..small_config()
    };
    write_weights(&weights, &config, Stored::F32, 1);
    let request = Request { weights, model: model.clone(), ..Request::default() };
    let (writes, steps) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let disk = HookedDisk(|call: Call<'_>| {
        if let Call::Write(_, bytes, offset) = call {
            writes.lock().expect("no panic").push((offset, bytes.len() as u64));
        }
        Ok(usize::MAX)
    });
    let progress = |at, all| steps.lock().expect("no panic").push((at, all));
    pack::prepare(&request).expect("good").write(&disk, &progress).expect("written");
    let (mut writes, steps) = (writes.into_inner().expect("no panic"), steps.into_inner().expect("no panic"));
    // Huge pages of the page cache: each write is one.
    let (window, end) = (2 << 20, ModelFile::open(&model).expect("valid").layout().file_bytes);
    let windows: Vec<(u64, u64)> = (0..end).step_by(2 << 20).map(|at| (at, window.min(end - at))).collect();
    assert!(windows.len() > 12, "{} windows", windows.len());
    // Index and sections and the header come at the end.
    assert_eq!(writes.split_off(windows.len()).iter().map(|write| write.0).collect::<Vec<_>>(), [4096, 0]);
    assert_eq!(writes, windows);
    assert_eq!(steps, windows.iter().map(|(at, bytes)| (at + bytes, end)).collect::<Vec<_>>());
    verify::run(&model).expect("the gaps are zeros");
}

/// Packs to `model` on a disk with this hook, without `--force`.
fn pack_on(weights: &Path, model: &Path, hook: impl Fn(Call<'_>) -> io::Result<usize> + Sync) -> Result<(), String> {
    let request = Request { weights: weights.into(), model: model.into(), ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&HookedDisk(hook), &|_, _| {}));
    packed.map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn model_that_reader_refuses_gets_no_name() {
    let folder = TempDir::new("read-back");
    let weights = repository().join("demo/weights");
    let (good, model) = (folder.join("good.olmo"), folder.join("out/m.olmo"));
    fs::create_dir(folder.join("out")).expect("created");
    pack_on(&weights, &good, |_| Ok(usize::MAX)).expect("packed");
    let file = ModelFile::open(&good).expect("a model");
    let sections: Vec<(u32, usize)> = file.sections().iter().map(|s| (s.kind.get(), s.offset.get() as usize)).collect();
    let (n_tensors, bytes) = (file.specs().len(), file.layout().data_offset as usize);
    // The damage that a fault of the writer leaves in the file, and the message about it. Those with a section have
    // matching digests.
    type Change<'c> = Box<dyn Fn(&mut [u8]) + Sync + 'c>;
    let mut cases: Vec<(Change, Option<usize>, String)> = Vec::new();
    let flip = |at: usize| -> Change { Box::new(move |head: &mut [u8]| head[at] ^= 1) };
    cases.push((flip(140), None, "header digest: found ".into()));
    cases.push((flip(HEADER_BYTES), None, "index digest: found ".into()));
    for &(kind, at) in &sections {
        let says = if kind == section::BF12 { "section BF12: " } else { ": its digest is wrong" };
        cases.push((flip(at), None, says.into()));
    }
    let config = |field: &'static str, value: u64| -> Change {
        Box::new(move |head: &mut [u8]| config_field(field).set(head, value))
    };
    cases.push((config("n_heads", 0), Some(usize::MAX), "num_attention_heads".into()));
    let place = |kind: u32| sections.iter().position(|section| section.0 == kind).expect("a section");
    for (kind, at, says) in [
        (section::SOURCES, 0, "section SOURCES: "),
        (section::VOCABULARY, 4, "section VOCABULARY: reserved fields"),
        (section::TOKENIZER, 4, "section TOKENIZER: "),
        (section::FILES, 4, "section FILES: "),
    ] {
        let at = sections[place(kind)].1 + at;
        cases.push((Box::new(move |head: &mut [u8]| head[at] ^= 0x40), Some(place(kind)), says.into()));
    }
    let extents = &file.layout().sections;
    let corrupt = |out: &File, (change, under_digests, _): &(Change, Option<usize>, String)| {
        let mut head = vec![0; bytes];
        out.read_exact_at(&mut head, 0).expect("what was written can be read");
        if head[0] == 0 {
            // The header comes last.
            return;
        }
        change(&mut head);
        if let Some(index) = *under_digests {
            if let Some(extent) = extents.get(index) {
                let digest = format::digest(&head[range(*extent)], sections[index].0.into());
                Field::of_section(n_tensors, index, offset_of!(SectionRecord, digest), 8).set(&mut head, digest);
            }
            repair_digests(&mut head);
        }
        out.write_all_at(&head, 0).expect("written");
    };
    for case in &cases {
        for unnamed in [true, false] {
            let hook = |call: Call<'_>| {
                match call {
                    Call::CreateUnnamed(_) if !unnamed => return Err(io::ErrorKind::Unsupported.into()),
                    Call::Sync(out) => corrupt(out, case),
                    _ => {}
                }
                Ok(usize::MAX)
            };
            let copied = copy::run(&good, &model, false, &HookedDisk(hook), &|_, _| {});
            for refused in [pack_on(&weights, &model, hook), copied.map(|_| ()).map_err(|error| error.to_string())] {
                let line = refused.expect_err("refused");
                let begins = format!("{}: not written: the reader would reject it: ", model.display());
                let ends = "; this is a bug in olmo-pack or a disk error, please report it";
                let found = line.strip_prefix(&begins).and_then(|line| line.strip_suffix(ends));
                assert!(found.is_some_and(|found| found.contains(&case.2)), "{}: {line}", case.2);
                assert_eq!(names(&folder.join("out")), [""; 0], "{line}");
            }
        }
    }
    // The same without a fault.
    copy::run(&good, &model, false, &SystemDisk, &|_, _| {}).expect("copied");
}

#[test]
fn whole_file_is_preallocated_before_writing() {
    let (_folder, weights, model) = folder_with_weights("reserve");
    let reserve = |number: i32| {
        let calls = Mutex::new(Vec::new());
        let reserved = Mutex::new(0);
        let result = pack_on(&weights, &model, |call| {
            calls.lock().expect("no panic").push(call.name());
            match call {
                Call::Allocate(_, bytes) if number == 0 => *reserved.lock().expect("no panic") = bytes,
                Call::Allocate(..) => return Err(io::Error::from_raw_os_error(number)),
                _ => {}
            }
            Ok(usize::MAX)
        });
        (result, calls.into_inner().expect("no panic"), reserved.into_inner().expect("no panic"))
    };
    let (result, calls, bytes) = reserve(0);
    assert_eq!((result, &calls[..3]), (Ok(()), &["open_folder", "create_unnamed", "allocate"][..]));
    assert_eq!(bytes, fs::metadata(&model).expect("a model").len());
    // No space left, above the quota, larger than a file may be.
    for number in [28, 122, 27] {
        fs::remove_file(&model).ok();
        let (result, calls, _) = reserve(number);
        assert!(result.is_err_and(|line| line.contains("m.olmo")) && calls.len() == 3, "{number}: {calls:?}");
    }
    // A file system that cannot reserve: not supported, not known, not permitted.
    for number in [95, 38, 1] {
        assert_eq!(reserve(number).0, Ok(()), "{number}");
        fs::remove_file(&model).expect("removed");
    }
    let file = File::create(&model).expect("created");
    match SystemDisk.allocate(&file, 100_000) {
        Err(error) if error.raw_os_error() == Some(95) => olmo_tests::skipped("this file system cannot reserve room"),
        allocated => {
            allocated.expect("room");
            assert!(file.metadata().expect("its length").blocks() * 512 >= 100_000);
        }
    }
}

#[test]
fn full_disk_error_reports_free_space() {
    let (_folder, weights, model) = folder_with_weights("full");
    let target = Target::new(&model, false).expect("a place");
    let free = target.free_bytes().expect("the OS reports it");
    assert!(free > 1 << 20, "{free} bytes are free");
    target.check_free_space(free / 2).expect("room");
    let line = target.check_free_space(u64::MAX).expect_err("no disk is so large").to_string();
    assert!(line.contains("needs 18446744073709551615 bytes, ") && line.contains(" are free"), "{line}");
    // Other programs take space meanwhile, so that a write may still find none.
    for (number, says) in [(28, "no space left: "), (5, "cannot write: Input/output error")] {
        let line = pack_on(&weights, &model, |call| match call {
            Call::Write(..) => Err(io::Error::from_raw_os_error(number)),
            _ => Ok(usize::MAX),
        });
        assert!(line.as_ref().is_err_and(|line| line.contains(says)), "{line:?}");
    }
}

#[test]
fn file_created_meanwhile_is_not_replaced_without_force() {
    let (folder, weights, model) = folder_with_weights("meanwhile");
    for unnamed in [true, false] {
        let line = pack_on(&weights, &model, |call| {
            match call {
                Call::CreateUnnamed(_) if !unnamed => return Err(io::ErrorKind::Unsupported.into()),
                Call::Link(_, _, to) | Call::Rename(_, _, to) if to == "m.olmo" => {
                    fs::write(&model, "theirs").expect("written");
                }
                _ => {}
            }
            Ok(usize::MAX)
        });
        let line = line.expect_err("the name is taken");
        assert!(line.contains("cannot put it in place: File exists"), "{line}");
        assert_eq!(fs::read(&model).expect("there"), b"theirs");
        assert_eq!(names(&folder.join("out")), ["m.olmo"]);
        fs::remove_file(&model).expect("removed");
    }
}

#[test]
fn temporary_names_are_retried_a_bounded_number_of_times() {
    let (_folder, weights, model) = folder_with_weights("names");
    let tries = |kind: io::ErrorKind| {
        let drawn = Mutex::new(BTreeSet::new());
        let result = pack_on(&weights, &model, |call| match call {
            Call::CreateUnnamed(_) => Err(io::ErrorKind::Unsupported.into()),
            Call::CreateNamed(_, name) => {
                assert!(drawn.lock().expect("no panic").insert(name.to_os_string()), "the same name again");
                Err(kind.into())
            }
            _ => Ok(usize::MAX),
        });
        result.expect_err("no name");
        drawn.into_inner().expect("no panic").len()
    };
    assert_eq!([tries(io::ErrorKind::AlreadyExists), tries(io::ErrorKind::PermissionDenied)], [1001, 1]);
}

#[test]
fn interrupted_calls_are_retried_a_bounded_number_of_times() {
    let (_folder, weights, model) = folder_with_weights("interrupted");
    for (interruptions, is_done) in [(1, true), (1000, true), (1001, false)] {
        let left = AtomicUsize::new(interruptions);
        let result = pack_on(&weights, &model, |call| {
            let interrupts = matches!(call, Call::OpenFolder(_)) && left.load(Relaxed) > 0;
            if interrupts {
                left.fetch_sub(1, Relaxed);
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(usize::MAX)
        });
        assert_eq!((result.is_ok(), model.exists(), left.into_inner()), (is_done, is_done, 0), "{interruptions}");
        fs::remove_file(&model).ok();
    }
}

/// Row W24: a file that changes while it is packed (in the process, where the moment can be chosen).
#[test]
fn weights_modified_while_packing_are_reported() {
    let (_folder, weights, model) = folder_with_weights("change");
    let request = Request { weights: weights.clone(), model: model.clone(), ..Request::default() };
    type Change = (fn(&Path), &'static str);
    let changed = "changed while being packed";
    let changes: [Change; 4] = [
        (|path| fs::write(path, fs::read(path).unwrap()).unwrap(), changed),
        (|path| File::options().write(true).open(path).unwrap().set_len(100).unwrap(), changed),
        (|path| fs::remove_file(path).unwrap(), "No such file"),
        (
            |path| {
                let copy = path.with_extension("new");
                fs::copy(path, &copy).unwrap();
                fs::rename(copy, path).unwrap();
            },
            changed,
        ),
    ];
    for (change, says) in changes {
        write_weights(&weights, &small_config(), Stored::F32, 1);
        let prepared = pack::prepare(&request).expect("good");
        // Clocks of file systems tick in milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        change(&npy_path(&weights, "lm_head.weight"));
        let line = prepared.write(&SystemDisk, &|_, _| {}).expect_err("noticed").to_string();
        assert!(line.contains("lm_head.weight.npy: ") && line.contains(says), "{line}");
        assert!(!model.exists());
    }
}
