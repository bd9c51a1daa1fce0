//! The model file is cut short, written to and replaced at random moments of a run: one line and exit status 1, or the
//! results of a whole file, and never death by a signal.
//!
//! A file that was changed within two seconds before a run is checked by its digests, an older one by its length and
//! times only: half of the moments meet files of either kind.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::{describe_run, middling_config, packed, program, write_tokens};
use olmo_tests::{Random, Stored, TempDir};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Changes of the file.
const CHANGES: [&str; 3] = ["cut short", "written to", "replaced"];
/// The name of every damaged file, each in its own folder, so that output does not depend on the copy.
const VICTIM: &str = "victim.olmo";
/// From this age on a file does not count as recently changed.
const AGED: Duration = Duration::from_millis(2100);
/// With fewer runs than this all may be over before the change.
const FEW: u64 = 20;
/// The number of files that age at the same time.
const N_AGEING: usize = 12;

/// A command that is tested.
struct Phase {
    name: &'static str,
    program: &'static str,
    /// In the folder of the victim.
    arguments: Vec<String>,
}

/// Two models of one length, and the copies of the first that suffer.
struct Files {
    folder: TempDir,
    first: PathBuf,
    second: PathBuf,
    /// Copies that wait, and since when; nothing but time may come over them.
    ageing: VecDeque<(PathBuf, Instant)>,
    /// How many copies were made.
    n_copies: usize,
}

impl Files {
    /// A folder with a new copy of `model`.
    fn copy(&mut self, model: &Path) -> io::Result<PathBuf> {
        self.n_copies += 1;
        let folder = self.folder.join(self.n_copies.to_string());
        fs::create_dir(&folder)?;
        fs::copy(model, folder.join(VICTIM))?;
        Ok(folder)
    }

    /// A folder with a copy of the first model that was just made.
    fn fresh(&mut self) -> io::Result<PathBuf> {
        let folder = self.copy(&self.first.clone())?;
        // Older than a tick of the clock, as the file of a user is.
        sleep(Duration::from_millis(25));
        Ok(folder)
    }

    /// A folder with a copy of it that has waited.
    fn aged(&mut self) -> io::Result<PathBuf> {
        while self.ageing.len() < N_AGEING {
            let folder = self.copy(&self.first.clone())?;
            self.ageing.push_back((folder, Instant::now()));
        }
        let (folder, since) = self.ageing.pop_front().expect("it was filled");
        sleep(AGED.saturating_sub(since.elapsed()));
        Ok(folder)
    }
}

/// See the top.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut broken = Figure::new("mapping: preparations", 1);
    match prepare() {
        Err(error) => broken.add(Err(error)),
        Ok((mut files, phases)) => {
            let mut random = Random(effort.seed);
            for phase in &phases {
                let expected = Expected::new(&mut files, phase);
                for change in CHANGES {
                    let times = effort.times(200);
                    let mut figure = Figure::new(format!("file {change} during {}", phase.name), times);
                    match &expected {
                        Err(error) => figure.add(Err(error.clone())),
                        Ok(expected) => expected.all(&mut figure, &mut files, change, times, &mut random),
                    }
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
    write_tokens(&folder.join("one.bin"), 1)?;
    write_tokens(&folder.join("many.bin"), 600)?;
    let infer = |tokens: &str, flags: [&str; 4]| {
        let mut arguments = vec![VICTIM.to_string(), folder.join(tokens).display().to_string()];
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
        Phase { name: "verify", program: "olmo-pack", arguments: vec!["verify".into(), VICTIM.into()] },
    ];
    Ok((Files { folder, first, second, ageing: VecDeque::new(), n_copies: 0 }, phases))
}

/// The output of a phase for either model.
struct Expected<'a> {
    phase: &'a Phase,
    results: [Vec<u8>; 2],
    took: Duration,
    /// The bytes of the second model.
    second: Vec<u8>,
}

/// How often a run ended with a line, of how many.
#[derive(Default)]
struct Told {
    told: u64,
    of: u64,
}

impl<'a> Expected<'a> {
    fn new(files: &mut Files, phase: &'a Phase) -> Result<Expected<'a>, String> {
        let io = |error: io::Error| format!("{}: {error}", phase.name);
        let (first, second) = (files.first.clone(), files.second.clone());
        let mut took = Duration::ZERO;
        let mut result = |model: PathBuf| {
            let folder = files.copy(&model).map_err(io)?;
            let begun = Instant::now();
            let output = Expected::command(phase, &folder).output().map_err(io)?;
            took = begun.elapsed();
            fs::remove_dir_all(&folder).map_err(io)?;
            if output.status.success() { Ok(output.stdout) } else { Err(describe_run(phase.program, &output)) }
        };
        let results = [result(first)?, result(second.clone())?];
        let second = fs::read(&second).map_err(io)?;
        Ok(Expected { phase, results, took, second })
    }

    fn command(phase: &Phase, folder: &Path) -> Command {
        let mut command = Command::new(program(phase.program));
        command.args(&phase.arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Changes files at random moments of runs, new ones and old ones in turn.
    fn all(&self, figure: &mut Figure, files: &mut Files, change: &str, times: u64, random: &mut Random) {
        let [mut fresh, mut aged] = [Told::default(), Told::default()];
        for i in 0..times {
            let (folder, told) = match i % 2 {
                0 => (files.aged(), &mut aged),
                _ => (files.fresh(), &mut fresh),
            };
            told.of += 1;
            figure.add(folder.map_err(|error| error.to_string()).and_then(|folder| {
                let result = self.one(&folder, files, change, random, &mut told.told);
                fs::remove_dir_all(&folder).map_err(|error| error.to_string()).and(result)
            }));
        }
        if change != "replaced" && aged.of >= FEW && aged.told == 0 {
            figure.add(Err("no change of a file of some age was noticed".into()));
        }
        let [Told { told, of }, Told { told: told_aged, of: of_aged }] = [fresh, aged];
        figure.note(format!(
            "a line and 1: {told} of {of} with a new file, {told_aged} of {of_aged} with one older than 2 s; the others \
             were whole"
        ));
    }

    /// Changes the file at a random moment of a run, and judges how the run ends.
    fn one(
        &self,
        folder: &Path,
        files: &Files,
        change: &str,
        random: &mut Random,
        n_told: &mut u64,
    ) -> Result<(), String> {
        let victim = folder.join(VICTIM);
        let io = |error: io::Error| format!("{}: {error}", victim.display());
        let delay = self.took.mul_f64(random.below(1000) as f64 / 900.0);
        let length = self.second.len() as u64;
        let cut = random.bits() % length;
        let spare = folder.join("spare.olmo");
        if change == "replaced" {
            fs::copy(&files.second, &spare).map_err(io)?;
        }
        let child = Expected::command(self.phase, folder)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.phase.program))?;
        // Its output is taken while it runs: it may be more than a pipe holds.
        let output = std::thread::scope(|scope| {
            let output = scope.spawn(|| child.wait_with_output());
            sleep(delay);
            let changed = match change {
                "cut short" => File::options().write(true).open(&victim).and_then(|file| file.set_len(cut)),
                "written to" => write_over(&self.second, &victim),
                _ => fs::rename(&spare, &victim),
            };
            changed.and_then(|()| output.join().expect("waiting does not panic"))
        });
        let output = output.map_err(io)?;
        let place = || {
            let after = delay.as_secs_f64() * 1e3;
            format!(
                "{change} to {cut} of {length} bytes after {after:.1} ms: {}",
                describe_run(self.phase.program, &output)
            )
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

/// Writes `bytes` over those of `to`.
fn write_over(bytes: &[u8], to: &Path) -> io::Result<()> {
    File::options().write(true).open(to)?.write_all(bytes)
}
