//! What `olmo-infer` prints on standard output, and how a run can fail.

use crate::args::Mode;
use olmo_infer::error::Error;
use olmo_infer::greedy::Evaluated;
use olmo_infer::vocabulary::{Vocabulary, quoted};
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::ops::ControlFlow;

/// Why a run ended early.
pub enum Failure {
    /// The library's error.
    Runtime(Error),
    /// The request does not fit the model or the machine.
    Refused(String),
    /// The arguments do not fit the model.
    Usage(String),
    /// Standard output does not take the results.
    Output(io::Error),
    /// Whoever read standard output has left: nothing more is wanted.
    ReaderGone,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Runtime(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe { Failure::ReaderGone } else { Failure::Output(error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Runtime(error) => error.fmt(f),
            Failure::Refused(problem) | Failure::Usage(problem) => f.write_str(problem),
            Failure::Output(error) => write!(f, "cannot write the results to standard output: {error}"),
            Failure::ReaderGone => f.write_str("standard output was closed"),
        }
    }
}

/// Prints positions in one of the modes.
pub struct Printer<'a> {
    mode: Mode,
    vocabulary: Option<Vocabulary<'a>>,
    eos_token_ids: &'a [u32],
    out: BufWriter<Stdout>,
    ends_in_newline: bool,
    /// Nobody reads the output any more.
    mute: bool,
}

impl<'a> Printer<'a> {
    /// For standard output.
    pub fn new(mode: Mode, vocabulary: Option<Vocabulary<'a>>, eos_token_ids: &'a [u32]) -> Printer<'a> {
        let out = BufWriter::with_capacity(1 << 16, io::stdout());
        Printer { mode, vocabulary, eos_token_ids, out, ends_in_newline: false, mute: false }
    }

    /// Prints nothing from here on.
    pub fn mute(&mut self) {
        self.mute = true;
    }

    /// Prints one position, and sends it off unless more of the prompt follows; breaks where a text ends.
    pub fn print(&mut self, evaluated: &Evaluated, more_follows: bool) -> Result<ControlFlow<()>, Failure> {
        if self.mute {
            return Ok(ControlFlow::Continue(()));
        }
        match self.mode {
            Mode::Lines => self.line(evaluated)?,
            Mode::Json => self.json(evaluated)?,
            Mode::Text if more_follows => {}
            Mode::Text => {
                let next = evaluated.top[0].0;
                if self.eos_token_ids.contains(&next) {
                    return Ok(ControlFlow::Break(()));
                }
                if let Some(bytes) = self.bytes(next) {
                    self.out.write_all(bytes)?;
                    self.ends_in_newline = bytes.ends_with(b"\n");
                }
            }
        }
        if !more_follows {
            self.out.flush()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Ends the output. Results count as printed only after this.
    pub fn finish(mut self) -> Result<(), Failure> {
        if self.mute {
            // What is left in the buffer has no reader.
            let (_stdout, _unread) = self.out.into_parts();
            return Ok(());
        }
        if self.mode == Mode::Text && !self.ends_in_newline && io::stdout().is_terminal() {
            self.out.write_all(b"\n")?;
        }
        Ok(self.out.flush()?)
    }

    fn bytes(&self, token: u32) -> Option<&'a [u8]> {
        self.vocabulary.and_then(|vocabulary| vocabulary.bytes(token))
    }

    fn line(&mut self, evaluated: &Evaluated) -> io::Result<()> {
        write!(self.out, "{}: token {}", evaluated.position, evaluated.token)?;
        self.in_parenthesis(evaluated.token)?;
        write!(self.out, " Top {} next tokens:", evaluated.top.len())?;
        for &(token, _) in evaluated.top {
            write!(self.out, " {token}")?;
            self.in_parenthesis(token)?;
        }
        self.out.write_all(b"\n")
    }

    /// ` ("text")`, or nothing for a token without text.
    fn in_parenthesis(&mut self, token: u32) -> io::Result<()> {
        match self.bytes(token) {
            Some(bytes) => write!(self.out, " (\"{}\")", quoted(bytes)),
            None => Ok(()),
        }
    }

    fn json(&mut self, evaluated: &Evaluated) -> io::Result<()> {
        write!(self.out, "{{\"pos\":{},\"token\":{}", evaluated.position, evaluated.token)?;
        self.json_text(evaluated.token)?;
        self.out.write_all(b",\"top\":[")?;
        for (rank, &(token, logit)) in evaluated.top.iter().enumerate() {
            let comma = if rank == 0 { "" } else { "," };
            write!(self.out, "{comma}{{\"token\":{token},\"logit\":{logit}")?;
            self.json_text(token)?;
            self.out.write_all(b"}")?;
        }
        self.out.write_all(b"]}\n")
    }

    /// `,"text":"..."`, or nothing for a token without text. Bytes that are not UTF-8 become U+FFFD: JSON has no others.
    fn json_text(&mut self, token: u32) -> io::Result<()> {
        let Some(bytes) = self.bytes(token) else { return Ok(()) };
        self.out.write_all(b",\"text\":\"")?;
        for c in String::from_utf8_lossy(bytes).chars() {
            match c {
                '"' | '\\' => write!(self.out, "\\{c}")?,
                '\0'..='\x1f' => write!(self.out, "\\u{:04x}", u32::from(c))?,
                _ => write!(self.out, "{c}")?,
            }
        }
        self.out.write_all(b"\"")
    }
}
