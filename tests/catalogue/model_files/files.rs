//! Rows O1 to O3, O24 and O25: files that are not model files, other formats, and files with readers or unfinished.

use super::HUGE;
use super::model::Model;
use crate::{INFER, PACK};
use olmo_infer::internals::format::{HEADER_BYTES, MAGIC};
use olmo_tests::catalogue::{Report, make_fifo};
use olmo_tests::crafted::repair_header_digest;
use olmo_tests::{run, skipped};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;

/// Row O1: length: empty, truncated, too long, a sparse tail.
#[test]
fn o1_refuses_wrong_file_length() {
    let model = Model::plain();
    let mut report = Report::new("O1");
    model.refuse(&mut report, "empty", b"", &["an empty file"]);
    let length = model.good.len();
    for cut in [1, 4, 7, 8, 12, 24, 100, 2048, HEADER_BYTES - 1] {
        let has = format!("truncated: has {cut} bytes, expected 4096 at least");
        model.refuse(&mut report, format!("{cut} bytes"), &model.good[..cut], &[&has]);
    }
    for cut in [HEADER_BYTES, HEADER_BYTES + 1, 5000, length / 2, length - 4096, length - 1] {
        let has = format!("truncated: has {cut} bytes, expected {length} as its header states");
        model.refuse(&mut report, format!("{cut} bytes"), &model.good[..cut], &[&has]);
    }
    for more in [1, 64, 4095, 4096, 1 << 20] {
        let long = [&model.good[..], &vec![0; more]].concat();
        let has = format!("too long: has {} bytes, expected {length} as its header states", long.len());
        model.refuse(&mut report, format!("{more} more"), &long, &[&has]);
    }
    let sparse = model.write("sparse.olmo", &model.good);
    File::options().write(true).open(&sparse).expect("open").set_len(HUGE).expect("a sparse file");
    model.refuse_path(&mut report, "sparse tail", &sparse, &["too long: has 1099511627776 bytes"]);
}

/// Row O2: special files.
///
/// Note on O2: Files below `/proc` are regular files of length 0, and refused as empty.
#[test]
fn o2_refuses_special_files() {
    let model = Model::plain();
    let mut report = Report::new("O2");
    let path = |name: &str| model.folder.join(name);
    fs::create_dir(path("folder")).expect("a folder");
    make_fifo(&path("fifo"));
    let _socket = UnixListener::bind(path("socket")).expect("a socket");
    symlink("nowhere", path("dangling")).expect("a link");
    symlink("loop", path("loop")).expect("a link");
    symlink("folder", path("link-to-folder")).expect("a link");
    for (name, words) in [
        ("folder", &["is a folder, expected a regular file", "olmo-pack weights/ model.olmo"][..]),
        ("link-to-folder", &["is a folder, expected a regular file"]),
        ("fifo", &["is a pipe, expected a regular file", "copy it into a file"]),
        ("socket", &["is a socket, expected a regular file"]),
        ("dangling", &["cannot open: No such file"]),
        ("absent", &["cannot open: No such file"]),
        ("loop", &["cannot open: Too many levels of symbolic links"]),
        ("good.olmo/below", &["cannot open: Not a directory"]),
    ] {
        model.refuse_path(&mut report, name, &path(name), words);
    }
    for device in ["/dev/zero", "/dev/null", "/dev/full", "/dev/urandom"] {
        model.refuse_path(&mut report, device, device.as_ref(), &["is a device, expected a regular file"]);
    }
    for nothing in ["/proc/version", "/proc/self/maps"] {
        model.refuse_path(&mut report, nothing, nothing.as_ref(), &["an empty file"]);
    }
    match a_block_device() {
        Some(device) => model.refuse_path(&mut report, "block device", &device, &["is a device"]),
        None => skipped("no block device can be opened here"),
    }
}

/// A block device that this process may read.
fn a_block_device() -> Option<PathBuf> {
    let devices = fs::read_dir("/dev").ok()?.filter_map(Result::ok);
    let mut devices = devices.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()));
    devices.find_map(|entry| File::open(entry.path()).is_ok().then(|| entry.path()))
}

/// Row O3: other formats, damaged magic numbers.
#[test]
fn o3_refuses_other_formats_and_magics() {
    let model = Model::plain();
    let mut report = Report::new("O3");
    let rest = &model.good[MAGIC.len()..];
    let with_magic = |magic: &[u8]| [magic, rest].concat();
    let text_mode = ["text-mode transfer", "copy it again in binary mode"];
    for (name, bytes, words) in [
        ("GGUF", b"GGUF\x03\0\0\0and so on".to_vec(), &["a GGUF file", "olmo-pack FILE"][..]),
        ("safetensors", b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}".to_vec(), &["a safetensors checkpoint"]),
        ("npy", b"\x93NUMPY\x01\0\x76\0{'descr'".to_vec(), &["a .npy file"]),
        ("zip", b"PK\x03\x04\x14\0\0\0".to_vec(), &["a zip or PyTorch archive"]),
        ("ELF", b"\x7fELF\x02\x01\x01\0".to_vec(), &["a program"]),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), &["gzip data", "unpack it first"]),
        ("text", b"This is a model, trust me.\r\n".to_vec(), &["but text"]),
        ("html", b"<!DOCTYPE html><html><title>404".to_vec(), &["an HTML page"]),
        ("git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00".to_vec(), &["git lfs pull"]),
        ("tokens", [70, 0, 0, 0, 111, 0, 0, 0].to_vec(), &["unknown data", "are the arguments swapped?"]),
        ("noise", (0..99).map(|i: u8| i.wrapping_mul(167) | 128).collect(), &["unknown data"]),
        ("zeros", vec![0; model.good.len()], &["zeros, as an unfinished copy or packing leaves"]),
        ("CRLF to LF", with_magic(b"\x89OLMO\n\x1a"), &text_mode),
        ("LF to CRLF", with_magic(b"\x89OLMO\r\r\n\x1a"), &text_mode),
        ("CR to LF", with_magic(b"\x89OLMO\n\n\x1a"), &text_mode),
        ("end-of-file mark lost", with_magic(b"\x89OLMO\r\n"), &text_mode),
        ("7 bits", model.good.iter().map(|byte| byte & 0x7f).collect(), &text_mode),
    ] {
        let words = [words, &["not an .olmo file but "]].concat();
        model.refuse(&mut report, name, &bytes, &words);
    }
    for at in 0..MAGIC.len() {
        let mut bytes = model.good.clone();
        bytes[at] ^= 0x20;
        repair_header_digest(&mut bytes);
        model.refuse(&mut report, format!("byte {at} of the magic"), &bytes, &["not an .olmo file but "]);
    }
}

/// Row O24: many readers, a reader and a new file.
#[test]
fn o24_readers_keep_the_file_they_opened() {
    let model = Model::plain();
    let path = model.folder.join("good.olmo");
    let expected = run(INFER, [&path, &model.folder.join("t.bin")]).ok().to_string();
    for round in 0..3 {
        let readers: Vec<_> = (0..20)
            .map(|_| model.opener("olmo-infer", &path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
            .collect();
        let copy = ["copy", "--force", path.to_str().expect("UTF-8"), model.folder.join("new.olmo").to_str().unwrap()]
            .map(String::from);
        run(PACK, copy).ok();
        fs::rename(model.folder.join("new.olmo"), &path).expect("replaced");
        for reader in readers {
            let output = reader.expect("starts").wait_with_output().expect("ends");
            assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "round {round}");
        }
    }
    // One file as model and as its own copy's source, and as the tokens of a run.
    let twice = run(PACK, ["copy".as_ref(), path.as_os_str(), path.as_os_str(), "--force".as_ref()]);
    assert!(twice.refused(1).contains("is the same file as"), "{}", twice.stderr);
}

/// Row O25: the temporary file of an interrupted pack.
#[test]
fn o25_refuses_file_of_interrupted_pack() {
    let model = Model::plain();
    let mut report = Report::new("O25");
    // The header comes last.
    let mut bytes = model.good.clone();
    bytes[..HEADER_BYTES].fill(0);
    let says = ["zeros, as an unfinished copy or packing leaves"];
    for name in [".olmo-pack-123-0.tmp", ".olmo-pack-00000000deadbeef-0.tmp", "m.olmo"] {
        let path = model.write(name, &bytes);
        model.refuse_path(&mut report, name, &path, &says);
    }
    for length in [0, 1, 4096, model.good.len() / 2] {
        let path = model.write("begun.tmp", &vec![0; length]);
        let says = if length == 0 { "an empty file" } else { says[0] };
        model.refuse_path(&mut report, &format!("{length} zeros"), &path, &[says]);
    }
}
