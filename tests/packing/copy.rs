//! `olmo-pack copy`: the same bytes, checked, and nothing at all when something is wrong.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use olmo_pack::commands::copy;
use olmo_tests::{Stored, TempDir, run, small_config, write_weights};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A model that takes several windows of 2 MiB, with a vocabulary. Its last tensor is a vector, because panels need no
/// padding behind them.
fn packed(folder: &TempDir) -> PathBuf {
    let config = ModelConfig {
        hidden_size: 300,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 50,
        intermediate_size: 701,
        vocab_size: 2500,
        tie_word_embeddings: true,
        layer_types: vec![AttentionKind::Full; 2],
        ..small_config()
    };
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &config, Stored::F32, 8);
    fs::write(weights.join("vocab.txt"), "0\ta\n1\tbc\n4\td\n").expect("written");
    run(PACK, [&weights, &model]).ok();
    fs::remove_dir_all(&weights).expect("removed");
    model
}

fn copied(from: &Path, to: &Path) -> olmo_tests::Finished {
    run(PACK, ["copy".as_ref(), from, to])
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("list");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn copy_has_the_same_bytes() {
    let folder = TempDir::new("copy");
    let (model, to) = (packed(&folder), folder.join("c.olmo"));
    let bytes = fs::read(&model).expect("a model");
    assert!(bytes.len() > 3 * (2 << 20) && bytes.len() % (2 << 20) != 0, "{} bytes", bytes.len());
    let said = copied(&model, &to);
    assert!(said.ok().ends_with(&format!("c.olmo: {} bytes, every digest checked\n", bytes.len())), "{}", said.stdout);
    assert!(fs::read(&to).expect("a copy") == bytes);
    assert_eq!(names(&folder), ["c.olmo", "m.olmo"]);
}

#[test]
fn existing_file_is_replaced_only_with_force() {
    let folder = TempDir::new("copy-force");
    let (model, to) = (packed(&folder), folder.join("c.olmo"));
    fs::write(&to, "old").expect("written");
    let line = copied(&model, &to).refused(1).to_string();
    assert!(line.contains("c.olmo: exists, ") && line.ends_with("; pass --force to replace it"), "{line}");
    assert_eq!(fs::read(&to).expect("still there"), b"old");
    run(PACK, ["copy".as_ref(), model.as_os_str(), to.as_os_str(), "--force".as_ref()]).ok();
    assert!(fs::read(&to).expect("a copy") == fs::read(&model).expect("a model"));
    let inode = fs::metadata(&model).expect("a file").ino();
    let same = run(PACK, ["copy".as_ref(), model.as_os_str(), model.as_os_str(), "--force".as_ref()]);
    assert!(same.refused(1).contains("is the same file as"), "{}", same.stderr);
    assert_eq!(fs::metadata(&model).expect("a file").ino(), inode);
}

#[test]
fn damage_in_any_part_leaves_no_copy() {
    let folder = TempDir::new("copy-damage");
    let (model, to) = (packed(&folder), folder.join("c.olmo"));
    let good = fs::read(&model).expect("a model");
    let file = ModelFile::open(&model).expect("a model");
    let layout = file.layout();
    let tensors = file.specs().iter().map(|spec| spec.name()).zip(&layout.tensors);
    let sections = file.sections().iter().map(|record| match record.kind.get() {
        1 => "section SOURCES".to_string(),
        2 => "section VOCABULARY".to_string(),
        3 => "section CONFIG_JSON".to_string(),
        4 => "section PROVENANCE".to_string(),
        6 => "section TOKENIZER".to_string(),
        8 => "section FILES".to_string(),
        other => panic!("section {other}"),
    });
    let parts: Vec<_> = sections.zip(&layout.sections).chain(tensors).map(|(name, &extent)| (name, extent)).collect();
    assert!(parts.len() > 20);
    for (name, extent) in parts {
        for at in [extent.offset, extent.end() - 1] {
            let mut bad = good.clone();
            bad[at as usize] ^= 4;
            let path = folder.join("bad.olmo");
            fs::write(&path, &bad).expect("written");
            let finished = copied(&path, &to);
            let line = finished.refused(1);
            assert!(line.contains(&format!("bad.olmo: {name}: its digest is wrong; ")), "byte {at}: {line}");
            assert!(!to.exists());
        }
    }
    assert_eq!(names(&folder), ["bad.olmo", "m.olmo"]);
    assert!(copied(&folder.join("absent"), &to).refused(1).contains("absent"));
}

#[test]
fn damage_between_parts_leaves_no_copy() {
    let folder = TempDir::new("copy-padding");
    let (model, to) = (packed(&folder), folder.join("c.olmo"));
    let good = fs::read(&model).expect("a model");
    let file = ModelFile::open(&model).expect("a model");
    let layout = file.layout();
    let parts: Vec<_> = [layout.index].iter().chain(&layout.sections).chain(&layout.tensors).copied().collect();
    let begins = parts[1..].iter().map(|part| part.offset).chain([layout.file_bytes]);
    let gaps: Vec<_> = parts.iter().map(|part| part.end()).zip(begins).filter(|(begin, end)| begin < end).collect();
    // Between sections, before the data, between tensors, and at the end.
    let has = |wanted: &dyn Fn(u64, u64) -> bool| gaps.iter().any(|&(begin, end)| wanted(begin, end));
    assert!(has(&|_, end| end < layout.data_offset) && has(&|_, end| end == layout.data_offset));
    assert!(has(&|begin, end| begin > layout.data_offset && end < layout.file_bytes));
    assert!(has(&|_, end| end == layout.file_bytes), "{gaps:?}");
    for (begin, end) in gaps {
        for at in [begin, end - 1] {
            let mut bad = good.clone();
            bad[at as usize] ^= 4;
            let path = folder.join("bad.olmo");
            fs::write(&path, &bad).expect("written");
            let finished = copied(&path, &to);
            let line = finished.refused(1);
            assert!(line.contains(&format!("bad.olmo: byte {at}: padding that is not zero; ")), "{line}");
            assert!(!to.exists());
        }
    }
    assert_eq!(names(&folder), ["bad.olmo", "m.olmo"]);
}

#[test]
fn header_modified_during_copy_is_reported() {
    let folder = TempDir::new("copy-header");
    let (model, to) = (packed(&folder), folder.join("c.olmo"));
    // After the model was opened and before it is read.
    let disk = HookedDisk(|call: Call<'_>| {
        if let Call::Allocate(..) = call {
            File::options().write(true).open(&model).expect("the model").write_all_at(b"x", 4000).expect("changed");
        }
        Ok(usize::MAX)
    });
    let error = copy::run(&model, &to, false, &disk, &|_, _| {}).map(|_| ()).expect_err("another file").to_string();
    assert!(error.ends_with("m.olmo: changed while it was read; copy it again"), "{error}");
    assert_eq!(names(&folder), ["m.olmo"]);
}
