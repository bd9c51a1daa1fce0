//! A program as its messages name it, and what it prints: results on standard output, and lines about them on standard
//! error.

use crate::error::{one_line, reason};
use crate::os::disk::check_written;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

/// The option that prints the manual page.
pub const MAN: &str = "--man";
/// The option that prints completions for a shell.
pub const COMPLETIONS: &str = "--completions";

/// A program, or one of its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    name: &'static str,
    command: Option<&'static str>,
}

/// `olmo-infer`, or `olmo-infer chat`.
impl Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.command.map_or(Ok(()), |command| write!(f, " {command}"))
    }
}

impl Program {
    /// The program of this name.
    pub const fn new(name: &'static str) -> Program {
        Program { name, command: None }
    }

    /// The command of this name.
    pub const fn command(self, command: &'static str) -> Program {
        Program { command: Some(command), ..self }
    }

    /// The name of the program.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The words that argh takes for the name.
    pub(crate) fn words(self) -> Vec<&'static str> {
        [self.name].into_iter().chain(self.command).collect()
    }

    /// Prints a line on standard error.
    pub fn print_line(self, line: impl Display) {
        self.lines([line]);
    }

    /// Prints a note.
    pub fn note(self, line: impl Display) {
        self.print_line(format_args!("note: {line}"));
    }

    /// Prints each line as a warning.
    pub fn warn(self, lines: &[String]) {
        self.lines(lines.iter().map(|line| format!("warning: {line}")));
    }

    /// Prints each line of what is wrong.
    pub fn error(self, problem: impl Display) {
        self.lines(problem.to_string().lines().map(|line| format!("error: {line}")));
    }

    /// Prints results with a newline at their end, and yields `status`, or that of a failure. A reader that has left is
    /// not a failure.
    pub fn print(self, results: &str, status: ExitCode) -> ExitCode {
        self.write(results, status, "cannot write the results to standard output")
    }

    /// As [`Program::print`], for a text that is not a result.
    pub(crate) fn print_text(self, text: &str) -> ExitCode {
        self.write(text, ExitCode::SUCCESS, "cannot write to standard output")
    }

    fn write(self, text: &str, status: ExitCode, problem: &str) -> ExitCode {
        let line_end = if text.ends_with('\n') { "" } else { "\n" };
        let mut stdout = io::stdout().lock();
        let written = write!(stdout, "{text}{line_end}").and_then(|()| stdout.flush());
        match written.and_then(|()| check_written(&stdout)) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.error(format_args!("{problem}: {}", reason(&error)));
                ExitCode::FAILURE
            }
            _ => status,
        }
    }

    /// Prints lines, control characters escaped, in one write: no line of another program comes between them.
    fn lines(self, lines: impl IntoIterator<Item = impl Display>) {
        let line = |line: &dyn Display| one_line(&format!("{}: {line}", self.name)) + "\n";
        let text: String = lines.into_iter().map(|text| line(&text)).collect();
        // No result depends on whether standard error takes it.
        let _lost = io::stderr().write_all(text.as_bytes());
    }
}
