//! The weights folder: which files are there, whether they are exactly the tensors of the model, and where its
//! configuration comes from.

use crate::element::SourceType;
use crate::error::{Error, Problem, SHOWN_PROBLEMS};
use crate::npy::{NpyFile, shown_shape};
use crate::settings::{Flags, Settings};
use crate::{config_json, infer_config};
use olmo_infer::layout::{self, Role, TensorSpec};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The names in a weights folder.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The folder.
    pub folder: PathBuf,
    /// The tensors that have an `.npy` file, sorted, so that the order of the directory does not matter.
    pub tensors: BTreeSet<String>,
    /// `.npy` files whose names are no text.
    nameless: Vec<PathBuf>,
    /// Whether `config.json` is there.
    pub has_config_json: bool,
    /// Whether `vocab.txt` is there.
    pub has_vocab_txt: bool,
    /// One `.safetensors` or `.bin` file, if any.
    other_weights: Option<PathBuf>,
}

impl Listing {
    /// Lists `folder`.
    ///
    /// # Errors
    /// It is not there, no folder, not readable, or has no `.npy` files.
    pub fn read(folder: &Path) -> Result<Listing, Error> {
        let metadata = fs::metadata(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::from(Problem::new(folder, "no such folder").expected("a folder of .npy files"))
            }
            _ => Error::io(folder, "cannot look at it", error),
        })?;
        if !metadata.is_dir() {
            return Err(Problem::new(folder, "not a folder").expected("a folder of .npy files").into());
        }
        let mut listing = Listing { folder: folder.to_path_buf(), ..Listing::default() };
        let unreadable = |error| Error::io(folder, "cannot list the folder", error);
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            match name.as_bytes() {
                b"config.json" => listing.has_config_json = true,
                b"vocab.txt" => listing.has_vocab_txt = true,
                bytes => match (bytes.strip_suffix(b".npy"), name.to_str()) {
                    (Some(_), Some(text)) => {
                        listing.tensors.insert(text[..text.len() - 4].to_string());
                    }
                    (Some(_), None) => listing.nameless.push(entry.path()),
                    (None, _) if bytes.ends_with(b".safetensors") || bytes.ends_with(b".bin") => {
                        // The smallest name, so that the message does not depend on the order of the directory.
                        let path = entry.path();
                        if listing.other_weights.as_ref().is_none_or(|other| path < *other) {
                            listing.other_weights = Some(path);
                        }
                    }
                    _ => {}
                },
            }
        }
        listing.nameless.sort();
        if listing.tensors.is_empty() {
            return Err(listing.no_tensors().into());
        }
        Ok(listing)
    }

    /// The path a tensor has or would have.
    pub fn path(&self, tensor: &str) -> PathBuf {
        self.folder.join(format!("{tensor}.npy"))
    }

    fn no_tensors(&self) -> Problem {
        let problem = match &self.other_weights {
            Some(path) => {
                let name = path.file_name().map(Path::new).map(crate::error::shown_path).unwrap_or_default();
                Problem::new(&self.folder, format!("no .npy files, but {name}"))
            }
            None => Problem::new(&self.folder, "no .npy files"),
        };
        problem
            .expected("one <parameter name>.npy for each tensor")
            .advice("export each parameter with np.save, as f32, f16 or raw bf16")
    }
}

/// One tensor with its source.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the model needs.
    pub spec: TensorSpec,
    /// The checked file.
    pub file: NpyFile,
    /// Its element type.
    pub element: SourceType,
}

/// A complete weights folder.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Configuration and its history.
    pub settings: Settings,
    /// The tensors, in the order of the model file.
    pub sources: Vec<Source>,
    /// `.npy` files that are no tensors of the model and were let pass.
    pub ignored: Vec<PathBuf>,
}

impl Checkpoint {
    /// Checks that `listing` is exactly the model that its configuration describes. Reads headers, no numbers.
    ///
    /// # Errors
    /// Everything that is wrong with the folder, collected.
    pub fn check(listing: &Listing, flags: &Flags, allow_extra: bool) -> Result<Checkpoint, Error> {
        let settings = if listing.has_config_json {
            config_json::read(&listing.folder.join("config.json"), flags)?
        } else {
            infer_config::infer(listing, flags)?
        };
        let specs = layout::tensors(&settings.config);
        let mut problems = Vec::new();
        let mut sources = Vec::with_capacity(specs.len());
        let mut extra: BTreeSet<&str> = listing.tensors.iter().map(String::as_str).collect();
        for spec in specs {
            let name = spec.name();
            if !extra.remove(name.as_str()) {
                problems.push(missing(listing, &settings, &spec));
                continue;
            }
            match check_tensor(&listing.path(&name), &spec, &settings) {
                Ok(source) => sources.push(source),
                Err(error) => problems.extend(error.into_problems()),
            }
        }
        let ignored = extra.iter().map(|name| listing.path(name)).chain(listing.nameless.iter().cloned());
        let mut more = 0;
        if !allow_extra {
            let embedding = sources.first().map(|source| &source.file);
            // Of a hundred thousand files, those that are shown are enough to keep.
            let shown = SHOWN_PROBLEMS.saturating_sub(problems.len());
            more = (extra.len() + listing.nameless.len()).saturating_sub(shown);
            problems.extend(ignored.clone().take(shown).map(|path| unexpected(listing, &path, embedding, &settings)));
        }
        match problems.len() {
            0 => {
                let ignored = ignored.collect();
                Ok(Checkpoint { settings, sources, ignored })
            }
            1 if more == 0 => Err(problems.remove(0).into()),
            _ => Err(Error::Several { problems, more }),
        }
    }

    /// Element types of the sources, each once, with the number of files that have it.
    pub fn element_counts(&self) -> Vec<(SourceType, usize)> {
        [SourceType::F32, SourceType::F16, SourceType::Bf16]
            .into_iter()
            .map(|kind| (kind, self.sources.iter().filter(|source| source.element == kind).count()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// Where the expected shapes come from, for messages.
fn authority(settings: &Settings) -> &'static str {
    match settings.config_json {
        Some(_) => "config.json says",
        None => "model.embed_tokens.weight and q_proj, k_proj and gate_proj of model.layers.0 say",
    }
}

fn missing(listing: &Listing, settings: &Settings, spec: &TensorSpec) -> Problem {
    let n_layers = settings.config.n_layers();
    let found = match spec.layer {
        Some(layer) => format!("missing (layer {layer} of {n_layers})"),
        None => "missing".into(),
    };
    let shape: Vec<u64> = spec.shape().iter().map(|&size| size as u64).collect();
    let problem = Problem::new(listing.path(&spec.name()), found).expected(format!("a tensor {}", shown_shape(&shape)));
    match spec.role {
        Role::LmHead => {
            problem.advice("export it, or say \"tie_word_embeddings\": true if the model has no head of its own")
        }
        _ => problem.advice("export the whole model"),
    }
}

fn check_tensor(path: &Path, spec: &TensorSpec, settings: &Settings) -> Result<Source, Error> {
    let file = NpyFile::check(path)?;
    let wanted: Vec<u64> = spec.shape().iter().map(|&size| size as u64).collect();
    if file.shape != wanted {
        let expected = format!("{} as {}", shown_shape(&wanted), authority(settings));
        let reversed: Vec<u64> = file.shape.iter().rev().copied().collect();
        let advice = if reversed == wanted && wanted.len() == 2 {
            "it looks transposed: save np.ascontiguousarray(array.T)"
        } else if settings.config_json.is_some() {
            "export it again or correct config.json"
        } else {
            "export it again"
        };
        let found = format!("shape {}", shown_shape(&file.shape));
        return Err(Problem::new(path, found).expected(expected).advice(advice).into());
    }
    let element = file.source_type(settings.u2_is_bf16)?;
    Ok(Source { spec: *spec, file, element })
}

fn unexpected(listing: &Listing, path: &Path, embedding: Option<&NpyFile>, settings: &Settings) -> Problem {
    let tied_head = settings.config.tie_word_embeddings && *path == listing.path("lm_head.weight");
    let problem = if tied_head {
        let found = match embedding.map(|embedding| same_numbers(path, embedding)) {
            Some(Some(true)) => "present though the model is tied; its numbers are those of the embedding",
            Some(Some(false)) => "present though the model is tied; its numbers are not those of the embedding",
            _ => "present though the model is tied",
        };
        Problem::new(path, found)
    } else {
        Problem::new(path, "no parameter of this model")
    };
    problem.expected("only the tensors of the model").advice("remove it, or pass --allow-extra to leave it out")
}

/// Whether a file holds the same numbers as `other`; `None` when one cannot be read.
fn same_numbers(path: &Path, other: &NpyFile) -> Option<bool> {
    let file = NpyFile::check(path).ok()?;
    if (file.descr, &file.shape) != (other.descr, &other.shape) {
        return Some(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    while offset < file.data_bytes() {
        let length = (file.data_bytes() - offset).min(1 << 20) as usize;
        file.read(offset, &mut a[..length]).ok()?;
        other.read(offset, &mut b[..length]).ok()?;
        if a[..length] != b[..length] {
            return Some(false);
        }
        offset += length as u64;
    }
    Some(true)
}
