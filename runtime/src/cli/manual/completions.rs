//! Completions of commands, options and files: those of argh_complete, where they suit programs whose files come first.

use argh::{CommandInfoWithArgs, FlagInfoKind, SubCommandInfo};
use argh_complete::Generator;
use argh_complete::bash::Bash;
use argh_complete::zsh::Zsh;
use std::fmt::Write as _;

/// The script for bash.
pub(super) fn bash(info: &CommandInfoWithArgs) -> String {
    Bash::generate(info.name, info)
}

/// The script of argh_complete 0.1.19 for zsh completes commands and options. Here other words are files, and what
/// begins without the name of a command continues with the options of the program itself, which are one more command
/// in the script.
pub(super) fn zsh(info: &CommandInfoWithArgs) -> String {
    const UNNAMED: &str = "unnamed";
    let mut commands = info.commands.clone();
    if !commands.is_empty() {
        let command = CommandInfoWithArgs { name: UNNAMED, commands: Vec::new(), ..info.clone() };
        commands.push(SubCommandInfo { name: UNNAMED, command });
    }
    let script = Zsh::generate(info.name, &CommandInfoWithArgs { commands, ..info.clone() });
    let is_listed = |line: &&str| !line.trim_start().starts_with(&format!("'{UNNAMED}:"));
    let lines: Vec<&str> = script.lines().filter(is_listed).collect();
    let script = lines.join("\n") + "\n";
    script
        .replace(&format!("({UNNAMED})"), "(*)")
        .replace("': :'", "':value:_files'")
        .replace("    && return 0", "    '*:file:_files' && return 0")
        .replace("if (( CURRENT == 1 )); then\n", "if (( CURRENT == 1 )); then\n                _files\n")
}

/// The script for fish. That of argh_complete 0.1.19 completes no option after the first file, and needs fish 4.
pub(super) fn fish(info: &CommandInfoWithArgs) -> String {
    let program = info.name;
    let names: Vec<&str> = info.commands.iter().map(|command| command.name).collect();
    let unnamed = match names.as_slice() {
        [] => String::new(),
        names => format!(" -n 'not __fish_seen_subcommand_from {}'", names.join(" ")),
    };
    let mut out = fish_options(program, &unnamed, info);
    for SubCommandInfo { name, command } in &info.commands {
        let description = fish_word(command.description);
        let _ = writeln!(out, "complete -c {program} -n __fish_use_subcommand -a {name} -d {description}");
        out += &fish_options(program, &format!(" -n '__fish_seen_subcommand_from {name}'"), command);
    }
    out
}

/// A line for each option, which counts under a condition.
fn fish_options(program: &str, condition: &str, info: &CommandInfoWithArgs) -> String {
    let mut out = String::new();
    for flag in info.flags.iter().filter(|flag| !flag.hidden) {
        let (long, description) = (flag.long.trim_start_matches('-'), fish_word(flag.description));
        let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
        let value = if matches!(flag.kind, FlagInfoKind::Option { .. }) { " -r" } else { "" };
        let _ = writeln!(out, "complete -c {program}{condition} -l {long}{short}{value} -d {description}");
    }
    out
}

/// Text as one word of fish.
fn fish_word(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::{FlagInfo, Optionality};

    const fn flag(kind: FlagInfoKind<'static>, long: &'static str, description: &'static str) -> FlagInfo<'static> {
        FlagInfo { kind, optionality: Optionality::Optional, long, short: None, description, hidden: false }
    }

    const FLAGS: &[FlagInfo] = &[flag(FlagInfoKind::Option { arg_name: "n" }, "--min-n", "it's \\ [n]")];
    const FLAGS_OF_SEE: &[FlagInfo] = &[flag(FlagInfoKind::Switch, "--deep", "look")];

    /// Looks for lines in the script for a program with an option, and a command with a switch.
    fn check(script: impl Fn(&CommandInfoWithArgs) -> String, lines: &[&str]) {
        let see = CommandInfoWithArgs { name: "see", description: "Sees.", flags: FLAGS_OF_SEE, ..Default::default() };
        let commands = vec![SubCommandInfo { name: "see", command: see }];
        let info = CommandInfoWithArgs { name: "olmo-x", flags: FLAGS, commands, ..Default::default() };
        let script = script(&info);
        for line in lines {
            assert!(script.lines().any(|found| found.trim() == *line), "{line}\n{script}");
        }
    }

    #[test]
    fn fish_completes_options_after_files() {
        check(
            fish,
            &[
                r"complete -c olmo-x -n 'not __fish_seen_subcommand_from see' -l min-n -r -d 'it\'s \\ [n]'",
                "complete -c olmo-x -n __fish_use_subcommand -a see -d 'Sees.'",
                "complete -c olmo-x -n '__fish_seen_subcommand_from see' -l deep -d 'look'",
            ],
        );
    }

    #[test]
    fn zsh_completes_files_and_what_has_no_command() {
        check(
            zsh,
            &["'*:file:_files' && return 0", "(see)", "_olmo-x_see", "(*)", "_olmo-x_unnamed", "'see:Sees.'", "_files"],
        );
    }
}
