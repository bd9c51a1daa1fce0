//! The words of a command line: which command they name, and what argh makes of the others.

use crate::cli::command_line::{self, WordKind};
use crate::cli::exit::CliExit;
use crate::cli::manual;
use crate::cli::program::Program;
use argh::{CommandInfoWithArgs, EarlyExit, FromArgs};
use std::ffi::OsString;

/// Replaces `-` while argh parses, which takes it for an option. No argument can hold a NUL.
pub const STANDARD_INPUT: &str = "\0stdin";

/// The words after the name of a program, or of the command that the first one names.
pub struct Words {
    program: Program,
    command: Option<&'static str>,
    info: CommandInfoWithArgs,
    words: Vec<(String, WordKind)>,
}

impl Words {
    /// Expands the words for argh. `info` is that of the program and all its commands.
    ///
    /// # Errors
    /// A word is not UTF-8 or not an option; or nothing is left to parse: `--version` ends the program wherever an
    /// option is possible, `--man` and `--completions` as its only option. argh, which defines them for the help, would
    /// require the model too.
    pub fn new(
        program: Program,
        info: &CommandInfoWithArgs,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Words, CliExit> {
        let args: Vec<OsString> = args.into_iter().collect();
        let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let whole = info;
        let command = info.commands.iter().find(|command| words.first().is_some_and(|first| first == command.name));
        let (named, info) = match command {
            Some(command) => (program.command(command.name), &command.command),
            None => (program, info),
        };
        let n_names = usize::from(command.is_some());
        let expand = |words: &[String]| command_line::expand(named, info, whole, words[n_names..].iter().cloned());
        if let Some(at) = args.iter().position(|word| word.to_str().is_none()) {
            // What the word is depends on those before it only.
            let expanded = expand(&words[..=at]).unwrap_or_default();
            let is_path = expanded.last().is_some_and(|(last, kind)| *last == words[at] && *kind != WordKind::Value);
            let expected = if is_path { "text; rename the file or give another path to it" } else { "UTF-8" };
            let word = &args[at];
            return Err(CliExit::usage(named, format_args!("an argument is not UTF-8: {word:?}, expected {expected}")));
        }
        let words = expand(&words).map_err(|error| CliExit::usage(named, error))?;
        let is_option = |name: &str| words.iter().any(|(word, kind)| *kind == WordKind::Free && word == name);
        if is_option("--version") {
            return Err(CliExit::done(program, format!("{} {}", program.name(), env!("CARGO_PKG_VERSION"))));
        }
        let option = [manual::MAN, manual::COMPLETIONS].into_iter().find(|name| is_option(name));
        if let Some(option) = option {
            let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
            let text = match words.as_slice() {
                [manual::MAN] => manual::man_page(info),
                [manual::COMPLETIONS, shell] => {
                    manual::completions(shell, info).map_err(|problem| CliExit::usage(program, problem))?
                }
                [manual::COMPLETIONS] => {
                    let expected = manual::SHELLS;
                    return Err(CliExit::usage(program, format_args!("{option} needs a value, expected {expected}")));
                }
                _ => return Err(CliExit::usage(program, format_args!("{option} excludes all other arguments"))),
            };
            return Err(CliExit::done(program, text));
        }
        let command = command.map(|command| command.name);
        Ok(Words { program: named, command, info: info.clone(), words })
    }

    /// The command that the first word names.
    pub fn command(&self) -> Option<&'static str> {
        self.command
    }

    /// Replaces each `-` that is not the value of an option by [`STANDARD_INPUT`].
    pub fn mark_standard_input(&mut self) {
        let is_dash = |(word, kind): &&mut (String, WordKind)| word == "-" && *kind != WordKind::Value;
        self.words.iter_mut().filter(is_dash).for_each(|(word, _)| *word = STANDARD_INPUT.into());
    }

    /// Parses the words with argh.
    ///
    /// # Errors
    /// Help, or argh's complaint in one line.
    pub fn parse<T: FromArgs>(&self) -> Result<T, CliExit> {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| word.as_str()).collect();
        T::from_args(&self.program.words(), &words).map_err(|EarlyExit { output, status }| match status {
            Ok(()) => {
                let help = manual::help(&output) + &manual::commands(self.program, &self.info);
                CliExit::done(self.program, help)
            }
            Err(()) => CliExit::usage(self.program, command_line::complaint(&self.info, &words, &output)),
        })
    }

    /// The words that are neither options nor their values; `None` where one of them is an option.
    pub fn without_options(&self) -> Option<Vec<&str>> {
        let is_option = |(word, kind): &(String, WordKind)| *kind == WordKind::Free && word.starts_with('-');
        let has_option = self.words.iter().any(is_option);
        (!has_option).then(|| self.words.iter().map(|(word, _)| word.as_str()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::ArgsInfo;

    const PROGRAM: Program = Program::new("some");

    /// Some program.
    #[derive(ArgsInfo, FromArgs)]
    #[expect(dead_code, reason = "only its definitions are used")]
    struct Demo {
        /// takes a value
        #[argh(option)]
        stop: Option<String>,
        /// takes none
        #[argh(switch)]
        json: bool,
        /// page
        #[argh(switch)]
        man: bool,
        /// script
        #[argh(option)]
        completions: Option<String>,
        /// names
        #[argh(positional)]
        names: Vec<String>,
    }

    fn words(words: &[&str]) -> Result<Words, CliExit> {
        Words::new(PROGRAM, &Demo::get_args_info(), words.iter().map(OsString::from))
    }

    #[test]
    fn version_ends_program_where_an_option_is_possible() {
        let exit = |given: &[&str]| words(given).err();
        let version = Some(CliExit::done(PROGRAM, format!("some {}", env!("CARGO_PKG_VERSION"))));
        assert_eq!(exit(&["m", "--version"]), version);
        assert_eq!(exit(&["--stop", "a", "--version"]), version);
        assert_eq!(exit(&["m", "-V"]), version);
        assert_eq!(exit(&["--stop=--version"]), None);
        assert_eq!(exit(&["m", "--", "--version"]), None);
    }

    #[test]
    fn manual_and_completions_exclude_other_words() {
        let is_usage = |given: &[&str]| words(given).err().map(|exit| exit.is_usage());
        for (given, expected) in [
            (&["--man"][..], Some(false)),
            (&["--completions", "bash"], Some(false)),
            (&["--completions=zsh"], Some(false)),
            (&["--completions", "csh"], Some(true)),
            (&["--completions"], Some(true)),
            (&["m", "--man"], Some(true)),
            (&["--man", "m"], Some(true)),
            (&["--completions", "bash", "m"], Some(true)),
            (&["--man=man"], Some(true)),
            (&["--stop=--man"], None),
            (&["--", "--man"], None),
        ] {
            assert_eq!(is_usage(given), expected, "{given:?}");
        }
    }
}
