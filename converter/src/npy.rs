//! The `.npy` reader: a strict check of the header, and reads of the numbers at known offsets.
//!
//! npyz's header parser is made for honest files: on a hostile one it allocates what the file claims, recurses without
//! a limit and multiplies unchecked. So every header is first read by the flat grammar here, which accepts only what
//! numpy writes for the few types that weights have; npyz then parses a header that *we* write from the checked values,
//! and must come to the same type, shape and order. It never sees a byte of the file. No other module names npyz.

use crate::element::SourceType;
use crate::error::{Error, Problem};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest header that numpy itself reads.
const MAX_HEADER_BYTES: usize = 10_000;
/// Most dimensions that numpy allows.
const MAX_RANK: usize = 32;
/// First bytes of every `.npy` file.
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// What the messages list.
const ACCEPTED: &str = "<f4, <f2, or bfloat16 as <V2";

/// What tells whether a file is still the one that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Length.
    pub bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Identity> {
        let metadata = file.metadata()?;
        Ok(Identity {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// An element type as the header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descr {
    /// `<f4`.
    F32,
    /// `<f2`.
    F16,
    /// `<V2` or `|V2`: how numpy stores bf16, for which it has no type.
    Raw16,
    /// `<u2`: bf16 if something else says so.
    U16,
}

impl Descr {
    fn bytes(self) -> u64 {
        match self {
            Descr::F32 => 4,
            Descr::F16 | Descr::Raw16 | Descr::U16 => 2,
        }
    }
}

/// A checked `.npy` file. It is opened anew for each read, so that a model of many files needs few descriptors; the
/// identity says that it is still the same one.
#[derive(Clone, Debug)]
pub struct NpyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Element type.
    pub descr: Descr,
    /// Shape, row-major; no dimension is 0.
    pub shape: Vec<u64>,
    /// Everything before the numbers, byte for byte.
    pub preamble: Vec<u8>,
    /// The file that was checked.
    pub identity: Identity,
}

impl NpyFile {
    /// Opens and checks the file at `path`.
    ///
    /// # Errors
    /// What is wrong with it: not a regular file, not an `.npy` file, a type or an order that is not supported, more or
    /// fewer bytes than its shape needs.
    pub fn check(path: &Path) -> Result<NpyFile, Error> {
        let file = open(path)?;
        let identity = Identity::of(&file).map_err(|error| Error::io(path, "cannot look at it", error))?;
        let start = read_start(&file, identity.bytes).map_err(|error| Error::io(path, "cannot read", error))?;
        let checked = check_start(&start, identity.bytes).map_err(|bad| bad.problem(path))?;
        confirm_with_npyz(&checked).map_err(|error| Problem::new(path, format!("npyz does not agree: {error}")))?;
        let Checked { descr, shape, preamble_bytes, .. } = checked;
        let preamble = start[..preamble_bytes].to_vec();
        Ok(NpyFile { path: path.to_path_buf(), descr, shape, preamble, identity })
    }

    /// Length of the numbers.
    pub fn data_bytes(&self) -> u64 {
        self.identity.bytes - self.preamble.len() as u64
    }

    /// The element type, when `u2_is_bf16` answers the one question that the header leaves open.
    pub fn source_type(&self, u2_is_bf16: bool) -> Result<SourceType, Problem> {
        match self.descr {
            Descr::F32 => Ok(SourceType::F32),
            Descr::F16 => Ok(SourceType::F16),
            Descr::Raw16 => Ok(SourceType::Bf16),
            Descr::U16 if u2_is_bf16 => Ok(SourceType::Bf16),
            Descr::U16 => Err(Problem::new(&self.path, "16-bit integers (<u2)")
                .expected(ACCEPTED)
                .advice("if they are bfloat16, say \"dtype\": \"bfloat16\" in config.json")),
        }
    }

    /// Reads numbers from `offset` bytes behind the preamble on.
    ///
    /// # Errors
    /// The system's, or that the file is no longer the one that was checked.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let file = open(&self.path)?;
        let unchanged = || match Identity::of(&file) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(Error::from(
                Problem::new(&self.path, "changed while being packed").advice("pack again when nothing writes to it"),
            )),
            Err(error) => Err(Error::io(&self.path, "cannot look at it", error)),
        };
        unchanged()?;
        let read = file.read_exact_at(out, self.preamble.len() as u64 + offset);
        // First whether it changed: that explains a read past the end better than the read's own error.
        unchanged()?;
        read.map_err(|error| Error::io(&self.path, "cannot read", error))
    }
}

/// Opens a regular file for reading; a FIFO is refused instead of waited for.
pub fn open(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| Error::io(path, "cannot open", error))?;
    let metadata = file.metadata().map_err(|error| Error::io(path, "cannot look at it", error))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "is a folder" } else { "is not a regular file" };
        return Err(Problem::new(path, found).expected("a file").into());
    }
    Ok(file)
}

/// The first bytes of the file: the longest legal header and what stands before it, or all of a shorter file.
fn read_start(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut start = vec![0; bytes.min(12 + MAX_HEADER_BYTES as u64) as usize];
    file.read_exact_at(&mut start, 0)?;
    Ok(start)
}

/// What a good header says.
#[derive(Debug, PartialEq)]
struct Checked {
    descr: Descr,
    fortran_order: bool,
    shape: Vec<u64>,
    preamble_bytes: usize,
}

/// What is wrong with the bytes of a file, before its name is known.
#[derive(Debug, PartialEq)]
struct Bad {
    found: String,
    expected: Option<&'static str>,
    advice: Option<&'static str>,
}

impl Bad {
    fn new(found: impl Into<String>) -> Bad {
        Bad { found: found.into(), expected: None, advice: None }
    }

    fn expected(self, expected: &'static str) -> Bad {
        Bad { expected: Some(expected), ..self }
    }

    fn advice(self, advice: &'static str) -> Bad {
        Bad { advice: Some(advice), ..self }
    }

    fn problem(self, path: &Path) -> Problem {
        Problem {
            path: path.to_path_buf(),
            tensor: None,
            found: self.found,
            expected: self.expected.map(str::to_string),
            advice: self.advice.map(str::to_string),
        }
    }
}

/// Checks everything that can be known from the first bytes and the length of the file. Nothing here allocates more
/// than the few values it returns.
fn check_start(start: &[u8], file_bytes: u64) -> Result<Checked, Bad> {
    if !start.starts_with(MAGIC) {
        return Err(not_npy(start));
    }
    let prefix = match start.get(6..8) {
        Some([1, 0]) => 10,
        Some([2 | 3, 0]) => 12,
        Some([major, minor]) => {
            return Err(Bad::new(format!("npy version {major}.{minor} is not supported")).expected("1.0, 2.0 or 3.0"));
        }
        _ => return Err(Bad::new(format!("only {file_bytes} bytes")).expected("a whole .npy header")),
    };
    let header_bytes = match start.get(8..prefix) {
        Some(&[a, b]) => u64::from(u16::from_le_bytes([a, b])),
        Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => return Err(Bad::new(format!("only {file_bytes} bytes")).expected("a whole .npy header")),
    };
    if !(1..=MAX_HEADER_BYTES as u64).contains(&header_bytes) {
        return Err(Bad::new(format!("header of {header_bytes} bytes")).expected("1 to 10000 bytes"));
    }
    let preamble_bytes = prefix + header_bytes as usize;
    let Some(header) = start.get(prefix..preamble_bytes) else {
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
    let impossible = || Bad::new(format!("shape {} is impossible", shown_shape(&shape)));
    if shape.contains(&0) {
        return Err(Bad::new(format!("shape {} has no elements", shown_shape(&shape))).expected("sizes above 0"));
    }
    if fortran_order && shape.len() > 1 {
        return Err(Bad::new("Fortran order").expected("C order").advice("save np.ascontiguousarray(array)"));
    }
    let needed = shape.iter().try_fold(descr.bytes(), |product, &size| product.checked_mul(size));
    let total = needed.and_then(|needed| needed.checked_add(preamble_bytes as u64)).ok_or_else(impossible)?;
    if total != file_bytes {
        let (needed, found) = (total - preamble_bytes as u64, file_bytes - preamble_bytes as u64);
        let shape = shown_shape(&shape);
        return Err(match found.checked_sub(needed) {
            None => Bad::new(format!("shape {shape} needs {needed} bytes of data, has {found} (truncated?)"))
                .advice("export it again"),
            Some(1) => Bad::new(format!("shape {shape} needs {needed} bytes of data, has 1 byte too many")),
            Some(extra) => Bad::new(format!("shape {shape} needs {needed} bytes of data, has {extra} bytes too many")),
        });
    }
    Ok(Checked { descr, fortran_order, shape, preamble_bytes })
}

/// A shape as numpy shows it.
pub fn shown_shape(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// Says what a file that does not begin like an `.npy` file looks like.
fn not_npy(start: &[u8]) -> Bad {
    let lower: Vec<u8> = start.iter().take(512).map(u8::to_ascii_lowercase).collect();
    let text = lower.trim_ascii_start();
    let is_text = !start.is_empty() && lower.iter().all(|&b| b.is_ascii_graphic() || b.is_ascii_whitespace());
    let length = start.first_chunk::<8>().map(|&length| u64::from_le_bytes(length));
    let bad = match start {
        [] => Bad::new("empty file"),
        _ if start.starts_with(b"version https://git-lfs") => {
            return Bad::new("git-lfs pointer instead of the numbers")
                .expected("an .npy file")
                .advice("run git lfs pull");
        }
        _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => {
            Bad::new("HTML page").advice("download it again")
        }
        [b'P', b'K', 3 | 5, 4 | 6, ..] => {
            Bad::new("zip archive (.npz?)").advice("unpack it: one .npy file for each parameter")
        }
        [0x1f, 0x8b, ..] => Bad::new("gzip file").advice("decompress it"),
        [b'G', b'G', b'U', b'F', ..] => Bad::new("GGUF file"),
        // A pickle of protocol 2 or later, also inside an old torch.save.
        [0x80, 2..=5, ..] => Bad::new("pickle, which could run code").advice("save the array with np.save"),
        [_, _, _, _, _, _, _, _, b'{', ..] if length.is_some_and(|length| length < 100 << 20) => {
            Bad::new("safetensors file").advice("export each parameter with np.save")
        }
        _ if MAGIC.starts_with(start) => Bad::new(format!("only {} bytes", start.len())),
        _ if is_text => Bad::new("text"),
        _ => Bad::new("unknown bytes"),
    };
    bad.expected("an .npy file")
}

/// Printable ASCII, then spaces, then one newline.
fn check_text(header: &[u8]) -> Result<(), Bad> {
    let Some((b'\n', text)) = header.split_last() else {
        return Err(Bad::new("header does not end with a newline"));
    };
    match text.iter().find(|byte| !(b' '..=b'~').contains(byte)) {
        Some(byte) => Err(Bad::new(format!("byte 0x{byte:02x} in the header")).expected("printable ASCII")),
        None => Ok(()),
    }
}

/// Brackets nest at most twice: the dictionary and the shape. Those inside quotes count too, for a parser that sees
/// quotes differently must not be led deeper.
fn check_nesting(header: &[u8]) -> Result<(), Bad> {
    let mut depth = 0u32;
    for byte in header {
        match byte {
            b'[' | b']' => return Err(Bad::new("structured element type").expected(ACCEPTED)),
            b'(' | b'{' => depth += 1,
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
            let again = match key {
                b"descr" => descr.replace(check_descr(self.quoted()?)?).is_some(),
                b"fortran_order" => order.replace(self.truth()?).is_some(),
                b"shape" => shape.replace(self.sizes()?).is_some(),
                _ => return Err(grammar(format!("key '{}'", String::from_utf8_lossy(key)))),
            };
            if again {
                return Err(grammar(format!("key '{}' twice", String::from_utf8_lossy(key))));
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
            return Err(grammar("a value that is no quoted text".into()));
        };
        let end =
            rest.iter().position(|byte| byte == quote).ok_or_else(|| grammar("a quote that does not end".into()))?;
        self.rest = &rest[end + 1..];
        Ok(&rest[..end])
    }

    fn truth(&mut self) -> Result<bool, Bad> {
        self.skip_spaces();
        for (word, value) in [(b"True".as_slice(), true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(grammar("fortran_order is not True or False".into()))
    }

    /// A tuple of plain decimal numbers; one number needs its comma, as in Python.
    fn sizes(&mut self) -> Result<Vec<u64>, Bad> {
        self.expect(b'(')?;
        let mut sizes = Vec::new();
        while !self.take(b')') {
            if sizes.len() == MAX_RANK {
                return Err(grammar(format!("more than {MAX_RANK} dimensions")));
            }
            sizes.push(self.number()?);
            if !self.take(b',') {
                if sizes.len() == 1 {
                    return Err(grammar("a shape that is no tuple".into()));
                }
                self.expect(b')')?;
                break;
            }
        }
        Ok(sizes)
    }

    fn number(&mut self) -> Result<u64, Bad> {
        self.skip_spaces();
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        let bad = || grammar("a shape with something else than plain numbers".into());
        if number.is_empty() || (digits > 1 && number[0] == b'0') {
            return Err(bad());
        }
        self.rest = rest;
        let digit = |value: u64, digit: &u8| value.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
        number.iter().try_fold(0u64, digit).ok_or_else(|| Bad::new("shape is impossible"))
    }
}

/// A header that numpy would not have written.
fn grammar(found: String) -> Bad {
    Bad::new(format!("header has {found}")).expected("a header as np.save writes it")
}

/// The element type, if it is one of the accepted.
fn check_descr(descr: &[u8]) -> Result<Descr, Bad> {
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
        [b'=', ..] | [b'f' | b'u' | b'i' | b'V', ..] | [b'|', b'f', ..] => {
            Bad::new(format!("byte order not stated ({shown})")).advice("save array.astype('<f4')")
        }
        b"<f8" => Bad::new("float64 (<f8)").advice("save array.astype('<f4')"),
        _ => Bad::new(format!("element type {shown}")).advice("save it as float32"),
    };
    Err(bad.expected(ACCEPTED))
}

/// Lets npyz read a header of our own with the checked values, and compares.
fn confirm_with_npyz(checked: &Checked) -> Result<(), String> {
    #[cfg(test)]
    tests::NPYZ_CALLS.with(|calls| calls.set(calls.get() + 1));
    let descr = match checked.descr {
        Descr::F32 => "<f4",
        Descr::F16 => "<f2",
        Descr::Raw16 => "|V2",
        Descr::U16 => "<u2",
    };
    let sizes: String = checked.shape.iter().map(|size| format!("{size}, ")).collect();
    let order = if checked.fortran_order { "True" } else { "False" };
    let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({sizes}), }}\n");
    // Version 2.0 has room for any length; 32 dimensions of 20 digits stay far below its limit.
    let mut ours = b"\x93NUMPY\x02\x00".to_vec();
    ours.extend((text.len() as u32).to_le_bytes());
    ours.extend(text.as_bytes());
    let header = npyz::NpyHeader::from_reader(ours.as_slice()).map_err(|error| error.to_string())?;
    let order = if checked.fortran_order { npyz::Order::Fortran } else { npyz::Order::C };
    if header.shape() != checked.shape || header.order() != order || header.dtype().descr() != format!("'{descr}'") {
        return Err(format!("it reads {} {:?} {:?}", header.dtype().descr(), header.shape(), header.order()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
