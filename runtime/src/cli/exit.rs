//! Ends of a program before its beginning: help, the version, a manual page, or wrong usage.

use crate::cli::program::Program;
use crate::error::one_line;
use std::fmt::Display;
use std::process::ExitCode;

/// What to print, and whether the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliExit {
    program: Program,
    text: String,
    is_usage: bool,
}

impl CliExit {
    /// Wrong usage, in one line.
    pub fn usage(program: Program, problem: impl Display) -> CliExit {
        let text = format!("{}; see {program} --help", one_line(&problem.to_string()));
        CliExit { program, text, is_usage: true }
    }

    /// What the user asked for.
    pub fn done(program: Program, text: impl Into<String>) -> CliExit {
        CliExit { program, text: text.into(), is_usage: false }
    }

    /// Whether the usage was wrong.
    pub fn is_usage(&self) -> bool {
        self.is_usage
    }

    /// Prints, and yields the exit status: 0, 1 when standard output does not take the text, or 2 after wrong usage.
    pub fn print(&self) -> ExitCode {
        if self.is_usage {
            self.program.error(&self.text);
            return ExitCode::from(2);
        }
        self.program.print_text(self.text.trim_end())
    }
}
