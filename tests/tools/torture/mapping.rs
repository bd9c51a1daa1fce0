//! The model file is cut short, written to and replaced at random moments of a run: one line and exit status 1, or the
//! results of a whole file, and never death by a signal.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::{good, middling_config, packed, program, told, write_tokens};
use olmo_tests::{Random, Stored, TempDir};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What is done to the file.
const CHANGES: [&str; 3] = ["cut short", "written to", "replaced"];

/// A command, and how much of its time belongs to the phase that is tested.
struct Phase {
    name: &'static str,
    program: &'static str,
    arguments: Vec<String>,
}

/// Two models of one length, and the copy of the first that suffers.
struct Files {
    folder: TempDir,
    first: PathBuf,
    second: PathBuf,
    victim: PathBuf,
}

/// See the top.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut broken = Figure::new("mapping: preparations", 1);
    match prepare() {
        Err(error) => broken.add(Err(error)),
        Ok((files, phases)) => {
            let mut random = Random(effort.seed);
            for phase in &phases {
                for change in CHANGES {
                    let times = effort.times(200);
                    let mut figure = Figure::new(format!("file {change} during {}", phase.name), times);
                    let mut told = 0;
                    match Expected::new(&files, phase) {
                        Err(error) => figure.add(Err(error)),
                        Ok(expected) => {
                            (0..times).for_each(|_| figure.add(expected.one(change, &mut random, &mut told)));
                        }
                    }
                    figure.note(format!("{told} ended with a line and 1, the others were whole"));
                    figures.push(figure);
                }
            }
            return figures;
        }
    }
    vec![broken]
}

fn prepare() -> Result<(Files, Vec<Phase>), String> {
    let folder = TempDir::new("torture-mapping");
    let first = packed(&folder, "first.olmo", &middling_config(), Stored::F32, 1)?;
    let second = packed(&folder, "second.olmo", &middling_config(), Stored::F32, 2)?;
    let victim = folder.join("victim.olmo");
    write_tokens(&folder.join("one.bin"), 1)?;
    write_tokens(&folder.join("many.bin"), 600)?;
    let infer = |tokens: &str, flags: [&str; 4]| {
        let mut arguments = vec![victim.display().to_string(), folder.join(tokens).display().to_string()];
        arguments.extend(flags.map(String::from));
        arguments
    };
    let phases = vec![
        Phase {
            name: "opening and one token",
            program: "olmo-infer",
            arguments: infer("one.bin", ["--steps", "1", "--threads", "2"]),
        },
        Phase {
            name: "prefill",
            program: "olmo-infer",
            arguments: infer("many.bin", ["--steps", "600", "--threads", "2"]),
        },
        Phase {
            name: "decode",
            program: "olmo-infer",
            arguments: infer("one.bin", ["--steps", "60", "--threads", "2"]),
        },
        Phase { name: "verify", program: "olmo-pack", arguments: vec!["verify".into(), victim.display().to_string()] },
    ];
    Ok((Files { folder, first, second, victim }, phases))
}

/// What a phase yields for either model.
struct Expected<'a> {
    files: &'a Files,
    phase: &'a Phase,
    results: [Vec<u8>; 2],
    took: Duration,
    /// The bytes of the second model.
    second: Vec<u8>,
}

impl<'a> Expected<'a> {
    fn new(files: &'a Files, phase: &'a Phase) -> Result<Expected<'a>, String> {
        let mut took = Duration::ZERO;
        let mut result = |model: &Path| {
            restore(model, &files.victim).map_err(|error| format!("{}: {error}", files.victim.display()))?;
            let begun = Instant::now();
            let result = good(phase.program, &phase.arguments);
            took = begun.elapsed();
            result
        };
        let results = [result(&files.first)?, result(&files.second)?];
        let second = fs::read(&files.second).map_err(|error| format!("{}: {error}", files.second.display()))?;
        Ok(Expected { files, phase, results, took, second })
    }

    /// Changes the file at a random moment of a run, and judges how the run ends.
    fn one(&self, change: &str, random: &mut Random, n_told: &mut u64) -> Result<(), String> {
        let io = |error: io::Error| format!("{}: {error}", self.files.victim.display());
        restore(&self.files.first, &self.files.victim).map_err(io)?;
        let delay = self.took.mul_f64(random.below(1000) as f64 / 900.0);
        let length = fs::metadata(&self.files.first).map_err(io)?.len();
        let cut = random.bits() % length;
        let spare = self.files.folder.join("spare.olmo");
        if change == "replaced" {
            fs::copy(&self.files.second, &spare).map_err(io)?;
        }
        let mut command = Command::new(program(self.phase.program));
        command.args(&self.phase.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.phase.program))?;
        // Its output is taken while it runs: it may be more than a pipe holds.
        let output = std::thread::scope(|scope| {
            let output = scope.spawn(|| child.wait_with_output());
            sleep(delay);
            let changed = match change {
                "cut short" => File::options().write(true).open(&self.files.victim).and_then(|file| file.set_len(cut)),
                "written to" => write_over(&self.second, &self.files.victim),
                _ => fs::rename(&spare, &self.files.victim),
            };
            changed.and_then(|()| output.join().expect("waiting does not panic"))
        });
        let output = output.map_err(io)?;
        let place = || {
            let after = delay.as_secs_f64() * 1e3;
            format!("{change} to {cut} of {length} bytes after {after:.1} ms: {}", told(self.phase.program, &output))
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        // A file that is opened while it is written to may be damaged for as long as `verify` looks, in several places.
        let most_lines = if self.phase.name == "verify" { 11 } else { 1 };
        let is_told = (1..=most_lines).contains(&stderr.lines().count())
            && stderr.lines().all(|line| line.starts_with(&format!("{}: error: ", self.phase.program)));
        match output.status.code() {
            Some(0) if self.results.contains(&output.stdout) => Ok(()),
            Some(0) => Err(format!("results of no file: {}", place())),
            Some(1) if change != "replaced" && is_told => {
                *n_told += 1;
                if self.results.contains(&output.stdout) {
                    Err(format!("all results and 1: {}", place()))
                } else {
                    Ok(())
                }
            }
            _ => Err(place()),
        }
    }
}

/// A new file with the bytes of `from`, so that nothing of what happened to the last one is left.
fn restore(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(from, to)?;
    // Older than a tick of the clock, as the file of a user is.
    sleep(Duration::from_millis(25));
    Ok(())
}

/// Writes `bytes` over those of `to`.
fn write_over(bytes: &[u8], to: &Path) -> io::Result<()> {
    File::options().write(true).open(to)?.write_all(bytes)
}
