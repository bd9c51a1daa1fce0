//! Manual pages and completions for shells, made of the definitions of a command line, so that they say what `--help`
//! says. The programs print them with `--generate`.

mod completions;
mod man_page;

use argh::CommandInfoWithArgs;

/// What `--generate` takes.
pub const KINDS: &str = "man, bash, zsh or fish";
/// Width of the help, as argh has it.
const HELP_COLUMNS: usize = 80;

/// The manual page of a program, or the completions for a shell.
///
/// # Errors
/// `kind` is none of [`KINDS`]; says so.
pub fn generate(kind: &str, info: &CommandInfoWithArgs) -> Result<String, String> {
    match kind {
        "man" => Ok(man_page::man_page(info)),
        "bash" => Ok(completions::bash(info)),
        "zsh" => Ok(completions::zsh(info)),
        "fish" => Ok(completions::fish(info)),
        _ => Err(format!("--generate {kind}: expected {KINDS}")),
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
    fn another_shell_is_told_what_there_is() {
        let refused = generate("tcsh", &CommandInfoWithArgs::default());
        assert_eq!(refused.expect_err("no kind"), "--generate tcsh: expected man, bash, zsh or fish");
    }
}
