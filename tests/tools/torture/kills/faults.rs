//! System calls that fail, by `strace`, in the programs as they are shipped: one line and status 1, whichever call it
//! was, the old file or the whole new one, and nothing else.

use super::Stage;
use super::every_call::Trace;
use crate::Effort;
use crate::figure::Figure;
use crate::programs::program;
use olmo_tests::runs::{Runs, Work};
use olmo_tests::{TempDir, files};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Calls that change the disk or print.
const PACK_CALLS: [&str; 7] =
    ["pwrite64", "fsync", "fallocate", "linkat", "?rename,?renameat,?renameat2", "write", "?mkdir,?mkdirat"];
const INFER_CALLS: [&str; 5] = ["write", "pwrite64", "fsync", "linkat", "?rename,?renameat,?renameat2"];
const ERRORS: [&str; 4] = ["ENOSPC", "EIO", "EDQUOT", "EACCES"];

/// Runs the part.
pub fn run(_: &Effort) -> Vec<Figure> {
    let runs = Runs::new();
    let mut figures: Vec<Figure> =
        [Work::Pack, Work::Copy, Work::Unpack].map(|work| pack(&Stage::new(&runs, work, true), None)).into();
    let stage = Stage::new(&runs, Work::Pack, true);
    figures.extend(Trace::of(&stage).map(|trace| pack(&stage, Some(&trace))));
    figures.push(interrupted(&Stage::new(&runs, Work::Pack, true)));
    figures.push(logits(&runs));
    figures
}

/// Packs, with named files when there is a trace of such a run.
fn pack(stage: &Stage, named: Option<&Trace>) -> Figure {
    let files = if named.is_some() { ", named files" } else { "" };
    let mut figure = Figure::new(format!("calls that fail{files}: {}", stage.name()), 20);
    let without_unnamed = named.map(Trace::without_unnamed);
    for calls in PACK_CALLS {
        for error in ERRORS {
            let injection = Injection { calls, error, also: without_unnamed.as_deref() };
            injection.at_every_call(&mut figure, &|| stage.arguments(), &|ended| {
                ended.judge_status()?;
                stage.judge(0, ended.status == Some(0))
            });
        }
    }
    figure
}

fn interrupted(stage: &Stage) -> Figure {
    let mut figure = Figure::new(format!("calls that are interrupted: {}", stage.name()), 5);
    for calls in PACK_CALLS {
        let injection = Injection { calls, error: "EINTR", also: None };
        injection.at_every_call(&mut figure, &|| stage.arguments(), &|ended| match ended.status {
            Some(0) => stage.judge(0, true),
            _ => Err(format!("{:?}: {}", ended.status, ended.stderr)),
        });
    }
    figure
}

fn logits(runs: &Runs) -> Figure {
    let mut figure = Figure::new("calls that fail: olmo-infer --logits, old file", 20);
    let folder = TempDir::in_memory("logits");
    let (tokens, out) = (folder.join("tokens.bin"), folder.join("out"));
    fs::write(&tokens, [1u32, 2, 3].map(u32::to_le_bytes).concat()).expect("written");
    let arguments = || -> Vec<OsString> {
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).expect("a folder");
        fs::write(out.join("l.npy"), "old").expect("written");
        let paths = [program("olmo-infer"), runs.model(), tokens.clone(), PathBuf::from("--logits"), out.join("l.npy")];
        let rest = ["--steps", "3", "--threads", "1"].map(OsString::from);
        paths.map(PathBuf::into_os_string).into_iter().chain(rest).collect()
    };
    let undisturbed = arguments();
    assert!(Command::new(&undisturbed[0]).args(&undisturbed[1..]).output().expect("it starts").status.success());
    let new = files(&out);
    for calls in INFER_CALLS {
        for error in ERRORS {
            Injection { calls, error, also: None }.at_every_call(&mut figure, &arguments, &|ended| {
                ended.judge_status()?;
                let found = files(&out);
                let is_old = ended.status == Some(1) && found.values().eq([b"old"]);
                match is_old || found == new {
                    true => Ok(()),
                    false => Err(format!("there are {:?}", found.keys())),
                }
            });
        }
    }
    figure
}

/// How a program ended.
struct Ended {
    status: Option<i32>,
    stderr: String,
}

impl Ended {
    /// 1 and one line: each of the calls is one that a run cannot do without.
    fn judge_status(&self) -> Result<(), String> {
        match self.status {
            Some(1) if self.stderr.lines().count() == 1 => Ok(()),
            status => Err(format!("it ended with {status:?} and printed {:?}", self.stderr)),
        }
    }
}

/// The call that fails, and how.
struct Injection<'a> {
    /// The names of the calls.
    calls: &'a str,
    error: &'a str,
    /// Another option of `strace`.
    also: Option<&'a str>,
}

impl Injection<'_> {
    /// Lets the first of the calls fail, then the second, until there is none left.
    fn at_every_call(
        &self,
        figure: &mut Figure,
        arguments: &dyn Fn() -> Vec<OsString>,
        judge: &dyn Fn(&Ended) -> Result<(), String>,
    ) {
        let folder = TempDir::in_memory("inject");
        let log = folder.join("log");
        let Injection { calls, error, also } = self;
        for at in 1.. {
            let injection = format!("inject={calls}:error={error}:when={at}");
            let mut command = Command::new("strace");
            command.args(["-qq", "-f", "-o"]).arg(&log).args(["-e", &injection]);
            command.args(also.iter().flat_map(|also| ["-e", also])).args(arguments());
            let output = command.output().expect("strace starts");
            let log = String::from_utf8_lossy(&fs::read(&log).expect("a log")).into_owned();
            // Of the other option it is the opening that fails, which none of the calls is.
            if !log.lines().any(|line| line.contains("(INJECTED)") && !line.contains("openat")) {
                return;
            }
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let ended = Ended { status: output.status.code(), stderr };
            figure.add(judge(&ended).map_err(|failure| format!("{calls} number {at} fails with {error}: {failure}")));
        }
    }
}
