//! The errors about what is not a model file.

use crate::error::Error;
use crate::file::file_kind::FileKind;
use std::fs::Metadata;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// What a file that begins with `head` looks like, and what to do about it.
pub(super) fn looks_like(head: &[u8]) -> (&'static str, &'static str) {
    const PACK: &str = "make one with olmo-pack weights/ model.olmo";
    const FOLDER: &str = "pack its folder with olmo-pack FOLDER model.olmo";
    const GGUF: &str = "pack it with olmo-pack FILE model.olmo";
    match FileKind::of(head) {
        FileKind::Empty => ("an empty file", PACK),
        FileKind::LfsPointer => ("a git-lfs pointer", "run git lfs pull"),
        FileKind::OlmoAsText => ("one damaged by a text-mode transfer", "copy it again in binary mode"),
        FileKind::Html => ("an HTML page", "download it again"),
        FileKind::Zip => ("a zip or PyTorch archive", PACK),
        FileKind::Gzip => ("gzip data", "unpack it first"),
        FileKind::Gguf => ("a GGUF file, llama.cpp's format", GGUF),
        FileKind::Elf => ("a program", PACK),
        FileKind::Pickle => ("a pickle, as PyTorch writes", PACK),
        FileKind::Npy => ("a .npy file", FOLDER),
        FileKind::Safetensors => ("a safetensors checkpoint", FOLDER),
        FileKind::Zeros => ("zeros, as an unfinished copy or packing leaves", PACK),
        FileKind::Text => ("text", PACK),
        FileKind::Unknown => {
            ("unknown data", "are the arguments swapped? a model is made with olmo-pack weights/ model.olmo")
        }
    }
}

/// The error for something else than a regular file.
pub(super) fn not_a_file(path: &Path, metadata: &Metadata) -> Error {
    const COPY: &str = "a model is mapped: copy it into a file first";
    let kind = metadata.file_type();
    let (found, advice) = match () {
        _ if kind.is_dir() => ("a folder", "pack a weights folder first: olmo-pack weights/ model.olmo"),
        _ if kind.is_fifo() => ("a pipe", COPY),
        _ if kind.is_socket() => ("a socket", COPY),
        // Of characters or of blocks: Unix knows no other kinds.
        _ => ("a device", COPY),
    };
    Error::NotAFile { path: path.to_path_buf(), found, advice }
}
