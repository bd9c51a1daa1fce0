//! What `olmo-infer` prints on standard output, and how a run can fail.

use crate::args::Mode;
use olmo_infer::error::{Error, display_path};
use olmo_infer::greedy::Evaluated;
use olmo_infer::vocabulary::{Vocabulary, quoted};
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Why a run ended early.
pub enum Failure {
    /// The library's error.
    Runtime(Error),
    /// The request does not fit the model or the machine.
    Refused(String),
    /// The arguments do not fit the model.
    Usage(String),
    /// More than one thing is wrong, each with a line of its own.
    Several(Vec<Failure>),
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
            Failure::Several(failures) => failures.iter().try_for_each(|failure| writeln!(f, "{failure}")),
            Failure::Output(error) => write!(f, "cannot write the results to standard output: {error}"),
            Failure::ReaderGone => f.write_str("standard output was closed"),
        }
    }
}

/// Prints positions in one of the modes, the results of several token files in their order.
///
/// Those of the first file that has not ended are printed at once; those of later files wait in memory, as the lines
/// that they are.
pub struct Printer<'a> {
    format: Format<'a>,
    out: BufWriter<Stdout>,
    files: Vec<Waiting<'a>>,
    /// The first file that has not ended.
    current: usize,
    /// The last byte printed is a newline, or there is none.
    ends_in_newline: bool,
    /// Nobody reads the output any more.
    mute: bool,
}

/// What a token file has yielded and is not printed yet.
struct Waiting<'a> {
    path: &'a Path,
    lines: Vec<u8>,
    ended: bool,
}

impl<'a> Printer<'a> {
    /// For standard output; `files` are the token files.
    pub fn new(
        mode: Mode,
        vocabulary: Option<Vocabulary<'a>>,
        eos_token_ids: &'a [u32],
        files: &'a [PathBuf],
    ) -> Printer<'a> {
        Printer {
            format: Format { mode, vocabulary, eos_token_ids },
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            files: files.iter().map(|path| Waiting { path, lines: Vec::new(), ended: false }).collect(),
            current: 0,
            ends_in_newline: true,
            mute: false,
        }
    }

    /// Prints nothing from here on.
    pub fn mute(&mut self) {
        self.mute = true;
    }

    /// Prints the heading of the first file.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.heading()
    }

    /// Prints one position of a file, and sends it off unless more of the prompt follows; breaks where a text ends.
    pub fn print(&mut self, evaluated: &Evaluated, more_follows: bool) -> Result<ControlFlow<()>, Failure> {
        if self.mute {
            return Ok(ControlFlow::Continue(()));
        }
        let several = self.files.len() > 1;
        let file = &mut self.files[evaluated.run];
        let name = several.then_some(file.path);
        let flow = self.format.write(&mut file.lines, name, evaluated, more_follows)?;
        file.ended = evaluated.is_last || flow.is_break();
        if evaluated.run == self.current {
            self.print_waiting()?;
            if !more_follows {
                self.out.flush()?;
            }
        }
        Ok(flow)
    }

    /// Prints what the current file has yielded, and what the next ones have when it has ended.
    fn print_waiting(&mut self) -> Result<(), Failure> {
        let last = self.files.len() - 1;
        loop {
            let file = &mut self.files[self.current];
            self.out.write_all(&file.lines)?;
            if let Some(byte) = file.lines.last() {
                self.ends_in_newline = *byte == b'\n';
            }
            file.lines.clear();
            if !file.ended || self.current == last {
                return Ok(());
            }
            // Its memory is not needed again.
            file.lines = Vec::new();
            self.current += 1;
            self.heading()?;
        }
    }

    /// The line before the results of the current file, as `head` and `tail` write it; JSON needs none.
    fn heading(&mut self) -> Result<(), Failure> {
        if self.files.len() > 1 && self.format.mode != Mode::Json {
            let blank = if self.current == 0 { "" } else { "\n" };
            writeln!(self.out, "{blank}==> {} <==", display_path(self.files[self.current].path))?;
            self.ends_in_newline = true;
        }
        Ok(())
    }

    /// Ends the output. Results count as printed only after this.
    pub fn finish(mut self) -> Result<(), Failure> {
        if self.mute {
            // What is left in the buffer has no reader.
            let (_stdout, _unread) = self.out.into_parts();
            return Ok(());
        }
        if self.format.mode == Mode::Text && !self.ends_in_newline && io::stdout().is_terminal() {
            self.out.write_all(b"\n")?;
        }
        Ok(self.out.flush()?)
    }
}

/// How a position looks.
struct Format<'a> {
    mode: Mode,
    vocabulary: Option<Vocabulary<'a>>,
    eos_token_ids: &'a [u32],
}

impl<'a> Format<'a> {
    /// Writes one position, of the file `name` when there are several; breaks where a text ends.
    fn write(
        &self,
        out: &mut impl Write,
        name: Option<&Path>,
        evaluated: &Evaluated,
        more_follows: bool,
    ) -> io::Result<ControlFlow<()>> {
        match self.mode {
            Mode::Lines => self.line(out, evaluated)?,
            Mode::Json => self.json(out, name, evaluated)?,
            Mode::Text if more_follows => {}
            Mode::Text => {
                let next = evaluated.top[0].0;
                if self.eos_token_ids.contains(&next) {
                    return Ok(ControlFlow::Break(()));
                }
                if let Some(bytes) = self.bytes(next) {
                    out.write_all(bytes)?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn bytes(&self, token: u32) -> Option<&'a [u8]> {
        self.vocabulary.and_then(|vocabulary| vocabulary.bytes(token))
    }

    fn line(&self, out: &mut impl Write, evaluated: &Evaluated) -> io::Result<()> {
        write!(out, "{}: token {}", evaluated.position, evaluated.token)?;
        self.in_parenthesis(out, evaluated.token)?;
        write!(out, " Top {} next tokens:", evaluated.top.len())?;
        for &(token, _) in evaluated.top {
            write!(out, " {token}")?;
            self.in_parenthesis(out, token)?;
        }
        out.write_all(b"\n")
    }

    /// ` ("text")`, or nothing for a token without text.
    fn in_parenthesis(&self, out: &mut impl Write, token: u32) -> io::Result<()> {
        match self.bytes(token) {
            Some(bytes) => write!(out, " (\"{}\")", quoted(bytes)),
            None => Ok(()),
        }
    }

    fn json(&self, out: &mut impl Write, name: Option<&Path>, evaluated: &Evaluated) -> io::Result<()> {
        out.write_all(b"{")?;
        if let Some(name) = name {
            out.write_all(b"\"file\":")?;
            json_string(out, &name.to_string_lossy())?;
            out.write_all(b",")?;
        }
        write!(out, "\"pos\":{},\"token\":{}", evaluated.position, evaluated.token)?;
        self.json_text(out, evaluated.token)?;
        out.write_all(b",\"top\":[")?;
        for (rank, &(token, logit)) in evaluated.top.iter().enumerate() {
            let comma = if rank == 0 { "" } else { "," };
            write!(out, "{comma}{{\"token\":{token},\"logit\":{logit}")?;
            self.json_text(out, token)?;
            out.write_all(b"}")?;
        }
        out.write_all(b"]}\n")
    }

    /// `,"text":"..."`, or nothing for a token without text. Bytes that are not UTF-8 become U+FFFD: JSON has no others.
    fn json_text(&self, out: &mut impl Write, token: u32) -> io::Result<()> {
        let Some(bytes) = self.bytes(token) else { return Ok(()) };
        out.write_all(b",\"text\":")?;
        json_string(out, &String::from_utf8_lossy(bytes))
    }
}

/// A string of JSON, in quotation marks.
fn json_string(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            '\0'..='\x1f' => write!(out, "\\u{:04x}", u32::from(c))?,
            _ => write!(out, "{c}")?,
        }
    }
    out.write_all(b"\"")
}
