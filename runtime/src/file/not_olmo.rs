//! What a file that is not a model file looks like.

/// What a file that is no `.olmo` file looks like, and what to do about it.
pub(super) fn looks_like(head: &[u8]) -> (&'static str, &'static str) {
    const PACK: &str = "make one with olmo-pack weights/ model.olmo";
    const FOLDER: &str = "pack its folder with olmo-pack FOLDER model.olmo";
    const ORIGINAL: &str =
        "it cannot be packed: get the original checkpoint, and pack its folder with olmo-pack FOLDER model.olmo";
    let is_text =
        |head: &[u8]| !head.is_empty() && head.iter().all(|&b| b == b'\n' || b == b'\r' || (b' '..127).contains(&b));
    match head {
        [] => ("an empty file", PACK),
        _ if head.starts_with(b"version https://git-lfs") => ("a git-lfs pointer", "run git lfs pull"),
        _ if head.starts_with(b"\x09OLMO") || head.starts_with(b"\x89OLMO") => {
            ("one damaged by a text-mode transfer", "copy it again in binary mode")
        }
        _ if head.starts_with(b"GGUF") => ("a GGUF file, llama.cpp's format", ORIGINAL),
        _ if head.starts_with(b"\x93NUMPY") => ("a .npy file", FOLDER),
        _ if head.starts_with(b"PK\x03\x04") => ("a zip or PyTorch archive", PACK),
        _ if head.starts_with(b"\x7fELF") => ("a program", PACK),
        _ if head.starts_with(b"\x1f\x8b") => ("gzip data", "unpack it first"),
        _ if head.len() > 9 && head[8] == b'{' => ("a safetensors checkpoint", FOLDER),
        _ if head.iter().all(|&byte| byte == 0) => ("zeros, as an unfinished copy or packing leaves", PACK),
        _ if is_text(&head[..head.len().min(64)]) => ("text", PACK),
        _ => ("unknown data", "are the arguments swapped? a model is made with olmo-pack weights/ model.olmo"),
    }
}
