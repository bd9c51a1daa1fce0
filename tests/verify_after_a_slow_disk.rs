//! A file is complete however slowly the disk takes it: the numbers are filled much faster than they are written here.

use olmo_infer::config::{AttentionKind, ModelConfig};
use olmo_pack::output::{Disk, SystemDisk};
use olmo_pack::pack::{self, Request};
use olmo_pack::verify;
use olmo_tests::{Stored, TempDir, small_config, write_weights};
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The system's disk, with a pause before every write.
struct SlowDisk;

impl Disk for SlowDisk {
    fn open_folder(&self, folder: &Path) -> io::Result<File> {
        SystemDisk.open_folder(folder)
    }

    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        SystemDisk.create_unnamed(folder)
    }

    fn create_named(&self, path: &Path) -> io::Result<File> {
        SystemDisk.create_named(path)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        SystemDisk.allocate(file, bytes)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        thread::sleep(Duration::from_millis(100));
        SystemDisk.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync(file)
    }

    fn link(&self, file: &File, path: &Path) -> io::Result<()> {
        SystemDisk.link(file, path)
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        SystemDisk.rename(from, to, replace)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        SystemDisk.sync_folder(folder)
    }
}

#[test]
fn a_slow_disk_gets_every_byte() {
    // 76 MB: several batches of writes, and a last one that is not full.
    let config = ModelConfig {
        hidden_size: 512,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 128,
        vocab_size: 17001,
        layer_types: vec![AttentionKind::Full],
        ..small_config()
    };
    let folder = TempDir::new("slow");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &config, Stored::F32, 4);
    let request = Request { weights, model: model.clone(), ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SlowDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
    verify::run(&model).unwrap_or_else(|error| panic!("{error}"));
}
