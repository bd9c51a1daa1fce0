//! The weights folder as a model: checks that its tensors are exactly those of the configuration, and records the
//! origin of each value.

use crate::error::{Error, Problem, Problems, shown_path};
use crate::folder::element::SourceType;
use crate::folder::gguf::blocks::BlockType;
use crate::folder::gguf::kept;
use crate::folder::listing::{Container, Listing};
use crate::folder::npy::shown_shape;
use crate::folder::source_file;
use crate::folder::stored_tensor::StoredTensor;
use crate::model::config_json;
use crate::model::generation_config::GenerationConfig;
use crate::model::gguf_config;
use crate::model::infer_config;
use crate::model::settings::{Flags, Settings};
use crate::model::spelling::{HEAD, Respelled, RespelledTensors, Spelling};
use olmo_infer::internals::format::config::Experts;
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A tensor of the model and its data in the folder.
#[derive(Clone, Debug)]
pub struct Source {
    /// The tensor of the model.
    pub spec: TensorSpec,
    /// The tensor in the folder, with the same shape.
    pub tensor: StoredTensor,
}

/// A complete weights folder.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The configuration and the origin of its values.
    pub settings: Settings,
    /// The tensors, in the order of the model file.
    pub sources: Vec<Source>,
    /// Tensors of the folder that are not tensors of the model under another name, a part or several of them.
    pub respelled: Vec<Respelled>,
    /// The kind of their files.
    pub container: Container,
    /// Tensors and files that do not belong to the model, skipped by `--allow-extra`.
    pub ignored: Vec<String>,
    /// The content of `generation_config.json`.
    pub generation: GenerationConfig,
    /// The section `GGUF` of a GGUF file that can be restored.
    pub gguf: Option<Vec<u8>>,
    /// Warnings for the user, a line each.
    pub warnings: Vec<String>,
}

impl Checkpoint {
    /// Checks that `listing` is exactly the model of its configuration. Reads headers, no data.
    ///
    /// # Errors
    /// All defects of the folder, collected.
    pub fn check(listing: &Listing, flags: &Flags, allow_extra: bool) -> Result<Checkpoint, Error> {
        let generation = generation(listing)?;
        let (settings, of_gguf) = settings(listing, flags, &generation)?;
        let specs = tensors_of(&settings.config);
        let mut problems = Problems::default();
        let mut sources = Vec::with_capacity(specs.len());
        let mut extra: BTreeSet<&str> = listing.tensors.iter().map(String::as_str).collect();
        let mut warnings = [generation.warnings.clone(), of_gguf].concat();
        let mut respelled = RespelledTensors::default();
        // Those that several tensors of the model are in.
        let mut opened = BTreeMap::new();
        let mut doubled = BTreeSet::new();
        for (index, spec) in specs.iter().enumerate() {
            let spelling = match Spelling::of(listing, spec, &settings.config) {
                Ok(spelling) => spelling,
                Err(problem) => {
                    let names = Spelling::all_names(spec, &settings.config);
                    // Several tensors of the model may be in the other one.
                    if names.last().is_some_and(|other| doubled.insert(other.clone())) {
                        problems.push(problem);
                    }
                    for name in &names {
                        extra.remove(name.as_str());
                    }
                    continue;
                }
            };
            let names = spelling.names();
            for name in &names {
                extra.remove(*name);
            }
            if let Some(name) = names.iter().find(|name| !listing.tensors.contains(**name)) {
                problems.push(missing(listing, &settings, spec, name));
                continue;
            }
            match check_tensor(listing, &spelling, spec, &settings, &mut opened) {
                Ok(mut source) => {
                    let shape = opened.get(names[0]).map_or(&[][..], |tensor| &tensor.shape).to_vec();
                    respelled.add(index, &spelling, spec, &mut source.tensor, &shape);
                    sources.push(source);
                }
                Err(error) => problems.extend(error),
            }
        }
        if settings.config.tie_word_embeddings && extra.contains(HEAD) {
            let embedding = sources.first().filter(|source| source.spec.role == Role::EmbedTokens);
            let same = |embedding: &Source| listing.tensor(HEAD, settings.u2_is_bf16)?.same_numbers(&embedding.tensor);
            match embedding.map(same) {
                Some(Ok(true)) => {
                    extra.remove(HEAD);
                    warnings.push(format!("{HEAD} equals the embedding, as in a tied model; it is stored once"));
                }
                Some(Err(error)) if !allow_extra => {
                    extra.remove(HEAD);
                    problems.extend(error);
                }
                // Skipped, rejected below, or next to an embedding that is itself rejected.
                Some(_) => {}
                None => drop(extra.remove(HEAD)),
            }
        }
        if !allow_extra {
            extra.iter().for_each(|name| problems.push_with(|| unexpected(listing, name, &settings)));
            listing.strays.iter().for_each(|path| problems.push_with(|| leave_out(listing.stray(path))));
        }
        problems.result()?;
        let (gguf, not_kept) = kept_gguf(listing)?;
        warnings.extend(not_kept);
        let strays = listing.strays.iter().map(|path| shown_path(path));
        let ignored = extra.iter().map(|name| listing.shown(name)).chain(strays).collect();
        let (container, respelled) = (listing.container(), respelled.0);
        Ok(Checkpoint { settings, sources, respelled, container, ignored, generation, gguf, warnings })
    }

    /// The types of the sources in their files, with the number of tensors of each.
    pub fn type_counts(&self) -> Vec<(&'static str, usize)> {
        let elements = [SourceType::F32, SourceType::F16, SourceType::Bf16].map(SourceType::name);
        let blocks = [BlockType::Q8_0, BlockType::Q4_0, BlockType::Iq4Nl, BlockType::Q6K].map(BlockType::name);
        let of_type = |name| self.sources.iter().filter(|source| source.tensor.type_name() == name).count();
        let counts = elements.into_iter().chain(blocks).map(|name| (name, of_type(name)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Number of source files.
    pub fn n_files(&self) -> usize {
        let files = |source: &Source| {
            let of = |tensor: &StoredTensor| tensor.file.path.clone();
            std::iter::once(of(&source.tensor)).chain(source.tensor.following.iter().map(of)).collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(files).collect::<BTreeSet<_>>().len()
    }
}

/// The section `GGUF` of a GGUF file; a warning where the file cannot be restored.
fn kept_gguf(listing: &Listing) -> Result<(Option<Vec<u8>>, Option<String>), Error> {
    let Some(gguf) = listing.gguf() else { return Ok((None, None)) };
    Ok(match kept::section(gguf)? {
        Ok(section) => (Some(section), None),
        Err(at) => {
            let found = format!("byte {at} between or behind its tensors is not zero");
            (None, Some(format!("{found}: unpack will give .npy files, not the GGUF file")))
        }
    })
}

/// Reads the `generation_config.json` of a folder.
pub(crate) fn generation(listing: &Listing) -> Result<GenerationConfig, Error> {
    match listing.has_generation_config_json {
        true => GenerationConfig::read(&file_of(listing, "generation_config.json")?),
        false => Ok(GenerationConfig::default()),
    }
}

/// The path of a small file of the folder; links out of it are rejected.
fn file_of(listing: &Listing, name: &str) -> Result<PathBuf, Error> {
    let path = listing.folder.join(name);
    source_file::refuse_link_out_of(&listing.folder, &path)?;
    Ok(path)
}

/// The configuration of a folder: from `config.json`, or from shapes and flags, with the EOS ids of
/// `generation_config.json`. That of a GGUF file comes from its metadata, with warnings for the user.
pub(crate) fn settings(
    listing: &Listing,
    flags: &Flags,
    generation: &GenerationConfig,
) -> Result<(Settings, Vec<String>), Error> {
    if let Some(gguf) = listing.gguf() {
        return Ok(gguf_config::read(gguf, flags)?);
    }
    Ok((of_folder(listing, flags, generation)?, Vec::new()))
}

fn of_folder(listing: &Listing, flags: &Flags, generation: &GenerationConfig) -> Result<Settings, Error> {
    let read = |flags: &Flags| match listing.has_config_json {
        true => config_json::read(&file_of(listing, "config.json")?, flags),
        false => infer_config::infer(listing, flags),
    };
    match generation.eos_token_ids.clone() {
        None => read(flags),
        // `--eos` must agree with these ids.
        Some(ids) => Ok(read(&Flags { eos_token_ids: None, ..flags.clone() })?.with_eos(
            &listing.folder.join("generation_config.json"),
            ids,
            flags,
        )?),
    }
}

/// The source of the expected shapes, for messages.
fn authority(listing: &Listing, settings: &Settings) -> &'static str {
    match settings.config_json {
        Some(_) => "in config.json",
        None if listing.gguf().is_some() => "in the metadata",
        None => "derived from model.embed_tokens.weight and q_proj, k_proj and gate_proj of model.layers.0",
    }
}

fn missing(listing: &Listing, settings: &Settings, spec: &TensorSpec, name: &str) -> Problem {
    let n_layers = settings.config.n_layers();
    let found = match spec.layer {
        Some(layer) => match (spec.expert, settings.config.experts) {
            (Some(expert), Some(Experts { n_experts, .. })) => {
                format!("missing (layer {layer} of {n_layers}, expert {expert} of {n_experts})")
            }
            _ => format!("missing (layer {layer} of {n_layers})"),
        },
        None => "missing".into(),
    };
    let is_own = name == spec.name();
    let expected = if is_own { format!("a tensor {}", shown_shape(&wanted(spec))) } else { "it too".into() };
    let problem = listing.problem(name, found).expected(expected);
    match spec.role {
        Role::LmHead => {
            problem.advice("export it, or set \"tie_word_embeddings\": true if the model has no separate head")
        }
        _ if listing.gguf().is_some() => problem.advice("convert the whole model"),
        _ => problem.advice("export the whole model"),
    }
}

/// The required shape of a tensor.
fn wanted(spec: &TensorSpec) -> Vec<u64> {
    spec.shape().iter().map(|&size| size as u64).collect()
}

fn check_tensor(
    listing: &Listing,
    spelling: &Spelling,
    spec: &TensorSpec,
    settings: &Settings,
    opened: &mut BTreeMap<String, StoredTensor>,
) -> Result<Source, Error> {
    let tensor = spelling.tensor(spec, opened, |name| listing.tensor(name, settings.u2_is_bf16))?;
    let wanted = wanted(spec);
    if tensor.shape == wanted {
        return Ok(Source { spec: *spec, tensor });
    }
    let expected = format!("{} as {}", shown_shape(&wanted), authority(listing, settings));
    let reversed: Vec<u64> = tensor.shape.iter().rev().copied().collect();
    let advice = if listing.gguf().is_some() {
        "convert the model again"
    } else if reversed == wanted && wanted.len() == 2 {
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

/// The error for a tensor that is not in the model.
fn unexpected(listing: &Listing, name: &str, settings: &Settings) -> Problem {
    if !settings.config.tie_word_embeddings || name != HEAD {
        return leave_out(listing.problem(name, "not a parameter of this model"));
    }
    let found = "present although config.json sets tie_word_embeddings, and not equal to the embedding";
    let problem = listing.problem(name, found).expected("the embedding, or no head");
    problem.advice(
        "transformers 5 uses this head, 4 the embedding: set \"tie_word_embeddings\": false for the head, or \
         pass --allow-extra for the embedding",
    )
}

/// Adds the advice for a superfluous tensor or file.
fn leave_out(problem: Problem) -> Problem {
    problem.expected("only the tensors of the model").advice("remove it, or pass --allow-extra to leave it out")
}
