//! The weights folder as a model: whether its tensors are exactly those that the configuration describes, and where
//! that comes from.

use crate::error::{Error, Problem, Problems, shown_path};
use crate::folder::element::SourceType;
use crate::folder::listing::Listing;
use crate::folder::npy::shown_shape;
use crate::folder::source_file;
use crate::folder::stored_tensor::StoredTensor;
use crate::model::config_json;
use crate::model::generation_config::GenerationConfig;
use crate::model::infer_config;
use crate::model::settings::{Flags, Settings};
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The name of the embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// One tensor with its source.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the model needs.
    pub spec: TensorSpec,
    /// What the folder has; the shapes are the same.
    pub tensor: StoredTensor,
}

/// A complete weights folder.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Configuration and its history.
    pub settings: Settings,
    /// The tensors, in the order of the model file.
    pub sources: Vec<Source>,
    /// Whether they are in `.npy` files; else they are in safetensors files.
    pub is_npy: bool,
    /// Tensors and files that are not of the model and were let pass.
    pub ignored: Vec<String>,
    /// What `generation_config.json` says.
    pub generation: GenerationConfig,
    /// What the user should know beside that, a line each.
    pub warnings: Vec<String>,
}

impl Checkpoint {
    /// Checks that `listing` is exactly the model that its configuration describes. Reads headers, no numbers.
    ///
    /// # Errors
    /// Everything that is wrong with the folder, collected.
    pub fn check(listing: &Listing, flags: &Flags, allow_extra: bool) -> Result<Checkpoint, Error> {
        let generation = generation(listing)?;
        let settings = settings(listing, flags, &generation)?;
        let specs = tensors_of(&settings.config);
        let mut problems = Problems::default();
        let mut sources = Vec::with_capacity(specs.len());
        let mut extra: BTreeSet<&str> = listing.tensors.iter().map(String::as_str).collect();
        let mut warnings = generation.warnings.clone();
        for spec in specs {
            let name = stored_name(listing, spec.name(), settings.config.tie_word_embeddings);
            if !extra.remove(name.as_str()) {
                problems.push(missing(listing, &settings, &spec));
                continue;
            }
            match check_tensor(listing, &name, &spec, &settings) {
                Ok(source) => sources.push(source),
                Err(error) => problems.extend(error),
            }
        }
        if settings.config.tie_word_embeddings && extra.contains(HEAD) {
            let embedding = sources.first().filter(|source| source.spec.role == Role::EmbedTokens);
            let same = |embedding: &Source| listing.tensor(HEAD, settings.u2_is_bf16)?.same_numbers(&embedding.tensor);
            match embedding.map(same) {
                Some(Ok(true)) => {
                    extra.remove(HEAD);
                    warnings.push(format!("{HEAD} is the embedding again, as in a tied model; it is not stored twice"));
                }
                Some(Err(error)) if !allow_extra => {
                    extra.remove(HEAD);
                    problems.extend(error);
                }
                // Left out, refused below, or beside an embedding that is refused itself.
                Some(_) => {}
                None => drop(extra.remove(HEAD)),
            }
        }
        if !allow_extra {
            extra.iter().for_each(|name| problems.push_with(|| unexpected(listing, name, &settings)));
            listing.strays.iter().for_each(|path| problems.push_with(|| leave_out(listing.stray(path))));
        }
        problems.result()?;
        let strays = listing.strays.iter().map(|path| shown_path(path));
        let ignored = extra.iter().map(|name| listing.shown(name)).chain(strays).collect();
        Ok(Checkpoint { settings, sources, is_npy: listing.is_npy(), ignored, generation, warnings })
    }

    /// Element types of the sources, each once, with the number of tensors that have it.
    pub fn element_counts(&self) -> Vec<(SourceType, usize)> {
        [SourceType::F32, SourceType::F16, SourceType::Bf16]
            .into_iter()
            .map(|kind| (kind, self.sources.iter().filter(|source| source.tensor.element == kind).count()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// How many files the sources are in.
    pub fn n_files(&self) -> usize {
        self.sources.iter().map(|source| &source.tensor.file.path).collect::<BTreeSet<_>>().len()
    }
}

/// What the `generation_config.json` of a folder says.
pub(crate) fn generation(listing: &Listing) -> Result<GenerationConfig, Error> {
    match listing.has_generation_config_json {
        true => GenerationConfig::read(&file_of(listing, "generation_config.json")?),
        false => Ok(GenerationConfig::default()),
    }
}

/// The path of a small file of the folder.
fn file_of(listing: &Listing, name: &str) -> Result<PathBuf, Error> {
    let path = listing.folder.join(name);
    source_file::refuse_link_out_of(&listing.folder, &path)?;
    Ok(path)
}

/// The configuration of a folder: that of `config.json` or of shapes and flags, and what `generation_config.json` adds.
pub(crate) fn settings(listing: &Listing, flags: &Flags, generation: &GenerationConfig) -> Result<Settings, Error> {
    let read = |flags: &Flags| match listing.has_config_json {
        true => config_json::read(&file_of(listing, "config.json")?, flags),
        false => infer_config::infer(listing, flags),
    };
    match generation.eos_token_ids.clone() {
        None => read(flags),
        // It is these that --eos must not contradict.
        Some(ids) => Ok(read(&Flags { eos_token_ids: None, ..flags.clone() })?.with_eos(
            &listing.folder.join("generation_config.json"),
            ids,
            flags,
        )?),
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
    let problem = listing.problem(&spec.name(), found).expected(format!("a tensor {}", shown_shape(&wanted(spec))));
    match spec.role {
        Role::LmHead => {
            problem.advice("export it, or say \"tie_word_embeddings\": true if the model has no head of its own")
        }
        _ => problem.advice("export the whole model"),
    }
}

/// The shape that a tensor must have.
fn wanted(spec: &TensorSpec) -> Vec<u64> {
    spec.shape().iter().map(|&size| size as u64).collect()
}

/// The name under which a folder has a tensor of the model. One that is tied can be saved under either of its names.
pub(crate) fn stored_name(listing: &Listing, name: String, is_tied: bool) -> String {
    let is_there = |name: &str| listing.tensors.contains(name);
    if is_tied && name == EMBEDDING && !is_there(EMBEDDING) && is_there(HEAD) { HEAD.into() } else { name }
}

fn check_tensor(listing: &Listing, name: &str, spec: &TensorSpec, settings: &Settings) -> Result<Source, Error> {
    let tensor = listing.tensor(name, settings.u2_is_bf16)?;
    let wanted = wanted(spec);
    if tensor.shape == wanted {
        return Ok(Source { spec: *spec, tensor });
    }
    let expected = format!("{} as {}", shown_shape(&wanted), authority(settings));
    let reversed: Vec<u64> = tensor.shape.iter().rev().copied().collect();
    let advice = if reversed == wanted && wanted.len() == 2 {
        match listing.is_npy() {
            true => "it looks transposed: save np.ascontiguousarray(array.T)",
            false => "it looks transposed: save tensor.T.contiguous()",
        }
    } else if settings.config_json.is_some() {
        "export it again or correct config.json"
    } else {
        "export it again"
    };
    let found = format!("shape {}", shown_shape(&tensor.shape));
    Err(tensor.problem(found).expected(expected).advice(advice).into())
}

/// A tensor that the model does not have.
fn unexpected(listing: &Listing, name: &str, settings: &Settings) -> Problem {
    if !settings.config.tie_word_embeddings || name != HEAD {
        return leave_out(listing.problem(name, "no parameter of this model"));
    }
    let found =
        "present though config.json says tie_word_embeddings: true, and its numbers are not those of the embedding";
    let problem = listing.problem(name, found).expected("the embedding, or no head");
    problem.advice(
        "transformers 5 computes with this head, 4 with the embedding: say \"tie_word_embeddings\": false for the head, or \
         pass --allow-extra for the embedding",
    )
}

/// Says what to do with something that is too much.
fn leave_out(problem: Problem) -> Problem {
    problem.expected("only the tensors of the model").advice("remove it, or pass --allow-extra to leave it out")
}
