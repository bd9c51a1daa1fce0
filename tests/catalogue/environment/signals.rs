//! Row E11: signals.

use super::HANG;
use super::place::Place;
use crate::{INFER, PACK};
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_tests::catalogue::Report;
use olmo_tests::{has_file_in, skipped, small_config};
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// A program for which no signal is ignored, as SIGINT is for what a script has left in the background.
fn with_default_signals(place: &Place, program: &str) -> Command {
    let mut command = place.command("env");
    command.args(["--default-signal", program]);
    command
}

/// A run in its own process group that has begun its logits file and waits for a reader of its output. In a group whose
/// other processes have no parent in this session, as that of a job left behind, SIGTSTP does nothing.
fn waiting_for_a_reader(place: &Place) -> Child {
    begun(place, with_default_signals(place, INFER))
}

/// The same for a command that ends with the name of the program.
fn begun(place: &Place, mut command: Command) -> Child {
    command.args(["m.olmo", "t.bin", "--steps", "4000", "--top", "101", "--logits", "out/l.npy"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("starts");
    let begun = Instant::now();
    while !has_file_in(&place.path("out"), child.id()) {
        assert!(begun.elapsed() < HANG, "no file");
        sleep(Duration::from_millis(1));
    }
    child
}

/// Row E11: signals.
#[test]
fn e11_signal_during_logits_leaves_no_file() {
    let place = Place::new("e11");
    let mut report = Report::new("E11");
    let (path, old) = place.old("l.npy");
    for (signals, number) in
        [(&["INT"][..], 2), (&["TERM"], 15), (&["HUP"], 1), (&["QUIT"], 3), (&["INT", "INT"], 2), (&["INT", "TERM"], 2)]
    {
        let child = waiting_for_a_reader(&place);
        signals.iter().for_each(|signal| kill(&child, signal));
        let output = child.wait_with_output().expect("ends");
        // Of two different signals either may arrive first.
        let by_signal = output.status.signal() == Some(number) || signals == ["INT", "TERM"];
        let silent = output.stderr.is_empty();
        report.holds(format_args!("{signals:?}"), by_signal && silent, output.status);
        let clean = place.out() == ["l.npy"] && fs::read(&path).is_ok_and(|now| now == old);
        report.holds(format_args!("{signals:?}"), clean, format_args!("{:?}", place.out()));
    }
    // A kill leaves nothing where the system knows files without a name.
    let child = waiting_for_a_reader(&place);
    let is_unnamed = place.out() == ["l.npy"];
    kill(&child, "KILL");
    report.holds("KILL", child.wait_with_output().expect("ends").status.signal() == Some(9), "it ended otherwise");
    let clean = place.out() == ["l.npy"] && fs::read(&path).is_ok_and(|now| now == old);
    if is_unnamed {
        report.holds("KILL", clean, format_args!("{:?}", place.out()));
    } else {
        skipped("what a kill leaves was not tested: this file system knows no files without a name");
        place.out().iter().filter(|name| name.ends_with(".tmp")).for_each(|name| {
            fs::remove_file(place.path("out").join(name)).expect("removed");
        });
    }
    // Stopped and continued, it finishes.
    let mut child = waiting_for_a_reader(&place);
    kill(&child, "TSTP");
    let begun = Instant::now();
    while !fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| stat.contains(") T ")) {
        assert!(begun.elapsed() < HANG, "it does not stop");
        sleep(Duration::from_millis(1));
    }
    kill(&child, "CONT");
    drop(child.stdout.take());
    let status = child.wait().expect("ends");
    let (shape, _) = olmo_tests::read_f32_npy(&path);
    report.holds("TSTP, CONT", status.success() && shape == [4000, 101], format_args!("{status} {shape:?}"));
    // A signal that was ignored from the start stays ignored, as under nohup.
    let ignored = place.sh("trap '' HUP; $INFER m.olmo & sleep 0.2; kill -HUP $!; wait $!");
    report.holds("HUP ignored", ignored.code == Some(1), format_args!("{ignored:?}"));
}

/// Row E11.
///
/// The kernel keeps the first process of a container from ending by a signal that it does not handle.
#[test]
fn e11_signal_ends_first_process_of_container() {
    const CONTAINER: [&str; 5] = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let place = Place::new("e11-container");
    if !place.command("unshare").args(CONTAINER).arg("true").output().is_ok_and(|output| output.status.success()) {
        skipped("the first process of a container was not tested: unshare (of util-linux) makes none here");
        return;
    }
    let mut report = Report::new("E11");
    let (path, old) = place.old("l.npy");
    for (signal, status) in [("INT", 130), ("TERM", 143), ("QUIT", 131), ("BUS", 135)] {
        let mut command = with_default_signals(&place, "unshare");
        command.args(CONTAINER).arg(INFER);
        let child = begun(&place, command);
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("its children");
        let first = children.trim();
        assert!(Command::new("kill").args(["-s", signal, first]).status().expect("kill runs").success());
        let output = child.wait_with_output().expect("ends");
        report.holds(signal, output.status.code() == Some(status) && output.stderr.is_empty(), output.status);
        let clean = place.out() == ["l.npy"] && fs::read(&path).is_ok_and(|now| now == old);
        report.holds(signal, clean, format_args!("{:?}", place.out()));
    }
}

/// Row E11.
#[test]
fn e11_signal_during_pack_keeps_old_model() {
    // Enough to be stopped in the middle, in small pieces: a test that takes much memory cannot measure that of others.
    let layer_types = vec![AttentionKind::Full; 40];
    let config = ModelConfig { hidden_size: 144, head_dim: 24, intermediate_size: 284, layer_types, ..small_config() };
    let place = Place::of("e11-pack", &config);
    let mut report = Report::new("E11");
    let (path, old) = place.old("m.olmo");
    let is_new = || place.sh("cmp -s m.olmo out/m.olmo").code == Some(0);
    let is_old =
        || fs::metadata(&path).is_ok_and(|now| now.len() == old.len() as u64) && fs::read(&path).unwrap() == old;
    let start = || {
        let mut command = with_default_signals(&place, PACK);
        command.args(["w", "out/m.olmo", "--force", "--threads", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0).spawn().expect("starts")
    };
    let mut stopped = 0;
    for signals in [&["INT"][..], &["TERM"], &["HUP"], &["QUIT"], &["INT", "INT"]] {
        for milliseconds in [5, 20, 45] {
            let child = start();
            sleep(Duration::from_millis(milliseconds));
            signals.iter().for_each(|signal| kill(&child, signal));
            let status = child.wait_with_output().expect("ends").status;
            let whole = match status.signal() {
                Some(_) => is_old() || is_new(),
                None => status.success() && is_new(),
            };
            stopped += usize::from(status.signal().is_some());
            report.holds(format_args!("{signals:?} after {milliseconds}"), whole, status);
            report.holds(format_args!("{signals:?}"), place.out() == ["m.olmo"], format_args!("{:?}", place.out()));
            fs::write(&path, &old).expect("written");
        }
    }
    report.holds("any", stopped > 0, "every pack was over before its signal");
    let mut child = start();
    kill(&child, "TSTP");
    sleep(Duration::from_millis(20));
    kill(&child, "CONT");
    let status = child.wait().expect("ends");
    report.holds("TSTP, CONT", status.success() && is_new(), status);
}
