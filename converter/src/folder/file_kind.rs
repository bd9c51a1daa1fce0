//! Names of the kinds of files that users pass instead of weights.

use olmo_infer::internals::file::file_kind::FileKind;

/// The name of a kind in messages.
pub(crate) fn name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Empty => "empty file",
        FileKind::LfsPointer => "git-lfs pointer instead of the weights",
        FileKind::Html => "HTML page",
        FileKind::Zip => "zip archive",
        FileKind::Gzip => "gzip file",
        FileKind::Gguf => "GGUF file",
        FileKind::Pickle => "pickle, which could run code",
        FileKind::Npy => ".npy file",
        FileKind::Safetensors => "safetensors file",
        FileKind::Text => "text",
        FileKind::OlmoAsText | FileKind::Elf | FileKind::Zeros | FileKind::Unknown => "unknown bytes",
    }
}
