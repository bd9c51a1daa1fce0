//! The words of a command line before argh parses them: `--option=value`, short options, misspelt names; and argh's
//! complaints after that, in plain words.

use crate::cli::program::Program;
use crate::cli::program::{COMPLETIONS, MAN};
use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};
use std::fmt;

/// The option of earlier versions that printed the manual page and completions.
const GENERATE: &str = "--generate";

/// What to do without an option for the output.
const REDIRECT: &str = "redirect standard output: > FILE";

/// What a word of the command line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// An option, a switch, or an argument without a name.
    Free,
    /// The value of the option before it.
    Value,
    /// An argument without a name, after `--`.
    Name,
}

/// A command line that argh is not asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordError {
    /// No option has this name.
    Unknown {
        /// The word as typed, up to its `=`.
        word: String,
        /// What the user probably meant.
        hint: Option<String>,
        /// What to do instead.
        advice: Option<&'static str>,
    },
    /// A switch was given a value.
    TakesNoValue {
        /// Its name.
        option: String,
        /// The value.
        value: String,
    },
    /// The value of an option is the name of another option, so that the value was probably forgotten.
    ValueIsOption {
        /// The option as typed.
        option: String,
        /// The word after it.
        value: String,
    },
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WordError::Unknown { word, hint, advice } => {
                write!(f, "unknown option {word}")?;
                hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))?;
                advice.map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
            WordError::TakesNoValue { option, value } => write!(f, "{option}={value}: {option} takes no value"),
            WordError::ValueIsOption { option, value } => {
                write!(f, "{option} needs a value before {value}; if {value} is the value, write {option}={value}")
            }
        }
    }
}

/// The words after the name of a program or of its command, as argh takes them, and what they are: short options under
/// their long names, `--option=value` as two words. A request for help leaves nothing but `--help`, because argh takes
/// no other option after it; `-V` becomes `--version` even where `info` has no such switch. `info` defines `program`,
/// and `whole` the program with all its commands.
///
/// A value may begin with `-`, but must not be the name of another option unless it is attached by `=`.
///
/// # Errors
/// [`WordError`]. An option at the end that lacks its value is left to argh.
pub fn expand(
    program: Program,
    info: &CommandInfoWithArgs,
    whole: &CommandInfoWithArgs,
    words: impl IntoIterator<Item = String>,
) -> Result<Vec<(String, WordKind)>, WordError> {
    let mut expanded = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => {
                expanded.push((word, WordKind::Free));
                expanded.extend(words.by_ref().map(|name| (name, WordKind::Name)));
            }
            "-h" | "--help" => return Ok(vec![("--help".into(), WordKind::Free)]),
            "-V" | "--version" => expanded.push(("--version".into(), WordKind::Free)),
            option if option.starts_with('-') && option != "-" => {
                let (typed, flag, attached) = find(program, info, whole, option)?;
                expanded.push((flag.long.to_string(), WordKind::Free));
                match (takes_value(flag), attached) {
                    (false, None) => {}
                    (false, Some(value)) => {
                        return Err(WordError::TakesNoValue { option: flag.long.into(), value: value.into() });
                    }
                    (true, Some(value)) => expanded.push((value.into(), WordKind::Value)),
                    (true, None) => match words.next() {
                        Some(value) if is_option(info, &value) => {
                            return Err(WordError::ValueIsOption { option: typed.into(), value });
                        }
                        value => expanded.extend(value.map(|value| (value, WordKind::Value))),
                    },
                }
            }
            _ => expanded.push((word, WordKind::Free)),
        }
    }
    Ok(expanded)
}

fn takes_value(flag: &FlagInfo) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { .. })
}

/// Whether a word is the name of an option, and nothing more.
fn is_option(info: &CommandInfoWithArgs, word: &str) -> bool {
    let is_short = |short: char| word.strip_prefix('-').is_some_and(|rest| rest.chars().eq([short]));
    let is_name = |flag: &FlagInfo| flag.long == word || flag.short.is_some_and(is_short);
    ["--help", "--version", "-h", "-V"].contains(&word) || info.flags.iter().any(is_name)
}

/// The option that a word names, as it is typed there, and the value attached to it.
fn find<'a, 'w>(
    program: Program,
    info: &'a CommandInfoWithArgs,
    whole: &CommandInfoWithArgs,
    word: &'w str,
) -> Result<(&'w str, &'a FlagInfo<'static>, Option<&'w str>), WordError> {
    let (typed, value) = word.split_once('=').map_or((word, None), |(typed, value)| (typed, Some(value)));
    if let Some(flag) = info.flags.iter().find(|flag| flag.long == typed) {
        return Ok((typed, flag, value));
    }
    let mut chars = typed.strip_prefix('-').unwrap_or_default().chars();
    let short = chars.next();
    let rest = chars.as_str();
    if let Some(flag) = info.flags.iter().find(|flag| flag.short.is_some() && flag.short == short) {
        // -t4 is -t 4, but -prompt is not -p rompt.
        let is_number = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        match value {
            value if rest.is_empty() => return Ok((typed, flag, value)),
            None if is_number && takes_value(flag) => {
                return Ok((typed.strip_suffix(rest).unwrap_or(typed), flag, Some(rest)));
            }
            _ => {}
        }
    }
    let place = place(program, whole, typed);
    let is_output = place.is_some() && ["-o", "--output"].contains(&typed);
    let hint = place.map(|place| format!("an option of {place}")).or_else(|| hint(program, info, typed));
    Err(WordError::Unknown { word: typed.into(), hint, advice: is_output.then_some(REDIRECT) })
}

/// The program or the command of `whole` that has this option.
fn place(program: Program, whole: &CommandInfoWithArgs, typed: &str) -> Option<Program> {
    let is_typed = |flag: &FlagInfo| flag.long == typed || flag.short.is_some_and(|short| typed == format!("-{short}"));
    let program = Program::new(program.name());
    if whole.flags.iter().any(is_typed) {
        return Some(program);
    }
    let command = whole.commands.iter().find(|command| command.command.flags.iter().any(is_typed))?;
    Some(program.command(command.name))
}

/// What an unknown option probably means.
fn hint(program: Program, info: &CommandInfoWithArgs, typed: &str) -> Option<String> {
    if typed == GENERATE && info.flags.iter().any(|flag| flag.long == MAN) {
        return Some(format!("did you mean {} or {} SHELL?", MAN, COMPLETIONS));
    }
    let options = info.flags.iter().filter(|flag| !flag.hidden).map(|flag| flag.long).chain(["--help", "--version"]);
    let commands = info.commands.iter().map(|command| command.name);
    let meant = nearest(typed, options.chain(commands))?;
    let is_command = info.commands.iter().any(|command| command.name == meant);
    let meant = if is_command { program.command(meant).to_string() } else { meant.into() };
    Some(format!("did you mean {meant}?"))
}

/// The name that a misspelt word probably means. Dashes, underscores and case make no difference.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = letters(word);
    let n = typed.chars().count();
    let distance = |name: &'a str| {
        let letters = letters(name);
        let begins = n >= 3 && letters.starts_with(&typed);
        let distance = if begins { usize::from(letters != typed) } else { strsim::osa_distance(&typed, &letters) };
        (distance, name)
    };
    // No name is long: a word of any length would cost its length times theirs.
    let names = names.into_iter().filter(|_| (2..=64).contains(&n)).map(distance);
    names
        .filter(|(distance, _)| *distance <= (n / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Whether a word is this name, except for dashes, underscores and case.
pub fn is_name_of(word: &str, name: &str) -> bool {
    letters(word) == letters(name)
}

fn letters(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The value of an option as messages show it.
pub fn shown_value(value: &str) -> &str {
    if value.is_empty() { "\"\"" } else { value }
}

/// A complaint of argh in plain words; `words` are those it was given. Is not yet escaped.
pub fn complaint(info: &CommandInfoWithArgs, words: &[&str], output: &str) -> String {
    let output = output.trim();
    for pair in words.windows(2) {
        let (option, value) = (pair[0], pair[1]);
        let begins = format!("Error parsing option '{option}' with value '{value}': ");
        if let Some(problem) = output.strip_prefix(&begins) {
            let shown = shown_value(value);
            return match problem {
                "duplicate values provided" => format!("{option} {shown}: {option} is given twice, expected once"),
                problem => format!("{option} {shown}: {problem}"),
            };
        }
    }
    let mut line = output.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(word) = line.strip_prefix("Unrecognized argument: ") {
        let meant = info.flags.iter().find(|flag| is_name_of(word, flag.long));
        line += &meant.map_or(String::new(), |flag| format!(" (did you mean {}?)", flag.long));
    }
    line.trim_end_matches('.').to_string()
}

/// The number of threads to use for `--threads`, 0 for all processors of this process: more threads would only wait.
/// With it a note when fewer are used than requested.
pub fn threads(asked: usize) -> (usize, Option<String>) {
    threads_on(std::thread::available_parallelism().map_or(1, usize::from), asked)
}

fn threads_on(processors: usize, asked: usize) -> (usize, Option<String>) {
    match asked {
        0 => (processors, None),
        asked if asked <= processors => (asked, None),
        asked => {
            let all = if processors == 1 { "one processor".into() } else { format!("{processors} processors") };
            let note = format!("--threads {asked}: this process may use {all}, and more threads would only wait");
            (processors, Some(format!("{note}; using {processors}")))
        }
    }
}

/// A value that has a name, for argh's `from_str_fn`.
///
/// # Errors
/// The names, when `value` is `None`.
pub fn named<T>(value: Option<T>, names: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("expected {names}"))
}

/// A whole number from 0, for argh's `from_str_fn`.
///
/// # Errors
/// What was expected.
pub fn whole_number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number = text.parse::<u64>().ok().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        true => "expected a smaller number".into(),
        false => "expected a whole number from 0".into(),
    })
}

/// A whole number from 1, for argh's `from_str_fn`.
///
/// # Errors
/// What was expected.
pub fn count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    match text.parse::<u64>() {
        Ok(0) => Err("expected a whole number from 1".into()),
        _ => whole_number(text).map_err(|problem| problem.replace("from 0", "from 1")),
    }
}

/// A number, for argh's `from_str_fn`.
///
/// # Errors
/// What was expected.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, as in 0.5".into())
}

#[cfg(test)]
mod tests {
    use super::WordKind::{Free, Name, Value};
    use super::*;
    use argh::Optionality;

    #[test]
    fn no_more_threads_than_processors_are_used() {
        assert_eq!([0, 1, 4].map(|asked| threads_on(4, asked)), [(4, None), (1, None), (4, None)]);
        let (used, note) = threads_on(4, usize::MAX);
        let expected = "--threads 18446744073709551615: this process may use 4 processors, and more threads would only \
                        wait; using 4";
        assert_eq!((used, note.as_deref()), (4, Some(expected)));
        assert!(
            threads_on(1, 2)
                .1
                .is_some_and(|note| note.ends_with("may use one processor, and more threads would only wait; using 1"))
        );
    }

    const fn flag(long: &'static str, short: Option<char>, takes_value: bool) -> FlagInfo<'static> {
        let kind = if takes_value { FlagInfoKind::Option { arg_name: "x" } } else { FlagInfoKind::Switch };
        FlagInfo { kind, optionality: Optionality::Optional, long, short, description: "", hidden: false }
    }

    const FLAGS: &[FlagInfo] = &[
        flag("--stop", None, true),
        flag("--threads", Some('t'), true),
        flag("--temperature", None, true),
        flag("--prompt", Some('p'), true),
        flag("--json", None, false),
    ];

    fn words(words: &[&str]) -> Result<Vec<(String, WordKind)>, WordError> {
        let info = CommandInfoWithArgs { flags: FLAGS, ..CommandInfoWithArgs::default() };
        expand(Program::new("some"), &info, &info, words.iter().map(ToString::to_string))
    }

    #[test]
    fn words_expand_to_long_options_and_separate_values() {
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, WordKind)]);
        let cases: [Case; 12] = [
            (&["m", "--stop=a=b"], &[("m", Free), ("--stop", Free), ("a=b", Value)]),
            (&["--stop="], &[("--stop", Free), ("", Value)]),
            (&["--stop", "-x", "-"], &[("--stop", Free), ("-x", Value), ("-", Free)]),
            (&["-p", "-5"], &[("--prompt", Free), ("-5", Value)]),
            (&["-p=-5"], &[("--prompt", Free), ("-5", Value)]),
            (&["-t4", "-t=4"], &[("--threads", Free), ("4", Value), ("--threads", Free), ("4", Value)]),
            (&["--stop=--json", "--json"], &[("--stop", Free), ("--json", Value), ("--json", Free)]),
            (&["--", "--json", "-V", "--"], &[("--", Free), ("--json", Name), ("-V", Name), ("--", Name)]),
            (&["m", "-V"], &[("m", Free), ("--version", Free)]),
            (&["m", "-h", "--nonsense"], &[("--help", Free)]),
            (&["--threads"], &[("--threads", Free)]),
            (&[], &[]),
        ];
        for (given, expected) in cases {
            let expected = expected.iter().map(|(word, kind)| (word.to_string(), *kind)).collect();
            assert_eq!(words(given), Ok(expected), "{given:?}");
        }
    }

    #[test]
    fn wrong_words_are_refused_with_what_was_meant() {
        for (given, says) in [
            (&["--temprature", "1"][..], "unknown option --temprature (did you mean --temperature?)"),
            (&["--Temp=1"], "unknown option --Temp (did you mean --temperature?)"),
            (&["-temperature", "1"], "unknown option -temperature (did you mean --temperature?)"),
            (&["-prompt", "Hi"], "unknown option -prompt (did you mean --prompt?)"),
            (&["--nothing-like-it"], "unknown option --nothing-like-it"),
            (&["-x"], "unknown option -x"),
            (&["-5"], "unknown option -5"),
            (&["--json=1"], "--json=1: --json takes no value"),
            (&["-p", "--json"], "-p needs a value before --json; if --json is the value, write -p=--json"),
            (&["-p", "-t", "3"], "-p needs a value before -t; if -t is the value, write -p=-t"),
            (&["--stop", "-V"], "--stop needs a value before -V; if -V is the value, write --stop=-V"),
            (&["--stop", "--help"], "--stop needs a value before --help; if --help is the value, write --stop=--help"),
        ] {
            assert_eq!(words(given).expect_err("refused").to_string(), says, "{given:?}");
        }
    }

    #[test]
    fn complaints_name_the_option_and_the_value() {
        let info = CommandInfoWithArgs { flags: FLAGS, ..CommandInfoWithArgs::default() };
        let says = |words: &[&str], output: &str| complaint(&info, words, output);
        let of = |option: &str, value: &str, problem: &str| {
            says(&[option, value], &format!("Error parsing option '{option}' with value '{value}': {problem}\n"))
        };
        assert_eq!(of("--threads", "it's': 2", "no"), "--threads it's': 2: no");
        assert_eq!(of("--stop", "", "no"), "--stop \"\": no");
        let twice = "--threads 2: --threads is given twice, expected once";
        assert_eq!(of("--threads", "2", "duplicate values provided"), twice);
        assert_eq!(says(&[], "Unrecognized argument: json\n"), "Unrecognized argument: json (did you mean --json?)");
        assert_eq!(says(&[], "Unrecognized argument: more\n"), "Unrecognized argument: more");
        assert_eq!(says(&[], "Not provided:\n    model\n"), "Not provided: model");
    }

    #[test]
    fn numbers_are_refused_in_plain_words() {
        assert_eq!(whole_number::<usize>("17"), Ok(17));
        assert_eq!(whole_number::<u64>("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "two", "-1", "1.5", "0x10", "1 000", " 1"] {
            assert_eq!(whole_number::<u64>(bad), Err("expected a whole number from 0".into()), "{bad}");
            assert_eq!(count::<u64>(bad), Err("expected a whole number from 1".into()), "{bad}");
        }
        assert_eq!(whole_number::<u64>("18446744073709551616"), Err("expected a smaller number".into()));
        assert_eq!(count::<usize>("0"), Err("expected a whole number from 1".into()));
        assert_eq!(number("0.5"), Ok(0.5));
        assert_eq!(number("0,5"), Err("expected a number, as in 0.5".into()));
    }
}
