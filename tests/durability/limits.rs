//! Few threads and little memory are errors in one line, not the end of the program.

use crate::PACK;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_tests::descriptors::limit_above;
use olmo_tests::{Finished, Stored, TempDir, run, skipped, small_config, write_weights};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Runs the program with at most `threads` of the user. The limit does not hold for root, which changes to an
/// unprivileged user.
fn with_threads(threads: u32, arguments: &str) -> Finished {
    let is_root = fs::metadata("/proc/self").expect("proc").uid() == 0;
    let as_user = if is_root { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    run("sh", ["-c", &format!("exec {as_user} prlimit --nproc={threads} {PACK} {arguments}")])
}

/// Row E13.
#[test]
fn thread_start_failure_is_one_line() {
    let folder = TempDir::new("threads");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    run(PACK, [&weights, &model]).ok();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("open to all");
    let (weights, model) = (weights.display(), model.display());
    if with_threads(1, "--version").code != Some(0) {
        skipped(format_args!("{PACK} cannot be run with a limit here"));
        return;
    }
    let out = folder.join("out").display().to_string();
    let refused = with_threads(1, &format!("{weights} {out}"));
    assert!(refused.refused(1).contains("cannot start a thread to write it"), "{}", refused.stderr);
    assert!(!Path::new(&out).exists());
    with_threads(1, &format!("verify {model}")).ok();
    with_threads(1, &format!("unpack {model} {out}")).ok();
    // On the way to enough: a thread for the writing and none for the disk. Other programs of the user may take them.
    for threads in 2..6 {
        let finished = with_threads(threads, &format!("{weights} {out}-{threads} --threads 1"));
        if finished.code != Some(0) {
            assert!(finished.refused(1).contains("cannot start a thread"), "{}", finished.stderr);
        }
    }
}

/// Row E13.
#[test]
fn out_of_memory_is_one_line() {
    let folder = TempDir::new("memory");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    // One panel of the widest down_proj takes 256 MiB.
    let config = ModelConfig {
        hidden_size: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        intermediate_size: 1 << 20,
        layer_types: vec![AttentionKind::Full],
        ..small_config()
    };
    write_weights(&weights, &config, Stored::F32, 1);
    let pack = |limit: &str| {
        let script = format!("{limit} exec {PACK} {} {} --dtype f32 --threads 1", weights.display(), model.display());
        run("sh", ["-c", &script])
    };
    let limited = pack("ulimit -v 250000;");
    assert!(limited.refused(1).contains(" bytes; close other programs or raise the limit"), "{}", limited.stderr);
    assert!(!model.exists());
    pack("").ok();
}

#[test]
fn descriptor_limit_skips_inherited_descriptors() {
    assert_eq!(limit_above(&[], 0), 3);
    assert_eq!(limit_above(&[], 5), 8);
    assert_eq!(limit_above(&[3, 4, 200], 1), 6);
    assert_eq!(limit_above(&[4], 2), 6);
}
