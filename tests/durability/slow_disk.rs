//! A file is complete however slowly the disk takes it: the numbers are filled much faster than they are written here.

use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::os::hooked_disk::{Call, HookedDisk};
use olmo_pack::commands::pack::{self, Request};
use olmo_pack::commands::verify;
use olmo_tests::{Stored, TempDir, small_config, write_weights};
use std::thread;
use std::time::Duration;

#[test]
fn slow_disk_gets_every_byte() {
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
    let slow_disk = HookedDisk(|call: Call<'_>| {
        if matches!(call, Call::Write(..)) {
            thread::sleep(Duration::from_millis(100));
        }
        Ok(usize::MAX)
    });
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&slow_disk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{error}"));
    verify::run(&model).unwrap_or_else(|error| panic!("{error}"));
}
