//! Folders of the `huggingface_hub` cache that are given instead of the weights folder, and the folder in them to give.
//!
//! `hub/models--OWNER--NAME/` has `snapshots/REVISION/`, a folder of links with the names of the files, `blobs/` with their
//! contents, and `refs/main` with the newest revision.

use crate::error::{Problem, shown_path};
use crate::folder::source_file::read_at_most;
use olmo_infer::internals::os::directory::{folder_of, names};
use std::path::{Path, PathBuf};

/// Most folders in a message.
const SHOWN: usize = 3;
/// Longest `refs/main` that is read; a revision has 40 digits.
const MAX_REVISION_BYTES: u64 = 100;

/// The error for `folder`, if it belongs to a cache.
pub(crate) fn explain(folder: &Path) -> Option<Problem> {
    let is = |name: &str| folder.file_name().is_some_and(|found| found == name);
    let snapshots = match () {
        () if folder.join("snapshots").is_dir() => folder.join("snapshots"),
        () if is("snapshots") => folder.to_path_buf(),
        () if is("blobs") || is("refs") => folder_of(folder).join("snapshots"),
        () => return of_hub(folder),
    };
    let mut revisions = folders(&snapshots, |_| true);
    let found = match is("blobs") {
        true => "the blobs of a Hugging Face cache, without file names",
        false => "a Hugging Face cache, with the files of a model under a revision",
    };
    let problem = Problem::new(folder, found).expected("the folder of a revision");
    if let Some(main) = main_revision(&snapshots) {
        // `refs/main` is the revision to use, if there are several.
        revisions.sort_by_key(|path| path.file_name().is_none_or(|name| name != main.as_str()));
    }
    Some(match revisions.as_slice() {
        [] if !snapshots.is_dir() => return None,
        [] => problem.advice("it has none: download the model again"),
        [one] => problem.advice(format!("give {}", shown_path(one))),
        several => problem.advice(format!("give one of {}", listed(several))),
    })
}

/// The error for the folder of all cached models.
fn of_hub(folder: &Path) -> Option<Problem> {
    let models = folders(folder, |name| name.starts_with("models--"));
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase());
    let of_olmo = |path: &PathBuf| name(path).is_some_and(|name| name.contains("olmo"));
    let (mut olmo, others): (Vec<PathBuf>, Vec<PathBuf>) = models.into_iter().partition(of_olmo);
    olmo.extend(others);
    let problem = || Problem::new(folder, "a Hugging Face cache of models").expected("the folder of one model");
    (!olmo.is_empty()).then(|| problem().advice(format!("give one of {}", listed(&olmo))))
}

/// The folders in `folder` with a wanted name, sorted. Empty for an unreadable folder.
fn folders(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let names = names(folder).into_iter().flatten().filter_map(Result::ok);
    let wanted = names.filter(|name| name.to_str().is_some_and(&is_wanted)).map(|name| folder.join(name));
    let mut found: Vec<PathBuf> = wanted.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// The revision in `refs/main`, next to `snapshots`.
fn main_revision(snapshots: &Path) -> Option<String> {
    let bytes = read_at_most(&folder_of(snapshots).join("refs/main"), MAX_REVISION_BYTES).ok()??;
    Some(String::from_utf8(bytes).ok()?.trim().to_string())
}

/// The first few paths.
fn listed(paths: &[PathBuf]) -> String {
    let shown = paths.iter().take(SHOWN).map(|path| shown_path(path)).collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
