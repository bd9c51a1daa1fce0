//! One program that we are compared with: a Python script of `scripts/peers` that answers each request with one line of
//! JSON, as `protocol.py` defines. It computes only between the two.

use crate::numbers::number;
use crate::programs::{json, output};
use olmo_tests::repository;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A kind of program.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    script: &'static str,
    converter: &'static str,
    /// The suffix of the converter's output.
    suffix: &'static str,
    /// Its name of each of our types that it has.
    types: &'static [(&'static str, &'static str)],
}

/// All of them; the last one holds a model in memory of its own, which pushes ours out of it.
pub const PROGRAMS: [Program; 2] = [
    Program {
        name: "llama.cpp",
        script: "llama_cpp_peer.py",
        converter: "to_gguf.py",
        suffix: ".gguf",
        types: &[("f32", "f32"), ("bf16", "bf16"), ("int8", "q8_0"), ("int4", "q4_0")],
    },
    Program {
        name: "transformers",
        script: "torch_peer.py",
        converter: "to_safetensors.py",
        suffix: "-hf",
        types: &[("f32", "f32"), ("bf16", "bf16")],
    },
];

/// What the program of this name calls one of our types; `None` when it has no such type.
pub fn type_of(program: &str, dtype: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|of| of.name == program)?.type_of(dtype)
}

impl Program {
    /// What it calls one of our types; `None` when it has no such type.
    pub fn type_of(&self, dtype: &str) -> Option<&'static str> {
        self.types.iter().find(|(ours, _)| *ours == dtype).map(|(_, theirs)| *theirs)
    }

    /// The path of its model of a type.
    pub fn model(&self, folder: &Path, dtype: &str) -> PathBuf {
        folder.join(format!("peer-{dtype}{}", self.suffix))
    }
}

/// The Python that has them.
pub struct Python {
    /// The interpreter.
    pub python: PathBuf,
    /// The folder of scripts.
    pub scripts: PathBuf,
}

impl Python {
    /// A Python of a virtual environment, with the scripts of the repository that this was built in.
    pub fn new(environment: &Path) -> Result<Python, String> {
        let scripts = repository().join("scripts/peers");
        let python = environment.join("bin/python");
        if !python.is_file() {
            return Err(format!("{}: not there; make bench-peers makes it", python.display()));
        }
        Ok(Python { python, scripts })
    }

    /// Makes a model that the program reads.
    pub fn convert(&self, program: &Program, weights: &Path, model: &Path, dtype: &str) -> Result<(), String> {
        let mut command = self.script(program.converter);
        output(command.arg(weights).arg(model).args(["--dtype", dtype])).map(|_| ())
    }

    /// Seconds to the first logits of a fresh process, after its imports.
    pub fn first_token(&self, program: &Program, model: &Path, threads: usize) -> Result<f64, String> {
        let mut command = self.script(program.script);
        let answer = json(command.arg(model).args(["--threads", &threads.to_string(), "--first-token"]))?;
        seconds(program.name, &answer, "--first-token")
    }

    /// Starts a program, which loads its model.
    pub fn start(&self, program: &Program, model: &Path, threads: usize, log: &Path) -> Result<Peer, String> {
        let context = |error: std::io::Error| format!("{}: {error}", program.name);
        let mut command = self.script(program.script);
        command.arg(model).args(["--threads", &threads.to_string()]);
        let errors = File::create(log).map_err(context)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().map_err(context)?;
        let (requests, answers) = child.stdin.take().zip(child.stdout.take()).expect("both were asked for");
        let answers = BufReader::new(answers);
        let name = program.name;
        let mut peer = Peer { name, child, requests, answers, log: log.to_path_buf(), facts: Value::Null };
        peer.facts = peer.answer()?;
        Ok(peer)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        // The folder of scripts belongs to the checkout: no compiled copies there.
        command.arg("-B").arg(self.scripts.join(name));
        command
    }
}

/// A program that has loaded its model. It ends when this is dropped.
pub struct Peer {
    name: &'static str,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    /// The facts that it reported about itself.
    pub facts: Value,
}

impl Peer {
    /// Asks for a measurement: its seconds.
    pub fn seconds(&mut self, request: &str) -> Result<f64, String> {
        seconds(self.name, &self.ask(request)?, request)
    }

    /// Logits of the last token of a prompt.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f64>, String> {
        let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
        let answer = self.ask(&format!("logits {}", ids.join(" ")))?;
        Ok(answer["logits"].as_array().map_or(&[][..], Vec::as_slice).iter().map(number).collect())
    }

    fn ask(&mut self, request: &str) -> Result<Value, String> {
        // When it has ended, its log has the reason.
        let _seen_in_the_answer = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        if read.is_ok_and(|bytes| bytes > 0) {
            return serde_json::from_str(&line).map_err(|error| format!("{}: {line:?}: {error}", self.name));
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let reason = log.lines().last().unwrap_or("it gave no reason");
        Err(format!("{}: ended: {reason} (all of it: {})", self.name, self.log.display()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It only waits for requests: nothing is lost, and there is no caller that could use a failure.
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The time in an answer.
fn seconds(name: &str, answer: &Value, request: &str) -> Result<f64, String> {
    match answer["seconds"].as_f64() {
        Some(seconds) if seconds > 0.0 => Ok(seconds),
        _ => Err(format!("{name}: no time in the answer to {request:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;
    use serde_json::json;

    #[test]
    fn answer_without_a_time_is_an_error() {
        assert_eq!(seconds("other", &json!({"seconds": 1.5}), "prefill 128"), Ok(1.5));
        for answer in [json!({}), json!({"seconds": null}), json!({"seconds": 0.0}), json!({"seconds": "1.5"})] {
            assert!(seconds("other", &answer, "prefill 128").is_err(), "{answer}");
        }
    }
}
