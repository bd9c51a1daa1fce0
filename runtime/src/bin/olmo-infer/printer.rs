//! What a generating run prints on standard output.

use crate::args::generate::Mode;
use crate::failure::Failure;
use olmo_infer::internals::cli::json::{json_characters, json_string};
use olmo_infer::internals::error::display_path;
use olmo_infer::internals::error::shown::{for_terminal, quoted};
use olmo_infer::internals::generate::Evaluated;
use olmo_infer::internals::os::terminal;
use olmo_infer::internals::text::stream::TextStream;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Bytes of a token's text that are printed in one go. Nothing bounds a text but the file that has it.
pub const PIECE_BYTES: usize = 64 << 10;
/// Bytes of a token's text that a line of positions shows. The longest token of the published models has 128.
const SHOWN_BYTES: usize = 1 << 10;

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
    /// Texts go to a terminal, which must not obey them.
    to_terminal: bool,
    /// The last byte printed is a newline, or there is none.
    ends_in_newline: bool,
    /// The output has no reader any more.
    mute: bool,
}

/// What a prompt has yielded and is not printed yet.
struct Waiting<'a> {
    /// The token file, when there are several.
    name: Option<&'a Path>,
    lines: Vec<u8>,
    text: TextStream,
    /// The ids that were generated, for the last object of JSON.
    generated: Vec<u32>,
    ended: bool,
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
    /// EOS ids.
    pub ends: Vec<u32>,
    /// Special tokens, which are not shown.
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
            Waiting { name, lines: Vec::new(), text, generated: Vec::new(), ended: false }
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
            to_terminal: io::stdout().is_terminal(),
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
        terminal::set_in_text(self.format.mode == Mode::Text);
        self.heading()
    }

    /// Prints one position of a file, and sends it off unless more of the prompt follows; breaks where a text ends.
    pub fn print(&mut self, evaluated: &Evaluated, more_follows: bool) -> Result<ControlFlow<()>, Failure> {
        if self.mute {
            return Ok(ControlFlow::Continue(()));
        }
        let Printer { format, out, files, current, to_terminal, ends_in_newline, .. } = self;
        let Waiting { name, lines, text, generated, ended } = &mut files[evaluated.run];
        let is_current = evaluated.run == *current;
        // What need not wait is not collected.
        let out: &mut dyn Write = if is_current { out } else { lines };
        let flow = match format.mode {
            Mode::Text if more_follows => ControlFlow::Continue(()),
            Mode::Text => {
                let end = format.continued(text, evaluated, &mut |shown| {
                    let harmless = to_terminal.then(|| for_terminal(&String::from_utf8_lossy(shown)));
                    let shown = harmless.as_ref().map_or(shown, String::as_bytes);
                    out.write_all(shown)?;
                    if let (true, Some(byte)) = (is_current, shown.last()) {
                        *ends_in_newline = *byte == b'\n';
                    }
                    Ok(())
                })?;
                flow(end)
            }
            Mode::Lines => format.line(out, evaluated)?,
            Mode::Json => {
                format.json(out, *name, evaluated)?;
                match format.generates && !more_follows {
                    true => format.generated(out, *name, text, generated, evaluated)?,
                    false => ControlFlow::Continue(()),
                }
            }
        };
        *ended = evaluated.is_last || flow.is_break();
        if is_current {
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
        terminal::set_in_text(false);
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
    /// Shows the text of the next token in pieces; yields how the text ends there, if it does.
    fn continued(
        &self,
        text: &mut TextStream,
        evaluated: &Evaluated,
        show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Option<End>> {
        let next = evaluated.next;
        let is_end = self.rules.ends.contains(&next);
        if !is_end && self.push(text, next, show)? {
            return Ok(Some(End::Stop));
        }
        if !is_end && !evaluated.is_last {
            return Ok(None);
        }
        let mut shown = Vec::new();
        text.finish(&mut shown);
        show(&shown)?;
        Ok(Some(if is_end { End::Eos } else { End::Length }))
    }

    /// Takes in a token's text; true where a stop text ends it.
    fn push(
        &self,
        text: &mut TextStream,
        token: u32,
        show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let bytes = self.bytes(token).filter(|_| !self.rules.hidden.contains(&token)).unwrap_or_default();
        let mut shown = Vec::new();
        for piece in bytes.chunks(PIECE_BYTES) {
            shown.clear();
            let is_stopped = text.push(piece, &mut shown);
            show(&shown)?;
            if is_stopped {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes in the next token, and prints an object of all that was generated where the text ends.
    fn generated(
        &self,
        out: &mut dyn Write,
        name: Option<&Path>,
        text: &mut TextStream,
        generated: &mut Vec<u32>,
        evaluated: &Evaluated,
    ) -> io::Result<ControlFlow<()>> {
        let end = self.continued(text, evaluated, &mut |_| Ok(()))?;
        if end != Some(End::Eos) {
            generated.push(evaluated.next);
        }
        if let Some(end) = end {
            out.write_all(b"{")?;
            json_file(out, name)?;
            write!(out, "\"generated\":[")?;
            for (i, id) in generated.iter().enumerate() {
                write!(out, "{}{id}", if i == 0 { "" } else { "," })?;
            }
            out.write_all(b"]")?;
            if self.rules.vocabulary.is_some() {
                out.write_all(b",\"text\":\"")?;
                // Made again rather than kept: it is as long as its tokens are.
                let mut text = TextStream::new(self.rules.stops);
                for &id in generated.iter() {
                    if self.push(&mut text, id, &mut |shown| json_characters(out, shown))? {
                        break;
                    }
                }
                let mut shown = Vec::new();
                text.finish(&mut shown);
                json_characters(out, &shown)?;
                out.write_all(b"\"")?;
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

    fn line(&self, out: &mut dyn Write, evaluated: &Evaluated) -> io::Result<ControlFlow<()>> {
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

    /// ` ("text")`, or nothing for a token without text; `...` replaces the rest of a long one.
    fn in_parenthesis(&self, out: &mut dyn Write, token: u32) -> io::Result<()> {
        let Some(bytes) = self.bytes(token) else { return Ok(()) };
        let begin = beginning(bytes);
        let more = if begin.len() < bytes.len() { "..." } else { "" };
        write!(out, " (\"{}\"{more})", quoted(begin))
    }

    fn json(&self, out: &mut dyn Write, name: Option<&Path>, evaluated: &Evaluated) -> io::Result<()> {
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
    fn json_text(&self, out: &mut dyn Write, token: u32) -> io::Result<()> {
        let Some(bytes) = self.bytes(token) else { return Ok(()) };
        out.write_all(b",\"text\":\"")?;
        json_characters(out, bytes)?;
        out.write_all(b"\"")
    }
}

/// The beginning of a token's text, without a part of a character at its end.
fn beginning(bytes: &[u8]) -> &[u8] {
    let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte >> 6 == 0b10);
    let end = (SHOWN_BYTES - 3..=SHOWN_BYTES).rev().find(|&end| !is_inside(end)).unwrap_or(SHOWN_BYTES);
    &bytes[..bytes.len().min(end)]
}

/// Whether more positions are wanted.
fn flow(end: Option<End>) -> ControlFlow<()> {
    match end {
        Some(End::Eos | End::Stop) => ControlFlow::Break(()),
        Some(End::Length) | None => ControlFlow::Continue(()),
    }
}

/// `"file":"...",`, or nothing without a name.
fn json_file(out: &mut dyn Write, name: Option<&Path>) -> io::Result<()> {
    let Some(name) = name else { return Ok(()) };
    out.write_all(b"\"file\":")?;
    json_string(out, &name.to_string_lossy())?;
    out.write_all(b",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_long_token_has_whole_characters() {
        for (text, bytes) in [("a", 1024), ("é", 1024), ("\u{1f600}", 1024), ("€", 1023)] {
            let long = text.repeat(2000);
            assert_eq!(beginning(long.as_bytes()), &long.as_bytes()[..bytes], "{text}");
            assert_eq!(beginning(&long.as_bytes()[..text.len()]), text.as_bytes());
        }
        assert_eq!(beginning(&[0x80; 2000]).len(), 1024);
        assert_eq!(beginning(&[b'a'; 1024]).len(), 1024);
    }
}
