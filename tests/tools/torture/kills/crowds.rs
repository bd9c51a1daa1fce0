//! Many programs at one file: packs that race for a name, and readers while it is packed again.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::program;
use olmo_pack::commands::verify;
use olmo_tests::{Stored, TempDir, files, run as run_program, small_config, write_weights};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const PACKS: usize = 8;
const ROUNDS: u64 = 200;
const READERS: usize = 50;
/// Readers that are programs of their own; the others are threads, of which one machine runs more.
const READING_PROGRAMS: usize = 5;

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let crowd = Crowd::new();
    vec![crowd.packs(effort.times(ROUNDS)), crowd.readers(effort.times(ROUNDS))]
}

/// Two weights folders, and one name for the models of both.
struct Crowd {
    folder: TempDir,
    weights: [PathBuf; 2],
    /// The models they give.
    models: [Vec<u8>; 2],
}

impl Crowd {
    fn new() -> Crowd {
        let folder = TempDir::in_memory("crowd");
        let weights = [folder.join("one"), folder.join("two")];
        std::fs::create_dir(folder.join("out")).expect("a folder");
        std::fs::write(folder.join("tokens.bin"), [1u32, 2, 3].map(u32::to_le_bytes).concat()).expect("written");
        let mut seed = 0;
        let models = weights.clone().map(|weights| {
            seed += 1;
            write_weights(&weights, &small_config(), Stored::F32, seed);
            let model = folder.join("out/m.olmo");
            assert!(spawn(&weights, &model).wait().expect("it ends").success());
            std::fs::read(&model).expect("a model")
        });
        Crowd { folder, weights, models }
    }

    fn model(&self) -> PathBuf {
        self.folder.join("out/m.olmo")
    }

    /// One whole model, and nothing else.
    fn judge(&self) -> Result<(), String> {
        let found = files(&self.folder.join("out"));
        match found.get("m.olmo") {
            _ if found.len() != 1 => Err(format!("there are {:?}", found.keys())),
            Some(bytes) if self.models.contains(bytes) => Ok(()),
            _ => Err("m.olmo is neither of the two models".into()),
        }
    }

    fn packs(&self, rounds: u64) -> Figure {
        let mut figure = Figure::new(format!("rounds of {PACKS} packs at once to one name"), rounds);
        for _ in 0..rounds {
            let children: Vec<Child> = (0..PACKS).map(|i| spawn(&self.weights[i % 2], &self.model())).collect();
            let failed = children.into_iter().filter_map(|mut child| {
                let status = child.wait().expect("it ends");
                (!status.success()).then(|| format!("a pack ended with {status}"))
            });
            let failed: Vec<String> = failed.collect();
            let verified =
                run_program(&program("olmo-pack").to_string_lossy(), ["verify".as_ref(), self.model().as_os_str()]);
            figure.add(match failed.first() {
                Some(failure) => Err(failure.clone()),
                None if verified.code != Some(0) => Err(verified.stderr.trim_end().to_string()),
                None => self.judge(),
            });
        }
        figure
    }

    fn readers(&self, packs: u64) -> Figure {
        let mut figure = Figure::new(format!("packs over a model that {READERS} readers verify and run"), packs);
        let (stop, reads, failures) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for reader in 0..READERS {
                let (stop, reads, failures) = (&stop, &reads, &failures);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let read = if reader < READING_PROGRAMS { self.infer() } else { self.verify() };
                        reads.fetch_add(1, Ordering::Relaxed);
                        read.unwrap_or_else(|failure| failures.lock().expect("no panic").push(failure));
                    }
                });
            }
            for i in 0..packs as usize {
                let status = spawn(&self.weights[i % 2], &self.model()).wait().expect("it ends");
                figure.add(if status.success() { self.judge() } else { Err(format!("it ended with {status}")) });
            }
            stop.store(true, Ordering::Relaxed);
        });
        let failures = failures.into_inner().expect("no panic");
        figure.note(format!("{} reads, {} failed", reads.into_inner(), failures.len()));
        failures.into_iter().for_each(|failure| figure.add(Err(failure)));
        figure
    }

    fn verify(&self) -> Result<(), String> {
        verify::run(&self.model()).map(|_| ()).map_err(|error| error.to_string())
    }

    fn infer(&self) -> Result<(), String> {
        let infer = program("olmo-infer");
        let finished = run_program(&infer.to_string_lossy(), [self.model(), self.folder.join("tokens.bin")]);
        if finished.code == Some(0) {
            Ok(())
        } else {
            Err(format!("{:?}: {}", finished.code, finished.stderr.trim_end()))
        }
    }
}

fn spawn(weights: &Path, model: &Path) -> Child {
    let mut command = Command::new(program("olmo-pack"));
    command.arg(weights).arg(model).args(["--force", "--threads", "1"]).stdout(Stdio::null());
    command.spawn().expect("it starts")
}
