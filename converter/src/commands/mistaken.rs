//! Advice for arguments that cannot be right: swapped ones, and files of other programs instead of the weights folder.

use crate::error::{Error, Problem, shown_path};
use crate::folder::source_file;
use olmo_infer::internals::format::MAGIC;
use std::io::Read;
use std::path::Path;

/// A better error for `weights` that could not be listed, when the file there, or at `model`, shows what was meant.
pub(crate) fn explain(weights: &Path, model: &Path, error: Error) -> Error {
    if !weights.is_file() {
        return error;
    }
    let mut head = Vec::new();
    // If it cannot be read, the first error is the one to report.
    let _unread = source_file::open(weights).map(|file| file.take(16).read_to_end(&mut head));
    let folder = weights.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let pack_folder = |folder: &Path| format!("olmo-pack {} {}", shown_path(folder), shown_path(model));
    if model.is_dir() {
        let (weights, folder) = (shown_path(weights), shown_path(model));
        let mut advice = format!("are the arguments swapped? olmo-pack {folder} {weights}");
        if head.starts_with(&MAGIC) {
            advice += &format!(", or to restore the folder olmo-pack unpack {weights} {folder}");
        }
        return Problem::new(model, "is a folder").expected("the model file").advice(advice).into();
    }
    let (found, advice) = match head.as_slice() {
        head if head.starts_with(&MAGIC) => {
            let path = shown_path(weights);
            let advice =
                format!("run it with olmo-infer {path}, or restore its folder with olmo-pack unpack {path} FOLDER");
            ("a model file", advice)
        }
        head if head.starts_with(b"PK\x03\x04") => {
            ("a PyTorch archive, which cannot be packed", "save the model as safetensors or .npy files".into())
        }
        head if head.len() > 9 && head[8] == b'{' => {
            ("a safetensors file", format!("give its folder: {}", pack_folder(folder)))
        }
        head if head.starts_with(b"\x93NUMPY") => ("a .npy file", format!("give its folder: {}", pack_folder(folder))),
        _ => return error,
    };
    Problem::new(weights, format!("not a folder but {found}")).expected("a folder of weights").advice(advice).into()
}
