//! For tests: every writer of a file leaves the old one or the whole new one, for every fault at every call.

use crate::failure::Failure;
use olmo_infer::internals::os::disk::Disk;
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;

type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry"));
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, fs::read(entry.path()).expect("a file"))
    };
    entries.map(file).collect()
}

/// What happens before a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Happens {
    /// It fails with this number.
    Fails(i32),
    /// It fails with this number, and so does every call after it, those that clear up among them.
    Breaks(i32),
    /// The folder is moved away, and a link to another takes its place.
    Exchanged,
}

/// Lets a writer of `new` to the path that it is given meet every fault at every call, and the folder be exchanged
/// before every call: there is the old file, or the whole new one, and nothing else; no other folder has changed.
/// `replaces` is whether there is an old file.
pub fn assert_whole_or_not_at_all(replaces: bool, new: &[u8], write: impl Fn(&dyn Disk, &Path) -> Result<(), Failure>) {
    const EINTR: i32 = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let [out, moved, other] = ["out", "moved", "other"].map(|name| folder.path().join(name));
    let new = Files::from([("file".into(), new.to_vec())]);
    let old = if replaces { Files::from([("file".into(), b"old".to_vec())]) } else { Files::new() };
    // Interrupted, failed, refused, full; EOPNOTSUPP at the first of the calls is a system without unnamed files.
    let events = [EINTR, 5, 13, 28].map(Happens::Fails).into_iter().chain([Happens::Breaks(5), Happens::Exchanged]);
    for (happens, unnamed) in events.flat_map(|happens| [(happens, true), (happens, false)]) {
        for at in 1.. {
            let _ = fs::remove_file(&out);
            for path in [&out, &moved, &other] {
                let _ = fs::remove_dir_all(path);
            }
            for path in [&out, &other] {
                fs::create_dir(path).expect("a folder");
                old.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).expect("written"));
            }
            let (n_calls, met) = (Mutex::new(0), Mutex::new("none"));
            let hook = |call: Call<'_>| {
                let name = call.name();
                let mut n_calls = n_calls.lock().expect("no panic");
                *n_calls += 1;
                if *n_calls == at {
                    *met.lock().expect("no panic") = name;
                    match happens {
                        Happens::Fails(number) => return Err(io::Error::from_raw_os_error(number)),
                        Happens::Breaks(_) => {}
                        Happens::Exchanged => {
                            fs::rename(&out, &moved).expect("moved");
                            symlink(&other, &out).expect("linked");
                        }
                    }
                }
                if let Happens::Breaks(number) = happens
                    && *n_calls >= at
                {
                    return Err(io::Error::from_raw_os_error(number));
                }
                match call {
                    Call::CreateUnnamed(_) if !unnamed => Err(io::ErrorKind::Unsupported.into()),
                    // Never all at once.
                    Call::Write(_, bytes, _) => Ok(bytes.len().div_ceil(2)),
                    _ => Ok(usize::MAX),
                }
            };
            let result = write(&HookedDisk(hook), &out.join("file")).map_err(|failure| failure.to_string());
            let met = met.into_inner().expect("no panic");
            let place = format!("{happens:?} at call {at}, {met}, unnamed {unnamed}: {result:?}");
            assert_eq!(files(&other), old, "in another folder: {place}");
            let mut found = files(if moved.exists() { &moved } else { &out });
            if matches!(happens, Happens::Breaks(_)) {
                // What cannot be removed is left, under a name of its own.
                found.retain(|name, _| !name.ends_with(".tmp"));
            }
            match &result {
                Ok(()) => {
                    assert_eq!(found, new, "{place}");
                    // A folder that may not be read is not synced, and unnamed files are not known everywhere.
                    let is_survived = met == "none"
                        || matches!(happens, Happens::Exchanged | Happens::Fails(EINTR))
                        || met == "create_unnamed" && happens == Happens::Fails(5)
                        || met == "open_folder" && happens == Happens::Fails(13);
                    assert!(is_survived, "an error is lost: {place}");
                }
                Err(line) => {
                    assert!(line.lines().count() == 1 && line.contains("file: cannot "), "{place}");
                    let says_new = line.contains("though it is in place");
                    assert_eq!(&found, if says_new { &new } else { &old }, "{place}");
                    assert!(!matches!(happens, Happens::Exchanged | Happens::Fails(EINTR)), "{place}");
                }
            }
            if n_calls.into_inner().expect("no panic") < at {
                assert!(at > 6, "{at} calls");
                break;
            }
        }
    }
}
