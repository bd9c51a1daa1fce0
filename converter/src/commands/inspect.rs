//! `olmo-pack inspect MODEL`: what a model file holds, for people and as JSON. Reads no tensor data.

use crate::commands::inspect_table;
use crate::commands::sources::{Source, checked_section, sources};
use crate::commands::verify;
use crate::error::{Error, json_line, shown_path};
use crate::text::kept_files;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::AuthorSampling;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::{self, Dtype, Encoding, TensorLayout, section};
use olmo_infer::internals::text::chat::{Chat, NoChat};
use olmo_infer::internals::text::tokenizer::{NoTokenizer, Tokenizer};
use olmo_infer::internals::text::vocabulary::Vocabulary;
use serde_json::{Value, json};
use std::path::Path;
use zerocopy::IntoBytes;

/// How to describe a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table, the tensors of all layers with the same role in one line.
    Table,
    /// A table with a line for every tensor.
    EveryTensor,
    /// One JSON object.
    Json,
}

/// What is read of a file to describe it.
pub(crate) struct Inspected<'a> {
    pub model: &'a ModelFile,
    /// Where the tensors come from; none when the file does not say.
    pub sources: Vec<Source>,
    /// The lines `key=value`.
    pub provenance: Vec<(String, String)>,
    /// The tokens, how text becomes ids, and the format of conversations.
    pub text: OfText,
}

/// What a file says about text.
pub(crate) struct OfText {
    pub n_tokens: Option<u32>,
    pub tokenizer: Option<Result<Tokenizer, NoTokenizer>>,
    pub chat: Option<Result<Chat, NoChat>>,
    pub sampling: Option<AuthorSampling>,
    /// Names and lengths of the files that were kept.
    pub files: Vec<(&'static str, usize)>,
}

/// Describes the file at `path`.
///
/// # Errors
/// [`Error::Model`] when the file cannot be opened, and what is wrong with its sections.
pub fn run(path: &Path, form: Form) -> Result<String, Error> {
    let model = ModelFile::open(path)?;
    verify::accepted(&model)?;
    let inspected = Inspected {
        model: &model,
        sources: sources(&model)?.unwrap_or_default(),
        provenance: provenance(&model)?,
        text: OfText::of(&model)?,
    };
    Ok(match form {
        Form::Json => json_line(&object(&inspected)),
        form => inspect_table::text(&inspected, form == Form::EveryTensor),
    })
}

/// XXH3-64 of the configuration, the digests of the tensors and those of the vocabulary and of the tables of coded
/// tensors: the same for two files exactly when they hold the same model in the same encodings, whatever else they say
/// about it.
pub fn content_digest(model: &ModelFile) -> u64 {
    let mut content = model.header().config.as_bytes().to_vec();
    for record in model.records() {
        content.extend(record.digest.get().to_le_bytes());
    }
    let is_content = |kind| [section::VOCABULARY, section::BF12].contains(&kind);
    for record in model.sections().iter().filter(|record| is_content(record.kind.get())) {
        content.extend(record.digest.get().to_le_bytes());
    }
    format::digest(&content, 0)
}

/// The lines `key=value` of the provenance.
pub(crate) fn provenance(model: &ModelFile) -> Result<Vec<(String, String)>, Error> {
    let bytes = checked_section(model, section::PROVENANCE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let pair = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (key.to_string(), value.to_string())
    };
    Ok(text.lines().map(pair).collect())
}

/// `config` under the keys of `config.json`.
pub(crate) fn config_object(config: &ModelConfig) -> Value {
    let kind = |kind: &AttentionKind| match kind {
        AttentionKind::Full => "full_attention",
        AttentionKind::Sliding => "sliding_attention",
    };
    let yarn = config.yarn.as_ref().map(|yarn| {
        json!({
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "attention_factor": yarn.attention_factor,
            "truncate": yarn.truncate,
        })
    });
    json!({
        "model_type": config.architecture.name(),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.n_layers(),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "clip_qkv": config.clip_qkv,
        "rope_theta": config.rope_theta,
        "rope_theta_sliding": config.rope_theta_sliding,
        "rope_scaling": yarn,
        "sliding_window": config.sliding_window,
        "layer_types": config.layer_types.iter().map(kind).collect::<Vec<_>>(),
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": config.eos_token_ids,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
    })
}

impl OfText {
    fn of(model: &ModelFile) -> Result<OfText, Error> {
        let section = |kind| checked_section(model, kind);
        let vocabulary = section(section::VOCABULARY)?;
        let n_tokens =
            vocabulary.as_ref().and_then(|bytes| bytes.first_chunk()).map(|&bytes| u32::from_le_bytes(bytes));
        let tokenizer = section(section::TOKENIZER)?.zip(vocabulary.as_deref().and_then(Vocabulary::in_section));
        let files = section(section::FILES)?;
        let files = files.as_deref().and_then(|bytes| kept_files::in_section(bytes).ok());
        Ok(OfText {
            files: files.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.len())).collect(),
            n_tokens,
            tokenizer: tokenizer.map(|(bytes, vocabulary)| Tokenizer::in_section(&bytes, &vocabulary)),
            chat: section(section::CHAT)?.as_deref().map(Chat::in_section),
            sampling: section(section::SAMPLING)?.as_deref().and_then(AuthorSampling::in_section),
        })
    }

    fn chat_object(&self) -> Value {
        match &self.chat {
            Some(Ok(chat)) => json!({
                "kind": "pieces",
                "takes_system": chat.takes_system(),
                "needs_system": chat.alone.is_none(),
                "takes_turns": chat.takes_turns(false) || chat.takes_turns(true),
                "drops_thinking": !chat.think_end.is_empty(),
                "has_dates": chat.has_dates,
                "reserved": chat.reserved,
            }),
            Some(Err(NoChat::Unusable(why))) => json!({ "kind": "unusable", "why": why }),
            Some(Err(NoChat::Damaged)) | None => Value::Null,
        }
    }

    fn tokenizer_object(&self) -> Value {
        match &self.tokenizer {
            Some(Ok(tokenizer)) => json!({
                "kind": "byte pairs",
                "pre_tokenizer": tokenizer.pre_tokenizer.name(),
                "nfc": tokenizer.nfc,
                "n_merges": tokenizer.merges.len(),
                "n_added": tokenizer.added.len(),
            }),
            Some(Err(NoTokenizer::Unknown(why))) => json!({ "kind": "unknown", "why": why }),
            Some(Err(NoTokenizer::UnknownKind(kind))) => json!({ "kind": kind }),
            Some(Err(NoTokenizer::Damaged(_))) | None => Value::Null,
        }
    }
}

fn layout_name(layout: TensorLayout) -> &'static str {
    match layout {
        TensorLayout::Vector => "vector",
        TensorLayout::Panels64 => "panels64",
    }
}

fn object(inspected: &Inspected) -> Value {
    let Inspected { model, sources, provenance, text } = inspected;
    let header = model.header();
    let tensor = |index: usize| {
        let (spec, record) = (&model.specs()[index], &model.records()[index]);
        json!({
            "name": spec.name(),
            "shape": spec.shape(),
            "dtype": model.encoding(index).dtype().name(),
            "draft": spec.is_draft,
            "layout": layout_name(spec.layout()),
            "encoding": encoding_name(model.encoding(index)),
            "n_raw_steps": record.n_raw_steps.get(),
            "bits_per_weight": bits_per_weight(model, &[index]),
            "offset": record.offset.get(),
            "bytes": record.bytes.get(),
            "digest": format!("{:016x}", record.digest.get()),
            "min_magnitude": f32::from_bits(record.min_magnitude.get()),
            "rounded": record.rounded.get() != 0,
            "source_dtype": sources.get(index).map(|source| source.dtype.name()),
            "source_digest": sources.get(index).map(|source| format!("{:016x}", source.digest)),
        })
    };
    let section = |record: &format::SectionRecord| {
        json!({
            "kind": record.kind.get(),
            "name": section::name(record.kind.get()),
            "offset": record.offset.get(),
            "bytes": record.bytes.get(),
            "digest": format!("{:016x}", record.digest.get()),
        })
    };
    let provenance: serde_json::Map<String, Value> =
        provenance.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    json!({
        "path": shown_path(model.path()),
        "format": format!("{}.{}", header.version_major.get(), header.version_minor.get()),
        "file_bytes": model.layout().file_bytes,
        "data_offset": model.layout().data_offset,
        "content_digest": format!("{:016x}", content_digest(model)),
        "matrices": model.matrices().map_or("mixed", Dtype::name),
        "n_parameters": model.config().n_parameters(),
        "n_tokens": text.n_tokens,
        "tokenizer": text.tokenizer_object(),
        "chat": text.chat_object(),
        "sampling": text.sampling.as_ref().map(sampling_object),
        "files": text.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
        "config": config_object(model.config()),
        "tensors": (0..model.specs().len()).map(tensor).collect::<Vec<_>>(),
        "sections": model.sections().iter().map(section).collect::<Vec<_>>(),
        "provenance": provenance,
    })
}

/// Under the keys of `generation_config.json`.
fn sampling_object(author: &AuthorSampling) -> Value {
    let sampling = author.sampling();
    json!({
        "do_sample": sampling.temperature > 0.0,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
    })
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F32 | Encoding::Bf16 => "plain",
        Encoding::Bf12 { .. } => encoding.name(),
    }
}

/// Bits that a number of these tensors takes; those of the padding inside panels count as numbers.
pub(crate) fn bits_per_weight(model: &ModelFile, tensors: &[usize]) -> f64 {
    let n_elements = |index: usize| {
        let shape = model.specs()[index].panel_shape(model.encoding(index).dtype());
        shape.map_or(model.specs()[index].rows, |shape| shape.n_panels() * shape.panel_elements())
    };
    let (bits, n) = tensors
        .iter()
        .fold((0, 0), |(bits, n), &index| (bits + 8 * model.records()[index].bytes.get(), n + n_elements(index)));
    bits as f64 / n as f64
}

/// "f32", "bf16", "bf16 in 12 bits", "bf16, 3 of 4 in 12 bits" or "mixed, 3 of 4 in 12 bits".
pub(crate) fn matrices(model: &ModelFile) -> String {
    let name = model.matrices().map_or("mixed", Dtype::name);
    let matrices = (0..model.model_specs().len()).filter(|&index| model.specs()[index].columns.is_some());
    let (n, n_bf12) =
        matrices.fold((0, 0), |(n, n_bf12), index| (n + 1, n_bf12 + usize::from(model.bf12_table(index).is_some())));
    match n_bf12 {
        0 => name.into(),
        _ if n_bf12 == n => format!("{name} in 12 bits"),
        _ => format!("{name}, {n_bf12} of {n} in 12 bits"),
    }
}
