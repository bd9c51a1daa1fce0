//! Ends of a program before its beginning, for all binaries: help, the version, a manual page, or wrong usage.

use crate::cli::command_line;
pub use crate::cli::command_line::WordKind as Place;
use crate::cli::manual;
use crate::error::one_line;
use crate::os::disk::check_written;
use argh::{ArgsInfo, CommandInfoWithArgs, EarlyExit, FromArgs};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// What to print, and whether that is what was asked for. Where `program` has a command behind it, as
/// `olmo-infer chat`, errors begin with the program alone.
pub struct Exit {
    program: &'static str,
    text: String,
    success: bool,
}

impl Exit {
    /// Wrong usage, in one line.
    pub fn usage(program: &'static str, problem: impl Display) -> Exit {
        let problem = one_line(&problem.to_string());
        let name = name(program);
        Exit { program, text: format!("{name}: error: {problem}; see {program} --help"), success: false }
    }

    /// What was asked for.
    pub fn done(program: &'static str, text: String) -> Exit {
        Exit { program, text, success: true }
    }

    /// Prints and says how to exit: 0, 1 when standard output does not take the text, or 2 after wrong usage.
    pub fn print(&self) -> ExitCode {
        if !self.success {
            tell(&self.text);
            return ExitCode::from(2);
        }
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{}", self.text.trim_end()).and_then(|()| stdout.flush());
        match written.and_then(|()| check_written(&stdout)) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                tell(&format!("{}: error: cannot write to standard output: {error}", self.program));
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        }
    }
}

/// The program without its command.
fn name(program: &str) -> &str {
    program.split(' ').next().unwrap_or(program)
}

/// A line on standard error.
fn tell(line: &str) {
    // In one write, between which no other program's can come. Where it does not take the line, nobody is left to tell.
    let _nobody_to_tell = io::stderr().write_all(format!("{}\n", line.trim_end()).as_bytes());
}

/// The words after the program's name, expanded for argh, and what they are. `--version` ends the program wherever it
/// can be an option, as `--generate` does where it is the first word; argh, which defines both for the help, would want
/// the model as well.
pub fn words<T: ArgsInfo>(
    program: &'static str,
    args: impl Iterator<Item = OsString>,
) -> Result<Vec<(String, Place)>, Exit> {
    let words: Result<Vec<String>, OsString> = args.map(OsString::into_string).collect();
    let words = words.map_err(|word| Exit::usage(program, format_args!("{word:?} is not UTF-8")))?;
    let info = CommandInfoWithArgs { name: program, ..T::get_args_info() };
    let words = command_line::expand(&info, words).map_err(|error| Exit::usage(program, error))?;
    if words.iter().any(|(word, place)| *place == Place::Free && word == "--version") {
        return Err(Exit::done(program, format!("{} {}", name(program), env!("CARGO_PKG_VERSION"))));
    }
    match words.as_slice() {
        [(first, _), (kind, _)] if first == "--generate" => {
            let text = manual::generate(kind, &info).map_err(|problem| Exit::usage(program, problem))?;
            Err(Exit { program, text, success: true })
        }
        [(first, _), ..] if first == "--generate" => {
            Err(Exit::usage(program, format_args!("--generate takes one word, expected {}", manual::KINDS)))
        }
        _ => Ok(words),
    }
}

/// What argh makes of the words, its complaints in one line.
pub fn parse<T: ArgsInfo + FromArgs>(program: &'static str, words: &[&str]) -> Result<T, Exit> {
    T::from_args(&[program], words).map_err(|EarlyExit { output, status }| match status {
        Ok(()) => Exit::done(program, manual::help(&output)),
        Err(()) => Exit::usage(program, command_line::complaint(&T::get_args_info(), words, &output)),
    })
}

/// What a value that has a name chooses; `None` without one.
///
/// # Errors
/// An unknown name.
pub fn choice<T>(
    program: &'static str,
    option: &str,
    name: Option<&str>,
    expected: &str,
    named: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Exit> {
    let Some(name) = name else { return Ok(None) };
    let unknown = || Exit::usage(program, format_args!("{option} {name}: expected {expected}"));
    named(name).map(Some).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some program.
    #[derive(ArgsInfo, FromArgs)]
    #[expect(dead_code, reason = "only what argh says of it is used")]
    struct Program {
        /// takes a value
        #[argh(option)]
        stop: Option<String>,
        /// takes none
        #[argh(switch)]
        json: bool,
        /// takes a value
        #[argh(option)]
        generate: Option<String>,
        /// names
        #[argh(positional)]
        names: Vec<String>,
    }

    #[test]
    fn the_version_is_asked_for_where_an_option_can_stand() {
        let words = |words: &[&str]| super::words::<Program>("some", words.iter().map(OsString::from));
        let text = |given: &[&str]| words(given).err().map(|exit| (exit.success, exit.text));
        let version = Some((true, format!("some {}", env!("CARGO_PKG_VERSION"))));
        assert_eq!(text(&["m", "--version"]), version);
        assert_eq!(text(&["--stop", "a", "--version"]), version);
        assert_eq!(text(&["m", "-V"]), version);
        assert_eq!(text(&["--stop=--version"]), None);
        assert_eq!(text(&["m", "--", "--version"]), None);
        assert_eq!(text(&["m", "--generate", "man"]), None);
        assert_eq!(text(&["--generate"]).map(|(success, _)| success), Some(false));
        assert_eq!(text(&["--generate", "man"]).map(|(success, _)| success), Some(true));
        assert_eq!(text(&["--generate=man"]).map(|(success, _)| success), Some(true));
    }
}
