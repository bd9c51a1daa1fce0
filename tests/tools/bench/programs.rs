//! The programs that are measured, and how they are called.

use crate::work::Model;
use olmo_tests::on_one_processor;
use serde_json::Value;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// The programs that cargo built next to this one.
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Looks for them.
    pub fn next_to_this_one() -> Result<Programs, String> {
        let own = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let programs = Programs { folder: own.parent().map(Path::to_path_buf).unwrap_or_default() };
        for name in ["olmo-pack", "olmo-infer", "olmo-bench", "random-weights", "baseline"] {
            if !programs.path(name).is_file() {
                let path = programs.path(name);
                return Err(format!("{}: not there; cargo build --release --workspace builds it", path.display()));
            }
        }
        Ok(programs)
    }

    /// Where a program is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a folder of weights, of holes only when `sparse`.
    pub fn random_weights(&self, model: &Model, folder: &Path, sparse: bool) -> Result<(), String> {
        let mut command = Command::new(self.path("random-weights"));
        command.arg(folder).args(["--shape", &model.shape, "--dtype", &model.dtype, "--force"]);
        command.args(sparse.then_some("--sparse"));
        if let Some(layers) = model.layers {
            command.args(["--layers", &layers.to_string()]);
        }
        output(&mut command).map(|_| ())
    }

    /// Measures a model.
    pub fn olmo_bench(&self, model: &Path, options: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(self.path("olmo-bench"));
        // A user who waits needs its progress.
        command.arg(model).arg("--json").args(options).stderr(Stdio::inherit());
        json(&mut command)
    }

    /// A whole run, from the start of the process to its end, in seconds.
    pub fn olmo_infer(&self, model: &Path, tokens: &[&Path], steps: usize) -> Result<f64, String> {
        let mut command = Command::new(self.path("olmo-infer"));
        command.arg(model).args(tokens).args(["--steps", &steps.to_string()]);
        let begun = Instant::now();
        output(&mut command)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// A whole check of a model on one processor, in seconds.
    pub fn verify_on_one_processor(&self, model: &Path) -> Result<f64, String> {
        let mut command = Command::new(self.path("olmo-pack"));
        command.arg("verify").arg(model);
        let run = || {
            on_one_processor();
            let begun = Instant::now();
            output(&mut command).map(|_| begun.elapsed().as_secs_f64())
        };
        // On a thread of its own: this one keeps all its processors.
        thread::scope(|scope| scope.spawn(run).join()).map_err(|_| String::from("no processor to run on"))?
    }

    /// A whole run without the model file: the program's output, and `wall_s`, the time of the process.
    pub fn baseline(&self, weights: &Path, tokens: &Path) -> Result<Value, String> {
        let mut command = Command::new(self.path("baseline"));
        command.arg(weights).arg(tokens).arg("--json");
        let begun = Instant::now();
        let mut result = json(&mut command)?;
        result["wall_s"] = begun.elapsed().as_secs_f64().into();
        Ok(result)
    }
}

/// Runs a program and returns its standard output; a failure is its last error line.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(failure(&name, output.status, &output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One line about a program that failed.
pub fn failure(name: &str, status: std::process::ExitStatus, stderr: &[u8]) -> String {
    let stderr = String::from_utf8_lossy(stderr);
    format!("{name}: {status}: {}", stderr.lines().last().unwrap_or("it gave no reason"))
}

/// Runs a program whose standard output is JSON.
pub fn json(command: &mut Command) -> Result<Value, String> {
    let text = output(command)?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))
}
