//! Slightly wrong paths: the message names the right one, or the program takes it.

use crate::PACK;
use olmo_tests::{Stored, TempDir, run, small_config, write_weights};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The error of packing `weights`.
#[track_caller]
fn refused(weights: &Path, model: &Path) -> String {
    run(PACK, [weights, model]).refused(1).to_string()
}

#[test]
fn names_the_snapshot_of_a_hub_cache() {
    let folder = TempDir::new("hub");
    let model = folder.join("m.olmo");
    let cache = folder.join("hub/models--allenai--OLMo-2-0425-1B");
    let snapshot = cache.join("snapshots/b5a1");
    fs::create_dir_all(cache.join("blobs")).expect("folders");
    fs::create_dir_all(cache.join("refs")).expect("folders");
    fs::create_dir_all(&snapshot).expect("folders");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    for (i, entry) in fs::read_dir(&weights).expect("weights").enumerate() {
        let path = entry.expect("an entry").path();
        let blob = cache.join("blobs").join(format!("{i:064x}"));
        fs::copy(&path, &blob).expect("copied");
        symlink(blob, snapshot.join(path.file_name().expect("a name"))).expect("linked");
    }
    fs::write(cache.join("refs/main"), "b5a1\n").expect("written");
    let advice = format!("expected the folder of a revision; give {}", snapshot.display());
    for place in [cache.clone(), cache.join("snapshots"), cache.join("blobs"), cache.join("refs")] {
        let line = refused(&place, &model);
        assert!(line.contains("Hugging Face cache") && line.ends_with(&advice), "{line}\nwants {advice}");
    }
    // Of several, that of refs/main first.
    for revision in ["0a", "ff", "77"] {
        fs::create_dir(cache.join("snapshots").join(revision)).expect("a folder");
    }
    let line = refused(&cache, &model);
    let several = format!("give one of {}, {}", snapshot.display(), cache.join("snapshots/0a").display());
    assert!(line.contains(&several) && line.ends_with(" and 1 more"), "{line}\nwants {several}");
    fs::create_dir(folder.join("hub/models--a--other")).expect("a folder");
    let line = refused(&folder.join("hub"), &model);
    assert!(line.contains(&format!("expected the folder of one model; give one of {}, ", cache.display())), "{line}");
    run(PACK, [&snapshot, &model]).ok();
    // Other empty folders stay what they are.
    let empty = folder.join("blobs");
    fs::create_dir(&empty).expect("a folder");
    assert!(refused(&empty, &model).contains("no .npy or safetensors files"));
}

#[test]
fn copies_into_a_folder_like_cp() {
    let folder = TempDir::new("copy-into");
    let (weights, model, other) = (folder.join("w"), folder.join("m.olmo"), folder.join("other"));
    write_weights(&weights, &small_config(), Stored::F32, 2);
    run(PACK, [&weights, &model]).ok();
    fs::create_dir(&other).expect("a folder");
    let copy = |flags: &[&str]| {
        let paths = ["copy".as_ref(), model.as_os_str(), other.as_os_str()];
        run(PACK, paths.into_iter().chain(flags.iter().map(|flag| flag.as_ref())))
    };
    let said = copy(&[]);
    assert!(said.ok().starts_with(&format!("{}: ", other.join("m.olmo").display())), "{}", said.stdout);
    assert!(fs::read(other.join("m.olmo")).expect("read") == fs::read(&model).expect("read"));
    assert!(copy(&[]).refused(1).contains("other/m.olmo: exists, expected a file name for the model; pass --force"));
    copy(&["--force"]).ok();
    // The folder of the model itself.
    let here = run(PACK, ["copy".as_ref(), model.as_os_str(), folder.path().as_os_str(), "--force".as_ref()]);
    assert!(here.refused(1).contains("m.olmo: is the same file as"), "{}", here.stderr);
    let line = refused(&weights, &other);
    let says = format!(
        "is a folder, expected a file name for the model; name a file in it, as in {}",
        other.join("model.olmo").display()
    );
    assert!(line.ends_with(&says), "{line}\nwants {says}");
}
