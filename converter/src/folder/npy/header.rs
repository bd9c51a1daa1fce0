//! The strict grammar of `.npy` headers. It accepts what numpy writes for the types that weights have, and guesses the
//! kind of any other file. Works on bytes alone, without recursion and almost without allocation.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::error::Problem;
use crate::folder::file_kind;
use olmo_infer::internals::file::file_kind::FileKind;
use olmo_infer::internals::format::sizes::{TooLarge, product, sum};
use std::path::Path;

/// Longest header that numpy itself reads.
pub(crate) const MAX_HEADER_BYTES: usize = 10_000;
/// Most dimensions that numpy allows.
pub(crate) const MAX_RANK: usize = 32;
/// First bytes of every `.npy` file.
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The accepted types, for messages.
pub(crate) const ACCEPTED: &str = "<f4, <f2, or bfloat16 as <V2";

/// An element type as the header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descr {
    /// `<f4`.
    F32,
    /// `<f2`.
    F16,
    /// `<V2` or `|V2`: how numpy stores bf16, for which it has no type.
    Raw16,
    /// `<u2`: bf16 if the configuration declares it.
    U16,
}

impl Descr {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Descr::F32 => 4,
            Descr::F16 | Descr::Raw16 | Descr::U16 => 2,
        }
    }
}

/// The values of a valid header.
#[derive(Debug, PartialEq)]
pub struct Checked {
    /// Element type.
    pub descr: Descr,
    /// Only of vectors, where it makes no difference.
    pub fortran_order: bool,
    /// Row-major; no size is 0.
    pub shape: Vec<u64>,
    /// Bytes before the data.
    pub preamble_bytes: usize,
}

/// A defect of a file, without its path.
#[derive(Debug, PartialEq)]
pub(crate) struct Bad {
    found: String,
    expected: Option<&'static str>,
    advice: &'static str,
}

impl Bad {
    fn new(found: impl Into<String>) -> Bad {
        Bad { found: found.into(), expected: None, advice: "export it again" }
    }

    fn expected(self, expected: &'static str) -> Bad {
        Bad { expected: Some(expected), ..self }
    }

    fn advice(self, advice: &'static str) -> Bad {
        Bad { advice, ..self }
    }

    pub(crate) fn problem(self, path: &Path) -> Problem {
        Problem {
            path: path.to_path_buf(),
            tensor: None,
            found: self.found,
            expected: self.expected.map(str::to_string),
            advice: Some(self.advice.to_string()),
        }
    }
}

/// Checks everything that follows from the first bytes and the length of the file. Allocates only the returned values.
pub(crate) fn check_start(start: &[u8], file_bytes: u64) -> Result<Checked, Bad> {
    if !start.starts_with(MAGIC) {
        return Err(not_npy(start));
    }
    let prefix = match start.get(6..8) {
        Some([1, 0]) => 10,
        Some([2 | 3, 0]) => 12,
        Some([major, minor]) => {
            return Err(Bad::new(format!("npy version {major}.{minor} is not supported")).expected("1.0, 2.0 or 3.0"));
        }
        _ => return Err(cut(file_bytes)),
    };
    let header_bytes = match start.get(8..prefix) {
        Some(&[a, b]) => u64::from(u16::from_le_bytes([a, b])),
        Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => return Err(cut(file_bytes)),
    };
    if !(1..=MAX_HEADER_BYTES as u64).contains(&header_bytes) {
        let found = format!("header of {header_bytes} bytes");
        return Err(Bad::new(found).expected("1 to 10000 bytes"));
    }
    let Some((header, _)) = start.get(prefix..).and_then(|rest| rest.split_at_checked(header_bytes as usize)) else {
        return Err(Bad::new(format!("header of {header_bytes} bytes in a file of {file_bytes} bytes"))
            .expected("a header inside the file")
            .advice("the file is truncated, export it again"));
    };
    check_text(header)?;
    check_nesting(header)?;
    let (descr, fortran_order, shape) = Grammar { rest: header }.header()?;
    if shape.is_empty() {
        return Err(Bad::new("shape () has no dimension").expected("a vector or a matrix"));
    }
    let impossible = || impossible(format!("shape {}", shown_shape(&shape)));
    if shape.contains(&0) {
        return Err(Bad::new(format!("shape {} has no elements", shown_shape(&shape))).expected("sizes above 0"));
    }
    if fortran_order && shape.len() > 1 {
        return Err(Bad::new("Fortran order").expected("C order").advice("save np.ascontiguousarray(array)"));
    }
    let needed = product([descr.bytes()].iter().chain(&shape).copied()).map_err(|TooLarge| impossible())?;
    let preamble_bytes = sum([prefix as u64, header_bytes]).map_err(|TooLarge| impossible())?;
    if sum([preamble_bytes, needed]).map_err(|TooLarge| impossible())? != file_bytes {
        let found = file_bytes.saturating_sub(preamble_bytes);
        let shape = shown_shape(&shape);
        let has = match found.checked_sub(needed) {
            None => format!("{found} (truncated?)"),
            Some(1) => "1 byte too many".into(),
            Some(extra) => format!("{extra} bytes too many"),
        };
        let found = format!("shape {shape} needs {needed} bytes of data, has {has}");
        return Err(Bad::new(found));
    }
    Ok(Checked { descr, fortran_order, shape, preamble_bytes: preamble_bytes as usize })
}

/// A shape in the notation of numpy.
pub fn shown_shape(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

fn cut(file_bytes: u64) -> Bad {
    let plural = if file_bytes == 1 { "" } else { "s" };
    Bad::new(format!("only {file_bytes} byte{plural}")).expected("a whole .npy header")
}

/// The error for a shape with more bytes than a file can have.
fn impossible(shape: String) -> Bad {
    Bad::new(format!("{shape} is too large")).expected("sizes that a file can hold")
}

/// The error for a file without the magic number, with a guess of its kind.
fn not_npy(start: &[u8]) -> Bad {
    let kind = FileKind::of(start);
    let advice = match kind {
        FileKind::Empty => "export it again",
        FileKind::LfsPointer => "run git lfs pull",
        FileKind::Html => "download it again",
        FileKind::Zip => "unpack it, an .npz perhaps: one .npy file for each parameter",
        FileKind::Gzip => "decompress it",
        FileKind::Safetensors => "name it model.safetensors and move it into a folder without .npy files",
        _ if MAGIC.starts_with(start) => return cut(start.len() as u64),
        _ => "export each parameter with np.save",
    };
    Bad::new(file_kind::name(kind)).expected("an .npy file").advice(advice)
}

/// Printable ASCII, then spaces, then one newline.
fn check_text(header: &[u8]) -> Result<(), Bad> {
    let Some((b'\n', text)) = header.split_last() else {
        return Err(Bad::new("header does not end with a newline").expected("a header as np.save writes it"));
    };
    match text.iter().find(|byte| !(b' '..=b'~').contains(byte)) {
        Some(byte) => Err(Bad::new(format!("byte 0x{byte:02x} in the header")).expected("printable ASCII")),
        None => Ok(()),
    }
}

/// Brackets nest at most twice: the dictionary and the shape. Those inside quotes count too, so that a parser that sees
/// quotes differently cannot be made to recurse deeper.
fn check_nesting(header: &[u8]) -> Result<(), Bad> {
    let mut depth = 0u32;
    for byte in header {
        match byte {
            b'[' | b']' => return Err(Bad::new("structured element type").expected(ACCEPTED)),
            b'(' | b'{' => depth = depth.saturating_add(1),
            b')' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > 2 {
            return Err(Bad::new("brackets nested deeper than a header needs").expected("a plain numpy header"));
        }
    }
    Ok(())
}

/// The flat grammar of a header: a dictionary of exactly three keys, once each, in any order.
struct Grammar<'a> {
    rest: &'a [u8],
}

impl<'a> Grammar<'a> {
    fn header(&mut self) -> Result<(Descr, bool, Vec<u64>), Bad> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let key = self.quoted()?;
            self.expect(b':')?;
            let duplicate = match key {
                b"descr" => descr.replace(check_descr(self.quoted()?)?).is_some(),
                b"fortran_order" => order.replace(self.boolean()?).is_some(),
                b"shape" => shape.replace(self.sizes()?).is_some(),
                _ => return Err(grammar(format!("key '{}'", String::from_utf8_lossy(key)))),
            };
            if duplicate {
                return Err(grammar(format!("duplicate key '{}'", String::from_utf8_lossy(key))));
            }
            if !self.take(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        if !self.rest.trim_ascii().is_empty() {
            return Err(grammar("text after the dictionary".into()));
        }
        let missing = |key: &str| grammar(format!("no key '{key}'"));
        Ok((
            descr.ok_or_else(|| missing("descr"))?,
            order.ok_or_else(|| missing("fortran_order"))?,
            shape.ok_or_else(|| missing("shape"))?,
        ))
    }

    fn skip_spaces(&mut self) {
        while let [b' ', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Bad> {
        if self.take(byte) {
            return Ok(());
        }
        Err(grammar(match self.rest {
            [b'\n', ..] | [] => format!("no '{}'", char::from(byte)),
            [found, ..] => format!("'{}' where '{}' belongs", char::from(*found), char::from(byte)),
        }))
    }

    fn quoted(&mut self) -> Result<&'a [u8], Bad> {
        self.skip_spaces();
        let [quote @ (b'\'' | b'"'), rest @ ..] = self.rest else {
            return Err(grammar("an unquoted value".into()));
        };
        let mut parts = rest.splitn(2, |byte| byte == quote);
        let (Some(text), Some(rest)) = (parts.next(), parts.next()) else {
            return Err(grammar("an unterminated quote".into()));
        };
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, Bad> {
        self.skip_spaces();
        for (word, value) in [(b"True".as_slice(), true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(grammar("fortran_order is not True or False".into()))
    }

    /// A tuple of plain decimal numbers; a single number needs its comma, as in Python.
    fn sizes(&mut self) -> Result<Vec<u64>, Bad> {
        self.expect(b'(')?;
        let mut sizes = Vec::new();
        while !self.take(b')') {
            if sizes.len() == MAX_RANK {
                return Err(grammar(format!("more than {MAX_RANK} dimensions")));
            }
            sizes.push(self.number()?);
            if !self.take(b',') {
                self.expect(b')')?;
                if sizes.len() == 1 {
                    return Err(grammar("a shape that is not a tuple".into()));
                }
                break;
            }
        }
        Ok(sizes)
    }

    fn number(&mut self) -> Result<u64, Bad> {
        self.skip_spaces();
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        let bad = || grammar("a shape with something other than plain numbers".into());
        if number.is_empty() || (digits > 1 && number[0] == b'0') {
            return Err(bad());
        }
        self.rest = rest;
        let number = str::from_utf8(number).ok().and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| impossible("shape".into()))
    }
}

/// The error for a header that numpy would not write.
fn grammar(found: String) -> Bad {
    Bad::new(format!("header has {found}")).expected("a header as np.save writes it")
}

/// The element type, if it is accepted.
pub(crate) fn check_descr(descr: &[u8]) -> Result<Descr, Bad> {
    match descr {
        b"<f4" => return Ok(Descr::F32),
        b"<f2" => return Ok(Descr::F16),
        b"<V2" | b"|V2" => return Ok(Descr::Raw16),
        b"<u2" => return Ok(Descr::U16),
        _ => {}
    }
    let shown = String::from_utf8_lossy(descr).into_owned();
    let bad = match descr {
        [b'>', ..] => Bad::new(format!("big-endian numbers ({shown})")).advice("save array.astype('<f4')"),
        [b'|' | b'<' | b'=', b'O', ..] | [b'O', ..] => {
            Bad::new("object array (pickle), refused because it could run code").advice("save it again as float32")
        }
        b"V2" | b"=V2" => {
            Bad::new(format!("byte order not stated ({shown})")).advice("if it is bfloat16, save array.view('<V2')")
        }
        [b'=', ..] | [b'f' | b'u' | b'i' | b'V', ..] | [b'|', b'f', ..] => {
            Bad::new(format!("byte order not stated ({shown})")).advice("save array.astype('<f4')")
        }
        b"<f8" => Bad::new("float64 (<f8)").advice("save array.astype('<f4')"),
        _ => Bad::new(format!("element type {shown}")).advice("save it as float32"),
    };
    Err(bad.expected(ACCEPTED))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "sizes of files that the tests make")]
mod tests;
