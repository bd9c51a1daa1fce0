//! Help, manual pages and completions for shells, from the definitions of a command line.

mod completions;
mod man_page;

use crate::cli::command_line::shown_value;
use crate::cli::program::Program;
pub use crate::cli::program::{COMPLETIONS, MAN};
use argh::CommandInfoWithArgs;
use man_page::first_sentence;
pub use man_page::man_page;

/// The shells that have completions.
pub const SHELLS: &str = "bash, zsh or fish";
/// Width of the help, that of argh.
const HELP_COLUMNS: usize = 80;

/// The completions of a program for a shell.
///
/// # Errors
/// The shell is not one of [`SHELLS`]; names them.
pub fn completions(shell: &str, info: &CommandInfoWithArgs) -> Result<String, String> {
    match shell {
        "bash" => Ok(completions::bash(info)),
        "zsh" => Ok(completions::zsh(info)),
        "fish" => Ok(completions::fish(info)),
        _ => Err(format!("{COMPLETIONS} {}: expected {SHELLS}", shown_value(shell))),
    }
}

/// The end of the help: a line for each command, or nothing.
pub fn commands(program: Program, info: &CommandInfoWithArgs) -> String {
    let line = |name: &str, description: &str| format!("  {name:<18}{}.\n", first_sentence(description));
    let lines: String = info.commands.iter().map(|command| line(command.name, command.command.description)).collect();
    match lines.is_empty() {
        true => lines,
        false => format!("\nCommands ({program} <command> --help prints more):\n{lines}"),
    }
}

/// What argh answers to `--help`, with lines that fit a terminal: it breaks those of arguments and options only.
pub fn help(answer: &str) -> String {
    let mut out = String::new();
    for line in answer.lines() {
        let mut column = 0;
        // What is indented is broken already, or is an example.
        let words = if line.starts_with(' ') { vec![line] } else { line.split(' ').collect() };
        for word in words {
            if column > 0 && column + 1 + word.chars().count() > HELP_COLUMNS {
                out.push('\n');
                column = 0;
            } else if column > 0 {
                out.push(' ');
                column += 1;
            }
            out += word;
            column += word.chars().count();
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_terminal_and_keeps_examples() {
        let (long, example) = ("word ".repeat(30), format!("  {}", "x".repeat(100)));
        let shown = help(&format!("{}\n\nExamples:\n{example}\n", long.trim_end()));
        assert!(shown.lines().filter(|line| **line != example).all(|line| line.len() <= HELP_COLUMNS), "{shown}");
        assert_eq!(shown.split_whitespace().count(), 32);
        assert!(shown.ends_with(&format!("word\n\nExamples:\n{example}\n")), "{shown}");
    }

    #[test]
    fn unknown_shells_are_refused_with_the_known_ones() {
        let refused = completions("tcsh", &CommandInfoWithArgs::default());
        assert_eq!(refused.expect_err("unknown"), "--completions tcsh: expected bash, zsh or fish");
        let refused = completions("", &CommandInfoWithArgs::default());
        assert_eq!(refused.expect_err("empty"), "--completions \"\": expected bash, zsh or fish");
    }
}
