//! What `olmo-infer` prints on standard output, and how a run can fail.

use crate::args::Mode;
use olmo_infer::error::{Error, display_path};
use olmo_infer::generate::Evaluated;
use olmo_infer::signals;
use olmo_infer::text::TextStream;
use olmo_infer::vocabulary::{Vocabulary, quoted};
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What a user should know of a run that goes on, as a line on standard error.
pub fn note(line: &str) {
    // Results do not depend on whether standard error takes it.
    let _lost = writeln!(io::stderr(), "olmo-infer: note: {line}");
}

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

/// What a prompt has yielded and is not printed yet.
struct Waiting<'a> {
    /// The token file, when there are several.
    name: Option<&'a Path>,
    lines: Vec<u8>,
    text: TextStream,
    /// What was generated, for the last object of JSON.
    generated: Generated,
    ended: bool,
}

/// The continuation of a prompt.
#[derive(Default)]
struct Generated {
    ids: Vec<u32>,
    text: Vec<u8>,
}

/// Where a continuation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At an id that ends it.
    Eos,
    /// Before a stop text.
    Stop,
    /// At the last position.
    Length,
}

/// What text is made of, and where it ends.
#[derive(Clone, Default)]
pub struct TextRules<'a> {
    /// The bytes of every token.
    pub vocabulary: Option<Vocabulary>,
    /// Ids that end a text.
    pub ends: Vec<u32>,
    /// Ids that are no text and are not shown.
    pub hidden: Vec<u32>,
    /// Texts that end it.
    pub stops: &'a [String],
}

impl<'a> Printer<'a> {
    /// For standard output; `files` are the token files, none when the prompt is a text. With `generates`, JSON ends as
    /// text does, with an object of what was generated.
    pub fn new(mode: Mode, generates: bool, rules: TextRules<'a>, files: &'a [PathBuf]) -> Printer<'a> {
        let waiting = |name| {
            let text = TextStream::new(rules.stops);
            Waiting { name, lines: Vec::new(), text, generated: Generated::default(), ended: false }
        };
        let files = match files {
            [] | [_] => vec![waiting(None)],
            several => several.iter().map(|path| waiting(Some(path))).collect(),
        };
        Printer {
            format: Format { mode, generates, rules },
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            files,
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
        signals::set_in_text(self.format.mode == Mode::Text);
        self.heading()
    }

    /// Prints one position of a file, and sends it off unless more of the prompt follows; breaks where a text ends.
    pub fn print(&mut self, evaluated: &Evaluated, more_follows: bool) -> Result<ControlFlow<()>, Failure> {
        if self.mute {
            return Ok(ControlFlow::Continue(()));
        }
        let file = &mut self.files[evaluated.run];
        let flow = match self.format.mode {
            Mode::Text if more_follows => ControlFlow::Continue(()),
            Mode::Text => self.format.text(file, evaluated),
            Mode::Lines => self.format.line(&mut file.lines, evaluated)?,
            Mode::Json => {
                self.format.json(&mut file.lines, file.name, evaluated)?;
                match self.format.generates && !more_follows {
                    true => self.format.generated(file, evaluated)?,
                    false => ControlFlow::Continue(()),
                }
            }
        };
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
        if let (Some(name), Mode::Lines | Mode::Text) = (self.files[self.current].name, self.format.mode) {
            let blank = if self.current == 0 { "" } else { "\n" };
            writeln!(self.out, "{blank}==> {} <==", display_path(name))?;
            self.ends_in_newline = true;
        }
        Ok(())
    }

    /// Ends the output. Results count as printed only after this.
    pub fn finish(mut self) -> Result<(), Failure> {
        signals::set_in_text(false);
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
    generates: bool,
    rules: TextRules<'a>,
}

impl<'a> Format<'a> {
    /// The text of the next token; breaks where the text ends.
    fn text(&self, file: &mut Waiting, evaluated: &Evaluated) -> ControlFlow<()> {
        flow(self.continued(&mut file.text, &mut file.lines, evaluated))
    }

    /// Appends the text of the next token to `out`, and says whether the text ends there.
    fn continued(&self, text: &mut TextStream, out: &mut Vec<u8>, evaluated: &Evaluated) -> Option<End> {
        let next = evaluated.next;
        if self.rules.ends.contains(&next) {
            text.finish(out);
            return Some(End::Eos);
        }
        let bytes = self.bytes(next).filter(|_| !self.rules.hidden.contains(&next)).unwrap_or_default();
        if text.push(bytes, out) {
            return Some(End::Stop);
        }
        if evaluated.is_last {
            text.finish(out);
            return Some(End::Length);
        }
        None
    }

    /// Takes in the next token, and appends an object of all that was generated where the text ends.
    fn generated(&self, file: &mut Waiting, evaluated: &Evaluated) -> io::Result<ControlFlow<()>> {
        let Waiting { name, lines: out, text, generated, .. } = file;
        let end = self.continued(text, &mut generated.text, evaluated);
        if end != Some(End::Eos) {
            generated.ids.push(evaluated.next);
        }
        if let Some(end) = end {
            out.write_all(b"{")?;
            json_file(out, *name)?;
            write!(out, "\"generated\":[")?;
            for (i, id) in generated.ids.iter().enumerate() {
                write!(out, "{}{id}", if i == 0 { "" } else { "," })?;
            }
            out.write_all(b"]")?;
            if self.rules.vocabulary.is_some() {
                out.write_all(b",\"text\":")?;
                json_string(out, &String::from_utf8_lossy(&generated.text))?;
            }
            let end = match end {
                End::Eos => "eos",
                End::Stop => "stop",
                End::Length => "length",
            };
            writeln!(out, ",\"end\":\"{end}\"}}")?;
        }
        Ok(flow(end))
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        self.rules.vocabulary.as_ref().and_then(|vocabulary| vocabulary.bytes(token))
    }

    fn line(&self, out: &mut impl Write, evaluated: &Evaluated) -> io::Result<ControlFlow<()>> {
        write!(out, "{}: token {}", evaluated.position, evaluated.token)?;
        self.in_parenthesis(out, evaluated.token)?;
        write!(out, " Top {} next tokens:", evaluated.top.len())?;
        for &(token, _) in evaluated.top {
            write!(out, " {token}")?;
            self.in_parenthesis(out, token)?;
        }
        out.write_all(b"\n")?;
        Ok(ControlFlow::Continue(()))
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
        json_file(out, name)?;
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

    /// `,"text":"..."`, or nothing for a token without text. Bytes that are not UTF-8 become U+FFFD: JSON has no
    /// others.
    fn json_text(&self, out: &mut impl Write, token: u32) -> io::Result<()> {
        let Some(bytes) = self.bytes(token) else { return Ok(()) };
        out.write_all(b",\"text\":")?;
        json_string(out, &String::from_utf8_lossy(bytes))
    }
}

/// Whether more positions are wanted.
fn flow(end: Option<End>) -> ControlFlow<()> {
    match end {
        Some(End::Eos | End::Stop) => ControlFlow::Break(()),
        Some(End::Length) | None => ControlFlow::Continue(()),
    }
}

/// `"file":"...",`, or nothing without a name.
fn json_file(out: &mut impl Write, name: Option<&Path>) -> io::Result<()> {
    let Some(name) = name else { return Ok(()) };
    out.write_all(b"\"file\":")?;
    json_string(out, &name.to_string_lossy())?;
    out.write_all(b",")
}

/// A string of JSON, in quotation marks. Control characters that JSON leaves to the writer are escaped too: terminals
/// obey some of them.
pub fn json_string(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
            _ => write!(out, "{c}")?,
        }
    }
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_json_steer_no_terminal() {
        let written = |text| {
            let mut out = Vec::new();
            json_string(&mut out, text).expect("writing to memory");
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(written("a\"\\\n\u{1b}"), r#""a\"\\\u000a\u001b""#);
        assert_eq!(written("\u{7f}\u{80}\u{9b}\u{9f}\u{a0}é"), "\"\\u007f\\u0080\\u009b\\u009f\u{a0}é\"");
    }
}
