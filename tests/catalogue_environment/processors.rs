//! Rows E15 and E17: processors and their modes.

use crate::INFER;
use crate::place::Place;
use olmo_infer::model_file::ModelFile;
use olmo_infer::network::{Batch, Network, Options};
use olmo_tests::catalogue::Report;
use std::fs;
use std::process::{Command, Stdio};

#[test]
fn e15_processors() {
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
    // Without any kernel of ours the products are other sums of the same numbers.
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
    report.holds("moved", output.status.success() && output.stderr.is_empty(), output.status);
    place.sh("$INFER m.olmo t.bin --steps 2000 --threads 1 --logits out/still.npy > /dev/null").ok();
    let read = |name: &str| fs::read(place.path(name)).expect("logits");
    report.holds("moved", read("out/moved.npy") == read("out/still.npy"), "other logits");
    let model = fs::read(place.path("m.olmo")).expect("read");
    place.sh("taskset -c 0 $PACK w out/m.olmo").ok();
    report.holds("pack", read("out/m.olmo") == model, "other bytes");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn e17_a_mode_of_the_processor_that_somebody_changed() {
    let place = Place::new("e17");
    let mut report = Report::new("E17");
    let file = ModelFile::open(&place.path("m.olmo")).map_err(|error| error.to_string()).expect("good");
    let network = Network::new(&file);
    // Flush to zero, denormals are zero, and the three ways to round that are not the usual one.
    for (name, bits) in [("ftz", 1 << 15), ("daz", 1 << 6), ("down", 1 << 13), ("up", 2 << 13), ("to zero", 3 << 13)] {
        let result = with_mode(bits, || Batch::new(&network, Options::new(4), 1).map(|_| ()));
        let told = result.as_ref().is_err_and(|error| error.to_string().contains("rounds or flushes otherwise"));
        report.holds(name, told, format_args!("{result:?}"));
    }
    let result = with_mode(0, || Batch::new(&network, Options::new(4), 1).map(|_| ()));
    report.holds("as it was", result.is_ok(), format_args!("{result:?}"));
}

/// Does something on a thread whose processor has these bits of its mode set too.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn with_mode<T: Send>(bits: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut mode = 0u32;
            // SAFETY: both instructions take the address of a u32 that lives here, and the mode set is a valid one.
            // What computes meanwhile is the code under test, and no result of it is used.
            unsafe {
                std::arch::asm!("stmxcsr [{}]", in(reg) &mut mode);
                std::arch::asm!("ldmxcsr [{}]", in(reg) &(mode | bits));
            }
            let result = work();
            // SAFETY: as above.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mode) };
            result
        });
        thread.join().expect("no panic")
    })
}
