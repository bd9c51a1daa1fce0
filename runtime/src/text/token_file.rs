//! Token files: a sequence of ids without a header, little-endian u32 unless the caller names another type.

use crate::error::{Error, TokenRemedy};
use crate::os::holes::bytes_in_holes;
use crate::os::memory;
use crate::text::token_guess::{Guess, guess_kind, is_wide, other_file, wider};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The type of the ids in a token file; little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// 16 bits.
    U16,
    /// 32 bits.
    U32,
    /// 32 bits, signed.
    I32,
    /// 64 bits.
    U64,
    /// 64 bits, signed: the default integer type of numpy.
    I64,
}

impl TokenType {
    const ALL: [TokenType; 5] = [TokenType::U16, TokenType::U32, TokenType::I32, TokenType::U64, TokenType::I64];

    /// The type with this name.
    pub fn named(name: &str) -> Option<TokenType> {
        TokenType::ALL.into_iter().find(|token_type| token_type.name() == name)
    }

    /// Its name, as `u32`.
    pub fn name(self) -> &'static str {
        match self {
            TokenType::U16 => "u16",
            TokenType::U32 => "u32",
            TokenType::I32 => "i32",
            TokenType::U64 => "u64",
            TokenType::I64 => "i64",
        }
    }

    fn bytes(self) -> usize {
        match self {
            TokenType::U16 => 2,
            TokenType::U32 | TokenType::I32 => 4,
            TokenType::U64 | TokenType::I64 => 8,
        }
    }

    /// Decodes one id.
    fn number(self, bytes: &[u8]) -> i128 {
        let unsigned = bytes.iter().rev().fold(0, |number, &byte| number << 8 | i128::from(byte));
        let is_negative = bytes.last().is_some_and(|byte| byte >> 7 == 1);
        match self {
            TokenType::I32 | TokenType::I64 if is_negative => unsigned - (1 << (8 * bytes.len())),
            _ => unsigned,
        }
    }
}

/// Most ids that are detokenized at once, or scored in windows, regardless of the positions of a model: the number of
/// ids that the longest text, 64 MiB, can have.
pub const MAX_TEXT_IDS: usize = 1 << 26;

/// Bytes read of an oversized file to guess its kind.
const HEAD_BYTES: u64 = 64;
/// Bytes that are read and checked at a time. The first ones serve to guess the kind of a longer file.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of holes allowed in a file of ids: some copy tools turn zeros into holes.
const MAX_HOLES: u64 = 1 << 20;

/// The largest number of ids.
#[derive(Clone, Copy)]
struct Limit {
    most: usize,
    /// The origin of the limit.
    origin: &'static str,
    /// Advice for the user.
    advice: &'static str,
}

impl Limit {
    fn of_positions(most: usize) -> Limit {
        Limit { most, origin: "the positions of the model", advice: "shorten the prompt" }
    }

    fn of_item() -> Limit {
        Limit { most: MAX_TEXT_IDS, origin: "the most that are scored as one item", advice: "split the file" }
    }

    fn of_text() -> Limit {
        Limit { most: MAX_TEXT_IDS, origin: "the most that are detokenized at once", advice: "split the file" }
    }
}

/// Reads and checks a token file of little-endian u32 ids; `-` is standard input.
///
/// At most `max_tokens` ids and one more are read, and nothing after an invalid id, so that a huge file or an endless
/// pipe costs nothing. Valid ids take four bytes each, those of a pipe up to twice that.
///
/// # Errors
/// [`Error::Io`], or [`Error::Tokens`] for no ids, a partial id, an id outside the vocabulary, or too many ids, when
/// every second id is 0, as in a file of 64-bit ids, when more than 1 MiB of a file are holes, and when out of memory.
pub fn read_tokens(path: &Path, vocab_size: usize, max_tokens: usize) -> Result<Vec<u32>, Error> {
    read_tokens_as(path, None, vocab_size, max_tokens)
}

/// As [`read_tokens`], for ids of `token_type`, or little-endian u32 ids for `None`. A named type is trusted, except
/// for text, files of other programs, and 16-bit ids of which every second one is 0.
///
/// # Errors
/// As [`read_tokens`].
pub fn read_tokens_as(
    path: &Path,
    token_type: Option<TokenType>,
    vocab_size: usize,
    max_tokens: usize,
) -> Result<Vec<u32>, Error> {
    read(path, token_type, vocab_size, Limit::of_positions(max_tokens))
}

/// As [`read_tokens_as`], for ids that are detokenized and not evaluated: at most [`MAX_TEXT_IDS`].
///
/// # Errors
/// As [`read_tokens`].
pub fn read_text_ids(path: &Path, token_type: Option<TokenType>, vocab_size: usize) -> Result<Vec<u32>, Error> {
    read(path, token_type, vocab_size, Limit::of_text())
}

/// As [`read_tokens_as`], for ids that are evaluated in windows: at most [`MAX_TEXT_IDS`].
///
/// # Errors
/// As [`read_tokens`].
pub fn read_ids_to_score(path: &Path, token_type: Option<TokenType>, vocab_size: usize) -> Result<Vec<u32>, Error> {
    read(path, token_type, vocab_size, Limit::of_item())
}

fn read(path: &Path, token_type: Option<TokenType>, vocab_size: usize, limit: Limit) -> Result<Vec<u32>, Error> {
    let id_bytes = token_type.unwrap_or(TokenType::U32).bytes() as u64;
    let most_bytes = (limit.most as u64).saturating_add(1).saturating_mul(id_bytes);
    if path.as_os_str() == "-" {
        let ids = Ids { path, token_type, vocab_size, limit, bytes: None };
        return ids.read(&mut std::io::stdin().lock().take(most_bytes));
    }
    let mut file = open(path)?;
    let metadata = file.metadata().map_err(Error::io(path, "read its metadata"))?;
    let length = metadata.len();
    if length >= most_bytes {
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
        let found = format!("{} tokens", length / id_bytes);
        return Err(too_many(path, &found, limit, kind_of(&head, token_type, vocab_size)));
    }
    if metadata.is_file() {
        if bytes_in_holes(&file, 0..length, MAX_HOLES) > MAX_HOLES {
            let (problem, remedy) = ("more than 1 MiB of holes, expected ids".into(), other("write it again"));
            return Err(Error::Tokens { path: path.to_path_buf(), problem, remedy });
        }
        file.rewind().map_err(Error::io(path, "read"))?;
    }
    let ids = Ids { path, token_type, vocab_size, limit, bytes: Some(length).filter(|_| metadata.is_file()) };
    ids.read(&mut file.take(most_bytes))
}

/// Opens a regular file, a pipe or a terminal; opening a pipe waits for its writer.
fn open(path: &Path) -> Result<File, Error> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    if metadata.is_dir() {
        let advice = "give a file of little-endian u32 ids";
        return Err(Error::NotAFile { path: path.to_path_buf(), found: "a folder", advice });
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(path).map_err(Error::io(path, "open"))
}

/// Guesses what bytes are that are not all ids of this type.
fn kind_of(bytes: &[u8], token_type: Option<TokenType>, vocab_size: usize) -> Option<Guess> {
    let width = token_type.unwrap_or(TokenType::U32).bytes();
    // The type they were read as is not a guess.
    guess_kind(bytes, vocab_size).filter(|guess| guess.id_bytes != Some(width))
}

/// The error for too many ids.
fn too_many(path: &Path, found: &str, Limit { most, origin, advice }: Limit, guess: Option<Guess>) -> Error {
    let (hint, remedy) = hint_and_remedy(guess, other(advice));
    let problem = format!("{found}{hint}, expected at most {most}, {origin}");
    Error::Tokens { path: path.to_path_buf(), problem, remedy }
}

fn other(advice: &str) -> TokenRemedy {
    TokenRemedy::Other(advice.into())
}

/// A guess in parentheses and its remedy; `remedy` without a guess.
fn hint_and_remedy(guess: Option<Guess>, remedy: TokenRemedy) -> (String, TokenRemedy) {
    match guess {
        Some(Guess { what, remedy, .. }) => (format!(" (it looks like {what})"), remedy),
        None => (String::new(), remedy),
    }
}

/// Checks the little-endian u32 ids in `bytes`: all below `vocab_size` and at most `max_tokens`. `path` is for
/// messages.
///
/// # Errors
/// [`Error::Tokens`] as [`read_tokens`].
pub fn parse(path: &Path, bytes: &[u8], vocab_size: usize, max_tokens: usize) -> Result<Vec<u32>, Error> {
    let limit = Limit::of_positions(max_tokens);
    Ids { path, token_type: None, vocab_size, limit, bytes: Some(bytes.len() as u64) }.read(&mut &*bytes)
}

/// Parameters for reading ids.
struct Ids<'a> {
    /// For messages.
    path: &'a Path,
    token_type: Option<TokenType>,
    vocab_size: usize,
    limit: Limit,
    /// The number of bytes, if known; 0 for a file in `/proc`.
    bytes: Option<u64>,
}

impl Ids<'_> {
    /// Reads and checks ids, a piece at a time.
    fn read(&self, source: &mut dyn Read) -> Result<Vec<u32>, Error> {
        let read_as = self.token_type.unwrap_or(TokenType::U32);
        let (width, name) = (read_as.bytes(), read_as.name());
        let mut head = Vec::new();
        self.fill(source, &mut head)?;
        if head.is_empty() {
            let problem = format!("no tokens, expected at least one little-endian {name} id");
            return self.wrong(problem, TokenRemedy::Stated);
        }
        let is_all = head.len() < PIECE_BYTES;
        if is_all && head.len() > self.limit.most.saturating_mul(width) {
            return Err(self.too_many(&head));
        }
        let n_bytes = if is_all { head.len() as u64 } else { self.bytes.unwrap_or(0) };
        if !n_bytes.is_multiple_of(width as u64) {
            return self.half(n_bytes, &head);
        }
        // The last byte of a longer source is not read yet.
        self.refuse_other_file(&head, head.last().copied().filter(|_| is_all))?;
        let mut tokens = Vec::new();
        let known = (n_bytes / width as u64).min(self.limit.most as u64) as usize;
        memory::asking(|| tokens.try_reserve_exact(known)).map_err(|_| self.no_memory())?;
        self.append(&head, &head, &mut tokens)?;
        let (mut read, mut last, mut piece) = (head.len(), None, Vec::new());
        while read.is_multiple_of(PIECE_BYTES) {
            piece.clear();
            self.fill(source, &mut piece)?;
            if piece.is_empty() {
                break;
            }
            read += piece.len();
            last = piece.last().copied();
            self.append(&piece, &head, &mut tokens)?;
        }
        if tokens.len() > self.limit.most {
            return Err(self.too_many(&head));
        }
        // A file in /proc reports length 0 and has its content.
        if self.bytes.is_some_and(|bytes| bytes > read as u64) {
            return Err(Error::io(self.path, "read all of it")(io::ErrorKind::UnexpectedEof.into()));
        }
        if !read.is_multiple_of(width) {
            return self.half(read as u64, &head);
        }
        self.refuse_other_file(&head, last)?;
        self.refuse_wider(&tokens)?;
        Ok(tokens)
    }

    /// Reads up to [`PIECE_BYTES`]; fewer only at the end.
    fn fill(&self, source: &mut dyn Read, piece: &mut Vec<u8>) -> Result<(), Error> {
        let read = source.take(PIECE_BYTES as u64).read_to_end(piece);
        read.map(|_| ()).map_err(Error::io(self.path, "read"))
    }

    /// Appends the whole ids of a piece; `head` is the first piece.
    fn append(&self, piece: &[u8], head: &[u8], tokens: &mut Vec<u32>) -> Result<(), Error> {
        let read_as = self.token_type.unwrap_or(TokenType::U32);
        let ids = piece.chunks_exact(read_as.bytes());
        memory::asking(|| tokens.try_reserve(ids.len())).map_err(|_| self.no_memory())?;
        for id in ids {
            let number = read_as.number(id);
            match u32::try_from(number) {
                Ok(token) if (token as usize) < self.vocab_size => tokens.push(token),
                _ => {
                    let unknown = other("make them with the tokenizer of this model");
                    let (hint, remedy) = hint_and_remedy(self.kind(head), unknown);
                    // The padding or mask value of another program.
                    let negative = match u32::try_from(number).map(u32::cast_signed) {
                        Ok(signed) if signed < 0 && hint.is_empty() => format!(" ({signed} as a signed number)"),
                        _ => String::new(),
                    };
                    let index = tokens.len();
                    let expected = match self.vocab_size.checked_sub(1) {
                        Some(last) => format!("the vocabulary has ids 0 to {last}"),
                        None => "the vocabulary is empty".into(),
                    };
                    return self.wrong(format!("token {index} is {number}{negative}, {expected}{hint}"), remedy);
                }
            }
        }
        Ok(())
    }

    /// Rejects a file that begins and ends like a file of another program, if the named type would accept any bytes.
    fn refuse_other_file(&self, head: &[u8], last: Option<u8>) -> Result<(), Error> {
        let Some(Guess { what, remedy, .. }) = self.token_type.and_then(|_| other_file(head, last)) else {
            return Ok(());
        };
        let name = self.token_type.unwrap_or(TokenType::U32).name();
        self.wrong(format!("looks like {what}, expected little-endian {name} ids"), remedy)
    }

    /// Rejects ids that look like those of a wider type.
    fn refuse_wider(&self, tokens: &[u32]) -> Result<(), Error> {
        if let (Some(TokenType::U16), Some(wider)) = (self.token_type, wider(tokens, self.vocab_size)) {
            let looks = format!("every second id is 0, or nearly (it looks like {wider} ids)");
            return self.wrong(looks, TokenRemedy::ReadAs { token_type: wider, is_guess: false });
        }
        if self.token_type.is_none() && is_wide(tokens.iter().copied()) {
            let problem = "every second id is 0 (it looks like 64-bit ids)".into();
            return self.wrong(problem, TokenRemedy::ReadAs64Bits);
        }
        Ok(())
    }

    fn wrong<T>(&self, problem: String, remedy: TokenRemedy) -> Result<T, Error> {
        Err(Error::Tokens { path: self.path.to_path_buf(), problem, remedy })
    }

    fn half<T>(&self, n_bytes: u64, head: &[u8]) -> Result<T, Error> {
        let read_as = self.token_type.unwrap_or(TokenType::U32);
        let plural = if n_bytes == 1 { "" } else { "s" };
        let (hint, remedy) = hint_and_remedy(self.kind(head), TokenRemedy::Stated);
        let expected = format!("expected a multiple of {} (little-endian {} ids)", read_as.bytes(), read_as.name());
        self.wrong(format!("{n_bytes} byte{plural}, {expected}{hint}"), remedy)
    }

    fn too_many(&self, head: &[u8]) -> Error {
        // The first bytes suffice for the guess.
        let head = &head[..head.len().min(HEAD_BYTES as usize)];
        too_many(self.path, &format!("more than {} tokens", self.limit.most), self.limit, self.kind(head))
    }

    fn no_memory(&self) -> Error {
        let problem = "out of memory for its ids (see ulimit -v)".into();
        Error::Tokens { path: self.path.to_path_buf(), problem, remedy: other("use a shorter file, or split it") }
    }

    fn kind(&self, bytes: &[u8]) -> Option<Guess> {
        kind_of(bytes, self.token_type, self.vocab_size)
    }
}

#[cfg(test)]
mod tests;
