//! The lines that a user types, edited in a terminal, or those of standard input.

use crate::output::Failure;
use olmo_infer::error::reason;
use olmo_infer::signals::Editing;
use rustyline::config::Config;
use rustyline::error::{ReadlineError, Signal};
use rustyline::history::MemHistory;
use rustyline::{Behavior, Editor};
use std::env;
use std::io::{self, BufRead, Read};

/// Longest line of standard input; what a model can take is far less.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Lines that the arrow keys bring back.
const MAX_HISTORY: usize = 1000;
/// Terminals in which rustyline edits no lines.
const PLAIN_TERMINALS: [&str; 3] = ["dumb", "cons25", "emacs"];

/// What the user does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Sends this text, which may have several lines.
    Text(String),
    /// Gives the line up, with Ctrl-C.
    Interrupt,
    /// Ends the input.
    End,
}

/// Where lines come from.
pub enum Lines {
    /// Typed in a terminal.
    Terminal(Box<Editor<(), MemHistory>>),
    /// Standard input as it is.
    Input,
}

impl Lines {
    /// The lines of a terminal.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn of_terminal() -> Result<Lines, Failure> {
        let history =
            Config::builder().max_history_size(MAX_HISTORY).and_then(|config| config.history_ignore_dups(true));
        let config = history.map(|config| config.behavior(Behavior::Stdio).build()).map_err(failure)?;
        let history = MemHistory::with_config(&config);
        Ok(Lines::Terminal(Box::new(Editor::with_history(config, history).map_err(failure)?)))
    }

    /// The next text. A line that ends in a backslash goes on in the next one, the backslash being left out.
    ///
    /// # Errors
    /// The terminal or standard input cannot be read, or is not text.
    pub fn next(&mut self) -> Result<Typed, Failure> {
        let mut text = String::new();
        let typed = loop {
            match self.line(if text.is_empty() { "> " } else { "  " })? {
                Typed::Text(line) => {
                    text += &line;
                    if !text.ends_with('\\') {
                        break Typed::Text(text);
                    }
                    text.pop();
                    text.push('\n');
                }
                Typed::Interrupt => return Ok(Typed::Interrupt),
                Typed::End if text.is_empty() => return Ok(Typed::End),
                Typed::End => break Typed::Text(text),
            }
        };
        if let (Lines::Terminal(editor), Typed::Text(text)) = (self, &typed) {
            editor.add_history_entry(text.as_str()).map_err(failure)?;
        }
        Ok(typed)
    }

    fn line(&mut self, prompt: &str) -> Result<Typed, Failure> {
        match self {
            Lines::Terminal(editor) => {
                let is_plain = env::var("TERM").is_ok_and(|term| PLAIN_TERMINALS.contains(&term.as_str()));
                let _editing = (!is_plain).then(Editing::begin);
                match editor.readline(prompt) {
                    Ok(line) => Ok(Typed::Text(line)),
                    Err(ReadlineError::Interrupted | ReadlineError::Signal(Signal::Interrupt)) => Ok(Typed::Interrupt),
                    Err(ReadlineError::Eof) => Ok(Typed::End),
                    Err(error) => Err(failure(error)),
                }
            }
            Lines::Input => read_line(&mut io::stdin().lock()),
        }
    }
}

fn failure(error: ReadlineError) -> Failure {
    let why = match &error {
        ReadlineError::Io(error) => reason(error),
        error => error.to_string(),
    };
    Failure::Refused(format!("cannot read from the terminal: {why}"))
}

/// The next line, without its end.
fn read_line(input: &mut impl BufRead) -> Result<Typed, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut bytes);
    read.map_err(|error| Failure::Refused(format!("standard input: cannot read: {}", reason(&error))))?;
    if bytes.is_empty() {
        return Ok(Typed::End);
    }
    if bytes.len() > MAX_LINE_BYTES {
        let problem = "standard input: a line of more than 16 MiB, expected a shorter one; split it";
        return Err(Failure::Refused(problem.into()));
    }
    let line = bytes.strip_suffix(b"\n").map_or(bytes.as_slice(), |line| line.strip_suffix(b"\r").unwrap_or(line));
    match str::from_utf8(line) {
        Ok(line) => Ok(Typed::Text(line.into())),
        Err(error) => Err(Failure::Refused(format!(
            "standard input: not text: byte {} of a line is not UTF-8; convert it with iconv",
            error.valid_up_to()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8]) -> Vec<Typed> {
        let mut lines = Vec::new();
        while let Ok(line) = read_line(&mut input) {
            let is_end = line == Typed::End;
            lines.push(line);
            if is_end {
                break;
            }
        }
        lines
    }

    #[test]
    fn lines_of_input_come_without_their_ends() {
        let text = |text: &str| Typed::Text(text.into());
        assert_eq!(lines(b"a\r\n\nb\rc"), [text("a"), text(""), text("b\rc"), Typed::End]);
        assert_eq!(lines(b""), [Typed::End]);
    }

    #[test]
    fn lines_that_are_too_long_or_not_text_are_refused() {
        let refused = |input: &[u8]| read_line(&mut &*input).expect_err("refused").to_string();
        assert!(refused(b"ab\xff\n").contains("byte 2 of a line is not UTF-8"));
        assert!(refused(&vec![b'a'; MAX_LINE_BYTES + 1]).contains("more than 16 MiB"));
        let longest = vec![b'a'; MAX_LINE_BYTES];
        assert!(matches!(read_line(&mut longest.as_slice()), Ok(Typed::Text(text)) if text.len() == MAX_LINE_BYTES));
    }
}
