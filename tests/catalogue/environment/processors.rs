//! Rows E15 and E17: processors and their modes.

use super::place::Place;
use crate::INFER;
#[cfg(target_arch = "x86_64")]
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Session;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::network::Network;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::parallel::team::{Team, Threads, with_team};
use olmo_tests::catalogue::Report;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
#[cfg(target_arch = "x86_64")]
use std::{thread, time::Duration};

/// Row E15: processors.
#[test]
fn e15_processor_count_changes_no_result() {
    let place = Place::new("e15");
    let mut report = Report::new("E15");
    let expected = place.sh("$INFER m.olmo t.bin --json").ok().to_string();
    for script in [
        "$INFER m.olmo t.bin --json --isa scalar",
        "taskset -c 0 $INFER m.olmo t.bin --json",
        "taskset -c 0 $INFER m.olmo t.bin --json --threads 4",
    ] {
        let finished = place.sh(script);
        report.holds(script, finished.stdout == expected, format_args!("{finished:?}"));
    }
    // Without our kernels the products are other sums of the same numbers.
    let portable = place.sh("$INFER m.olmo t.bin --json --isa portable");
    let as_many = portable.ok().lines().count() == expected.lines().count();
    report.holds("portable", as_many, &portable.stdout);
    // The processors change under a run that has begun.
    let child = {
        let mut command = place.command(INFER);
        command.args(["m.olmo", "t.bin", "--steps", "2000", "--threads", "2", "--logits", "out/moved.npy"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let moved = Command::new("taskset").args(["-a", "-c", "-p", "0", &child.id().to_string()]).output();
    drop(moved.expect("taskset runs"));
    let output = child.wait_with_output().expect("ends");
    // It may have been moved before it counted the processors, and then prints a note.
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_quiet = stderr.lines().all(|line| line.starts_with("olmo-infer: note: --threads 2: "));
    report.holds("moved", output.status.success() && is_quiet, format_args!("{}: {stderr}", output.status));
    place.sh("$INFER m.olmo t.bin --steps 2000 --threads 1 --logits out/still.npy > /dev/null").ok();
    let read = |name: &str| fs::read(place.path(name)).expect("logits");
    report.holds("moved", read("out/moved.npy") == read("out/still.npy"), "other logits");
    let model = fs::read(place.path("m.olmo")).expect("read");
    place.sh("taskset -c 0 $PACK w out/m.olmo").ok();
    report.holds("pack", read("out/m.olmo") == model, "other bytes");
}

/// Flush to zero, denormals are zero, and the three ways to round that are not the usual one.
#[cfg(target_arch = "x86_64")]
const MODES: [(&str, u32); 5] =
    [("ftz", 1 << 15), ("daz", 1 << 6), ("down", 1 << 13), ("up", 2 << 13), ("to zero", 3 << 13)];

/// Enough for products of every thread.
#[cfg(target_arch = "x86_64")]
const TOKENS: [u32; 24] = [5, 17, 3, 44, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28];

#[cfg(target_arch = "x86_64")]
/// Row E17: a floating-point mode that a library changed.
///
/// Note on E17: The calling thread is refused at every pass; threads inherit the mode of the thread that starts them,
/// and set the default one at the beginning of every run.
#[test]
fn e17_refuses_changed_floating_point_mode() {
    let place = Place::new("e17");
    let mut report = Report::new("E17");
    let file = ModelFile::open(&place.path("m.olmo")).map_err(|error| error.to_string()).expect("good");
    let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
    for (name, bits) in MODES {
        let result = with_mode(bits, || Batch::new(&network, Options::new(4), 1).map(|_| ()));
        let told = result.as_ref().is_err_and(|error| error.to_string().contains("non-default floating-point mode"));
        report.holds(name, told, format_args!("{result:?}"));
        let open = || ModelFile::open(&place.path("m.olmo")).and_then(|file| Network::new(Arc::new(file)).map(|_| ()));
        let result = with_mode(bits, open);
        let told = result.as_ref().is_err_and(|error| error.to_string().contains("non-default floating-point mode"));
        report.holds(format_args!("{name}, tables"), told, format_args!("{result:?}"));
    }
    // The threads of a model have the default mode, regardless of that of the thread that starts them.
    let open = || Model::open_with(place.path("m.olmo"), Load::Auto, 3);
    let prefill = |session: &mut Session| session.prefill(&TOKENS).map_err(|error| error.to_string());
    let bits = |session: &Session| session.logits().iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>();
    let model = open().expect("good");
    let mut session = model.session(Options::new(TOKENS.len())).expect("it fits");
    prefill(&mut session).expect("good tokens");
    let expected = bits(&session);
    for (name, bits_of_mode) in MODES {
        let model = with_mode(bits_of_mode, open).expect("good");
        let mut session = model.session(Options::new(TOKENS.len())).expect("it fits");
        let result = prefill(&mut session);
        report.holds(format_args!("{name}, opened"), result.is_ok() && bits(&session) == expected, "other bits");
        // After the session was made, and between two passes of a run.
        session.restart();
        let result = with_mode(bits_of_mode, || prefill(&mut session));
        let told = result.as_ref().is_err_and(|error| error.contains("non-default floating-point mode"));
        report.holds(format_args!("{name}, later"), told && session.tokens().is_empty(), format_args!("{result:?}"));
        let result = prefill(&mut session);
        report.holds(format_args!("{name}, at last"), result.is_ok() && bits(&session) == expected, "other bits");
        let result = with_team(2, |team| {
            let mut batch = Batch::of_one(&network, Options::new(4)).expect("it fits");
            batch.forward(team, [(0, &TOKENS[..1])]).expect("a good token");
            in_mode(bits_of_mode, || {
                let pass = batch.forward(team, [(0, &TOKENS[..1])]).is_err();
                pass && batch.logits(team, 0..1).is_err()
            })
        });
        report.holds(format_args!("{name}, in a run"), result.is_ok_and(|told| told), "no error");
        // An item changes the mode of its thread: that of a worker is right again in the next run.
        let changed = Threads::new(3);
        let spoil = |team: &mut Team| {
            let here = thread::current().id();
            team.for_each(300, |_| {
                if thread::current().id() != here {
                    set_mode(bits_of_mode);
                }
                thread::sleep(Duration::from_micros(10));
            });
        };
        changed.run(spoil).expect("runs");
        let logits = changed.run(|team| {
            let mut batch = Batch::of_one(&network, Options::new(TOKENS.len())).expect("it fits");
            batch.forward(team, [(0, &TOKENS[..])]).expect("good tokens");
            let last = TOKENS.len() - 1;
            let logits = batch.logits(team, last..last + 1).expect("finite");
            logits.iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>()
        });
        report.holds(format_args!("{name}, of a worker"), logits.is_ok_and(|found| found == expected), "other bits");
    }
    let result = with_mode(0, || Batch::new(&network, Options::new(4), 1).map(|_| ()));
    report.holds("as it was", result.is_ok(), format_args!("{result:?}"));
}

/// Sets these bits of the mode of this thread's processor too; yields the mode that it had.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn set_mode(bits: u32) -> u32 {
    let mut mode = 0u32;
    // SAFETY: both instructions take the address of a u32 that lives here, and the mode set is a valid one. What
    // computes in it is the code under test, and no result of it is used that is not compared with one of another mode.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut mode);
        std::arch::asm!("ldmxcsr [{}]", in(reg) &(mode | bits));
    }
    mode
}

/// Does something in a mode with these bits, too.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn in_mode<T>(bits: u32, work: impl FnOnce() -> T) -> T {
    let mode = set_mode(bits);
    let result = work();
    // SAFETY: as in `set_mode`.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mode) };
    result
}

/// Does something on another thread, whose processor has these bits of its mode set too.
#[cfg(target_arch = "x86_64")]
fn with_mode<T: Send>(bits: u32, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(|| in_mode(bits, work)).join().expect("no panic"))
}
