//! The manual page, in roff with the `man` macros.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};
use std::fmt::Write as _;

/// The page of a program.
pub fn man_page(info: &CommandInfoWithArgs) -> String {
    let name = info.name;
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.line(&format!(".TH \"{}\" 1 \"\" \"{name} {version}\" \"\"", roff(&name.to_uppercase())));
    page.line(".SH NAME");
    page.text(&format!("{name} - {}", lower_first(first_sentence(info.description))));
    page.line(".SH SYNOPSIS");
    page.synopsis(name, info);
    for command in &info.commands {
        page.line(".br");
        page.synopsis(&format!("{name} {}", command.name), &command.command);
    }
    page.line(".SH DESCRIPTION");
    page.text(info.description);
    page.arguments(info);
    page.heading(".SH", "OPTIONS");
    page.options(info);
    if !info.commands.is_empty() {
        page.heading(".SH", "COMMANDS");
    }
    for command in &info.commands {
        let (words, command) = (format!("{name} {}", command.name), &command.command);
        page.heading(".SS", &words);
        page.synopsis(&words, command);
        page.line(".PP");
        page.text(command.description);
        page.arguments(command);
        page.options(command);
        page.examples(command);
        page.notes(command);
    }
    if !info.examples.is_empty() {
        page.heading(".SH", "EXAMPLES");
        page.examples(info);
    }
    if !info.notes.is_empty() {
        page.heading(".SH", "NOTES");
        page.notes(info);
    }
    page.0
}

/// The lines of a page so far.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A line of roff.
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.0, "{line}");
    }

    fn heading(&mut self, macro_name: &str, text: &str) {
        self.line(&format!("{macro_name} \"{}\"", roff(text)));
    }

    /// Words that roff may break into lines; braces are still doubled, as argh keeps them for `format!`.
    fn text(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        self.line(&roff(&words.join(" ").replace("{{", "{").replace("}}", "}")));
    }

    fn synopsis(&mut self, words: &str, info: &CommandInfoWithArgs) {
        let mut line = format!("\\fB{}\\fR", roff(words));
        for argument in visible(info.positionals) {
            let name = roff(argument.name);
            let _ = match argument.optionality {
                Optionality::Required => write!(line, " \\fI{name}\\fR"),
                Optionality::Optional => write!(line, " [\\fI{name}\\fR]"),
                Optionality::Repeating | Optionality::Greedy => write!(line, " [\\fI{name}\\fR ...]"),
            };
        }
        self.line(&format!("{line} [\\fIoptions\\fR]"));
    }

    fn arguments(&mut self, info: &CommandInfoWithArgs) {
        for argument in visible(info.positionals) {
            self.line(".TP");
            self.line(&format!("\\fI{}\\fR", roff(argument.name)));
            self.text(argument.description);
        }
    }

    fn options(&mut self, info: &CommandInfoWithArgs) {
        for flag in info.flags.iter().filter(|flag| !flag.hidden) {
            self.line(".TP");
            self.line(&option(flag));
            self.text(flag.description);
        }
    }

    /// Commands stay as they are, line by line.
    fn examples(&mut self, info: &CommandInfoWithArgs) {
        if !info.examples.is_empty() {
            self.line(".PP\n.RS\n.nf");
            info.examples.iter().flat_map(|example| example.lines()).for_each(|line| self.line(&roff(line)));
            self.line(".fi\n.RE");
        }
    }

    fn notes(&mut self, info: &CommandInfoWithArgs) {
        for note in info.notes {
            self.line(".PP");
            self.text(note);
        }
    }
}

fn visible<'a>(arguments: &'a [PositionalInfo<'a>]) -> impl Iterator<Item = &'a PositionalInfo<'a>> {
    arguments.iter().filter(|argument| !argument.hidden)
}

/// An option with the name of its value, and its short form.
fn option(flag: &FlagInfo) -> String {
    let short = flag.short.map_or(String::new(), |short| format!("\\fB\\-{short}\\fR, "));
    let value = match flag.kind {
        FlagInfoKind::Switch => String::new(),
        FlagInfoKind::Option { arg_name } => format!(" \\fI{}\\fR", roff(arg_name)),
    };
    format!("{short}\\fB{}\\fR{value}", roff(flag.long))
}

/// The first sentence of a description, without its full stop.
pub(super) fn first_sentence(description: &str) -> &str {
    let end = description.find(". ").or(description.strip_suffix('.').map(str::len));
    description[..end.unwrap_or(description.len())].trim()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

/// Text in which roff finds nothing to do. Hyphens stay the character that is copied into a shell, and a line never
/// begins with a control character.
fn roff(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out += "\\e",
            '-' => out += "\\-",
            '"' => out += "\\(dq",
            '\'' => out += "\\(aq",
            '^' => out += "\\(ha",
            '~' => out += "\\(ti",
            '`' => out += "\\(ga",
            '.' if out.is_empty() => out += "\\&.",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[FlagInfo] = &[FlagInfo {
        kind: FlagInfoKind::Option { arg_name: "n" },
        optionality: Optionality::Optional,
        long: "--min-n",
        short: Some('n'),
        description: "the least; it's not {{small}}",
        hidden: false,
    }];

    fn info() -> CommandInfoWithArgs {
        CommandInfoWithArgs {
            name: "olmo-x",
            description: "Does x. And then y.",
            examples: &[".x \\ \"y\""],
            flags: FLAGS,
            positionals: &[PositionalInfo {
                name: "files",
                description: "some",
                optionality: Optionality::Repeating,
                hidden: false,
            }],
            ..CommandInfoWithArgs::default()
        }
    }

    #[test]
    fn nothing_in_a_text_is_taken_for_roff() {
        let page = man_page(&info());
        for line in [
            "olmo\\-x \\- does x",
            "\\fBolmo\\-x\\fR [\\fIfiles\\fR ...] [\\fIoptions\\fR]",
            "\\fB\\-n\\fR, \\fB\\-\\-min\\-n\\fR \\fIn\\fR",
            "the least; it\\(aqs not {small}",
            "\\&.x \\e \\(dqy\\(dq",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
