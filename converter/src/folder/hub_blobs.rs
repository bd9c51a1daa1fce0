//! Which files are the contents of a model in the `huggingface_hub` cache: links of a revision may lead there.

use olmo_infer::internals::os::directory::folder_of;
use std::path::{Path, PathBuf};

/// The `blobs` folder that links in `folder` point to, if `folder` is a revision or inside one.
pub(crate) fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.ancestors().find(|above| above.file_name().is_some_and(|name| name == "snapshots"))?;
    Some(folder_of(snapshots).join("blobs"))
}

/// Whether a file is a blob of a model in a cache.
pub(crate) fn is_blob(file: &Path) -> bool {
    let blobs = folder_of(file);
    let is_model = |name: &str| name.starts_with("models--");
    blobs.ends_with("blobs") && folder_of(blobs).file_name().and_then(|name| name.to_str()).is_some_and(is_model)
}
