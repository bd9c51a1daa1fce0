//! The kind of a wrong file, guessed from its first bytes, for error messages.

/// Kinds of files that users pass instead of a model or of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the names of formats")]
pub enum FileKind {
    Empty,
    /// The placeholder of a large file in a checkout without git-lfs.
    LfsPointer,
    /// A model file whose line ends were changed.
    OlmoAsText,
    Html,
    Zip,
    Gzip,
    Gguf,
    /// A program of Linux.
    Elf,
    /// A pickle of protocol 2 or later, also at the start of an old `torch.save` file.
    Pickle,
    Npy,
    Safetensors,
    /// Nothing but zeros.
    Zeros,
    Text,
    Unknown,
}

impl FileKind {
    /// The kind of a file that begins with `start`: at least its first 512 bytes, or the whole file.
    pub fn of(start: &[u8]) -> FileKind {
        let lower: Vec<u8> = start.iter().take(512).map(u8::to_ascii_lowercase).collect();
        let text = lower.trim_ascii_start();
        let length = start.first_chunk::<8>().map(|&length| u64::from_le_bytes(length));
        match start {
            [] => FileKind::Empty,
            _ if start.starts_with(b"version https://git-lfs") => FileKind::LfsPointer,
            _ if start.starts_with(b"\x09OLMO") || start.starts_with(b"\x89OLMO") => FileKind::OlmoAsText,
            _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => FileKind::Html,
            [b'P', b'K', 3 | 5, 4 | 6, ..] => FileKind::Zip,
            [0x1f, 0x8b, ..] => FileKind::Gzip,
            [b'G', b'G', b'U', b'F', ..] => FileKind::Gguf,
            [0x7f, b'E', b'L', b'F', ..] => FileKind::Elf,
            [0x80, 2..=5, ..] => FileKind::Pickle,
            _ if start.starts_with(b"\x93NUMPY") => FileKind::Npy,
            [_, _, _, _, _, _, _, _, b'{', ..] if length.is_some_and(|length| length < 100 << 20) => {
                FileKind::Safetensors
            }
            _ if start.iter().all(|&byte| byte == 0) => FileKind::Zeros,
            _ if is_text(&start[..start.len().min(64)]) => FileKind::Text,
            _ => FileKind::Unknown,
        }
    }
}

/// Whether bytes are UTF-8 text without control characters; a character may be cut at their end.
fn is_text(bytes: &[u8]) -> bool {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utf8_in_its_first_64_bytes() {
        let cut = [&b"x".repeat(63)[..], "ü".as_bytes()].concat();
        for text in ["über 64 Zeichen".as_bytes(), b"tab\tand\r\nline", &cut, &[&b"y".repeat(64)[..], &[0xff]].concat()]
        {
            assert_eq!(FileKind::of(text), FileKind::Text, "{text:?}");
        }
        for other in [&b"escape \x1b"[..], &[b'a', 0xff, b'b'], &[0xc3], b"\x01"] {
            assert_eq!(FileKind::of(other), FileKind::Unknown, "{other:?}");
        }
    }
}
