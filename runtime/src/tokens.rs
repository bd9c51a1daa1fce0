//! Token files: little-endian u32 ids and nothing else.

use crate::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of one id.
const ID_BYTES: usize = 4;
/// A guess about a file of ids that are too short.
const NARROW: &str = " (are these 16-bit ids?)";
/// The first bytes of a `.npy` file.
const NUMPY: &[u8] = b"\x93NUMPY";
/// What to do with a text.
const TEXT: &str = "; give text with --prompt, or --prompt - < FILE, and make ids of it with --tokenize";

/// Most ids that become text in one go, which the positions of a model do not limit: as many as the longest text that
/// becomes ids, 64 MiB, can give.
pub const MAX_TEXT_IDS: usize = 1 << 26;

/// How many ids there may be.
#[derive(Clone, Copy)]
struct Limit {
    most: usize,
    /// Whose limit it is.
    whose: &'static str,
    /// What to do about it.
    advice: &'static str,
}

impl Limit {
    fn of_positions(most: usize) -> Limit {
        Limit { most, whose: "the positions of the model", advice: "; shorten the prompt" }
    }

    fn of_text() -> Limit {
        Limit { most: MAX_TEXT_IDS, whose: "as many as become text in one go", advice: "; split the file" }
    }
}

/// Reads and checks a token file; `-` is standard input.
///
/// No more is read than a model of `max_tokens` positions can use and one id beyond, so that a huge file or an endless
/// pipe costs nothing.
///
/// # Errors
/// [`Error::Io`], or [`Error::Tokens`] when there are no ids, half an id, an id outside the vocabulary, or too many.
pub fn read_tokens(path: &Path, vocab_size: usize, max_tokens: usize) -> Result<Vec<u32>, Error> {
    read(path, vocab_size, Limit::of_positions(max_tokens))
}

/// As [`read_tokens`] for ids that are not evaluated but become text: at most [`MAX_TEXT_IDS`].
///
/// # Errors
/// Those of [`read_tokens`].
pub fn read_text_ids(path: &Path, vocab_size: usize) -> Result<Vec<u32>, Error> {
    read(path, vocab_size, Limit::of_text())
}

fn read(path: &Path, vocab_size: usize, limit: Limit) -> Result<Vec<u32>, Error> {
    let most_bytes = (limit.most as u64 + 1) * ID_BYTES as u64;
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(most_bytes).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    } else {
        let file = open(path)?;
        let length = file.metadata().map_err(Error::io(path, "read its metadata"))?.len();
        if length >= most_bytes {
            let mut head = Vec::new();
            file.take(64).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
            let found = format!("{} tokens", length / ID_BYTES as u64);
            return Err(too_many(path, &found, limit, &head));
        }
        file.take(most_bytes).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    }
    checked(path, &bytes, vocab_size, limit)
}

/// Opens a regular file, a pipe or a terminal; a pipe waits for its writer.
fn open(path: &Path) -> Result<File, Error> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    if metadata.is_dir() {
        let advice = "give a file of little-endian u32 ids";
        return Err(Error::NotAFile { path: path.to_path_buf(), found: "a folder", advice });
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(path).map_err(Error::io(path, "open"))
}

/// The error about a file with this `head`.
fn too_many(path: &Path, found: &str, Limit { most, whose, advice }: Limit, head: &[u8]) -> Error {
    let advice = if is_text(head) { TEXT } else { advice };
    let hint = looks_like(head);
    let problem = format!("{found}{hint}, expected at most {most}, {whose}{advice}");
    Error::Tokens { path: path.to_path_buf(), problem }
}

/// The ids in `bytes`, all of them below `vocab_size` and at most `max_tokens`; `path` is for messages.
///
/// # Errors
/// [`Error::Tokens`] as [`read_tokens`].
pub fn parse(path: &Path, bytes: &[u8], vocab_size: usize, max_tokens: usize) -> Result<Vec<u32>, Error> {
    checked(path, bytes, vocab_size, Limit::of_positions(max_tokens))
}

fn checked(path: &Path, bytes: &[u8], vocab_size: usize, limit: Limit) -> Result<Vec<u32>, Error> {
    let wrong = |problem| Err(Error::Tokens { path: path.to_path_buf(), problem });
    if bytes.is_empty() {
        return wrong("no tokens, expected at least one little-endian u32 id".into());
    }
    if bytes.len() > limit.most * ID_BYTES {
        return Err(too_many(path, &format!("more than {} tokens", limit.most), limit, bytes));
    }
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    if !rest.is_empty() {
        let hint = match looks_like(bytes) {
            hint if hint.is_empty() && rest.len() == 2 => NARROW.into(),
            hint => hint,
        };
        let plural = if bytes.len() == 1 { "" } else { "s" };
        let advice = if is_text(bytes) { TEXT } else { "" };
        let n = bytes.len();
        return wrong(format!("{n} byte{plural}, expected a multiple of 4 (little-endian u32 ids){hint}{advice}"));
    }
    let tokens: Vec<u32> = ids.iter().map(|&id| u32::from_le_bytes(id)).collect();
    if let Some(index) = tokens.iter().position(|&token| token as usize >= vocab_size) {
        let (token, last) = (tokens[index], vocab_size - 1);
        let swapped = tokens.iter().all(|token| (token.swap_bytes() as usize) < vocab_size);
        // Two ids of 16 bits, read as one: unlike in a file with one wrong id, the upper half is never zero.
        let is_pair = |token: u32| [token & 0xffff, token >> 16].iter().all(|&id| (id as usize) < vocab_size);
        let narrow = tokens.iter().all(|&token| token >> 16 > 0 && is_pair(token));
        let hint = match (swapped, looks_like(bytes)) {
            (true, _) => " (these look like big-endian ids)".into(),
            (false, hint) if hint.is_empty() && narrow => NARROW.into(),
            (false, hint) => hint,
        };
        let advice = match bytes {
            _ if is_text(bytes) => TEXT,
            _ if bytes.starts_with(NUMPY) => "; write the ids alone, as array.astype('<u4').tofile('tokens.bin')",
            _ => "; make them with the tokenizer of this model",
        };
        return wrong(format!("token {index} is {token}, the vocabulary has ids 0 to {last}{hint}{advice}"));
    }
    Ok(tokens)
}

/// What a file that holds no ids might be.
fn looks_like(bytes: &[u8]) -> String {
    let what = match bytes {
        _ if bytes.starts_with(NUMPY) => "a .npy file",
        _ if bytes.starts_with(b"\x89OLMO") => "a model file: are the arguments swapped?",
        _ if bytes.starts_with(b"\xef\xbb\xbf") => "text with a byte order mark",
        _ if is_text(bytes) => "text",
        _ => return String::new(),
    };
    format!(" (it looks like {what})")
}

/// Whether these bytes are text in UTF-8, or the beginning of one. Ids are none: their upper bytes are zeros.
fn is_text(bytes: &[u8]) -> bool {
    let (text, whole) = match str::from_utf8(bytes) {
        Ok(text) => (text, true),
        // The last character may be cut.
        Err(error) => (str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(), error.error_len().is_none()),
    };
    whole && !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        parse(Path::new("t.bin"), bytes, 100, 3).expect_err("must be refused").to_string()
    }

    #[test]
    fn ids_are_little_endian() {
        let tokens = parse(Path::new("t.bin"), &[1, 0, 0, 0, 99, 0, 0, 0], 100, 3);
        assert_eq!(tokens.expect("good ids"), [1, 99]);
    }

    #[test]
    fn a_file_has_room_for_the_positions_of_the_model_and_a_longer_one_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.bin");
        let read = |bytes: &[u8], length: u64| {
            std::fs::write(&path, bytes).expect("written");
            OpenOptions::new().write(true).open(&path).expect("a file").set_len(length).expect("longer");
            read_tokens(&path, 100, 3).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[7, 0, 0, 0], 12), Ok(vec![7, 0, 0]));
        let said = |found: &str, advice: &str| {
            let path = path.display();
            Err(format!("{path}: {found}, expected at most 3, the positions of the model; {advice}"))
        };
        assert_eq!(read(&[], 16), said("4 tokens", "shorten the prompt"));
        // There is no such memory.
        assert_eq!(read(&[], 1 << 40), said("274877906944 tokens", "shorten the prompt"));
        let text = "Four score and seven years ago our fathers brought forth on this continent";
        let advice = TEXT.strip_prefix("; ").expect("advice");
        assert_eq!(read(text.as_bytes(), 74), said("18 tokens (it looks like text)", advice));
        std::fs::remove_file(&path).expect("removed");
        let missing = read_tokens(&path, 100, 3).expect_err("no file").to_string();
        assert_eq!(missing, format!("{}: cannot open: No such file or directory", path.display()));
    }

    #[test]
    fn ids_that_become_text_are_limited_by_no_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.bin");
        let bytes = 4 * MAX_TEXT_IDS as u64;
        std::fs::File::create(&path).expect("a file").set_len(bytes + 4).expect("longer");
        let line = read_text_ids(&path, 100).expect_err("one too many").to_string();
        let says = "67108865 tokens, expected at most 67108864, as many as become text in one go; split the file";
        assert_eq!(line, format!("{}: {says}", path.display()));
        OpenOptions::new().write(true).open(&path).expect("a file").set_len(bytes).expect("shorter");
        assert_eq!(read_text_ids(&path, 100).expect("as many as fit").len(), MAX_TEXT_IDS);
    }

    #[test]
    fn a_folder_has_no_tokens() {
        let folder = std::env::temp_dir();
        let line = read_tokens(&folder, 100, 3).expect_err("a folder").to_string();
        let expected = "is a folder, expected a regular file; give a file of little-endian u32 ids";
        assert_eq!(line, format!("{}: {expected}", folder.display()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_values() {
        assert_eq!(problem(b""), "t.bin: no tokens, expected at least one little-endian u32 id");
        assert_eq!(problem(&[0; 7]), "t.bin: 7 bytes, expected a multiple of 4 (little-endian u32 ids)");
        assert_eq!(
            problem(&[0; 16]),
            "t.bin: more than 3 tokens, expected at most 3, the positions of the model; shorten the prompt"
        );
        assert_eq!(
            problem(&[0, 0, 0, 0, 100, 0, 0, 1]),
            "t.bin: token 1 is 16777316, the vocabulary has ids 0 to 99; make them with the tokenizer of this model"
        );
        assert!(problem(&[0, 0, 0, 7]).contains(" (these look like big-endian ids); "));
        assert!(problem(&[5, 0, 7, 0]).contains(" (are these 16-bit ids?); "));
        assert!(problem(&[5, 0, 7, 0, 9, 0]).ends_with(" (are these 16-bit ids?)"));
        assert!(!problem(&[5, 0, 0, 0, 0, 1, 1, 0]).contains("16-bit"), "one wrong id");
        for text in ["Four score", "Four", "Four score and seven years", "Grüße", "\u{1f600}"] {
            let line = problem(text.as_bytes());
            assert!(line.contains("(it looks like text") && line.contains("--prompt"), "{line}");
        }
        assert!(!problem(&[5, 0, 0, 0, 7]).contains("text"));
        assert!(problem(b"\x93NUMPY\x01\x00").contains(" (it looks like a .npy file); "));
    }
}
