//! Guesses what a file without little-endian u32 ids contains, from its bytes, for an error message.

use crate::error::TokenRemedy;

/// Fewer bytes than this are read as ids of the given type, even if they are all text characters.
const MIN_TEXT_BYTES: usize = 6;
/// Advice for ids in a file of another program.
const WRITE_IDS: &str = "write the ids alone, as array.astype('<u4').tofile('tokens.bin')";

/// A kind of file, with advice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    /// Including its article.
    pub(crate) what: String,
    /// What to do.
    pub(crate) remedy: TokenRemedy,
    /// Bytes per id, for little-endian ids of a supported type.
    pub(crate) id_bytes: Option<usize>,
}

fn guess(what: impl Into<String>, advice: impl Into<String>) -> Option<Guess> {
    Some(Guess { what: what.into(), remedy: TokenRemedy::Other(advice.into()), id_bytes: None })
}

/// Guesses what `bytes` are that are not u32 ids below `vocab_size`: a whole file, or its first 64 bytes.
pub(crate) fn guess_kind(bytes: &[u8], vocab_size: usize) -> Option<Guess> {
    known_file(bytes).or_else(|| text(bytes)).or_else(|| numbers(bytes, vocab_size as u64))
}

/// Guesses what `bytes` are that do not hold ids of any type, such as a file of another program or text: a whole file,
/// or its first bytes. `last` is the last byte of the file, if known.
pub(crate) fn other_file(bytes: &[u8], last: Option<u8>) -> Option<Guess> {
    // Two bytes alone are also an id; a pickle ends with a dot.
    let is_pickle = matches!(bytes, [0x80, 2..=5, ..]);
    // The bytes of a few ids may all be characters by chance.
    let text = || text(bytes).filter(|_| bytes.len() >= MIN_TEXT_BYTES);
    known_file(bytes).filter(|_| !is_pickle || last == Some(b'.')).or_else(text)
}

/// The wider type that little-endian u16 ids look like: every second one is 0, or the upper half of a larger id.
pub(crate) fn wider(ids: &[u32], vocab_size: usize) -> Option<&'static str> {
    let (pairs, rest) = ids.as_chunks::<2>();
    let words = || pairs.iter().map(|[low, high]| low | high << 16);
    if !rest.is_empty() || pairs.is_empty() || !words().all(|id| (id as usize) < vocab_size) {
        return None;
    }
    // Among a few ids, some may be small.
    let has_zeros = pairs.iter().all(|[_, high]| *high == 0);
    (has_zeros || pairs.len() >= 4).then(|| if is_wide(words()) { "i64" } else { "u32" })
}

/// Whether little-endian u32 ids look like 64-bit ids: every second one is zero.
pub(crate) fn is_wide(ids: impl ExactSizeIterator<Item = u32>) -> bool {
    ids.len() > 0 && ids.len().is_multiple_of(2) && ids.skip(1).step_by(2).all(|id| id == 0)
}

/// Kinds of files with a known magic number.
fn known_file(bytes: &[u8]) -> Option<Guess> {
    let within = |text: &[u8]| bytes[..bytes.len().min(256)].windows(text.len()).any(|window| window == text);
    match bytes {
        _ if bytes.starts_with(b"\x93NUMPY") => {
            let kind = npy_type(bytes).map_or(String::new(), |kind| format!(" of {kind}"));
            guess(
                format!("a .npy file{kind}"),
                "write the ids alone, as numpy.load(FILE).astype('<u4').tofile('tokens.bin')",
            )
        }
        _ if bytes.starts_with(b"PK\x03\x04") => match () {
            () if within(b".npy") => guess("a .npz file", WRITE_IDS),
            () if within(b"data.pkl") || within(b".format_version") => {
                guess("a PyTorch file", "write the ids alone, as tensor.numpy().astype('<u4').tofile('tokens.bin')")
            }
            () => guess("a zip archive", "unpack it first"),
        },
        [0x80, 2..=5, ..] => guess("a Python pickle", WRITE_IDS),
        _ if bytes.starts_with(b"\x1f\x8b\x08") => guess("a gzip file", "decompress it first with gzip -d"),
        _ if bytes.starts_with(b"\x28\xb5\x2f\xfd") => guess("a zstd file", "decompress it first with zstd -d"),
        _ if bytes.starts_with(b"\xfd7zXZ\0") => guess("an xz file", "decompress it first with xz -d"),
        _ if bytes.starts_with(b"PAR1") => guess("a Parquet file", WRITE_IDS),
        _ if bytes.starts_with(b"ARROW1\0\0") => guess("an Arrow file", WRITE_IDS),
        _ if bytes.starts_with(b"\x89HDF\r\n\x1a\n") => guess("an HDF5 file", WRITE_IDS),
        _ if bytes.starts_with(b"\x89OLMO") => {
            guess("a model file: are the arguments swapped?", "olmo-infer MODEL.olmo TOKENS")
        }
        _ => None,
    }
}

/// The element type in the header of a `.npy` file.
fn npy_type(bytes: &[u8]) -> Option<&str> {
    let header = bytes.get(10..bytes.len().min(256))?;
    let key = b"'descr': '";
    let start = header.windows(key.len()).position(|window| window == key)? + key.len();
    let length = header[start..].iter().take(16).position(|&byte| byte == b'\'')?;
    let kind = str::from_utf8(&header[start..start + length]).ok()?;
    kind.bytes().all(|byte| byte.is_ascii_graphic()).then_some(kind)
}

fn text(bytes: &[u8]) -> Option<Guess> {
    let of_text = |what: &str, remedy| Some(Guess { what: what.into(), remedy, id_bytes: None });
    match bytes {
        [0xff, 0xfe, _, 0, ..] | [0xfe, 0xff, 0, _, ..] => of_text("text in UTF-16", TokenRemedy::EncodeUtf16),
        _ if bytes.starts_with(b"\xef\xbb\xbf") => of_text("text with a byte order mark", TokenRemedy::Encode),
        _ if !is_text(bytes) => None,
        _ if bytes.iter().all(|byte| byte.is_ascii_digit() || b" \t\r\n,;[]".contains(byte))
            && bytes.iter().any(u8::is_ascii_digit) =>
        {
            let advice = "write them as 32-bit numbers, as numpy.array([1, 2, 3], '<u4').tofile('tokens.bin')";
            guess("decimal numbers in text", advice)
        }
        _ => of_text("text", TokenRemedy::Encode),
    }
}

/// Whether these bytes are UTF-8 text, or the beginning of it. Ids are not: their upper bytes are zeros.
fn is_text(bytes: &[u8]) -> bool {
    let (text, whole) = match str::from_utf8(bytes) {
        Ok(text) => (text, true),
        // The last character may be truncated.
        Err(error) => (str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(), error.error_len().is_none()),
    };
    whole && !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

/// Numbers of another type that are all ids of the vocabulary.
fn numbers(bytes: &[u8], vocab_size: u64) -> Option<Guess> {
    let ids = |id_bytes: usize, token_type| {
        let what = format!("{}-bit ids", 8 * id_bytes);
        Some(Guess { what, remedy: TokenRemedy::ReadAs { token_type, is_guess: true }, id_bytes: Some(id_bytes) })
    };
    let converted = |what: &str| guess(what, WRITE_IDS);
    if bytes.iter().all(|&byte| byte == 0) {
        return None;
    }
    let is_id = |id: u64| id < vocab_size;
    let is_float_id = |id: f64| id.fract() == 0.0 && id.is_sign_positive() && id < vocab_size as f64;
    if let (words @ [_, ..], []) = bytes.as_chunks::<8>() {
        // Negative numbers like -1 are padding; the other numbers decide.
        let is_signed_id = |word: &[u8; 8]| {
            let id = i64::from_le_bytes(*word);
            id < 0 && id >= i64::from(i32::MIN) || u64::try_from(id).is_ok_and(is_id)
        };
        if words.iter().all(is_signed_id) {
            return ids(8, "i64");
        }
        if words.iter().all(|word| is_id(u64::from_be_bytes(*word))) {
            return converted("big-endian 64-bit ids");
        }
        if words.iter().all(|word| is_float_id(f64::from_le_bytes(*word))) {
            return converted("64-bit floating-point numbers");
        }
    }
    if let (words @ [_, ..], []) = bytes.as_chunks::<4>() {
        if words.iter().all(|word| is_id(u32::from_le_bytes(*word).into())) {
            return ids(4, "u32");
        }
        if words.iter().all(|word| is_id(u32::from_be_bytes(*word).into())) {
            return converted("big-endian 32-bit ids");
        }
        if words.iter().all(|word| is_float_id(f32::from_le_bytes(*word).into())) {
            return converted("32-bit floating-point numbers");
        }
    }
    if let (words @ [_, ..], []) = bytes.as_chunks::<2>() {
        // The upper half of a 32-bit id is mostly zero; one wrong id among valid ones is one wrong id.
        let zeros = words.iter().skip(1).step_by(2).filter(|word| **word == [0; 2]).count();
        let is_narrow = zeros <= words.len() / 4;
        if is_narrow && words.iter().all(|word| is_id(u16::from_le_bytes(*word).into())) {
            return ids(2, "u16");
        }
        if is_narrow && words.iter().all(|word| is_id(u16::from_be_bytes(*word).into())) {
            return converted("big-endian 16-bit ids");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(ids: &[i64], to_bytes: impl Fn(i64) -> [u8; N]) -> Vec<u8> {
        ids.iter().flat_map(|&id| to_bytes(id)).collect()
    }

    #[test]
    fn guesses_type_of_ids() {
        let ids = [5, 0, 99, 7, 70, 3];
        let what = |bytes: &[u8]| guess_kind(bytes, 100).map(|guess| guess.what);
        let cases: [(Vec<u8>, Option<&str>); 12] = [
            (bytes(&ids, i64::to_le_bytes), Some("64-bit ids")),
            (bytes(&[5, -100, 7], i64::to_le_bytes), Some("64-bit ids")),
            (bytes(&ids, i64::to_be_bytes), Some("big-endian 64-bit ids")),
            (bytes(&ids, |id| (id as f64).to_le_bytes()), Some("64-bit floating-point numbers")),
            (bytes(&ids, |id| (id as f32).to_le_bytes()), Some("32-bit floating-point numbers")),
            (bytes(&ids, |id| (id as u32).to_be_bytes()), Some("big-endian 32-bit ids")),
            (bytes(&ids, |id| (id as u32).to_le_bytes()), Some("32-bit ids")),
            (bytes(&ids, |id| (id as u16).to_le_bytes()), Some("16-bit ids")),
            (bytes(&ids[..5], |id| (id as u16).to_le_bytes()), Some("16-bit ids")),
            (bytes(&ids, |id| (id as u16).to_be_bytes()), Some("big-endian 16-bit ids")),
            (bytes(&[5, 65_541, 6], |id| (id as u32).to_le_bytes()), None),
            (bytes(&[5, 1 << 40], i64::to_le_bytes), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(what(&bytes).as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn guesses_files_of_other_programs() {
        let npy = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }\n";
        for (bytes, expected) in [
            (&npy[..], "a .npy file of <i8"),
            (b"\x93NUMPY\x01\x00", "a .npy file"),
            (b"\x93NUMPY\x01\x00v\x00{'descr': '\x1b[31m', }", "a .npy file"),
            (b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0arr_0.npy", "a .npz file"),
            (b"PK\x03\x04\0\0\x08\x08\0\0t/data.pkl", "a PyTorch file"),
            (b"PK\x03\x04\0\0\x08\x08\0\0notes", "a zip archive"),
            (b"\x80\x04\x95\x0b\0\0\0", "a Python pickle"),
            (b"\x1f\x8b\x08\0", "a gzip file"),
            (b"PAR1\x15\x04\x15\x10", "a Parquet file"),
            (b"\x89OLMO\r\n\x1a\n", "a model file: are the arguments swapped?"),
            (b"\xff\xfeF\0o\0", "text in UTF-16"),
            (b"\xef\xbb\xbfFour", "text with a byte order mark"),
            (b"1 2 3\n", "decimal numbers in text"),
            (b"[70, 111,\r\n117]", "decimal numbers in text"),
            (b"Four score", "text"),
            ("Grüße".as_bytes(), "text"),
            (b"\n ", "text"),
        ] {
            assert_eq!(guess_kind(bytes, 100).map(|guess| guess.what).as_deref(), Some(expected), "{bytes:?}");
        }
        for unknown in [&[5, 0, 0, 0, 200][..], &[0; 8], b""] {
            assert_eq!(guess_kind(unknown, 100), None);
        }
    }

    #[test]
    fn is_wide_detects_alternate_zeros() {
        for (ids, expected) in [
            (&[5u32, 0][..], true),
            (&[0, 0], true),
            (&[5, 0, 7, 0], true),
            (&[5, 0, 7], false),
            (&[5], false),
            (&[0, 5], false),
            (&[5, 0, 7, 1], false),
            (&[], false),
        ] {
            assert_eq!(is_wide(ids.iter().copied()), expected, "{ids:?}");
        }
    }
}
