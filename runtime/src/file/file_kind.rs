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
            _ if lower.iter().all(|&b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => FileKind::Text,
            _ => FileKind::Unknown,
        }
    }
}
