//! The lines that a user types, edited in a terminal, or those of standard input.

use crate::failure::Failure;
use olmo_infer::internals::error::reason;
use olmo_infer::internals::error::shown::for_terminal;
use olmo_infer::internals::os::terminal::{self, Editing};
use rustyline::completion::Completer;
use rustyline::config::Config;
use rustyline::error::{ReadlineError, Signal};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, ColorMode, Editor, Helper};
use std::borrow::Cow;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::{env, mem};

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
    /// Types a line that is not UTF-8, which is dropped.
    NotText,
    /// Ends the input.
    End,
}

/// Where lines come from.
pub enum Lines {
    /// Typed in a terminal.
    Terminal(Box<Editor<Shown, MemHistory>>),
    /// Typed in a terminal in which lines are not edited.
    Plain,
    /// Standard input as it is.
    Input,
}

impl Lines {
    /// The lines of a terminal.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn of_terminal() -> Result<Lines, Failure> {
        match env::var("TERM") {
            Ok(term) if PLAIN_TERMINALS.contains(&term.as_str()) => Ok(Lines::Plain),
            _ => {
                let config = config()?;
                let history = MemHistory::with_config(&config);
                Ok(Lines::Terminal(Box::new(editor(config, history)?)))
            }
        }
    }

    /// The next text. A line that ends in a backslash continues in the next one, without the backslash.
    ///
    /// # Errors
    /// The terminal or standard input cannot be read, or is not text.
    pub fn next(&mut self) -> Result<Typed, Failure> {
        let mut text = String::new();
        let typed = loop {
            let typed = self.line(if text.is_empty() { "> " } else { "  " })?;
            match typed {
                Typed::Text(line) => {
                    text += &line;
                    if !text.ends_with('\\') {
                        break Typed::Text(text);
                    }
                    text.pop();
                    text.push('\n');
                }
                Typed::Interrupt | Typed::NotText => return Ok(typed),
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
                let editing = Editing::begin();
                let line = editor.readline(prompt);
                drop(editing);
                match line {
                    Ok(line) => Ok(Typed::Text(line)),
                    Err(ReadlineError::Interrupted | ReadlineError::Signal(Signal::Interrupt)) => Ok(Typed::Interrupt),
                    Err(ReadlineError::Eof) => Ok(Typed::End),
                    Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                        // The rest of a pasted line is in the buffer of the editor, or still in the terminal.
                        let config = config()?;
                        let empty = MemHistory::with_config(&config);
                        let history = mem::replace(editor.history_mut(), empty);
                        **editor = self::editor(config, history)?;
                        terminal::discard_typed();
                        Ok(Typed::NotText)
                    }
                    Err(error) => Err(failure(error)),
                }
            }
            Lines::Plain => {
                let mut out = io::stdout().lock();
                out.write_all(prompt.as_bytes()).and_then(|()| out.flush())?;
                if !terminal::wait_for_input() {
                    // Behind the ^C of the terminal.
                    out.write_all(b"\n").and_then(|()| out.flush())?;
                    return Ok(Typed::Interrupt);
                }
                match read_bytes(&mut io::stdin().lock())? {
                    None => Ok(Typed::End),
                    Some(bytes) => Ok(String::from_utf8(bytes).map_or(Typed::NotText, Typed::Text)),
                }
            }
            Lines::Input => read_line(&mut io::stdin().lock()),
        }
    }
}

/// Typed or pasted text as the terminal shows it: display controls are U+FFFD, as in all text.
pub struct Shown;

impl Highlighter for Shown {
    fn highlight<'l>(&self, line: &'l str, _position: usize) -> Cow<'l, str> {
        let shown = for_terminal(line);
        if shown == line { line.into() } else { shown.into() }
    }

    fn highlight_char(&self, line: &str, _position: usize, _kind: CmdKind) -> bool {
        for_terminal(line) != line
    }
}

impl Completer for Shown {
    type Candidate = String;
}

impl Hinter for Shown {
    type Hint = String;
}

impl Validator for Shown {}
impl Helper for Shown {}

fn editor(config: Config, history: MemHistory) -> Result<Editor<Shown, MemHistory>, Failure> {
    let mut editor = Editor::with_history(config, history).map_err(failure)?;
    editor.set_helper(Some(Shown));
    Ok(editor)
}

fn config() -> Result<Config, Failure> {
    let history = Config::builder().max_history_size(MAX_HISTORY).and_then(|config| config.history_ignore_dups(true));
    // No colours; but with ColorMode::Forced the highlighter runs regardless of NO_COLOR and TERM.
    let shown = history.map(|config| config.behavior(Behavior::Stdio).color_mode(ColorMode::Forced).build());
    shown.map_err(failure)
}

fn failure(error: ReadlineError) -> Failure {
    let why = match &error {
        ReadlineError::Io(error) => reason(error),
        error => error.to_string(),
    };
    Failure::Refused(format!("cannot read from the terminal: {why}"))
}

/// The next line, which must be text.
fn read_line(input: &mut impl BufRead) -> Result<Typed, Failure> {
    let Some(line) = read_bytes(input)? else { return Ok(Typed::End) };
    String::from_utf8(line).map(Typed::Text).map_err(|error| {
        Failure::Refused(format!(
            "standard input: not text: byte {} of a line is not UTF-8; convert it with iconv",
            error.utf8_error().valid_up_to()
        ))
    })
}

/// The bytes of the next line, without its end; `None` at the end of the input.
fn read_bytes(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut bytes);
    read.map_err(|error| Failure::Refused(format!("standard input: cannot read: {}", reason(&error))))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() > MAX_LINE_BYTES {
        let problem = "standard input: a line of more than 16 MiB, expected a shorter one; split it";
        return Err(Failure::Refused(problem.into()));
    }
    if bytes.pop_if(|byte| *byte == b'\n').is_some() {
        bytes.pop_if(|byte| *byte == b'\r');
    }
    Ok(Some(bytes))
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
