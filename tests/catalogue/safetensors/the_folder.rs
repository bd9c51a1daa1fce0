//! Rows S1, S2 and S13: which files are the weights, kinds of files, links.

use super::{Case, file_refused};
use crate::PACK;
use olmo_tests::catalogue::{Refusal, Report, make_fifo, measured};
use olmo_tests::npy_header;
use std::fs;
use std::os::unix::fs::symlink;

/// Row S1: `.npy` files too, one file and an index, shards without an index, other names.
#[test]
fn s1_refuses_mixed_or_misnamed_weights() {
    let mut report = Report::new("S1");
    let case = Case::new(1);
    let path = |name: &str| case.weights.join(name);
    let question = "keep one of them and move the others to another folder";
    fs::write(path("model.norm.weight.npy"), "anything").expect("written");
    report.add(".npy too", case.refused(&case.weights, &["both .npy files and model.safetensors", question]));
    fs::rename(path("model.safetensors"), path("model-00001-of-00002.safetensors")).expect("renamed");
    let words = ["both .npy files and model-00001-of-00002.safetensors", question];
    report.add("a shard and .npy files", case.refused(&case.weights, &words));
    fs::remove_file(path("model.norm.weight.npy")).expect("removed");
    let words =
        ["model-00001-of-00002.safetensors without an index", "model.safetensors.index.json next to the shards"];
    report.add("shards without an index", case.refused(&case.weights, &words));
    fs::rename(path("model-00001-of-00002.safetensors"), path("weights.safetensors")).expect("renamed");
    let words = ["no model.safetensors, but weights.safetensors", "rename it to model.safetensors"];
    report.add("another name", case.refused(&case.weights, &words));

    let case = Case::new(2);
    fs::copy(case.shard(1), case.file()).expect("copied");
    let words = ["both model.safetensors and model.safetensors.index.json", question];
    report.add("both of them", case.refused(&case.weights, &words));
    fs::remove_file(case.file()).expect("removed");
    fs::write(case.weights.join("model.norm.weight.npy"), "anything").expect("written");
    let words = ["both .npy files and model.safetensors.index.json", question];
    report.add(".npy files and an index", case.refused(&case.weights, &words));
    fs::remove_file(case.weights.join("model.norm.weight.npy")).expect("removed");
    report.add("shards alone", case.packed(&[]));

    let case = Case::new(1);
    let file = Refusal::one_line(
        "olmo-pack",
        format!("{}: not a folder", case.file().display()),
        &["a safetensors file", "give its folder"],
    );
    report.add(
        "the file instead of the folder",
        file.check(case.folder.path(), || {
            let mut command = measured(PACK);
            command.arg(case.file()).arg(&case.model).arg("--force");
            command
        }),
    );
}

/// Row S2: files of other formats: git-lfs pointers, error pages, pickles, empty files.
#[test]
fn s2_names_the_format_of_other_files() {
    let mut report = Report::new("S2");
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2969921688\n";
    let npy = npy_header("<f4", &[3]);
    let others: [(&[u8], &str, &str); 15] = [
        (b"", "empty file", "download it again"),
        (b"{", "text", "download it again"),
        (lfs, "git-lfs pointer instead of the weights", "run git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML page", "download it again"),
        (b"Entry not found", "text", "download it again"),
        (b"{\"error\":\"Repository not found\"}", "text", "download it again"),
        (b"PK\x03\x04\x14\x00 and more", "zip archive", "save_pretrained"),
        (b"\x80\x02]q\x00.", "pickle, which could run code", "save_pretrained"),
        (b"GGUF\x03\0\0\0", "GGUF file", "save_pretrained"),
        (b"\x1f\x8b\x08\x00", "gzip file", "decompress it"),
        (&npy, ".npy file", "<parameter name>.npy"),
        (b"\x89OLMO\r\n\x1a\n\x01\x00", "unknown bytes", "download it again"),
        (&[0; 4096], "unknown bytes", "download it again"),
        (b"\x02\0\0\0\0\0\0", "unknown bytes", "download it again"),
        (b"\x02\0\0\0\0\0\0\0[]", "unknown bytes", "download it again"),
    ];
    for (bytes, found, advice) in others {
        let outcome = file_refused(bytes, &[found, ", expected a safetensors file; ", advice]);
        report.add(String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).escape_debug(), outcome);
    }
    let case = Case::new(1);
    fs::remove_file(case.file()).expect("removed");
    fs::create_dir(case.file()).expect("a folder");
    report.add("a folder", case.refused(case.file(), &["is a folder"]));
    fs::remove_dir(case.file()).expect("removed");
    make_fifo(&case.file());
    report.add("a FIFO", case.refused(case.file(), &["is not a regular file"]));
    for (number, other) in [(1, "an index that is a folder"), (2, "a shard that is a folder")] {
        let case = Case::new(2);
        let path = if number == 1 { case.index() } else { case.shard(number) };
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder");
        report.add(other, case.refused(&path, &["is a folder"]));
    }
}

/// Row S13: links, as in the cache of the hub.
#[test]
fn s13_follows_links_like_the_hub_cache() {
    let mut report = Report::new("S13");
    let case = Case::new(2);
    for number in [1, 2] {
        fs::rename(case.shard(number), case.folder.join(format!("blob-{number}"))).expect("moved");
        symlink(format!("../blob-{number}"), case.shard(number)).expect("linked");
    }
    report.add("links", case.packed(&[]));
    fs::write(&case.model, "old").expect("written");
    fs::remove_file(case.folder.join("blob-2")).expect("removed");
    report.add("a dangling link", case.refused(case.shard(2), &["missing, expected a shard of the model"]));
    fs::remove_file(case.shard(2)).expect("removed");
    symlink(case.shard(2), case.shard(2)).expect("linked");
    report.add("a loop", case.refused(case.shard(2), &["Too many levels of symbolic links"]));
}
